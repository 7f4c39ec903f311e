//! Tests of row-level security, as the role that an application connects as.
//!
//! Fails if that role can read, in any way, a row outside its scope, or write a row as another user. One test proves
//! that the check can fail: it has a policy that allows everything, and must report the leak.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::channel;

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::process::server_command;
use mana_sync_harness::random::{rng, seed};
use mana_sync_harness::{Cluster, Device, Options};
use postgres::{Client, Config, NoTls};
use rand::Rng;

/// Returns the SQLSTATE, message and detail of a statement that must fail.
#[track_caller]
fn refusal(client: &mut Client, sql: &str) -> (String, String, Option<String>) {
    let error = client.batch_execute(sql).expect_err(sql);
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}"));
    let refusal = (error.code().code().to_string(), error.message().to_string(), error.detail().map(str::to_string));
    client.batch_execute("ROLLBACK").unwrap();
    refusal
}

#[track_caller]
fn refused(client: &mut Client, sql: &str) {
    let (code, message, _) = refusal(client, sql);
    assert_eq!(code, "42501", "{sql}: {message}");
}

/// Executes `BEGIN` and sets a scope.
fn begin(client: &mut Client, user: &str, spaces: &[&str]) {
    client.batch_execute("BEGIN").unwrap();
    client.execute("SELECT mana_sync.with_scope($1, $2)", &[&user, &spaces]).unwrap();
}

/// Returns the records that the session sees in plain SQL.
fn visible(client: &mut Client) -> BTreeSet<String> {
    let rows = client.query("SELECT record_id FROM mana_sync.sync_changes", &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Runs two statements in one transaction with psql, and returns the lines that psql prints for the second one, `then`.
fn psql(cluster: &Cluster, first: &str, then: &str) -> BTreeSet<String> {
    let mut psql = server_command("psql");
    psql.args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-U", "app", "-d", DATABASE, "-h"]).arg(cluster.socket_dir());
    let output = psql.args(["-c", "BEGIN", "-c", first, "-c", then, "-c", "COMMIT"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| !line.is_empty()).map(str::to_string).collect()
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| id.to_string()).collect()
}

/// Creates a log with two users and two spaces. Both users are members of one space, and only Ben is a member of the
/// other.
fn log() -> (Cluster, Client) {
    let cluster = Cluster::with_log(Options::default());
    let mut app = cluster.app(DATABASE);
    for (record, user, space) in [
        ("ann private", "ann", None),
        ("ann shared", "ann", Some("shared")),
        ("ben private", "ben", None),
        ("ben shared", "ben", Some("shared")),
        ("ben other", "ben", Some("other")),
    ] {
        let sql = "SELECT mana_sync.record_change('app', 'notes', $1, $2, $3, 'insert', 'c', '{\"secret\": true}')";
        app.execute(sql, &[&record, &user, &space]).unwrap();
    }
    (cluster, app)
}

#[test]
fn no_scope_sees_nothing_and_a_scope_ends_with_its_transaction() {
    let (cluster, _) = log();
    let mut app = cluster.app(DATABASE);
    let none = BTreeSet::new();
    assert_eq!(visible(&mut app), none, "never set");
    for end in ["COMMIT", "ROLLBACK"] {
        begin(&mut app, "ann", &["shared"]);
        assert_eq!(visible(&mut app), set(&["ann private", "ann shared", "ben shared"]));
        app.batch_execute(end).unwrap();
        assert_eq!(visible(&mut app), none, "after {end}");
        let user = app.query_one("SELECT current_setting('app.current_user_id', true)", &[]).unwrap();
        assert_eq!(user.get::<_, Option<String>>(0).as_deref().unwrap_or(""), "");
    }
    app.batch_execute("BEGIN; SET LOCAL app.current_user_space_ids = 'shared,other'").unwrap();
    assert_eq!(visible(&mut app), none, "spaces without a user");
    app.batch_execute("SET LOCAL app.current_user_id = ''; SET LOCAL app.current_user_space_ids = ',,'").unwrap();
    assert_eq!(visible(&mut app), none, "an empty user, empty spaces");
    app.batch_execute("ROLLBACK").unwrap();
    refused(&mut app, "SELECT * FROM mana_sync.changes_since(NULL, 'app')");
    // The scope of a call ends with the call, after an error too.
    assert_eq!(app.query("SELECT * FROM mana_sync.changes_since('ann', 'app')", &[]).unwrap().len(), 2);
    refusal(&mut app, "SELECT mana_sync.record_change('app', 'notes', '', 'ann', NULL, 'insert', 'c')");
    assert_eq!(visible(&mut app), none, "after calls");
}

#[test]
fn a_role_without_access_gets_a_clear_error() {
    let (cluster, _) = log();
    cluster.superuser(DATABASE).batch_execute("CREATE ROLE stranger LOGIN").unwrap();
    let mut stranger = cluster.connect("stranger", DATABASE);
    for sql in [
        "SELECT * FROM mana_sync.sync_changes",
        "SELECT mana_sync.with_scope('ann')",
        "SELECT * FROM mana_sync.changes_since('ann', 'app')",
        "SELECT mana_sync.record_change('app', 'notes', 'r', 'ann', NULL, 'insert', 'c')",
        "INSERT INTO mana_sync.sync_changes (app_id) VALUES ('app')",
        "SELECT mana_sync.open_epoch()",
        "SELECT mana_sync.grant_access('stranger')",
    ] {
        let (code, message, _) = refusal(&mut stranger, sql);
        assert_eq!((code.as_str(), message.as_str()), ("42501", "permission denied for schema mana_sync"), "{sql}");
    }
}

#[test]
fn a_user_neither_reads_nor_writes_what_is_anothers() {
    let (cluster, mut app) = log();
    let mut superuser = cluster.superuser(DATABASE);
    for (spaces, may) in
        [(&[][..], &["ann private", "ann shared"][..]), (&["shared"], &["ann private", "ann shared", "ben shared"])]
    {
        begin(&mut app, "ann", spaces);
        assert_eq!(visible(&mut app), set(may));
        let rows = app.query("SELECT record_id FROM mana_sync.changes_since(app_id => 'app')", &[]).unwrap();
        assert_eq!(rows.iter().map(|row| row.get(0)).collect::<BTreeSet<String>>(), set(may));
        let merged = app.query("SELECT record_id FROM mana_sync.records(app_id => 'app')", &[]).unwrap();
        assert_eq!(merged.iter().map(|row| row.get(0)).collect::<BTreeSet<String>>(), set(may));
        for record in ["ann private", "ann shared", "ben shared", "ben private", "ben other"] {
            let one = "SELECT FROM mana_sync.records(app_id => 'app', record_id => $1)";
            let history = "SELECT FROM mana_sync.record_history('app', 'notes', $1)";
            for sql in [one, history] {
                assert_eq!(app.query(sql, &[&record]).unwrap().len(), usize::from(may.contains(&record)), "{sql}");
            }
        }
        let export = app.query("SELECT record_id FROM mana_sync.export_changes()", &[]).unwrap();
        assert_eq!(
            export.iter().map(|row| row.get(0)).collect::<BTreeSet<String>>(),
            set(&["ann private", "ann shared"])
        );
        // COPY TO, and a view that the role owns: row-level security applies.
        let spaces = spaces.join(",");
        let copied = psql(
            &cluster,
            &format!("SELECT mana_sync.with_scope('ann', '{{{spaces}}}')"),
            "COPY mana_sync.sync_changes (record_id) TO STDOUT",
        );
        assert_eq!(copied, set(may));
        app.batch_execute("CREATE TEMPORARY VIEW mine AS SELECT * FROM mana_sync.sync_changes").unwrap();
        assert_eq!(app.query_one("SELECT count(*) FROM mine", &[]).unwrap().get::<_, i64>(0), may.len() as i64);
        app.batch_execute("ROLLBACK").unwrap();
    }

    let insert = "INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, space_id)
                  VALUES ('app', 'notes', 'forged', 'ben', 'insert', 'c', 'shared')";
    for sql in [
        insert,
        "SELECT mana_sync.record_change('app', 'notes', 'forged', 'ben', NULL, 'insert', 'c')",
        "SELECT * FROM mana_sync.changes_since('ben', 'app')",
        "UPDATE mana_sync.sync_changes SET data = NULL",
        "UPDATE mana_sync.sync_changes SET user_id = 'ann' WHERE space_id = 'shared'",
        "DELETE FROM mana_sync.sync_changes",
        "TRUNCATE mana_sync.sync_changes",
        "INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, seq) VALUES ('a', 't', 'r', 'ann', 'insert', 'c', 1)",
        "INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, created_at) VALUES ('a', 't', 'r', 'ann', 'insert', 'c', now())",
        "INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id) VALUES ('a', 't', 'r', 'ann', 'insert', 'c') ON CONFLICT (id) DO UPDATE SET data = NULL",
        "SELECT * FROM mana_sync.epochs",
        "INSERT INTO mana_sync.epochs SELECT * FROM mana_sync.epochs",
        "SELECT setval('mana_sync.sync_changes_seq', 1)",
        "ALTER TABLE mana_sync.sync_changes DISABLE ROW LEVEL SECURITY",
        "DROP POLICY sync_changes_user_isolation ON mana_sync.sync_changes",
        "SELECT mana_sync.grant_access('app')",
        "SELECT mana_sync.revoke_access('app')",
        "SELECT * FROM mana_sync.records('ben', 'app')",
        "SELECT * FROM mana_sync.record_history('app', 'notes', 'ben private', 'ben')",
        "SELECT * FROM mana_sync.export_changes('ben')",
        "SELECT mana_sync.export_rows('ben')",
        "CALL mana_sync.compact()",
        "SELECT mana_sync.begin_compaction(NULL, NULL, NULL, '0', false)",
        "SELECT mana_sync.compact_batch(mana_sync.uuidv7(), 1)",
        "SELECT mana_sync.purge_deleted('0')",
        "SELECT mana_sync.forget_user('ben')",
        "SELECT mana_sync.begin_epoch()",
        "SELECT mana_sync.grant_maintenance('app')",
        "SELECT mana_sync.revoke_maintenance('app')",
        "SELECT * FROM mana_sync.compactions",
        "SELECT * FROM mana_sync.compaction_progress",
        "SELECT * FROM mana_sync.purges",
        "SELECT * FROM mana_sync.purged_transactions",
    ] {
        begin(&mut app, "ann", &["shared"]);
        refused(&mut app, sql);
    }
    // PostgreSQL does not support COPY FROM under row-level security at all.
    let mut copier = cluster.app(DATABASE);
    begin(&mut copier, "ann", &["shared"]);
    let error = copier
        .copy_in("COPY mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id) FROM STDIN")
        .err()
        .unwrap();
    assert_eq!(error.code().unwrap().code(), "0A000");

    // The error for a duplicate id tells nothing about the existing row.
    let taken: uuid::Uuid = superuser
        .query_one("SELECT id FROM mana_sync.sync_changes WHERE record_id = 'ben private'", &[])
        .unwrap()
        .get(0);
    for sql in [
        format!("SELECT mana_sync.record_change('app', 'notes', 'mine', 'ann', NULL, 'insert', 'c', id => '{taken}')"),
        format!(
            "INSERT INTO mana_sync.sync_changes (id, app_id, table_name, record_id, user_id, op, client_id) VALUES ('{taken}', 'a', 't', 'r', 'ann', 'insert', 'c')"
        ),
    ] {
        begin(&mut app, "ann", &[]);
        let (code, message, detail) = refusal(&mut app, &sql);
        assert_eq!((code.as_str(), detail), ("23505", None), "{message}");
    }
    // If UPDATE and DELETE were granted, the policies would still limit a member to its own rows.
    superuser.batch_execute("GRANT UPDATE, DELETE ON mana_sync.sync_changes TO app").unwrap();
    for sql in ["UPDATE mana_sync.sync_changes SET data = NULL", "DELETE FROM mana_sync.sync_changes"] {
        begin(&mut app, "ann", &["shared"]);
        assert_eq!(app.execute(sql, &[]).unwrap(), 2, "{sql}");
        app.batch_execute("ROLLBACK").unwrap();
    }
    begin(&mut app, "ann", &["shared"]);
    refused(&mut app, "UPDATE mana_sync.sync_changes SET user_id = 'ben' WHERE user_id = 'ann'");
    // With a policy that checks nothing, the forged row is written: the policy caused the refusals above.
    superuser.batch_execute("CREATE POLICY weak ON mana_sync.sync_changes FOR INSERT WITH CHECK (true)").unwrap();
    begin(&mut app, "ann", &["shared"]);
    assert_eq!(app.execute(insert, &[]).unwrap(), 1);
    app.batch_execute("ROLLBACK").unwrap();
}

/// Returns the texts that reach a client while a query calls a leaky function of very low cost.
fn leaked(cluster: &Cluster, user: &str) -> String {
    let (sender, notices) = channel();
    let mut app = Config::new()
        .host_path(cluster.socket_dir())
        .user("app")
        .dbname(DATABASE)
        .notice_callback(move |notice| drop(sender.send(notice.message().to_string())))
        .connect(NoTls)
        .unwrap();
    begin(&mut app, user, &["shared"]);
    app.batch_execute(
        "CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001
         AS $$ BEGIN RAISE NOTICE 'saw %', $1; RETURN true; END $$",
    )
    .unwrap();
    for sql in [
        "SELECT count(*) FROM mana_sync.sync_changes WHERE pg_temp.leak(record_id)",
        "SELECT count(*) FROM mana_sync.sync_changes WHERE app_id = 'app' AND table_name = 'notes' AND pg_temp.leak(record_id)",
        "SELECT count(*) FROM mana_sync.sync_changes WHERE record_id LIKE '%private' AND pg_temp.leak(record_id)",
        "EXPLAIN ANALYZE SELECT * FROM mana_sync.sync_changes WHERE pg_temp.leak(record_id)",
    ] {
        app.batch_execute(sql).unwrap();
    }
    let plan = app
        .query("EXPLAIN (ANALYZE, TIMING OFF) SELECT * FROM mana_sync.sync_changes WHERE pg_temp.leak(record_id)", &[])
        .unwrap();
    let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    notices.try_iter().chain(plan).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_leaky_function_sees_what_the_scope_sees_and_the_check_notices_a_weak_policy() {
    let (cluster, _) = log();
    let seen = leaked(&cluster, "ann");
    assert!(seen.contains("saw ann private") && seen.contains("saw ben shared"), "{seen}");
    assert!(!seen.contains("ben private") && !seen.contains("ben other"), "{seen}");
    // The same check with a policy that allows everything.
    cluster.superuser(DATABASE).batch_execute("CREATE POLICY weak ON mana_sync.sync_changes USING (true)").unwrap();
    let seen = leaked(&cluster, "ann");
    assert!(seen.contains("saw ben private") && seen.contains("saw ben other"), "{seen}");
}

#[test]
fn statistics_of_the_log_are_not_shown() {
    let (cluster, mut app) = log();
    let mut superuser = cluster.superuser(DATABASE);
    superuser.batch_execute("ANALYZE mana_sync.sync_changes").unwrap();
    // The statistics contain values of every user's rows, as the superuser sees.
    let sql = "SELECT concat(most_common_vals, histogram_bounds) FROM pg_stats
               WHERE schemaname = 'mana_sync'";
    let shown = |client: &mut Client| -> String {
        client.query(sql, &[]).unwrap().iter().map(|row| row.get::<_, String>(0)).collect()
    };
    let all = shown(&mut superuser);
    // The statistics of the table, and of the expression in the index of records.
    assert!(all.contains("ben private") && all.contains("{\"\",shared}"), "{all}");
    begin(&mut app, "ann", &["shared"]);
    assert_eq!(shown(&mut app), "");
    refused(&mut app, "SELECT * FROM pg_statistic");
}

#[test]
fn writing_into_a_space_takes_membership_where_it_is_known() {
    let (cluster, mut app) = log();
    let change = |space: &str, spaces: &str| {
        format!(
            "SELECT mana_sync.record_change('app', 'notes', 'r', 'ann', '{space}', 'insert', 'c', space_ids => {spaces})"
        )
    };
    let insert = |space: &str| {
        format!(
            "INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, space_id)
                 VALUES ('app', 'notes', 'r', 'ann', 'insert', 'c', '{space}')"
        )
    };
    for sql in [change("other", "'{shared}'"), change("other", "'{}'"), change("sha", "'{shared}'")] {
        refused(&mut app, &sql);
    }
    // An id with a comma does not count as two ids, because no scope could name such a space.
    let error = app.batch_execute(&change("shared,other", "'{shared,other}'")).expect_err("a comma");
    assert_eq!(error.code().expect("a code").code(), "22023");
    begin(&mut app, "ann", &["shared"]);
    app.batch_execute(&insert("shared")).unwrap();
    app.batch_execute(&change("shared", "NULL")).unwrap();
    app.batch_execute("COMMIT").unwrap();
    for sql in [insert("other"), insert("shared,other"), insert(""), change("other", "NULL")] {
        begin(&mut app, "ann", &["shared"]);
        refused(&mut app, &sql);
    }
    // With unknown memberships, anybody may write into any space, as in the original service, unless the setting
    // forbids it.
    app.batch_execute(&change("other", "NULL")).unwrap();
    begin(&mut app, "ann", &[]);
    app.batch_execute(&insert("other")).unwrap();
    app.batch_execute("COMMIT").unwrap();

    let mut superuser = cluster.superuser(DATABASE);
    for (on, off) in [
        ("ALTER ROLE app SET mana_sync.strict_spaces = on", "ALTER ROLE app RESET mana_sync.strict_spaces"),
        (
            "ALTER DATABASE postgres SET mana_sync.strict_spaces = on",
            "ALTER DATABASE postgres RESET mana_sync.strict_spaces",
        ),
    ] {
        superuser.batch_execute("LOAD 'mana_sync'").unwrap();
        superuser.batch_execute(on).unwrap();
        refused(&mut cluster.app(DATABASE), &change("other", "NULL"));
        cluster.app(DATABASE).batch_execute(&change("shared", "'{shared}'")).unwrap();
        // A new connection has not loaded the library: the setting is a placeholder that anybody may set.
        for turn_off in ["SET", "SET LOCAL", "SET SESSION"] {
            let mut fresh = cluster.app(DATABASE);
            fresh.batch_execute("BEGIN").unwrap();
            // The connection is refused, or the setting has no effect.
            if fresh.batch_execute(&format!("{turn_off} mana_sync.strict_spaces = off")).is_err() {
                fresh.batch_execute("ROLLBACK; BEGIN").unwrap();
            }
            fresh.batch_execute("SET LOCAL app.current_user_id = 'ann'").unwrap();
            refused(&mut fresh, &insert("other"));
            refused(&mut fresh, &change("other", "NULL"));
        }
        let options = Config::new()
            .host_path(cluster.socket_dir())
            .user("app")
            .dbname(DATABASE)
            .options("-c mana_sync.strict_spaces=off")
            .connect(NoTls);
        if let Ok(mut fresh) = options {
            fresh.batch_execute("BEGIN; SET LOCAL app.current_user_id = 'ann'").unwrap();
            refused(&mut fresh, &insert("other"));
            refused(&mut fresh, &change("other", "NULL"));
        }
        let mut loaded = cluster.app(DATABASE);
        loaded.query("SELECT mana_sync.uuidv7()", &[]).unwrap();
        for turn_off in ["SET", "SET LOCAL"] {
            refused(&mut loaded, &format!("{turn_off} mana_sync.strict_spaces = off"));
        }
        // Ways around the setting that a plain role has in a new connection. Each must be refused, or have no effect.
        for way in [
            &["ALTER ROLE app SET mana_sync.strict_spaces = off"][..],
            &["ALTER ROLE app IN DATABASE postgres SET mana_sync.strict_spaces = off"],
            &["SET mana_sync.strict_spaces = off", "ALTER ROLE app SET mana_sync.strict_spaces FROM CURRENT"],
            &["SET mana_sync.strict_spaces = off", "RESET mana_sync.strict_spaces"],
            &["RESET ALL"],
            &["DISCARD ALL"],
        ] {
            let mut fresh = cluster.app(DATABASE);
            for statement in way {
                // PostgreSQL refuses it as a setting of the role.
                let done = fresh.batch_execute(statement);
                assert!(done.is_err() || !statement.starts_with("ALTER"), "{statement}");
            }
            for mut client in [fresh, cluster.app(DATABASE)] {
                refused(&mut client, &change("other", "NULL"));
                client.batch_execute("BEGIN; SET LOCAL app.current_user_id = 'ann'").unwrap();
                refused(&mut client, &insert("other"));
            }
        }
        let mut fresh = cluster.app(DATABASE);
        fresh.batch_execute("BEGIN; SET LOCAL app.current_user_id = 'ann'").unwrap();
        for _ in 0..2 {
            fresh.batch_execute("SAVEPOINT s; SET LOCAL mana_sync.strict_spaces = off").unwrap();
        }
        refused(&mut fresh, &insert("other"));
        // The SET clause of a function takes effect before its first statement loads the library.
        let mut fresh = cluster.app(DATABASE);
        let function = format!(
            "CREATE FUNCTION pg_temp.sneak() RETURNS void LANGUAGE plpgsql SET mana_sync.strict_spaces = off
             AS $$ BEGIN {}; END $$",
            insert("other")
        );
        match fresh.batch_execute(&function) {
            // PostgreSQL may refuse to create the function.
            Err(error) => assert_eq!(error.code().unwrap().code(), "42501"),
            Ok(()) => {
                fresh.batch_execute("BEGIN; SET LOCAL app.current_user_id = 'ann'").unwrap();
                refused(&mut fresh, "SELECT pg_temp.sneak()");
            }
        }
        superuser.batch_execute(off).unwrap();
    }
}

#[test]
fn random_operations_do_what_a_small_model_does() {
    const USERS: usize = 20;
    const SPACES: usize = 10;
    let (cluster, seed) = (Cluster::with_log(Options::default()), seed("row_security", 6));
    let mut rng = rng(seed, 0);
    let mut app = cluster.app(DATABASE);
    // The model: the author and the space of each record, and the members of each space.
    let mut records: BTreeMap<String, (usize, Option<usize>)> = BTreeMap::new();
    let mut members: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); USERS];
    let mut devices: Vec<Device> = (0..USERS).map(|user| Device::new(&format!("user {user}"), "app", &[])).collect();
    // What each device received, and which spaces its user ever joined. Rows of these spaces may come again.
    let mut given: Vec<BTreeSet<String>> = vec![BTreeSet::new(); USERS];
    let mut joined: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); USERS];
    let name = |space: usize| format!("space {space}");
    let (mut reads, mut refusals) = (0, 0);
    for step in 0..4000 {
        let user = rng.random_range(0..USERS);
        let user_name = format!("user {user}");
        let spaces: Vec<String> = members[user].iter().copied().map(name).collect();
        let allowed =
            |records: &BTreeMap<String, (usize, Option<usize>)>, members: &[BTreeSet<usize>]| -> BTreeSet<String> {
                let may = |(author, space): &(usize, Option<usize>)| {
                    *author == user || space.is_some_and(|space| members[user].contains(&space))
                };
                records.iter().filter(|(_, row)| may(row)).map(|(record, _)| record.clone()).collect()
            };
        match rng.random_range(0..10) {
            0 => {
                let space = rng.random_range(0..SPACES);
                if !members[user].remove(&space) {
                    members[user].insert(space);
                    joined[user].insert(space);
                }
            }
            1..=3 => {
                // A write, by function or in plain SQL, into any space, as the own user or as another one.
                let space = Some(rng.random_range(0..SPACES * 2)).filter(|space| *space < SPACES);
                let author = if rng.random_range(0..4) == 0 { rng.random_range(0..USERS) } else { user };
                let (record, author_name) = (format!("r{step}"), format!("user {author}"));
                let mut transaction = app.transaction().unwrap();
                transaction.execute("SELECT mana_sync.with_scope($1, $2)", &[&user_name, &spaces]).unwrap();
                let written = if rng.random_bool(0.5) {
                    let sql = "SELECT mana_sync.record_change('app', 'notes', $1, $2, $3, 'insert', 'c')";
                    transaction.execute(sql, &[&record, &author_name, &space.map(name)])
                } else {
                    let sql = "INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, space_id, op, client_id)
                               VALUES ('app', 'notes', $1, $2, $3, 'insert', 'c')";
                    transaction.execute(sql, &[&record, &author_name, &space.map(name)])
                };
                // A scope without spaces leaves the memberships unknown.
                let member = space.is_none_or(|space| members[user].is_empty() || members[user].contains(&space));
                assert_eq!(written.is_ok(), author == user && member, "step {step}: {written:?}");
                match written {
                    Ok(_) => {
                        transaction.commit().unwrap();
                        records.insert(record, (author, space));
                    }
                    Err(error) => {
                        assert_eq!(error.code().unwrap().code(), "42501");
                        transaction.rollback().unwrap();
                        refusals += 1;
                    }
                }
            }
            4..=6 => {
                let mut transaction = app.transaction().unwrap();
                transaction.execute("SELECT mana_sync.with_scope($1, $2)", &[&user_name, &spaces]).unwrap();
                let rows = transaction.query("SELECT record_id FROM mana_sync.sync_changes", &[]).unwrap();
                let seen: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
                assert_eq!(seen, allowed(&records, &members), "step {step}: plain SQL as {user_name}");
                reads += 1;
            }
            7 => {
                let sql =
                    "SELECT record_id FROM mana_sync.changes_since($1, 'app', space_ids => $2, page_size => 100000)";
                let rows = app.query(sql, &[&user_name, &spaces]).unwrap();
                assert_eq!(rows.len(), rows.iter().map(|row| row.get::<_, String>(0)).collect::<BTreeSet<_>>().len());
                let seen: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
                assert_eq!(seen, allowed(&records, &members), "step {step}: changes_since as {user_name}");
                reads += 1;
            }
            _ => {
                // A pull from a cursor to the end, whatever has changed since.
                let device = &mut devices[user];
                device.spaces = spaces;
                let sql = "SELECT record_id, cursor
                           FROM mana_sync.changes_since($1, 'app', since => $2, space_ids => $3, page_size => $4)";
                let size: i32 = rng.random_range(1..40);
                let may = allowed(&records, &members);
                loop {
                    let rows = app.query(sql, &[&user_name, &device.cursor, &device.spaces, &size]).unwrap();
                    if rows.is_empty() {
                        break;
                    }
                    for row in &rows {
                        let record: String = row.get(0);
                        assert!(may.contains(&record), "step {step}: {user_name} was given {record}");
                        let again = records[&record].1.is_some_and(|space| joined[user].contains(&space));
                        let new = given[user].insert(record.clone());
                        assert!(new || again, "step {step}: {user_name} was given {record} twice");
                    }
                    device.cursor = rows.last().and_then(|row| row.get(1)).or(device.cursor.take());
                }
                let missing: Vec<_> = may.difference(&given[user]).collect();
                assert!(missing.is_empty(), "step {step}: {user_name} lacks {missing:?}");
                reads += 1;
            }
        }
    }
    println!("{} records, {reads} reads, {refusals} writes refused, no difference", records.len());
    assert!(reads > 2000 && refusals > 100);
}
