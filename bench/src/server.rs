//! The private servers that are measured, and the content of their logs.

use std::fs;

use mana_sync_harness::cluster::{APP_ROLE, DATABASE};
use mana_sync_harness::process::{give_to_server, server_command};
use mana_sync_harness::{Cluster, Options};
use postgres::Client;

use crate::Result;

/// The SQL that returns the changes of a user's records number $2 to $3.
const HISTORY: &str = include_str!("../history.sql");

/// The settings of the measured servers that differ from PostgreSQL's defaults. The report contains them.
pub const SETTINGS: [(&str, &str); 4] =
    [("shared_buffers", "512MB"), ("max_wal_size", "4GB"), ("max_connections", "200"), ("jit", "off")];

/// Starts a server that flushes commits to disk. It has a log, and the store that the extension replaces.
pub fn server(options: Options) -> Result<Cluster> {
    let options = SETTINGS.iter().fold(options.durable(), |options, (name, value)| options.set(name, value));
    let cluster = Cluster::with_log(options);
    let mut owner = cluster.superuser(DATABASE);
    owner.batch_execute(include_str!("../original.sql"))?;
    owner.batch_execute(include_str!("../log.sql"))?;
    Ok(cluster)
}

/// Writes rows of `source` (see log.sql) to both stores, in transactions of `batch` rows.
pub fn fill(owner: &mut Client, source: &str, rows: std::ops::Range<u64>, batch: u64) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    eprintln!("    writing {} rows of {source}, {batch} a transaction, twice", rows.end - rows.start);
    // Each CALL is a statement of its own, because the procedure commits.
    owner.batch_execute("SET synchronous_commit = off")?;
    owner.batch_execute(&format!("CALL bench.fill('{source}', {}, {}, {batch})", rows.start, rows.end - 1))?;
    owner.batch_execute("RESET synchronous_commit")?;
    for table in ["mana_sync.sync_changes", "original.sync_changes"] {
        owner.batch_execute(&format!("VACUUM (ANALYZE) {table}"))?;
    }
    Ok(owner.batch_execute("CHECKPOINT")?)
}

/// Writes the changes of `records` records of a user, as [`HISTORY`] returns them. A record has 1 to `most` changes. Returns the number of
/// changes.
pub fn write_histories(owner: &mut Client, user: &str, records: i32, most: i32) -> Result<u64> {
    // Each transaction writes about 50,000 rows.
    const PORTION: i32 = 5000;
    let insert = owner.prepare(HISTORY)?;
    let mut changes = 0;
    for first in (0..records).step_by(PORTION as usize) {
        changes += owner.execute(&insert, &[&user, &first, &(records.min(first + PORTION) - 1), &most])?;
    }
    owner.batch_execute("VACUUM (ANALYZE) mana_sync.sync_changes")?;
    Ok(changes)
}

/// A transaction for pgbench.
pub struct Script<'a> {
    /// The statements, one on each line.
    pub sql: &'a str,
    /// Whether the owner runs the script; otherwise the application's role runs it.
    pub as_owner: bool,
    /// The values of the `:names` in the statements. They are sent as parameters.
    pub variables: &'a [(&'a str, &'a str)],
}

/// Runs a script for some seconds with pgbench, as prepared statements. Returns the elapsed seconds per transaction of all clients
/// together.
pub fn pgbench(cluster: &Cluster, script: &Script, clients: usize, seconds: u32, options: &str) -> Result<f64> {
    // Several pgbench processes may run at the same time.
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
