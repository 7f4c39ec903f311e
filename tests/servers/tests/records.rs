//! Tests of merged records on a real server. They are compared with a second, deliberately simple implementation of merging.

use std::collections::BTreeSet;
use std::time::Instant;

use chrono::Utc;
use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::history::{self, Push, devices_of};
use mana_sync_harness::merged::{Logged, Records, all_of, assert_same, living, records, records_of};
use mana_sync_harness::random::{rng, seed};
use mana_sync_harness::{Cluster, Options};
use mana_sync_simple_merge::Change;
use postgres::Client;
use rand::seq::IndexedRandom;

const APP: &str = "couchdb";

/// Pushes the whole history, one changeset for each line of the file.
fn push_all(client: &mut Client, pushes: &[Push]) {
    let statement = client.prepare("SELECT mana_sync.push($1, $2, $3::text::jsonb)::text").unwrap();
    for push in pushes {
        client.query_one(&statement, &[&push.user, &push.app, &push.line]).expect("the push is recorded");
    }
}

/// Returns the changes of the file in the order of its lines.
fn lines(pushes: &[Push]) -> Vec<Logged> {
    let of_app = pushes.iter().filter(|push| push.app == APP);
    let changes = of_app.flat_map(|push| push.changes.iter().map(move |change| (push, change)));
    changes
        .zip(1..)
        .map(|((push, change), seq)| Logged {
            user: push.user.clone(),
            table: change.table.clone(),
            record: change.record.clone(),
            change: Change {
                position: (1, 1, seq),
                created_at: Utc::now(),
                space: change.space.clone(),
                op: change.op.clone(),
                data: change.data.clone().unwrap_or_default(),
                field_timestamps: change.field_timestamps.clone(),
            },
        })
        .collect()
}

fn visible<'a>(lines: &'a [Logged], user: &str, spaces: &[String]) -> Vec<&'a Logged> {
    let sees = |line: &&Logged| line.user == user || line.change.space.as_ref().is_some_and(|id| spaces.contains(id));
    lines.iter().filter(sees).collect()
}

#[test]
fn records_of_the_history_are_those_of_the_simple_merge() {
    let Some(pushes) = history::load("records") else { return };
    let seed = seed("records", 4);
    let mut chosen = rng(seed, 0);
    let cluster = Cluster::with_log(Options::default());
    let (mut client, mut superuser) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    push_all(&mut client, &pushes);
    let lines = lines(&pushes);
    let mut compare = |who: &str, user: &str, spaces: &[String]| -> Records {
        let expected = records_of(visible(&lines, user, spaces));
        let start = Instant::now();
        let found = records(&mut client, user, APP, spaces, None).unwrap();
        let time = start.elapsed();
        assert_same(who, &found, &expected);
        let living = living(found.clone()).len();
        println!("{who}: {} records, {living} of them living, in {} ms", found.len(), time.as_millis());
        for key in Vec::from_iter(found.keys()).choose_multiple(&mut chosen, 5) {
            let one = records(&mut client, user, APP, spaces, Some(&key.1)).unwrap();
            assert_eq!(one.get(*key), found.get(*key), "{who}: {key:?} alone");
            assert!(one.keys().all(|other| other.1 == key.1));
        }
        found
    };
    let spaces: BTreeSet<&String> = lines.iter().filter_map(|line| line.change.space.as_ref()).collect();
    let spaces: Vec<String> = spaces.into_iter().cloned().collect();
    let all = compare("a member of every space", "auditor", &spaces);
    let devices: Vec<_> = devices_of(&pushes).into_iter().filter(|device| device.app == APP).collect();
    for device in devices.choose_multiple(&mut rng(seed, 1), 12) {
        compare(&device.user, &device.user, &device.spaces);
    }
    assert!(all.len() > 4000 && living(all.clone()).len() < all.len());

    // The aggregate by itself, in several parallel processes.
    superuser
        .batch_execute(
            "SET parallel_setup_cost = 0; SET cpu_operator_cost = 1; SET min_parallel_table_scan_size = 0;
             SET max_parallel_workers_per_gather = 3; ANALYZE mana_sync.sync_changes;
             CREATE TEMPORARY VIEW merged AS
             SELECT table_name, record_id, mana_sync.merge_changes(
                        op, data, field_timestamps, created_at, epoch, xact, seq, space_id) AS record
             FROM mana_sync.sync_changes WHERE app_id = 'couchdb' GROUP BY table_name, record_id",
        )
        .unwrap();
    let plan = superuser.query("EXPLAIN SELECT * FROM merged", &[]).unwrap();
    let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    assert!(plan.iter().any(|line| line.contains("Partial")), "{plan:#?}");
    let rows = superuser.query("SELECT table_name, record_id, (record).data FROM merged", &[]).unwrap();
    let expected = records_of(&lines);
    assert_eq!(rows.len(), expected.len());
    for row in rows {
        let fields: serde_json::Value = row.get(2);
        let record = &expected[&(row.get(0), row.get(1))];
        assert_eq!(Vec::from_iter(fields.as_object().unwrap().clone()), Vec::from_iter(record.fields.clone()));
    }
}

/// Rewrites the log with VACUUM FULL. Returns the number of its rows, the bytes of its table and the bytes of its indexes.
fn size(superuser: &mut Client) -> (i64, i64, i64) {
    superuser.batch_execute("VACUUM FULL mana_sync.sync_changes").unwrap();
    let row = superuser
        .query_one(
            "SELECT count(*), pg_table_size('mana_sync.sync_changes'), pg_indexes_size('mana_sync.sync_changes')
             FROM mana_sync.sync_changes",
            &[],
        )
        .unwrap();
    (row.get(0), row.get(1), row.get(2))
}

#[test]
fn the_history_before_and_after_a_compaction() {
    let Some(pushes) = history::load("compaction of the history") else { return };
    let cluster = Cluster::with_log(Options::default());
    let (mut client, mut superuser) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    push_all(&mut client, &pushes);
    let before = size(&mut superuser);
    let all_before = records_of(all_of(&mut superuser, "mana_sync.sync_changes", APP).values());
    let devices = devices_of(&pushes);
    let scopes: Vec<_> = devices.iter().filter(|device| device.app == APP).step_by(25).collect();
    let mut shown = || -> Vec<Records> {
        scopes.iter().map(|device| records(&mut client, &device.user, APP, &device.spaces, None).unwrap()).collect()
    };
    let records_before = shown();

    let start = Instant::now();
    let counts = superuser.query_one("CALL mana_sync.compact(older_than => '0')", &[]).unwrap();
    let time = start.elapsed();
    let (read, removed, trimmed): (i64, i64, i64) = (counts.get(0), counts.get(1), counts.get(2));
    let after = size(&mut superuser);
    println!(
        "{} changes, {} bytes and {} of indexes before; {} changes, {} and {} bytes after; \
         {read} read, {removed} removed, {trimmed} trimmed in {:.1} s",
        before.0,
        before.1,
        before.2,
        after.0,
        after.1,
        after.2,
        time.as_secs_f32()
    );
    assert_eq!(read, before.0);
    assert_eq!(after.0, before.0 - removed);
    assert!(removed > 1000 && trimmed > 1000);
    for ((device, before), after) in scopes.iter().zip(&records_before).zip(shown()) {
        assert_same(&device.user, &after, before);
    }
    let all_after = records_of(all_of(&mut superuser, "mana_sync.sync_changes", APP).values());
    assert_same("everything", &all_after, &all_before);
}

#[test]
fn one_record_is_read_by_its_index_whoever_else_has_one_of_the_same_id() {
    let cluster = Cluster::with_log(Options::default());
    let (mut client, mut superuser) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    // A record id that each of 20,000 users has privately and that a thousand spaces have, and another record with a
    // long history.
    superuser
        .batch_execute(
            "INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, space_id, op, client_id, data)
             SELECT 'app', 'settings', 'theme', 'user ' || i, CASE WHEN i <= 1000 THEN 'space ' || i END, 'insert', 'c', '{\"a\": 1}'
             FROM generate_series(1, 21000) AS i;
             INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
             SELECT 'app', 'notes', 'r' || i % 5000, 'user 20000', 'update', 'c', '{\"b\": 2}' FROM generate_series(1, 50000) AS i",
        )
        .unwrap();
    superuser.batch_execute("VACUUM ANALYZE mana_sync.sync_changes").unwrap();
    let mut buffers = |sql: &str| -> i64 {
        client.query(sql, &[]).expect("what is read once is prepared");
        let plan = client.query_one(&format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}"), &[]).unwrap();
        let plan: serde_json::Value = plan.get(0);
        let count = |key: &str| plan[0]["Plan"][key].as_i64().expect("a count");
        count("Shared Hit Blocks") + count("Shared Read Blocks")
    };
    // The scan reads all index entries of the record id, of whatever user, but not their rows.
    for (sql, most) in [
        ("SELECT * FROM mana_sync.records('user 20000', 'app', 'settings', 'theme')", 300),
        (
            "SELECT * FROM mana_sync.records('user 20000', 'app', record_id => 'theme', space_ids => '{space 7,space 8}')",
            300,
        ),
        ("SELECT * FROM mana_sync.record_history('app', 'settings', 'theme', 'user 20000', '{space 7,space 8}')", 300),
        ("SELECT * FROM mana_sync.records('user 20000', 'app', 'notes', 'r77', space_ids => '{space 7,space 8}')", 40),
    ] {
        let read = buffers(sql);
        println!("{read} buffers: {sql}");
        assert!(read <= most, "{sql} reads {read} buffers");
    }
}
