//! `mana_sync.purge_deleted`: removes deletes, and what they deleted. Which, see `mana_sync_merge::purge`; who has to begin again
//! then, see `mana_sync_cursor::resync`.

use super::{Edits, GROUP, GroupKey, column, select_changes};
use crate::error::Error;
use crate::function::{Args, INT4, XID8, array_datum, sql_function};
use crate::merge::change_of;
use crate::read::plan_index_scans;
use crate::settings::close_level;
use crate::snapshot::Pushed;
use crate::statement::{Row, Spi, Statement};
use mana_sync_merge::change::{Op, Stamp};
use mana_sync_merge::purge::{GroupSummary, PurgeLimit};
use mana_sync_merge::time::Time;
use pgrx::pg_sys;
use std::collections::BTreeSet;

sql_function!(mana_sync_purge_deleted, pg_finfo_mana_sync_purge_deleted, purge_deleted);

static CREATED_BEFORE: Statement = Statement::new(
    c"SELECT pg_catalog.now() OPERATOR(pg_catalog.-) $1
      WHERE $1 OPERATOR(pg_catalog.>=) '0'",
    &[pg_sys::INTERVALOID],
);

/// Records with a delete that is old enough.
static RECORDS: Statement = Statement::new(
    c"SELECT DISTINCT c.app_id, c.record_id, c.table_name
      FROM mana_sync.sync_changes AS c
      WHERE c.op OPERATOR(pg_catalog.=) 'delete' AND c.created_at OPERATOR(pg_catalog.<) $1",
    &[pg_sys::TIMESTAMPTZOID],
);

/// All changes of a record, group by group, the private ones last.
static RECORD: Statement = Statement::new(
    select_changes!(
        "WHERE c.app_id OPERATOR(pg_catalog.=) $1
           AND c.record_id OPERATOR(pg_catalog.=) $2
           AND c.table_name OPERATOR(pg_catalog.=) $3
         ORDER BY CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END DESC, c.user_id COLLATE pg_catalog.\"POSIX\" DESC"
    ),
    &[pg_sys::TEXTOID; 3],
);

static NOTE_TRANSACTIONS: Statement = Statement::new(
    c"INSERT INTO mana_sync.purged_transactions (epoch, xact)
      SELECT t.epoch, t.xact
      FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS t (epoch, xact)
      ON CONFLICT DO NOTHING",
    &[pg_sys::INT4ARRAYOID, pg_sys::XID8ARRAYOID],
);

static NOTE_PURGE: Statement = Statement::new(
    c"INSERT INTO mana_sync.purges (number, mark, purged_until, purged_from, older_than, deletes, changes)
      SELECT COALESCE(pg_catalog.max(p.number), 0) OPERATOR(pg_catalog.+) 1, $1,
             GREATEST(pg_catalog.max(p.purged_until), $2), LEAST(pg_catalog.min(p.purged_from), $3), $4, $5, $6
      FROM mana_sync.purges AS p",
    &[
        pg_sys::INT8OID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::INTERVALOID,
        pg_sys::INT8OID,
        pg_sys::INT8OID,
    ],
);

/// `mana_sync.purge_deleted(older_than interval, OUT deletes bigint, OUT changes bigint)`
///
/// Errors: 22023 for a negative interval or NULL; 42501 where row security would hide rows from the owner.
fn purge_deleted(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let older_than = args.datum(0).ok_or(Error::Null("older_than"))?;
    let spi = Spi::connect();
    let created_before = spi.read(&CREATED_BEFORE, &[Some(older_than)]).iter().next().and_then(|row| row.column(1));
    let created_before = created_before.ok_or(Error::Negative("older_than"))?;
    super::begin(&spi)?;
    // Not older than the lock.
    let pushed = Pushed::latest();
    let mut purge = Purge {
        spi: &spi,
        created_before: Time::from_micros(created_before.value() as i64),
        edits: Edits::new(&spi),
        deletes: 0,
        changes: 0,
        until: Time::from_micros(i64::MIN),
        from: Time::from_micros(i64::MAX),
        transactions: BTreeSet::new(),
    };
    spi.for_each(&RECORDS, &[Some(created_before)], |row| {
        let level = plan_index_scans();
        purge.record([row.column(1), row.column(2), row.column(3)])?;
        close_level(level);
        Ok(true)
    })?;
    let level = plan_index_scans();
    purge.edits.flush()?;
    pushed.pop();
    let counts = [purge.deletes, purge.changes].map(|count| Some(pg_sys::Datum::from(count)));
    if purge.deletes > 0 {
        purge.note_transactions();
        let mark = uuid::Uuid::new_v4().as_u64_pair().1 & mana_sync_cursor::hash::MAX;
        let [until, from] = [purge.until, purge.from].map(|time| Some(pg_sys::Datum::from(time.micros())));
        let values = [Some(pg_sys::Datum::from(mark as i64)), until, from, Some(older_than), counts[0], counts[1]];
        spi.insert(&NOTE_PURGE, &values);
    }
    close_level(level);
    spi.finish();
    args.composite(counts).map(Some)
}

struct Purge<'a> {
    spi: &'a Spi,
    /// Deletes that were recorded later stay.
    created_before: Time,
    edits: Edits<'a>,
    deletes: i64,
    changes: i64,
    /// Latest time at which a delete that goes was recorded.
    until: Time,
    /// Earliest time at which a change that goes was recorded.
    from: Time,
    /// Epochs and ids of the transactions that wrote the deletes which go.
    transactions: BTreeSet<(u32, u64)>,
}

impl Purge<'_> {
    /// Removes what can go of a record.
    fn record(&mut self, record: [Option<pg_sys::Datum>; 3]) -> Result<(), Error> {
        let mut shared: Vec<(GroupKey, GroupSummary, Stamp)> = Vec::new();
        let (mut limit_of_shared, mut limit_of_private) = (PurgeLimit::All, PurgeLimit::All);
        let mut current: Option<(GroupKey, GroupSummary)> = None;
        let mut finish = |purge: &mut Self, current: &mut Option<(GroupKey, GroupSummary)>| {
            let Some((key, group)) = current.take() else { return Ok::<(), Error>(()) };
            let (delete, limit) = (group.delete_to_purge(purge.created_before), group.limit());
            if !key.space().is_empty() {
                limit_of_shared = limit_of_shared.min(limit);
                shared.extend(delete.map(|delete| (key, group, delete)));
                return Ok(());
            }
            // All shared ones have been seen; private ones of two users nobody sees together.
            limit_of_private = limit_of_private.min(limit);
            match delete {
                Some(delete) if limit.min(limit_of_shared).allows(delete) => purge.group(&key, &group),
                _ => Ok(()),
            }
        };
        let spi = self.spi;
        spi.for_each(&RECORD, &record, |row| {
            if current.as_ref().is_some_and(|(key, _)| !key.is_of(&row, column::GROUP)) {
                finish(self, &mut current)?;
            }
            // SAFETY: the columns are these, and the row is there during the call.
            let change = unsafe { change_of(&row, column::OP)? };
            let (_, group) =
                current.get_or_insert_with(|| (GroupKey::of(&row, column::GROUP), GroupSummary::default()));
            group.add(&change);
            Ok(true)
        })?;
        finish(self, &mut current)?;
        for (key, group, delete) in shared {
            if limit_of_shared.min(limit_of_private).allows(delete) {
                self.group(&key, &group)?;
            }
        }
        Ok(())
    }

    /// Removes the latest delete of a group, and what it covers.
    fn group(&mut self, key: &GroupKey, group: &GroupSummary) -> Result<(), Error> {
        let spi = self.spi;
        spi.for_each(&GROUP, &key.values(), |row| self.change(&row, group).map(|()| true))
    }

    fn change(&mut self, row: &Row, group: &GroupSummary) -> Result<(), Error> {
        // SAFETY: the columns are these, and the row is there during the call.
        let change = unsafe { change_of(row, column::OP)? };
        if !group.covers(&change) {
            return Ok(());
        }
        self.changes += 1;
        self.from = self.from.min(change.created_at);
        if change.op == Op::Delete {
            self.deletes += 1;
            self.until = self.until.max(change.created_at);
            self.transactions.insert((change.position.epoch.0, change.position.xact.0));
        }
        self.edits.remove(row.column(column::ID).ok_or(Error::Installation("a change without an id"))?)
    }

    fn note_transactions(&self) {
        let datums = |&(epoch, xact): &(u32, u64)| (pg_sys::Datum::from(epoch as i32), pg_sys::Datum::from(xact));
        let (epochs, xacts) = self.transactions.iter().map(datums).unzip();
        self.spi.insert(&NOTE_TRANSACTIONS, &[Some(array_datum(epochs, &INT4)), Some(array_datum(xacts, &XID8))]);
    }
}
