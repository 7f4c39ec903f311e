//! Pushes beside the original, which takes a transaction a change, and beside COPY into the same table.

use std::io::Write;

use mana_sync_servers::Options;
use mana_sync_servers::cluster::DATABASE;
use serde_json::{Value, json};

use crate::Result;
use crate::server::server;
use crate::times::Times;

/// Changes of a push.
const CHANGES: usize = 1000;

/// Ratios of one setting of `synchronous_commit`.
pub fn push(synchronous_commit: &str, rounds: usize) -> Result<Value> {
    let cluster = server(Options::default())?;
    let (mut ours, mut theirs, mut owner) = (cluster.app(DATABASE), cluster.app(DATABASE), cluster.superuser(DATABASE));
    for client in [&mut ours, &mut theirs, &mut owner] {
        client.batch_execute(&format!("SET synchronous_commit = {synchronous_commit}"))?;
    }
    let version: String = owner.query_one("SHOW server_version", &[])?.get(0);
    let push = ours.prepare("SELECT mana_sync.push('ann', 'app', $1::text::jsonb)::text")?;
    let user = theirs.prepare("SELECT set_config('app.current_user_id', $1, true)")?;
    let spaces = theirs.prepare("SELECT set_config('app.current_user_space_ids', $1, true)")?;
    let insert = theirs.prepare(
        "INSERT INTO original.sync_changes (app_id, table_name, record_id, user_id, space_id, op, data, field_timestamps, client_id, schema_version, actor)
         VALUES ('app', 'notes', $1, 'ann', NULL, 'insert', $2::text::jsonb, '{}', 'phone', 1, NULL)",
    )?;
    let mut pushes = Times::new("push of 1,000 changes");
    let mut singles = Times::new("the original, a transaction a change");
    let mut copies = Times::new("COPY of the same rows into the same table, as the owner");
    for round in 0..=rounds {
        let ids = round * CHANGES..(round + 1) * CHANGES;
        let changes: Vec<Value> = ids
            .clone()
            .map(|i| json!({"table": "notes", "id": format!("r{i}"), "op": "insert", "data": data(i)}))
            .collect();
        let changeset = json!({"clientId": "phone", "changes": changes}).to_string();
        let rows: Vec<(String, String)> = ids.map(|i| (format!("r{i}"), data(i).to_string())).collect();
        let lines: String =
            rows.iter().map(|(id, data)| format!("app\tnotes\t{id}\tann\tinsert\tphone\t{data}\t{{}}\n")).collect();
        if round == 0 {
            // Warms up what is measured.
            for times in [&mut pushes, &mut singles, &mut copies] {
                times.seconds.clear();
            }
        }
        pushes.measure(|| {
            let answer: String = ours.query_one(&push, &[&changeset])?.get(0);
            assert!(answer.starts_with("{\"inserted\": 1000,"), "{answer}");
            Ok(())
        })?;
        singles.measure(|| {
            for (id, data) in &rows {
                let mut transaction = theirs.transaction()?;
                transaction.execute(&user, &[&"ann"])?;
                transaction.execute(&spaces, &[&""])?;
                transaction.execute(&insert, &[id, data])?;
                transaction.commit()?;
            }
            Ok(())
        })?;
        copies.measure(|| {
            let mut writer = owner.copy_in(
                "COPY mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data, field_timestamps) FROM STDIN",
            )?;
            writer.write_all(lines.as_bytes())?;
            writer.finish()?;
            Ok(())
        })?;
    }
    for times in [&mut pushes, &mut singles, &mut copies] {
        times.seconds.remove(0);
    }
    let (push_time, single_time, copy_time) = (pushes.spread().0, singles.spread().0, copies.spread().0);
    println!("\npush, PostgreSQL {version}, fsync on, synchronous_commit {synchronous_commit}, {rounds} rounds");
    println!("  {:5.1} x the original (contract, synchronous_commit off: 10)", single_time / push_time);
    println!("  {:5.2} x COPY (contract, synchronous_commit off: 0.5)", copy_time / push_time);
    [&pushes, &singles, &copies].into_iter().for_each(|times| times.print(CHANGES));
    Ok(json!({"what": "push", "synchronous_commit": synchronous_commit, "server": version, "changes": CHANGES,
              "times": [pushes.json(), singles.json(), copies.json()]}))
}

/// `data` of change `i`: about 200 bytes.
fn data(i: usize) -> Value {
    json!({"title": format!("Item {i}"), "done": i % 2 == 0, "text": "0123456789".repeat(14), "n": i})
}
