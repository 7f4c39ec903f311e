//! Measures the cost of pulls and pushes in logs of different sizes, for different numbers of spaces, while other
//! transactions stay open, and while other clients write without waiting for the flush of their commits.

use std::thread;

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::process::wait_until;
use mana_sync_harness::{Cluster, Options};
use postgres::Client;

use crate::Result;
use crate::report::{Contract, Figure, Part};
use crate::server::{Script, fill, pgbench, server};
use crate::single::{ORIGINAL, RECORD_CHANGE};
use crate::times::{Times, in_turns};

const SECONDS: u32 = 1;
/// The numbers of clients and of seconds for which they write, to fill the free space in old pages of a log of 10
/// million rows.
const USE_UP: (usize, u32) = (4, 30);
const SYNCHRONOUS_COMMIT_OFF: &str = "-c synchronous_commit=off";
/// The number of transactions that have an id and stay open.
const IDLE: usize = 100;
/// A user with a few rows.
const USER: &str = "user5";
/// Spaces of very different sizes.
const SPACES: [&str; 3] = ["space1", "space10", "space100"];

const PULL: &str =
    "SELECT * FROM mana_sync.changes_since(:user, 'app', since => :cursor, page_size => 1000, space_ids => :spaces)";
const ORIGINAL_PULL: &str = "BEGIN;
SELECT set_config('app.current_user_id', :user, true);
SELECT set_config('app.current_user_space_ids', :list, true);
SELECT id, table_name, record_id, op, data, field_timestamps, client_id, created_at, schema_version, space_id, actor FROM original.sync_changes WHERE (user_id = :user OR space_id = ANY(:spaces)) AND app_id = 'app' AND created_at > :since AND client_id != '' ORDER BY created_at ASC LIMIT 1000;
COMMIT;";

/// Returns the log sizes to measure, in rows of other users. The largest size is measured only on request.
fn sizes() -> Vec<u64> {
    let most = std::env::var("ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(1_000_000);
    [10_000, 100_000, 1_000_000, 10_000_000].into_iter().filter(|&rows| rows <= most).collect()
}

/// Returns the ratios between the largest and the smallest log, and the other ratios for the largest log.
pub fn growth(count: usize) -> Result<Part> {
    let sizes = sizes();
    let (smallest, largest) = (sizes[0], sizes[sizes.len() - 1]);
    let mut part = Part::new("growth", format!("{largest} rows of others, {count} rounds of {SECONDS} s by pgbench"));
    let (small, large) = (server(Options::default())?, server(Options::default())?);
    fill(&mut small.superuser(DATABASE), "others", 0..smallest, 1000)?;
    let mut filled = 0;
    for size in sizes {
        fill(&mut large.superuser(DATABASE), "others", filled..size, 1000)?;
        filled = size;
        let reader = Reader::new(&large, USER, &SPACES)?;
        let mut times = [Times::new(format!("empty pull of 3 spaces, {size} rows")), Times::new("the original")];
        in_turns(count, &mut times, |i| if i == 0 { reader.pull(&large) } else { reader.original_pull(&large) })?;
        part.point("empty pull against log size", "changes_since", size as f64, times[0].spread().median * 1000.0);
        part.point("empty pull against log size", "the original", size as f64, times[1].spread().median * 1000.0);
        // The contract names this size. The other sizes are recorded only.
        let contract = (size == 1_000_000).then_some(Contract::AtLeast(30.0));
        part.compare(&times[0], &times[1], contract);
        times.iter().for_each(|times| part.duration(times));
    }
    against_size(&mut part, (&small, smallest), (&large, largest), count)?;
    spaces(&mut part, &large, count)?;
    idle(&mut part, &large, count)?;
    flush(&mut part, &large, count)?;
    Ok(part)
}

/// Compares the same calls in a small and in a large log.
fn against_size(part: &mut Part, small: (&Cluster, u64), large: (&Cluster, u64), count: usize) -> Result<()> {
    let clusters = [large, small];
    let readers = [Reader::new(large.0, USER, &SPACES)?, Reader::new(small.0, USER, &SPACES)?];
    let mut times = clusters.map(|(_, rows)| Times::new(format!("empty pull of 3 spaces, {rows} rows of others")));
    in_turns(count, &mut times, |i| readers[i].pull(clusters[i].0))?;
    part.compare(&times[0], &times[1], Some(Contract::AtMost(1.2)));
    // VACUUM has recorded the free space of old pages, and the next rows go there: each needs a page that is read, and
    // written to the WAL in full.
    let contract = Some(Contract::AtMost(1.2));
    changes_against_size(part, clusters, ("record_change just after VACUUM", &RECORD_CHANGE), contract, count)?;
    // A small log has no such free space left.
    let (clients, seconds) = USE_UP;
    pgbench(large.0, &RECORD_CHANGE, clients, seconds, SYNCHRONOUS_COMMIT_OFF)?;
    for (cluster, _) in clusters {
        cluster.superuser(DATABASE).batch_execute("CHECKPOINT")?;
    }
    changes_against_size(part, clusters, ("record_change", &RECORD_CHANGE), contract, count)?;
    changes_against_size(part, clusters, ("the original's transaction", &ORIGINAL), None, count)
}

/// Measures single changes in two logs, and the work of the servers for them ([`Effort`]).
fn changes_against_size(
    part: &mut Part,
    clusters: [(&Cluster, u64); 2],
    (name, script): (&str, &Script),
    contract: Option<Contract>,
    count: usize,
) -> Result<()> {
    let of = |rows: u64| format!("{name}, {rows} rows of others");
    let mut times = clusters.map(|(_, rows)| Times::new(of(rows)));
    // An uncounted run first: the first one reads pages that the others then find in memory.
    for (cluster, _) in clusters {
        pgbench(cluster, script, 1, SECONDS, SYNCHRONOUS_COMMIT_OFF)?;
    }
    let before = [Effort::of(clusters[0].0)?, Effort::of(clusters[1].0)?];
    in_turns(count, &mut times, |i| pgbench(clusters[i].0, script, 1, SECONDS, SYNCHRONOUS_COMMIT_OFF))?;
    part.compare(&times[0], &times[1], contract);
    times.iter().for_each(|times| part.duration(times));
    for ((cluster, rows), before) in clusters.into_iter().zip(before) {
        let [wal, read] = Effort::of(cluster)?.a_transaction_since(before);
        part.figures.push(Figure::once(format!("WAL of {}", of(rows)), wal, "bytes"));
        part.figures.push(Figure::once(format!("pages read by {}", of(rows)), read, ""));
    }
    Ok(())
}

/// The counters of a server's work. They explain the measured times.
struct Effort {
    transactions: f64,
    wal_bytes: f64,
    pages_read: f64,
}

impl Effort {
    fn of(cluster: &Cluster) -> Result<Effort> {
        let row = cluster.superuser(DATABASE).query_one(
            "SELECT xact_commit::float8, (pg_current_wal_insert_lsn() - '0/0')::float8, blks_read::float8
             FROM pg_stat_database WHERE datname = current_database()",
            &[],
        )?;
        Ok(Effort { transactions: row.get(0), wal_bytes: row.get(1), pages_read: row.get(2) })
    }

    /// Returns the bytes of WAL and the pages read per transaction since `before`.
    fn a_transaction_since(self, before: Effort) -> [f64; 2] {
        let transactions = self.transactions - before.transactions;
        [self.wal_bytes - before.wal_bytes, self.pages_read - before.pages_read].map(|all| all / transactions)
    }
}

/// Measures pulls of a user in 1, 10, 100 and 1,000 spaces: while nobody writes, and after another user's transaction.
/// Because of such a transaction, the pull must search in each space.
fn spaces(part: &mut Part, cluster: &Cluster, count: usize) -> Result<()> {
    let numbers = [1, 10, 100, 1000];
    // Autovacuum also counts as a writer, because its ANALYZE takes a transaction id.
    cluster.configure(&[("autovacuum", "off")]);
    cluster.reload();
    let mut superuser = cluster.superuser(DATABASE);
    wait_until("autovacuum is at rest", || {
        let query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'autovacuum%'";
        superuser.query(query, &[]).expect("a view is readable").is_empty()
    });
    let mut readers = Vec::new();
    for number in numbers {
        let spaces: Vec<String> = (0..number).map(|i| format!("space{i}")).collect();
        readers.push(Reader::new(cluster, USER, &spaces)?);
    }
    for (when, series) in [("", "nobody has written"), (", others have written", "others have written")] {
        let mut times = numbers.map(|number| Times::new(format!("empty pull of {number} spaces{when}")));
        in_turns(count, &mut times, |i| readers[i].pull(cluster))?;
        part.compare(&times[3], &times[2], Some(Contract::AtMost(3.0)));
        for (times, number) in times.iter().zip(numbers) {
            part.duration(times);
            part.point("empty pull against spaces", series, f64::from(number), times.spread().median * 1000.0);
        }
        superuser.batch_execute("SELECT pg_current_xact_id()")?;
    }
    cluster.configure(&[("autovacuum", "on")]);
    cluster.reload();
    Ok(())
}

/// Measures empty pulls while other connections have a transaction id and do nothing.
fn idle(part: &mut Part, cluster: &Cluster, count: usize) -> Result<()> {
    let mut clients: Vec<Client> = (0..IDLE).map(|_| cluster.app(DATABASE)).collect();
    let all: Vec<String> = (0..100).map(|i| format!("space{i}")).collect();
    for (number, spaces) in [(3, SPACES.map(String::from).to_vec()), (100, all)] {
        let mut times = [
            Times::new(format!("empty pull of {number} spaces beside {IDLE} open transactions")),
            Times::new("the same beside none"),
        ];
        in_turns(count, &mut times, |alternative| {
            if alternative == 0 {
                for client in &mut clients {
                    client.batch_execute("BEGIN; SELECT pg_current_xact_id()")?;
                }
            }
            let seconds = Reader::new(cluster, USER, &spaces)?.pull(cluster)?;
            if alternative == 0 {
                for client in &mut clients {
                    client.batch_execute("COMMIT")?;
                }
            }
            Ok(seconds)
        })?;
        part.compare(&times[0], &times[1], Some(Contract::AtMost(1.2)));
        times.iter().for_each(|times| part.duration(times));
    }
    Ok(())
}

/// Measures the cost of flushing the write-ahead log before a cursor is issued: empty pulls with `fsync` on and off,
/// while other clients write without waiting for the flush.
fn flush(part: &mut Part, cluster: &Cluster, count: usize) -> Result<()> {
    let mut times = [
        Times::new("empty pull beside 4 writers with synchronous_commit off"),
        Times::new("the same with fsync off: no flush"),
    ];
    in_turns(count, &mut times, |alternative| {
        cluster.configure(&[("fsync", if alternative == 0 { "on" } else { "off" })]);
        cluster.reload();
        let mut superuser = cluster.superuser(DATABASE);
        wait_until("fsync is changed", || {
            let row = superuser.query_one("SHOW fsync", &[]).expect("a setting is readable");
            row.get::<_, &str>(0) == if alternative == 0 { "on" } else { "off" }
        });
        let reader = Reader::new(cluster, USER, &SPACES)?;
        Ok(thread::scope(|scope| {
            let writers = scope.spawn(|| {
                pgbench(cluster, &RECORD_CHANGE, 4, SECONDS + 1, SYNCHRONOUS_COMMIT_OFF).map_err(|e| e.to_string())
            });
            let pull = reader.pull(cluster).map_err(|error| error.to_string());
            writers.join().expect("no panic").and(pull)
        })?)
    })?;
    cluster.configure(&[("fsync", "on")]);
    cluster.reload();
    part.compare(&times[0], &times[1], None);
    times.iter().for_each(|times| part.duration(times));
    Ok(())
}

/// A device that has received everything.
struct Reader {
    user: String,
    spaces: Vec<String>,
    cursor: String,
    since: String,
}

impl Reader {
    fn new(cluster: &Cluster, user: &str, spaces: &[impl AsRef<str>]) -> Result<Reader> {
        let spaces: Vec<String> = spaces.iter().map(|space| space.as_ref().into()).collect();
        let mut client = cluster.app(DATABASE);
        let page = client.prepare(
            "SELECT cursor FROM mana_sync.changes_since($1, 'app', since => $2, page_size => 5000, space_ids => $3)",
        )?;
        let mut cursor: Option<String> = None;
        while let Some(last) = client.query(&page, &[&user, &cursor, &spaces])?.last() {
            cursor = last.get(0);
        }
        let now = "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
        let since = client.query_one(now, &[])?.get(0);
        Ok(Reader { user: user.into(), spaces, cursor: cursor.ok_or("a reader without a row")?, since })
    }

    /// Measures an empty pull. Returns its seconds.
    fn pull(&self, cluster: &Cluster) -> Result<f64> {
        let spaces = format!("{{{}}}", self.spaces.join(","));
        let variables = [("user", self.user.as_str()), ("cursor", &self.cursor), ("spaces", &spaces)];
        pgbench(cluster, &Script { sql: PULL, as_owner: false, variables: &variables }, 1, SECONDS, "")
    }

    fn original_pull(&self, cluster: &Cluster) -> Result<f64> {
        let (list, spaces) = (self.spaces.join(","), format!("{{{}}}", self.spaces.join(",")));
        let variables =
            [("user", self.user.as_str()), ("since", &self.since), ("spaces", &spaces), ("list", list.as_str())];
        pgbench(cluster, &Script { sql: ORIGINAL_PULL, as_owner: false, variables: &variables }, 1, SECONDS, "")
    }
}
