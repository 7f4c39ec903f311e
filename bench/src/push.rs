//! Measures pushes, compared with the original store, which uses one transaction per change, and with COPY into the same table.

use std::io::Write;

use mana_sync_harness::Options;
use mana_sync_harness::cluster::DATABASE;
use serde_json::{Value, json};

use crate::Result;
use crate::report::{Contract, Part};
use crate::server::server;
use crate::times::{Times, rounds};

/// The number of changes of a push.
const CHANGES: usize = 1000;

/// Returns ratios for both settings of `synchronous_commit`. Only the ratio for `off` has a contract.
pub fn push(count: usize) -> Result<Vec<Part>> {
    let mut parts = ["off", "on"].into_iter().map(|setting| part(setting, count)).collect::<Result<Vec<_>>>()?;
    parts.push(refused(count)?);
    Ok(parts)
}

/// Measures pushes that are not atomic. The application has a trigger on the log, which refuses no change, one change, or one change in
/// ten.
fn refused(count: usize) -> Result<Part> {
    let cluster = server(Options::default())?;
    cluster.superuser(DATABASE).batch_execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NEW.data ? 'bad' THEN RAISE EXCEPTION 'refused'; END IF;
             RETURN NEW;
         END
         $$;
         CREATE TRIGGER refuse BEFORE INSERT ON mana_sync.sync_changes FOR EACH ROW EXECUTE FUNCTION refuse()",
    )?;
    let mut client = cluster.app(DATABASE);
    client.batch_execute("SET synchronous_commit = off")?;
    let push = client.prepare("SELECT mana_sync.push('ann', 'app', $1::text::jsonb)::text")?;
    let mut times = [
        Times::new("push of 1,000 changes beside a trigger, atomic"),
        Times::new("the same, not atomic, nothing refused"),
        Times::new("the same, the last change refused"),
        Times::new("the same, the middle one refused"),
        Times::new("the same, one in ten refused"),
    ];
    rounds(count, &mut times, |round, alternative, times| {
        let is_bad = |i: usize| match alternative {
            2 => i == CHANGES - 1,
            3 => i == CHANGES / 2,
            4 => i % 10 == 5,
            _ => false,
        };
        let change = |i: usize| {
            let mut data = data(i);
            if is_bad(i) {
                data["bad"] = json!(true);
            }
            json!({"table": "notes", "id": format!("r{}", round * CHANGES + i), "op": "insert", "data": data})
        };
        let changes: Vec<Value> = (0..CHANGES).map(change).collect();
        let changeset = json!({"clientId": "phone", "atomic": alternative == 0, "changes": changes}).to_string();
        let answer: String = times.measure(|| Ok(client.query_one(&push, &[&changeset])?.get(0)))?;
        let inserted = (0..CHANGES).filter(|&i| !is_bad(i)).count();
        assert!(answer.starts_with(&format!("{{\"inserted\":{inserted},")), "{answer}");
        Ok(())
    })?;
    let mut part =
        Part::new("push", format!("beside a trigger of the application, synchronous_commit off, {count} rounds"));
    part.compare(&times[1], &times[0], None);
    for refused in &times[2..] {
        let contract = (refused.name != times[4].name).then_some(Contract::AtMost(2.0));
        part.compare(refused, &times[1], contract);
    }
    times.iter().for_each(|times| part.rate(times, CHANGES));
    Ok(part)
}

fn part(synchronous_commit: &str, count: usize) -> Result<Part> {
    let cluster = server(Options::default())?;
    let (mut ours, mut theirs, mut owner) = (cluster.app(DATABASE), cluster.app(DATABASE), cluster.superuser(DATABASE));
    for client in [&mut ours, &mut theirs, &mut owner] {
        client.batch_execute(&format!("SET synchronous_commit = {synchronous_commit}"))?;
    }
    let push = ours.prepare("SELECT mana_sync.push('ann', 'app', $1::text::jsonb)::text")?;
    let user = theirs.prepare("SELECT set_config('app.current_user_id', $1, true)")?;
    let spaces = theirs.prepare("SELECT set_config('app.current_user_space_ids', $1, true)")?;
    let insert = theirs.prepare(
        "INSERT INTO original.sync_changes (app_id, table_name, record_id, user_id, space_id, op, data, field_timestamps, client_id, schema_version, actor)
         VALUES ('app', 'notes', $1, 'ann', NULL, 'insert', $2::text::jsonb, '{}', 'phone', 1, NULL)",
    )?;
    let mut times = [
        Times::new(format!("push of 1,000 changes, synchronous_commit {synchronous_commit}")),
        Times::new("the original, a transaction a change"),
        Times::new("COPY of the same rows into the same table, as the owner"),
        Times::new(format!("push that is not atomic, nothing wrong, synchronous_commit {synchronous_commit}")),
    ];
    rounds(count, &mut times, |round, alternative, times| {
        let ids = round * CHANGES..(round + 1) * CHANGES;
        let rows: Vec<(String, Value)> = ids.map(|i| (format!("r{i}"), data(i))).collect();
        match alternative {
            0 | 3 => {
                let change = |(id, data)| json!({"table": "notes", "id": id, "op": "insert", "data": data});
                let changes: Vec<Value> = rows.into_iter().map(change).collect();
                let is_atomic = alternative == 0;
                let changeset = json!({"clientId": "phone", "atomic": is_atomic, "changes": changes}).to_string();
                let answer: String = times.measure(|| Ok(ours.query_one(&push, &[&changeset])?.get(0)))?;
                assert!(answer.starts_with("{\"inserted\":1000,"), "{answer}");
            }
            1 => {
                let rows: Vec<(String, String)> = rows.into_iter().map(|(id, data)| (id, data.to_string())).collect();
                times.measure(|| {
                    for (id, data) in &rows {
                        let mut transaction = theirs.transaction()?;
                        transaction.execute(&user, &[&"ann"])?;
                        transaction.execute(&spaces, &[&""])?;
                        transaction.execute(&insert, &[id, data])?;
                        transaction.commit()?;
                    }
                    Ok(())
                })?;
            }
            _ => {
                let line = |(id, data)| format!("app\tnotes\t{id}\tann\tinsert\tphone\t{data}\t{{}}\n");
                let lines: String = rows.into_iter().map(line).collect();
                times.measure(|| {
                    let mut writer = owner.copy_in(
                        "COPY mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data, field_timestamps) FROM STDIN",
                    )?;
                    writer.write_all(lines.as_bytes())?;
                    Ok(writer.finish()?)
                })?;
            }
        }
        Ok(())
    })?;
    let mut part = Part::new("push", format!("one client, synchronous_commit {synchronous_commit}, {count} rounds"));
    let contract = |limit| (synchronous_commit == "off").then_some(Contract::AtLeast(limit));
    part.compare(&times[0], &times[1], contract(10.0));
    part.compare(&times[0], &times[2], contract(0.5));
    part.compare(&times[3], &times[0], contract(0.95));
    times.iter().for_each(|times| part.rate(times, CHANGES));
    Ok(part)
}

/// Returns the `data` of change `i`, about 200 bytes.
fn data(i: usize) -> Value {
    json!({"title": format!("Item {i}"), "done": i % 2 == 0, "text": "0123456789".repeat(14), "n": i})
}
