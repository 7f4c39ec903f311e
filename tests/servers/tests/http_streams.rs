//! Tests of live streams of the HTTP front end in `examples`, on a real server: committed changes reach a device while
//! it waits.
//!
//! Fails if a change arrives late, if a user who may not see it receives it, or if a stream outlives its token.

use std::thread;
use std::time::{Duration, Instant};

use mana_sync_harness::Options;
use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::http::{
    Http, POLLED, SECRET, cluster, cluster_with, database_url, insert, insert_with, join, polling, token,
};
use mana_sync_harness::process::{PATIENCE, wait_until};
use postgres::Client;
use serde_json::{Value, json};

#[test]
fn a_member_of_a_space_gets_a_change_while_it_waits() {
    let preloaded = Options::default().set("shared_preload_libraries", "mana_sync");
    let cluster = cluster_with(preloaded.set("mana_sync.wakeup_databases", DATABASE));
    // A wake-up delivers the change: the timer would take a minute.
    let http = polling(&cluster, "60");
    let within = Duration::from_secs(1);
    join(&cluster, "ann", "home");
    join(&cluster, "ben", "home");
    join(&cluster, "eve", "work");
    let mut ann = http.device("ann", "phone");
    ann.sync(json!([insert_with("milk", "spaceId", "home"), insert("diary")]));
    let mut ben = http.device("ben", "laptop");
    let (events, stranger) = (ben.stream(""), http.device("eve", "phone").stream(""));
    let event = events.next(PATIENCE);
    assert_eq!(event.records(), ["milk"]);
    ben.cursor = event.id;
    // The connection listens by now. Otherwise the first change comes with the pull that follows LISTEN.
    for (round, id) in ["tea", "jam", "bread"].iter().enumerate() {
        let start = Instant::now();
        ann.sync(json!([insert_with(id, "spaceId", "home"), insert("diary")]));
        let event = events.next(if round == 0 { PATIENCE } else { within });
        println!("{id}: {:?} after the push began", start.elapsed());
        assert_eq!(event.records(), [*id]);
    }
    assert!(stranger.is_silent(Duration::from_millis(500)));

    // A stream that was interrupted resumes at its position, without the changes that its own device wrote meanwhile.
    drop(events);
    ben.clone().sync(json!([insert_with("his", "spaceId", "home")]));
    let again = ben.stream("since=");
    assert_eq!(again.next(PATIENCE).records(), ["tea", "jam", "bread"]);
    assert!(again.is_silent(Duration::from_millis(500)));
    // The stream delivers only the requested table, including later changes.
    ben.cursor = String::new();
    let collections = ben.stream("collections=notes,lists");
    let note = r#"{"table": "notes", "id": "note", "op": "insert", "spaceId": "home", "data": {"n": 1.50}}"#;
    let note: Value = serde_json::from_str(note).unwrap();
    ann.sync(json!([insert_with("salt", "spaceId", "home"), note, insert_with("pepper", "spaceId", "home")]));
    let event = collections.next(within);
    assert_eq!(event.records(), ["note"]);
    assert!(event.data.contains("1.50"), "numbers keep every digit: {}", event.data);
    // The cursor of the event is valid for the requested table.
    ben.cursor = event.id;
    assert!(ben.stream("collections=notes,lists").is_silent(Duration::from_millis(500)));
    assert!(collections.is_silent(Duration::from_millis(500)));
}

#[test]
fn a_stream_ends_with_its_token_and_a_member_that_left_gets_no_more() {
    let cluster = cluster();
    // Without channels, and without a connection that listens, a stream polls.
    let drop =
        "ALTER EXTENSION mana_sync DROP FUNCTION mana_sync.user_channel(text); DROP FUNCTION mana_sync.user_channel";
    cluster.superuser(DATABASE).batch_execute(drop).unwrap();
    let (url, nowhere) = (database_url(&cluster), "host=/nowhere user=app");
    let http = Http::with(&[
        ("DATABASE_URL", &url),
        ("LISTEN_DATABASE_URL", nowhere),
        ("JWT_HS256_SECRET", SECRET),
        ("POLL_SECONDS", "1"),
    ]);
    join(&cluster, "ben", "home");
    join(&cluster, "ann", "home");
    let mut ann = http.device("ann", "phone");
    let mut ben = http.device("ben", "laptop");
    let events = ben.stream("");
    ann.sync(json!([insert_with("milk", "spaceId", "home")]));
    assert_eq!(events.next(POLLED).records(), ["milk"]);
    cluster.superuser(DATABASE).batch_execute("DELETE FROM memberships WHERE user_id = 'ben'").unwrap();
    ann.sync(json!([insert_with("tea", "spaceId", "home")]));
    assert!(events.is_silent(POLLED));
    // A device that joins a space receives its whole history.
    join(&cluster, "ben", "home");
    assert_eq!(events.next(POLLED).records(), ["milk", "tea"]);

    ben.token = token("ben", 2);
    let events = ben.stream("");
    assert_eq!(events.next(POLLED).records(), ["milk", "tea"]);
    assert!(events.ends(POLLED), "the token has expired");
    assert_eq!(ben.get("/sync/todo/stream").0, 401);
}

#[test]
fn a_notification_wakes_a_stream_and_so_does_a_new_connection_to_listen_on() {
    let cluster = cluster();
    let mut superuser = cluster.superuser(DATABASE);
    // The names need quoting, and only this test sends notifications, because there is no worker.
    superuser
        .batch_execute(
            r#"CREATE OR REPLACE FUNCTION mana_sync.user_channel(user_id text) RETURNS text LANGUAGE sql
                   AS $$ SELECT 'User "; ' || $1 $$;
               CREATE OR REPLACE FUNCTION mana_sync.space_channel(space_id text) RETURNS text LANGUAGE sql
                   AS $$ SELECT 'Space "; ' || $1 $$"#,
        )
        .unwrap();
    join(&cluster, "ann", "home");
    join(&cluster, "ben", "home");
    // Returns the last statement of the listening connection, and its process id.
    let listener = |client: &mut Client| -> Option<(String, i32)> {
        let sql = "SELECT query, pid FROM pg_stat_activity WHERE query ~ 'LISTEN' AND pid <> pg_backend_pid()";
        client.query_opt(sql, &[]).unwrap().map(|row| (row.get(0), row.get(1)))
    };
    let http = polling(&cluster, "3600");
    let mut ann = http.device("ann", "phone");
    let (first, second) = (http.device("ben", "laptop").stream(""), http.device("ben", "tablet").stream(""));
    ann.sync(json!([insert_with("milk", "spaceId", "home")]));
    wait_until("it listens", || listener(&mut superuser).is_some());
    thread::sleep(Duration::from_millis(500));
    superuser.batch_execute("SELECT pg_notify(mana_sync.space_channel('home'), '')").unwrap();
    let records = |events: &mana_sync_harness::http::Events| events.next(Duration::from_secs(1)).records();
    assert_eq!((records(&first), records(&second)), (vec!["milk".into()], vec!["milk".into()]));
    // The channels of other users, and the everyone channel.
    http.device("ben", "phone").sync(json!([insert("diary")]));
    superuser.batch_execute("SELECT pg_notify(mana_sync.user_channel('ann'), '')").unwrap();
    superuser.batch_execute("SELECT pg_notify(mana_sync.space_channel('work'), '')").unwrap();
    assert!(first.is_silent(Duration::from_millis(500)));
    superuser.batch_execute("SELECT pg_notify(mana_sync.everyone_channel(), '{}')").unwrap();
    assert_eq!((records(&first), records(&second)), (vec!["diary".into()], vec!["diary".into()]));

    // Nobody receives this wake-up, because the listening connection is lost.
    ann.sync(json!([insert_with("tea", "spaceId", "home")]));
    let pid = listener(&mut superuser).expect("it listens").1;
    superuser.execute("SELECT pg_terminate_backend($1)", &[&pid]).unwrap();
    assert_eq!(first.next(PATIENCE).records(), ["tea"]);
    assert_eq!(second.next(PATIENCE).records(), ["tea"]);

    // The last stream of a channel ends the LISTEN. The server notices at its next send that a client is gone.
    let channel: String = superuser.query_one("SELECT mana_sync.space_channel('home')", &[]).unwrap().get(0);
    let unlisten = format!("UNLISTEN \"{}\";", channel.replace('"', "\"\""));
    drop((first, second));
    wait_until("the channels are left", || {
        let tea = json!([insert_with("jam", "spaceId", "home")]);
        ann.sync(tea);
        superuser.batch_execute("SELECT pg_notify(mana_sync.space_channel('home'), '')").unwrap();
        thread::sleep(Duration::from_millis(100));
        listener(&mut superuser).is_some_and(|(query, _)| query.contains(&unlisten))
    });
}
