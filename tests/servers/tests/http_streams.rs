//! Live streams of the example of an HTTP front end, on a real server: what is committed comes while a device waits.
//!
//! Fails if a change does not come in time, comes to somebody who may not see it, or if a stream outlives its token.

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
    // By a wake-up: the timer is a minute away.
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
    // The connection listens by now, or the first change comes with the pull that makes up for it.
    for (round, id) in ["tea", "jam", "bread"].iter().enumerate() {
        let start = Instant::now();
        ann.sync(json!([insert_with(id, "spaceId", "home"), insert("diary")]));
        let event = events.next(if round == 0 { PATIENCE } else { within });
        println!("{id}: {:?} after the push began", start.elapsed());
        assert_eq!(event.records(), [*id]);
    }
    assert!(stranger.is_silent(Duration::from_millis(500)));

    // A connection that was lost goes on where it was, without what its own device wrote meanwhile.
    drop(events);
    ben.clone().sync(json!([insert_with("his", "spaceId", "home")]));
    let again = ben.stream("since=");
    assert_eq!(again.next(PATIENCE).records(), ["tea", "jam", "bread"]);
    assert!(again.is_silent(Duration::from_millis(500)));
    // Only what it asks for; and what comes afterwards too.
    ben.cursor = String::new();
    let collections = ben.stream("collections=notes,lists");
    let note = r#"{"table": "notes", "id": "note", "op": "insert", "spaceId": "home", "data": {"n": 1.50}}"#;
    let note: Value = serde_json::from_str(note).unwrap();
    ann.sync(json!([insert_with("salt", "spaceId", "home"), note, insert_with("pepper", "spaceId", "home")]));
    let event = collections.next(within);
    assert_eq!(event.records(), ["note"]);
    assert!(event.data.contains("1.50"), "numbers keep every digit: {}", event.data);
    // Its cursor is good for what it asked for.
    ben.cursor = event.id;
    assert!(ben.stream("collections=notes,lists").is_silent(Duration::from_millis(500)));
    assert!(collections.is_silent(Duration::from_millis(500)));
}

#[test]
fn a_stream_ends_with_its_token_and_a_member_that_left_gets_no_more() {
    let cluster = cluster();
    // Where there are no channels, and no connection to listen on, a stream polls.
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
    // Joining brings the whole history of the space.
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
    // Names that must be quoted, and no worker that sends anything but what this test sends.
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
    // What the connection that listens did last, and its process.
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
    // The channels of others, and that of everyone.
    http.device("ben", "phone").sync(json!([insert("diary")]));
    superuser.batch_execute("SELECT pg_notify(mana_sync.user_channel('ann'), '')").unwrap();
    superuser.batch_execute("SELECT pg_notify(mana_sync.space_channel('work'), '')").unwrap();
    assert!(first.is_silent(Duration::from_millis(500)));
    superuser.batch_execute("SELECT pg_notify(mana_sync.everyone_channel(), '{}')").unwrap();
    assert_eq!((records(&first), records(&second)), (vec!["diary".into()], vec!["diary".into()]));

    // A wake-up that nobody hears, because the connection is lost.
    ann.sync(json!([insert_with("tea", "spaceId", "home")]));
    let pid = listener(&mut superuser).expect("it listens").1;
    superuser.execute("SELECT pg_terminate_backend($1)", &[&pid]).unwrap();
    assert_eq!(first.next(PATIENCE).records(), ["tea"]);
    assert_eq!(second.next(PATIENCE).records(), ["tea"]);

    // The channels are left with the last stream: the server notices that a client is gone when it next sends.
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
