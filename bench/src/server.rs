//! The private servers that are measured.

use mana_sync_servers::cluster::DATABASE;
use mana_sync_servers::{Cluster, Options};
use postgres::Client;

use crate::Result;

/// Changes of a user's records $2 to $3.
const HISTORY: &str = include_str!("../history.sql");

/// A server with a log whose commits reach the disk, and with the store that the extension replaces.
pub fn server(options: Options) -> Result<Cluster> {
    let cluster = Cluster::with_log(options.durable().set("shared_buffers", "512MB").set("max_wal_size", "4GB"));
    cluster.superuser(DATABASE).batch_execute(include_str!("../original.sql"))?;
    Ok(cluster)
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
