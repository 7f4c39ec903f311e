//! Writers, which run transactions of every kind and keep a list of the changes that are known to be committed.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use postgres::{Client, Error, GenericClient, Transaction};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use uuid::Uuid;

use crate::Device;

/// The app that the writers write to.
pub const APP: &str = "app";

/// A change that a writer wrote.
#[derive(Clone)]
pub struct Change {
    /// The id of the change, which the writer chose.
    pub id: Uuid,
    /// The author of the change.
    pub user: String,
    /// The space of the change; `None` if it is private.
    pub space: Option<String>,
}

/// The changes whose COMMIT has returned, in the order in which the writers noted them.
#[derive(Default)]
pub struct Acknowledged(Mutex<Vec<Change>>);

impl Acknowledged {
    /// Notes the changes of a transaction after its COMMIT has returned.
    pub fn add(&self, changes: Vec<Change>) {
        self.0.lock().expect("no writer panics while it notes").extend(changes);
    }

    /// The number of changes.
    pub fn len(&self) -> usize {
        self.0.lock().expect("no writer panics while it notes").len()
    }

    /// Whether there is no change.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids of the changes that a device may see, among those that were noted between two counts
    /// ([`Acknowledged::len`]).
    pub fn seen_by(&self, device: &Device, from: usize, to: usize) -> Vec<Uuid> {
        let changes = self.0.lock().expect("no writer panics while it notes");
        let seen = changes[from..to].iter().filter(|change| device.sees(&change.user, change.space.as_deref()));
        seen.map(|change| change.id).collect()
    }

    /// The ids of all changes.
    pub fn ids(&self) -> HashSet<Uuid> {
        self.0.lock().expect("no writer panics while it notes").iter().map(|change| change.id).collect()
    }
}

/// Tells writers when to stop: at a deadline, or earlier if a test says so.
pub struct Stop {
    deadline: Instant,
    told: AtomicBool,
}

impl Stop {
    /// Makes writers stop after a time.
    pub fn after(time: Duration) -> Self {
        Self { deadline: Instant::now() + time, told: AtomicBool::new(false) }
    }

    /// Makes writers stop now.
    pub fn now(&self) {
        self.told.store(true, Ordering::SeqCst);
    }

    /// Whether writers have to stop.
    pub fn is_due(&self) -> bool {
        self.told.load(Ordering::SeqCst) || Instant::now() >= self.deadline
    }
}

/// The counts of what a writer did.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    /// Transactions that were committed.
    pub commits: usize,
    /// Transactions that were committed through PREPARE TRANSACTION and COMMIT PREPARED.
    pub in_two_phases: usize,
    /// Transactions that were rolled back.
    pub aborts: usize,
    /// Rollbacks to a savepoint.
    pub partial_rollbacks: usize,
    /// Changes in the committed transactions.
    pub changes: usize,
}

impl Tally {
    /// Adds the counts of another writer.
    pub fn add(&mut self, other: Tally) {
        self.commits += other.commits;
        self.in_two_phases += other.in_two_phases;
        self.aborts += other.aborts;
        self.partial_rollbacks += other.partial_rollbacks;
        self.changes += other.changes;
    }
}

/// A writer that writes changes of many users, in random transactions of 1 to 40 rows.
pub struct Writer<'a> {
    /// The users. Each transaction writes for one of them.
    pub users: &'a [&'a str],
    /// The spaces. Half of the rows are in one of them.
    pub spaces: &'a [&'a str],
    /// The source of this writer's random numbers.
    pub rng: StdRng,
    /// The list of committed changes.
    pub acknowledged: &'a Acknowledged,
    /// The longest pause between two steps of a transaction.
    pub longest_pause: Duration,
    /// The counts of what this writer did.
    pub tally: Tally,
}

impl<'a> Writer<'a> {
    /// Makes a writer with pauses of up to 4 ms.
    pub fn new(users: &'a [&'a str], spaces: &'a [&'a str], rng: StdRng, acknowledged: &'a Acknowledged) -> Self {
        Self { users, spaces, rng, acknowledged, longest_pause: Duration::from_millis(4), tally: Tally::default() }
    }

    /// Writes one transaction after the other, until `stop` is due.
    pub fn run(&mut self, client: &mut Client, stop: &Stop) -> Result<(), Error> {
        while !stop.is_due() {
            self.transaction(client)?;
            self.pause();
        }
        Ok(())
    }

    /// Writes one transaction. One in ten is rolled back, and one in twenty of the others is committed in two phases.
    /// Notes the changes of a committed transaction.
    pub fn transaction(&mut self, client: &mut Client) -> Result<(), Error> {
        let mut transaction = client.transaction()?;
        let changes = self.fill(&mut transaction)?;
        if self.rng.random_ratio(1, 10) {
            transaction.rollback()?;
            self.tally.aborts += 1;
            return Ok(());
        }
        if self.rng.random_ratio(1, 20) {
            let name: u64 = self.rng.random();
            transaction.batch_execute(&format!("PREPARE TRANSACTION '{name}'"))?;
            // This ends the client's transaction object. The server has no transaction any more, and only warns.
            transaction.commit()?;
            self.pause();
            client.batch_execute(&format!("COMMIT PREPARED '{name}'"))?;
            self.tally.in_two_phases += 1;
        } else {
            transaction.commit()?;
        }
        self.tally.commits += 1;
        self.tally.changes += changes.len();
        self.acknowledged.add(changes);
        Ok(())
    }

    /// Writes the rows of one transaction, with savepoints. Returns the changes that the log has if the transaction
    /// commits.
    pub fn fill(&mut self, transaction: &mut Transaction) -> Result<Vec<Change>, Error> {
        let user = *self.users.choose(&mut self.rng).expect("there are users");
        let target = self.rng.random_range(1..=40);
        // Rarely, there are more subtransactions than a backend advertises, so that snapshots overflow.
        let splinters = if self.rng.random_ratio(1, 50) { 70 } else { 0 };
        let mut changes = Vec::new();
        for _ in 0..splinters {
            let mut savepoint = transaction.transaction()?;
            changes.extend(self.write(&mut savepoint, user, 1)?);
            savepoint.commit()?;
        }
        while changes.len() < target {
            let rows = self.rng.random_range(1..=target - changes.len());
            if self.rng.random_ratio(1, 4) {
                let mut savepoint = transaction.transaction()?;
                let written = self.write(&mut savepoint, user, rows)?;
                if self.rng.random_bool(0.5) {
                    savepoint.commit()?;
                    changes.extend(written);
                } else {
                    savepoint.rollback()?;
                    self.tally.partial_rollbacks += 1;
                }
            } else {
                changes.extend(self.write(transaction, user, rows)?);
            }
            self.pause();
        }
        Ok(changes)
    }

    /// Writes rows with one statement: a call of `record_change` or a plain INSERT.
    pub fn write(&mut self, client: &mut impl GenericClient, user: &str, rows: usize) -> Result<Vec<Change>, Error> {
        let changes: Vec<Change> = (0..rows)
            .map(|_| Change {
                id: uuid::Builder::from_random_bytes(self.rng.random()).into_uuid(),
                user: user.into(),
                space: self
                    .rng
                    .random_bool(0.5)
                    .then(|| self.spaces.choose(&mut self.rng).map(|space| space.to_string()))
                    .flatten(),
            })
            .collect();
        let ids: Vec<Uuid> = changes.iter().map(|change| change.id).collect();
        let spaces: Vec<Option<&str>> = changes.iter().map(|change| change.space.as_deref()).collect();
        if self.rng.random_ratio(3, 4) {
            let sql = "SELECT mana_sync.record_change($1, 'notes', 'n', $2, new.space, 'insert', 'c', '{\"a\": 1}', id => new.id)
                       FROM unnest($3::uuid[], $4::text[]) AS new (id, space)";
            client.query(sql, &[&APP, &user, &ids, &spaces])?;
        } else {
            client.execute("SELECT mana_sync.with_scope($1)", &[&user])?;
            let sql = "INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, space_id, op, client_id, data, id)
                       SELECT $1, 'notes', 'n', $2, new.space, 'update', 'c', '{\"a\": 2}', new.id
                       FROM unnest($3::uuid[], $4::text[]) AS new (id, space)";
            client.execute(sql, &[&APP, &user, &ids, &spaces])?;
        }
        Ok(changes)
    }

    fn pause(&mut self) {
        let longest = self.longest_pause.as_micros() as u64;
        // Half of the time there is no pause, so that commits of different writers collide.
        if longest > 0 && self.rng.random_bool(0.5) {
            sleep(Duration::from_micros(self.rng.random_range(0..longest)));
        }
    }
}
