//! A page of records: the records that the rows of a walk changed, each with its state now.
//!
//! A record is shown at the first of its rows in the walk (`mana_sync_cursor::page` says why the first). The rows of a record are read
//! when it is shown. On later pages of a walk, an earlier page may have shown it. If its first row on the page is an insert, it is probably
//! new: all its rows are read, and they tell. Otherwise a few of its earlier rows are read first, to tell.

use super::TakeRows;
use crate::call::with_index_scans;
use crate::error::Error;
use crate::json::text::Size;
use crate::merged::{MergedRecord, State};
use crate::pg::datum::{Datum, types::*};
use crate::pg::fmgr::or_raise;
use crate::pg::heap::{Descriptor, Row};
use crate::pg::jsonb::Jsonb;
use crate::pg::memory::{Memory, with_scratch};
use crate::pg::spi::{SlotRow, Spi, Statement, statement};
use crate::row::{AFTER_ONE, Column, LogRow, NULL};
use mana_sync_cursor::Position;
use mana_sync_cursor::page::{NotHeld, Reading, Request, RowOrigin, Rows, Taken};
use mana_sync_merge::change::Op;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

static RECORD_ROWS: Statement = statement!("queries/record_rows.sql", [TEXT, TEXT, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY]);

static EARLIER_ROWS: Statement = statement!(
    "queries/earlier_rows.sql",
    [TEXT, TEXT, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, INT4, XID8, INT8, INT4, XID8, INT8, TEXT]
);

/// The key of a record: its table and its id. Clones share the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RecordKey {
    /// The bytes of the table, followed by those of the id.
    bytes: Rc<[u8]>,
    /// The number of bytes of the table.
    table: usize,
}

impl RecordKey {
    fn new(table: &[u8], record: &[u8]) -> RecordKey {
        RecordKey { bytes: [table, record].concat().into(), table: table.len() }
    }

    /// Returns the table.
    pub fn table(&self) -> &[u8] {
        &self.bytes[..self.table]
    }

    /// Returns the id.
    pub fn record(&self) -> &[u8] {
        &self.bytes[self.table..]
    }
}

/// What a page of records takes of a row of the walk.
pub struct RecordRow {
    key: RecordKey,
    /// The space of the row; empty for a private row.
    space: Box<[u8]>,
    /// Whether the row is an insert. Before an insert, the record probably has no row.
    is_insert: bool,
}

impl RecordRow {
    /// Reads the row in `slot`, which has one column before those of the log.
    fn new(slot: &SlotRow<'_, '_>) -> RecordRow {
        let text = |column| slot.text(AFTER_ONE.place(column)).unwrap_or_default();
        RecordRow {
            key: RecordKey::new(text(Column::TableName), text(Column::RecordId)),
            space: text(Column::SpaceId).into(),
            is_insert: Op::parse(text(Column::Op)) == Some(Op::Insert),
        }
    }
}

/// A record that a page shows.
pub struct PageRecord<'s> {
    /// The table and the id of the record.
    pub key: RecordKey,
    /// The state of the record.
    pub merged: MergedRecord<'s>,
    /// The spaces of the changes that the reader sees, ascending; empty for private changes.
    pub spaces: Vec<Box<[u8]>>,
    /// About how many bytes of text the record has.
    pub size: usize,
}

/// A receiver of the records of a page.
pub trait ShowRecords<'s> {
    /// Adds a record to the page. Returns false if the page has no room for the record. A page has room for at least one record.
    fn show(&mut self, record: &PageRecord<'s>) -> bool;
}

/// The greatest number of passed records that a page remembers. If the page meets a forgotten record again, it looks the record up again.
const MOST_PASSED_KEYS: usize = 50_000;
/// The greatest number of records whose rows one statement reads.
const PORTION: usize = 256;

/// What a page has done with a record of the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// The page has not come to the record yet. It is in [`RecordRows::next`].
    Next,
    /// The page has shown the record.
    Shown,
    /// The record need not be shown in this walk: an earlier page has shown it, or it is deleted and the reader cannot hold it.
    Passed,
}

/// A record that the page has yet to show.
struct NextRecord {
    key: RecordKey,
    /// Whether the rows of the record tell whether an earlier page has shown it. Otherwise no earlier page has, as far as a few of its rows
    /// tell.
    may_be_passed: bool,
}

/// The records of a page.
pub struct RecordRows<'s, 'r, S> {
    spi: Spi<'s>,
    user: Datum<'s>,
    /// The id of the user. `user` is the same id as an SQL value.
    user_id: &'r [u8],
    app: Datum<'s>,
    /// The spaces of the scope.
    scope: &'r [&'r [u8]],
    /// For each space of the scope, whether `spaces` contains it.
    is_read: Vec<bool>,
    /// The spaces of the scope that the walk reads, as an SQL array. The records are those of a reader that is in these spaces alone,
    /// because the reader has not been told of the others.
    spaces: Datum<'s>,
    /// The client whose rows do not count.
    excluded_client: Option<&'r [u8]>,
    /// The receiver of the records.
    pub shown: &'r mut S,
    /// How many more records the page has room for.
    room: usize,
    /// The records of the rows that the page has read so far.
    records: HashMap<RecordKey, Status>,
    /// How many of `records` are passed.
    passed: usize,
    /// The records that the page has yet to show, in order.
    next: VecDeque<NextRecord>,
    /// The first records of `next`, as they were read; `None` for those that are not shown.
    read: VecDeque<Option<PageRecord<'s>>>,
    /// The most bytes of text that are read at once, unless one record has more.
    most_bytes: usize,
    /// The records that the reader cannot hold.
    not_held: NotHeld,
}

impl<'s, 'r, S: ShowRecords<'s>> RecordRows<'s, 'r, S> {
    /// Makes the receiver of the rows of a page, which passes the records on to `shown`. The rows of `excluded_client` do not count.
    pub fn new(
        spi: Spi<'s>,
        request: &Request<'r>,
        excluded_client: Option<&'r [u8]>,
        most_bytes: usize,
        shown: &'r mut S,
    ) -> RecordRows<'s, 'r, S> {
        let memory = spi.memory();
        RecordRows {
            spi,
            user: memory.text(request.user),
            user_id: request.user,
            app: memory.text(request.app),
            scope: request.spaces,
            is_read: vec![true; request.spaces.len()],
            spaces: memory.array(TEXT, request.spaces.iter().map(|id| memory.text(id))),
            excluded_client,
            shown,
            room: request.page_size,
            records: HashMap::new(),
            passed: 0,
            next: VecDeque::new(),
            read: VecDeque::new(),
            most_bytes,
            not_held: NotHeld::default(),
        }
    }

    /// Marks a record as one that the walk need not show any more.
    fn pass(&mut self, key: RecordKey) {
        if self.records.insert(key, Status::Passed) != Some(Status::Passed) {
            self.passed += 1;
        }
    }

    /// Returns the places of those rows whose records were shown by earlier pages of the walk.
    fn passed_rows(&self, rows: &[&RecordRow], last: Position, reading: &Reading<'_>) -> Result<HashSet<usize>, Error> {
        let position = |position: Position| {
            [
                Some(Datum::from(i32::try_from(position.epoch.0).unwrap_or(i32::MAX))),
                Some(Datum::from(position.xact.0)),
                Some(Datum::from(position.seq)),
            ]
        };
        let [epoch, xact, seq] = position(reading.begins_at());
        let [last_epoch, last_xact, last_seq] = position(last);
        let mut passed = HashSet::new();
        with_scratch(|scratch| {
            let [tables, records] = parameters(rows.iter().map(|row| &row.key), scratch);
            let spaces = scratch.array(TEXT, rows.iter().map(|row| scratch.text(&row.space)));
            let values = [
                Some(self.app),
                Some(self.user),
                tables,
                records,
                Some(spaces),
                epoch,
                xact,
                seq,
                last_epoch,
                last_xact,
                last_seq,
                self.excluded_client.map(|client| scratch.text(client)),
            ];
            with_index_scans(|| {
                self.spi.stream_each(&EARLIER_ROWS, &values, |row| {
                    let (place, position, origin) = earlier_row(&row)?;
                    if reading.has_passed(position, origin) {
                        passed.insert(place - 1);
                    }
                    Ok(true)
                })
            })
        })?;
        Ok(passed)
    }

    /// Reads the first records of `next` into `read`. It stops early when the records have more text than a page.
    fn read_next(&mut self, reading: &Reading<'_>) -> Result<(), Error> {
        let count = PORTION.min(self.room.max(1)).min(self.next.len());
        let memory = self.spi.memory();
        // The records, by their places: all rows of a record may have been removed since its row in the walk was read.
        let mut read: Vec<Option<PageRecord<'s>>> = Vec::with_capacity(count);
        let mut bytes = 0;
        with_scratch(|scratch| {
            let [tables, records] = parameters(self.next.iter().take(count).map(|next| &next.key), scratch);
            let values = [Some(self.user), Some(self.app), tables, records, Some(self.spaces)];
            let mut current: Option<Merging<'_>> = None;
            let mut end = |merging: Merging<'_>, read: &mut Vec<Option<PageRecord<'s>>>| {
                read.resize_with(merging.place - 1, || None);
                let record = merging.finish(self.next[read.len()].key.clone(), &self.not_held, memory);
                bytes += record.as_ref().map_or(0, |record| record.size);
                read.push(record);
                bytes <= self.most_bytes
            };
            let mut has_room = true;
            with_index_scans(|| {
                self.spi.stream_each(&RECORD_ROWS, &values, |row| {
                    let place = row.int8(1).ok_or(NULL)? as usize;
                    if let Some(merging) = current.take_if(|merging| merging.place != place) {
                        has_room = end(merging, &mut read);
                        if !has_room {
                            return Ok(false);
                        }
                    }
                    let row = LogRow::new(row, &AFTER_ONE);
                    let merging = current.get_or_insert_with(|| Merging::new(place, scratch));
                    if self.next[place - 1].may_be_passed && self.has_passed(&row, reading)? {
                        merging.is_passed = true;
                    }
                    merging.add(&row, self.user_id, scratch)?;
                    Ok(true)
                })
            })?;
            if let Some(merging) = current {
                has_room = end(merging, &mut read);
            }
            if has_room {
                read.resize_with(count, || None);
            }
            Ok::<_, Error>(())
        })?;
        self.read.extend(read);
        Ok(())
    }

    /// Whether earlier pages of the walk have passed a row of a record.
    fn has_passed(&self, row: &LogRow<'_>, reading: &Reading<'_>) -> Result<bool, Error> {
        let is_own = row.text(Column::UserId) == Some(self.user_id);
        let origin = RowOrigin { is_own, space: row.text(Column::SpaceId), created_at: row.created_at()?.micros() };
        Ok(reading.has_passed(row.position()?, origin)
            && self.excluded_client.is_none_or(|client| row.text(Column::ClientId) != Some(client)))
    }
}

/// Returns two parameters: an array of the tables of some records, and one of their ids.
fn parameters<'k, 'm>(keys: impl Iterator<Item = &'k RecordKey> + Clone, memory: Memory<'m>) -> [Option<Datum<'m>>; 2] {
    let texts = |text: fn(&RecordKey) -> &[u8]| memory.array(TEXT, keys.clone().map(|key| memory.text(text(key))));
    [Some(texts(RecordKey::table)), Some(texts(RecordKey::record))]
}

/// The state of a record while its rows are merged.
struct Merging<'m> {
    /// The place of the record among those that are read, from 1.
    place: usize,
    state: State<'m>,
    /// The spaces of the rows, ascending; the empty id stands for private rows.
    spaces: Vec<Box<[u8]>>,
    /// Whether a row is the reader's own.
    has_own: bool,
    /// Whether an earlier page has shown the record.
    is_passed: bool,
}

impl<'m> Merging<'m> {
    fn new(place: usize, memory: Memory<'m>) -> Merging<'m> {
        Merging { place, state: State::new(memory), spaces: Vec::new(), has_own: false, is_passed: false }
    }

    fn add(&mut self, row: &LogRow<'_>, user: &[u8], memory: Memory<'m>) -> Result<(), Error> {
        if self.is_passed {
            return Ok(());
        }
        let space = row.text(Column::SpaceId);
        self.state.apply(&row.change()?, space, memory);
        self.has_own |= row.text(Column::UserId) == Some(user);
        let id = space.unwrap_or_default();
        if let Err(place) = self.spaces.binary_search_by(|other| (**other).cmp(id)) {
            self.spaces.insert(place, id.into());
        }
        Ok(())
    }

    /// Returns the record, with values in `memory`; `None` if the page need not show the record.
    fn finish<'s>(self, key: RecordKey, not_held: &NotHeld, memory: Memory<'s>) -> Option<PageRecord<'s>> {
        if self.is_passed {
            return None;
        }
        let is_deleted = self.state.0.deleted_at().is_some();
        if is_deleted && !self.may_be_held(not_held) {
            return None;
        }
        let merged = self.state.merged(memory)?;
        let text = |value: Jsonb<'_>| value.with_root(|root| Size::of(root).text).0;
        let values = if is_deleted { 0 } else { text(merged.data) + text(merged.field_timestamps) };
        let size = values + key.bytes.len() + SIZE_OF_REST;
        Some(PageRecord { key, merged, spaces: self.spaces, size })
    }

    /// Returns whether the reader may hold the record. If so, the reader has to be told that the record is deleted.
    ///
    /// A reader in the middle of whose walk a space joins may hold what it wrote there by itself. A record with changes in several
    /// spaces is always shown as deleted: a reader without one of these spaces might have it as live.
    fn may_be_held(&self, not_held: &NotHeld) -> bool {
        match self.spaces.as_slice() {
            [space] => {
                let space = Some(&**space).filter(|id| !id.is_empty());
                !not_held.contains(space, self.has_own)
            }
            _ => true,
        }
    }
}

/// About how many bytes of text a record has beside its values, its table and its id.
const SIZE_OF_REST: usize = 100;

/// Reads a row of `earlier_rows.sql`: the place of the record from 1, the position of the change, and the other properties that decide
/// whether the change belongs to a walk.
fn earlier_row<'r>(row: &Row<'r>) -> Result<(usize, Position, RowOrigin<'r>), Error> {
    let part = |column| row.datum(column).ok_or(NULL);
    let position = Position::new(part(2)?.int4() as u32, part(3)?.uint8(), part(4)?.int8());
    let (is_own, created_at) = (row.bool(5).ok_or(NULL)?, part(7)?.int8());
    Ok((part(1)?.int8() as usize, position, RowOrigin { is_own, space: row.text(6), created_at }))
}

impl<'s, S: ShowRecords<'s>> TakeRows<'s> for RecordRows<'s, '_, S> {
    type Row = RecordRow;

    fn row(slot: &SlotRow<'_, 's>, _: &mut Option<Descriptor<'s>>) -> RecordRow {
        RecordRow::new(slot)
    }
}

impl<'s, S: ShowRecords<'s>> Rows<RecordRow> for RecordRows<'s, '_, S> {
    fn prepare(&mut self, rows: &[(Position, RecordRow)], reading: &Reading<'_>) {
        debug_assert!(self.next.is_empty() && self.read.is_empty(), "all rows before these have been taken");
        self.not_held = reading.not_held();
        if !reading.reads_spaces().eq(self.is_read.iter().copied()) {
            self.is_read = reading.reads_spaces().collect();
            let memory = self.spi.memory();
            let read = self.scope.iter().zip(&self.is_read).filter(|(_, is_read)| **is_read);
            self.spaces = memory.array(TEXT, read.map(|(id, _)| memory.text(id)));
            debug_assert!(
                self.records.values().all(|status| *status == Status::Passed),
                "a page ends where spaces join"
            );
        }
        // `Passed` is valid for one walk. After its target, a record that the reader holds may have been deleted.
        if reading.is_new_walk() || self.passed > MOST_PASSED_KEYS {
            self.records.retain(|_, status| *status == Status::Shown);
            self.passed = 0;
        }
        let mut new = Vec::new();
        for (_, row) in rows {
            if !self.records.contains_key(&row.key) {
                self.records.insert(row.key.clone(), Status::Next);
                new.push(row);
            }
        }
        let last = reading.resumed_at();
        if let Some(last) = last {
            // The rows of a record tell too whether the record was shown. They are read at once where the record was probably not shown.
            let looked_up: Vec<&RecordRow> = new.iter().copied().filter(|row| !row.is_insert).collect();
            if !looked_up.is_empty() {
                for place in or_raise(self.passed_rows(&looked_up, last, reading)) {
                    self.pass(looked_up[place].key.clone());
                }
            }
        }
        let next = new.into_iter().filter(|row| self.records.get(&row.key) == Some(&Status::Next));
        let next = next.map(|row| NextRecord { key: row.key.clone(), may_be_passed: last.is_some() && row.is_insert });
        self.next.extend(next);
    }

    fn take(&mut self, _: Position, RecordRow { key, .. }: RecordRow, reading: &Reading<'_>) -> Taken {
        if self.next.front().is_none_or(|next| next.key != key) {
            return Taken::Passed;
        }
        if self.read.is_empty() {
            or_raise(self.read_next(reading));
        }
        let taken = match self.read.front() {
            Some(Some(record)) if self.room == 0 || !self.shown.show(record) => return Taken::Full,
            Some(Some(_)) => Taken::Shown,
            Some(None) | None => Taken::Passed,
        };
        self.read.pop_front();
        self.next.pop_front();
        match taken {
            Taken::Shown => {
                self.room -= 1;
                self.records.insert(key, Status::Shown);
            }
            Taken::Passed | Taken::Full => self.pass(key),
        }
        taken
    }
}
