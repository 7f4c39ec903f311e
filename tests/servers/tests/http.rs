//! Tests of the HTTP front end in `examples` on a real server: several devices, live streams, every kind of bad request, and failures at
//! critical moments.
//!
//! Fails if a change is lost or stored twice; if a user sees data of another user; or if an error has the wrong status or
//! reveals internal information.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, thread};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use mana_sync_harness::Cluster;
use mana_sync_harness::bouncer::Bouncer;
use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::http::{
    Http, POLLED, SCHEMA, SECRET, changeset, cluster, database_url, ids, insert, insert_with, join, now, polling,
    program, sign, token,
};
use mana_sync_harness::process::{PATIENCE, wait_until};
use postgres::Client;
use postgres::types::Type;
use serde_json::{Value, json};

/// Returns the number of changes in the log, without the one that [`cluster`] writes.
fn stored(client: &mut Client) -> i64 {
    client.query_one("SELECT count(*) - 1 FROM mana_sync.sync_changes", &[]).expect("the log can be counted").get(0)
}

/// Returns changes without the keys that the server adds.
fn plain(mut changes: Vec<Value>) -> Vec<Value> {
    for change in &mut changes {
        let change = change.as_object_mut().expect("a change is an object");
        assert!(change.remove("eventId").is_some_and(|id| id.is_string()));
        assert_eq!(change.remove("schemaVersion"), Some(json!(1)));
        assert!(change.remove("position").is_some_and(|position| position.is_string()));
        let recorded = change.remove("recordedAt").expect("a change says when it was recorded");
        if change.get("at") == Some(&recorded) {
            change.remove("at");
        }
    }
    changes
}

#[test]
fn three_devices_of_a_user_have_the_same_history() {
    let cluster = cluster();
    let http = Http::new(&cluster);
    let (mut phone, mut laptop) = (http.device("ann", "phone"), http.device("ann", "laptop"));
    let added = insert("milk");
    let edited = json!({"table": "items", "id": "milk", "op": "update", "fields": {
        "title": {"value": "Oat milk", "at": "2026-03-01T08:30:00Z"}, "done": {"value": true, "at": "2026-03-01T08:31:00Z"}}});
    let removed = json!({"table": "items", "id": "milk", "op": "delete", "deletedAt": "2026-03-01T09:00:00Z"});

    assert_eq!(phone.pull(10), [] as [Value; 0]);
    assert_eq!(phone.sync(json!([added])), [] as [Value; 0], "its own change is not sent back");
    assert_eq!(json!(plain(laptop.pull(10))), json!([added]));
    assert_eq!(laptop.sync(json!([edited])), [] as [Value; 0]);
    assert_eq!(json!(plain(phone.pull(10))), json!([edited]));
    assert_eq!(phone.sync(json!([removed])), [] as [Value; 0]);
    assert_eq!(json!(plain(laptop.pull(10))), json!([removed]));
    for limit in [1, 2, 100] {
        let mut tablet = http.device("ann", "tablet");
        assert_eq!(json!(plain(tablet.pull(limit))), json!([added, edited, removed]));
        assert_eq!(tablet.pull(limit), [] as [Value; 0]);
    }
    // A device that has lost its data also receives its own changes.
    assert_eq!(http.device("ann", "phone").pull(100).len(), 3);
    assert_eq!(http.device("ben", "phone").pull(100), [] as [Value; 0]);
    let (status, body) = phone.get("/sync/other/pull");
    assert_eq!((status, &body["serverChanges"]), (200, &json!([])));
    let (status, body) = phone.get("/sync/todo/pull?collection=notes");
    assert_eq!((status, &body["serverChanges"]), (200, &json!([])));
}

#[test]
fn only_a_valid_token_lets_in() {
    let cluster = cluster();
    let http = Http::new(&cluster);
    let mut device = http.device("ann", "phone");
    let claims = json!({"sub": "ann", "exp": now() + 600});
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let valid = token("ann", 600);
    // The same claims without a signature: {"alg":"none"}
    let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", valid.split('.').nth(1).unwrap());
    let bad = [
        ("none", String::new()),
        ("expired", token("ann", -1)),
        ("forged", sign(&claims, "another secret, just as long as ours is")),
        ("another user's claims", {
            let other = token("ben", 600);
            let (ours, theirs): (Vec<_>, Vec<_>) = (valid.split('.').collect(), other.split('.').collect());
            [ours[0], theirs[1], ours[2]].join(".")
        }),
        ("another algorithm", encode(&Header::new(Algorithm::HS512), &claims, &secret).unwrap()),
        ("unsigned", unsigned),
        ("no exp", sign(&json!({"sub": "ann"}), SECRET)),
        ("exp as text", sign(&json!({"sub": "ann", "exp": "4000000000"}), SECRET)),
        ("not yet", sign(&json!({"sub": "ann", "exp": now() + 600, "nbf": now() + 300}), SECRET)),
        ("no sub", sign(&json!({"exp": now() + 600}), SECRET)),
        ("empty sub", token("", 600)),
        ("sub with NUL", token("ann\0", 600)),
        ("another audience", sign(&json!({"sub": "ann", "exp": now() + 600, "aud": "billing"}), SECRET)),
        ("no token", "milk".into()),
    ];
    for (what, token) in bad {
        device.token = token;
        for path in ["/sync/todo/pull", "/sync/todo/stream"] {
            let (status, body) = device.get(path);
            assert_eq!(status, 401, "{what} {body}");
            assert!(body["error"].as_str().is_some_and(|error| error.contains("token")), "{what} {body}");
        }
        assert_eq!(device.post(&changeset(&[insert("milk")])).0, 401, "{what}");
    }
    assert_eq!(stored(&mut cluster.superuser(DATABASE)), 0);
    device.token = valid;
    assert_eq!(device.post(&changeset(&[insert("milk")])).0, 200);

    // Ed25519, with the first key of the test vectors in RFC 8032.
    let key = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    let private = EncodingKey::from_ed_der(&bytes(&format!("302e020100300506032b657004220420{key}")));
    let public = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
    let url = database_url(&cluster);
    // The key also works on a single line, as environment files need it.
    for pem in [public.to_string(), public.replace('\n', "\\n")] {
        let http = Http::with(&[("DATABASE_URL", &url), ("JWT_ED25519_PUBLIC_KEY", &pem)]);
        let mut device = http.device("ann", "laptop");
        device.token = encode(&Header::new(Algorithm::EdDSA), &claims, &private).unwrap();
        assert_eq!(device.pull(10).len(), 1);
        // The public key is not a secret, and must not be accepted as one.
        for secret in [SECRET, &pem] {
            device.token = sign(&claims, secret);
            assert_eq!(device.get("/sync/todo/pull").0, 401);
        }
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal")).collect()
}

#[test]
fn each_error_has_its_status_and_tells_nothing_internal() {
    let cluster = cluster();
    let http = Http::new(&cluster);
    join(&cluster, "ann", "home");
    let mut device = http.device("ann", "phone");
    let id = "0190f5fe-7c00-7000-8000-000000000001";
    let first = changeset(&[insert_with("milk", "eventId", id)]);
    assert_eq!(device.post(&first).0, 200);
    assert_eq!(device.post(&first).0, 200, "the same once more");
    assert_eq!(device.post(&changeset(&[insert_with("bread", "spaceId", "home")])).0, 200);

    let nul = r#"{"changes": [{"table": "t", "id": "\u0000", "op": "delete"}]}"#;
    let huge = r#"{"changes": [], "schemaVersion": 1e200000}"#;
    let deep = "[".repeat(100_000);
    let posts = [
        ("{", 400, "invalid input syntax for type json"),
        ("", 400, "invalid input syntax for type json"),
        ("\0", 400, "0x00"),
        (nul, 400, "unsupported Unicode escape sequence"),
        (huge, 400, "overflow"),
        (&deep, 400, "stack depth limit exceeded"),
        ("[]", 400, "changeset"),
        (r#"{"changes": [{"table": "t", "id": "1", "op": "upsert"}]}"#, 400, "changes[0].op"),
        (r#"{"changes": [], "since": "c!"}"#, 200, ""),
        (
            &changeset(&[insert_with("jam", "spaceId", "work")]),
            403,
            "changes[0]: the user is not a member of the space",
        ),
        (&changeset(&[insert("tea"), insert_with("jam", "eventId", id)]), 409, "changes[1].eventId"),
    ];
    for (text, expected, message) in posts {
        let (status, body) = device.post(text);
        let start: String = text.chars().take(60).collect();
        assert_eq!(status, expected, "{start}: {body}");
        let error = body["error"].as_str().unwrap_or_default();
        assert!(error.contains(message), "{start}: {body}");
    }
    let (_, body) = device.post(r#"{"changes": [{"table": "t", "id": "1", "op": "upsert"}]}"#);
    assert!(body["detail"].as_str().unwrap().starts_with("Argument: changeset."), "{body}");

    // A body within the limit, and one beyond it.
    let large =
        |id: &str, length| json!({"table": "items", "id": id, "op": "insert", "data": {"t": "x".repeat(length)}});
    let (status, body) = device.post(&changeset(&[large("1", 9 * 1024 * 1024)]));
    assert_eq!(status, 400);
    assert!(body["error"].as_str().unwrap().contains("mana_sync.max_change_size"), "{body}");
    let largest = changeset(&[large("1", 5 * 1024 * 1024), large("2", 5 * 1024 * 1024 - 200)]);
    assert!(largest.len() < 10 * 1024 * 1024);
    assert_eq!(device.post(&largest).0, 200);
    let (status, body) = device.post(&format!("{largest}{}", " ".repeat(100)));
    assert_eq!(status, 413, "{body}");
    assert!(body["error"].is_string());

    let damaged = format!("{}!", http.device("ben", "x").get("/sync/todo/pull").1["syncedUntil"].as_str().unwrap());
    for (path, expected) in [
        ("/sync/todo/pull?limit=0", 400),
        ("/sync/todo/pull?limit=many", 400),
        ("/sync/todo/pull?collection=%00", 400),
        ("/sync/todo/pull?since=%00", 400),
        ("/sync/%00/pull", 400),
        ("/sync/%ff/pull", 400),
        (&format!("/sync/todo/pull?since={damaged}"), 400),
        (&format!("/sync/todo/stream?since={damaged}"), 400),
        (&format!("/sync/{}/pull", "a".repeat(513)), 400),
        ("/sync/todo/nothing", 404),
        ("/", 404),
        ("/sync/todo/pull?limit=2000000000", 200),
        ("/health", 200),
    ] {
        let (status, body) = device.get(path);
        assert_eq!(status, expected, "{path} {body}");
        assert_eq!(body["error"].is_string(), status != 200, "{path}");
    }
    // An unexpected error goes only to the log.
    let mut superuser = cluster.superuser(DATABASE);
    superuser.batch_execute("SELECT mana_sync.revoke_access('app')").unwrap();
    let (status, body) = device.post(&changeset(&[insert("tea")]));
    assert_eq!((status, body), (403, json!({"error": "not allowed"})));
    assert!(http.log().contains("42501 permission denied for schema mana_sync"), "{}", http.log());
    superuser.batch_execute("SELECT mana_sync.grant_access('app')").unwrap();
    superuser
        .batch_execute(
            "CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'inside %', NEW.id; END $$;
             CREATE TRIGGER trouble BEFORE INSERT ON mana_sync.sync_changes FOR EACH ROW EXECUTE FUNCTION trouble();",
        )
        .unwrap();
    let (status, body) = device.post(&changeset(&[insert("tea")]));
    assert_eq!((status, body), (500, json!({"error": "internal error"})));
    assert!(http.log().contains("P0001 inside "), "{}", http.log());
    superuser.batch_execute("DROP TRIGGER trouble ON mana_sync.sync_changes").unwrap();

    // The log has milk, bread and the two large changes, and none of the refused ones.
    assert_eq!(stored(&mut superuser), 4);
    assert_eq!(device.pull(100).len(), 4);
}

#[test]
fn a_server_that_went_back_in_time_answers_409() {
    let cluster = cluster();
    let http = polling(&cluster, "1");
    let mut device = http.device("ann", "phone");
    device.sync(json!([insert("milk")]));
    let copy = cluster.copy_data();
    for i in 0..20 {
        // The pool may still hand out one connection to the stopped server.
        wait_until("the server is back", || device.post(&changeset(&[insert(&i.to_string())])).0 == 200);
    }
    device.pull(100);
    let events = device.stream("");
    cluster.put_back(copy);
    wait_until("the server is back", || device.get("/health").0 == 200);
    let (status, body) = device.get(&format!("/sync/todo/pull?since={}", device.cursor));
    assert_eq!((status, &body["resyncRequired"], &body["serverChanges"]), (409, &json!(true), &json!([])), "{body}");
    let (status, body) = device.get(&format!("/sync/todo/stream?since={}", device.cursor));
    assert_eq!((status, &body["resyncRequired"]), (409, &json!(true)), "{body}");
    let (status, body) = device.post(&json!({"since": device.cursor, "changes": [insert("tea")]}).to_string());
    assert_eq!((status, &body["resyncRequired"]), (409, &json!(true)), "{body}");
    // An open stream reports the error, and ends.
    let event = events.next(PATIENCE);
    assert_eq!((event.name.as_str(), &json!(event.id)), ("resync", &body["syncedUntil"]), "{event:?}");
    assert!(event.data.contains("\"resyncRequired\""), "{event:?}");
    assert!(events.ends(POLLED));
    device.cursor = body["syncedUntil"].as_str().unwrap().into();
    assert_eq!(device.pull(100).len(), 1, "milk alone: what was sent with an answer of 409 is not stored");
}

#[test]
fn without_memberships_nothing_is_answered() {
    let cluster = cluster();
    let http = Http::new(&cluster);
    let device = http.device("ann", "phone");
    let unavailable = json!({"error": "the database is not available, try again later"});
    let mut superuser = cluster.superuser(DATABASE);
    for trouble in [
        "REVOKE SELECT ON memberships FROM app",
        "DROP TABLE memberships; CREATE TABLE memberships (user_id text, space_id int); GRANT SELECT ON memberships TO app;
         INSERT INTO memberships VALUES ('ann', 1)",
        "DROP TABLE memberships",
    ] {
        superuser.batch_execute(trouble).unwrap();
        for path in ["/sync/todo/pull", "/sync/todo/stream"] {
            assert_eq!(device.get(path), (503, unavailable.clone()), "{trouble}");
        }
        assert_eq!(device.post(&changeset(&[insert("milk")])), (503, unavailable.clone()), "{trouble}");
    }
    assert_eq!(stored(&mut superuser), 0);
    assert_eq!(device.get("/health").0, 200);
    superuser.batch_execute(SCHEMA).unwrap();
    assert_eq!(device.post(&changeset(&[insert("milk")])).0, 200);
}

#[test]
fn a_database_that_stops_is_a_503_until_it_is_back() {
    let cluster = cluster();
    let http = polling(&cluster, "1");
    let mut device = http.device("ann", "phone");
    let events = http.device("ann", "laptop").stream("");
    device.sync(json!([insert("milk")]));
    assert_eq!(events.next(POLLED).records(), ["milk"]);
    for (round, id) in ["tea", "jam"].iter().enumerate() {
        if round == 0 {
            cluster.stop()
        } else {
            cluster.stop_immediately()
        }
        for path in ["/sync/todo/pull", "/sync/todo/stream", "/health"] {
            let (status, body) = device.get(path);
            assert_eq!(status, 503, "{path} {body}");
        }
        assert_eq!(device.post(&changeset(&[insert("salt")])).0, 503);
        assert!(events.is_silent(Duration::from_millis(1500)), "the stream waits");
        cluster.start();
        wait_until("the database is back", || device.get("/health").0 == 200);
        assert_eq!(device.sync(json!([insert(id)])), [] as [Value; 0]);
        assert_eq!(events.next(POLLED).records(), [*id]);
    }
    assert_eq!(device.pull(10).len() + http.device("ann", "tablet").pull(10).len(), 3);
}

/// A proxy in front of a cluster's socket. While its flag is set, it holds back the database's answers to `sync`.
struct Proxy {
    port: u16,
    hold: Arc<AtomicBool>,
}

impl Proxy {
    fn new(cluster: &Cluster) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self { port: listener.local_addr().unwrap().port(), hold: Arc::default() };
        let (socket, hold) = (cluster.socket_dir().join(".s.PGSQL.5432"), proxy.hold.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // When one direction ends, both end.
                let Ok(server) = UnixStream::connect(&socket) else { continue };
                let held = Arc::new(AtomicBool::new(false));
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (hold, asked) = (hold.clone(), held.clone());
                thread::spawn(move || {
                    copy(&mut from, &mut to, |bytes| {
                        let is_sync = bytes.windows(15).any(|window| window == b"mana_sync.sync(");
                        asked.store(is_sync && hold.load(Ordering::SeqCst), Ordering::SeqCst);
                        true
                    });
                    let _ = to.shutdown(Shutdown::Both);
                });
                let (mut from, mut to) = (server, client);
                thread::spawn(move || {
                    copy(&mut from, &mut to, |_| !held.load(Ordering::SeqCst));
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        });
        proxy
    }
}

/// Copies those parts of a stream that `pass` accepts, until its end.
fn copy(from: &mut impl Read, to: &mut impl Write, pass: impl Fn(&[u8]) -> bool) {
    let mut buffer = [0; 65536];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if pass(&buffer[..count]) && to.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

#[test]
fn a_push_whose_answer_was_lost_is_stored_once() {
    let cluster = cluster();
    let (proxy, direct) = (Proxy::new(&cluster), database_url(&cluster));
    let url = format!("host=127.0.0.1 port={} user=app dbname=postgres", proxy.port);
    let start =
        || Http::with(&[("DATABASE_URL", &url), ("LISTEN_DATABASE_URL", &direct), ("JWT_HS256_SECRET", SECRET)]);
    let mut superuser = cluster.superuser(DATABASE);
    for round in 0..5_i64 {
        let mut http = start();
        let mut device = http.device("ann", "phone");
        device.pull(100);
        let id = format!("0190f5fe-7c00-7000-8000-{round:012}");
        let body = json!({"since": device.cursor, "changes": [insert_with(&id, "eventId", &id)]}).to_string();
        proxy.hold.store(true, Ordering::SeqCst);
        let request = thread::spawn({
            let (device, body) = (device.clone(), body.clone());
            move || device.try_post(&body)
        });
        wait_until("the change is committed", || stored(&mut superuser) == round + 1);
        thread::sleep(Duration::from_millis(50));
        assert!(!request.is_finished(), "the answer is kept back");
        http.kill();
        let outcome = request.join().unwrap();
        assert!(outcome.is_err(), "{outcome:?}");
        proxy.hold.store(false, Ordering::SeqCst);

        let http = start();
        device.url = http.url.clone();
        let (status, answer) = device.post(&body);
        assert_eq!((status, &answer["serverChanges"]), (200, &json!([])), "{answer}");
        assert_eq!(stored(&mut superuser), round + 1);
        assert_eq!(http.device("ann", "laptop").pull(100).len() as i64, round + 1);
    }
}

#[test]
fn users_that_share_one_connection_of_a_pooler_see_their_own() {
    let Some(program) = env::var_os("MANA_SYNC_PGBOUNCER").filter(|program| !program.is_empty()) else {
        println!("skipped: there is no PgBouncer (MANA_SYNC_PGBOUNCER)");
        return;
    };
    let cluster = cluster();
    let bouncer = Bouncer::new(&cluster, Path::new(&program), 1);
    let (url, direct) = (bouncer.url(), database_url(&cluster));
    let http = Http::with(&[("DATABASE_URL", &url), ("LISTEN_DATABASE_URL", &direct), ("JWT_HS256_SECRET", SECRET)]);
    join(&cluster, "ann", "ann's");
    join(&cluster, "ben", "ben's");

    // Both users send requests at the same time, and some of them fail within the call.
    const ROUNDS: usize = 40;
    thread::scope(|scope| {
        for user in ["ann", "ben"] {
            let mut device = http.device(user, "phone");
            let space = format!("{user}'s");
            scope.spawn(move || {
                let mut reader = device.clone();
                reader.client = "laptop".into();
                for round in 0..ROUNDS {
                    let id = format!("{user} {round}");
                    device.sync(json!([insert(&id), insert_with(&id, "spaceId", &space)]));
                    let refused = device.post(&changeset(&[insert_with("x", "spaceId", "another's")]));
                    assert_eq!(refused.0, 403, "{}", refused.1);
                    let got = reader.pull(100);
                    assert_eq!(got.len(), 2, "{got:?}");
                    assert!(got.iter().all(|change| change["id"] == json!(id)), "{got:?}");
                }
                reader.cursor = String::new();
                assert_eq!(reader.pull(7).len(), 2 * ROUNDS);
            });
        }
    });

    // The same on direct connections: statements that name a user, transactions with a scope, and statements without
    // either.
    let (mut one, mut two) = (bouncer.connect(), bouncer.connect());
    let count =
        "SELECT count(*), count(*) FILTER (WHERE user_id = 'ben'), pg_backend_pid() FROM mana_sync.sync_changes";
    let mut backends = Vec::new();
    let mut counted = |rows: Result<Vec<postgres::Row>, postgres::Error>| -> (i64, i64) {
        let rows = rows.expect("the log can be counted");
        backends.push(rows[0].get::<_, i32>(2));
        (rows[0].get(0), rows[0].get(1))
    };
    let all = 2 * ROUNDS as i64;
    for round in 0..10 {
        for (user, client, expected) in [("ann", &mut one, (all, 0)), ("ben", &mut two, (all, all))] {
            assert_eq!(counted(client.query_typed(count, &[])), (0, 0), "without a scope");
            let mut transaction = client.transaction().unwrap();
            transaction.query_typed("SELECT mana_sync.with_scope($1)", &[(&user, Type::TEXT)]).unwrap();
            assert_eq!(counted(transaction.query_typed(count, &[])), expected, "{user}");
            match round % 3 {
                0 => transaction.commit().unwrap(),
                1 => transaction.rollback().unwrap(),
                // An error ends the scope.
                _ => drop(transaction.query_typed("SELECT 1 / 0", &[]).expect_err("it is an error")),
            }
        }
        let pull = "SELECT json_array_length(mana_sync.pull('ann', 'todo') -> 'serverChanges')";
        assert_eq!(one.query_typed(pull, &[]).unwrap()[0].get::<_, i32>(0), all as i32);
        assert_eq!(counted(two.query_typed(count, &[])), (0, 0), "after a call for a user");
        one.query_typed("SELECT mana_sync.pull('ann', 'todo', since => 'c!', page_size => 0)", &[])
            .expect_err("bad call");
        assert_eq!(counted(two.query_typed(count, &[])), (0, 0), "after a call that failed");
    }
    backends.dedup();
    assert_eq!(backends.len(), 1, "all of this went through one connection");
}

#[test]
fn a_push_of_which_a_part_was_rejected_is_200() {
    let cluster = cluster();
    let http = Http::new(&cluster);
    let device = http.device("ann", "phone");
    let changes =
        [insert_with("jam", "spaceId", "work"), insert("tea"), json!({"table": "items", "id": "x", "op": "?"})];
    assert_eq!(device.post(&changeset(&changes)).0, 400);
    assert_eq!(device.post(&changeset(&changes[..2])).0, 403);
    assert_eq!(stored(&mut cluster.superuser(DATABASE)), 0);

    let (status, body) = device.post(&json!({"atomic": false, "as": "records", "changes": changes}).to_string());
    assert_eq!((status, ids(&body, "records")), (200, vec!["tea"]), "{body}");
    let rejected = body["rejected"].as_array().expect("rejected");
    let codes: Vec<_> = rejected.iter().map(|change| (&change["index"], &change["code"])).collect();
    assert_eq!(codes, [(&json!(0), &json!("42501")), (&json!(2), &json!("22023"))]);
    let (status, body) = device.post(&json!({"atomic": false, "changes": changes[..1]}).to_string());
    assert_eq!((status, ids(&body, "rejected")), (200, vec!["jam"]), "{body}");
    assert_eq!(stored(&mut cluster.superuser(DATABASE)), 1);
}

#[test]
fn a_bad_configuration_is_told_at_the_start() {
    let run = |variables: &[(&str, &str)], argument: Option<&str>| {
        let mut command = Command::new(program());
        command.env_clear().envs(variables.iter().copied()).args(argument);
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (status, help, _) = run(&[], Some("--help"));
    assert_eq!(status, Some(0));
    let names =
        ["DATABASE_URL", "LISTEN_DATABASE_URL", "JWT_ED25519_PUBLIC_KEY", "JWT_HS256_SECRET", "BIND", "POLL_SECONDS"];
    assert!(names.iter().all(|name| help.contains(name)), "{help}");

    let (url, secret) = (("DATABASE_URL", "host=/nowhere password=geheim"), ("JWT_HS256_SECRET", SECRET));
    for (variables, message) in [
        (vec![], "set DATABASE_URL"),
        (vec![("DATABASE_URL", "host=/nowhere password=geheim colour=red"), secret], "DATABASE_URL cannot be read"),
        (vec![url], "set either JWT_ED25519_PUBLIC_KEY or JWT_HS256_SECRET"),
        (vec![url, secret, ("JWT_ED25519_PUBLIC_KEY", "x")], "set either JWT_ED25519_PUBLIC_KEY or JWT_HS256_SECRET"),
        (vec![url, ("JWT_HS256_SECRET", "geheim")], "JWT_HS256_SECRET must have at least 32 bytes"),
        (vec![url, ("JWT_ED25519_PUBLIC_KEY", "geheim")], "JWT_ED25519_PUBLIC_KEY cannot be read"),
        (vec![url, secret, ("POLL_SECONDS", "0")], "POLL_SECONDS must be at least 1"),
        (vec![url, secret, ("POLL_SECONDS", "often")], "POLL_SECONDS cannot be read"),
        (vec![url, secret, ("BIND", "everywhere")], "BIND cannot be read"),
    ] {
        let (status, _, said) = run(&variables, None);
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains(message) && !said.contains("geheim"), "{said}");
    }
    assert_eq!(run(&[url, secret], Some("--port")).0, Some(2));
}
