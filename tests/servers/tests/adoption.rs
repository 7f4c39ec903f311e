//! Tests of the adoption of a log of the original store, while its service goes on, and while servers and backends are killed.
//!
//! A test fails if a row of the original is not in the log once, as it was; if a row that the log refuses is not listed; if the
//! order within a transaction is not that of the original; if the records that a simple merge makes of both logs differ; or
//! if a listener is not notified. `ADOPT_ROWS=1000000` adopts a million rows.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fallible_iterator::FallibleIterator;
use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::merged::{all_of, assert_same, records, records_of};
use mana_sync_harness::process::{Signal, signal, wait_until};
use mana_sync_harness::random::{rng, seed};
use mana_sync_harness::writers::Stop;
use mana_sync_harness::{Cluster, Options};
use postgres::{Client, Error};
use rand::Rng;
use uuid::Uuid;

const WRITERS: u64 = 8;
const APPS: i32 = 10;

/// The SQL that creates the original's table, indexes and row security, in a schema of its own.
const ORIGINAL: &str = include_str!("../../../bench/original.sql");

/// Starts a server with a log of the original store of `rows` rows and a role with maintenance. Records have several authors and
/// spaces, and many writes have the same time. The log refuses ten of the rows.
fn original(rows: i32, options: Options) -> Cluster {
    let cluster = Cluster::with_log(options);
    let mut superuser = cluster.superuser(DATABASE);
    superuser.batch_execute(ORIGINAL).unwrap();
    superuser
        .batch_execute(&format!(
            "CREATE ROLE keeper LOGIN BYPASSRLS; SELECT mana_sync.grant_maintenance('keeper');
             GRANT USAGE ON SCHEMA original TO keeper; GRANT SELECT ON original.sync_changes TO keeper;
             CREATE VIEW in_order AS
                 SELECT *, 1 AS epoch, 1 AS xact, row_number() OVER (ORDER BY created_at, id) AS seq FROM original.sync_changes WHERE user_id <> '';
             GRANT SELECT ON in_order TO PUBLIC;
             INSERT INTO original.sync_changes
                 (app_id, table_name, record_id, user_id, space_id, op, data, field_timestamps, client_id, created_at, schema_version, actor)
             SELECT 'app' || i % {APPS}, CASE i % 3 WHEN 0 THEN 'notes' ELSE 'items' END, 'r' || (hashint4(i) & 4095),
                    'user' || (hashint4(i + 1) & 3), CASE WHEN i % 5 = 0 THEN 'home' END,
                    CASE WHEN i % 11 = 0 THEN 'delete' WHEN i % 4 = 0 THEN 'insert' ELSE 'update' END,
                    CASE WHEN i % 11 = 0 THEN 'null' ELSE jsonb_build_object('a', i, 'b', i % 7, 'title', 'Item ' || i) END,
                    CASE i % 4 WHEN 0 THEN 'null' ELSE jsonb_build_object('a', at.at, 'b', at.at) END,
                    'phone' || i % 3, '2025-01-01Z'::timestamptz + i / 20 * interval '1 second', 1 + i % 2,
                    CASE WHEN i % 50 = 0 THEN '{{\"kind\": \"ai\"}}'::jsonb END
             FROM generate_series(1, {rows}) AS i,
                  LATERAL (SELECT to_char('2025-01-01'::timestamp + i / 40 * interval '2 seconds', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')) AS at (at)
             ORDER BY hashint4(i);
             INSERT INTO original.sync_changes (app_id, table_name, record_id, user_id, op, client_id, created_at)
             SELECT 'app0', 'items', 'r1', '', 'insert', '', '2025-01-01Z'::timestamptz + i * interval '1 minute' FROM generate_series(1, 10) AS i;
             ANALYZE original.sync_changes"
        ))
        .unwrap();
    cluster
}

/// Runs a transaction of the original's service, which records one change of a record that only this writer changes.
fn record(client: &mut Client, writer: u64, change: usize, pause: Duration) -> Result<(), Error> {
    let user = format!("writer{writer}");
    let mut transaction = client.transaction()?;
    transaction.execute("SELECT set_config('app.current_user_id', $1, true)", &[&user])?;
    transaction.execute("SELECT set_config('app.current_user_space_ids', $1, true)", &[&""])?;
    // created_at is the start of the transaction. What commits later than others comes late.
    thread::sleep(pause);
    transaction.execute(
        "INSERT INTO original.sync_changes
            (app_id, table_name, record_id, user_id, space_id, op, data, field_timestamps, client_id, schema_version, actor)
         VALUES ($1, $2, $3, $4, $5, $6, jsonb_build_object('a', $7::int), '{}', $8, 1, NULL)",
        &[
            &format!("app{}", change as i32 % APPS),
            &"items",
            &format!("w{writer}-{}", change % 50),
            &user,
            &(change % 3 == 0).then_some("home"),
            &(if change % 5 == 0 { "insert" } else { "update" }),
            &(change as i32),
            &"phone",
        ],
    )?;
    transaction.commit()
}

/// Writes changes until `stop` is due, and goes on after every restart of the server. Returns the number of changes.
fn write(cluster: &Cluster, writer: u64, seed: u64, stop: &Stop) -> usize {
    let mut rng = rng(seed, writer);
    let mut changes = 0;
    while !stop.is_due() {
        let Ok(mut client) = cluster.try_connect("app", DATABASE) else {
            thread::sleep(Duration::from_millis(20));
            continue;
        };
        while !stop.is_due() {
            let pause = Duration::from_millis(rng.random_range(0..20));
            if record(&mut client, writer, changes, pause).is_err() {
                break;
            }
            changes += 1;
        }
    }
    changes
}

/// Calls `adopt` until a call finishes. Returns how many calls were stopped.
fn adopt_until_done(cluster: &Cluster, batch_size: i32) -> usize {
    let mut stops = 0;
    loop {
        let Ok(mut keeper) = cluster.try_connect("keeper", DATABASE) else {
            thread::sleep(Duration::from_millis(20));
            continue;
        };
        match keeper
            .batch_execute(&format!("CALL mana_sync.adopt('original.sync_changes', batch_size => {batch_size})"))
        {
            Ok(()) => return stops,
            Err(error) if error.code().is_none_or(|code| code.code().starts_with("57")) => stops += 1,
            // The backend of the stopped run may not be idle yet, or not have ended.
            Err(error) if error.code().is_some_and(|code| code.code() == "55006") => {
                thread::sleep(Duration::from_millis(20))
            }
            Err(error) => panic!("adopt: {error:?}"),
        }
    }
}

fn number(client: &mut Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error}")).get(0)
}

/// Asserts that the log has each row of the original once, with the same columns, and no other row. Rows that are listed as refused are
/// not in the log.
fn assert_every_row(superuser: &mut Client) {
    const COLUMNS: &str =
        "id, app_id, table_name, record_id, user_id, op, client_id, created_at, schema_version, actor, space_id";
    let theirs = format!(
        "SELECT {COLUMNS}, CASE WHEN data <> 'null' THEN data END,
                CASE WHEN field_timestamps <> 'null' THEN field_timestamps ELSE '{{}}' END
         FROM original.sync_changes WHERE user_id <> ''"
    );
    let ours = format!("SELECT {COLUMNS}, data, field_timestamps FROM mana_sync.sync_changes");
    for (what, some, others) in [("missing or different", &theirs, &ours), ("added", &ours, &theirs)] {
        let sql = format!("SELECT count(*) FROM ({some} EXCEPT ALL {others}) AS d");
        assert_eq!(number(superuser, &sql), 0, "rows that are {what} in the log");
    }
    let listed = superuser.query("SELECT id FROM mana_sync.adoption_refusals", &[]).unwrap();
    let refused = superuser.query("SELECT id FROM original.sync_changes WHERE user_id = ''", &[]).unwrap();
    let ids = |rows: &[postgres::Row]| rows.iter().map(|row| row.get(0)).collect::<BTreeSet<Uuid>>();
    assert_eq!(ids(&listed), ids(&refused), "rows that are listed, and rows that the log refuses");
}

#[test]
fn while_the_old_service_goes_on_and_servers_are_killed() {
    let seed = seed("adoption", 1);
    let rows: i32 = std::env::var("ADOPT_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(60_000);
    let cluster = original(rows, Options::default());
    let stop = Stop::after(Duration::from_secs(3600));
    let killed = AtomicUsize::new(0);
    let start = Instant::now();
    let (written, stops) = thread::scope(|scope| {
        let (cluster, stop) = (&cluster, &stop);
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| scope.spawn(move || write(cluster, writer, seed, stop))).collect();
        let adopting = scope.spawn(|| adopt_until_done(cluster, rows / 40));
        // At a quarter, a half and three quarters of the rows.
        for (place, kill) in ["backend", "server", "backend -9"].into_iter().enumerate() {
            let enough = i64::from(rows) * (place as i64 + 1) / 4;
            let mut adopting_pid = 0;
            let sql = "SELECT pid FROM mana_sync.adoption_progress WHERE running AND rows_adopted >= $1";
            // A million rows take longer than the harness waits.
            while adopting_pid == 0 {
                assert!(
                    !adopting.is_finished() && start.elapsed() < Duration::from_secs(1200),
                    "{enough} rows are adopted"
                );
                thread::sleep(Duration::from_millis(5));
                let Ok(mut superuser) = cluster.try_connect("postgres", DATABASE) else { continue };
                let Ok(row) = superuser.query_opt(sql, &[&enough]) else { continue };
                adopting_pid = row.map_or(0, |row| row.get(0));
            }
            assert!(!adopting.is_finished(), "it is killed on its way");
            match kill {
                "backend" => {
                    cluster
                        .superuser(DATABASE)
                        .query_one("SELECT pg_terminate_backend($1)", &[&adopting_pid])
                        .map(drop)
                        .unwrap();
                }
                "server" => cluster.kill_and_restart(),
                // The postmaster ends all others, and starts again by itself.
                _ => signal(Signal::SIGKILL, &[adopting_pid]),
            }
            killed.fetch_add(1, Ordering::Relaxed);
        }
        let stops = adopting.join().expect("adopt finishes");
        // One transaction began before the last run and commits after it, when the others have stopped.
        let mut late = cluster.app(DATABASE);
        late.batch_execute(
            "BEGIN; SELECT set_config('app.current_user_id', 'late', true);
             INSERT INTO original.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)
             VALUES ('app0', 'items', 'late', 'late', 'insert', '{\"a\": 1}', 'phone')",
        )
        .unwrap();
        thread::sleep(Duration::from_millis(200));
        stop.now();
        let written: usize = writers.into_iter().map(|writer| writer.join().expect("a writer ends")).sum();
        assert_eq!(adopt_until_done(cluster, 1000), 0);
        late.batch_execute("COMMIT").unwrap();
        (written, stops)
    });
    let mut superuser = cluster.superuser(DATABASE);
    let before = number(&mut superuser, "SELECT count(*) FROM mana_sync.sync_changes");
    assert_eq!(adopt_until_done(&cluster, 1000), 0);
    let after = number(&mut superuser, "SELECT count(*) FROM mana_sync.sync_changes");
    assert_eq!(after - before, 1, "the last run takes the row that was committed late, and no other");
    let late = "SELECT count(*) FROM original.sync_changes WHERE user_id <> 'late'
                AND created_at > (SELECT created_at FROM original.sync_changes WHERE user_id = 'late')";
    assert!(number(&mut superuser, late) > 0, "the late row is not the latest");
    println!(
        "{rows} rows, {written} more by {WRITERS} writers meanwhile, {} kills, {:.1} s",
        killed.load(Ordering::Relaxed),
        start.elapsed().as_secs_f64()
    );
    assert_eq!((killed.load(Ordering::Relaxed), stops), (3, 3), "each kill stopped a run");
    assert!(written > 100, "the writers wrote {written}");
    let meanwhile = "SELECT count(*) FROM mana_sync.adopted_ids AS a, unnest(a.ids) AS i (id) JOIN mana_sync.sync_changes AS c USING (id)
                     WHERE c.user_id LIKE 'writer%' AND a.adoption = (SELECT id FROM mana_sync.adoptions ORDER BY started_at LIMIT 1)";
    assert!(number(&mut superuser, meanwhile) > 0, "the run that was killed took rows that were written meanwhile");
    // The runs of all calls: the first was resumed three times.
    let runs = superuser
        .query_one("SELECT count(*), count(finished_at), sum(rows_adopted)::bigint FROM mana_sync.adoptions", &[])
        .unwrap();
    assert_eq!((runs.get::<_, i64>(0), runs.get::<_, i64>(1), runs.get::<_, i64>(2)), (3, 3, after));

    assert_every_row(&mut superuser);
    let disorder = "SELECT count(*) FROM (
            SELECT (created_at, id) < lag((created_at, id)) OVER (PARTITION BY epoch, xact ORDER BY seq) AS is_wrong FROM mana_sync.sync_changes
        ) AS c WHERE is_wrong";
    assert_eq!(number(&mut superuser, disorder), 0, "rows that are out of order in their transaction");
    // The first run of all, which was resumed, has the rows from before in their order.
    let disorder = "SELECT count(*) FROM (
            SELECT (created_at, id) < lag((created_at, id)) OVER (ORDER BY epoch, xact, seq) AS is_wrong
            FROM mana_sync.sync_changes WHERE user_id LIKE 'user%'
        ) AS c WHERE is_wrong";
    assert_eq!(number(&mut superuser, disorder), 0, "rows from before that are out of order");
    for app in (0..APPS).map(|app| format!("app{app}")) {
        let theirs = records_of(all_of(&mut superuser, "in_order", &app).values());
        let changes = all_of(&mut superuser, "mana_sync.sync_changes", &app);
        assert_same(&app, &records_of(changes.values()), &theirs);
        assert!(theirs.len() > 50, "{} records", theirs.len());
        // What a member is shown is merged of the same changes.
        let visible = |logged: &&mana_sync_harness::merged::Logged| {
            logged.user == "user1" || logged.change.space.as_deref() == Some("home")
        };
        let shown = records(&mut superuser, "user1", &app, &["home".to_string()], None).unwrap();
        assert_same("user1", &shown, &records_of(changes.values().filter(visible)));
    }
}

/// While a call runs, another one for the same source is refused. A call that was stopped does not count as running.
#[test]
fn two_calls_for_one_source() {
    let cluster = original(2000, Options::default());
    let mut first = cluster.connect("keeper", DATABASE);
    let mut second = cluster.connect("keeper", DATABASE);
    thread::scope(|scope| {
        let slow = scope.spawn(|| {
            first.batch_execute("CALL mana_sync.adopt('original.sync_changes', batch_size => 500, pause => '300 ms')")
        });
        let mut superuser = cluster.superuser(DATABASE);
        let sql = "SELECT 1 FROM mana_sync.adoption_progress WHERE running AND rows_adopted > 0";
        wait_until("the first call has begun", || superuser.query_opt(sql, &[]).unwrap().is_some());
        let error = second.batch_execute("CALL mana_sync.adopt('original.sync_changes')").unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("55006"), "{error:?}");
        slow.join().expect("no panic").unwrap();
    });
    // A session whose run was stopped may stay connected. Another one goes on.
    let mut superuser = cluster.superuser(DATABASE);
    superuser
        .batch_execute("TRUNCATE mana_sync.sync_changes, mana_sync.adopted_ids; SET statement_timeout = '500 ms'")
        .unwrap();
    let stopped = superuser.batch_execute("CALL mana_sync.adopt('original.sync_changes', pause => '1 minute')");
    assert_eq!(stopped.unwrap_err().code().map(|code| code.code()), Some("57014"));
    let running = "SELECT 1 FROM mana_sync.adoption_progress WHERE running";
    let mut observer = cluster.superuser(DATABASE);
    assert!(observer.query_opt(running, &[]).unwrap().is_none(), "the session is idle");
    assert_eq!(adopt_until_done(&cluster, 1000), 0);
    superuser.batch_execute("RESET statement_timeout").unwrap();
    assert_every_row(&mut superuser);
}

/// Between the list of a run and a batch, rows of the source move, or are deleted.
#[test]
fn a_source_that_changes_under_a_run() {
    let cluster = original(2000, Options::default());
    let mut keeper = cluster.connect("keeper", DATABASE);
    let mut superuser = cluster.superuser(DATABASE);
    thread::scope(|scope| {
        let adopting = scope.spawn(|| {
            keeper.batch_execute("CALL mana_sync.adopt('original.sync_changes', batch_size => 250, pause => '300 ms')")
        });
        let sql = "SELECT 1 FROM mana_sync.adoption_progress WHERE running AND rows_adopted > 0";
        wait_until("the run has begun", || superuser.query_opt(sql, &[]).unwrap().is_some());
        // Rows that have not been adopted yet: some go, and an UPDATE moves the others.
        superuser
            .batch_execute(
                "CREATE TABLE gone AS SELECT id FROM original.sync_changes WHERE created_at > '2025-01-01T00:01:20Z' AND user_id <> '' LIMIT 100;
                 DELETE FROM original.sync_changes WHERE id IN (SELECT id FROM gone);
                 UPDATE original.sync_changes SET client_id = 'other' WHERE created_at > '2025-01-01T00:01:20Z'",
            )
            .unwrap();
        adopting.join().expect("no panic").unwrap();
    });
    assert_every_row(&mut superuser);
    let run = "SELECT rows_read = rows_adopted + rows_refused AND rows_read = 1910 FROM mana_sync.adoptions";
    assert!(superuser.query_one(run, &[]).unwrap().get::<_, bool>(0));
}

/// Adopted rows wake the listeners of their users and spaces.
#[test]
fn listeners_are_notified() {
    let options =
        Options::default().set("shared_preload_libraries", "mana_sync").set("mana_sync.wakeup_databases", DATABASE);
    let cluster = original(100, options);
    let mut listener = cluster.app(DATABASE);
    let row =
        listener.query_one("SELECT mana_sync.user_channel('user1'), mana_sync.space_channel('home')", &[]).unwrap();
    let channels = BTreeSet::from([row.get::<_, String>(0), row.get::<_, String>(1)]);
    for channel in &channels {
        listener.batch_execute(&format!("LISTEN \"{channel}\"")).unwrap();
    }
    cluster.connect("keeper", DATABASE).batch_execute("CALL mana_sync.adopt('original.sync_changes')").unwrap();
    let mut heard = BTreeSet::new();
    wait_until("both channels are notified", || {
        let notifications = listener.notifications().timeout_iter(Duration::from_millis(100)).collect::<Vec<_>>();
        heard.extend(notifications.unwrap().into_iter().map(|notification| notification.channel().to_string()));
        heard == channels
    });
}
