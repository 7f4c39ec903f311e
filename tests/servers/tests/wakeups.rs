//! Tests of wake-ups: a listener is notified soon after a commit, and not once for every change.
//!
//! Fails if a commit is not followed by a notification on the channels of its user and space; if an aborted transaction
//! is followed by one; or if the worker does not survive what happens to its server.

use std::thread;
use std::time::{Duration, Instant};

use fallible_iterator::FallibleIterator;
use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::process::wait_until;
use mana_sync_harness::{Cluster, Device, Options};
use postgres::Client;
use serde_json::{Value, json};

fn cluster() -> Cluster {
    let cluster = Cluster::with_log(
        Options::default()
            .set("shared_preload_libraries", "mana_sync")
            .set("mana_sync.wakeup_databases", DATABASE)
            .set("log_min_messages", "info"),
    );
    worker_is_there(&cluster);
    cluster
}

/// Waits until the worker runs and has sent its first notification. Returns its process id.
fn worker_is_there(cluster: &Cluster) -> i32 {
    let mut superuser = cluster.superuser(DATABASE);
    let sql =
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'mana_sync wake-ups' AND datname = current_database()
               AND wait_event_type = 'Extension'";
    let mut pid = None;
    wait_until("the worker waits", || {
        pid = superuser.query_opt(sql, &[]).unwrap().map(|row| row.get(0));
        pid.is_some()
    });
    pid.unwrap()
}

/// Opens a connection that listens to the channels of a user and of a space, and to the everyone channel.
fn listen(cluster: &Cluster, user: &str, space: &str) -> Client {
    let mut client = cluster.app(DATABASE);
    let sql = "SELECT mana_sync.user_channel($1), mana_sync.space_channel($2), mana_sync.everyone_channel()";
    let row = client.query_one(sql, &[&user, &space]).unwrap();
    for channel in 0..3 {
        let channel: String = row.get(channel);
        assert!(channel.len() == 42 && channel.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{channel}");
        client.batch_execute(&format!("LISTEN \"{channel}\"")).unwrap();
    }
    client
}

/// Returns the notifications that arrive within a time, as (channel, payload). Channel 0 is that of the user, 1 that of
/// the space, and 2 the everyone channel.
fn heard(client: &mut Client, user: &str, space: &str, time: Duration) -> Vec<(usize, Value)> {
    let sql = "SELECT ARRAY[mana_sync.user_channel($1), mana_sync.space_channel($2), mana_sync.everyone_channel()]";
    let channels: Vec<String> = client.query_one(sql, &[&user, &space]).unwrap().get(0);
    let notifications: Vec<_> = client.notifications().timeout_iter(time).collect().unwrap();
    let kind = |channel: &str| channels.iter().position(|own| own == channel).expect("a channel that was listened to");
    notifications.iter().map(|n| (kind(n.channel()), serde_json::from_str(n.payload()).unwrap())).collect()
}

fn write(client: &mut Client, user: &str, space: Option<&str>, table: &str, device: &str) {
    let sql = "SELECT mana_sync.record_change('app', $3, 'r', $1, $2, 'insert', $4, '{}')";
    client.execute(sql, &[&user, &space, &table, &device]).unwrap();
}

/// Asserts that wake-ups work on a server that has just become a primary, for the first time or again.
fn assert_wakes(cluster: &Cluster) {
    worker_is_there(cluster);
    let (mut app, mut listener) = (cluster.app(DATABASE), listen(cluster, "ann", "home"));
    heard(&mut listener, "ann", "home", SOON);
    write(&mut app, "ann", None, "notes", "phone");
    assert_eq!(heard(&mut listener, "ann", "home", SOON).len(), 1);
}

/// The time within which a wake-up arrives, even on a busy machine.
const SOON: Duration = Duration::from_secs(2);

#[test]
fn a_commit_wakes_its_user_and_space_and_an_abort_nobody() {
    let cluster = cluster();
    let mut app = cluster.app(DATABASE);
    let mut listener = listen(&cluster, "ann", "home");
    heard(&mut listener, "ann", "home", SOON);

    let start = Instant::now();
    write(&mut app, "ann", Some("home"), "notes", "phone");
    let first = listener.notifications().timeout_iter(SOON).next().unwrap();
    println!("heard after {:?}", start.elapsed());
    assert!(first.is_some(), "nothing came");
    let told = json!({"app": "app", "tables": ["notes"], "clients": ["phone"]});
    assert_eq!(serde_json::from_str::<Value>(first.unwrap().payload()).unwrap(), told);
    assert_eq!(heard(&mut listener, "ann", "home", SOON), [(1, told)]);

    // Rows of others elsewhere, an aborted transaction, a subtransaction that is rolled back, and an open transaction.
    write(&mut app, "ben", None, "notes", "phone");
    write(&mut app, "ben", Some("work"), "notes", "phone");
    let mut transaction = app.transaction().unwrap();
    transaction
        .execute("SELECT mana_sync.record_change('app', 'notes', 'r', 'ann', NULL, 'insert', 'c', '{}')", &[])
        .unwrap();
    transaction.rollback().unwrap();
    app.batch_execute(
        "BEGIN; SELECT mana_sync.record_change('app', 'notes', 'r', 'ben', NULL, 'insert', 'c', '{}');
         SAVEPOINT s; SELECT mana_sync.record_change('app', 'notes', 'r', 'ann', 'home', 'insert', 'c', '{}');
         ROLLBACK TO s; COMMIT;
         BEGIN; SELECT mana_sync.record_change('app', 'notes', 'r', 'ann', NULL, 'insert', 'c', '{}')",
    )
    .unwrap();
    assert_eq!(heard(&mut listener, "ann", "home", SOON), []);
    app.batch_execute("COMMIT").unwrap();
    assert_eq!(heard(&mut listener, "ann", "home", SOON).len(), 1);

    // A released savepoint, a push and a plain INSERT count. Several tables and devices come in one notification.
    app.batch_execute(
        "BEGIN; SELECT mana_sync.with_scope('ann', '{home}'); SAVEPOINT s;
         SELECT mana_sync.push('ann', 'app', '{\"clientId\": \"laptop\", \"changes\": [
             {\"table\": \"tasks\", \"id\": \"r\", \"op\": \"delete\", \"spaceId\": \"home\"}]}'); RELEASE s;
         INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id)
             VALUES ('app', 'a \"table\"', 'r', 'ann', 'delete', 'phone'); COMMIT",
    )
    .unwrap();
    let both = json!({"app": "app", "tables": ["a \"table\"", "tasks"], "clients": ["laptop", "phone"]});
    let one = json!({"app": "app", "tables": ["tasks"], "clients": ["laptop"]});
    assert_eq!(heard(&mut listener, "ann", "home", SOON), [(0, both), (1, one)]);

    // If a payload would be too long, it is empty. If the feed is full, the everyone channel is notified.
    app.batch_execute(
        "SELECT count(mana_sync.record_change('app', i || repeat('x', 100), 'r', 'ann', NULL, 'insert', 'c', '{}'))
         FROM generate_series(1, 200) AS i",
    )
    .unwrap();
    assert_eq!(heard(&mut listener, "ann", "home", SOON), [(0, json!({}))]);
    app.batch_execute(
        "SELECT count(mana_sync.record_change('app', 'notes', 'r', 'user ' || i, NULL, 'insert', 'c', '{}'))
         FROM generate_series(1, 1000) AS i",
    )
    .unwrap();
    assert_eq!(heard(&mut listener, "ann", "home", SOON), [(2, json!({}))]);
}

#[test]
fn many_commits_are_few_wake_ups_and_the_last_one_is_after_all() {
    let cluster = cluster();
    let mut listener = listen(&cluster, "ann", "home");
    heard(&mut listener, "ann", "home", SOON);
    let writer = thread::spawn({
        let mut app = cluster.app(DATABASE);
        move || {
            let start = Instant::now();
            for _ in 0..100 {
                let sql = "SELECT count(mana_sync.record_change('app', 'notes', 'r', 'ben', 'home', 'insert', 'c', '{}')) FROM generate_series(1, 10)";
                app.query_one(sql, &[]).unwrap();
                thread::sleep(Duration::from_millis(5));
            }
            start.elapsed()
        }
    });
    let (mut count, mut reader, mut device) = (0, cluster.app(DATABASE), Device::new("ann", "app", &["home"]));
    // The device pulls only at wake-ups.
    while listener.notifications().timeout_iter(SOON).next().unwrap().is_some() {
        count += 1;
        device.pull(&mut reader, 5000).unwrap();
    }
    let took = writer.join().unwrap();
    println!("1,000 changes in 100 transactions within {took:?}: {count} notifications");
    device.compare(&mut cluster.superuser(DATABASE)).assert_exact("after the last wake-up");
    assert_eq!(device.delivered.len(), 1000);
    assert!(count as u128 <= took.as_millis() / 50 + 2, "{count} in {took:?}");
}

#[test]
fn the_worker_outlives_what_happens() {
    let cluster = cluster();
    let (mut app, mut superuser) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    let mut listener = listen(&cluster, "ann", "home");
    heard(&mut listener, "ann", "home", SOON);
    // The worker holds no transaction open while it waits.
    write(&mut app, "ann", None, "notes", "phone");
    assert_eq!(heard(&mut listener, "ann", "home", SOON).len(), 1);
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mana_sync wake-ups'
               AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL OR xact_start IS NOT NULL)";
    assert_eq!(superuser.query_one(sql, &[]).unwrap().get::<_, i64>(0), 0);

    // The extension is dropped and created again: the worker is the same, the channels are new.
    let pid = worker_is_there(&cluster);
    superuser
        .batch_execute("DROP EXTENSION mana_sync; SELECT pg_sleep(0.2); CREATE EXTENSION mana_sync; SELECT mana_sync.grant_access('app')")
        .unwrap();
    let mut listener = listen(&cluster, "ann", "home");
    heard(&mut listener, "ann", "home", SOON);
    write(&mut app, "ann", None, "notes", "phone");
    assert_eq!(heard(&mut listener, "ann", "home", SOON).len(), 1);
    assert_eq!(worker_is_there(&cluster), pid);

    // An error in the worker, here because the key is missing. The worker restarts, and notifies the everyone channel
    // as soon as it can.
    superuser
        .batch_execute("CREATE TABLE kept AS TABLE mana_sync.channel_key; DELETE FROM mana_sync.channel_key")
        .unwrap();
    write(&mut app, "ann", None, "notes", "phone");
    wait_until("the worker has failed", || cluster.server_log().contains("channel_key is empty"));
    superuser.batch_execute("INSERT INTO mana_sync.channel_key TABLE kept").unwrap();
    let told = heard(&mut listener, "ann", "home", Duration::from_secs(4));
    assert!(told.contains(&(2, json!({}))), "{told:?}");

    // The worker waits for a lock while it sends. What is written meanwhile is notified afterwards, together with later
    // changes.
    let lock = "BEGIN; LOCK TABLE mana_sync.channel_key IN ACCESS EXCLUSIVE MODE";
    let waits = |superuser: &mut Client| {
        let sql =
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'mana_sync wake-ups' AND wait_event_type = 'Lock'";
        superuser.query_opt(sql, &[]).unwrap().map(|row| row.get::<_, i32>(0))
    };
    worker_is_there(&cluster);
    heard(&mut listener, "ann", "home", SOON);
    let mut locker = cluster.superuser(DATABASE);
    locker.batch_execute(lock).unwrap();
    write(&mut app, "ann", None, "before", "phone");
    wait_until("the worker waits for the lock", || waits(&mut superuser).is_some());
    write(&mut app, "ann", None, "meanwhile", "phone");
    locker.batch_execute("COMMIT").unwrap();
    let tables =
        |told: Vec<(usize, Value)>| -> String { told.iter().map(|(_, told)| told["tables"].to_string()).collect() };
    assert_eq!(tables(heard(&mut listener, "ann", "home", SOON)), r#"["before"]["meanwhile"]"#);
    write(&mut app, "ann", None, "after", "phone");
    assert_eq!(tables(heard(&mut listener, "ann", "home", SOON)), r#"["after"]"#);

    // The worker is terminated while it waits for the lock, and while it does not wait. Then the server is killed.
    locker.batch_execute(lock).unwrap();
    write(&mut app, "ann", None, "before", "phone");
    wait_until("the worker waits for the lock", || waits(&mut superuser).is_some());
    let pid = waits(&mut superuser).unwrap();
    superuser.execute("SELECT pg_terminate_backend($1)", &[&pid]).unwrap();
    wait_until("the worker has ended in spite of the lock", || waits(&mut superuser) != Some(pid));
    locker.batch_execute("COMMIT").unwrap();
    let pid = worker_is_there(&cluster);
    superuser.execute("SELECT pg_terminate_backend($1)", &[&pid]).unwrap();
    wait_until("another worker is there", || worker_is_there(&cluster) != pid);
    drop((app, superuser, listener));
    cluster.kill_and_restart();
    assert_wakes(&cluster);

    // A standby has no worker until it is promoted.
    let standby = cluster.standby("standby1");
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mana_sync wake-ups'";
    assert_eq!(standby.superuser(DATABASE).query_one(sql, &[]).unwrap().get::<_, i64>(0), 0);
    standby.promote();
    assert_wakes(&standby);
}

#[test]
fn more_databases_than_there_is_room_for_are_told() {
    let names: Vec<String> = (0..9).map(|i| format!("d{i}")).collect();
    let options = Options::default().set("shared_preload_libraries", "mana_sync");
    let cluster = Cluster::new(options.set("mana_sync.wakeup_databases", &names.join(", ")));
    let told = "mana_sync.wakeup_databases names 9 databases: listeners of the first 8 are woken";
    assert!(cluster.server_log().contains(told), "{}", cluster.server_log());
}
