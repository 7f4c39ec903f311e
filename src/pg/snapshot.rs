//! Snapshots: which transactions a query sees.

use super::server;
use mana_sync_cursor::id::{Lsn, TransactionId};
use mana_sync_cursor::postgres::widen;
use pgrx::pg_sys;

/// The snapshots that [`with`] can make the active one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The snapshot of the transaction: a fresh one in READ COMMITTED, the first one in the stricter isolation levels.
    /// It sees what earlier commands of the same transaction wrote.
    Transaction,
    /// A fresh snapshot, whatever the isolation level.
    Latest,
}

/// Runs `body` with a snapshot of this kind as the active snapshot. After an error, PostgreSQL pops the snapshot.
pub fn with<T, E>(kind: Kind, body: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    // SAFETY: an SQL function has a transaction. Whatever `body` pushed has been popped when it returns without an error.
    unsafe {
        pg_sys::PushActiveSnapshot(match kind {
            Kind::Transaction => pg_sys::GetTransactionSnapshot(),
            Kind::Latest => pg_sys::GetLatestSnapshot(),
        });
        let result = body()?;
        pg_sys::PopActiveSnapshot();
        Ok(result)
    }
}

/// The active snapshot, and the state of the server when the snapshot was read. Transaction ids have 64 bits.
pub struct ActiveSnapshot {
    /// No transaction with this id or a greater one had finished.
    pub xmax: TransactionId,
    /// The transactions below `xmax` that had not finished, without the reader's own transaction.
    pub open: Vec<TransactionId>,
    /// The id of the reader's own transaction; `None` if it has no id.
    pub own: Option<TransactionId>,
    /// The next transaction id that the server gives out. It is read after the snapshot was taken.
    pub next_xact: TransactionId,
    /// Whether the snapshot was taken on a standby.
    pub in_recovery: bool,
    /// A position in the write-ahead log. It is read after the snapshot was taken.
    pub lsn: Lsn,
}

impl ActiveSnapshot {
    /// Reads the snapshot that is active.
    pub fn get() -> ActiveSnapshot {
        // SAFETY: a call that reads has an active snapshot. Each array has the length that the field beside it gives.
        unsafe {
            let snapshot = &*pg_sys::GetActiveSnapshot();
            // This is read after the snapshot was taken, so that no id in the snapshot is greater.
            let next_xact = server::next_xact();
            let widen = |xact: u32| widen(xact, next_xact);
            // On a standby the transactions in progress are all in subxip (with their
            // subtransactions, which write no rows under their own ids), and xip is empty:
            // GetSnapshotData in storage/ipc/procarray.c.
            let (ids, count) = match snapshot.takenDuringRecovery {
                true => (snapshot.subxip, snapshot.subxcnt.max(0) as usize),
                false => (snapshot.xip, snapshot.xcnt as usize),
            };
            let open = (0..count).map(|i| widen(u32::from(*ids.add(i)))).collect();
            let own = pg_sys::GetTopFullTransactionIdIfAny().value;
            ActiveSnapshot {
                xmax: widen(u32::from(snapshot.xmax)),
                open,
                own: (own != 0).then_some(TransactionId(own)),
                next_xact,
                in_recovery: snapshot.takenDuringRecovery,
                lsn: match server::in_recovery() {
                    true => server::replaying(),
                    false => server::written(),
                },
            }
        }
    }
}
