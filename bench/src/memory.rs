//! Measures the memory of a backend that merges or exports a million changes, reads a large page or takes a large push.
//! Also measures the memory that a backend keeps after many such calls.
//!
//! The peak memory of a process includes the shared buffers that it has touched, so the server is configured with few
//! of them. The private memory is sampled in addition. A backend that has done almost nothing shows what the server
//! itself needs.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::{Cluster, Options};
use postgres::Client;
use serde_json::json;

use crate::Result;
use crate::report::{Figure, Part};
use crate::server::write_histories;

/// The number of records of the user with many changes. They have a million changes.
const RECORDS: i32 = 100_000;
/// The number of records of the user whose changes are read repeatedly. They have 10,000 changes.
const FEW_RECORDS: i32 = 1000;

/// The two numbers of calls after which the memory of a backend is measured and compared.
const CALLS: [usize; 2] = [100, 1000];
/// The number of bytes of the large push.
const PUSH: usize = 10 << 20;

/// The memory of a process, in kB.
struct Memory {
    /// The peak of the total memory, shared buffers included.
    peak: u64,
    /// The current private memory.
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

/// A call whose memory is measured.
struct Measured<'a> {
    name: &'static str,
    work: &'a dyn Fn(&mut Client) -> Result<()>,
}

/// Returns a figure for each call.
pub fn memory() -> Result<Part> {
    let options =
        Options::default().set("shared_buffers", "16MB").set("max_wal_size", "4GB").set("log_temp_files", "0");
    let cluster = Cluster::with_log(options);
    let mut owner = cluster.superuser(DATABASE);
    write_histories(&mut owner, "small", FEW_RECORDS, 19)?;
    let changes = write_histories(&mut owner, "big", RECORDS, 19)?;
    let select = |sql: &'static str| {
        move |client: &mut Client| {
            client.query(sql, &[])?;
            Ok(())
        }
    };
    let large = changeset(PUSH);
    let measured = [
        Measured {
            name: "records of nobody",
            work: &select("SELECT count(*), sum(length(data::text)) FROM mana_sync.records('nobody', 'app')"),
        },
        Measured {
            name: "records",
            work: &select("SELECT count(*), sum(length(data::text)) FROM mana_sync.records('big', 'app')"),
        },
        Measured { name: "export_changes", work: &select("SELECT count(*) FROM mana_sync.export_changes('big')") },
        Measured { name: "export_changes, a cursor, FETCH 1000", work: &|client| export(client, changes) },
        Measured {
            name: "changes_since, a page of 5,000",
            work: &select("SELECT * FROM mana_sync.changes_since('big', 'app', page_size => 5000)"),
        },
        Measured {
            name: "pull, a page of 5,000",
            work: &select("SELECT mana_sync.pull('big', 'app', page_size => 5000)::text"),
        },
        Measured { name: "push of 10 MB", work: &|client| push(client, &large) },
        Measured {
            name: "the same 10 MB as jsonb, without a push",
            work: &|client| {
                client.query_one("SELECT pg_column_size($1::text::jsonb)", &[&large])?;
                Ok(())
            },
        },
    ];
    let about = format!("of a backend; {changes} changes of {RECORDS} records; shared_buffers 16MB");
    let mut part = Part::new("memory", about);
    measured.iter().try_for_each(|measured| call(&cluster, measured, &mut part))?;
    part.figures.push(Figure::once("first row of export_changes", first_row(&cluster)?, "ms"));
    let small = changeset(100 << 10);
    let repeated = [
        Measured {
            name: "records of 10,000 changes",
            work: &select("SELECT count(*) FROM mana_sync.records('small', 'app')"),
        },
        Measured {
            name: "changes_since, a page of 5,000",
            work: &select("SELECT count(*) FROM mana_sync.changes_since('small', 'app', page_size => 5000)"),
        },
        Measured {
            name: "pull, a page of 5,000",
            work: &select("SELECT length(mana_sync.pull('small', 'app', page_size => 5000)::text)"),
        },
        Measured { name: "push of 100 kB", work: &|client| push(client, &small) },
        Measured {
            name: "record_change",
            work: &select("SELECT mana_sync.record_change('app', 'notes', 'r', 'once', NULL, 'insert', 'phone', '{}')"),
        },
    ];
    repeated.iter().try_for_each(|measured| repeat(&cluster, measured, &mut part))?;
    Ok(part)
}

/// Returns a changeset of about this many bytes.
fn changeset(bytes: usize) -> String {
    let change = |i| json!({"table": "notes", "id": format!("r{i}"), "op": "insert", "data": {"n": i, "text": "0123456789".repeat(14)}});
    let each = change(1000).to_string().len() + 1;
    json!({"clientId": "phone", "changes": (0..bytes / each).map(change).collect::<Vec<_>>()}).to_string()
}

fn push(client: &mut Client, changeset: &str) -> Result<()> {
    client.query_one("SELECT mana_sync.push('pusher', 'app', $1::text::jsonb)::text", &[&changeset])?;
    Ok(())
}

/// Measures a call in a new backend.
fn call(cluster: &Cluster, measured: &Measured, part: &mut Part) -> Result<()> {
    let (mut client, pid) = backend(cluster)?;
    let before = Memory::of(pid)?;
    let done = AtomicBool::new(false);
    let own = thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut own = 0;
            while !done.load(Ordering::Relaxed) {
                own = Memory::of(pid).map_or(own, |memory| own.max(memory.own));
                thread::sleep(Duration::from_millis(1));
            }
            own
        });
        let result = (measured.work)(&mut client);
        done.store(true, Ordering::Relaxed);
        let own = sampler.join().expect("the sampler only reads");
        result.map(|()| own)
    })?;
    let mut add = |what: &str, kb: u64| {
        part.figures.push(Figure::once(format!("{}: {what}", measured.name), mb(kb), "MB"));
    };
    add("its own, at most", own);
    add("its own, before", before.own);
    add("its own, after", Memory::of(pid)?.own);
    add("resident with shared buffers, at most", Memory::of(pid)?.peak);
    match temporary_files(cluster, pid) {
        0 => {}
        bytes => add("temporary files", bytes >> 10),
    }
    Ok(())
}

/// Opens a connection as the application's role. Returns the connection and the process id of its backend.
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

/// Returns the milliseconds from opening a cursor to its first row, in a new backend.
fn first_row(cluster: &Cluster) -> Result<f64> {
    let (mut client, _) = backend(cluster)?;
    let mut transaction = client.transaction()?;
    let start = Instant::now();
    transaction.batch_execute("DECLARE export NO SCROLL CURSOR FOR SELECT * FROM mana_sync.export_changes('big')")?;
    assert_eq!(transaction.query("FETCH 1 FROM export", &[])?.len(), 1);
    Ok(start.elapsed().as_secs_f64() * 1000.0)
}

/// Measures the memory of a backend that repeats a call.
fn repeat(cluster: &Cluster, measured: &Measured, part: &mut Part) -> Result<()> {
    let (mut client, pid) = backend(cluster)?;
    for call in 1..=CALLS[1] {
        (measured.work)(&mut client)?;
        if CALLS.contains(&call) {
            let what = format!("{}, its own after {call} calls", measured.name);
            part.figures.push(Figure::once(what, mb(Memory::of(pid)?.own), "MB"));
        }
    }
    Ok(())
}

/// Returns the bytes of the temporary files that a backend has written, which the server logs when it removes them.
fn temporary_files(cluster: &Cluster, pid: i32) -> u64 {
    let mark = format!("[{pid}]");
    let log = cluster.server_log();
    let sizes = log.lines().filter(|line| line.contains(&mark) && line.contains("temporary file: path"));
    sizes.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

fn mb(kb: u64) -> f64 {
    kb as f64 / 1024.0
}
