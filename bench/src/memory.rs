//! What a backend holds while it merges or exports a million changes, and what stays when it does the same again and
//! again.
//!
//! The peak of a process counts the shared buffers that it has touched, so that there are few of them; its own memory
//! is sampled besides. A backend that has done next to nothing tells what the server itself takes.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mana_sync_servers::cluster::DATABASE;
use mana_sync_servers::{Cluster, Options};
use postgres::Client;
use serde_json::{Value, json};

use crate::Result;
use crate::server::write_histories;

/// Records of the user with a large log: a million changes.
const RECORDS: i32 = 100_000;
/// Records of the user whose log is read again and again: 10,000 changes.
const FEW_RECORDS: i32 = 1000;

/// Calls after which the memory of a backend is compared.
const CALLS: [usize; 2] = [20, 200];

/// Memory of a process, in kB.
struct Memory {
    /// All of it, shared buffers included, when that was most.
    peak: u64,
    /// Its own.
    own: u64,
}

impl Memory {
    fn of(pid: i32) -> Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = |name: &str| {
            let rest = status.lines().find_map(|line| line.strip_prefix(name));
            rest.and_then(|rest| rest.trim_start_matches(':').trim().split(' ').next()?.parse().ok()).unwrap_or(0)
        };
        Ok(Memory { peak: line("VmHWM"), own: line("RssAnon") })
    }
}

/// What memory is measured of.
struct Measured<'a> {
    name: &'static str,
    work: &'a dyn Fn(&mut Client) -> Result<()>,
}

/// Prints one line for each call.
pub fn memory() -> Result<Value> {
    let options =
        Options::default().set("shared_buffers", "16MB").set("max_wal_size", "4GB").set("log_temp_files", "0");
    let cluster = Cluster::with_log(options);
    let mut owner = cluster.superuser(DATABASE);
    let small = write_histories(&mut owner, "small", FEW_RECORDS)?;
    let changes = write_histories(&mut owner, "big", RECORDS)?;
    let version: String = owner.query_one("SHOW server_version", &[])?.get(0);
    let count = |sql: &'static str| {
        move |client: &mut Client| {
            client.query_one(sql, &[])?;
            Ok(())
        }
    };
    let measured = [
        Measured {
            name: "records of nobody",
            work: &count("SELECT count(*), sum(length(data::text)) FROM mana_sync.records('nobody', 'app')"),
        },
        Measured {
            name: "records",
            work: &count("SELECT count(*), sum(length(data::text)) FROM mana_sync.records('big', 'app')"),
        },
        Measured {
            name: "export_changes of nobody",
            work: &count("SELECT count(*) FROM mana_sync.export_changes('nobody')"),
        },
        Measured { name: "export_changes", work: &count("SELECT count(*) FROM mana_sync.export_changes('big')") },
        Measured { name: "export_changes, a cursor, FETCH 1000", work: &|client| export(client, changes) },
    ];
    println!(
        "\nmemory of a backend in MB, {changes} changes of {RECORDS} records, shared_buffers 16MB, PostgreSQL {version}"
    );
    println!(
        "  {:40} {:>7} {:>9} {:>9} {:>9} {:>11} {:>8}",
        "", "peak", "own then", "before", "after", "temp. files", "seconds"
    );
    let calls = measured.iter().map(|measured| call(&cluster, measured)).collect::<Result<Vec<Value>>>()?;
    let first_row = first_row(&cluster)?;
    println!("  {:40} {first_row:>7.2} ms", "first row of export_changes");
    println!("\nown memory of a backend in MB after {} and after {} calls", CALLS[0], CALLS[1]);
    let repeated = [
        repeat(&cluster, "records of 10,000 changes", "SELECT count(*) FROM mana_sync.records('small', 'app')")?,
        repeat(&cluster, "pull of a page of 1,000", "SELECT length(mana_sync.pull('small', 'app')::text)")?,
    ];
    Ok(json!({"what": "memory", "server": version, "changes": changes, "changes_of_small": small, "calls": calls,
              "first_row_ms": first_row, "repeated": repeated}))
}

/// A call in a backend of its own.
fn call(cluster: &Cluster, measured: &Measured) -> Result<Value> {
    let (mut client, pid) = backend(cluster)?;
    let before = Memory::of(pid)?;
    let (done, start) = (AtomicBool::new(false), Instant::now());
    let own = thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut own = 0;
            while !done.load(Ordering::Relaxed) {
                own = Memory::of(pid).map_or(own, |memory| own.max(memory.own));
                thread::sleep(Duration::from_millis(2));
            }
            own
        });
        let result = (measured.work)(&mut client);
        done.store(true, Ordering::Relaxed);
        let own = sampler.join().expect("the sampler only reads");
        result.map(|()| own)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let after = Memory::of(pid)?;
    let temporary = temporary_files(cluster, pid);
    println!(
        "  {:40} {:>7.1} {:>9.1} {:>9.1} {:>9.1} {:>11.1} {seconds:>8.2}",
        measured.name,
        mb(after.peak),
        mb(own),
        mb(before.own),
        mb(after.own),
        temporary as f64 / (1 << 20) as f64,
    );
    Ok(json!({"name": measured.name, "seconds": seconds, "peak_kb": after.peak, "peak_before_kb": before.peak,
              "own_peak_kb": own, "own_before_kb": before.own, "own_after_kb": after.own,
              "temporary_bytes": temporary}))
}

/// A new connection of the plain role, and the process that serves it.
fn backend(cluster: &Cluster) -> Result<(Client, i32)> {
    let mut client = cluster.app(DATABASE);
    let pid = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    Ok((client, pid))
}

/// Reads an export to its end in portions.
fn export(client: &mut Client, changes: u64) -> Result<()> {
    let mut transaction = client.transaction()?;
    transaction.batch_execute("DECLARE export NO SCROLL CURSOR FOR SELECT * FROM mana_sync.export_changes('big')")?;
    let fetch = transaction.prepare("FETCH 1000 FROM export")?;
    let mut rows = 0;
    loop {
        match transaction.query(&fetch, &[])?.len() as u64 {
            0 => break,
            portion => rows += portion,
        }
    }
    assert_eq!(rows, changes);
    Ok(transaction.commit()?)
}

/// Milliseconds from the opening of a cursor to its first row, in a new backend.
fn first_row(cluster: &Cluster) -> Result<f64> {
    let (mut client, _) = backend(cluster)?;
    let mut transaction = client.transaction()?;
    let start = Instant::now();
    transaction.batch_execute("DECLARE export NO SCROLL CURSOR FOR SELECT * FROM mana_sync.export_changes('big')")?;
    assert_eq!(transaction.query("FETCH 1 FROM export", &[])?.len(), 1);
    Ok(start.elapsed().as_secs_f64() * 1000.0)
}

/// The same statement again and again in one backend.
fn repeat(cluster: &Cluster, name: &str, sql: &str) -> Result<Value> {
    let (mut client, pid) = backend(cluster)?;
    let statement = client.prepare(sql)?;
    let mut own = Vec::new();
    for call in 1..=CALLS[1] {
        client.query_one(&statement, &[])?;
        if CALLS.contains(&call) {
            own.push(Memory::of(pid)?.own);
        }
    }
    println!("  {name:40} {:>7.2} {:>7.2}", mb(own[0]), mb(own[1]));
    Ok(json!({"name": name, "calls": CALLS, "own_kb": own}))
}

/// Bytes of the temporary files that a process has removed.
fn temporary_files(cluster: &Cluster, pid: i32) -> u64 {
    let mark = format!("[{pid}]");
    let log = cluster.server_log();
    let sizes = log.lines().filter(|line| line.contains(&mark) && line.contains("temporary file: path"));
    sizes.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

fn mb(kb: u64) -> f64 {
    kb as f64 / 1024.0
}
