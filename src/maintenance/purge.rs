//! `mana_sync.purge_deleted`: removes deletes, and the changes that they deleted. `mana_sync_merge::purge` decides
//! which ones. `mana_sync_cursor::resync` decides which readers have to begin again afterwards.

use super::{CHANGES_OF_GROUP, Edits, GroupKey, lock};
use crate::call::{Call, with_index_scans};
use crate::error::Error;
use crate::pg::datum::{Datum, types::*};
use crate::pg::fmgr::{Answer, Args, sql_functions};
use crate::pg::heap::Row;
use crate::pg::memory::Memory;
use crate::pg::snapshot::{self, Kind};
use crate::pg::spi::{Spi, Statement, statement};
use crate::row::LogRow;
use mana_sync_cursor::id::{EpochNumber, TransactionId};
use mana_sync_merge::change::{Op, Stamp};
use mana_sync_merge::purge::{GroupSummary, PurgeLimit};
use mana_sync_merge::time::Time;
use std::collections::BTreeSet;

sql_functions!(purge_deleted);

static CREATED_BEFORE: Statement = statement!(
    sql "SELECT pg_catalog.now() OPERATOR(pg_catalog.-) $1 WHERE $1 OPERATOR(pg_catalog.>=) '0'",
    [INTERVAL]
);

static DELETED_RECORDS: Statement = statement!("queries/deleted_records.sql", [TIMESTAMPTZ]);
static RECORD: Statement = statement!("queries/record.sql", [TEXT, TEXT, TEXT]);
static INSERT_TRANSACTIONS: Statement = statement!("queries/insert_purged_transactions.sql", [INT4_ARRAY, XID8_ARRAY]);
static INSERT_PURGE: Statement =
    statement!("queries/insert_purge.sql", [INT8, TIMESTAMPTZ, TIMESTAMPTZ, INTERVAL, INT8, INT8]);

/// `mana_sync.purge_deleted(older_than interval, OUT deletes bigint, OUT changes bigint)`
///
/// Removes deletes that are older than the interval, and the changes that they deleted. Returns the number of removed
/// deletes, and of all removed changes. Errors: 22023 for a negative interval or NULL; 42501 if row security would hide
/// rows from the owner.
fn purge_deleted<'a>(args: &Args<'a>) -> Answer<'a> {
    let older_than = args.datum(0).ok_or(Error::Null("older_than"))?;
    Call::PLAIN.run(|spi| {
        let row = spi.read(&CREATED_BEFORE, &[Some(older_than)]).first();
        let created_before = row.and_then(|row| row.int8(1)).ok_or(Error::Negative("older_than"))?;
        lock(spi)?;
        let mut purge = Purge::new(spi, Time::from_micros(created_before));
        snapshot::with(Kind::Latest, || {
            // Index scans are not forced for this statement, because it reads all deletes.
            spi.for_each(&DELETED_RECORDS, &[Some(Datum::from(created_before))], |row| {
                with_index_scans(|| purge.record(&row)).map(|()| true)
            })?;
            with_index_scans(|| purge.edits.flush())
        })?;
        if purge.deletes > 0 {
            purge.note(older_than);
        }
        args.composite([purge.deletes, purge.changes].map(|count| Some(Datum::from(count))))
    })
}

/// The state of a purge.
struct Purge<'s> {
    spi: Spi<'s>,
    /// The purge keeps deletes that were recorded at this time or later.
    created_before: Time,
    edits: Edits<'s>,
    /// The number of deletes that the purge removes.
    deletes: i64,
    /// The number of changes that the purge removes, including the deletes.
    changes: i64,
    /// The latest `created_at` of the removed deletes.
    until: Time,
    /// The earliest `created_at` of the removed changes.
    from: Time,
    /// The epochs and ids of the transactions that wrote the removed deletes.
    transactions: BTreeSet<(EpochNumber, TransactionId)>,
}

impl<'s> Purge<'s> {
    fn new(spi: Spi<'s>, created_before: Time) -> Purge<'s> {
        Purge {
            spi,
            created_before,
            edits: Edits::new(spi),
            deletes: 0,
            changes: 0,
            until: Time::from_micros(i64::MIN),
            from: Time::from_micros(i64::MAX),
            transactions: BTreeSet::new(),
        }
    }

    /// Removes the deletes of a record that the purge may remove, and the changes that they cover. `record` is a row of
    /// `queries/deleted_records.sql`.
    fn record(&mut self, record: &Row<'_>) -> Result<(), Error> {
        let memory = record.memory();
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
            // The shared groups come first, so all of them have been seen here. Nobody sees the private groups of two
            // users together.
            limit_of_private = limit_of_private.min(limit);
            match delete {
                Some(delete) if limit.min(limit_of_shared).allows(delete) => purge.group(&key, &group, memory),
                _ => Ok(()),
            }
        };
        let spi = self.spi;
        let columns = [record.datum(1), record.datum(2), record.datum(3)];
        spi.for_each(&RECORD, &columns, |row| {
            let row = LogRow::of_table(row);
            if current.as_ref().is_some_and(|(key, _)| !key.is_of(&row)) {
                finish(self, &mut current)?;
            }
            let change = row.change()?;
            let (_, group) = current.get_or_insert_with(|| (GroupKey::of(&row), GroupSummary::default()));
            group.add(&change);
            Ok(true)
        })?;
        finish(self, &mut current)?;
        for (key, group, delete) in shared {
            if limit_of_shared.min(limit_of_private).allows(delete) {
                self.group(&key, &group, memory)?;
            }
        }
        Ok(())
    }

    /// Removes the latest delete of a group, and the changes that the delete covers.
    fn group(&mut self, key: &GroupKey, group: &GroupSummary, memory: Memory<'_>) -> Result<(), Error> {
        let spi = self.spi;
        spi.for_each(&CHANGES_OF_GROUP, &key.values(memory), |row| {
            self.change(&LogRow::of_table(row), group).map(|()| true)
        })
    }

    /// Removes a change if the latest delete of its group covers it. `group` is the summary of that group.
    fn change(&mut self, row: &LogRow<'_>, group: &GroupSummary) -> Result<(), Error> {
        let change = row.change()?;
        if !group.covers(&change) {
            return Ok(());
        }
        self.changes += 1;
        self.from = self.from.min(change.created_at);
        if change.op == Op::Delete {
            self.deletes += 1;
            self.until = self.until.max(change.created_at);
            self.transactions.insert((change.position.epoch, change.position.xact));
        }
        self.edits.remove(row)
    }

    /// Records the purge in `mana_sync.purges` and `mana_sync.purged_transactions`. These tables tell which cursors are
    /// stale.
    fn note(&self, older_than: Datum<'_>) {
        let memory = self.spi.memory();
        let epochs = self.transactions.iter().map(|&(epoch, _)| Datum::from(epoch.0 as i32));
        let xacts = self.transactions.iter().map(|&(_, xact)| Datum::from(xact.0));
        self.spi.insert(&INSERT_TRANSACTIONS, &[Some(memory.array(INT4, epochs)), Some(memory.array(XID8, xacts))]);
        let mark = uuid::Uuid::new_v4().as_u64_pair().1 & mana_sync_cursor::hash::MAX;
        let values = [mark as i64, self.until.micros(), self.from.micros()];
        let [mark, until, from] = values.map(|value| Some(Datum::from(value)));
        let [deletes, changes] = [self.deletes, self.changes].map(|count| Some(Datum::from(count)));
        self.spi.insert(&INSERT_PURGE, &[mark, until, from, Some(older_than), deletes, changes]);
    }
}
