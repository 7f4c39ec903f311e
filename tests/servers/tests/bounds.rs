//! Tests of the limits on the size of changes. Every accepted change can be read in every way, and pages have a bounded
//! size.
//!
//! Fails if an accepted change stops a reader, a dump or a replication slot; if the size of a page depends on the size
//! of its changes and not on the byte limit; or if the server refuses a cursor that it issued.

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::process::{run, server_command};
use mana_sync_harness::{Cluster, Options};
use postgres::Client;
use serde_json::{Value, json};

/// The SQL that calls `sync` and returns parts of the answer: its length, its cursor, whether there is more, and the
/// ids in it. The server parses the answer, because serde_json could not read a value that is nested more than 127
/// levels deep.
const SYNC: &str = "SELECT pg_catalog.length(body::text), body ->> 'syncedUntil', (body ->> 'hasMore')::boolean,
                           ARRAY(SELECT change ->> 'id' FROM pg_catalog.json_array_elements(body -> 'serverChanges') AS change)
                    FROM mana_sync.sync('ben', 'app', $1::text::jsonb, space_ids => '{home}') AS body";

/// Pushes changes as the application's role. Returns the message of the error if the server refuses them.
fn push(client: &mut Client, changes: &Value) -> Result<(), String> {
    let body = json!({"clientId": "phone", "changes": changes}).to_string();
    let sql = "SELECT mana_sync.push('ann', 'app', $1::text::jsonb, space_ids => '{home}')::text";
    match client.query_one(sql, &[&body]) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.as_db_error().expect("an error of the server").message().to_string()),
    }
}

fn insert(id: &str, data: Value) -> Value {
    json!({"table": "t", "id": id, "op": "insert", "spaceId": "home", "data": {"value": data}})
}

/// Syncs a new device until there is no more. Returns the length of each answer, and the ids that it received.
fn sync_all(client: &mut Client) -> (Vec<i32>, Vec<String>) {
    let (mut since, mut lengths, mut ids) = (String::new(), Vec::new(), Vec::new());
    loop {
        let changeset = json!({"changes": [], "since": since}).to_string();
        let row = client.query_one(SYNC, &[&changeset]).expect("a page");
        lengths.push(row.get(0));
        ids.extend(row.get::<_, Vec<String>>(3));
        since = row.get(1);
        if !row.get::<_, bool>(2) {
            return (lengths, ids);
        }
    }
}

/// The test pushes 1.1 GB of valid changes. Without a byte limit, one page of them would be larger than a server can
/// send, and a new device could not begin.
#[test]
fn a_new_device_gets_a_thousand_large_changes_in_pages_of_four_megabytes() {
    let cluster = Cluster::with_log(Options::default());
    let mut app = cluster.app(DATABASE);
    let text = "0123456789".repeat(110_000);
    for tens in 0..100 {
        let changes: Vec<Value> = (0..10).map(|i| insert(&format!("{:04}", 10 * tens + i), json!(text))).collect();
        push(&mut app, &json!(changes)).expect("it is taken");
    }
    let (lengths, ids) = sync_all(&mut app);
    assert_eq!(ids, (0..1000).map(|i| format!("{i:04}")).collect::<Vec<_>>());
    let most = (4 << 20) + 10_000;
    assert!(lengths.iter().all(|&length| length < most), "{:?}", lengths.iter().max());
    // A page holds three of these changes.
    assert!(lengths.len() < 340, "{}", lengths.len());
    let count = "SELECT count(*) FROM mana_sync.changes_since('ben', 'app', space_ids => '{home}')";
    assert_eq!(app.query_one(count, &[]).unwrap().get::<_, i64>(0), 3);
}

/// Changes that would block a whole space are refused. The largest accepted changes can be read in every way.
#[test]
fn what_is_taken_can_be_read_dumped_exported_and_replicated() {
    let cluster = Cluster::with_log(Options::default().set("wal_level", "logical"));
    let (mut app, mut superuser) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    superuser
        .batch_execute("SELECT pg_catalog.pg_create_logical_replication_slot('slot', 'test_decoding')")
        .expect("a slot");
    let numbers = |number: &str, count: usize| -> Value {
        let text = format!("[{}]", vec![number; count].join(","));
        serde_json::from_str(&text).expect("JSON")
    };
    let nested = |depth: usize| -> Value { (1..depth).fold(json!([]), |inner, _| json!([inner])) };
    for (refused, message) in [
        (insert("bomb", numbers("1e131071", 9000)), "number of 131072 characters"),
        (insert("bomb", numbers("1e-16383", 9000)), "number of 16385 characters"),
        (insert("bomb", numbers("1e999", 9000)), "max_change_size"),
        (insert("bomb", nested(1000)), "nested 1001 deep"),
        (insert("bomb", json!("\u{1}".repeat(2_000_000))), "max_change_size"),
        (json!({"table": "t", "id": "bomb", "op": "delete", "actor": numbers("1e131071", 1)}), "number of 131072"),
        (
            json!({"table": "t", "id": "bomb", "op": "update", "fields": {"n": {"value": numbers("1e131071", 1)}}}),
            "number of 131072",
        ),
    ] {
        let error = push(&mut app, &json!([insert("good", json!(1)), refused])).expect_err(message);
        assert!(error.starts_with("changes[1]") && error.contains(message), "{error}");
    }
    let taken = [
        ("numbers", numbers("1e999", 8_000)),
        ("small numbers", numbers("-1e-997", 8_000)),
        ("nested", nested(999)),
        ("escapes", json!("\u{1}".repeat(1_390_000))),
        ("text", json!("x".repeat(8_000_000))),
    ];
    for (name, data) in &taken {
        push(&mut app, &json!([insert(name, data.clone())])).expect("it is taken");
    }
    let (_, ids) = sync_all(&mut app);
    assert_eq!(ids, taken.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>());
    for sql in [
        "SELECT data::text FROM mana_sync.records('ben', 'app', space_ids => '{home}')",
        "SELECT data::text FROM mana_sync.export_changes('ann')",
        "SELECT new_value::text FROM mana_sync.record_history('app', 't', 'numbers', 'ben', '{home}')",
        "SELECT data FROM pg_catalog.pg_logical_slot_get_changes('slot', NULL, NULL)",
    ] {
        let client = if sql.contains("slot") { &mut superuser } else { &mut app };
        let longest = client.query(sql, &[]).expect(sql).iter().map(|row| row.get::<_, String>(0).len()).max();
        assert!(longest > Some(7_900_000), "{sql}: {longest:?}");
    }
    let mut dump = server_command("pg_dump");
    dump.args(["--host", &cluster.socket_dir().display().to_string(), "--username", "postgres"]);
    dump.args(["--file", "/dev/null", DATABASE]);
    run(&mut dump).expect("a dump");
}

/// The cursor has 1.1 MB of text. Regression: the server refused a cursor of more than 131,000 spaces as cut or
/// changed.
#[test]
fn a_scope_of_140_000_spaces_goes_on_from_its_cursor() {
    let cluster = Cluster::with_log(Options::default());
    let mut app = cluster.app(DATABASE);
    push(&mut app, &json!([insert("first", json!(1))])).unwrap();
    let spaces: Vec<String> = (0..140_000).map(|i| format!("s{i}")).chain(["home".to_string()]).collect();
    let mut pull = |since: Option<&str>| -> Value {
        let sql = "SELECT mana_sync.pull('ben', 'app', since => $1, space_ids => $2)::text";
        serde_json::from_str(app.query_one(sql, &[&since, &spaces]).expect("a page").get(0)).expect("JSON")
    };
    let first = pull(None);
    assert_eq!(first["serverChanges"].as_array().unwrap().len(), 1);
    let cursor = first["syncedUntil"].as_str().unwrap();
    assert!(cursor.len() > 1_100_000);
    assert_eq!(pull(Some(cursor))["serverChanges"], json!([]));
}
