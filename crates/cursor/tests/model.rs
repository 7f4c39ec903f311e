//! The cursor algebra against plain sets of transactions.
//!
//! A small model of servers (primaries that fork, a standby that lags, crashes that lose an unflushed
//! tail) runs random schedules of transactions, and devices pull from it through the same code as the
//! extension. In the end everything has committed, each device pulls until it is at rest, and then it
//! must hold each change that its scope allows: never too few, and exactly once where the contract
//! says so. Every schedule comes from a list of small numbers, so that proptest can shrink it.

use mana_sync_cursor::Position;
use mana_sync_cursor::cursor::Cursor;
use mana_sync_cursor::history::{Epoch, Here, KnownEpoch, Server};
use mana_sync_cursor::keyed::{self, SECRET_LENGTH, Secret};
use mana_sync_cursor::snapshot::Snapshot;
use mana_sync_cursor::walk::{Fetch, Filter, Page, Part, Request, Source, Start, read_page};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const USERS: usize = 3;
const SPACES: usize = 3;
const APP: &[u8] = b"app";

#[derive(Clone, Debug)]
struct Row {
    at: Position,
    /// What the row says; the same on every server that has it.
    id: u32,
    user: usize,
    space: Option<usize>,
}

#[derive(Clone, Debug)]
enum Event {
    Start(u64),
    Row(Row),
    Epoch(KnownEpoch, u64),
    Prepare(u64),
    End(u64, bool),
    /// Recovery ended: all ids below count as completed, but for what is prepared.
    Recovered(u64),
}

/// A server's history. A standby is a length of it.
#[derive(Clone, Debug)]
struct Node {
    here: Here,
    events: Vec<Event>,
    /// What a crash cannot take back.
    flushed: usize,
    next_xact: u64,
    /// Tells apart the servers; fingerprints come from it.
    run: u64,
}

/// What a server shows when it has replayed so many events.
struct State<'a> {
    ended: BTreeMap<u64, bool>,
    snapshot: (u64, Vec<u64>),
    rows: Vec<&'a Row>,
    server: Server,
}

impl Node {
    fn state(&self, length: usize, in_recovery: bool, own: Option<u64>) -> State<'_> {
        let events = &self.events[..length];
        let ended: BTreeMap<u64, bool> =
            events.iter().filter_map(|e| if let Event::End(x, ok) = e { Some((*x, *ok)) } else { None }).collect();
        let recovered = events.iter().filter_map(|e| if let Event::Recovered(next) = e { Some(*next) } else { None });
        let xmax = ended.keys().map(|xact| xact + 1).chain(recovered).max().unwrap_or(3);
        let started = events.iter().filter_map(|e| if let Event::Start(x) = e { Some(*x) } else { None });
        let open = started.filter(|xact| *xact < xmax && !ended.contains_key(xact)).collect();
        let visible = |xact: &u64| ended.get(xact) == Some(&true) || own == Some(*xact);
        let rows = events
            .iter()
            .filter_map(|e| if let Event::Row(row) = e { Some(row) } else { None })
            .filter(|row| visible(&row.at.xact))
            .collect();
        let epochs = events
            .iter()
            .filter_map(|e| if let Event::Epoch(known, by) = e { visible(by).then(|| known.clone()) } else { None })
            .collect();
        let server = Server::new(epochs, self.here, in_recovery, self.next_xact);
        State { ended, snapshot: (xmax, open), rows, server }
    }

    fn now(&self) -> State<'_> {
        self.state(self.events.len(), false, None)
    }

    fn live(&self) -> Vec<u64> {
        let (mut live, mut prepared) = (BTreeSet::new(), BTreeSet::new());
        for event in &self.events {
            match event {
                Event::Start(xact) => drop(live.insert(*xact)),
                Event::Prepare(xact) => drop((live.remove(xact), prepared.insert(*xact))),
                Event::End(xact, _) => drop((live.remove(xact), prepared.remove(xact))),
                _ => {}
            }
        }
        live.into_iter().collect()
    }

    fn prepared(&self) -> Vec<u64> {
        let mut prepared = BTreeSet::new();
        for event in &self.events {
            match event {
                Event::Prepare(xact) => drop(prepared.insert(*xact)),
                Event::End(xact, _) => drop(prepared.remove(xact)),
                _ => {}
            }
        }
        prepared.into_iter().collect()
    }

    fn start(&mut self) -> u64 {
        let xact = self.next_xact;
        self.next_xact += 1;
        self.events.push(Event::Start(xact));
        xact
    }

    fn write(&mut self, xact: u64, user: usize, space: Option<usize>, id: u32) {
        let (epoch, missing) = self.state(self.events.len(), false, Some(xact)).server.writes_in();
        if missing {
            let known = KnownEpoch {
                epoch: Epoch { number: epoch, fingerprint: self.run },
                secret: Secret([self.run as u8; SECRET_LENGTH]),
                system: self.here.system,
                history: self.here.history,
            };
            self.events.push(Event::Epoch(known, xact));
        }
        let at = Position::new(epoch, xact, i64::from(id) + 1);
        self.events.push(Event::Row(Row { at, id, user, space }));
    }

    /// Everything in progress is gone, but what was prepared.
    fn lose_live(&mut self) {
        let last = self.events.iter().filter_map(|e| if let Event::Start(x) = e { Some(*x) } else { None }).max();
        self.next_xact = last.map_or(3, |xact| xact + 1);
        for xact in self.live() {
            self.events.push(Event::End(xact, false));
        }
        self.events.push(Event::Recovered(self.next_xact));
        self.flushed = self.events.len();
    }
}

/// Reads a state as the extension's queries read a table.
struct Table<'a> {
    state: &'a State<'a>,
    user: usize,
    spaces: &'a [usize],
    read: usize,
}

impl Source for Table<'_> {
    type Row = Row;
    type Error = ();

    fn fetch(
        &mut self,
        fetches: &[Fetch],
        filter: &Filter,
        take: &mut dyn FnMut(usize, Position, Row),
    ) -> Result<(), ()> {
        for (place, fetch) in fetches.iter().enumerate() {
            let mut rows: Vec<&Row> = self
                .state
                .rows
                .iter()
                .copied()
                .filter(|row| match fetch.part {
                    Part::Own => {
                        row.user == self.user
                            && !filter.own_except.iter().any(|&space| row.space == Some(self.spaces[space]))
                    }
                    Part::Space { index, with_own } => {
                        row.space == Some(self.spaces[index]) && (with_own || row.user != self.user)
                    }
                })
                .filter(|row| fetch.from <= row.at && row.at < fetch.to)
                .collect();
            rows.sort_by_key(|row| row.at);
            for row in rows.into_iter().take(fetch.limit) {
                self.read += 1;
                take(place, row.at, row.clone());
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct Device {
    user: usize,
    spaces: BTreeSet<usize>,
    cursor: Option<String>,
    delivered: BTreeMap<u32, u32>,
    /// Spaces it has joined after it had begun: their rows may come again.
    rejoined: BTreeSet<usize>,
    /// Its own open transaction on the first primary.
    writes_in: Option<u64>,
}

impl Device {
    /// One page; true if it was filled.
    fn page(&mut self, node: &Node, length: usize, in_recovery: bool, page_size: usize) -> bool {
        let own = self.writes_in.filter(|_| !in_recovery);
        let state = node.state(length, in_recovery, own);
        let (xmax, open) = state.snapshot.clone();
        let scope = |row: &&&Row| row.user == self.user || row.space.is_some_and(|space| self.spaces.contains(&space));
        let own_seq =
            |xact| state.rows.iter().filter(|row| row.at.xact == xact).filter(scope).map(|row| row.at.seq).max();
        let snapshot =
            Snapshot::new(xmax, open, own.map(|xact| (xact, own_seq(xact).unwrap_or(0))).into_iter().collect());
        let spaces: Vec<usize> = self.spaces.iter().copied().collect();
        let names: Vec<String> = spaces.iter().map(|space| format!("space {space}")).collect();
        let ids: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        let user = format!("user {}", self.user);
        let request = Request { user: user.as_bytes(), app: APP, spaces: &ids, table: None, page_size };
        let start = match &self.cursor {
            None => Start::Beginning(None),
            Some(text) => Start::Cursor(Box::new(Cursor::from_text(text.as_bytes()).expect("its own cursor"))),
        };
        let mut table = Table { state: &state, user: self.user, spaces: &spaces, read: 0 };
        let page: Page<Row> = read_page(&state.server, snapshot, &request, start, &mut table).expect("no error");
        assert!(page.rows.len() <= page_size);
        assert!(!page.more || page.rows.len() == page_size);
        assert!(page.rows.windows(2).all(|pair| pair[0].at < pair[1].at) || page.rows.len() > 1, "order");
        if let Some(cursor) = page.cursor {
            self.cursor = Some(cursor.to_text());
        } else {
            assert!(page.rows.is_empty());
        }
        for row in page.rows {
            *self.delivered.entry(row.id).or_default() += 1;
        }
        page.more
    }

    fn pull(&mut self, node: &Node, length: usize, in_recovery: bool, page_size: usize) {
        for _ in 0..10_000 {
            if !self.page(node, length, in_recovery, page_size) {
                return;
            }
        }
        panic!("a pull does not end");
    }
}

/// What may happen in a schedule.
#[derive(Clone, Copy)]
struct World {
    spaces_change: bool,
    forks: bool,
    crashes: bool,
}

/// Small numbers, as many as are asked for.
struct Choices<'a>(std::iter::Cycle<std::slice::Iter<'a, u8>>, usize);

impl Choices<'_> {
    fn below(&mut self, bound: usize) -> usize {
        self.1 += 1;
        (*self.0.next().expect("a cycle") as usize + self.1 / 251) % bound
    }
}

fn run(world: World, choices: &[u8]) {
    let trace = std::env::var_os("MANA_SYNC_MODEL_TRACE").is_some();
    let mut choose = Choices(choices.iter().cycle(), 0);
    let here = |timeline: u32, at: u64| Here { system: 42, timeline, history: keyed::history(42, 5, timeline, at) };
    let mut node = Node { here: here(1, 0), events: Vec::new(), flushed: 0, next_xact: 3, run: 1 };
    // Servers that went on separately; devices still reach them.
    let mut forks: Vec<Node> = Vec::new();
    let mut standby = 0;
    let mut next_id = 0;
    let mut devices: Vec<Device> = (0..USERS + 2)
        .map(|i| Device {
            user: i % USERS,
            spaces: (0..SPACES).filter(|_| choose.below(2) == 1).collect(),
            cursor: None,
            delivered: BTreeMap::new(),
            rejoined: BTreeSet::new(),
            writes_in: None,
        })
        .collect();
    let mut write = |node: &mut Node, xact: u64, choose: &mut Choices<'_>, user: Option<usize>| {
        let user = user.unwrap_or_else(|| choose.below(USERS));
        let space = choose.below(SPACES + 1);
        node.write(xact, user, (space < SPACES).then_some(space), next_id);
        next_id += 1;
    };
    for _ in 0..choices.len() {
        let events = node.events.len();
        let action = choose.below(16);
        match action {
            0 | 1 => drop(node.start()),
            2..=4 => {
                let live = node.live();
                if !live.is_empty() {
                    let xact = live[choose.below(live.len())];
                    write(&mut node, xact, &mut choose, None);
                }
            }
            5 | 6 => {
                let live = node.live();
                if !live.is_empty() {
                    let xact = live[choose.below(live.len())];
                    if choose.below(5) == 0 {
                        node.events.push(Event::Prepare(xact));
                    } else {
                        node.events.push(Event::End(xact, choose.below(3) != 0));
                    }
                    devices.iter_mut().filter(|d| d.writes_in == Some(xact)).for_each(|d| d.writes_in = None);
                }
            }
            7 => {
                let prepared = node.prepared();
                if !prepared.is_empty() {
                    // How a prepared transaction ended is not among what a failover loses: a reader
                    // that has seen the end, and meets the transaction again prepared on a promoted
                    // standby, takes its rows for seen. See docs/reference.md, "Limits".
                    if world.forks {
                        node.flushed = node.events.len() + 1;
                        standby = node.flushed;
                    }
                    let xact = prepared[choose.below(prepared.len())];
                    node.events.push(Event::End(xact, choose.below(3) != 0));
                }
            }
            8 | 9 => {
                // A page, or a whole pull, from the primary. It flushes what it has seen.
                let device = choose.below(devices.len());
                let size = 1 + choose.below(4);
                if choose.below(3) == 0 {
                    devices[device].page(&node, node.events.len(), false, size);
                } else {
                    devices[device].pull(&node, node.events.len(), false, size);
                }
                node.flushed = node.events.len();
            }
            10 => {
                // Not in a transaction of its own: a cursor from there is the client's after the commit.
                let device = choose.below(devices.len());
                if devices[device].writes_in.is_none() {
                    devices[device].pull(&node, standby, true, 1 + choose.below(4));
                }
            }
            11 => standby = (standby + 1 + choose.below(12)).min(node.flushed.max(standby)),
            12 if world.spaces_change => {
                let (device, space) = (choose.below(devices.len()), choose.below(SPACES));
                let device = &mut devices[device];
                if !device.spaces.remove(&space) {
                    device.spaces.insert(space);
                    device.rejoined.insert(space);
                }
            }
            13 => {
                // A device begins, or goes on in, a transaction of its own in which it also pulls.
                let device = choose.below(devices.len());
                let xact = *devices[device].writes_in.get_or_insert_with(|| node.start());
                let user = devices[device].user;
                write(&mut node, xact, &mut choose, Some(user));
                devices[device].pull(&node, node.events.len(), false, 1 + choose.below(3));
                node.flushed = node.events.len();
            }
            14 if world.crashes => {
                node.events.truncate(node.flushed);
                node.lose_live();
                standby = standby.min(node.flushed);
                devices.iter_mut().for_each(|device| device.writes_in = None);
            }
            15 if world.forks => {
                // The standby is promoted; the primary dies, or goes on by itself and is still read.
                let timeline = node.here.timeline + 1;
                let mut promoted = Node {
                    here: here(timeline, standby as u64 + 1000),
                    events: node.events[..standby].to_vec(),
                    flushed: 0,
                    next_xact: 0,
                    run: 2 + forks.len() as u64 + 10 * u64::from(timeline),
                };
                promoted.lose_live();
                let mut old = std::mem::replace(&mut node, promoted);
                standby = node.events.len();
                if choose.below(2) == 0 {
                    for xact in old.live() {
                        write(&mut old, xact, &mut choose, None);
                        old.events.push(Event::End(xact, true));
                    }
                    forks.push(old);
                }
                devices.iter_mut().for_each(|device| device.writes_in = None);
            }
            _ if !forks.is_empty() => {
                let fork = &forks[choose.below(forks.len())];
                let device = choose.below(devices.len());
                devices[device].writes_in = None;
                devices[device].pull(fork, fork.events.len(), false, 1 + choose.below(4));
            }
            _ => {}
        }
        if trace {
            eprintln!(
                "action {action}, timeline {}, standby at {standby}, new {:?}",
                node.here.timeline,
                node.events.get(events..)
            );
            devices.iter().enumerate().for_each(|(i, device)| eprintln!("    Device {i} {device:?}"));
        }
    }
    for xact in node.live().into_iter().chain(node.prepared()) {
        node.events.push(Event::End(xact, true));
    }
    let state = node.now();
    for device in &mut devices {
        device.writes_in = None;
        device.pull(&node, node.events.len(), false, 1 + choose.below(5));
        for row in &state.rows {
            let shared = row.space.is_some_and(|space| device.spaces.contains(&space));
            if row.user != device.user && !shared {
                continue;
            }
            let times = device.delivered.get(&row.id).copied().unwrap_or(0);
            assert!(times > 0, "lost {row:?} on {:?}", device);
            let rejoined = row.space.is_some_and(|space| device.rejoined.contains(&space));
            if !world.forks && !rejoined {
                assert_eq!(times, 1, "{row:?} came {times} times to {device:?}");
            }
        }
        if !world.forks {
            for id in device.delivered.keys() {
                let there = state.rows.iter().any(|row| row.id == *id);
                // A reader that writes sees its own rows before it aborts, and nobody else ever does.
                let own = node
                    .events
                    .iter()
                    .any(|e| matches!(e, Event::Row(row) if row.id == *id && state.ended[&row.at.xact]));
                assert!(there || !own, "{id} was delivered and is not there");
            }
        }
        // At rest, an empty pull stays at rest.
        let before = device.delivered.clone();
        let cursor = device.cursor.clone();
        device.pull(&node, node.events.len(), false, 3);
        assert_eq!(before, device.delivered, "{cursor:?} then {device:?}");
    }
}

/// A time for the quick run; set `MANA_SYNC_MODEL_CASES` for a long one.
fn config() -> ProptestConfig {
    let cases = std::env::var("MANA_SYNC_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(600);
    ProptestConfig { cases, max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() }
}

fn schedule() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..160)
}

/// Schedules that once lost changes, found by the tests below, and one more to look at:
/// `MANA_SYNC_MODEL_TRACE=0,188,3 cargo test --test model schedules -- --nocapture` prints what happens in it.
#[test]
fn schedules_that_once_lost_changes() {
    const SPACE_JOINED_AS_THE_WALK_ENDED: &[u8] = &[
        74, 0, 0, 7, 56, 39, 0, 0, 0, 69, 0, 74, 0, 34, 0, 18, 158, 78, 218, 0, 0, 229, 2, 168, 0, 178, 140, 0, 0, 39,
        209, 106, 0, 0, 82, 0, 0, 0, 85, 0, 31, 0, 181, 9, 65, 229, 157, 55, 10, 0, 14, 121, 0, 0, 207, 196, 154, 5, 0,
        183, 82, 0, 35, 210, 110, 24, 43, 0, 10, 82, 66, 73, 0, 0, 33, 125, 129, 139, 72, 87, 82, 1, 40, 0, 24, 0, 24,
        0, 82, 0, 144, 40, 18, 0, 0, 2, 7, 85, 0, 42, 37, 0, 48, 85, 0, 1, 0, 85, 0, 46, 0, 112, 5, 0,
    ];
    const PREPARED_TRANSACTION_AT_THE_END_OF_A_SNAPSHOT: &[u8] = &[
        124, 0, 0, 0, 247, 98, 0, 0, 148, 168, 4, 135, 0, 0, 0, 65, 128, 205, 49, 0, 0, 224, 9, 0, 0, 49, 138, 75, 0,
        29, 17, 23, 0, 80, 0, 122, 86, 33, 1, 24, 0, 0, 0, 45, 202, 0, 0, 34, 0, 0, 0, 50, 0, 0, 0, 175, 126, 0, 0,
        135, 0, 0, 0, 39, 0, 0, 0, 89, 0, 0, 79, 15, 7, 32, 149, 0, 1, 0, 94, 32, 111, 0, 203, 0, 13, 145, 0, 0, 23,
        172, 153, 0, 53, 73, 16, 0, 49, 192, 0, 0, 23, 0, 0, 7, 2, 0, 0, 0, 0, 146, 0, 0, 0, 50, 0, 0, 0, 98, 0, 0, 0,
        81, 13, 0, 0, 189, 110, 0, 0,
    ];
    run(World { spaces_change: true, forks: false, crashes: false }, SPACE_JOINED_AS_THE_WALK_ENDED);
    run(World { spaces_change: true, forks: true, crashes: true }, PREPARED_TRANSACTION_AT_THE_END_OF_A_SNAPSHOT);
    if let Ok(choices) = std::env::var("MANA_SYNC_MODEL_TRACE") {
        let choices: Vec<u8> = choices.split(',').filter_map(|choice| choice.trim().parse().ok()).collect();
        run(World { spaces_change: true, forks: true, crashes: true }, &choices);
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn nothing_is_lost_and_nothing_repeated(choices in schedule()) {
        run(World { spaces_change: false, forks: false, crashes: false }, &choices);
    }

    #[test]
    fn spaces_come_and_go(choices in schedule()) {
        run(World { spaces_change: true, forks: false, crashes: false }, &choices);
    }

    #[test]
    fn nothing_is_lost_in_crashes(choices in schedule()) {
        run(World { spaces_change: true, forks: false, crashes: true }, &choices);
    }

    #[test]
    fn nothing_is_lost_where_servers_fork(choices in schedule()) {
        run(World { spaces_change: true, forks: true, crashes: true }, &choices);
    }
}
