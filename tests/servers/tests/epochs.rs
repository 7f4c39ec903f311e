//! Tests of epochs, which begin automatically or by `begin_epoch`, and of 64-bit transaction ids.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::{Cluster, Device, Options};
use postgres::error::SqlState;
use postgres::{Client, GenericClient, IsolationLevel};
use uuid::Uuid;

const RECORD: &str = "SELECT mana_sync.record_change('app', 'notes', 'r', 'ann', NULL, 'insert', 'c', '{}')";

fn record(client: &mut impl GenericClient) -> Uuid {
    client.query_one(RECORD, &[]).expect("a change is recorded").get(0)
}

/// The test copies a data directory and puts it back. Cursors from the time after the copy are refused until
/// `begin_epoch` is called, and accepted from then on. As documented, readers with these cursors do not get changes
/// that were written before the call with transaction ids that the cursor had already seen. They get everything that is
/// written after the call, whoever is connected and writing during the call.
#[test]
fn after_begin_epoch_a_cursor_of_a_future_that_did_not_happen_loses_nothing_more() {
    let cluster = Cluster::with_log(Options::default().durable());
    let mut app = cluster.app(DATABASE);
    record(&mut app);
    let mut device = Device::new("ann", "app", &[]);
    drop(app);
    let copy = cluster.copy_data();
    let mut app = cluster.app(DATABASE);
    (0..3000).for_each(|_| {
        record(&mut app);
    });
    device.pull(&mut app, 1000).unwrap();
    assert_eq!(device.delivered.len(), 3001);
    drop(app);
    cluster.put_back(copy);

    let (mut app, mut superuser) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    let before: Vec<Uuid> = (0..20).map(|_| record(&mut app)).collect();
    let error = device.clone().pull(&mut app, 1000).expect_err("the cursor is from the future");
    assert_eq!(error.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE));

    let (begun, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let later: Mutex<HashSet<Uuid>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..2 {
            let mut client = cluster.app(DATABASE);
            let (begun, stop, later) = (&begun, &stop, &later);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let mut transaction = client.transaction().unwrap();
                    let is_later = begun.load(Ordering::SeqCst);
                    for _ in 0..3 {
                        let id: Uuid = transaction.query_one(RECORD, &[]).unwrap().get(0);
                        if is_later {
                            later.lock().unwrap().insert(id);
                        }
                    }
                    transaction.commit().unwrap();
                }
            });
        }
        // These writes are in the old epoch, with transaction ids that the cursor has seen.
        thread::sleep(Duration::from_millis(20));
        let number: i32 = superuser.query_one("SELECT mana_sync.begin_epoch()", &[]).unwrap().get(0);
        begun.store(true, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::SeqCst);
        println!("epoch {number}");
    });
    let later = later.into_inner().unwrap();
    let mut old = device;
    old.pull(&mut app, 1000).expect("the cursor is of an earlier epoch now");
    let lacking = before.iter().filter(|id| !old.delivered.contains(id)).count();
    println!("{lacking} of 20 changes from before begin_epoch are lacking");
    let missing = later.iter().filter(|id| !old.delivered.contains(id)).count();
    println!("{} changes written after begin_epoch, {missing} of them lost", later.len());
    assert!(later.len() > 50 && missing == 0);
    // A device that begins now, or resumes from here, has every change once.
    let mut fresh = Device::new("ann", "app", &[]);
    fresh.pull(&mut app, 7).unwrap();
    fresh.compare(&mut superuser).assert_exact("a fresh device");
    (0..5).for_each(|_| {
        record(&mut app);
    });
    fresh.pull(&mut app, 2).unwrap();
    fresh.compare(&mut superuser).assert_exact("a device that goes on");
}

/// The timeline history file says where a timeline branched off from its parent. Without the file, the server would
/// take the log for a log of another history.
#[test]
fn a_server_without_the_history_file_of_its_timeline_refuses() {
    let primary = Cluster::with_log(Options::default());
    let mut app = primary.app(DATABASE);
    record(&mut app);
    let standby = primary.standby("standby");
    primary.wait_until_caught_up(&standby);
    standby.promote();
    let mut connected = standby.app(DATABASE);
    record(&mut connected);
    let (file, aside) = (standby.data().join("pg_wal/00000002.history"), standby.data().join("00000002.history"));
    std::fs::rename(&file, &aside).unwrap();
    let mut app = standby.app(DATABASE);
    let mut device = Device::new("ann", "app", &[]);
    for error in [device.pull(&mut app, 10).expect_err("no pull"), app.query_one(RECORD, &[]).expect_err("no write")] {
        assert_eq!(error.code(), Some(&SqlState::UNDEFINED_FILE), "{error}");
    }
    // A backend that has read the file before continues to work.
    record(&mut connected);
    std::fs::rename(&aside, &file).unwrap();
    record(&mut app);
    device.pull(&mut app, 10).unwrap();
    device.compare(&mut standby.superuser(DATABASE)).assert_exact("with the file again");
}

/// Transaction ids have 64 bits in cursors and in the log, and 32 bits in most of the server. The test uses cursors
/// from before the 32-bit wraparound after it: at rest, in a walk, and with a transaction that is open across the
/// boundary.
#[test]
fn cursors_from_before_the_32_bit_boundary() {
    const AHEAD: u64 = 500;
    const BOUNDARY: u64 = 1 << 32;
    let cluster = Cluster::new(Options::default().set("autovacuum", "off"));
    cluster.jump_to_xact((BOUNDARY - AHEAD) as u32);
    cluster.create_log();
    let (mut app, mut superuser) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    let mut open = cluster.app(DATABASE);
    let mut transaction = open.transaction().unwrap();
    transaction.execute(RECORD, &[]).unwrap();
    let mut devices = Vec::new();
    for _ in 0..2 * AHEAD / 10 {
        for _ in 0..10 {
            record(&mut app);
        }
        let mut at_rest = Device::new("ann", "app", &[]);
        at_rest.pull(&mut app, 1000).unwrap();
        let mut walking = Device::new("ann", "app", &[]);
        for _ in 0..3 {
            walking.pull_page(&mut app, 7).unwrap();
        }
        devices.extend([at_rest, walking]);
    }
    let early = devices.len();
    transaction.commit().unwrap();
    let sql = "SELECT min(xact::text::bigint), max(xact::text::bigint) FROM mana_sync.sync_changes";
    let row = superuser.query_one(sql, &[]).unwrap();
    let (first, last): (i64, i64) = (row.get(0), row.get(1));
    println!("ids from {first} to {last}, the boundary is {BOUNDARY}; {early} devices");
    assert!((first as u64) < BOUNDARY && last as u64 > BOUNDARY);
    for device in &mut devices {
        device.pull(&mut app, 100).unwrap();
        device.compare(&mut superuser).assert_exact("across the boundary");
    }
}

/// The first row on a new history opens an epoch. While the transaction of the first writer is open, other writers
/// write, commit and roll back in the same epoch without waiting for it, as a plain role and at REPEATABLE READ too.
/// Nothing is lost, whichever of them commits.
#[test]
fn first_writers_of_an_epoch_wait_for_nobody() {
    const WRITERS: usize = 12;
    let cluster = Cluster::with_log(Options::default());
    let mut device = Device::new("ann", "app", &[]);
    {
        let mut app = cluster.app(DATABASE);
        record(&mut app);
        device.pull(&mut app, 10).unwrap();
    }
    for round in 0..6 {
        // A copy of a database has another history.
        let database = format!("copy{round}");
        let sql = format!("CREATE DATABASE {database} TEMPLATE {DATABASE}");
        cluster.superuser("template1").batch_execute(&sql).unwrap();
        let mut first = cluster.app(&database);
        let mut clients: Vec<Client> = (0..WRITERS).map(|_| cluster.app(&database)).collect();
        let mut open = first.transaction().unwrap();
        record(&mut open);
        // All writers start their first write at the same time.
        let barrier = Barrier::new(WRITERS);
        thread::scope(|scope| {
            for (i, client) in clients.iter_mut().enumerate() {
                let barrier = &barrier;
                scope.spawn(move || {
                    let repeatable = i % 2 == 1;
                    let level = if repeatable { IsolationLevel::RepeatableRead } else { IsolationLevel::ReadCommitted };
                    // Without a timeout, a wait for the open transaction would never end.
                    client.batch_execute("SET lock_timeout = '20s'").unwrap();
                    let mut transaction = client.build_transaction().isolation_level(level).start().unwrap();
                    transaction.query_one("SELECT count(*) FROM mana_sync.sync_changes", &[]).unwrap();
                    barrier.wait();
                    let id = record(&mut transaction);
                    // A writer pulls: it sees its own row and, with an old snapshot, no other new row.
                    let mut own = Device::new("ann", "app", &[]);
                    let rows = own.pull(&mut transaction, 100).unwrap();
                    assert!(own.delivered.contains(&id) && (rows == 2 || !repeatable), "{rows} rows");
                    if i % 4 >= 2 { transaction.rollback().unwrap() } else { transaction.commit().unwrap() }
                });
            }
        });
        let mut app = cluster.app(&database);
        let mut device = device.clone();
        device.pull(&mut app, 3).unwrap();
        let seen = device.delivered.len();
        if round % 2 == 0 {
            open.commit().unwrap()
        } else {
            open.rollback().unwrap()
        }
        record(&mut app);
        device.pull(&mut app, 3).unwrap();
        device.compare(&mut cluster.superuser(&database)).assert_exact("a device from before");
        println!("{database}: {seen} changes while the first writer was open, {} after it", device.delivered.len());
        assert_eq!(seen, 1 + WRITERS / 2);
        let sql = "SELECT count(DISTINCT number) FROM mana_sync.epochs";
        let epochs: i64 = cluster.superuser(&database).query_one(sql, &[]).unwrap().get(0);
        assert_eq!(epochs, 2, "all have written in one epoch");
    }
}
