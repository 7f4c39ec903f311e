//! Merged records beside the same merge in SQL, which has to say the same before it is timed.

use mana_sync_servers::Options;
use mana_sync_servers::cluster::DATABASE;
use postgres::Client;
use postgres::types::ToSql;
use serde_json::{Value, json};

use crate::Result;
use crate::server::{server, write_histories};
use crate::times::Times;

/// Records of the user, of 10 changes each on average.
const RECORDS: i32 = 10_000;
/// Records that are read one by one in a round.
const SINGLES: i32 = 200;

const OURS: &str = "SELECT table_name, record_id, data FROM mana_sync.records('ann', 'app')";
const THEIRS: &str = include_str!("../merge.sql");

/// The plain role reads under row security, the owner without it.
pub fn records(rounds: usize) -> Result<Value> {
    let cluster = server(Options::default())?;
    let (mut app, mut owner) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    let changes = write_histories(&mut owner, "ann", RECORDS)? as usize;
    // A compilation takes longer than it saves here; ours does without by itself.
    owner.batch_execute("SET jit = off")?;
    let version: String = owner.query_one("SHOW server_version", &[])?.get(0);
    let user: [&(dyn ToSql + Sync); 2] = [&"ann", &"app"];
    let merged = sorted(&mut app, OURS, &[])?;
    assert!(merged == sorted(&mut owner, THEIRS, &user)?, "the merge in SQL says something else");
    let size = |sql: &str| format!("SELECT count(*), sum(length(data::text)) FROM ({sql}) AS record");
    let (ours, theirs) = (app.prepare(&size(OURS))?, owner.prepare(&size(THEIRS))?);
    let one = app.prepare("SELECT count(*) FROM mana_sync.records('ann', 'app', record_id => $1)")?;
    let ids: Vec<&str> = merged.iter().step_by(merged.len() / SINGLES as usize).map(|(_, id, _)| id.as_str()).collect();
    let mut merges = Times::new("mana_sync.records, the plain role");
    let mut selects = Times::new("the same merge in SQL, the owner");
    let mut singles = Times::new("mana_sync.records of one record");
    for round in 0..=rounds {
        merges.measure(|| expect(app.query_one(&ours, &[])?.get(0), merged.len()))?;
        selects.measure(|| expect(owner.query_one(&theirs, &user)?.get(0), merged.len()))?;
        singles.measure(|| ids.iter().try_for_each(|id| expect(app.query_one(&one, &[id])?.get(0), 1)))?;
        if round == 0 {
            // That was to warm up.
            [&mut merges, &mut selects, &mut singles].into_iter().for_each(|times| times.seconds.clear());
        }
    }
    singles.seconds.iter_mut().for_each(|seconds| *seconds /= ids.len() as f64);
    println!(
        "\nrecords of {changes} changes of {RECORDS} records, {} of them alive, PostgreSQL {version}, {rounds} rounds",
        merged.len()
    );
    println!("  {:5.2} x the merge in SQL (contract: 3)", selects.spread().0 / merges.spread().0);
    [&merges, &selects].into_iter().for_each(|times| times.print_ms());
    singles.print_ms();
    Ok(json!({"what": "records", "server": version, "changes": changes, "records": merged.len(),
              "times": [merges.json(), selects.json(), singles.json()]}))
}

/// Table, id and data of each record.
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
