//! Reads the tables of purges, as the active snapshot sees them. Application roles have no privilege on these tables.

use crate::error::Error;
use crate::pg::fmgr::or_raise;
use crate::pg::heap::{self, Compare, Key, Row};
use mana_sync_cursor::id::{EpochNumber, PurgeMark, TransactionId};
use mana_sync_cursor::resync::Purges;
use std::ffi::CStr;

/// The source of what the cursor crate asks about purges: the tables `mana_sync.purges` and `mana_sync.purged_transactions`.
pub struct PurgeTables;

/// The table `mana_sync.purges`, and its index on the number of the purge.
const PURGES: (&CStr, &CStr) = (c"purges", c"purges_pkey");
/// The place of the column `mark` in `mana_sync.purges`, from 1.
const MARK: usize = 2;
const PURGED_UNTIL: usize = 3;
const PURGED_FROM: usize = 4;
/// The table `mana_sync.purged_transactions`, and its index on epoch and xact.
const TRANSACTIONS: (&CStr, &CStr) = (c"purged_transactions", c"purged_transactions_pkey");

impl PurgeTables {
    fn latest<T>(&self, take: impl FnOnce(&Row<'_>) -> Option<T>) -> Option<T> {
        const NULL: Error = Error::Installation("a column of mana_sync.purges is NULL");
        or_raise(heap::last(PURGES, &[], |row| take(row).ok_or(NULL)))
    }

    fn has(&self, keys: &[Key]) -> bool {
        or_raise(heap::last(TRANSACTIONS, keys, |_| Ok(()))).is_some()
    }
}

impl Purges for PurgeTables {
    fn mark(&mut self) -> PurgeMark {
        PurgeMark(self.latest(|row| row.uint8(MARK)).unwrap_or(0))
    }

    fn any_after(&mut self, epoch: EpochNumber) -> bool {
        self.has(&[epoch_is(Compare::Greater, epoch)])
    }

    fn any_from(&mut self, epoch: EpochNumber, xact: TransactionId) -> bool {
        self.has(&[epoch_is(Compare::Equal, epoch), xact_is(Compare::GreaterOrEqual, xact)])
    }

    fn contains(&mut self, epoch: EpochNumber, xact: TransactionId) -> bool {
        self.has(&[epoch_is(Compare::Equal, epoch), xact_is(Compare::Equal, xact)])
    }

    fn purged_until(&mut self) -> Option<i64> {
        self.latest(|row| row.int8(PURGED_UNTIL))
    }

    fn purged_from(&mut self) -> Option<i64> {
        self.latest(|row| row.int8(PURGED_FROM))
    }
}

fn epoch_is(compare: Compare, epoch: EpochNumber) -> Key {
    Key::int4(1, compare, i32::try_from(epoch.0).unwrap_or(i32::MAX))
}

fn xact_is(compare: Compare, xact: TransactionId) -> Key {
    Key::xid8(2, compare, xact.0)
}
