//! Servers. A server has a list of events; its state is what it shows after a number of these events.

use mana_sync_cursor::Position;
use mana_sync_cursor::epoch::{Epoch, History, KnownEpoch, Server, WriteEpoch};
use mana_sync_cursor::hash::{SECRET_LENGTH, Secret};
use mana_sync_cursor::id::{EpochNumber, Fingerprint, Lsn, PurgeMark, TransactionId};
use mana_sync_cursor::resync::Purges;
use mana_sync_cursor::scan::{Fetch, Filter, Source, Stream};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
pub struct Row {
    pub at: Position,
    /// The number that identifies the row. It is the same on every server that has the row.
    pub id: u32,
    pub user: usize,
    pub space: Option<usize>,
    /// The record that the row changes.
    pub record: usize,
    pub op: Op,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Insert,
    Update,
    /// The row deletes its record. The number is that of an earlier row of the record by the same user in the same
    /// space.
    Delete(u32),
}

impl Row {
    /// The number of the row that this row deletes; `None` if this row is not a delete.
    pub fn deletes(&self) -> Option<u32> {
        match self.op {
            Op::Delete(row) => Some(row),
            Op::Insert | Op::Update => None,
        }
    }

    /// The group of the row: the rows of one record by one user in one space.
    pub fn group(&self) -> (usize, usize, Option<usize>) {
        (self.record, self.user, self.space)
    }
}

#[derive(Clone, Debug)]
pub enum Event {
    Start(u64),
    /// A transaction (the first id) gets an id for a subtransaction (the second id).
    Sub(u64, u64),
    Row(Row),
    Epoch(KnownEpoch, u64),
    Prepare(u64),
    /// A transaction purges deletes and the rows that they deleted. The last number is the mark of the purge, which no
    /// other purge has.
    Purge(u64, Vec<Row>, u64),
    /// A transaction removes updates that later updates have made superfluous.
    Compact(u64, Vec<u32>),
    End(u64, bool),
    /// Recovery ended. All transactions with smaller ids have ended, except the prepared ones.
    Recovered(u64),
}

/// A server: its history and its events. A standby of the server has replayed a number of the events.
#[derive(Clone, Debug)]
pub struct Node {
    pub history: History,
    pub events: Vec<Event>,
    /// The number of events that a crash cannot lose.
    pub flushed: usize,
    pub next_xact: u64,
    /// A number that tells servers apart. The fingerprints of epochs are made from it.
    pub run: u64,
}

/// What a server shows after a number of events.
pub struct State<'a> {
    pub ended: BTreeMap<u64, bool>,
    pub snapshot: (u64, Vec<u64>),
    pub rows: Vec<&'a Row>,
    pub server: Server,
    /// The deletes that were purged.
    pub purged: Vec<&'a Row>,
    /// The mark of the latest purge.
    pub mark: u64,
}

impl Node {
    pub fn state(&self, length: usize, in_recovery: bool, own: Option<u64>) -> State<'_> {
        let events = &self.events[..length];
        let ended: BTreeMap<u64, bool> =
            events.iter().filter_map(|e| if let Event::End(x, ok) = e { Some((*x, *ok)) } else { None }).collect();
        let subs: Vec<(u64, u64)> =
            events.iter().filter_map(|e| if let Event::Sub(of, x) = e { Some((*of, *x)) } else { None }).collect();
        let recovered = events.iter().filter_map(|e| if let Event::Recovered(next) = e { Some(*next) } else { None });
        let ended_subs = subs.iter().filter(|(of, _)| ended.contains_key(of)).map(|(_, xact)| xact);
        let xmax = ended.keys().chain(ended_subs).map(|xact| xact + 1).chain(recovered).max().unwrap_or(3);
        let started = events.iter().filter_map(|e| if let Event::Start(x) = e { Some(*x) } else { None });
        let mut open: Vec<u64> = started.filter(|xact| *xact < xmax && !ended.contains_key(xact)).collect();
        // A standby's snapshot has the subtransactions too, a primary's does not.
        if in_recovery {
            open.extend(subs.iter().filter(|(of, xact)| *xact < xmax && !ended.contains_key(of)).map(|(_, xact)| xact));
        }
        let visible = |xact: &u64| ended.get(xact) == Some(&true) || own == Some(*xact);
        let visible_purges = events.iter().filter_map(|e| match e {
            Event::Purge(by, removed, mark) if visible(by) => Some((removed, *mark)),
            _ => None,
        });
        let mark = visible_purges.clone().next_back().map_or(0, |(_, mark)| mark);
        let compacted = events.iter().filter_map(|e| match e {
            Event::Compact(by, removed) if visible(by) => Some(removed),
            _ => None,
        });
        let mut gone: BTreeSet<u32> = compacted.flatten().copied().collect();
        gone.extend(visible_purges.clone().flat_map(|(removed, _)| removed).map(|row| row.id));
        let is_gone = |row: &Row| gone.contains(&row.id);
        let purged = visible_purges.flat_map(|(removed, _)| removed).filter(|row| row.deletes().is_some()).collect();
        let rows = events
            .iter()
            .filter_map(|e| if let Event::Row(row) = e { Some(row) } else { None })
            .filter(|row| visible(&row.at.xact.0) && !is_gone(row))
            .collect();
        let epochs = events
            .iter()
            .filter_map(|e| if let Event::Epoch(known, by) = e { visible(by).then(|| known.clone()) } else { None })
            .collect();
        let replayed = Lsn(if in_recovery { length as u64 } else { 0 });
        let server = Server::new(epochs, self.history, in_recovery, TransactionId(self.next_xact), replayed);
        State { ended, snapshot: (xmax, open), rows, server, purged, mark }
    }

    pub fn now(&self) -> State<'_> {
        self.state(self.events.len(), false, None)
    }

    pub fn live(&self) -> Vec<u64> {
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

    pub fn prepared(&self) -> Vec<u64> {
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

    pub fn start(&mut self) -> u64 {
        let xact = self.next_xact;
        self.next_xact += 1;
        self.events.push(Event::Start(xact));
        xact
    }

    /// Gives a transaction an id for a subtransaction.
    pub fn savepoint(&mut self, xact: u64) {
        self.events.push(Event::Sub(xact, self.next_xact));
        self.next_xact += 1;
    }

    pub fn write(&mut self, xact: u64, id: u32, (record, user, space): (usize, usize, Option<usize>), op: Op) {
        let epoch = self.epoch(xact);
        let at = Position::new(epoch.0, xact, i64::from(id) + 1);
        self.events.push(Event::Row(Row { at, id, user, space, record, op }));
    }

    /// Returns the number of the last row of a user and space that a transaction sees, of one record or of any. Deletes
    /// do not count.
    pub fn last_written(&self, xact: u64, user: usize, space: Option<usize>, record: Option<usize>) -> Option<u32> {
        let state = self.state(self.events.len(), false, Some(xact));
        let is_of = |row: &&&Row| row.user == user && row.space == space && record.is_none_or(|id| id == row.record);
        let written = state.rows.iter().filter(is_of).filter(|row| row.deletes().is_none());
        written.map(|row| row.id).max()
    }

    /// Returns the deletes that a purge may remove, each with all rows that have to be removed together with it.
    ///
    /// A delete is removed together with the rows of its group that it deletes. Every reader must see the same record
    /// without them: see `mana_sync_merge::purge`.
    pub fn purgeable(&self) -> Vec<(Row, Vec<Row>)> {
        let state = self.now();
        // A row that another transaction is removing is locked.
        let locked = |row: &Row| {
            self.events.iter().any(|e| match e {
                Event::Purge(by, removed, _) => {
                    state.ended.get(by) != Some(&false) && removed.iter().any(|other| other.id == row.id)
                }
                _ => false,
            })
        };
        let last_delete = |group| {
            let rows = state.rows.iter().filter(|row| row.group() == group);
            rows.filter(|row| row.deletes().is_some()).map(|row| row.id).max()
        };
        let allows = |delete: &Row| {
            let rows = state.rows.iter().filter(|row| row.record == delete.record);
            rows.clone().all(|row| {
                let group = rows.clone().filter(|other| other.group() == row.group());
                let live: Vec<&&Row> = group.filter(|other| Some(other.id) > last_delete(row.group())).collect();
                live.is_empty()
                    || (live.iter().all(|row| row.id > delete.id) && live.iter().any(|row| row.op == Op::Insert))
            })
        };
        let deletes = state.rows.iter().filter(|row| last_delete(row.group()) == Some(row.id) && allows(row));
        let with_deleted = deletes.map(|delete| {
            let removed = state.rows.iter().filter(|row| row.group() == delete.group() && row.id <= delete.id);
            ((*delete).clone(), removed.map(|row| (*row).clone()).collect::<Vec<Row>>())
        });
        with_deleted.filter(|(_, removed)| !removed.iter().any(locked)).collect()
    }

    /// Returns the updates that a compaction may remove: a later update of the same group replaces each of them.
    pub fn superfluous(&self) -> Vec<u32> {
        let state = self.now();
        let updates: Vec<&&Row> = state.rows.iter().filter(|row| row.op == Op::Update).collect();
        let is_replaced = |row: &&&&Row| updates.iter().any(|later| later.group() == row.group() && later.id > row.id);
        updates.iter().filter(is_replaced).map(|row| row.id).collect()
    }

    /// Whether a transaction in progress, prepared or not, has written a row of a record.
    pub fn is_being_changed(&self, record: usize) -> bool {
        let ended = self.now().ended;
        let is_in_progress = |xact: u64| !ended.contains_key(&xact);
        let is_change =
            |e: &Event| matches!(e, Event::Row(row) if row.record == record && is_in_progress(row.at.xact.0));
        self.events.iter().any(is_change)
    }

    /// Whether a purge is in progress. There is never more than one.
    pub fn is_purging(&self) -> bool {
        let ended = self.now().ended;
        self.events.iter().any(|e| matches!(e, Event::Purge(by, ..) if !ended.contains_key(by)))
    }

    pub fn purge(&mut self, xact: u64, removed: Vec<Row>) {
        self.events.push(Event::Purge(xact, removed, self.run << 32 | xact));
    }

    /// Returns the number of the epoch in which a transaction writes. Opens the epoch if there is none.
    pub fn epoch(&mut self, xact: u64) -> EpochNumber {
        let write_epoch = self.state(self.events.len(), false, Some(xact)).server.write_epoch();
        if let WriteEpoch::ToOpen(number) = write_epoch {
            let known = KnownEpoch {
                epoch: Epoch { number, fingerprint: Fingerprint(self.run) },
                secret: Secret([self.run as u8; SECRET_LENGTH]),
                system: self.history.system,
                history: self.history.id,
                began_at: self.history.began_at,
                next_xact: TransactionId(self.next_xact),
                opened_at: 0,
            };
            self.events.push(Event::Epoch(known, xact));
        }
        write_epoch.number()
    }

    /// Rolls back all transactions in progress except the prepared ones, as recovery does.
    pub fn lose_live(&mut self) {
        let last = self.events.iter().filter_map(|e| match e {
            Event::Start(xact) | Event::Sub(_, xact) => Some(*xact),
            _ => None,
        });
        let last = last.max();
        self.next_xact = last.map_or(3, |xact| xact + 1);
        for xact in self.live() {
            self.events.push(Event::End(xact, false));
        }
        self.events.push(Event::Recovered(self.next_xact));
        self.flushed = self.events.len();
    }
}

/// The rows of a state as a source, which reads them as the extension's queries read the log.
pub struct Table<'a> {
    pub state: &'a State<'a>,
    pub user: usize,
    pub spaces: &'a [usize],
    pub read: usize,
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
                .filter(|row| match fetch.stream {
                    _ if fetch.probe => match fetch.stream {
                        Stream::Own => row.user == self.user,
                        Stream::Space { index, .. } => row.space == Some(self.spaces[index]),
                    },
                    Stream::Own => {
                        row.user == self.user
                            && !filter.excluded_from_own.iter().any(|&space| row.space == Some(self.spaces[space]))
                    }
                    Stream::Space { index, with_own } => {
                        row.space == Some(self.spaces[index]) && (with_own || row.user != self.user)
                    }
                })
                .filter(|row| fetch.range.from.epoch == row.at.epoch && fetch.range.from <= row.at)
                .filter(|row| row.at.xact < fetch.range.to)
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

impl Purges for &State<'_> {
    fn any_after(&mut self, epoch: EpochNumber) -> bool {
        self.purged.iter().any(|row| row.at.epoch > epoch)
    }

    fn any_from(&mut self, epoch: EpochNumber, xact: TransactionId) -> bool {
        self.purged.iter().any(|row| row.at.epoch == epoch && row.at.xact >= xact)
    }

    fn contains(&mut self, epoch: EpochNumber, xact: TransactionId) -> bool {
        self.purged.iter().any(|row| (row.at.epoch, row.at.xact) == (epoch, xact))
    }

    fn purged_until(&mut self) -> Option<i64> {
        None
    }

    fn purged_from(&mut self) -> Option<i64> {
        None
    }

    fn mark(&mut self) -> PurgeMark {
        PurgeMark(self.mark)
    }
}
