//! Eight writers and four readers run concurrently for a fixed time. No change is lost or delivered twice, and no pull
//! waits, not even for a transaction that stays open in another database.
//!
//! At the same time, two readers without the cursors of the extension run and are counted by the same code: one with a
//! timestamp, which must lose changes, and one that waits for open transactions, which must deliver late.

use std::thread;
use std::time::Duration;

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::oracle::Difference;
use mana_sync_harness::random::{page_size, rng, seed};
use mana_sync_harness::writers::{APP, Acknowledged, Stop, Tally, Writer};
use mana_sync_harness::{Cluster, Device, Options, naive};
use rand::Rng;
use rand::rngs::StdRng;

const USERS: &[&str] = &["ann", "bob", "cem"];
const SPACES: &[&str] = &["home", "work", "club", "team"];
const SCOPES: [(&str, &[&str]); 4] = [("ann", &["home", "work"]), ("bob", &[]), ("zoe", SPACES), ("cem", &["club"])];
const WRITERS: u64 = 8;
const TIME: Duration = Duration::from_secs(20);

/// A device that checks whether each of its pulls delivered everything that was committed before the pull began.
struct Reader<'a> {
    device: Device,
    acknowledged: &'a Acknowledged,
    pulls: usize,
    /// The number of acknowledged changes that were looked up on the device.
    looked_at: usize,
    /// The number of looked-up changes that the device may see.
    awaited: usize,
    /// The number of awaited changes that did not come with the next pull.
    late: usize,
}

impl<'a> Reader<'a> {
    fn new((user, spaces): (&str, &[&str]), acknowledged: &'a Acknowledged) -> Self {
        Self { device: Device::new(user, APP, spaces), acknowledged, pulls: 0, looked_at: 0, awaited: 0, late: 0 }
    }

    /// Pulls with `by`, which must pull until there is nothing more, and counts the changes that come late.
    fn pull(&mut self, by: impl FnOnce(&mut Device)) {
        let before = self.acknowledged.len();
        by(&mut self.device);
        let awaited = self.acknowledged.seen_by(&self.device, self.looked_at, before);
        self.late += awaited.iter().filter(|id| !self.device.delivered.contains(id)).count();
        self.awaited += awaited.len();
        self.pulls += 1;
        self.looked_at = before;
    }

    /// Pulls with `by` again and again, with pauses, until `stop` is due.
    fn pull_until(mut self, stop: &Stop, mut rng: StdRng, mut by: impl FnMut(&mut Device, &mut StdRng)) -> Self {
        while !stop.is_due() {
            self.pull(|device| by(device, &mut rng));
            thread::sleep(Duration::from_micros(rng.random_range(0..20_000)));
        }
        self
    }
}

#[test]
fn nothing_is_lost_repeated_or_late_under_concurrent_writers() {
    let seed = seed("stress", 20_261_124);
    let cluster = Cluster::with_log(Options::default());
    cluster.superuser(DATABASE).batch_execute("CREATE DATABASE other").unwrap();
    cluster.create_log_in("other");
    let mut elsewhere = cluster.app("other");
    elsewhere
        .batch_execute("BEGIN; SELECT mana_sync.record_change('app', 't', 'r', 'ann', NULL, 'insert', 'c', '{}')")
        .unwrap();

    let acknowledged = Acknowledged::default();
    let stop = Stop::after(TIME);
    let mut tally = Tally::default();
    let (mut readers, mut by_timestamp, mut waiting) = (Vec::new(), Vec::new(), None);
    thread::scope(|scope| {
        let (acknowledged, stop) = (&acknowledged, &stop);
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let mut writer = Writer::new(USERS, SPACES, rng(seed, number), acknowledged);
                let mut client = cluster.app(DATABASE);
                scope.spawn(move || {
                    writer.run(&mut client, stop).expect("writing succeeds");
                    writer.tally
                })
            })
            .collect();
        let mut threads = 100..;
        let mut spawn = |scope_of_device, by: fn(&mut Device, &mut postgres::Client, &mut StdRng)| {
            let (mut client, reader) = (cluster.app(DATABASE), Reader::new(scope_of_device, acknowledged));
            let rng = rng(seed, threads.next().expect("there are numbers enough"));
            scope.spawn(move || reader.pull_until(stop, rng, |device, rng| by(device, &mut client, rng)))
        };
        let pullers = SCOPES.map(|scope_of_device| {
            spawn(scope_of_device, |device, client, rng| {
                device.pull_by(client, || page_size(rng)).expect("a pull succeeds");
            })
        });
        let timestamp_pullers = [SCOPES[0], SCOPES[2]].map(|scope_of_device| {
            spawn(scope_of_device, |device, client, rng| {
                // Each page sorts the whole scope, so that small pages would take too long.
                naive::pull_by_timestamp(device, client, rng.random_range(100..2000)).expect("a pull succeeds");
            })
        });
        let waiting_puller = spawn(SCOPES[0], |device, client, _| {
            let mut transaction = client.transaction().expect("a transaction begins");
            naive::pull_below_horizon(device, &mut transaction).expect("a pull succeeds");
            transaction.commit().expect("a commit succeeds");
        });
        writers.into_iter().for_each(|writer| tally.add(writer.join().expect("the writer is well")));
        readers.extend(pullers.map(|puller| puller.join().expect("the reader is well")));
        by_timestamp.extend(timestamp_pullers.map(|puller| puller.join().expect("the reader is well").device));
        waiting = Some(waiting_puller.join().expect("the reader is well"));
    });

    let (mut app, mut superuser) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    println!("written: {tally:?}");
    let row = superuser.query_one("SELECT count(*) FROM mana_sync.sync_changes", &[]).unwrap();
    assert_eq!(row.get::<_, i64>(0) as usize, tally.changes, "the log holds what was committed");
    let mut total = Difference::default();
    for mut reader in readers {
        let during = reader.awaited;
        let mut rng = rng(seed, 300);
        reader.pull(|device| {
            device.pull_by(&mut app, || page_size(&mut rng)).expect("a pull succeeds");
        });
        let (device, difference) = (&reader.device, reader.device.compare(&mut superuser));
        println!(
            "{} with {:?}: {} pulls, {during} changes awaited during them, {} late, {difference}",
            device.user, device.spaces, reader.pulls, reader.late
        );
        difference.assert_exact(&device.user);
        assert_eq!(reader.late, 0, "{}: changes that were committed before a pull are not in it", device.user);
        assert!(during > 1000, "{}: too little was awaited to prove anything: {during}", device.user);
        assert_eq!(reader.awaited, difference.expected, "{}: every change was awaited once", device.user);
        total.add(difference);
    }
    println!("{total}");

    let mut naive_total = Difference::default();
    for mut device in by_timestamp {
        naive::pull_by_timestamp(&mut device, &mut app, 1000).unwrap();
        naive_total.add(device.compare(&mut superuser));
    }
    println!("with a timestamp for a cursor: {naive_total}: {:.1} % lost", naive_total.loss_percent());
    assert!(
        !naive_total.lost.is_empty(),
        "a timestamp cursor loses changes; if none are counted, this test counts none"
    );
    let waiting = waiting.expect("it has pulled");
    println!("waiting for open transactions: {} of {} awaited changes late", waiting.late, waiting.awaited);
    assert!(waiting.late > 0, "who waits for open transactions is late; if that is not counted, this test counts none");
    elsewhere.batch_execute("COMMIT").unwrap();
}
