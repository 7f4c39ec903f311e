//! Readers whose cursors lose changes, or make them wait. Each pulls for a [`Device`], and is counted by the code that counts
//! for the extension's cursor: what it loses shows that the tests would notice a loss.
//!
//! All read in plain SQL under row security, as an application without the extension's functions would.

use postgres::{Client, Error, Transaction};

use crate::Device;

/// Pulls all with a timestamp for a cursor, as the original did; returns the number of rows. It loses changes: rows are committed later
/// than they are stamped. (In the original all rows of a transaction share one stamp besides, that of its start, so that it loses more.)
pub fn pull_by_timestamp(device: &mut Device, client: &mut Client, page_size: i32) -> Result<usize, Error> {
    let sql = "SELECT id, created_at::text FROM mana_sync.sync_changes
               WHERE app_id = $1 AND created_at > COALESCE($2::text, '-infinity')::timestamptz
               ORDER BY created_at LIMIT $3::int";
    let mut count = 0;
    loop {
        let mut transaction = client.transaction()?;
        enter_scope(device, &mut transaction)?;
        let rows = transaction.query(sql, &[&device.app, &device.cursor, &page_size])?;
        transaction.commit()?;
        for row in &rows {
            device.delivered.add(row.get(0));
            device.cursor = row.get(1);
        }
        count += rows.len();
        if rows.is_empty() {
            return Ok(count);
        }
    }
}

/// Pulls all with `pg_current_snapshot()` for a cursor; returns the number of rows.
///
/// It loses what its own transaction writes after a pull: such a snapshot counts the whole transaction as seen. After a crash it loses
/// what is written under transaction ids that it had seen end.
pub fn pull_by_snapshot(device: &mut Device, transaction: &mut Transaction) -> Result<(), Error> {
    let new = "$2::text IS NULL OR NOT pg_visible_in_snapshot(log.xact, $2::text::pg_snapshot)";
    pull_in_one_statement(device, transaction, new, "now.snapshot")
}

/// Pulls all that is older than every open transaction. It loses nothing, and makes everybody wait for the oldest
/// transaction of the whole cluster.
pub fn pull_below_horizon(device: &mut Device, transaction: &mut Transaction) -> Result<(), Error> {
    let new = "log.xact >= COALESCE($2::text, '0')::xid8 AND log.xact < pg_snapshot_xmin(now.snapshot)";
    pull_in_one_statement(device, transaction, new, "pg_snapshot_xmin(now.snapshot)")
}

/// The rows that `condition` calls new, and the next cursor, as one snapshot sees them.
fn pull_in_one_statement(
    device: &mut Device,
    transaction: &mut Transaction,
    condition: &str,
    cursor: &str,
) -> Result<(), Error> {
    enter_scope(device, transaction)?;
    let sql = format!(
        "WITH now AS MATERIALIZED (SELECT pg_current_snapshot() AS snapshot)
         SELECT ({cursor})::text, log.id
         FROM now LEFT JOIN mana_sync.sync_changes AS log ON log.app_id = $1 AND ({condition})"
    );
    let rows = transaction.query(&sql, &[&device.app, &device.cursor])?;
    rows.iter().filter_map(|row| row.get(1)).for_each(|id| device.delivered.add(id));
    device.cursor = rows[0].get(0);
    Ok(())
}

fn enter_scope(device: &Device, transaction: &mut Transaction) -> Result<(), Error> {
    transaction.execute("SELECT mana_sync.with_scope($1, $2)", &[&device.user, &device.spaces]).map(|_| ())
}
