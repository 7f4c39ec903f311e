//! What the log remembers of purges, as the active snapshot sees it. Application roles have no privilege on its tables.

use crate::error::Error;
use crate::table::{self, Compare, Key};
use mana_sync_cursor::id::{EpochNumber, PurgeMark, TransactionId};
use mana_sync_cursor::resync::Purges;
use pgrx::pg_sys;
use std::ffi::CStr;

/// The tables `mana_sync.purges` and `mana_sync.purged_transactions`.
pub struct Purged;

/// `mana_sync.purges`: its columns number, mark, purged_until and purged_from; by number.
const PURGES: (&CStr, &CStr) = (c"purges", c"purges_pkey");
/// `mana_sync.purged_transactions`: its columns epoch and xact, and both are its key.
const TRANSACTIONS: (&CStr, &CStr) = (c"purged_transactions", c"purged_transactions_pkey");

impl Purged {
    fn latest<T>(&self, take: impl FnOnce(&table::Row) -> Result<T, Error>) -> Option<T> {
        or_raise(table::last(PURGES, &[], take))
    }

    fn has(&self, keys: &[Key]) -> bool {
        or_raise(table::last(TRANSACTIONS, keys, |_| Ok(()))).is_some()
    }
}

impl Purges for Purged {
    fn mark(&mut self) -> PurgeMark {
        PurgeMark(self.latest(|row| Ok(row.column(2)?.value() as u64)).unwrap_or(0))
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
        self.latest(|row| Ok(row.column(3)?.value() as i64))
    }

    fn purged_from(&mut self) -> Option<i64> {
        self.latest(|row| Ok(row.column(4)?.value() as i64))
    }
}

fn epoch_is(compare: Compare, epoch: EpochNumber) -> Key {
    Key::int4(1, compare, i32::try_from(epoch.0).unwrap_or(i32::MAX))
}

fn xact_is(compare: Compare, xact: TransactionId) -> Key {
    Key::xid8(2, compare, xact.0)
}

/// The algebra knows no errors of an installation; they end the call here.
fn or_raise<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|error| {
        pg_sys::panic::ErrorReport::from(error).report(pgrx::PgLogLevel::ERROR);
        unreachable!("an error report does not return")
    })
}
