//! What writers of single rows lose to the worker that wakes readers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mana_sync_servers::cluster::DATABASE;
use mana_sync_servers::{Cluster, Options};
use postgres::Client;
use serde_json::{Value, json};

use crate::Result;
use crate::server::server;
use crate::times::Times;

/// Clients that write at once.
const CLIENTS: usize = 32;

/// Throughput of writers of single rows, with the worker and without.
pub fn wakeups(rounds: usize) -> Result<Value> {
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
