//! Measures how much the wake-up worker slows down writers of single rows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::{Cluster, Options};
use postgres::Client;

use crate::Result;
use crate::report::{Contract, Part};
use crate::server::server;
use crate::times::{Times, in_turns};

/// The number of clients that write concurrently.
const CLIENTS: usize = 32;

/// Returns the throughput of writers of single rows, with the worker and without it.
pub fn wakeups(count: usize) -> Result<Part> {
    let options = || Options::default().set("synchronous_commit", "off");
    let with =
        server(options().set("shared_preload_libraries", "mana_sync").set("mana_sync.wakeup_databases", DATABASE))?;
    let without = server(options().set("shared_preload_libraries", "mana_sync"))?;
    let mut times = [Times::new("record_change with wake-ups"), Times::new("record_change without")];
    in_turns(count, &mut times, |i| Ok(1.0 / throughput([&with, &without][i], Duration::from_secs(2))?))?;
    let mut part = Part::new("wakeups", format!("{CLIENTS} clients, synchronous_commit off, {count} rounds of 2 s"));
    part.compare(&times[0], &times[1], Some(Contract::AtLeast(0.95)));
    times.iter().for_each(|times| part.rate(times, 1));
    Ok(part)
}

/// Measures the writers for `time`, and returns their transactions per second.
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
