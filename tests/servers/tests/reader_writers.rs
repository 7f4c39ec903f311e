//! Tests of devices that write and pull in one transaction: at every isolation level, within savepoints, with a commit,
//! a PREPARE or a rollback, with the answer kept or lost, and with a cursor that another connection uses while the
//! transaction is open.
//!
//! Fails if a device misses a change or receives one twice. At the same time, a reader whose cursor is a plain snapshot
//! is counted by the same code, and must lose changes: a snapshot treats later writes of its own transaction as seen.

use std::collections::HashSet;
use std::thread;
use std::time::Duration;

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::oracle::Difference;
use mana_sync_harness::random::{page_size, rng, seed};
use mana_sync_harness::writers::{APP, Acknowledged, Stop, Writer};
use mana_sync_harness::{Cluster, Device, Options, naive};
use postgres::error::SqlState;
use postgres::{Client, Error, IsolationLevel, Transaction};
use rand::Rng;
use rand::seq::IndexedRandom;
use uuid::Uuid;

const OTHERS: &[&str] = &["ann", "bob", "dan"];
const SPACES: &[&str] = &["home", "work", "club", "team"];
const SCOPES: [(&str, &[&str]); 4] = [("ann", &["home", "work"]), ("bob", &[]), ("zoe", SPACES), ("cem", &["club"])];
const WRITERS: u64 = 3;
const TIME: Duration = Duration::from_secs(12);

/// The counts of what the devices did.
#[derive(Clone, Copy, Default, Debug)]
struct Tally {
    transactions: usize,
    rolled_back: usize,
    prepared: usize,
    not_serializable: usize,
    /// Pages that were pulled in a transaction that had written before.
    pages_after_writes: usize,
    /// Pages that were pulled on another connection with the cursor of an open transaction.
    pages_elsewhere: usize,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.transactions += other.transactions;
        self.rolled_back += other.rolled_back;
        self.prepared += other.prepared;
        self.not_serializable += other.not_serializable;
        self.pages_after_writes += other.pages_after_writes;
        self.pages_elsewhere += other.pages_elsewhere;
    }
}

/// A device that also writes.
struct ReaderWriter<'a> {
    device: Device,
    /// A second device of the same user, whose cursor is a plain snapshot.
    by_snapshot: Device,
    writer: Writer<'a>,
    /// All changes that the device ever wrote, rolled back or not.
    written: HashSet<Uuid>,
    has_written: bool,
    elsewhere: Client,
    tally: Tally,
}

impl ReaderWriter<'_> {
    fn transaction(&mut self, client: &mut Client) -> Result<(), Error> {
        let before = self.device.clone();
        self.has_written = false;
        self.tally.transactions += 1;
        let levels = [
            IsolationLevel::ReadCommitted,
            IsolationLevel::ReadCommitted,
            IsolationLevel::RepeatableRead,
            IsolationLevel::Serializable,
        ];
        let level = *levels.choose(&mut self.writer.rng).expect("there are levels");
        let mut transaction = client.build_transaction().isolation_level(level).start()?;
        let outcome = match self.steps(&mut transaction, 0) {
            Ok(()) if self.writer.rng.random_ratio(1, 5) => {
                self.tally.rolled_back += 1;
                transaction.rollback()?;
                self.forget_or_keep(before);
                return Ok(());
            }
            Ok(()) if self.writer.rng.random_ratio(1, 8) => self.in_two_phases(transaction),
            Ok(()) => transaction.commit(),
            Err(error) => transaction.rollback().and(Err(error)),
        };
        match outcome {
            Err(error) if error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) => {
                self.tally.not_serializable += 1;
                self.forget_or_keep(before);
                Ok(())
            }
            other => other,
        }
    }

    /// Prepares the transaction. Then pulls on the other connection, and commits the transaction or rolls it back
    /// there.
    fn in_two_phases(&mut self, mut transaction: Transaction) -> Result<(), Error> {
        let name: u64 = self.writer.rng.random();
        transaction.batch_execute(&format!("PREPARE TRANSACTION '{name}'"))?;
        // Ends the transaction object of the client. The server has no transaction any more, and only warns.
        transaction.commit()?;
        self.tally.prepared += 1;
        self.pull_elsewhere()?;
        let verb = if self.writer.rng.random_ratio(3, 4) { "COMMIT" } else { "ROLLBACK" };
        self.elsewhere.batch_execute(&format!("{verb} PREPARED '{name}'"))
    }

    /// Writes and pulls several times in random order, with savepoints.
    fn steps(&mut self, transaction: &mut Transaction, depth: usize) -> Result<(), Error> {
        for _ in 0..self.writer.rng.random_range(1..=6) {
            match self.writer.rng.random_range(0..10) {
                0..=2 => {
                    let rows = self.writer.rng.random_range(1..=6);
                    let user = self.device.user.clone();
                    let changes = self.writer.write(transaction, &user, rows)?;
                    self.written.extend(changes.iter().map(|change| change.id));
                    self.has_written = true;
                }
                3..=5 => {
                    self.device.pull_page(transaction, page_size(&mut self.writer.rng))?;
                    self.tally.pages_after_writes += usize::from(self.has_written);
                }
                6 => naive::pull_by_snapshot(&mut self.by_snapshot, transaction)?,
                7 => self.pull_elsewhere()?,
                _ if depth < 2 => {
                    let before = self.device.clone();
                    let mut savepoint = transaction.transaction()?;
                    self.steps(&mut savepoint, depth + 1)?;
                    if self.writer.rng.random_bool(0.5) {
                        savepoint.commit()?;
                    } else {
                        savepoint.rollback()?;
                        self.forget_or_keep(before);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn pull_elsewhere(&mut self) -> Result<(), Error> {
        self.tally.pages_elsewhere += usize::from(self.has_written);
        self.device.pull_page(&mut self.elsewhere, page_size(&mut self.writer.rng)).map(|_| ())
    }

    /// Is called after a rollback of a transaction or savepoint in which the device may have pulled. At random, the
    /// device keeps what it pulled, or forgets it as if the answer had been lost.
    fn forget_or_keep(&mut self, before: Device) {
        if self.writer.rng.random_bool(0.5) {
            self.device = before;
        }
    }
}

#[test]
fn devices_that_write_and_pull_in_one_transaction_lose_and_repeat_nothing() {
    let seed = seed("reader_writers", 24);
    // No row is written before all devices begin, so that the first transactions of the log may be rolled back.
    let cluster = Cluster::with_log(Options::default());
    let (acknowledged, stop) = (Acknowledged::default(), Stop::after(TIME));
    let mut done = Vec::new();
    thread::scope(|scope| {
        let (acknowledged, stop) = (&acknowledged, &stop);
        for number in 0..WRITERS {
            let mut writer = Writer::new(OTHERS, SPACES, rng(seed, number), acknowledged);
            let mut client = cluster.app(DATABASE);
            scope.spawn(move || writer.run(&mut client, stop).expect("writing succeeds"));
        }
        let devices: Vec<_> = SCOPES
            .iter()
            .enumerate()
            .map(|(number, (user, spaces))| {
                let mut both = ReaderWriter {
                    device: Device::new(user, APP, spaces),
                    by_snapshot: Device::new(user, APP, spaces),
                    writer: Writer::new(&[], spaces, rng(seed, 100 + number as u64), acknowledged),
                    written: HashSet::new(),
                    has_written: false,
                    elsewhere: cluster.app(DATABASE),
                    tally: Tally::default(),
                };
                let mut client = cluster.app(DATABASE);
                scope.spawn(move || {
                    while !stop.is_due() {
                        both.transaction(&mut client).expect("a transaction succeeds");
                    }
                    both
                })
            })
            .collect();
        done.extend(devices.into_iter().map(|device| device.join().expect("the device is well")));
    });

    let (mut app, mut superuser) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    let (mut tally, mut total, mut snapshot_total) = (Tally::default(), Difference::default(), Difference::default());
    for both in &mut done {
        both.device.pull(&mut app, 1000).expect("the rest is read");
        let mut difference = both.device.compare(&mut superuser);
        // Rows of its own that the device received and then rolled back must not reach anybody else.
        difference.foreign.retain(|id| !both.written.contains(id));
        println!("{}: {difference}; {:?}", both.device.user, both.tally);
        difference.assert_exact(&both.device.user);
        total.add(difference);
        tally.add(both.tally);

        let mut transaction = app.transaction().unwrap();
        naive::pull_by_snapshot(&mut both.by_snapshot, &mut transaction).unwrap();
        transaction.commit().unwrap();
        snapshot_total.add(both.by_snapshot.compare(&mut superuser));
    }
    println!("{total}; {tally:?}");
    assert!(total.expected > 1000, "too little was written to prove anything: {total}");
    assert!(tally.pages_after_writes > 100 && tally.pages_elsewhere > 100, "too little happened: {tally:?}");
    assert!(tally.rolled_back > 10 && tally.prepared > 10, "too little happened: {tally:?}");
    println!("with a snapshot for a cursor: {} lost", snapshot_total.lost.len());
    assert!(
        !snapshot_total.lost.is_empty(),
        "a snapshot that does not list its own transaction loses changes; if none are counted, this test counts none"
    );
}
