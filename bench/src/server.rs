//! The private servers that are measured, and what is in their logs.

use std::fs;

use mana_sync_harness::cluster::{APP_ROLE, DATABASE};
use mana_sync_harness::process::{give_to_server, server_command};
use mana_sync_harness::{Cluster, Options};
use postgres::Client;

use crate::Result;

/// Changes of a user's records $2 to $3.
const HISTORY: &str = include_str!("../history.sql");

/// What differs from the defaults of PostgreSQL; part of the report.
pub const SETTINGS: [(&str, &str); 4] =
    [("shared_buffers", "512MB"), ("max_wal_size", "4GB"), ("max_connections", "200"), ("jit", "off")];

/// A server with a log whose commits reach the disk, and with the store that the extension replaces.
pub fn server(options: Options) -> Result<Cluster> {
    let options = SETTINGS.iter().fold(options.durable(), |options, (name, value)| options.set(name, value));
    let cluster = Cluster::with_log(options);
    let mut owner = cluster.superuser(DATABASE);
    owner.batch_execute(include_str!("../original.sql"))?;
    owner.batch_execute(include_str!("../log.sql"))?;
    Ok(cluster)
}

/// Rows of `source` (see log.sql) in transactions of `batch` rows, in both stores.
pub fn fill(owner: &mut Client, source: &str, rows: std::ops::Range<u64>, batch: u64) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    eprintln!("    writing {} rows of {source}, {batch} a transaction, twice", rows.end - rows.start);
    // One by one: the procedure commits.
    owner.batch_execute("SET synchronous_commit = off")?;
    owner.batch_execute(&format!("CALL bench.fill('{source}', {}, {}, {batch})", rows.start, rows.end - 1))?;
    owner.batch_execute("RESET synchronous_commit")?;
    for table in ["mana_sync.sync_changes", "original.sync_changes"] {
        owner.batch_execute(&format!("VACUUM (ANALYZE) {table}"))?;
    }
    Ok(owner.batch_execute("CHECKPOINT")?)
}

/// Writes the histories of so many records of a user, as [`HISTORY`] makes them, and returns how many changes they are.
pub fn write_histories(owner: &mut Client, user: &str, records: i32) -> Result<u64> {
    // About 50,000 rows in a transaction.
    const PORTION: i32 = 5000;
    let insert = owner.prepare(HISTORY)?;
    let mut changes = 0;
    for first in (0..records).step_by(PORTION as usize) {
        changes += owner.execute(&insert, &[&user, &first, &(records.min(first + PORTION) - 1)])?;
    }
    owner.batch_execute("VACUUM (ANALYZE) mana_sync.sync_changes")?;
    Ok(changes)
}

/// A transaction for pgbench.
pub struct Script<'a> {
    /// Statements, a line each.
    pub sql: &'a str,
    /// Whether the owner runs it, or else the plain role.
    pub as_owner: bool,
    /// Values of the `:names` in it, which are sent as parameters.
    pub variables: &'a [(&'a str, &'a str)],
}

/// Runs a script for some seconds with statements that are prepared once (pgbench); seconds a transaction, over all clients.
pub fn pgbench(cluster: &Cluster, script: &Script, clients: usize, seconds: u32, options: &str) -> Result<f64> {
    // Several may run at once.
    let file = tempfile::NamedTempFile::new_in(cluster.socket_dir())?;
    fs::write(&file, script.sql)?;
    give_to_server(file.path());
    let mut command = server_command("pgbench");
    command.args(["-n", "-M", "prepared", "-U", if script.as_owner { "postgres" } else { APP_ROLE }]);
    command.args(["-c", &clients.to_string(), "-j", &clients.min(2).to_string(), "-T", &seconds.to_string()]);
    for (name, value) in script.variables {
        command.arg("-D").arg(format!("{name}={value}"));
    }
    command.arg("-f").arg(file.path()).arg("-h").arg(cluster.socket_dir()).arg(DATABASE).env("PGOPTIONS", options);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let rate = said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse::<f64>().ok());
    match rate {
        Some(rate) if output.status.success() && rate > 0.0 => Ok(1.0 / rate),
        _ => Err(format!("pgbench: {said}{}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}
