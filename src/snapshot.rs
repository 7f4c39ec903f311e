//! The server's active snapshot, as the cursor algebra wants it: ids 64 bits wide, on a primary and
//! on a standby.

use mana_sync_cursor::id::{Lsn, TransactionId};
use mana_sync_cursor::snapshot::Snapshot;
use pgrx::pg_sys;

/// What the reading queries of a call see.
pub struct Reading {
    /// No transaction from here on had finished.
    xmax: TransactionId,
    /// Transactions below it that had not finished; without the reader's own.
    open: Vec<TransactionId>,
    /// The reader's own transaction, if it has an id.
    pub own: Option<TransactionId>,
    /// The next transaction id that the server gives out; read after the snapshot.
    pub next_xact: TransactionId,
    /// Whether the snapshot was taken on a standby.
    pub in_recovery: bool,
    /// Position in the write-ahead log; read after the snapshot.
    pub lsn: Lsn,
}

/// A snapshot that is the active one until it is dropped by [`Pushed::pop`], or by an error.
pub struct Pushed(());

impl Pushed {
    /// Makes the transaction's snapshot the active one: a fresh one in READ COMMITTED. It sees what
    /// earlier commands of the same transaction wrote.
    pub fn transaction() -> Pushed {
        // SAFETY: within a transaction.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
        Pushed(())
    }

    /// Makes a fresh snapshot the active one, whatever the isolation level.
    pub fn latest() -> Pushed {
        // SAFETY: within a transaction.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
        Pushed(())
    }

    /// Ends it.
    pub fn pop(self) {
        // SAFETY: pushed by this value, and everything pushed later has been popped.
        unsafe { pg_sys::PopActiveSnapshot() };
    }
}

impl Reading {
    /// Reads the active snapshot.
    pub fn active() -> Reading {
        // SAFETY: a snapshot is active. The arrays have the lengths that stand beside them.
        unsafe {
            let snapshot = &*pg_sys::GetActiveSnapshot();
            // After the snapshot, so that no id in it is greater.
            let next_xact = pg_sys::ReadNextFullTransactionId().value;
            // On a standby the transactions in progress are all in subxip (with their
            // subtransactions, which write no rows under their own ids), and xip is empty:
            // GetSnapshotData in storage/ipc/procarray.c.
            let (ids, count) = match snapshot.takenDuringRecovery {
                true => (snapshot.subxip, snapshot.subxcnt.max(0) as usize),
                false => (snapshot.xip, snapshot.xcnt as usize),
            };
            let open = (0..count).map(|i| TransactionId(widen(u32::from(*ids.add(i)), next_xact))).collect();
            let own = pg_sys::GetTopFullTransactionIdIfAny().value;
            Reading {
                xmax: TransactionId(widen(u32::from(snapshot.xmax), next_xact)),
                open,
                own: (own != 0).then_some(TransactionId(own)),
                next_xact: TransactionId(next_xact),
                in_recovery: snapshot.takenDuringRecovery,
                lsn: Lsn(match pg_sys::RecoveryInProgress() {
                    true => replaying(),
                    false => written(),
                }),
            }
        }
    }

    /// The snapshot; of the reader's own transaction the rows up to `own_seq` count as seen.
    pub fn snapshot(&self, own_seq: i64) -> Snapshot {
        Snapshot::new(self.xmax, self.open.clone(), self.own.map(|own| (own, own_seq)).into_iter().collect())
    }
}

/// Whether the transaction keeps one snapshot for all its statements.
pub fn is_fixed() -> bool {
    // SAFETY: a plain variable of the backend.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Makes what the snapshot shows outlast a crash, so that no cursor names an id as finished that could
/// be given out again.
///
/// A transaction that has finished for the snapshot has its record in the write-ahead log, but not
/// necessarily on disk: an abort, or a commit with synchronous_commit off. Where nothing is pending
/// this costs nothing. A standby shows only what is on disk at its primary.
pub fn flush() {
    // SAFETY: plain calls of the server; flushing is allowed wherever writing the log is.
    unsafe {
        if pg_sys::RecoveryInProgress() {
            return;
        }
        pg_sys::XLogFlush(written());
    }
}

/// Where the write-ahead log of a primary ends.
fn written() -> u64 {
    // SAFETY: plain reads of the server's state.
    unsafe { end_of_record(pg_sys::GetXLogInsertRecPtr(), pg_sys::wal_segment_size as u64) }
}

/// Where the record ends that a standby is replaying, of which its snapshot may show the effect already.
fn replaying() -> u64 {
    #[cfg(not(any(feature = "pg13", feature = "pg14")))]
    // SAFETY: a plain read of the server's state.
    return unsafe { pg_sys::GetCurrentReplayRecPtr(std::ptr::null_mut()) };
    // Those versions do not tell. No standby is known to have come so far: it compares snapshots.
    #[cfg(any(feature = "pg13", feature = "pg14"))]
    return u64::MAX;
}

/// How far a standby has replayed: whatever ended before is finished in the snapshots taken from now on,
/// for a record is replayed in full before this moves.
pub fn replayed() -> Lsn {
    // SAFETY: a plain read of the server's state.
    Lsn(unsafe { pg_sys::GetXLogReplayRecPtr(std::ptr::null_mut()) })
}

/// `GetXLogInsertRecPtr` tells where the next record will begin. At the start of a page that is behind
/// the page's header, further than anything written, which XLogFlush refuses to reach.
fn end_of_record(position: u64, segment_size: u64) -> u64 {
    let header = match position % segment_size < u64::from(pg_sys::XLOG_BLCKSZ) {
        true => size_of::<pg_sys::XLogLongPageHeaderData>(),
        false => size_of::<pg_sys::XLogPageHeaderData>(),
    } as u64;
    match position % u64::from(pg_sys::XLOG_BLCKSZ) == header {
        true => position - header,
        false => position,
    }
}

/// The 64-bit id of `xact`, which is not younger than `next` and within 2^31 of it.
fn widen(xact: u32, next: u64) -> u64 {
    let epoch = next >> 32;
    match xact > next as u32 {
        true => (epoch.saturating_sub(1) << 32) | u64::from(xact),
        false => (epoch << 32) | u64::from(xact),
    }
}

#[cfg(any(test, feature = "pg_test"))]
pub(crate) mod pure_tests {
    use super::*;

    pub fn ids_are_widened_across_the_32_bit_boundary() {
        assert_eq!(widen(7, 8), 7);
        assert_eq!(widen(8, 8), 8);
        assert_eq!(widen(u32::MAX, (1 << 32) + 5), u64::from(u32::MAX));
        assert_eq!(widen(4, (3 << 32) + 5), (3 << 32) + 4);
    }

    pub fn the_flush_stops_before_a_page_header() {
        let segment = 16 << 20;
        let page = u64::from(pg_sys::XLOG_BLCKSZ);
        assert_eq!(end_of_record(5 * page + 24, segment), 5 * page);
        assert_eq!(end_of_record(5 * page + 32, segment), 5 * page + 32);
        assert_eq!(end_of_record(segment + 40, segment), segment);
        assert_eq!(end_of_record(segment + 24, segment), segment + 24);
    }
}
