//! Test with real input: 18 years of a public repository's history as pushes, replayed on several connections at once
//! while a device for each user keeps pulling.
//!
//! The file is not part of the repository. Without it the test says so and is skipped.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::history::{self, Push, devices_of};
use mana_sync_harness::oracle::{Difference, allowed};
use mana_sync_harness::random::{page_size, rng, seed};
use mana_sync_harness::{Cluster, Device, Options};
use postgres::{Client, Error, Statement};
use rand::Rng;
use uuid::Uuid;

const WRITERS: usize = 4;
const READERS: usize = 3;

#[test]
fn every_device_holds_the_history_that_its_scope_allows_once() {
    let Some(pushes) = history::load("replay") else { return };
    let seed = seed("replay", 18);
    let changes: usize = pushes.iter().map(|push| push.changes.len()).sum();
    let mut devices = devices_of(&pushes);

    let cluster = Cluster::with_log(Options::default());
    let start = Instant::now();
    let (next, writing) = (AtomicUsize::new(0), AtomicUsize::new(WRITERS));
    let (mut early, mut pages) = (0, 0);
    thread::scope(|scope| {
        for _ in 0..WRITERS {
            let mut client = cluster.app(DATABASE);
            let (pushes, next, writing) = (&pushes, &next, &writing);
            scope.spawn(move || {
                let statement = client.prepare(RECORD_CHANGE).expect("record_change can be prepared");
                while let Some(push) = pushes.get(next.fetch_add(1, Ordering::SeqCst)) {
                    record(&mut client, &statement, push).expect("the push is recorded");
                }
                writing.fetch_sub(1, Ordering::SeqCst);
            });
        }
        let share = devices.len().div_ceil(READERS);
        let readers: Vec<_> = devices
            .chunks_mut(share)
            .enumerate()
            .map(|(number, devices)| {
                let mut client = cluster.app(DATABASE);
                let (mut rng, writing) = (rng(seed, number as u64), &writing);
                scope.spawn(move || {
                    let (mut early, mut pages) = (0, 0);
                    while writing.load(Ordering::SeqCst) > 0 {
                        let device = rng.random_range(0..devices.len());
                        early += devices[device].pull_page(&mut client, page_size(&mut rng)).expect("a page is read");
                        pages += 1;
                    }
                    // A device in the middle of a walk finishes it, with the changes that arrived meanwhile.
                    for device in devices {
                        device.pull_by(&mut client, || page_size(&mut rng)).expect("the rest is read");
                    }
                    (early, pages)
                })
            })
            .collect();
        for reader in readers {
            let (rows, calls) = reader.join().expect("the reader is well");
            early += rows;
            pages += calls;
        }
    });
    println!("{early} deliveries in {pages} pages while it was written; {:.1} s in all", start.elapsed().as_secs_f32());

    let mut superuser = cluster.superuser(DATABASE);
    let row = superuser.query_one("SELECT count(*) FROM mana_sync.sync_changes", &[]).unwrap();
    assert_eq!(row.get::<_, i64>(0) as usize, changes, "the log holds every change");
    let mut total = Difference::default();
    for device in &devices {
        let by_sql = allowed(&mut superuser, &device.user, &device.app, &device.spaces);
        assert_eq!(by_sql, in_file(&pushes, device), "{}: the log is what the file says", device.user);
        let difference = device.delivered.compare(&by_sql);
        difference.assert_exact(&device.user);
        total.add(difference);
    }
    println!("{} devices: {total}", devices.len());
    assert!(early > 0 && total.expected > changes);
}

const RECORD_CHANGE: &str = "SELECT mana_sync.record_change(
    app_id => $1, table_name => $2, record_id => $3, user_id => $4, space_id => $5, op => $6, client_id => $7,
    data => $8, field_timestamps => $9, schema_version => $10, id => $11)";

/// Records one push in one transaction.
fn record(client: &mut Client, statement: &Statement, push: &Push) -> Result<(), Error> {
    let mut transaction = client.transaction()?;
    for c in &push.changes {
        let row = transaction.query_one(
            statement,
            &[
                &push.app,
                &c.table,
                &c.record,
                &push.user,
                &c.space,
                &c.op,
                &push.client,
                &c.data,
                &c.field_timestamps,
                &push.schema_version,
                &c.id,
            ],
        )?;
        assert_eq!(row.get::<_, Uuid>(0), c.id);
    }
    transaction.commit()
}

/// Returns the changes that a device must have according to the file.
fn in_file(pushes: &[Push], device: &Device) -> HashSet<Uuid> {
    let pushes = pushes.iter().filter(|push| push.app == device.app);
    let changes = pushes.flat_map(|push| push.changes.iter().map(|change| (&push.user, change)));
    changes.filter(|(user, change)| device.sees(user, change.space.as_deref())).map(|(_, change)| change.id).collect()
}
