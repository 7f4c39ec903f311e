//! Readers whose cursors lose changes, or make the reader wait. Each function pulls for a [`Device`]. The lost changes
//! are counted by the same code as for the extension's cursor, which shows that the tests would notice a loss.
//!
//! All of them read in plain SQL under row security, as an application without the extension's functions would.

use postgres::{Client, Error, Transaction};

use crate::Device;

/// Pulls everything with a timestamp as the cursor, as the original service did. Returns the number of rows.
///
/// This loses changes, because a row is committed later than its timestamp says. The original service lost more: there,
/// all rows of a transaction have the time at which the transaction began.
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

/// Pulls everything with `pg_current_snapshot()` as the cursor.
///
/// This loses what the reader's own transaction writes after a pull, because such a snapshot counts the whole
/// transaction as seen. After a crash, the server may give out transaction ids again that the cursor counts as ended.
/// Then the rows with these ids are lost too.
pub fn pull_by_snapshot(device: &mut Device, transaction: &mut Transaction) -> Result<(), Error> {
    let new = "$2::text IS NULL OR NOT pg_visible_in_snapshot(log.xact, $2::text::pg_snapshot)";
    pull_in_one_statement(device, transaction, new, "now.snapshot")
}

/// Pulls everything that is older than every open transaction. This loses nothing, but every reader has to wait for the
/// oldest transaction of the whole cluster.
pub fn pull_below_horizon(device: &mut Device, transaction: &mut Transaction) -> Result<(), Error> {
    let new = "log.xact >= COALESCE($2::text, '0')::xid8 AND log.xact < pg_snapshot_xmin(now.snapshot)";
    pull_in_one_statement(device, transaction, new, "pg_snapshot_xmin(now.snapshot)")
}

/// Reads the rows that meet `condition`, and the next cursor, with one snapshot. `cursor` is the SQL expression of the
/// next cursor.
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
