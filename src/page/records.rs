//! A page of records: the records that the rows of a walk changed, each with its state now.
//!
//! A record is shown at the first of its rows in the walk (`mana_sync_cursor::page` says why the first). The rows of a record are read
//! when it is shown. On later pages of a walk, a few earlier rows of each record tell whether an earlier page has shown it.

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
use std::collections::{HashSet, VecDeque};

static RECORD_ROWS: Statement = statement!("queries/record_rows.sql", [TEXT, TEXT, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY]);

static EARLIER_ROWS: Statement = statement!(
    "queries/earlier_rows.sql",
    [TEXT, TEXT, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, INT4, XID8, INT8, INT4, XID8, INT8, TEXT]
);

/// Table and id of a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RecordKey {
    /// The table.
    pub table: Box<[u8]>,
    /// The id.
    pub record: Box<[u8]>,
}

/// A row of a walk: which record it changed, and in which space.
pub struct RecordRow {
    key: RecordKey,
    /// The space; the empty id stands for a private row.
    space: Box<[u8]>,
}

impl RecordRow {
    /// The row in `slot`, whose first column precedes those of the log.
    fn new(slot: &SlotRow<'_, '_>) -> RecordRow {
        let text = |column| slot.text(AFTER_ONE.place(column)).unwrap_or_default().into();
        let key = RecordKey { table: text(Column::TableName), record: text(Column::RecordId) };
        RecordRow { key, space: text(Column::SpaceId) }
    }
}

/// A record that a page shows.
pub struct PageRecord<'s> {
    /// The table and the id of the record.
    pub key: RecordKey,
    /// The state of the record.
    pub merged: MergedRecord<'s>,
    /// The spaces of the changes that the reader sees, ascending; the empty id stands for private changes.
    pub spaces: Vec<Box<[u8]>>,
    /// About how many bytes of text it has.
    pub size: usize,
}

/// What shows the records of a page.
pub trait ShowRecords<'s> {
    /// Shows a record, or returns false where the page has no room for it. A page has room for one record.
    fn show(&mut self, record: &PageRecord<'s>) -> bool;
}

/// The greatest number of passed records that a page remembers. A record that is forgotten is looked up again.
const MOST_PASSED_KEYS: usize = 50_000;
/// The number of records that are read at once: at first, and at most.
const PORTION: (usize, usize) = (16, 256);

/// The records of a page.
pub struct RecordRows<'s, 'r, S> {
    spi: Spi<'s>,
    user: Datum<'s>,
    /// The id of the user, which `user` has as an SQL value.
    user_id: &'r [u8],
    app: Datum<'s>,
    /// The spaces of the scope.
    scope: &'r [&'r [u8]],
    /// For each space of the scope, whether it is one of `spaces`.
    is_read: Vec<bool>,
    /// The spaces of the scope that the walk reads. The records are those of a reader that is in these alone: the reader has not been told of
    /// the others.
    spaces: Datum<'s>,
    /// The client whose rows do not count.
    excluded_client: Option<Datum<'s>>,
    /// Shows the records.
    pub shown: &'r mut S,
    /// How many more records the page has room for.
    room: usize,
    /// The records that the page has shown.
    done: HashSet<RecordKey>,
    /// The records of the walk that need not be shown: earlier pages have shown them, or they are deleted and the reader cannot hold them.
    passed: HashSet<RecordKey>,
    /// The records that the next rows show, in order.
    next: VecDeque<RecordKey>,
    /// The first records of `next`, as they were read; `None` for those that are not shown.
    read: VecDeque<Option<PageRecord<'s>>>,
    /// How many records are read next.
    portion: usize,
    /// The most bytes of text that are read at once, unless one record has more.
    most_bytes: usize,
    /// The records that the reader cannot hold.
    not_held: NotHeld,
}

impl<'s, 'r, S: ShowRecords<'s>> RecordRows<'s, 'r, S> {
    /// The records of a page, without the rows of `excluded_client`. `shown` shows them.
    pub fn new(
        spi: Spi<'s>,
        request: &Request<'r>,
        excluded_client: Option<&[u8]>,
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
            excluded_client: excluded_client.map(|client| memory.text(client)),
            shown,
            room: request.page_size,
            done: HashSet::new(),
            passed: HashSet::new(),
            next: VecDeque::new(),
            read: VecDeque::new(),
            portion: PORTION.0,
            most_bytes,
            not_held: NotHeld::default(),
        }
    }

    /// Finds the rows whose records earlier pages of the walk have shown, and adds these records to `passed`.
    fn look_up_passed(&mut self, rows: &[&RecordRow], last: Position, reading: &Reading<'_>) -> Result<(), Error> {
        let position = |position: Position| {
            [
                Some(Datum::from(i32::try_from(position.epoch.0).unwrap_or(i32::MAX))),
                Some(Datum::from(position.xact.0)),
                Some(Datum::from(position.seq)),
            ]
        };
        let [epoch, xact, seq] = position(reading.begins_at());
        let [last_epoch, last_xact, last_seq] = position(last);
        let passed = &mut self.passed;
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
                self.excluded_client,
            ];
            with_index_scans(|| {
                self.spi.for_each(&EARLIER_ROWS, &values, |row| {
                    let (place, position, origin) = earlier_row(&row)?;
                    if reading.has_passed(position, origin) {
                        passed.insert(rows[place - 1].key.clone());
                    }
                    Ok(true)
                })
            })
        })
    }

    /// Reads the next records: a portion, or fewer where these have more text than a page.
    fn read_next(&mut self) -> Result<(), Error> {
        let count = self.portion.min(self.room.max(1)).min(self.next.len());
        let memory = self.spi.memory();
        // The records, by their places: all rows of a record may have been removed since its row in the walk was read.
        let mut read: Vec<Option<PageRecord<'s>>> = Vec::with_capacity(count);
        let mut bytes = 0;
        with_scratch(|scratch| {
            let [tables, records] = parameters(self.next.iter().take(count), scratch);
            let values = [Some(self.user), Some(self.app), tables, records, Some(self.spaces)];
            let mut current: Option<Merging<'_>> = None;
            let mut end = |merging: Merging<'_>, read: &mut Vec<Option<PageRecord<'s>>>| {
                read.resize_with(merging.place - 1, || None);
                let record = merging.finish(self.next[read.len()].clone(), &self.not_held, memory);
                bytes += record.as_ref().map_or(0, |record| record.size);
                read.push(record);
                bytes <= self.most_bytes
            };
            let mut has_room = true;
            with_index_scans(|| {
                self.spi.for_each(&RECORD_ROWS, &values, |row| {
                    let place = row.int8(1).ok_or(NULL)? as usize;
                    if let Some(merging) = current.take_if(|merging| merging.place != place) {
                        has_room = end(merging, &mut read);
                        if !has_room {
                            return Ok(false);
                        }
                    }
                    let merging = current.get_or_insert_with(|| Merging::new(place, scratch));
                    merging.add(&LogRow::new(row, &AFTER_ONE).deform(), self.user_id, scratch)?;
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
        self.portion = (2 * self.portion).min(PORTION.1);
        self.read.extend(read);
        Ok(())
    }
}

/// The tables and the ids of some records, as two parameters.
fn parameters<'k, 'm>(keys: impl Iterator<Item = &'k RecordKey> + Clone, memory: Memory<'m>) -> [Option<Datum<'m>>; 2] {
    let texts = |text: fn(&RecordKey) -> &[u8]| memory.array(TEXT, keys.clone().map(|key| memory.text(text(key))));
    [Some(texts(|key| &key.table)), Some(texts(|key| &key.record))]
}

/// A record whose rows are being merged.
struct Merging<'m> {
    /// The place of the record among those that are read, from 1.
    place: usize,
    state: State<'m>,
    /// The spaces of the rows, ascending; the empty id stands for private rows.
    spaces: Vec<Box<[u8]>>,
    /// Whether a row is the reader's own.
    has_own: bool,
}

impl<'m> Merging<'m> {
    fn new(place: usize, memory: Memory<'m>) -> Merging<'m> {
        Merging { place, state: State::new(memory), spaces: Vec::new(), has_own: false }
    }

    fn add(&mut self, row: &LogRow<'_>, user: &[u8], memory: Memory<'m>) -> Result<(), Error> {
        let space = row.text(Column::SpaceId);
        self.state.apply(&row.change()?, space, memory);
        self.has_own |= row.text(Column::UserId) == Some(user);
        let id = space.unwrap_or_default();
        if let Err(place) = self.spaces.binary_search_by(|other| (**other).cmp(id)) {
            self.spaces.insert(place, id.into());
        }
        Ok(())
    }

    /// The record in `memory`; `None` if the page need not show it.
    fn finish<'s>(self, key: RecordKey, not_held: &NotHeld, memory: Memory<'s>) -> Option<PageRecord<'s>> {
        let is_deleted = self.state.0.deleted_at().is_some();
        if is_deleted && !self.may_be_held(not_held) {
            return None;
        }
        let merged = self.state.merged(memory)?;
        let text = |value: Jsonb<'_>| value.with_root(|root| Size::of(root).text).0;
        let values = if is_deleted { 0 } else { text(merged.data) + text(merged.field_timestamps) };
        let size = values + key.table.len() + key.record.len() + SIZE_OF_REST;
        Some(PageRecord { key, merged, spaces: self.spaces, size })
    }

    /// Whether the reader may hold the record, so that it has to be told that the record is deleted.
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

/// A row of `earlier_rows.sql`: the place of the record from 1, the position of the change, and what else decides whether it belongs to a
/// walk.
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
            debug_assert!(self.done.is_empty(), "a page ends where spaces join");
        }
        // `passed` is valid for one walk. After its target, a record that the reader holds may have been deleted.
        if reading.is_new_walk() || self.passed.len() > MOST_PASSED_KEYS {
            self.passed.clear();
        }
        let (mut new, mut seen) = (Vec::new(), HashSet::new());
        for (_, row) in rows {
            if !self.done.contains(&row.key) && !self.passed.contains(&row.key) && seen.insert(&row.key) {
                new.push(row);
            }
        }
        if let Some(last) = reading.resumed_at().filter(|_| !new.is_empty()) {
            or_raise(self.look_up_passed(&new, last, reading));
        }
        self.next.extend(new.into_iter().map(|row| &row.key).filter(|key| !self.passed.contains(*key)).cloned());
    }

    fn take(&mut self, _: Position, RecordRow { key, .. }: RecordRow) -> Taken {
        if self.next.front() != Some(&key) {
            return Taken::Passed;
        }
        if self.read.is_empty() {
            or_raise(self.read_next());
        }
        let taken = match self.read.front() {
            Some(Some(record)) if self.room == 0 || !self.shown.show(record) => return Taken::Full,
            Some(Some(_)) => {
                self.room -= 1;
                Taken::Shown
            }
            Some(None) | None => Taken::Passed,
        };
        self.read.pop_front();
        self.next.pop_front();
        match taken {
            Taken::Shown => self.done.insert(key),
            Taken::Passed | Taken::Full => self.passed.insert(key),
        };
        taken
    }
}
