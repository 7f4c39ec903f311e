//! `mana_sync.compact_batch`: removes overwritten changes. `mana_sync_merge::compact` decides which ones.
//!
//! A batch reads the log in the order of `sync_changes_record_idx`, in which the changes of a group are adjacent. A first pass over a group
//! finds the latest write of each field. If any write of the group may be overwritten, a second pass removes the overwritten writes.

use super::{CHANGES_OF_GROUP, Edits, GroupKey, lock};
use crate::bounds::is_too_deep;
use crate::call::Call;
use crate::error::Error;
use crate::pg::datum::{Datum, types::*};
use crate::pg::fmgr::{Answer, Args, sql_functions};
use crate::pg::heap::Row;
use crate::pg::memory::{Memory, with_scratch};
use crate::pg::snapshot::{self, Kind};
use crate::pg::spi::{Spi, Statement, statement};
use crate::row::{Column, LogRow};
use mana_sync_merge::compact::{Action, LatestWrites};
use mana_sync_merge::time::Time;

sql_functions!(compact_batch);

static SCAN: Statement = statement!("queries/scan.sql", [TEXT, TEXT, TEXT, TEXT, TEXT]);
static SCAN_TABLE: Statement = statement!("queries/scan_table.sql", [TEXT, TEXT, TEXT, TEXT, TEXT, TEXT]);
static SCAN_USER: Statement = statement!("queries/scan_user.sql", [TEXT, TEXT, TEXT, TEXT, TEXT, TEXT]);
static SCAN_TABLE_AND_USER: Statement =
    statement!("queries/scan_table_and_user.sql", [TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT]);

static COMPACTION: Statement = statement!("queries/compaction.sql", [UUID]);
static ADVANCE: Statement =
    statement!("queries/advance_compaction.sql", [UUID, INT8, INT8, INT8, TEXT, TEXT, TEXT, TEXT, TEXT, BOOL]);
static SO_FAR: Statement = statement!("queries/compaction_so_far.sql", [UUID]);

/// `mana_sync.compact_batch(run uuid, batch_size int, OUT done, OUT changes_read, OUT changes_removed, OUT changes_trimmed)`
///
/// Runs the next batch of a compaction, and returns the counts of the whole compaction so far. Errors: 22023 for a compaction that does not
/// exist or is finished; 42501 if row security would hide rows from the owner.
fn compact_batch<'a>(args: &Args<'a>) -> Answer<'a> {
    let run = args.datum(0).ok_or(Error::Null("run"))?;
    let size = args.int4(1).filter(|size| *size > 0).ok_or(Error::Size("batch_size"))? as u64;
    Call::INDEX_SCANS.run(|spi| {
        lock(spi)?;
        let batch = snapshot::with(Kind::Latest, || {
            let row = spi.read(&COMPACTION, &[Some(run)]).first().ok_or(Error::NoRun)?;
            let mut batch = Batch::new(spi, size, &row)?;
            batch.run(&row)?;
            Ok::<_, Error>(batch)
        })?;
        let count = |count: u64| Some(Datum::from(count as i64));
        let mut values = vec![Some(run), count(batch.read), count(batch.removed), count(batch.trimmed)];
        values.extend(batch.place.values(spi.memory()));
        values.push(Some(Datum::from(batch.is_last)));
        spi.update(&ADVANCE, &values);
        let so_far = spi.select(&SO_FAR, &[Some(run)]).first().ok_or(Error::NoRun)?;
        args.composite([Some(Datum::from(batch.is_last)), so_far.datum(1), so_far.datum(2), so_far.datum(3)])
    })
}

/// A batch of a compaction.
struct Batch<'s> {
    spi: Spi<'s>,
    /// The number of changes after which the batch ends, at the next end of a group.
    size: u64,
    /// Changes that were recorded at this time or later stay as they are.
    created_before: Time,
    /// The removed and trimmed changes; `None` in a dry run.
    edits: Option<Edits<'s>>,
    /// The last group that the compaction has finished.
    place: GroupKey,
    /// The group that the batch is reading, and the latest writes of this group so far.
    group: Option<(GroupKey, LatestWrites)>,
    /// Whether the batch has read to the end, so that the compaction is finished.
    is_last: bool,
    read: u64,
    removed: u64,
    trimmed: u64,
}

impl<'s> Batch<'s> {
    /// Makes a batch of a compaction. `row` is the row of the compaction from `queries/compaction.sql`.
    fn new(spi: Spi<'s>, size: u64, row: &Row<'s>) -> Result<Batch<'s>, Error> {
        const NULL: Error = Error::Installation("a column of mana_sync.compactions is NULL");
        let place = |i: usize| row.text(6 + i).unwrap_or_default().to_vec();
        Ok(Batch {
            spi,
            size,
            created_before: Time::from_micros(row.int8(4).ok_or(NULL)?),
            edits: (!row.bool(5).ok_or(NULL)?).then(|| Edits::new(spi)),
            place: GroupKey(std::array::from_fn(place)),
            group: None,
            is_last: true,
            read: 0,
            removed: 0,
            trimmed: 0,
        })
    }

    /// Compacts the groups that follow the last finished group, until the batch has read enough changes.
    fn run(&mut self, compaction: &Row<'_>) -> Result<(), Error> {
        let (app, table, user) = (compaction.text(1), compaction.datum(2), compaction.datum(3));
        let scan = match (table, user) {
            (None, None) => &SCAN,
            (Some(_), None) => &SCAN_TABLE,
            (None, Some(_)) => &SCAN_USER,
            (Some(_), Some(_)) => &SCAN_TABLE_AND_USER,
        };
        let spi = self.spi;
        let mut values = self.place.values(spi.memory());
        values.extend([table, user].into_iter().flatten().map(Some));
        spi.for_each(scan, &values, |row| {
            let row = LogRow::of_table(row);
            // The scan is in the order of the apps: after another app there is nothing more of this one.
            if app.is_some_and(|app| row.group_key(Column::AppId) != app) {
                return Ok(false);
            }
            self.is_last = self.take(&row)?;
            Ok(self.is_last)
        })?;
        with_scratch(|memory| if self.is_last { self.finish_group(memory) } else { Ok(()) })?;
        self.edits.as_mut().map_or(Ok(()), Edits::flush)
    }

    /// Adds a change to its group. If the change begins a group, finishes the group before it. Returns false, and does not add the change,
    /// if the batch has then read enough.
    fn take(&mut self, row: &LogRow<'_>) -> Result<bool, Error> {
        if self.group.as_ref().is_some_and(|(key, _)| !key.is_of(row)) {
            self.finish_group(row.row().memory())?;
            if self.read >= self.size {
                return Ok(false);
            }
        }
        self.read += 1;
        let change = row.change()?;
        let (_, latest) = self.group.get_or_insert_with(|| (GroupKey::of(row), LatestWrites::default()));
        latest.add(&change);
        Ok(true)
    }

    /// Removes the overwritten writes of the group that was read. A group is never split between batches, however large it is, because each
    /// of its changes has to be compared with all the others.
    fn finish_group(&mut self, memory: Memory<'_>) -> Result<(), Error> {
        let Some((key, latest)) = self.group.take() else { return Ok(()) };
        if latest.may_have_overwritten() {
            let spi = self.spi;
            spi.for_each(&CHANGES_OF_GROUP, &key.values(memory), |row| {
                self.compact(&LogRow::of_table(row), &latest).map(|()| true)
            })?;
        }
        self.place = key;
        Ok(())
    }

    /// Removes a change, or its overwritten fields. Keeps a change that is not old enough.
    fn compact(&mut self, row: &LogRow<'_>, latest: &LatestWrites) -> Result<(), Error> {
        let change = row.change()?;
        if change.created_at >= self.created_before {
            return Ok(());
        }
        let has_non_object_data = change.data.is_none() && row.datum(Column::Data).is_some();
        match latest.action(&change, has_non_object_data) {
            // PostgreSQL cannot rebuild a value that is nested so deeply. Such a value has not come in through the
            // functions and policies, which refuse it.
            Action::Trim(_) if change.data.is_some_and(|data| is_too_deep(data.node())) => {}
            Action::Keep => {}
            Action::Remove => {
                self.removed += 1;
                if let Some(edits) = &mut self.edits {
                    edits.remove(row)?;
                }
            }
            Action::Trim(overwritten) => {
                self.trimmed += 1;
                if let Some(edits) = &mut self.edits {
                    edits.trim(row, &overwritten)?;
                }
            }
        }
        Ok(())
    }
}
