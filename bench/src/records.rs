//! Measures merged records, compared with the same merging in SQL. The results of both must be equal before they are
//! timed.

use mana_sync_harness::Options;
use mana_sync_harness::cluster::DATABASE;
use postgres::Client;
use postgres::types::ToSql;

use crate::Result;
use crate::report::{Contract, Part};
use crate::server::{server, write_histories};
use crate::times::{Times, rounds};

/// The number of records of the user. Each has 10 changes on average.
const RECORDS: i32 = 10_000;
/// The number of records that are read one by one in a round.
const SINGLES: i32 = 200;

const OURS: &str = "SELECT table_name, record_id, data FROM mana_sync.records('ann', 'app')";
const THEIRS: &str = include_str!("../merge.sql");

/// Returns ratios. The application's role calls `mana_sync.records` under row-level security; the owner merges in SQL
/// without it.
pub fn records(count: usize) -> Result<Part> {
    let cluster = server(Options::default())?;
    let (mut app, mut owner) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    let changes = write_histories(&mut owner, "ann", RECORDS, 19)? as usize;
    // JIT compilation takes longer than it saves here. `records` turns it off by itself.
    owner.batch_execute("SET jit = off")?;
    let user: [&(dyn ToSql + Sync); 2] = [&"ann", &"app"];
    let merged = sorted(&mut app, OURS, &[])?;
    assert!(merged == sorted(&mut owner, THEIRS, &user)?, "the merge in SQL says something else");
    let size = |sql: &str| format!("SELECT count(*), sum(length(data::text)) FROM ({sql}) AS record");
    let (ours, theirs) = (app.prepare(&size(OURS))?, owner.prepare(&size(THEIRS))?);
    let one = app.prepare("SELECT count(*) FROM mana_sync.records('ann', 'app', record_id => $1)")?;
    let ids: Vec<&str> = merged.iter().step_by(merged.len() / SINGLES as usize).map(|(_, id, _)| id.as_str()).collect();
    let mut times = [
        Times::new("records of 100,000 changes"),
        Times::new("the same merge in SQL, as the owner"),
        Times::new("records of one record"),
    ];
    rounds(count, &mut times, |_, alternative, times| {
        times.measure(|| match alternative {
            0 => expect(app.query_one(&ours, &[])?.get(0), merged.len()),
            1 => expect(owner.query_one(&theirs, &user)?.get(0), merged.len()),
            _ => ids.iter().try_for_each(|id| expect(app.query_one(&one, &[id])?.get(0), 1)),
        })
    })?;
    times[2].seconds.iter_mut().for_each(|seconds| *seconds /= ids.len() as f64);
    let alive = merged.len();
    let mut part =
        Part::new("records", format!("{changes} changes of {RECORDS} records, {alive} of them alive, {count} rounds"));
    part.compare(&times[0], &times[1], Some(Contract::AtLeast(3.0)));
    times.iter().for_each(|times| part.duration(times));
    Ok(part)
}

/// Returns the table, id and data of each record, sorted.
fn sorted(client: &mut Client, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<(String, String, String)>> {
    let sql = format!("SELECT table_name, record_id, data::text FROM ({sql}) AS record");
    let rows = client.query(&sql, parameters)?;
    let mut records: Vec<_> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    records.sort();
    Ok(records)
}

fn expect(count: i64, expected: usize) -> Result<()> {
    assert_eq!(count, expected as i64);
    Ok(())
}
