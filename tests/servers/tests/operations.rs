//! Tests of what docs/operations.md says about dumps, upgrades and worker processes.
//!
//! Fails if a dump that the document calls right has no changes, if a dump that it calls wrong has them, or if the
//! check in the document does not tell them apart; if a wake-up worker runs during a binary upgrade; or if a server
//! with too few worker processes does not warn. The doc comment of each further test says when it fails.

use std::path::Path;

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::process::{program, run, server_command, wait_until};
use mana_sync_harness::{Cluster, Options};
use postgres::Client;

const WORKERS: &str = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mana_sync wake-ups'";

fn workers(client: &mut Client) -> i64 {
    client.query_one(WORKERS, &[]).unwrap().get(0)
}

/// Returns the commands in docs/operations.md that begin with a word, each with the comment that follows it.
fn commands(first: &str) -> Vec<(Vec<String>, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let of_page = page.lines().filter(|line| line.starts_with(&format!("{first} ")));
    of_page
        .map(|line| {
            let (command, comment) = line.split_once('#').unwrap_or((line, ""));
            let words = command.split_whitespace().skip(1).map(|word| word.trim_matches('\'').to_string());
            (words.collect(), comment.trim().to_string())
        })
        .collect()
}

#[test]
fn the_dumps_of_the_page_have_the_log_or_have_not_as_it_says() {
    let cluster = Cluster::with_log(Options::default());
    let mut superuser = cluster.superuser(DATABASE);
    for database in ["mydb", "whole", "log", "extension"] {
        superuser.batch_execute(&format!("CREATE DATABASE {database}")).unwrap();
    }
    cluster.create_log_in("mydb");
    let mut mydb = cluster.superuser("mydb");
    mydb.batch_execute(
        "CREATE TABLE public.other (n int); INSERT INTO public.other VALUES (1);
         SELECT mana_sync.record_change('todo', 'items', i::text, 'ada', 'home', 'insert', 'phone') FROM generate_series(1, 100) AS i;
         SELECT mana_sync.record_change('todo', 'items', '1', 'ada', 'home', 'delete', 'phone');
         SELECT mana_sync.purge_deleted('0')",
    )
    .unwrap();
    let client = |name: &str| {
        let mut command = server_command(name);
        // A directory that the server's user may write to.
        command.current_dir(cluster.socket_dir());
        command.env("PGHOST", cluster.socket_dir()).env("PGUSER", "postgres");
        command
    };
    let dumps = commands("pg_dump");
    assert_eq!(dumps.len(), 5, "the page has these");
    let (check, _) = &commands("pg_restore")[0];
    let text = check.join(" ");
    let (_, line) = text.split_once("grep ").expect("the page looks for a line");
    for (words, comment) in &dumps {
        run(client("pg_dump").args(words)).expect("it exits with 0");
        let file = &words[2];
        let listed = client("pg_restore").args(["-l", file]).output().expect("pg_restore runs");
        let has_the_log = String::from_utf8_lossy(&listed.stdout).contains(line);
        assert_eq!(has_the_log, comment.starts_with("right"), "{words:?} {comment}");
        assert!(comment.starts_with("right") || comment.starts_with("wrong"), "{comment}");
    }
    // The right dumps are complete: restored, they answer a device as the original server does.
    cluster.superuser("log").batch_execute("CREATE EXTENSION mana_sync").unwrap();
    let state = "SELECT concat_ws(' ', count(*), max(created_at), max(seq),
                     (SELECT count(*) FROM mana_sync.epochs), (SELECT count(*) FROM mana_sync.purges),
                     (SELECT count(*) FROM mana_sync.purged_transactions),
                     (SELECT last_value FROM mana_sync.sync_changes_seq))
                 FROM mana_sync.sync_changes";
    let of = |client: &mut Client| -> String { client.query_one(state, &[]).unwrap().get(0) };
    let expected = of(&mut mydb);
    for database in ["whole", "log", "extension"] {
        run(client("pg_restore").args(["-d", database, &format!("{database}.dump")])).expect("it is restored");
        assert_eq!(of(&mut cluster.superuser(database)), expected, "{database}");
        // CREATE EXTENSION grants the application its privileges again.
        let pulled = cluster.app(database).execute("SELECT mana_sync.pull('ada', 'todo')", &[]);
        assert_eq!(pulled.is_ok(), database != "log", "{database}");
    }
}

/// Regression: pg_upgrade failed with "database is being accessed by other users", at a time when the old cluster could
/// not be started any more.
#[test]
fn no_worker_runs_in_a_binary_upgrade() {
    let options = Options::default()
        .set("shared_preload_libraries", "mana_sync")
        .set("mana_sync.wakeup_databases", "postgres, template1");
    let cluster = Cluster::with_log(options);
    let mut superuser = cluster.superuser(DATABASE);
    wait_until("both workers run", || workers(&mut superuser) == 2);
    // A database with a connected worker cannot be copied, and pg_upgrade copies databases.
    let copy = "CREATE DATABASE copy TEMPLATE template1";
    let error = superuser.batch_execute(copy).expect_err("the worker is connected to it");
    assert_eq!(error.code().expect("a code").code(), "55006");
    drop(superuser);
    cluster.stop();
    cluster.start_with("-b");
    let mut superuser = cluster.superuser(DATABASE);
    superuser.batch_execute(copy).expect("nobody else is connected");
    assert_eq!(workers(&mut superuser), 0);
    drop(superuser);
    cluster.restart();
    let mut superuser = cluster.superuser(DATABASE);
    wait_until("they are back", || workers(&mut superuser) == 2);
}

/// Fails if a wake-up worker runs during pg_upgrade. The upgrade is to the same version, which pg_upgrade allows, so
/// that this test needs no second version.
#[test]
fn pg_upgrade_leaves_the_settings_of_both_servers_as_they_are() {
    let settings = [("shared_preload_libraries", "mana_sync"), ("mana_sync.wakeup_databases", "postgres, template1")];
    let options = settings.iter().fold(Options::default(), |options, (name, value)| options.set(name, value));
    let old = Cluster::with_log(options);
    let mut app = old.app(DATABASE);
    app.execute("SELECT mana_sync.record_change('todo', 'items', 'milk', 'ada', 'home', 'insert', 'phone')", &[])
        .unwrap();
    drop(app);
    let bin = program("postgres");
    let new = old.upgraded(bin.parent().expect("a directory"), &settings).unwrap_or_else(|error| panic!("{error}"));
    let mut superuser = new.superuser(DATABASE);
    let changes: i64 = superuser.query_one("SELECT count(*) FROM mana_sync.sync_changes", &[]).unwrap().get(0);
    assert_eq!(changes, 1);
    wait_until("both workers run in the new server", || workers(&mut superuser) == 2);
}

#[test]
fn a_server_whose_worker_processes_are_few_says_so() {
    let names: Vec<String> = (0..8).map(|i| format!("d{i}")).collect();
    for (databases, expected) in [
        (1, None),
        (5, None),
        (6, Some("Left for parallel queries and other extensions: 1.")),
        (7, Some("Left for parallel queries and other extensions: 0.")),
        (8, Some("Left for parallel queries and other extensions: 0.")),
    ] {
        let options = Options::default()
            .set("shared_preload_libraries", "mana_sync")
            .set("max_worker_processes", "8")
            .set("mana_sync.wakeup_databases", &names[..databases].join(", "));
        let log = Cluster::new(options).server_log();
        let told = format!("mana_sync.wakeup_databases takes {databases} of 8 worker processes");
        assert_eq!(log.contains(&told), expected.is_some(), "{databases}: {log}");
        assert!(expected.is_none_or(|left| log.contains(left)), "{databases}: {log}");
    }
}

/// Fails if docs/operations.md is wrong about eight databases: all but the last have a worker, and no parallel query
/// gets one.
#[test]
fn of_eight_workers_the_last_does_not_start() {
    let names: Vec<String> = (0..8).map(|i| format!("d{i}")).collect();
    let cluster = Cluster::new(Options::default());
    let mut superuser = cluster.superuser(DATABASE);
    for name in &names {
        superuser.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
    }
    drop(superuser);
    cluster.configure(&[
        ("shared_preload_libraries", "mana_sync"),
        ("max_worker_processes", "8"),
        ("mana_sync.wakeup_databases", &names.join(", ")),
    ]);
    cluster.restart();
    let mut superuser = cluster.superuser(DATABASE);
    wait_until("seven workers run", || workers(&mut superuser) == 7);
    let first = "SELECT string_agg(datname, ', ' ORDER BY datname) FROM pg_stat_activity WHERE backend_type = 'mana_sync wake-ups'";
    assert_eq!(superuser.query_one(first, &[]).unwrap().get::<_, String>(0), names[..7].join(", "));
    superuser
        .batch_execute(
            "CREATE TABLE t AS SELECT generate_series(1, 100000) AS n;
             ANALYZE t; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0",
        )
        .unwrap();
    let plan = superuser.query("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) SELECT count(*) FROM t", &[]).unwrap();
    let plan: Vec<String> = plan.iter().map(|row| row.get::<_, String>(0).trim().to_string()).collect();
    assert!(plan.contains(&"Workers Planned: 2".into()), "{plan:?}");
    assert!(plan.contains(&"Workers Launched: 0".into()), "{plan:?}");
}

/// Scopes of many spaces are long. The test fails if a call or a scope takes a lock for each of its spaces or changes;
/// if a space id is in the server's log although statements are not logged; or if docs/operations.md is wrong about
/// what the log contains when statements are logged.
#[test]
fn many_spaces_take_no_locks_and_their_ids_are_in_the_log_only_with_statements() {
    let cluster = Cluster::with_log(Options::default());
    let spaces: Vec<String> = (0..140_000).map(|i| format!("space{i}")).collect();
    let changes: Vec<serde_json::Value> = (0..500)
        .map(|i| serde_json::json!({"table": "items", "id": i.to_string(), "op": "insert", "data": {}, "spaceId": format!("space{i}")}))
        .collect();
    let changeset = serde_json::json!({ "changes": changes });
    let mut app = cluster.app(DATABASE);
    let mut transaction = app.transaction().unwrap();
    let push = "SELECT mana_sync.push('ada', 'todo', $1, space_ids => $2) ->> 'inserted'";
    assert_eq!(transaction.query_one(push, &[&changeset, &spaces]).unwrap().get::<_, String>(0), "500");
    let pull = "SELECT mana_sync.pull('ben', 'todo', space_ids => $1) ->> 'hasMore'";
    assert_eq!(transaction.query_one(pull, &[&spaces]).unwrap().get::<_, String>(0), "false");
    transaction.execute("SELECT mana_sync.with_scope('ben', $1)", &[&spaces]).unwrap();
    // The tables of the log and their indexes are locked once each; max_locks_per_transaction is 64.
    let locks: i64 =
        transaction.query_one("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()", &[]).unwrap().get(0);
    assert!((1..=40).contains(&locks), "{locks}");
    let shown: i64 =
        transaction.query_one("SELECT count(*) FROM pg_settings WHERE name LIKE 'app.%'", &[]).unwrap().get(0);
    assert_eq!(shown, 0, "the scope is in no list of settings");
    transaction.commit().unwrap();
    let refused = changeset.to_string().replace("space42\"", "elsewhere\"");
    let push = "SELECT mana_sync.push('ada', 'todo', $1::text::jsonb, space_ids => $2)";
    app.execute(push, &[&refused, &spaces]).expect_err("a space that is not in the scope");
    let log = cluster.server_log();
    assert!(log.contains("the user is not a member of the space") && !log.contains("space1"), "{}", log.len());

    let mut superuser = cluster.superuser(DATABASE);
    superuser.batch_execute("ALTER ROLE app SET log_min_duration_statement = 0").unwrap();
    cluster.app(DATABASE).execute(pull, &[&spaces]).unwrap();
    assert!(cluster.server_log().len() > log.len() + 1_500_000, "all spaces are there");
    let log = cluster.server_log();
    superuser.batch_execute("ALTER ROLE app SET log_parameter_max_length = 100").unwrap();
    cluster.app(DATABASE).execute(pull, &[&spaces]).unwrap();
    assert!(cluster.server_log().len() < log.len() + 10_000, "their beginning is there");
}

/// Regression: every session that used the log got a WARNING.
#[test]
fn a_setting_that_stayed_when_the_library_is_not_preloaded_any_more_is_no_warning() {
    let cluster = Cluster::with_log(Options::default().set("mana_sync.wakeup_databases", DATABASE));
    let mut app = cluster.app(DATABASE);
    app.batch_execute("SELECT mana_sync.changes_since('ada', 'todo')").unwrap();
    let shown: String = app.query_one("SHOW mana_sync.wakeup_databases", &[]).unwrap().get(0);
    assert_eq!(shown, DATABASE);
    assert!(!cluster.server_log().contains("WARNING"), "{}", cluster.server_log());
    assert_eq!(workers(&mut cluster.superuser(DATABASE)), 0);
}
