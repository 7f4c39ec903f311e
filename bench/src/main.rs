//! `make bench`: mana_sync beside the store that it replaces, and beside plain PostgreSQL, on one private server, in turns.
//!
//! Prints ratios first: machines are noisy, and both sides of a ratio were measured in the same seconds. Each figure is the
//! median of the rounds, with the fastest and the slowest. The same as JSON is in target/bench.json.
//!
//! What is measured here is writing; ROUNDS=n sets the number of rounds.

use std::error::Error;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mana_sync_servers::cluster::DATABASE;
use mana_sync_servers::{Cluster, Options};
use postgres::Client;
use serde_json::{Value, json};

/// Changes of a push.
const CHANGES: usize = 1000;
/// Clients that write at once where wake-ups are measured.
const CLIENTS: usize = 32;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    if std::env::args().len() > 1 {
        println!("usage: mana_sync_bench\n\nROUNDS=n in the environment sets the number of rounds (default 7).");
        return Ok(());
    }
    let rounds: usize = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(7);
    let mut results = Vec::new();
    for synchronous_commit in ["off", "on"] {
        results.push(push(synchronous_commit, rounds)?);
    }
    results.push(wakeups(rounds)?);
    let file = "target/bench.json";
    std::fs::write(file, serde_json::to_string_pretty(&results)?)?;
    println!("\nwritten to {file}");
    Ok(())
}

/// Times of the alternatives of one comparison, in rounds.
struct Times {
    name: &'static str,
    seconds: Vec<f64>,
}

impl Times {
    fn new(name: &'static str) -> Times {
        Times { name, seconds: Vec::new() }
    }

    fn measure(&mut self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let start = Instant::now();
        work()?;
        self.seconds.push(start.elapsed().as_secs_f64());
        Ok(())
    }

    /// The median, the least and the greatest.
    fn spread(&self) -> (f64, f64, f64) {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        (sorted[sorted.len() / 2], sorted[0], sorted[sorted.len() - 1])
    }

    fn print(&self, of: usize) {
        let (median, least, greatest) = self.spread();
        let rate = |seconds: f64| of as f64 / seconds;
        println!("  {:58} {:>9.0}/s  ({:.0} to {:.0})", self.name, rate(median), rate(greatest), rate(least));
    }

    fn json(&self) -> Value {
        let (median, least, greatest) = self.spread();
        json!({"name": self.name, "median": median, "least": least, "greatest": greatest})
    }
}

fn server(options: Options) -> Result<Cluster> {
    let cluster = Cluster::with_log(options.durable().set("shared_buffers", "512MB").set("max_wal_size", "4GB"));
    cluster.superuser(DATABASE).batch_execute(include_str!("../original.sql"))?;
    Ok(cluster)
}

/// `data` of change `i`: about 200 bytes.
fn data(i: usize) -> Value {
    json!({"title": format!("Item {i}"), "done": i % 2 == 0, "text": "0123456789".repeat(14), "n": i})
}

fn push(synchronous_commit: &str, rounds: usize) -> Result<Value> {
    let cluster = server(Options::default())?;
    let (mut ours, mut theirs, mut owner) = (cluster.app(DATABASE), cluster.app(DATABASE), cluster.superuser(DATABASE));
    for client in [&mut ours, &mut theirs, &mut owner] {
        client.batch_execute(&format!("SET synchronous_commit = {synchronous_commit}"))?;
    }
    let version: String = owner.query_one("SHOW server_version", &[])?.get(0);
    let push = ours.prepare("SELECT mana_sync.push('ann', 'app', $1::text::jsonb)::text")?;
    let user = theirs.prepare("SELECT set_config('app.current_user_id', $1, true)")?;
    let spaces = theirs.prepare("SELECT set_config('app.current_user_space_ids', $1, true)")?;
    let insert = theirs.prepare(
        "INSERT INTO original.sync_changes (app_id, table_name, record_id, user_id, space_id, op, data, field_timestamps, client_id, schema_version, actor)
         VALUES ('app', 'notes', $1, 'ann', NULL, 'insert', $2::text::jsonb, '{}', 'phone', 1, NULL)",
    )?;
    let mut pushes = Times::new("push of 1,000 changes");
    let mut singles = Times::new("the original, a transaction a change");
    let mut copies = Times::new("COPY of the same rows into the same table, as the owner");
    for round in 0..=rounds {
        let ids = round * CHANGES..(round + 1) * CHANGES;
        let changes: Vec<Value> = ids
            .clone()
            .map(|i| json!({"table": "notes", "id": format!("r{i}"), "op": "insert", "data": data(i)}))
            .collect();
        let changeset = json!({"clientId": "phone", "changes": changes}).to_string();
        let rows: Vec<(String, String)> = ids.map(|i| (format!("r{i}"), data(i).to_string())).collect();
        let lines: String =
            rows.iter().map(|(id, data)| format!("app\tnotes\t{id}\tann\tinsert\tphone\t{data}\t{{}}\n")).collect();
        if round == 0 {
            // Warms up what is measured.
            for times in [&mut pushes, &mut singles, &mut copies] {
                times.seconds.clear();
            }
        }
        pushes.measure(|| {
            let answer: String = ours.query_one(&push, &[&changeset])?.get(0);
            assert!(answer.starts_with("{\"inserted\": 1000,"), "{answer}");
            Ok(())
        })?;
        singles.measure(|| {
            for (id, data) in &rows {
                let mut transaction = theirs.transaction()?;
                transaction.execute(&user, &[&"ann"])?;
                transaction.execute(&spaces, &[&""])?;
                transaction.execute(&insert, &[id, data])?;
                transaction.commit()?;
            }
            Ok(())
        })?;
        copies.measure(|| {
            let mut writer = owner.copy_in(
                "COPY mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data, field_timestamps) FROM STDIN",
            )?;
            writer.write_all(lines.as_bytes())?;
            writer.finish()?;
            Ok(())
        })?;
    }
    for times in [&mut pushes, &mut singles, &mut copies] {
        times.seconds.remove(0);
    }
    let (push_time, single_time, copy_time) = (pushes.spread().0, singles.spread().0, copies.spread().0);
    println!("\npush, PostgreSQL {version}, fsync on, synchronous_commit {synchronous_commit}, {rounds} rounds");
    println!("  {:5.1} x the original (contract, synchronous_commit off: 10)", single_time / push_time);
    println!("  {:5.2} x COPY (contract, synchronous_commit off: 0.5)", copy_time / push_time);
    [&pushes, &singles, &copies].into_iter().for_each(|times| times.print(CHANGES));
    Ok(json!({"what": "push", "synchronous_commit": synchronous_commit, "server": version, "changes": CHANGES,
              "times": [pushes.json(), singles.json(), copies.json()]}))
}

/// Throughput of writers of single rows, with the worker and without.
fn wakeups(rounds: usize) -> Result<Value> {
    let options = || Options::default().set("synchronous_commit", "off").set("max_connections", "60");
    let with =
        server(options().set("shared_preload_libraries", "mana_sync").set("mana_sync.wakeup_databases", DATABASE))?;
    let without = server(options().set("shared_preload_libraries", "mana_sync"))?;
    let mut times = [(Times::new("with wake-ups"), &with), (Times::new("without"), &without)];
    for round in 0..=rounds {
        for (times, cluster) in &mut times {
            let rate = throughput(cluster, Duration::from_secs(2))?;
            if round > 0 {
                times.seconds.push(1.0 / rate);
            }
        }
    }
    let [(with, _), (without, _)] = &times;
    println!("\nrecord_change, {CLIENTS} clients, synchronous_commit off, {rounds} rounds of 2 s");
    println!("  {:5.3} x without the worker (to be at least 0.95)", without.spread().0 / with.spread().0);
    [with, without].into_iter().for_each(|times| times.print(1));
    Ok(json!({"what": "wake-ups", "clients": CLIENTS, "times": [with.json(), without.json()]}))
}

/// Transactions a second.
fn throughput(cluster: &Cluster, time: Duration) -> Result<f64> {
    let (count, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| cluster.app(DATABASE)).collect();
    let start = Instant::now();
    thread::scope(|scope| {
        for (number, client) in clients.iter_mut().enumerate() {
            let (count, stop) = (&count, &stop);
            scope.spawn(move || {
                let sql = "SELECT mana_sync.record_change('app', 'notes', $1, $2, NULL, 'insert', 'phone', '{\"title\": \"hello\"}')";
                let statement = client.prepare(sql).expect("it can be prepared");
                let user = format!("user {number}");
                while !stop.load(Ordering::Relaxed) {
                    client.execute(&statement, &[&"r", &user]).expect("it is recorded");
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
    });
    Ok(count.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64())
}
