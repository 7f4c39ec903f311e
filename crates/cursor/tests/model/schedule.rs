//! Random schedules. Small numbers choose the steps, and each step is played when it is chosen.

use crate::device::Device;
use crate::scenario::Scenario;
use crate::step::{End, Server, Step};
use std::collections::BTreeMap;
use std::fmt::Write as _;

const USERS: usize = 3;
const SPACES: usize = 3;
const RECORDS: usize = 3;

/// The kinds of events that may happen in a schedule.
#[derive(Clone, Copy, Default)]
pub struct World {
    /// Whether cursors have room for only a few open transactions, or for none.
    pub cut: bool,
    pub spaces_change: bool,
    pub forks: bool,
    pub crashes: bool,
    pub purges: bool,
    /// Whether the rows are changes of a few records, and devices pull records.
    pub records: bool,
}

/// An endless sequence of small numbers, which repeats the given ones.
struct Choices<'a>(std::iter::Cycle<std::slice::Iter<'a, u8>>, usize);

impl Choices<'_> {
    fn below(&mut self, bound: usize) -> usize {
        self.1 += 1;
        (*self.0.next().expect("a cycle") as usize + self.1 / 251) % bound
    }
}

struct Schedule<'a> {
    choose: Choices<'a>,
    scenario: Scenario,
    /// The steps so far, one on each line.
    text: String,
    /// Whether to print each step after it was played, with its effects in comments.
    trace: bool,
    /// The name of each transaction, by its id on the primary.
    transactions: BTreeMap<u64, String>,
    begun: usize,
    written: u32,
}

/// Plays the schedule that the choices make, and returns its steps. An error is a scenario file of the steps, in which comments say what
/// was expected and what was found.
pub fn run(world: World, choices: &[u8]) -> Result<String, String> {
    let mut schedule = Schedule {
        choose: Choices(choices.iter().cycle(), 0),
        scenario: Scenario::new(),
        text: String::new(),
        trace: std::env::var_os("MANA_SYNC_MODEL_TRACE").is_some(),
        transactions: BTreeMap::new(),
        begun: 0,
        written: 0,
    };
    match schedule.run(world, choices.len()) {
        Ok(()) => Ok(schedule.text),
        Err(error) => Err(format!("\n{}\n# {}", schedule.text, error.replace('\n', "\n# "))),
    }
}

fn device_name(device: usize) -> String {
    format!("d{device}")
}

fn user_name(user: usize) -> String {
    format!("u{user}")
}

fn space_name(space: usize) -> String {
    format!("s{space}")
}

fn record_name(record: usize) -> String {
    format!("k{record}")
}

fn row_name(row: u32) -> String {
    format!("r{row}")
}

impl Schedule<'_> {
    fn play(&mut self, step: Step) -> Result<(), String> {
        writeln!(self.text, "{step}").expect("a String takes it");
        let events = self.scenario.primary.events.len();
        let outcome = self.scenario.play(&step);
        if self.trace {
            let Scenario { primary, standby, devices, .. } = &self.scenario;
            let (timeline, new) = (primary.history.timeline.0, primary.events.get(events..));
            eprintln!("{step}\n# timeline {timeline}, standby at {standby}, new {new:?}");
            devices.iter().for_each(|(name, device)| eprintln!("#     {name} {device:?}"));
        }
        outcome
    }

    fn run(&mut self, world: World, actions: usize) -> Result<(), String> {
        self.devices(world)?;
        for _ in 0..actions {
            self.act(world)?;
        }
        self.end(world)
    }

    fn devices(&mut self, world: World) -> Result<(), String> {
        for i in 0..USERS + 2 {
            let device = device_name(i);
            let spaces = (0..SPACES).filter(|_| self.choose.below(2) == 1).map(space_name).collect();
            self.play(Step::Device { device: device.clone(), user: user_name(i % USERS), spaces })?;
            if world.cut {
                let transactions = self.choose.below(20);
                self.play(Step::Room { device: device.clone(), transactions })?;
            }
            self.play(Step::ShortPages { device: device.clone() })?;
            if world.records {
                let step = match self.choose.below(3) {
                    0 => Step::PullsChanges { device },
                    _ => Step::PullsRecords { device },
                };
                self.play(step)?;
            }
        }
        Ok(())
    }

    /// Plays one action of one or more steps. Plays no step if there is no transaction, server or delete for the action.
    fn act(&mut self, world: World) -> Result<(), String> {
        match self.choose.below(if world.records { 21 } else { 16 }) {
            0 | 1 => {
                let transaction = self.begin()?;
                if self.choose.below(4) == 0 {
                    self.play(Step::Savepoint { transaction })?;
                }
            }
            2..=4 => {
                if let Some(xact) = self.one_of(self.scenario.primary.live()) {
                    let user = self.choose.below(USERS);
                    self.write(world, xact, user, Server::Primary)?;
                }
            }
            5 | 6 => {
                if let Some(xact) = self.one_of(self.scenario.primary.live()) {
                    let end = match self.choose.below(5) {
                        0 => End::Prepare,
                        _ => self.commit_unless_zero_of(3),
                    };
                    self.end_transaction(xact, end, Server::Primary)?;
                }
            }
            7 => {
                if let Some(xact) = self.one_of(self.scenario.primary.prepared()) {
                    let end = self.commit_unless_zero_of(3);
                    self.end_transaction(xact, end, Server::Primary)?;
                    // The standby replays this end at once, so that no failover loses it. Otherwise a reader could see
                    // the end, and then meet the transaction prepared again on a promoted standby. The cursor would
                    // cover rows that the reader never got. See docs/reference/limits.md.
                    if world.forks {
                        self.play(Step::Replay { events: None })?;
                    }
                }
            }
            8 | 9 => {
                let device = self.device();
                let page_size = 1 + self.choose.below(4);
                match self.choose.below(3) {
                    0 => self.play(Step::Page { device, page_size })?,
                    _ => self.pull(device, Server::Primary, page_size)?,
                }
            }
            10 => {
                // A device in a transaction of its own does not read the standby: a client keeps a cursor from its
                // transaction only after the commit.
                let device = self.device();
                if self.scenario.devices[&device].writes_in.is_none() {
                    let page_size = 1 + self.choose.below(4);
                    self.pull(device, Server::Standby, page_size)?;
                }
            }
            11 => {
                let events = match self.choose.below(4) {
                    0 => None,
                    _ => Some(1 + self.choose.below(12)),
                };
                self.play(Step::Replay { events })?;
            }
            12 if world.spaces_change => {
                let device = self.device();
                let space = space_name(self.choose.below(SPACES));
                let step = match self.scenario.is_in(&device, &space) {
                    true => Step::Leave { device, space },
                    false => Step::Join { device, space },
                };
                self.play(step)?;
            }
            13 => {
                // A device begins or continues a transaction of its own. It writes and pulls in it.
                let device = self.device();
                let Device { user, writes_in, .. } = self.scenario.devices[&device];
                let xact = match writes_in {
                    Some(xact) => xact,
                    None => {
                        let xact = self.scenario.primary.next_xact;
                        let transaction = self.begin()?;
                        self.play(Step::Enter { device: device.clone(), transaction })?;
                        xact
                    }
                };
                self.write(world, xact, user, Server::Primary)?;
                let page_size = 1 + self.choose.below(3);
                self.pull(device, Server::Primary, page_size)?;
            }
            14 if world.crashes => self.play(Step::Crash)?,
            15 if world.forks => {
                // The standby is promoted. The old primary is lost, or it goes on alone and can still be read.
                self.play(Step::Failover)?;
                if self.choose.below(2) == 0 {
                    let on = Server::OldPrimary(Some(self.scenario.old_primaries.len()));
                    for xact in self.scenario.old_primaries.last().expect("the old primary").live() {
                        let user = self.choose.below(USERS);
                        self.write(world, xact, user, on)?;
                        self.end_transaction(xact, End::Commit, on)?;
                    }
                } else {
                    self.play(Step::LoseOldPrimary)?;
                }
            }
            16 | 17 => {
                let device = self.device();
                let page_size = 1 + self.choose.below(2);
                self.play(Step::Page { device, page_size })?;
            }
            18 => self.change_kind()?,
            20 if world.spaces_change => self.leave_for_a_page()?,
            19 if world.purges => self.purge_at_once()?,
            19 => self.compact()?,
            // If spaces change, the arm above matches 12.
            12 if world.purges && !world.records => {
                let xact = self.scenario.primary.next_xact;
                let transaction = self.begin()?;
                let mut deletes = self.scenario.primary.purgeable();
                deletes.retain(|_| self.choose.below(3) == 0);
                if !deletes.is_empty() && !self.scenario.primary.is_purging() {
                    let deletes = deletes.iter().map(|(delete, _)| row_name(delete.id)).collect();
                    self.play(Step::Purge { transaction, deletes })?;
                }
                if self.choose.below(3) != 0 {
                    let end = self.commit_unless_zero_of(5);
                    self.end_transaction(xact, end, Server::Primary)?;
                }
            }
            _ if !self.scenario.old_primaries.is_empty() => {
                let number = 1 + self.choose.below(self.scenario.old_primaries.len());
                let device = self.device();
                let page_size = 1 + self.choose.below(4);
                self.pull(device, Server::OldPrimary(Some(number)), page_size)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Makes a device that pulls changes pull records, or the other way round.
    fn change_kind(&mut self) -> Result<(), String> {
        let device = self.device();
        let step = match self.scenario.devices[&device].as_records {
            true => Step::PullsChanges { device },
            false => Step::PullsRecords { device },
        };
        self.play(step)
    }

    /// Makes a device leave a space, get a page, join the space again, and perhaps change between records and changes.
    fn leave_for_a_page(&mut self) -> Result<(), String> {
        let device = self.device();
        let space = space_name(self.choose.below(SPACES));
        if !self.scenario.is_in(&device, &space) {
            return Ok(());
        }
        self.play(Step::Page { device: device.clone(), page_size: 1 })?;
        self.play(Step::Leave { device: device.clone(), space: space.clone() })?;
        self.play(Step::Page { device: device.clone(), page_size: 1 })?;
        self.play(Step::Join { device: device.clone(), space })?;
        if !self.scenario.devices[&device].as_records {
            self.play(Step::PullsRecords { device })?;
        }
        Ok(())
    }

    /// Purges deletes of records that no transaction in progress changes. In a real log, the age of the deletes that a purge removes
    /// ensures this.
    fn purge_at_once(&mut self) -> Result<(), String> {
        let mut deletes = self.scenario.primary.purgeable();
        deletes.retain(|(delete, _)| !self.scenario.primary.is_being_changed(delete.record));
        deletes.retain(|_| self.choose.below(3) != 0);
        if deletes.is_empty() {
            return Ok(());
        }
        let xact = self.scenario.primary.next_xact;
        let transaction = self.begin()?;
        let deletes = deletes.iter().map(|(delete, _)| row_name(delete.id)).collect();
        self.play(Step::Purge { transaction, deletes })?;
        self.end_transaction(xact, End::Commit, Server::Primary)
    }

    /// Compacts: removes some of the updates that later updates replace.
    fn compact(&mut self) -> Result<(), String> {
        let mut rows = self.scenario.primary.superfluous();
        rows.retain(|_| self.choose.below(3) != 0);
        if rows.is_empty() {
            return Ok(());
        }
        let xact = self.scenario.primary.next_xact;
        let transaction = self.begin()?;
        self.play(Step::Compact { transaction, rows: rows.into_iter().map(row_name).collect() })?;
        self.end_transaction(xact, End::Commit, Server::Primary)
    }

    /// Ends the schedule: everything commits, each device pulls until it is at rest, and then it must be complete.
    fn end(&mut self, world: World) -> Result<(), String> {
        let primary = &self.scenario.primary;
        for xact in primary.live().into_iter().chain(primary.prepared()) {
            self.end_transaction(xact, End::Commit, Server::Primary)?;
        }
        for device in 0..USERS + 2 {
            let device = device_name(device);
            let page_size = 1 + self.choose.below(5);
            self.pull(device.clone(), Server::Primary, page_size)?;
            self.play(Step::IsComplete { device: device.clone() })?;
            // A device at rest gets nothing from another pull.
            if !world.cut {
                self.pull(device.clone(), Server::Primary, 3)?;
                self.play(Step::Gets { device, rows: Vec::new() })?;
            }
        }
        Ok(())
    }

    fn one_of(&mut self, xacts: Vec<u64>) -> Option<u64> {
        (!xacts.is_empty()).then(|| xacts[self.choose.below(xacts.len())])
    }

    fn device(&mut self) -> String {
        device_name(self.choose.below(USERS + 2))
    }

    fn commit_unless_zero_of(&mut self, bound: usize) -> End {
        if self.choose.below(bound) != 0 { End::Commit } else { End::Rollback }
    }

    fn begin(&mut self) -> Result<String, String> {
        self.begun += 1;
        let transaction = format!("t{}", self.begun);
        self.transactions.insert(self.scenario.primary.next_xact, transaction.clone());
        self.play(Step::Begin { transaction: transaction.clone() })?;
        Ok(transaction)
    }

    /// Writes a row, or deletes the last one of the same user and space: every second row is a delete, if there is a
    /// row to delete.
    fn write(&mut self, world: World, xact: u64, user: usize, on: Server) -> Result<(), String> {
        let space = Some(self.choose.below(SPACES + 1)).filter(|space| *space < SPACES).map(space_name);
        let (transaction, user, id) = (self.transactions[&xact].clone(), user_name(user), self.written);
        self.written += 1;
        let deleted = match id % 2 {
            0 => None,
            _ => self.scenario.last_written(on, xact, &user, space.as_deref(), None)?,
        };
        let row = row_name(id);
        if world.records {
            let record = record_name(self.choose.below(RECORDS));
            let step = match self.choose.below(4) {
                0 => match self.scenario.last_written(on, xact, &user, space.as_deref(), Some(&record))? {
                    Some(deleted) => Step::Delete { transaction, row, deleted: row_name(deleted), on },
                    None => Step::Update { transaction, row, user, space, record, on },
                },
                1 => Step::Write { transaction, row, user, space, record: Some(record), on },
                _ => Step::Update { transaction, row, user, space, record, on },
            };
            return self.play(step);
        }
        self.play(match deleted {
            None => Step::Write { transaction, row, user, space, record: None, on },
            Some(deleted) => Step::Delete { transaction, row, deleted: row_name(deleted), on },
        })
    }

    fn end_transaction(&mut self, xact: u64, end: End, on: Server) -> Result<(), String> {
        let transaction = self.transactions[&xact].clone();
        self.play(Step::End { transaction, end, on })
    }

    fn pull(&mut self, device: String, from: Server, page_size: usize) -> Result<(), String> {
        self.play(Step::Pull { device, from, page_size: Some(page_size) })
    }
}
