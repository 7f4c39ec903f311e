//! Scenarios: the files in `testdata`, played on the servers and devices of the model.
//!
//! A file has one step a line; `#` begins a comment. `testdata/README.md` lists the steps. Names of users, spaces,
//! transactions and rows are free.

use crate::device::Device;
use crate::history;
use crate::server::{Event, Node};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// A number for each name, in the order in which the names appear.
#[derive(Default)]
struct Names(Vec<String>);

impl Names {
    fn number(&mut self, name: &str) -> usize {
        self.0.iter().position(|known| known == name).unwrap_or_else(|| {
            self.0.push(name.to_string());
            self.0.len() - 1
        })
    }
}

struct Scenario {
    primary: Node,
    /// The primary before the last failover. Devices can still reach it.
    old_primary: Option<Node>,
    /// The number of the primary's events that the standby has replayed.
    standby: usize,
    users: Names,
    spaces: Names,
    rows: Names,
    transactions: BTreeMap<String, u64>,
    devices: BTreeMap<String, Device>,
    /// The rows that the last pull or page of each device returned.
    received: BTreeMap<String, BTreeMap<u32, u32>>,
}

impl Scenario {
    fn new() -> Scenario {
        Scenario {
            primary: Node { history: history(1, 0), events: Vec::new(), flushed: 0, next_xact: 3, run: 1 },
            old_primary: None,
            standby: 0,
            users: Names::default(),
            spaces: Names::default(),
            rows: Names::default(),
            transactions: BTreeMap::new(),
            devices: BTreeMap::new(),
            received: BTreeMap::new(),
        }
    }

    /// Plays a step. The error says what is wrong with the step, or what was expected and found.
    fn step(&mut self, step: &str) -> Result<(), String> {
        let words: Vec<&str> = step.split_whitespace().collect();
        match words.as_slice() {
            ["device", name, user, spaces @ ..] => {
                let device = Device {
                    user: self.users.number(user),
                    spaces: spaces.iter().map(|space| self.spaces.number(space)).collect(),
                    cursor: None,
                    delivered: BTreeMap::new(),
                    rejoined: BTreeSet::new(),
                    excused: BTreeSet::new(),
                    writes_in: None,
                    room: None,
                    ends_pages_early: false,
                };
                self.devices.insert(name.to_string(), device);
            }
            ["join", device, space] => {
                let space = self.spaces.number(space);
                self.device(device)?.spaces.insert(space);
            }
            ["leave", device, space] => {
                let space = self.spaces.number(space);
                self.device(device)?.spaces.remove(&space);
            }
            ["begin", transaction] => {
                let xact = self.primary.start();
                self.transactions.insert(transaction.to_string(), xact);
            }
            ["write", transaction, row, user, space @ ..] if space.len() <= 1 => {
                let (xact, user) = (self.transaction(transaction)?, self.users.number(user));
                let space = space.first().map(|space| self.spaces.number(space));
                // An odd number would make the row a delete.
                let id = 2 * self.rows.number(row) as u32;
                self.primary.write(xact, user, space, id);
            }
            ["prepare", transaction] => {
                let xact = self.transaction(transaction)?;
                self.primary.events.push(Event::Prepare(xact));
            }
            [end @ ("commit" | "rollback"), transaction] => {
                let xact = self.transaction(transaction)?;
                self.primary.events.push(Event::End(xact, *end == "commit"));
            }
            ["replay"] => {
                self.primary.flushed = self.primary.events.len();
                self.standby = self.primary.flushed;
            }
            ["failover"] => {
                let timeline = self.primary.history.timeline.0 + 1;
                let mut promoted = Node {
                    history: history(timeline, self.standby as u64 + 1000),
                    events: self.primary.events[..self.standby].to_vec(),
                    flushed: 0,
                    next_xact: 0,
                    run: 10 * u64::from(timeline),
                };
                promoted.lose_live();
                self.old_primary = Some(std::mem::replace(&mut self.primary, promoted));
                self.standby = self.primary.events.len();
            }
            ["pull", device] => self.pull(device, |scenario, device| {
                device.pull(&scenario.primary, scenario.primary.events.len(), false, 100);
                scenario.primary.flushed = scenario.primary.events.len();
                Ok(())
            })?,
            ["pull", device, "from", "standby"] => self.pull(device, |scenario, device| {
                device.pull(&scenario.primary, scenario.standby, true, 100);
                Ok(())
            })?,
            ["pull", device, "from", "old", "primary"] => self.pull(device, |scenario, device| {
                let node = scenario.old_primary.as_ref().ok_or("there was no failover")?;
                device.pull(node, node.events.len(), false, 100);
                Ok(())
            })?,
            ["page", device, "of", size] => {
                let size: usize = size.parse().map_err(|_| format!("{size} is not a number"))?;
                self.pull(device, |scenario, device| {
                    device.page(&scenario.primary, scenario.primary.events.len(), false, size);
                    scenario.primary.flushed = scenario.primary.events.len();
                    Ok(())
                })?;
            }
            [device, verb @ ("gets" | "holds"), expected @ ..] => {
                let holds = self.device(device)?.delivered.clone();
                let found = match *verb {
                    "gets" => self.list(self.received.get(*device).ok_or("the device has not pulled")?),
                    _ => self.list(&holds),
                };
                let mut expected: Vec<&str> = expected.iter().copied().filter(|word| *word != "nothing").collect();
                expected.sort_unstable();
                let expected = match expected.is_empty() {
                    true => "nothing".to_string(),
                    false => expected.join(" "),
                };
                if found != expected {
                    return Err(format!("{device} {verb}\n  expected: {expected}\n  found:    {found}"));
                }
            }
            _ => return Err(format!("unknown step: {step}")),
        }
        Ok(())
    }

    fn device(&mut self, name: &str) -> Result<&mut Device, String> {
        self.devices.get_mut(name).ok_or_else(|| format!("unknown device: {name}"))
    }

    fn transaction(&self, name: &str) -> Result<u64, String> {
        self.transactions.get(name).copied().ok_or_else(|| format!("unknown transaction: {name}"))
    }

    /// Lets a device pull, and notes what it received.
    fn pull(
        &mut self,
        name: &str,
        pull: impl FnOnce(&mut Scenario, &mut Device) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut device = self.device(name)?.clone();
        let before = device.delivered.clone();
        pull(self, &mut device)?;
        let times_before = |id: &u32| before.get(id).copied().unwrap_or(0);
        let received = device.delivered.iter().map(|(id, times)| (*id, times - times_before(id)));
        self.received.insert(name.to_string(), received.filter(|(_, times)| *times > 0).collect());
        self.devices.insert(name.to_string(), device);
        Ok(())
    }

    /// The names of rows, sorted. A row that came several times has the number behind its name.
    fn list(&self, rows: &BTreeMap<u32, u32>) -> String {
        let mut names: Vec<String> = rows
            .iter()
            .map(|(id, times)| match times {
                1 => self.rows.0[*id as usize / 2].clone(),
                _ => format!("{}*{times}", self.rows.0[*id as usize / 2]),
            })
            .collect();
        names.sort_unstable();
        if names.is_empty() { "nothing".to_string() } else { names.join(" ") }
    }
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
            // A failed assertion of the model has to name the line too; its message is in the output of the test.
            let outcome = catch_unwind(AssertUnwindSafe(|| scenario.step(step)));
            if let Err(error) = outcome.unwrap_or_else(|_| Err(format!("{step}: an assertion of the model failed"))) {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                writeln!(failures, "testdata/{name}:{}: {error}", index + 1).expect("a String takes it");
                break;
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}
