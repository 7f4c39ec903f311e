//! Eight writers and four readers at once for a fixed time. Nothing is lost, nothing comes twice, and nothing waits: not
//! even for the writing transaction that is open in another database all the while.

use std::thread;
use std::time::Duration;

use mana_sync_servers::cluster::DATABASE;
use mana_sync_servers::naive::NaiveDevice;
use mana_sync_servers::oracle::Difference;
use mana_sync_servers::random::{page_size, rng, seed};
use mana_sync_servers::writers::{APP, Acknowledged, Stop, Tally, Writer};
use mana_sync_servers::{Cluster, Device, Options};
use rand::Rng;
use rand::rngs::StdRng;

const USERS: &[&str] = &["ann", "bob", "cem"];
const SPACES: &[&str] = &["home", "work", "club", "team"];
const WRITERS: u64 = 8;
const TIME: Duration = Duration::from_secs(20);

/// A device that pulls as long as the writers write, and after each pull has all that was committed before it.
struct Reader<'a> {
    device: Device,
    acknowledged: &'a Acknowledged,
    checked: usize,
    pulls: usize,
}

impl Reader<'_> {
    fn pull(&mut self, client: &mut postgres::Client, rng: &mut StdRng) {
        let before = self.acknowledged.len();
        self.device.pull_by(client, || page_size(rng)).expect("a pull succeeds");
        self.pulls += 1;
        for id in self.acknowledged.seen_by(&self.device, self.checked, before) {
            assert!(self.device.delivered.contains(&id), "{id} was committed before a pull and is not in it");
        }
        self.checked = before;
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

    let scopes: [(&str, &[&str]); 4] = [("ann", &["home", "work"]), ("bob", &[]), ("zoe", SPACES), ("cem", &["club"])];
    let acknowledged = Acknowledged::default();
    let stop = Stop::after(TIME);
    let mut tally = Tally::default();
    let (mut readers, mut naive) = (Vec::new(), Vec::new());
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let mut writer = Writer::new(USERS, SPACES, rng(seed, number), &acknowledged);
                let (mut client, stop) = (cluster.app(DATABASE), &stop);
                scope.spawn(move || {
                    writer.run(&mut client, stop).expect("writing succeeds");
                    writer.tally
                })
            })
            .collect();
        let pullers = scopes.map(|(user, spaces)| {
            let mut reader =
                Reader { device: Device::new(user, APP, spaces), acknowledged: &acknowledged, checked: 0, pulls: 0 };
            let (mut client, mut rng, stop) = (cluster.app(DATABASE), rng(seed, 100 + readers.len() as u64), &stop);
            scope.spawn(move || {
                while !stop.is_due() {
                    reader.pull(&mut client, &mut rng);
                    thread::sleep(Duration::from_micros(rng.random_range(0..20_000)));
                }
                reader
            })
        });
        let naive_pullers = [scopes[0], scopes[2]].map(|(user, spaces)| {
            let mut device = NaiveDevice::new(user, APP, spaces);
            let (mut client, mut rng, stop) = (cluster.app(DATABASE), rng(seed, 200), &stop);
            scope.spawn(move || {
                while !stop.is_due() {
                    // Each page sorts the whole scope, so that small ones would take for ever.
                    device.pull(&mut client, rng.random_range(100..2000)).expect("a pull succeeds");
                    thread::sleep(Duration::from_micros(rng.random_range(0..20_000)));
                }
                device
            })
        });
        writers.into_iter().for_each(|writer| tally.add(writer.join().expect("the writer is well")));
        readers.extend(pullers.map(|puller| puller.join().expect("the reader is well")));
        naive.extend(naive_pullers.map(|puller| puller.join().expect("the reader is well")));
    });

    let (mut app, mut superuser) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    println!("written: {tally:?}");
    let row = superuser.query_one("SELECT count(*) FROM mana_sync.sync_changes", &[]).unwrap();
    assert_eq!(row.get::<_, i64>(0) as usize, tally.changes, "the log holds what was committed");
    let mut total = Difference::default();
    for mut reader in readers {
        reader.pull(&mut app, &mut rng(seed, 300));
        let difference = reader.device.compare(&mut superuser);
        println!("{} with {:?}: {} pulls, {difference}", reader.device.user, reader.device.spaces, reader.pulls);
        difference.assert_exact(&reader.device.user);
        total.add(difference);
    }
    assert!(total.expected > 1000, "too little was written to prove anything: {total}");

    let mut naive_total = Difference::default();
    for mut device in naive {
        device.pull(&mut app, 1000).unwrap();
        naive_total.add(device.compare(&mut superuser));
    }
    println!("with a timestamp for a cursor: {naive_total}: {:.1} % lost", naive_total.loss_percent());
    assert!(
        !naive_total.lost.is_empty(),
        "a timestamp cursor loses changes; if none are counted, this test counts none"
    );
    elsewhere.batch_execute("COMMIT").unwrap();
}
