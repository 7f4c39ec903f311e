//! `mana_sync.compact_batch`: removes dead changes. What is dead, see `mana_sync_merge::compact`.
//!
//! The log is read in the order of `sync_changes_record_idx`, in which the changes of a group lie together: once to find
//! the latest write of each field, and, where anything was overwritten, once more to see which changes have lost.

use super::{Edits, GROUP, GroupKey, column, select_changes};
use crate::bounds::is_too_deep;
use crate::error::Error;
use crate::function::{Args, sql_function};
use crate::merge::change_of;
use crate::read::plan_index_scans;
use crate::settings::close_level;
use crate::snapshot::Pushed;
use crate::statement::{Row, Spi, Statement};
use mana_sync_merge::compact::{Action, LatestWrites};
use mana_sync_merge::time::Time;
use pgrx::pg_sys;

sql_function!(mana_sync_compact_batch, pg_finfo_mana_sync_compact_batch, compact_batch);

/// Changes behind a place, in the order of their groups; those of one table ($6) and user ($7), or of all.
macro_rules! scan {
    ($($filter:literal),*) => {
        Statement::new(
            select_changes!(
                "WHERE ROW(c.app_id, c.record_id, CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END, c.user_id COLLATE pg_catalog.\"POSIX\", c.table_name)
                       OPERATOR(pg_catalog.>) ROW($1, $2, $3, $4, $5) ",
                $($filter,)*
                "ORDER BY c.app_id, c.record_id, CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END, c.user_id COLLATE pg_catalog.\"POSIX\", c.table_name"
            ),
            &[pg_sys::TEXTOID; 7],
        )
    };
}

static SCAN: Statement = scan!();
static SCAN_TABLE: Statement = scan!("AND c.table_name OPERATOR(pg_catalog.=) $6 ");
static SCAN_USER: Statement = scan!("AND c.user_id COLLATE pg_catalog.\"POSIX\" OPERATOR(pg_catalog.=) $7 ");
static SCAN_TABLE_AND_USER: Statement = scan!(
    "AND c.table_name OPERATOR(pg_catalog.=) $6 AND c.user_id COLLATE pg_catalog.\"POSIX\" OPERATOR(pg_catalog.=) $7 "
);

static RUN: Statement = Statement::new(
    c"SELECT c.app_id, c.table_name, c.user_id, c.created_before, c.dry_run,
             c.after_app, c.after_record, c.after_space, c.after_user, c.after_table
      FROM mana_sync.compactions AS c
      WHERE c.id OPERATOR(pg_catalog.=) $1 AND c.finished_at IS NULL",
    &[pg_sys::UUIDOID],
);

static ADVANCE: Statement = Statement::new(
    c"UPDATE mana_sync.compactions AS c
      SET changes_read = c.changes_read OPERATOR(pg_catalog.+) $2,
          changes_removed = c.changes_removed OPERATOR(pg_catalog.+) $3,
          changes_trimmed = c.changes_trimmed OPERATOR(pg_catalog.+) $4,
          after_app = $5, after_record = $6, after_space = $7, after_user = $8, after_table = $9,
          pid = pg_catalog.pg_backend_pid(),
          updated_at = pg_catalog.clock_timestamp(),
          finished_at = CASE WHEN $10 THEN pg_catalog.clock_timestamp() END
      WHERE c.id OPERATOR(pg_catalog.=) $1",
    &[
        pg_sys::UUIDOID,
        pg_sys::INT8OID,
        pg_sys::INT8OID,
        pg_sys::INT8OID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::BOOLOID,
    ],
);

static SO_FAR: Statement = Statement::new(
    c"SELECT c.changes_read, c.changes_removed, c.changes_trimmed
      FROM mana_sync.compactions AS c WHERE c.id OPERATOR(pg_catalog.=) $1",
    &[pg_sys::UUIDOID],
);

/// `mana_sync.compact_batch(run uuid, batch_size int, OUT done, OUT changes_read, OUT changes_removed, OUT changes_trimmed)`
///
/// Errors: 22023 for a run that is not there or finished; 42501 where row security would hide rows from the owner.
fn compact_batch(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let run = args.datum(0).ok_or(Error::Null("run"))?;
    let size = args.int(1).filter(|size| *size > 0).ok_or(Error::Size("batch_size"))? as u64;
    let spi = Spi::connect();
    super::begin(&spi)?;
    let level = plan_index_scans();
    // Not older than the lock: what other maintenance has removed is not there.
    let pushed = Pushed::latest();
    let row = spi.read(&RUN, &[Some(run)]).iter().next().ok_or(Error::NoRun)?;
    let column = |place| row.column(place).ok_or(Error::Installation("a column of mana_sync.compactions is NULL"));
    let (table, user) = (row.column(2), row.column(3));
    let mut batch = Batch {
        spi: &spi,
        size,
        created_before: Time::from_micros(column(4)?.value() as i64),
        edits: (column(5)?.value() == 0).then(|| Edits::new(&spi)),
        place: GroupKey::of(&row, 6),
        group: None,
        read: 0,
        removed: 0,
        trimmed: 0,
    };
    let app = row.column(1).map(super::bytes);
    let scan = match (table, user) {
        (None, None) => &SCAN,
        (Some(_), None) => &SCAN_TABLE,
        (None, Some(_)) => &SCAN_USER,
        (Some(_), Some(_)) => &SCAN_TABLE_AND_USER,
    };
    let mut values = batch.place.values();
    values.extend([table, user]);
    let mut done = true;
    spi.for_each(scan, &values, |row| {
        // In the order of the scan nothing of the app comes behind another one.
        let is_behind = app.is_some_and(|app| row.column(column::GROUP).is_some_and(|text| super::bytes(text) != app));
        if is_behind {
            return Ok(false);
        }
        done = batch.take(&row)?;
        Ok(done)
    })?;
    if done {
        batch.finish_group()?;
    }
    if let Some(edits) = &mut batch.edits {
        edits.flush()?;
    }
    pushed.pop();
    let count = |count: u64| Some(pg_sys::Datum::from(count as i64));
    let mut values = vec![Some(run), count(batch.read), count(batch.removed), count(batch.trimmed)];
    values.extend(batch.place.values());
    values.push(Some(pg_sys::Datum::from(done)));
    spi.run(&ADVANCE, &values, pg_sys::SPI_OK_UPDATE);
    let row = spi.select(&SO_FAR, &[Some(run)]).iter().next().ok_or(Error::NoRun)?;
    let so_far = [Some(pg_sys::Datum::from(done)), row.column(1), row.column(2), row.column(3)];
    spi.finish();
    close_level(level);
    args.composite(so_far).map(Some)
}

/// A part of a run.
struct Batch<'a> {
    spi: &'a Spi,
    /// About how many changes it reads.
    size: u64,
    /// Nothing younger is touched.
    created_before: Time,
    /// None in a dry run.
    edits: Option<Edits<'a>>,
    /// The last group that is finished.
    place: GroupKey,
    /// The group that is being read, and the latest writes in it.
    group: Option<(GroupKey, LatestWrites)>,
    read: u64,
    removed: u64,
    trimmed: u64,
}

impl Batch<'_> {
    /// Takes a change; false, without taking it, if there have been enough.
    fn take(&mut self, row: &Row) -> Result<bool, Error> {
        if self.group.as_ref().is_some_and(|(key, _)| !key.is_of(row, column::GROUP)) {
            self.finish_group()?;
            if self.read >= self.size {
                return Ok(false);
            }
        }
        self.read += 1;
        // SAFETY: the columns are these, and the row is there during the call.
        let change = unsafe { change_of(row, column::OP)? };
        let (_, winners) =
            self.group.get_or_insert_with(|| (GroupKey::of(row, column::GROUP), LatestWrites::default()));
        winners.add(&change);
        Ok(true)
    }

    /// Removes what is dead in the group that was read. However large it is: a part of it could not be judged without the rest.
    fn finish_group(&mut self) -> Result<(), Error> {
        let Some((key, winners)) = self.group.take() else { return Ok(()) };
        if winners.may_have_overwritten() {
            let spi = self.spi;
            spi.for_each(&GROUP, &key.values(), |row| self.judge(&row, &winners).map(|()| true))?;
        }
        self.place = key;
        Ok(())
    }

    /// Removes what is dead of a change.
    fn judge(&mut self, row: &Row, winners: &LatestWrites) -> Result<(), Error> {
        // SAFETY: the columns are these, and the row is there during the call.
        let change = unsafe { change_of(row, column::OP)? };
        if change.created_at >= self.created_before {
            return Ok(());
        }
        let id = row.column(column::ID).ok_or(Error::Installation("a change without an id"))?;
        let has_other_data = change.data.is_none() && row.column(column::DATA).is_some();
        match winners.action(&change, has_other_data) {
            // Nothing of it can be rebuilt; it has come in by other ways than those that bound it.
            Action::Trim(_) if change.data.is_some_and(|data| is_too_deep(data.raw())) => {}
            Action::Keep => {}
            Action::Remove => {
                self.removed += 1;
                if let Some(edits) = &mut self.edits {
                    edits.remove(id)?;
                }
            }
            Action::Trim(dead) => {
                self.trimmed += 1;
                if let Some(edits) = &mut self.edits {
                    edits.trim(id, row, column::DATA, &dead)?;
                }
            }
        }
        Ok(())
    }
}
