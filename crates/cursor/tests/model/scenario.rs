//! Scenarios: lists of steps that are played on the servers and devices of the model. They come from the files in `testdata` or from a
//! random schedule.
//!
//! A file has one step on each line; `#` begins a comment. `testdata/README.md` lists the steps. Names of users,
//! spaces, transactions and rows are free.

use crate::device::Device;
use crate::server::{Event, Node, Op, Row};
use crate::step::{End, Server, Step};
use crate::{history, wrong};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Gives each name a number, in the order in which the names appear.
#[derive(Default)]
pub struct Names(Vec<String>);

impl Names {
    fn number(&mut self, name: &str) -> usize {
        self.0.iter().position(|known| known == name).unwrap_or_else(|| {
            self.0.push(name.to_string());
            self.0.len() - 1
        })
    }
}

pub struct Scenario {
    pub primary: Node,
    /// The primaries before failovers that can still be reached, the oldest first.
    pub old_primaries: Vec<Node>,
    /// The number of the primary's events that the standby has replayed.
    pub standby: usize,
    /// Whether there was a failover. After one, rows may come again, and rows of a lost tail stay on devices.
    has_failed_over: bool,
    users: Names,
    spaces: Names,
    rows: Names,
    records: Names,
    transactions: BTreeMap<String, u64>,
    pub devices: BTreeMap<String, Device>,
}

impl Scenario {
    pub fn new() -> Scenario {
        Scenario {
            primary: Node { history: history(1, 0), events: Vec::new(), flushed: 0, next_xact: 3, run: 1 },
            old_primaries: Vec::new(),
            standby: 0,
            has_failed_over: false,
            users: Names::default(),
            spaces: Names::default(),
            rows: Names::default(),
            records: Names::default(),
            transactions: BTreeMap::new(),
            devices: BTreeMap::new(),
        }
    }

    /// Plays a step. An error says what is wrong with the step, or what was expected and what was found.
    pub fn play(&mut self, step: &Step) -> Result<(), String> {
        // A panic is a failure of the step too. The error names the step.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.try_play(step)));
        let outcome = outcome.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            Err(wrong("no panic", format!("a panic: {text}")))
        });
        outcome.map_err(|error| format!("{step}\n{error}"))
    }

    fn try_play(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Device { device, user, spaces } => {
                let spaces = spaces.iter().map(|space| self.spaces.number(space)).collect();
                self.devices.insert(device.clone(), Device::new(self.users.number(user), spaces));
            }
            Step::Room { device, transactions } => self.device(device)?.room = Some(*transactions),
            Step::ShortPages { device } => self.device(device)?.ends_pages_early = true,
            Step::PullsRecords { device } => self.device(device)?.pull_records(),
            Step::PullsChanges { device } => self.device(device)?.pull_changes(),
            Step::Join { device, space } => {
                let space = self.spaces.number(space);
                let device = self.device(device)?;
                device.spaces.insert(space);
                device.rejoined.insert(space);
            }
            Step::Leave { device, space } => {
                let space = self.spaces.number(space);
                self.device(device)?.spaces.remove(&space);
            }
            Step::Begin { transaction } => {
                let xact = self.primary.start();
                self.transactions.insert(transaction.clone(), xact);
            }
            Step::Savepoint { transaction } => {
                let xact = self.transaction(transaction)?;
                self.primary.savepoint(xact);
            }
            Step::Enter { device, transaction } => {
                let xact = self.transaction(transaction)?;
                let entering = self.device(device)?;
                if entering.writes_in.is_some() {
                    return Err(format!("{device} is in a transaction"));
                }
                entering.enter(xact);
            }
            Step::Write { transaction, row, user, space, record, on } => {
                // Without a name, each row has a record of its own.
                let record = self.records.number(record.as_ref().unwrap_or(row));
                self.write(transaction, row, (record, user, space.as_deref()), Op::Insert, *on)?;
            }
            Step::Update { transaction, row, user, space, record, on } => {
                let record = self.records.number(record);
                self.write(transaction, row, (record, user, space.as_deref()), Op::Update, *on)?;
            }
            Step::Delete { transaction, row, deleted, on } => {
                let xact = self.transaction(transaction)?;
                let (deleted_id, id) = (self.rows.number(deleted) as u32, self.rows.number(row) as u32);
                let node = self.writable(*on)?;
                let state = node.state(node.events.len(), false, Some(xact));
                let found = state.rows.iter().find(|row| row.id == deleted_id && row.deletes().is_none());
                let group = found.map(|row| row.group()).ok_or(format!("{transaction} does not see {deleted}"))?;
                node.write(xact, id, group, Op::Delete(deleted_id));
            }
            Step::Purge { transaction, deletes } => {
                let xact = self.transaction(transaction)?;
                let ids: BTreeSet<u32> = deletes.iter().map(|row| self.rows.number(row) as u32).collect();
                let mut rows = self.primary.purgeable();
                rows.retain(|(delete, _)| ids.contains(&delete.id));
                if rows.len() != ids.len() || rows.is_empty() {
                    return Err("a purge removes deletes that are visible and that no other purge removes".into());
                }
                if self.primary.is_purging() {
                    return Err("another purge is in progress".into());
                }
                let removed: Vec<Row> = rows.into_iter().flat_map(|(_, removed)| removed).collect();
                let ids = removed.iter().map(|row| row.id);
                self.devices.values_mut().for_each(|device| device.excused.extend(ids.clone()));
                self.primary.purge(xact, removed);
            }
            Step::Compact { transaction, rows } => {
                let xact = self.transaction(transaction)?;
                let removed: Vec<u32> = rows.iter().map(|row| self.rows.number(row) as u32).collect();
                let superfluous = self.primary.superfluous();
                if !removed.iter().all(|row| superfluous.contains(row)) {
                    return Err("a compaction removes updates that later updates replace".into());
                }
                self.devices.values_mut().for_each(|device| device.compacted.extend(&removed));
                self.primary.events.push(Event::Compact(xact, removed));
            }
            Step::End { transaction, end, on } => {
                let xact = self.transaction(transaction)?;
                let node = self.writable(*on)?;
                if !node.live().contains(&xact) && !node.prepared().contains(&xact) {
                    return Err(format!("{transaction} has ended"));
                }
                let event = match end {
                    End::Commit => Event::End(xact, true),
                    End::Rollback => Event::End(xact, false),
                    End::Prepare => Event::Prepare(xact),
                };
                self.writable(*on)?.events.push(event);
                if *on == Server::Primary {
                    if *end != End::Prepare {
                        self.devices.values_mut().for_each(|device| device.end(xact, *end == End::Commit));
                    }
                    let devices = self.devices.values_mut().filter(|device| device.writes_in == Some(xact));
                    devices.for_each(|device| device.writes_in = None);
                }
            }
            Step::Pull { device, from, page_size } => self.pull(device, *from, page_size.unwrap_or(100))?,
            Step::Page { device, page_size } => {
                let node = &mut self.primary;
                let device = self.devices.get_mut(device).ok_or_else(|| unknown_device(device))?;
                device.page(node, node.events.len(), false, *page_size)?;
                node.flushed = node.events.len();
            }
            Step::Replay { events: None } => {
                self.primary.flushed = self.primary.events.len();
                self.standby = self.primary.flushed;
            }
            Step::Replay { events: Some(events) } => {
                self.standby = (self.standby + events).min(self.primary.flushed.max(self.standby));
            }
            Step::Crash => {
                self.primary.events.truncate(self.primary.flushed);
                self.primary.lose_live();
                self.standby = self.standby.min(self.primary.flushed);
                self.leave_transactions();
            }
            Step::Failover => {
                let timeline = self.primary.history.timeline.0 + 1;
                let mut promoted = Node {
                    history: history(timeline, self.standby as u64 + 1000),
                    events: self.primary.events[..self.standby].to_vec(),
                    flushed: 0,
                    next_xact: 0,
                    run: 2 + self.old_primaries.len() as u64 + 10 * u64::from(timeline),
                };
                promoted.lose_live();
                self.old_primaries.push(std::mem::replace(&mut self.primary, promoted));
                self.standby = self.primary.events.len();
                self.has_failed_over = true;
                self.leave_transactions();
            }
            Step::LoseOldPrimary => drop(self.old_primaries.pop().ok_or("there is no old primary")?),
            Step::Gets { device, rows } => self.expect_rows(rows, &self.known_device(device)?.received)?,
            Step::Holds { device, rows } => self.expect_rows(rows, &self.known_device(device)?.delivered)?,
            Step::IsComplete { device } => self.is_complete(self.known_device(device)?)?,
        }
        Ok(())
    }

    /// Lets a device pull until it is at rest. If the server shows everything that was written, the device must then
    /// hold everything that its scope allows.
    fn pull(&mut self, name: &str, from: Server, page_size: usize) -> Result<(), String> {
        let (node, length, in_recovery) = match from {
            Server::Primary => (&self.primary, self.primary.events.len(), false),
            Server::Standby => (&self.primary, self.standby, true),
            Server::OldPrimary(number) => {
                let node = old_primary(&mut self.old_primaries, number)?;
                (&*node, node.events.len(), false)
            }
        };
        let device = self.devices.get_mut(name).ok_or_else(|| unknown_device(name))?;
        if let Server::OldPrimary(_) = from {
            device.writes_in = None;
            return device.pull(node, length, in_recovery, page_size);
        }
        device.pull(node, length, in_recovery, page_size)?;
        if length == node.events.len() && device.records.is_some() {
            self.holds_records(&self.devices[name], self.node(from), length, in_recovery)?;
        } else if length == node.events.len() {
            let missing = device.missing(node, length, in_recovery);
            if !missing.is_empty() {
                let missing = self.list(missing.into_iter().map(|id| (id, 1)));
                let held = self.list(self.devices[name].delivered.clone());
                return Err(wrong(format!("{name} holds {missing}"), format!("{name} holds {held}")));
            }
        }
        if from == Server::Primary {
            // A pull flushes what it has seen.
            self.primary.flushed = self.primary.events.len();
        }
        Ok(())
    }

    fn node(&self, server: Server) -> &Node {
        match server {
            Server::Primary | Server::Standby => &self.primary,
            Server::OldPrimary(number) => {
                let place = number.map_or(self.old_primaries.len() - 1, |number| number - 1);
                &self.old_primaries[place]
            }
        }
    }

    /// Fails unless a device that pulls records holds each record as the server shows it to the device.
    fn holds_records(&self, device: &Device, node: &Node, length: usize, in_recovery: bool) -> Result<(), String> {
        let Some(wrong_record) = device.wrong_record(node, length, in_recovery, self.has_failed_over) else {
            return Ok(());
        };
        let text = |rows: &BTreeSet<u32>| match rows.is_empty() {
            true => "nothing".to_string(),
            false => self.list(rows.iter().map(|id| (*id, 1))),
        };
        let (expected, found) = (text(&wrong_record.expected), text(&wrong_record.found));
        let name = &self.records.0[wrong_record.record];
        Err(wrong(format!("record {name} of {expected}"), format!("record {name} of {found}")))
    }

    /// Fails unless a device holds what its scope allows: each row at least once, and exactly once where the contract says so.
    fn is_complete(&self, device: &Device) -> Result<(), String> {
        if device.records.is_some() {
            return self.holds_records(device, &self.primary, self.primary.events.len(), false);
        }
        let state = self.primary.now();
        let row = |id: u32| self.list([(id, 1)]);
        let held = || self.list(device.delivered.clone());
        for delete in &state.purged {
            let holds = |id: u32| device.delivered.contains_key(&id);
            let deleted = delete.deletes().expect("a delete");
            if holds(deleted) && !holds(delete.id) {
                let (deleted, delete) = (row(deleted), row(delete.id));
                return Err(wrong(
                    format!("{delete} with {deleted}, because {delete} deleted it and was purged"),
                    format!("{deleted} without {delete}"),
                ));
            }
        }
        for wanted in &state.rows {
            let shared = wanted.space.is_some_and(|space| device.spaces.contains(&space));
            if wanted.user != device.user && !shared {
                continue;
            }
            let times = device.delivered.get(&wanted.id).copied().unwrap_or(0);
            let excused = self.has_failed_over && device.excused.contains(&wanted.id);
            if times == 0 && !excused {
                return Err(wrong(format!("{} among its rows", row(wanted.id)), held()));
            }
            let rejoined = wanted.space.is_some_and(|space| device.rejoined.contains(&space));
            if times != 1 && !self.has_failed_over && device.room.is_none() && !rejoined && !excused {
                return Err(wrong(format!("{} once", row(wanted.id)), held()));
            }
        }
        // A purged row, or one of a lost tail, may be on a device.
        if self.has_failed_over || self.primary.events.iter().any(|event| matches!(event, Event::Purge(..))) {
            return Ok(());
        }
        for id in device.delivered.keys().filter(|id| !state.rows.iter().any(|row| row.id == **id)) {
            // A device may hold rows that it read in its own transaction before that transaction rolled back.
            let ended = |xact: &u64| state.ended.get(xact) == Some(&true);
            let committed = self
                .primary
                .events
                .iter()
                .any(|e| matches!(e, Event::Row(row) if row.id == *id && ended(&row.at.xact.0)));
            if committed {
                return Err(wrong(format!("not {}, which is not visible", row(*id)), held()));
            }
        }
        Ok(())
    }

    /// Is called after a crash: the devices leave the transactions that the crash has ended.
    fn leave_transactions(&mut self) {
        for device in self.devices.values_mut() {
            if let Some(xact) = device.writes_in.take() {
                device.end(xact, false);
            }
        }
    }

    /// Whether the user of a device is in a space.
    pub fn is_in(&mut self, device: &str, space: &str) -> bool {
        let space = self.spaces.number(space);
        self.devices[device].spaces.contains(&space)
    }

    /// Returns the number of the last row of a user and space that a transaction sees on a server, of one record or of any. Deletes do not
    /// count.
    pub fn last_written(
        &mut self,
        on: Server,
        xact: u64,
        user: &str,
        space: Option<&str>,
        record: Option<&str>,
    ) -> Result<Option<u32>, String> {
        let (user, space) = (self.users.number(user), space.map(|space| self.spaces.number(space)));
        let record = record.map(|record| self.records.number(record));
        Ok(self.writable(on)?.last_written(xact, user, space, record))
    }

    /// Writes a row, which has a record, a user and a space.
    fn write(
        &mut self,
        transaction: &str,
        row: &str,
        (record, user, space): (usize, &str, Option<&str>),
        op: Op,
        on: Server,
    ) -> Result<(), String> {
        let xact = self.transaction(transaction)?;
        let user = self.users.number(user);
        let space = space.map(|space| self.spaces.number(space));
        let id = self.rows.number(row) as u32;
        self.writable(on)?.write(xact, id, (record, user, space), op);
        Ok(())
    }

    fn expect_rows(&self, expected: &[String], found: &BTreeMap<u32, u32>) -> Result<(), String> {
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        let expected = if expected.is_empty() { "nothing".to_string() } else { expected.join(" ") };
        let found = self.list(found.clone());
        if found == expected { Ok(()) } else { Err(wrong(expected, found)) }
    }

    fn device(&mut self, name: &str) -> Result<&mut Device, String> {
        self.devices.get_mut(name).ok_or_else(|| unknown_device(name))
    }

    fn known_device(&self, name: &str) -> Result<&Device, String> {
        self.devices.get(name).ok_or_else(|| unknown_device(name))
    }

    fn transaction(&self, name: &str) -> Result<u64, String> {
        self.transactions.get(name).copied().ok_or_else(|| format!("unknown transaction: {name}"))
    }

    fn writable(&mut self, server: Server) -> Result<&mut Node, String> {
        match server {
            Server::Primary => Ok(&mut self.primary),
            Server::Standby => Err("a standby is read-only".into()),
            Server::OldPrimary(number) => old_primary(&mut self.old_primaries, number),
        }
    }

    /// Formats the names of rows, sorted. The name of a row that came several times is followed by the number of times.
    fn list(&self, rows: impl IntoIterator<Item = (u32, u32)>) -> String {
        let rows = rows.into_iter().map(|(id, times)| match times {
            1 => self.rows.0[id as usize].clone(),
            _ => format!("{}*{times}", self.rows.0[id as usize]),
        });
        let mut names: Vec<String> = rows.collect();
        names.sort_unstable();
        if names.is_empty() { "nothing".to_string() } else { names.join(" ") }
    }
}

fn unknown_device(name: &str) -> String {
    format!("unknown device: {name}")
}

fn old_primary(nodes: &mut [Node], number: Option<usize>) -> Result<&mut Node, String> {
    let place = number.unwrap_or(nodes.len()).checked_sub(1);
    place.and_then(|place| nodes.get_mut(place)).ok_or_else(|| "there is no such old primary".into())
}

#[test]
fn scenarios() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let entries = std::fs::read_dir(&directory).expect("the directory of scenarios");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    assert!(!files.is_empty(), "no scenarios in {}", directory.display());
    let mut failures = String::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a scenario");
        let mut scenario = Scenario::new();
        for (index, line) in text.lines().enumerate() {
            let step = line.split('#').next().unwrap_or_default().trim();
            if step.is_empty() {
                continue;
            }
            let outcome = step.parse().and_then(|step| scenario.play(&step));
            if let Err(error) = outcome {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                writeln!(failures, "testdata/{name}:{}: {error}", index + 1).expect("a String takes it");
                break;
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
    if let Some(file) = std::env::var_os("MANA_SYNC_MODEL_SHORTEN") {
        let text = std::fs::read_to_string(file).expect("a scenario that fails");
        println!("{}", shortened(&text));
    }
}

/// Shortens a scenario that fails: leaves out the steps without which it still fails. Returns the rest, and how it fails then.
fn shortened(text: &str) -> String {
    let failure = |steps: &[Step]| {
        let mut scenario = Scenario::new();
        let error = steps.iter().find_map(|step| scenario.play(step).err());
        error.filter(|error| error.contains("expected:"))
    };
    let lines = text.lines().filter_map(|line| line.split('#').next()).map(str::trim);
    let mut steps: Vec<Step> =
        lines.filter(|line| !line.is_empty()).map(|line| line.parse().expect("a step")).collect();
    let mut error = failure(&steps).expect("the scenario fails");
    // The same step fails, and it expects the same kind of thing.
    let kind = |error: &str| -> Vec<String> {
        let words = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        error.lines().take(2).map(words).collect()
    };
    let mut width = steps.len() / 2;
    while width > 0 {
        let (mut place, mut is_shorter) = (0, false);
        while place < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(place..(place + width).min(steps.len()));
            match failure(&fewer).filter(|found| kind(found) == kind(&error)) {
                Some(found) => (steps, error, is_shorter) = (fewer, found, true),
                None => place += width,
            }
        }
        width = if is_shorter && width == 1 { 1 } else { width / 2 };
    }
    let steps: Vec<String> = steps.iter().map(Step::to_string).collect();
    format!("{}\n# {}", steps.join("\n"), error.replace('\n', "\n# "))
}
