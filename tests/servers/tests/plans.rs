//! Tests of what a pull reads of a log of a million rows: the shape of its plans, and the buffers. Times are not
//! measured.
//!
//! Fails if a branch of a pull is not an ordered scan of the index that is made for it; or if a pull touches more pages
//! because the log is longer, because unrelated transactions are open, or because the reader is in many spaces. The
//! statements run inside `changes_since`; auto_explain shows their plans.

use std::sync::mpsc::{Receiver, channel};

use mana_sync_harness::cluster::{APP_ROLE, DATABASE};
use mana_sync_harness::{Cluster, Options};
use postgres::{Client, Config, NoTls};
use serde_json::Value;

/// The number of spaces that have rows.
const SPACES: usize = 100;

/// Adds rows `from..to` of other users, 10,000 in each transaction. Half of them are in spaces.
fn add_rows(superuser: &mut Client, from: i32, to: i32) {
    for start in (from..to).step_by(10_000) {
        add_transaction(superuser, start, start + 10_000);
    }
}

fn add_transaction(superuser: &mut Client, from: i32, to: i32) {
    superuser
        .execute(
            "INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, space_id, data)
             SELECT 'app', 'notes', 'r' || i % 5000, 'u' || i % 200, 'insert', 'c',
                    CASE WHEN i % 2 = 0 THEN 's' || i / 2 % 100 END, '{\"title\": \"hello\"}'
             FROM generate_series($1::int, $2 - 1) AS i",
            &[&from, &to],
        )
        .unwrap();
}

fn analyze(superuser: &mut Client) {
    superuser.batch_execute("VACUUM ANALYZE mana_sync.sync_changes").unwrap();
}

/// A session of the application's role that receives the plans of all statements it runs.
struct Explained {
    client: Client,
    notices: Receiver<String>,
}

/// The result of a pull: its rows, its plans and the buffers that it read.
struct Pull {
    rows: usize,
    cursor: Option<String>,
    /// The plans of the reading statements.
    plans: Vec<Value>,
    /// The shared buffers that the whole call hit or read.
    buffers: i64,
}

impl Explained {
    fn new(cluster: &Cluster) -> Explained {
        let (sender, notices) = channel();
        let mut client = Config::new()
            .host_path(cluster.socket_dir())
            .user("postgres")
            .dbname(DATABASE)
            .notice_callback(move |notice| drop(sender.send(notice.message().to_string())))
            .connect(NoTls)
            .unwrap();
        client
            .batch_execute(&format!(
                "LOAD 'auto_explain'; SET auto_explain.log_nested_statements = on; SET auto_explain.log_analyze = on;
                 SET auto_explain.log_buffers = on; SET auto_explain.log_min_duration = 0;
                 SET auto_explain.log_format = json; SET auto_explain.log_timing = off; SET client_min_messages = log;
                 SET ROLE {APP_ROLE}"
            ))
            .unwrap();
        Explained { client, notices }
    }

    fn pull(&mut self, user: &str, spaces: usize, since: Option<&str>, page_size: i32) -> Pull {
        self.pull_filtered(user, spaces, since, page_size, None)
    }

    /// Runs a statement, and returns the plans of the statements inside it.
    fn run(&mut self, sql: &str) -> Vec<Value> {
        while self.notices.try_recv().is_ok() {}
        self.client.query(sql, &[]).unwrap();
        self.plans()
            .into_iter()
            .filter(|plan| !plan["Query Text"].as_str().unwrap().contains("mana_sync.push("))
            .collect()
    }

    /// Returns the plans that auto_explain has reported since the last time.
    fn plans(&self) -> Vec<Value> {
        let plan = |message: String| serde_json::from_str(&message[message.find('{')?..]).expect("a plan in JSON");
        self.notices.try_iter().filter_map(plan).collect()
    }

    /// Pulls with or without the rows of a client.
    fn pull_filtered(
        &mut self,
        user: &str,
        spaces: usize,
        since: Option<&str>,
        page_size: i32,
        exclude: Option<&str>,
    ) -> Pull {
        let spaces: Vec<String> = (0..spaces).map(|i| format!("s{i}")).collect();
        let sql = "SELECT cursor FROM mana_sync.changes_since(user_id => $1, app_id => 'app', since => $2,
                       page_size => $3, space_ids => $4, exclude_client_id => $5)";
        while self.notices.try_recv().is_ok() {}
        let rows = self.client.query(sql, &[&user, &since, &page_size, &spaces, &exclude]).unwrap();
        let plans = self.plans();
        let (whole, plans): (Vec<Value>, Vec<Value>) =
            plans.into_iter().partition(|plan| plan["Query Text"].as_str().unwrap().contains("changes_since"));
        assert_eq!(whole.len(), 1, "the call itself is explained");
        Pull {
            rows: rows.len(),
            cursor: rows.last().and_then(|row| row.get(0)),
            plans,
            buffers: buffers(&whole[0]["Plan"]),
        }
    }
}

fn buffers(plan: &Value) -> i64 {
    plan["Shared Hit Blocks"].as_i64().unwrap() + plan["Shared Read Blocks"].as_i64().unwrap()
}

/// Returns the nodes of a plan.
fn nodes(plan: &Value) -> Vec<&Value> {
    let inner = plan["Plans"].as_array().into_iter().flatten().flat_map(nodes);
    std::iter::once(plan).chain(inner).collect()
}

/// Returns the number of rows that the scans of the log returned.
fn rows_read(pull: &Pull) -> i64 {
    let scans =
        pull.plans.iter().flat_map(|plan| nodes(&plan["Plan"])).filter(|node| node["Relation Name"] == "sync_changes");
    scans.map(|scan| scan["Actual Rows"].as_f64().unwrap() as i64 * scan["Actual Loops"].as_f64().unwrap() as i64).sum()
}

/// Returns the number of rows that the scans of the log read, including those that a filter removed.
fn rows_seen(pull: &Pull) -> i64 {
    let scans =
        pull.plans.iter().flat_map(|plan| nodes(&plan["Plan"])).filter(|node| node["Relation Name"] == "sync_changes");
    let left_out = scans.map(|scan| {
        let removed = scan["Rows Removed by Filter"].as_f64().unwrap_or(0.0);
        (removed * scan["Actual Loops"].as_f64().unwrap()).ceil() as i64
    });
    rows_read(pull) + left_out.sum::<i64>()
}

/// Returns what is wrong with the plans of a pull; `None` if nothing is. Every scan of the log must be an ordered scan
/// of the index made for it, with the position as a bound, and nothing may be sorted.
fn fault(pull: &Pull) -> Option<String> {
    let mut scans = 0;
    for plan in &pull.plans {
        for node in nodes(&plan["Plan"]) {
            let kind = node["Node Type"].as_str().unwrap();
            if kind.contains("Sort") || kind.contains("Bitmap") || kind == "Seq Scan" {
                return Some(format!("{kind} in {plan:#}"));
            }
            if node["Relation Name"] == "sync_changes" {
                scans += 1;
                let index = node["Index Name"].as_str().unwrap_or_default();
                let condition = node["Index Cond"].as_str().unwrap_or_default();
                if !["sync_changes_own_idx", "sync_changes_space_idx"].contains(&index)
                    || !["(epoch = ", "ROW(xact, seq) >=", "(xact < "].iter().all(|bound| condition.contains(bound))
                {
                    return Some(format!("{index} with {condition} in {plan:#}"));
                }
            }
        }
    }
    (scans == 0).then(|| "no scan was explained".to_string())
}

#[track_caller]
fn assert_ordered(pull: &Pull, who: &str) {
    if let Some(fault) = fault(pull) {
        panic!("{who}: {fault}");
    }
}

#[test]
fn a_pull_reads_what_it_returns_and_little_more() {
    let options = Options::default()
        .set("max_connections", "200")
        .set("max_prepared_transactions", "200")
        .set("shared_buffers", "256MB")
        .set("autovacuum", "off");
    let cluster = Cluster::with_log(options);
    let (mut superuser, mut app) = (cluster.superuser(DATABASE), cluster.app(DATABASE));

    // A backend that planned its statements while the table was empty must keep ordered index scans.
    let mut early = Explained::new(&cluster);
    assert_eq!(early.pull("reader", 3, None, 10).rows, 0);
    app.batch_execute("SELECT mana_sync.record_change('app', 'notes', 'own', 'reader', NULL, 'insert', 'c', '{}')")
        .unwrap();
    early.pull("reader", 3, None, 10);

    // The look-up of ids that are pushed again is planned while the table has one page.
    const AGAIN: &str = "SELECT mana_sync.push('ann', 'app', '{\"changes\": [
        {\"eventId\": \"0190f5fe-7c00-7000-8000-000000000001\", \"table\": \"t\", \"id\": \"r\", \"op\": \"delete\", \"spaceId\": \"\"}]}')::text";
    analyze(&mut superuser);
    (0..2).for_each(|_| drop(early.run(AGAIN)));

    // A new session plans its statements while the table has not been analyzed.
    add_rows(&mut superuser, 0, 10_000);
    let unknown = Explained::new(&cluster).pull("reader", 3, None, 1000);
    assert_eq!(unknown.rows, 151);
    assert_ordered(&unknown, "not analysed");
    // The ids are pushed again, with the old plan and with a new one. Both must use the index of ids.
    for session in [&mut early, &mut Explained::new(&cluster)] {
        let plans = session.run(AGAIN);
        let scans: Vec<&Value> = plans
            .iter()
            .flat_map(|plan| nodes(&plan["Plan"]))
            .filter(|node| node["Relation Name"] == "sync_changes" && node["Node Type"] != "ModifyTable")
            .collect();
        assert!(!scans.is_empty() && scans.iter().all(|scan| scan["Index Name"] == "sync_changes_pkey"), "{plans:#?}");
    }

    // A reader in three spaces pulls nothing new, with 10,000 rows of others in the log and with a million.
    analyze(&mut superuser);
    let at_rest = |explained: &mut Explained, spaces: usize| {
        let mut cursor = None;
        loop {
            let pull = explained.pull("reader", spaces, cursor.as_deref(), 100_000);
            cursor = pull.cursor.or(cursor);
            if pull.rows == 0 {
                return cursor.unwrap();
            }
        }
    };
    let cursor = at_rest(&mut early, 3);
    app.batch_execute("SELECT pg_current_xact_id()").unwrap();
    let small = early.pull("reader", 3, Some(&cursor), 1000);
    assert_eq!(small.rows, 0);
    assert_ordered(&small, "empty pull, 10 k rows");
    add_rows(&mut superuser, 10_000, 1_000_000);
    analyze(&mut superuser);
    let cursor = at_rest(&mut early, 3);
    app.batch_execute("SELECT pg_current_xact_id()").unwrap();
    let large = early.pull("reader", 3, Some(&cursor), 1000);
    assert_eq!(large.rows, 0);
    assert_ordered(&large, "empty pull, 1 M rows");
    // Starting a function scan costs more than an index descent. There is one function scan, for the spaces, because
    // all parts read the same range. The policies have other function scans in their sub-selects.
    let looped =
        large.plans.iter().flat_map(|plan| nodes(&plan["Plan"])).filter(|node| node["Node Type"] == "Nested Loop");
    let from: Vec<&Value> = looped.map(|node| &node["Plans"][0]["Function Name"]).collect();
    assert_eq!(from, ["unnest"], "{:#}", large.plans[0]);
    println!("buffers of an empty pull, 3 spaces: {} at 10 k rows, {} at 1 M", small.buffers, large.buffers);
    // An index of a million rows is one level deeper: each of the four scans reads one page more.
    assert!(large.buffers <= small.buffers * 6 / 5 + 4, "{} {}", small.buffers, large.buffers);

    // Sessions whose settings would lead to other plans. The call must leave these settings unchanged.
    for settings in [
        "SET enable_indexscan = off; SET enable_indexonlyscan = off; SET plan_cache_mode = force_custom_plan; SET jit_above_cost = 0",
        "SET random_page_cost = 1000; SET cpu_index_tuple_cost = 1000; SET plan_cache_mode = force_generic_plan",
        "SET enable_nestloop = off; SET enable_material = off; SET join_collapse_limit = 1; SET from_collapse_limit = 1",
        "SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET plan_cache_mode = force_custom_plan",
    ] {
        let mut odd = Explained::new(&cluster);
        odd.client.batch_execute(settings).unwrap();
        for since in [None, Some(cursor.as_str())] {
            assert_ordered(&odd.pull("reader", 3, since, 1000), settings);
        }
        let kept = "SELECT name FROM pg_settings WHERE name ~ '^enable_|^jit$' AND setting <> reset_val ORDER BY name";
        let changed: Vec<String> = odd.client.query(kept, &[]).unwrap().iter().map(|row| row.get(0)).collect();
        let asked: Vec<&str> = settings.split([' ', ';']).filter(|word| word.starts_with("enable_")).collect();
        assert!(changed.iter().all(|name| asked.contains(&name.as_str())), "{changed:?}");
        assert_eq!(changed.len(), asked.len());
    }

    // A page over a hundred spaces reads about as much as a page needs, and the last page of a walk as much as the
    // first.
    let mut walk = Vec::new();
    let mut since = None;
    loop {
        let pull = early.pull("reader", SPACES, since.as_deref(), 1000);
        if pull.rows < 1000 {
            break;
        }
        since = pull.cursor.clone();
        walk.push(pull);
        if walk.len() == 3 {
            break;
        }
    }
    assert_eq!(walk.len(), 3);
    for pull in &walk {
        assert_ordered(pull, "a page over 100 spaces");
        let read = rows_read(pull);
        assert!((1000..=2500).contains(&read), "a page of 1,000 rows over {SPACES} spaces read {read}");
        // In the worst case each row is on a page of its own, and each space costs one descent of its index.
        assert!(pull.buffers <= 2500 + 5 * SPACES as i64, "{}", pull.buffers);
    }
    println!(
        "rows read for a page of 1,000 over {SPACES} spaces: {:?}, buffers {:?}",
        walk.iter().map(rows_read).collect::<Vec<_>>(),
        walk.iter().map(|pull| pull.buffers).collect::<Vec<_>>()
    );

    // The first sync of one user: 5,000 rows in pages of 500. The last page must read as much as the first.
    let mut pages = Vec::new();
    let mut since = None;
    loop {
        let pull = early.pull("u7", 0, since.as_deref(), 500);
        since = pull.cursor.clone();
        if pull.rows < 500 {
            break;
        }
        assert_eq!(rows_read(&pull), 500);
        assert_ordered(&pull, "first sync");
        pages.push(pull.buffers);
    }
    println!("buffers of the pages of a first sync: {pages:?}");
    assert_eq!(pages.len(), 10);
    let (first, last) = (pages[0], pages[9]);
    assert!(last <= first * 6 / 5 + 4, "{pages:?}");

    // A hundred open writers that have an id and do nothing, for a reader in 3 spaces and for one in 100.
    for spaces in [3, SPACES] {
        let cursor = at_rest(&mut early, spaces);
        app.batch_execute("SELECT pg_current_xact_id()").unwrap();
        let alone = early.pull("reader", spaces, Some(&cursor), 1000);
        let mut idle: Vec<Client> = (0..100).map(|_| cluster.app(DATABASE)).collect();
        idle.iter_mut().for_each(|client| client.batch_execute("BEGIN; SELECT pg_current_xact_id()").unwrap());
        app.batch_execute("SELECT mana_sync.record_change('app', 'notes', 'own', 'reader', NULL, 'insert', 'c', '{}')")
            .unwrap();
        let cursor = at_rest(&mut early, spaces);
        app.batch_execute("SELECT pg_current_xact_id()").unwrap();
        let crowded = early.pull("reader", spaces, Some(&cursor), 1000);
        assert_eq!(crowded.rows, 0);
        assert_ordered(&crowded, "100 idle open writers");
        println!(
            "buffers of an empty pull, {spaces} spaces: {} alone, {} beside 100 open writers",
            alone.buffers, crowded.buffers
        );
        assert!(crowded.buffers <= alone.buffers * 6 / 5 + 4, "{} {}", alone.buffers, crowded.buffers);
        // The writers end. The next pull looks for what they wrote, without probing each space for each writer.
        idle.iter_mut().for_each(|client| client.batch_execute("COMMIT").unwrap());
        // One pull before it plans the statements that have not been needed so far.
        early.pull("reader", spaces, Some(&cursor), 1000);
        let ended = early.pull("reader", spaces, Some(&cursor), 1000);
        assert_eq!(ended.rows, 0);
        assert_ordered(&ended, "100 writers have ended");
        println!("    {} when all have ended", ended.buffers);
        assert!(ended.buffers <= alone.buffers * 2 + 20, "{} {}", alone.buffers, ended.buffers);
    }

    // Again with writers that end, but now there are rows of others between their ids, in every space. The reader has
    // received these rows. If there are many of them, the pull makes at most one index descent for each ended writer
    // and space, and reads few of the rows. If there are few rows between many ids, the pull reads the rows, and makes
    // no descent for each id.
    for (writers, every, rows, spaces) in [(50, 1, 10_000, 3), (50, 1, 10_000, SPACES), (150, 10, 200, SPACES)] {
        let mut idle: Vec<Client> = (0..writers).map(|_| cluster.app(DATABASE)).collect();
        for (number, client) in idle.iter_mut().enumerate() {
            client.batch_execute("BEGIN; SELECT pg_current_xact_id()").unwrap();
            app.batch_execute("SELECT pg_current_xact_id()").unwrap();
            if number % every == 0 {
                add_transaction(&mut superuser, 0, rows);
            }
        }
        let cursor = at_rest(&mut early, spaces);
        app.batch_execute("SELECT pg_current_xact_id()").unwrap();
        let open = early.pull("reader", spaces, Some(&cursor), 1000);
        idle.iter_mut().for_each(|client| client.batch_execute("COMMIT").unwrap());
        let ended = early.pull("reader", spaces, Some(&cursor), 1000);
        println!(
            "{writers} writers, {rows} rows behind every {every}th, {spaces} spaces: {} buffers while open; {} buffers and {} rows in {} statements when ended",
            open.buffers,
            ended.buffers,
            rows_seen(&ended),
            ended.plans.len()
        );
        assert_eq!((open.rows, ended.rows), (0, 0));
        assert_ordered(&ended, "writers have ended, with rows between them");
        let parts = spaces as i64 + 1;
        assert!(open.buffers <= 10 * parts, "{}", open.buffers);
        assert!(rows_seen(&ended) <= 64 * parts, "{}", rows_seen(&ended));
        assert!(ended.buffers <= if every == 1 { 300 * parts } else { 60 * parts }, "{}", ended.buffers);
        assert!(ended.plans.len() <= 20, "{}", ended.plans.len());
    }

    // A user with many rows of its own pulls nothing new, before and after the end of a writer that was open all the
    // time, and with a filter that would remove each of its rows.
    let history =
        "INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, space_id, data)
         SELECT 'app', 'notes', 'r' || i, 'heavy', 'insert', 'phone', 's' || i % 3, '{}'
         FROM generate_series(1, 50000) AS i";
    superuser.batch_execute(history).unwrap();
    let mut idle = cluster.app(DATABASE);
    idle.batch_execute("BEGIN; SELECT pg_current_xact_id()").unwrap();
    superuser.batch_execute(history).unwrap();
    let mut all: Option<String> = None;
    loop {
        let pull = early.pull("heavy", 3, all.as_deref(), 100_000);
        all = pull.cursor.or(all);
        if pull.rows == 0 {
            break;
        }
    }
    app.batch_execute("SELECT pg_current_xact_id()").unwrap();
    for ended in [false, true] {
        if ended {
            idle.batch_execute("COMMIT").unwrap();
        }
        for exclude in [None, Some("phone")] {
            let pull = early.pull_filtered("heavy", 3, all.as_deref(), 1000, exclude);
            println!("a user of 100,000 rows, {exclude:?} left out, ended {ended}: {} buffers", pull.buffers);
            assert_eq!((pull.rows, rows_seen(&pull)), (0, 0));
            assert!(pull.buffers <= 40, "{}", pull.buffers);
        }
    }

    // The same check must report a plan without one of the indexes.
    for index in ["sync_changes_own_idx", "sync_changes_space_idx"] {
        let valid = |is: bool| {
            format!("UPDATE pg_index SET indisvalid = {is} WHERE indexrelid = 'mana_sync.{index}'::regclass")
        };
        superuser.batch_execute(&valid(false)).unwrap();
        let pull = Explained::new(&cluster).pull("reader", 3, Some(&cursor), 1000);
        assert!(fault(&pull).is_some_and(|fault| fault.contains("sync_changes")), "without {index}");
        superuser.batch_execute(&valid(true)).unwrap();
    }
    assert_ordered(&Explained::new(&cluster).pull("reader", 3, Some(&cursor), 1000), "with both again");
}

#[test]
fn maintenance_reads_the_log_in_the_order_of_its_index() {
    let cluster = Cluster::with_log(Options::default().set("autovacuum", "off"));
    let mut superuser = cluster.superuser(DATABASE);
    add_rows(&mut superuser, 0, 20_000);
    superuser
        .batch_execute(
            "INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, space_id)
             SELECT 'app', 'notes', 'r' || i, 'u' || i, 'delete', 'c', CASE WHEN i % 2 = 0 THEN 's' || i END
             FROM generate_series(1, 20) AS i",
        )
        .unwrap();
    analyze(&mut superuser);
    let mut explained = Explained::new(&cluster);
    explained.client.batch_execute("RESET ROLE").unwrap();
    for (call, statement, least) in [
        // Each batch continues after the one before.
        (
            "CALL mana_sync.compact(older_than => '0', batch_size => 1000, dry_run => true)",
            "> ROW($1, $2, $3, $4, $5)",
            10,
        ),
        ("CALL mana_sync.compact(user_id => 'u7', older_than => '0', dry_run => true)", "> ROW($1, $2, $3, $4, $5)", 1),
        // A record with a delete is read completely.
        ("SELECT mana_sync.purge_deleted('0')", "ELSE c.space_id END DESC", 20),
    ] {
        let brief = |text: &str| text.replace("OPERATOR(pg_catalog.>)", ">");
        let plans: Vec<Value> = explained
            .run(call)
            .into_iter()
            .filter(|plan| brief(plan["Query Text"].as_str().unwrap()).contains(statement))
            .collect();
        println!("{call}: {} plans", plans.len());
        assert!(plans.len() >= least, "{call}: {} plans", plans.len());
        for plan in &plans {
            let nodes = nodes(&plan["Plan"]);
            let is_sorted = nodes.iter().any(|node| node["Node Type"].as_str().unwrap().contains("Sort"));
            let scans = nodes.iter().filter(|node| node["Relation Name"] == "sync_changes");
            let indexes: Vec<&Value> = scans.map(|scan| &scan["Index Name"]).collect();
            assert!(!is_sorted && indexes == ["sync_changes_record_idx"], "{call}: {plan:#}");
        }
    }
}

/// `push` looks up the space of a change that names none. Its plan is made while the table is empty. Later, it must
/// still read no more than a few index descents.
#[test]
fn a_change_without_a_space_looks_its_record_up_and_reads_no_history() {
    let cluster = Cluster::with_log(Options::default().set("autovacuum", "off"));
    let mut superuser = cluster.superuser(DATABASE);
    let mut session = Explained::new(&cluster);
    let mut lookup = |record: &str, since_when: &str| -> (i64, Option<String>) {
        let sql = format!(
            "SELECT mana_sync.push('ann', 'app', '{{\"changes\": [{{\"table\": \"notes\", \"id\": \"{record}\", \"op\": \"update\",
                 \"fields\": {{}}}}]}}', space_ids => '{{home,work}}')::text"
        );
        let plans = session.run(&sql);
        let of = |text: &str| plans.iter().find(|plan| plan["Query Text"].as_str().unwrap().contains(text));
        let plan = of("AS first").unwrap_or_else(|| panic!("{since_when}: no look-up was explained"));
        for node in nodes(&plan["Plan"]).iter().filter(|node| node["Relation Name"] == "sync_changes") {
            let condition = node["Index Cond"].as_str().unwrap_or_default();
            assert!(
                node["Index Name"] == "sync_changes_record_idx" && condition.contains("record_id = "),
                "{since_when}: {node:#}"
            );
        }
        let space = "SELECT space_id FROM mana_sync.sync_changes WHERE user_id = 'ann' AND record_id = $1 ORDER BY epoch DESC, xact DESC, seq DESC LIMIT 1";
        (buffers(&plan["Plan"]), superuser.query_one(space, &[&record]).unwrap().get(0))
    };
    assert_eq!(lookup("new", "an empty log").1, None);

    // A record id that 100,000 other users use for a private record, and 1,000 for one in a space; and the long history
    // of Ann's own record.
    let mut filler = cluster.superuser(DATABASE);
    let insert = "INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, space_id, data) SELECT 'app', 'notes',";
    for rows in [
        "'settings', 'u' || i, 'insert', 'c', NULL, '{}' FROM generate_series(1, 100000) AS i",
        "'settings', 'u' || i, 'insert', 'c', 's' || i, '{}' FROM generate_series(1, 1000) AS i",
        "'settings', 'ann', 'update', 'c', 'home', '{}' FROM generate_series(1, 20000) AS i",
        "'diary', 'ann', 'update', 'c', NULL, '{}' FROM generate_series(1, 20000) AS i",
    ] {
        filler.batch_execute(&format!("{insert} {rows}")).unwrap();
    }
    for when in ["not analysed", "analysed"] {
        let (shared, space) = lookup("settings", when);
        assert_eq!(space.as_deref(), Some("home"));
        let (private, space) = lookup("diary", when);
        assert_eq!(space, None);
        println!("{when}: {shared} buffers for a shared record, {private} for a private one");
        assert!(shared < 30 && private < 15, "{when}: {shared} {private}");
        analyze(&mut filler);
    }
}

/// Record ids are often the same for all users: `settings`, a date, a number. A page of records must then not read the
/// private rows of other users, and a later page of a walk must not read the history of its records again.
#[test]
fn a_page_of_records_reads_no_rows_of_others_with_the_same_ids() {
    const USERS: i32 = 200;
    const RECORDS: i32 = 50;
    const CHANGES: i32 = 6;
    let cluster = Cluster::with_log(Options::default().set("autovacuum", "off"));
    let (mut superuser, mut early) = (cluster.superuser(DATABASE), Explained::new(&cluster));
    let page = |since: Option<&str>, page_size: i32| {
        let since = since.map_or("NULL".into(), |since| format!("'{since}'"));
        format!(
            "SELECT record_id, data ->> 'n' AS n, cursor
             FROM mana_sync.records_since('u7', 'app', since => {since}, page_size => {page_size}, space_ids => '{{s1,s2,s3}}')"
        )
    };
    // The first plans are made while the table is empty.
    let first = "SELECT mana_sync.record_change('app', 'notes', 'r1', 'u7', NULL, 'insert', 'c', '{}')";
    early.client.batch_execute(first).unwrap();
    early.run(&page(None, 10));
    superuser
        .execute(
            "INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, space_id, data)
             SELECT 'app', 'notes', 'r' || r, 'u' || u, 'update', 'c', CASE WHEN u % 10 = 3 THEN 's' || u % 40 END,
                    jsonb_build_object('n', n)
             FROM generate_series(1, $3) AS n, generate_series(1, $2) AS r, generate_series(1, $1) AS u",
            &[&USERS, &RECORDS, &CHANGES],
        )
        .unwrap();
    let mut read_page = |since: Option<&str>, page_size: i32| {
        let sql = page(since, page_size);
        let plans = early.run(&sql);
        let rows = early.client.query(&sql, &[]).unwrap();
        let (whole, plans): (Vec<Value>, Vec<Value>) =
            plans.into_iter().partition(|plan| plan["Query Text"].as_str().unwrap().contains("records_since("));
        let pull = Pull {
            rows: rows.len(),
            cursor: rows.last().and_then(|row| row.get("cursor")),
            plans,
            buffers: buffers(&whole[0]["Plan"]),
        };
        let scans: Vec<&Value> = pull
            .plans
            .iter()
            .flat_map(|plan| nodes(&plan["Plan"]))
            .filter(|node| node["Relation Name"] == "sync_changes")
            .collect();
        for scan in &scans {
            assert_eq!(scan["Node Type"], "Index Scan", "{scan:#}");
        }
        let reads_records = scans.iter().any(|scan| scan["Index Name"] == "sync_changes_record_idx");
        assert_eq!(reads_records, pull.rows > 0, "{:#?}", pull.plans);
        pull
    };
    for analyzed in [false, true] {
        if analyzed {
            analyze(&mut superuser);
        }
        // Own rows, and those of the members of s3: users 3, 43, 83, 123 and 163. The walk reads each, and so does the merge.
        let visible = i64::from(1 + RECORDS * CHANGES * 6);
        let whole = read_page(None, 1000);
        assert_eq!(whole.rows, RECORDS as usize);
        let seen = rows_seen(&whole);
        println!(
            "rows read for {RECORDS} records with {visible} changes among {USERS} users: {seen}, buffers {}",
            whole.buffers
        );
        assert!(2 * seen <= 5 * visible, "{seen} rows for {visible} changes");
        // A walk of five pages. Each reads a portion of the walk, which is larger than these pages; each record is merged once, and
        // searched for once on each page.
        let (mut since, mut read, mut records) = (None::<String>, 0, 0);
        loop {
            let pull = read_page(since.as_deref(), RECORDS / 5);
            records += pull.rows;
            read += rows_seen(&pull);
            match pull.cursor {
                Some(cursor) => since = Some(cursor),
                None => break,
            }
        }
        assert_eq!(records, RECORDS as usize);
        println!("the same in pages of {}: {read} rows", RECORDS / 5);
        assert!(read <= 10 * visible, "{read} rows for {visible} changes");
    }
}
