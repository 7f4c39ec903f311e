//! Tests of the guarantees about the text of a cursor, and of cursors that are used for another reader, table, log or
//! time than they were issued for.
//!
//! Fails if a newer cursor sorts before an older one; if a cursor grows beyond the documented size; or if a cursor of
//! another reader, table, log or time hides rows.

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::{Cluster, Device, Options};
use postgres::Client;

fn write(app: &mut Client, user: &str, table: &str, count: i32) {
    let sql = "SELECT mana_sync.record_change('app', $1, 'r' || i, $2, NULL, 'insert', 'c', '{}')
               FROM generate_series(1, $3) AS i";
    app.execute(sql, &[&table, &user, &count]).unwrap();
}

/// Pulls one page of a table, or of all tables. Returns the number of rows and the cursor.
fn page(
    app: &mut Client,
    user: &str,
    name: &str,
    table: Option<&str>,
    since: Option<&str>,
    size: i32,
) -> (usize, Option<String>) {
    let sql = "SELECT cursor FROM mana_sync.changes_since(user_id => $1, app_id => $2, table_name => $3, since => $4, page_size => $5)";
    let rows = app.query(sql, &[&user, &name, &table, &since, &size]).unwrap();
    (rows.len(), rows.last().and_then(|row| row.get(0)))
}

#[test]
fn text_order_is_age_order() {
    let cluster = Cluster::with_log(Options::default().set("max_prepared_transactions", "100"));
    let mut app = cluster.app(DATABASE);
    let mut others: Vec<Client> = (0..6).map(|_| cluster.app(DATABASE)).collect();
    let mut device = Device::new("ann", "app", &["home", "work"]);
    let mut cursors: Vec<String> = Vec::new();
    // Transactions begin in one order and end in another, so that the set of ids in progress keeps changing.
    for round in 0..120_usize {
        let other = &mut others[round % 6];
        match round * 7 % 5 {
            0 | 1 => other.batch_execute("BEGIN; SELECT pg_current_xact_id()").unwrap(),
            2 => write(other, "ann", "notes", 2),
            3 => other.batch_execute("COMMIT").unwrap(),
            _ => other.batch_execute("ROLLBACK").unwrap(),
        }
        write(&mut app, "ann", "notes", 1);
        device.pull(&mut app, 50).unwrap();
        cursors.push(device.cursor.clone().unwrap());
    }
    for pair in cursors.windows(2) {
        assert!(pair[0].as_bytes() <= pair[1].as_bytes(), "{pair:?}");
    }
    assert!(cursors.first() < cursors.last());
    for cursor in &cursors {
        assert!(cursor.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)), "{cursor}");
        assert!(
            cursor.as_str() > "1970-01-01T00:00:00.000Z" && cursor.as_str() < "2000-01-01T00:00:00.000Z",
            "{cursor}"
        );
        assert!(cursor.len() < 200, "{cursor}");
    }
}

#[test]
fn each_space_adds_about_eight_characters_and_open_writers_no_more_than_fits() {
    let cluster = Cluster::with_log(Options::default().set("max_prepared_transactions", "4000"));
    let (mut app, mut superuser) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    write(&mut app, "ann", "notes", 3);
    let length = |app: &mut Client, spaces: usize| {
        let mut device = Device::new("ann", "app", &[]);
        device.spaces = (0..spaces).map(|i| format!("a space with a rather long id {i}")).collect();
        device.pull(app, 10).unwrap();
        device.cursor.unwrap().len()
    };
    let (few, many) = (length(&mut app, 3), length(&mut app, 103));
    assert!(few < 100 && many - few <= 802, "{few} {many}");

    // Open transactions, each with a row for Ann and with gaps between their ids. A cursor has room for 2,500 of them.
    let open = |superuser: &mut Client, i: i32| {
        superuser
            .batch_execute(&format!(
                "BEGIN; SELECT mana_sync.with_scope('ann');
                 SELECT mana_sync.record_change('app', 'notes', 'open {i}', 'ann', NULL, 'insert', 'c', '{{}}');
                 PREPARE TRANSACTION 'open {i}'; SELECT pg_current_xact_id()"
            ))
            .unwrap();
    };
    (0..2500).for_each(|i| open(&mut superuser, i));
    let mut device = Device::new("ann", "app", &["home"]);
    assert_eq!(device.pull(&mut app, 100).unwrap(), 3);
    write(&mut app, "ann", "notes", 1);
    device.pull(&mut app, 100).unwrap();
    let cursor = device.cursor.clone().unwrap();
    assert!((5000..=6000).contains(&cursor.len()), "{}", cursor.len());
    device.compare(&mut superuser).assert_exact("2,500 open writers");

    // A cursor has no room for 3,400 open transactions. Rows of transactions without room come again, but each walk
    // must end: pages of three rows deliver all rows within the necessary number of pages, and a few more for the
    // repeated rows.
    (2500..3400).for_each(|i| open(&mut superuser, i));
    write(&mut app, "ann", "notes", 30);
    let mut longest = 0;
    for _ in 0..15 {
        device.pull_page(&mut app, 3).unwrap();
        longest = longest.max(device.cursor.as_ref().unwrap().len());
    }
    let difference = device.compare(&mut superuser);
    println!("3,400 open writers: cursors of up to {longest} characters, {difference}");
    difference.assert_complete("3,400 open writers");
    for i in (0..3400).rev() {
        superuser.batch_execute(&format!("COMMIT PREPARED 'open {i}'")).unwrap();
    }
    device.pull(&mut app, 1000).unwrap();
    device.compare(&mut superuser).assert_complete("after the open writers committed");
}

/// The spaces use all the room of a cursor. The cursor must still name the transaction of an open writer.
#[test]
fn a_walk_over_many_spaces_ends_beside_an_open_writer() {
    let cluster = Cluster::with_log(Options::default());
    let (mut app, mut other) = (cluster.app(DATABASE), cluster.app(DATABASE));
    let mut device = Device::new("ann", "app", &[]);
    device.spaces = (0..1000).map(|i| format!("space {i}")).collect();
    write(&mut app, "ann", "notes", 1);
    device.pull(&mut app, 10).unwrap();
    other.batch_execute("BEGIN; SELECT pg_current_xact_id()").unwrap();
    (0..10).for_each(|_| write(&mut app, "ann", "notes", 1));
    for _ in 0..4 {
        device.pull_page(&mut app, 3).unwrap();
    }
    assert_eq!(device.pull_page(&mut app, 3).unwrap(), 0);
    device.compare(&mut cluster.superuser(DATABASE)).assert_exact("1,000 spaces and an open writer");
}

#[test]
fn a_cursor_of_another_reader_is_read_from_the_beginning() {
    let cluster = Cluster::with_log(Options::default());
    let mut app = cluster.app(DATABASE);
    write(&mut app, "ann", "notes", 3);
    write(&mut app, "ben", "notes", 2);
    app.batch_execute("SELECT mana_sync.record_change('other', 'notes', 'r', 'ann', NULL, 'insert', 'c', '{}')")
        .unwrap();
    let (_, cursor) = page(&mut app, "ann", "app", None, None, 100);
    assert_eq!(page(&mut app, "ann", "app", None, cursor.as_deref(), 100).0, 0);
    assert_eq!(page(&mut app, "ben", "app", None, cursor.as_deref(), 100).0, 2);
    assert_eq!(page(&mut app, "ann", "other", None, cursor.as_deref(), 100).0, 1);
}

#[test]
fn a_cursor_from_within_a_walk_goes_back_for_another_table() {
    let cluster = Cluster::with_log(Options::default());
    let mut app = cluster.app(DATABASE);
    for _ in 0..5 {
        write(&mut app, "ann", "notes", 2);
        write(&mut app, "ann", "tasks", 2);
    }
    let (_, rest) = page(&mut app, "ann", "app", None, None, 100);
    for _ in 0..5 {
        write(&mut app, "ann", "notes", 2);
        write(&mut app, "ann", "tasks", 2);
    }
    let (_, walk) = page(&mut app, "ann", "app", Some("notes"), rest.as_deref(), 4);
    // The walk continues with the same table. It starts over with another table, or with all tables.
    assert_eq!(page(&mut app, "ann", "app", Some("notes"), walk.as_deref(), 100).0, 6);
    assert_eq!(page(&mut app, "ann", "app", Some("tasks"), walk.as_deref(), 100).0, 10);
    assert_eq!(page(&mut app, "ann", "app", None, walk.as_deref(), 100).0, 20);
    // A client with one cursor for each table sends the smallest cursor. This is the cursor within the walk.
    let (_, later) = page(&mut app, "ann", "app", Some("tasks"), rest.as_deref(), 100);
    assert!(rest < later && walk < later);
}

#[test]
fn an_exactly_full_page_does_not_end_the_walk_for_good() {
    let cluster = Cluster::with_log(Options::default());
    let mut app = cluster.app(DATABASE);
    write(&mut app, "ann", "notes", 6);
    let mut device = Device::new("ann", "app", &[]);
    assert_eq!(device.pull_page(&mut app, 3).unwrap(), 3);
    assert_eq!(device.pull_page(&mut app, 3).unwrap(), 3);
    // The walk has no rows left. A change that is written now must come with the next page, which a new walk fills.
    write(&mut app, "ann", "notes", 5);
    assert_eq!(device.pull_page(&mut app, 3).unwrap(), 3);
    write(&mut app, "ann", "notes", 1);
    assert_eq!(device.pull_page(&mut app, 10).unwrap(), 3);
    assert_eq!(device.pull_page(&mut app, 10).unwrap(), 0);
    device.compare(&mut cluster.superuser(DATABASE)).assert_exact("exactly full pages");
}

#[test]
fn a_cursor_outlives_neither_the_log_nor_the_servers_time() {
    let cluster = Cluster::with_log(Options::default().durable());
    let mut app = cluster.app(DATABASE);
    write(&mut app, "ann", "notes", 2);
    drop(app);
    let copy = cluster.copy_data();
    let mut app = cluster.app(DATABASE);
    for _ in 0..50 {
        write(&mut app, "ann", "notes", 1);
    }
    let (_, future) = page(&mut app, "ann", "app", None, None, 1000);
    drop(app);
    // The server is set back to its old data directory, and refuses a cursor from its future.
    cluster.put_back(copy);
    let mut app = cluster.app(DATABASE);
    let error = app
        .query("SELECT * FROM mana_sync.changes_since('ann', 'app', since => $1)", &[&future])
        .expect_err("a cursor from the future");
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "55000");
    assert!(error.message().starts_with("resync required"), "{}", error.message());
    assert!(error.hint().unwrap().contains("from the beginning"));
    // The wire format reports this in the answer and raises no error. `sync` stores nothing, and syncedUntil is the
    // beginning.
    let pull = "SELECT mana_sync.pull('ann', 'app', since => $1)::text";
    let sync = "SELECT mana_sync.sync('ann', 'app', jsonb_build_object('since', $1::text, 'changes',
                    jsonb '[{\"table\": \"t\", \"id\": \"r\", \"op\": \"delete\"}]'))::text";
    for call in [pull, sync] {
        let answer: String = app.query_one(call, &[&future]).unwrap().get(0);
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["resyncRequired"], serde_json::json!(true), "{answer}");
        assert_eq!(answer["serverChanges"], serde_json::json!([]));
        let from_beginning = answer["syncedUntil"].as_str().unwrap();
        assert_eq!(page(&mut app, "ann", "app", None, Some(from_beginning), 1000).0, 2);
    }
    assert_eq!(page(&mut app, "ann", "app", None, None, 1000).0, 2);

    // A new log is created after the first one was dropped: the cursor belongs to an epoch that this log does not have.
    let (_, cursor) = page(&mut app, "ann", "app", None, None, 1000);
    cluster
        .superuser(DATABASE)
        .batch_execute("DROP EXTENSION mana_sync; CREATE EXTENSION mana_sync; SELECT mana_sync.grant_access('app')")
        .unwrap();
    write(&mut app, "ann", "notes", 4);
    assert_eq!(page(&mut app, "ann", "app", None, cursor.as_deref(), 1000).0, 4);
}
