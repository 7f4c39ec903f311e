//! The state of the server and of the backend: recovery, timeline, write-ahead log, clock, database.

use super::versions;
use crate::error::Error;
use mana_sync_cursor::id::{Lsn, SystemId, Timeline, TransactionId};
use mana_sync_cursor::postgres::WalGeometry;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::CStr;

/// Whether the encoding of the database is UTF-8.
pub fn is_utf8() -> bool {
    // SAFETY: reads the state of the backend.
    unsafe { pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as i32 }
}

/// Keeps backtraces, which contain the paths of the build, out of error messages.
///
/// A server that was started with RUST_BACKTRACE set would send a backtrace to the client in the DETAIL of every error
/// that passes through Rust: of a unique violation, for example.
pub fn hide_backtraces() {
    if std::env::var_os("RUST_LIB_BACKTRACE").is_none() {
        // SAFETY: a backend has one thread.
        unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
    }
}

/// Whether the server is a standby, or still recovers from a crash.
pub fn in_recovery() -> bool {
    // SAFETY: reads the server's state.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Whether the libraries of `shared_preload_libraries` are being loaded.
pub fn is_preloading() -> bool {
    // SAFETY: a variable of the process.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Whether pg_upgrade has started the server.
pub fn is_upgrading() -> bool {
    // SAFETY: a variable of the process.
    unsafe { pg_sys::IsBinaryUpgrade }
}

/// The values of the settings `max_worker_processes` and `max_parallel_workers_per_gather`.
pub fn worker_processes() -> (i32, i32) {
    // SAFETY: variables of the process, which are set before libraries are preloaded.
    unsafe { (pg_sys::max_worker_processes, pg_sys::max_parallel_workers_per_gather) }
}

/// The OID of the database to which the process is connected.
pub fn database() -> u32 {
    // SAFETY: a variable of the process.
    u32::from(unsafe { pg_sys::MyDatabaseId })
}

/// The system identifier of the cluster.
pub fn system_identifier() -> SystemId {
    // SAFETY: reads the server's control file, which is in shared memory.
    SystemId(unsafe { pg_sys::GetSystemIdentifier() })
}

/// The random bytes that initdb put into the control file.
pub fn cluster_nonce() -> &'static [u8; pg_sys::MOCK_AUTH_NONCE_LEN as usize] {
    // SAFETY: the nonce has this many bytes and is in the server's shared memory.
    unsafe { &*pg_sys::GetMockAuthenticationNonce().cast() }
}

/// The time at which the server was started, in microseconds from 2000-01-01, and the process id of its postmaster.
pub fn start() -> (i64, i32) {
    // SAFETY: variables of the process.
    unsafe { (pg_sys::PgStartTime, pg_sys::PostmasterPid) }
}

/// The server's clock, in microseconds from 2000-01-01.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Returns random bytes for secrets; `None` if the server has none.
pub fn random_bytes() -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    // SAFETY: the buffer has the length that is passed.
    let is_random = unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), bytes.len()) };
    is_random.then_some(bytes)
}

/// Whether the transaction keeps one snapshot for all its statements (REPEATABLE READ, SERIALIZABLE).
pub fn keeps_one_snapshot() -> bool {
    // SAFETY: a variable of the process.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// The next transaction id that the server gives out, with 64 bits.
pub fn next_xact() -> TransactionId {
    // SAFETY: reads the server's shared memory.
    TransactionId(unsafe { pg_sys::ReadNextFullTransactionId().value })
}

/// Whether an extension is installed in the database.
pub fn has_extension(name: &CStr) -> bool {
    // SAFETY: `missing_ok`, within a transaction.
    unsafe { pg_sys::get_extension_oid(name.as_ptr(), true) != pg_sys::InvalidOid }
}

// ---- the write-ahead log --------------------------------------------------------------------------------

/// Flushes the write-ahead log, so that every transaction that the snapshot sees as finished outlasts a crash.
/// Otherwise the server could give out the id of such a transaction again after a crash, and a cursor would count the
/// new transaction as finished.
///
/// The record of the end of such a transaction is in the write-ahead log, but not necessarily on disk: it may be an
/// abort, or a commit with `synchronous_commit` off. If nothing is pending, the flush costs nothing. It does nothing on
/// a standby, which shows only what is on disk at its primary.
pub fn flush() {
    if in_recovery() {
        return;
    }
    // SAFETY: flushing the write-ahead log is allowed if writing to it is allowed, and this is so outside of recovery.
    unsafe { pg_sys::XLogFlush(written().0) };
}

/// The position at which the last record in the write-ahead log of a primary ends.
pub fn written() -> Lsn {
    // SAFETY: a variable of the process, and the server's shared memory.
    let (segment, position) = unsafe { (pg_sys::wal_segment_size as u64, Lsn(pg_sys::GetXLogInsertRecPtr())) };
    let geometry = WalGeometry {
        segment,
        page: u64::from(pg_sys::XLOG_BLCKSZ),
        long_header: size_of::<pg_sys::XLogLongPageHeaderData>() as u64,
        header: size_of::<pg_sys::XLogPageHeaderData>() as u64,
    };
    geometry.end_of_record(position)
}

/// The end of the record that a standby is replaying. The standby's snapshot may already show the effect of this
/// record.
pub fn replaying() -> Lsn {
    // If the version does not report it, this is the greatest position. No standby has replayed that, so a standby
    // compares snapshots instead.
    Lsn(versions::replaying().unwrap_or(u64::MAX))
}

/// The position up to which a standby has replayed. A transaction that ended before this position is finished in all
/// snapshots that are taken from now on, because the position moves only when a record has been replayed in full.
pub fn replayed() -> Lsn {
    // SAFETY: reads the server's shared memory.
    Lsn(unsafe { pg_sys::GetXLogReplayRecPtr(std::ptr::null_mut()) })
}

/// The timeline that the server writes or replays. This function does not read the control file, which keeps the old
/// timeline for a while after a promotion.
pub fn timeline() -> Timeline {
    if in_recovery() {
        let mut timeline = 0;
        // SAFETY: reads the server's shared memory.
        unsafe { pg_sys::GetXLogReplayRecPtr(&mut timeline) };
        return Timeline(timeline);
    }
    // SAFETY: `in_recovery` has called RecoveryInProgress.
    Timeline(unsafe { versions::written_timeline() })
}

thread_local! {
    /// Caches a timeline and the position at which it began. The history of a timeline never changes.
    static SWITCHED_AT: Cell<Option<(Timeline, Lsn)>> = const { Cell::new(None) };
}

/// Returns the position at which a timeline branched off from its parent; [`Lsn::INVALID`] for timeline 1. Errors:
/// 58P01 if the history file of the timeline is missing.
pub fn switched_at(timeline: Timeline) -> Result<Lsn, Error> {
    /// An entry of a timeline's history, from access/timeline.h. pgrx does not bind it.
    #[repr(C)]
    struct TimeLineHistoryEntry {
        timeline: u32,
        begin: u64,
        end: u64,
    }
    unsafe extern "C-unwind" {
        /// Returns the entries of a timeline's history. The first entry is that of the timeline itself.
        fn readTimeLineHistory(timeline: u32) -> *mut pg_sys::List;
    }
    if timeline <= Timeline(1) {
        return Ok(Lsn::INVALID);
    }
    if let Some((_, position)) = SWITCHED_AT.get().filter(|(known, _)| *known == timeline) {
        return Ok(position);
    }
    // SAFETY: the function has this form in PostgreSQL 14 to 18; it returns at least the timeline's own
    // entry, or raises an error, which the guard carries over the Rust frames.
    let position = unsafe {
        let entries = pg_sys::ffi::pg_guard_ffi_boundary(|| readTimeLineHistory(timeline.0));
        Lsn((*pg_sys::list_nth(entries, 0).cast::<TimeLineHistoryEntry>()).begin)
    };
    // If the file is missing, PostgreSQL makes up an entry. With this entry, the history would look like another one.
    if !position.is_valid() {
        return Err(Error::NoHistoryFile(timeline.0));
    }
    SWITCHED_AT.set(Some((timeline, position)));
    Ok(position)
}
