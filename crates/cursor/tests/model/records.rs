//! Devices that pull records: the receiver of a page of records, and what such a device holds.
//!
//! The receiver does what `src/page/records.rs` of the extension does, on the rows of the model.

use crate::device::space_id;
use crate::server::{Op, Row, State};
use mana_sync_cursor::Position;
use mana_sync_cursor::page::{NotHeld, Reading, RowOrigin, Rows, Taken};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

/// The number of earlier rows of a record that are read, to find out whether an earlier page has shown it.
const EARLIER_ROWS: usize = 4;

/// The receiver of a page of records.
pub struct RecordPage<'a> {
    state: &'a State<'a>,
    user: usize,
    /// The spaces of the scope.
    scope: &'a BTreeSet<usize>,
    /// The spaces of the scope that the walk reads.
    spaces: BTreeSet<usize>,
    /// The number of further records that the page has room for.
    room: usize,
    /// The records of the page, each with the rows that the device sees.
    pub shown: Vec<(usize, Vec<Row>)>,
    /// The deleted records that the page does not show, because the device cannot hold them.
    pub not_shown: Vec<(usize, Vec<Row>)>,
    /// The records that the page has shown.
    done: HashSet<usize>,
    /// The records of the walk that need not be shown any more.
    passed: HashSet<usize>,
    /// The records that the next rows may show, in order. The second value is whether the rows of the record tell whether an earlier page
    /// has shown it; otherwise no earlier page has, as far as some earlier rows tell.
    next: VecDeque<(usize, bool)>,
    not_held: NotHeld,
}

impl<'a> RecordPage<'a> {
    pub fn new(state: &'a State<'a>, user: usize, scope: &'a BTreeSet<usize>, room: usize) -> RecordPage<'a> {
        RecordPage {
            state,
            user,
            scope,
            spaces: BTreeSet::new(),
            room,
            shown: Vec::new(),
            not_shown: Vec::new(),
            done: HashSet::new(),
            passed: HashSet::new(),
            next: VecDeque::new(),
            not_held: NotHeld::default(),
        }
    }

    /// Whether an earlier page of the walk has shown the record of a row. Some earlier rows of the record in the same space decide that.
    fn has_passed(&self, row: &Row, last: Position, reading: &Reading<'_>) -> bool {
        let is_earlier = |other: &&&Row| {
            other.record == row.record
                && other.space == row.space
                && (other.space.is_some() || other.user == self.user)
                && (reading.begins_at()..=last).contains(&other.at)
        };
        let mut earlier: Vec<&&Row> = self.state.rows.iter().filter(is_earlier).collect();
        // The order of the index that they are read by.
        earlier.sort_by_key(|row| row.user);
        earlier.into_iter().take(EARLIER_ROWS).any(|row| self.is_passed(row, reading))
    }

    fn is_passed(&self, row: &Row, reading: &Reading<'_>) -> bool {
        let space = row.space.map(space_id);
        let space = space.as_ref().map(|id| id.as_bytes());
        reading.has_passed(row.at, RowOrigin { is_own: row.user == self.user, space, created_at: 0 })
    }

    /// Returns the rows of a record that the device sees; `None` if the page need not show the record.
    fn read(&mut self, record: usize, may_be_passed: bool, reading: &Reading<'_>) -> Option<Vec<Row>> {
        let rows = visible_rows(self.state, record, self.user, &self.spaces);
        if rows.is_empty() || (may_be_passed && rows.iter().any(|row| self.is_passed(row, reading))) {
            return None;
        }
        if Merged::of(&rows).is_deleted && !self.may_be_held(&rows) {
            self.not_shown.push((record, rows));
            return None;
        }
        Some(rows)
    }

    fn may_be_held(&self, rows: &[Row]) -> bool {
        let spaces: BTreeSet<Option<usize>> = rows.iter().map(|row| row.space).collect();
        if spaces.len() > 1 {
            return true;
        }
        let space = rows[0].space.map(space_id);
        let has_own = rows.iter().any(|row| row.user == self.user);
        !self.not_held.contains(space.as_ref().map(|id| id.as_bytes()), has_own)
    }
}

impl Rows<Row> for RecordPage<'_> {
    fn prepare(&mut self, rows: &[(Position, Row)], reading: &Reading<'_>) {
        assert!(self.next.is_empty(), "all rows before these have been taken");
        self.not_held = reading.not_held();
        let read = self.scope.iter().zip(reading.reads_spaces()).filter(|(_, is_read)| *is_read);
        self.spaces = read.map(|(space, _)| *space).collect();
        if reading.is_new_walk() {
            self.passed.clear();
        }
        let (mut new, mut seen) = (Vec::new(), HashSet::new());
        for (_, row) in rows {
            if !self.done.contains(&row.record) && !self.passed.contains(&row.record) && seen.insert(row.record) {
                new.push(row);
            }
        }
        let is_insert = |row: &Row| matches!(row.op, Op::Insert);
        if let Some(last) = reading.resumed_at() {
            let passed = new.iter().filter(|row| !is_insert(row) && self.has_passed(row, last, reading));
            let passed: Vec<usize> = passed.map(|row| row.record).collect();
            self.passed.extend(passed);
        }
        let next = new.into_iter().filter(|row| !self.passed.contains(&row.record));
        self.next.extend(next.map(|row| (row.record, is_insert(row))));
    }

    fn take(&mut self, _: Position, row: Row, reading: &Reading<'_>) -> Taken {
        let Some(&(_, may_be_passed)) = self.next.front().filter(|(record, _)| *record == row.record) else {
            return Taken::Passed;
        };
        match self.read(row.record, may_be_passed, reading) {
            Some(_) if self.room == 0 => Taken::Full,
            Some(rows) => {
                self.room -= 1;
                self.next.pop_front();
                self.done.insert(row.record);
                self.shown.push((row.record, rows));
                Taken::Shown
            }
            None => {
                self.next.pop_front();
                self.passed.insert(row.record);
                Taken::Passed
            }
        }
    }
}

/// Returns the rows of a record that a user in some spaces sees.
pub fn visible_rows(state: &State<'_>, record: usize, user: usize, spaces: &BTreeSet<usize>) -> Vec<Row> {
    let is_visible = |row: &&&Row| {
        row.record == record && (row.user == user || row.space.is_some_and(|space| spaces.contains(&space)))
    };
    state.rows.iter().filter(is_visible).map(|row| (*row).clone()).collect()
}

/// The state of a record, merged from some of its rows. The number of a row stands for the time when it was written.
pub struct Merged {
    pub is_deleted: bool,
    /// The space of the latest row; `None` if it is private.
    pub space: Option<usize>,
}

impl Merged {
    pub fn of<'r>(rows: impl IntoIterator<Item = &'r Row>) -> Merged {
        let (mut latest, mut deleted, mut inserted) = (None::<&Row>, None, None);
        for row in rows {
            latest = latest.filter(|latest| latest.id > row.id).or(Some(row));
            match row.op {
                Op::Delete(_) => deleted = deleted.max(Some(row.id)),
                Op::Insert => inserted = inserted.max(Some(row.id)),
                Op::Update => {}
            }
        }
        Merged { is_deleted: deleted.is_some() && inserted < deleted, space: latest.and_then(|row| row.space) }
    }
}

/// What a device knows of its records, which decides what it does when it leaves a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The device knows only the records. It removes those whose latest change is in the space. If a record also has changes in other
    /// spaces, the device pulls from the beginning, and removes the records that this walk does not bring.
    Records,
    /// The device knows the changes of each record, with their spaces. It removes those in the space.
    Changes,
}

/// The records that a device holds.
#[derive(Clone, Debug)]
pub struct Held {
    pub kept: Kept,
    /// The rows of each record, by their numbers.
    pub rows: BTreeMap<usize, BTreeMap<u32, Row>>,
    /// The rows that have decided what the device holds since it began: the record and the number of each row.
    ever: BTreeSet<(usize, u32)>,
    /// The spaces of the scope, as the device was last told; `None` if it was not told yet.
    pub told: Option<BTreeSet<usize>>,
    /// The records that the current walk from the beginning has shown. The device removes all others at the end of the walk. `None` outside
    /// of such a walk.
    marked: Option<BTreeSet<usize>>,
}

impl Held {
    pub fn new(kept: Kept) -> Held {
        Held { kept, rows: BTreeMap::new(), ever: BTreeSet::new(), told: None, marked: None }
    }

    /// Takes a record that a page shows. It replaces what the device held of the record.
    pub fn replace(&mut self, record: usize, rows: Vec<Row>) {
        self.rows.remove(&record);
        self.add(record, rows);
    }

    /// Adds changes of a record that a page shows.
    pub fn add(&mut self, record: usize, rows: Vec<Row>) {
        if let Some(marked) = &mut self.marked {
            marked.insert(record);
        }
        self.ever.extend(rows.iter().map(|row| (record, row.id)));
        self.rows.entry(record).or_default().extend(rows.into_iter().map(|row| (row.id, row)));
    }

    /// Notes the rows of a deleted record that a page does not show.
    pub fn pass(&mut self, record: usize, rows: &[Row]) {
        self.ever.extend(rows.iter().map(|row| (record, row.id)));
    }

    /// Ends a page. `spaces` are the spaces that the page tells the device; `None` if it tells none. Returns whether the device has to pull
    /// from the beginning.
    pub fn end_page(&mut self, spaces: Option<&BTreeSet<usize>>, more: bool) -> bool {
        if !more {
            if let Some(marked) = self.marked.take() {
                self.rows.retain(|record, _| marked.contains(record));
            }
        }
        let mut left = BTreeSet::new();
        if let Some(spaces) = spaces {
            left =
                self.told.iter().flatten().filter(|space| !spaces.contains(space)).map(|space| Some(*space)).collect();
            self.told = Some(spaces.clone());
        }
        let Some(told) = &self.told else { return false };
        let is_in_scope = |space: Option<usize>| space.is_none_or(|space| told.contains(&space));
        if self.kept == Kept::Changes {
            self.rows.values_mut().for_each(|rows| rows.retain(|_, row| is_in_scope(row.space)));
            return false;
        }
        let is_cut = |rows: &BTreeMap<u32, Row>| {
            let spaces: BTreeSet<Option<usize>> = rows.values().map(|row| row.space).collect();
            spaces.len() > 1 && !spaces.is_disjoint(&left)
        };
        let begins_again = self.rows.values().any(is_cut);
        self.rows.retain(|_, rows| is_in_scope(Merged::of(rows.values()).space));
        if begins_again {
            self.marked = Some(BTreeSet::new());
        }
        begins_again
    }
}

/// A record that differs between a device and a server.
pub struct WrongRecord {
    pub record: usize,
    /// The rows that the server shows.
    pub expected: BTreeSet<u32>,
    /// The rows that the device held when the record was last shown.
    pub found: BTreeSet<u32>,
}

/// The differences between a device and a server that are allowed.
pub struct Excuses<'a> {
    /// Whether a purge or a compaction has removed a row from some server.
    pub removed: &'a dyn Fn(u32) -> bool,
    /// Whether a device may hold a row that the server does not show.
    pub lost: &'a dyn Fn(u32) -> bool,
    /// Whether records with removed rows are not compared, because the removal itself, or the rows that it kept, may be lost.
    pub skips_removed: bool,
}

impl Held {
    /// Returns a record that differs between the device and `state`; `None` if there is none.
    pub fn wrong_record(
        &self,
        state: &State<'_>,
        user: usize,
        spaces: &BTreeSet<usize>,
        excuses: &Excuses<'_>,
    ) -> Option<WrongRecord> {
        let records: BTreeSet<usize> =
            state.rows.iter().map(|row| row.record).chain(self.rows.keys().copied()).collect();
        records.into_iter().find_map(|record| {
            let is_in_scope = |row: &Row| row.space.is_none_or(|space| spaces.contains(&space));
            let mut visible = visible_rows(state, record, user, spaces);
            if self.kept == Kept::Changes {
                visible.retain(is_in_scope);
            }
            let nothing = BTreeMap::new();
            let held = self.rows.get(&record).unwrap_or(&nothing);
            let shown: BTreeSet<u32> = visible.iter().map(|row| row.id).collect();
            let all: BTreeSet<u32> = shown.iter().chain(held.keys()).copied().collect();
            if excuses.skips_removed && all.iter().any(|row| (excuses.removed)(*row)) {
                return None;
            }
            let is_lost = |row: &u32| !shown.contains(row) && (excuses.lost)(*row);
            let essential = |rows: &BTreeSet<u32>| -> BTreeSet<u32> {
                rows.iter().copied().filter(|row| !(excuses.removed)(*row) && !is_lost(row)).collect()
            };
            let found: BTreeSet<u32> = held.keys().copied().collect();
            let has_lost = found.iter().any(is_lost);
            let merged = Merged::of(&visible);
            // A device that has a delete which was purged may take a later update for one of a deleted record.
            let is_unknown = self.kept == Kept::Changes && found.iter().any(|row| (excuses.removed)(*row));
            let is_live = |rows: &BTreeMap<u32, Row>| !rows.is_empty() && !Merged::of(rows.values()).is_deleted;
            let is_wanted = match self.kept {
                Kept::Records => merged.space.is_none_or(|space| spaces.contains(&space)),
                Kept::Changes => true,
            };
            let is_right = if visible.is_empty() || merged.is_deleted || !is_wanted {
                !is_live(held) || (has_lost && (essential(&found).is_empty() || essential(&found) == essential(&shown)))
            } else {
                let was_lost = held.is_empty() && self.ever.iter().any(|(of, row)| *of == record && is_lost(row));
                was_lost || (essential(&found) == essential(&shown) && (has_lost || is_unknown || is_live(held)))
            };
            (!is_right).then_some(WrongRecord { record, expected: shown, found })
        })
    }
}
