//! What docs/operations.md says of dumps, upgrades and worker processes.
//!
//! Fails if a dump that is called right there has no change in it, if one that is called wrong has (the page would be out of date), or if
//! the check that it offers does not tell them apart; if a wake-up worker runs in a binary upgrade; or if a server with too few worker
//! processes does not say so.

use std::path::Path;

use mana_sync_servers::cluster::DATABASE;
use mana_sync_servers::process::{program, run, server_command, wait_until};
use mana_sync_servers::{Cluster, Options};
use postgres::Client;

const WORKERS: &str = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'mana_sync wake-ups'";

fn workers(client: &mut Client) -> i64 {
    client.query_one(WORKERS, &[]).unwrap().get(0)
}

/// The commands of the page that begin with a word, each with what follows it in a comment.
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
    for database in ["mydb", "whole", "log"] {
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
        // Where the server's user may write.
        command.current_dir(cluster.socket_dir());
        command.env("PGHOST", cluster.socket_dir()).env("PGUSER", "postgres");
        command
    };
    let dumps = commands("pg_dump");
    assert_eq!(dumps.len(), 4, "the page has these");
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
    // Those that are right are complete: restored, they answer a device as the server that they are of.
    cluster.superuser("log").batch_execute("CREATE EXTENSION mana_sync").unwrap();
    let state = "SELECT concat_ws(' ', count(*), max(created_at), max(seq),
                     (SELECT count(*) FROM mana_sync.epochs), (SELECT count(*) FROM mana_sync.purges),
                     (SELECT count(*) FROM mana_sync.purged_transactions))
                 FROM mana_sync.sync_changes";
    let of = |client: &mut Client| -> String { client.query_one(state, &[]).unwrap().get(0) };
    let expected = of(&mut mydb);
    for database in ["whole", "log"] {
        run(client("pg_restore").args(["-d", database, &format!("{database}.dump")])).expect("it is restored");
        assert_eq!(of(&mut cluster.superuser(database)), expected, "{database}");
    }
}

/// pg_upgrade failed with "database is being accessed by other users", when the old cluster could not be started any more.
#[test]
fn no_worker_runs_in_a_binary_upgrade() {
    let options = Options::default()
        .set("shared_preload_libraries", "mana_sync")
        .set("mana_sync.wakeup_databases", "postgres, template1");
    let cluster = Cluster::with_log(options);
    let mut superuser = cluster.superuser(DATABASE);
    wait_until("both workers run", || workers(&mut superuser) == 2);
    // With a worker in it, a database cannot be copied. That is what pg_upgrade does.
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

/// This fails if a wake-up worker runs while pg_upgrade does. The upgrade is to the same version, which pg_upgrade allows, so that no
/// machine has to skip it.
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
        (6, Some("1 are left for parallel queries")),
        (7, Some("0 are left for parallel queries")),
        (8, Some("0 are left for parallel queries")),
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

/// It was a WARNING in every session that used the log.
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
