//! Subtransactions, and callbacks at the end of transactions and subtransactions.

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, pg_sys};
use std::ffi::c_void;
use std::panic::AssertUnwindSafe;
use std::ptr;

/// An event at the end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The transaction is about to commit. Errors are still possible.
    BeforeCommit,
    /// The transaction has committed. An error here would bring the server down.
    Commit,
    /// The transaction was rolled back, or it was prepared. Any session may end a prepared transaction later.
    Abort,
}

/// How a subtransaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubEvent {
    /// The subtransaction was merged into the transaction or subtransaction around it.
    Commit,
    /// The subtransaction was rolled back.
    Abort,
}

/// The callbacks that [`register`] registers.
pub trait TransactionCallbacks {
    /// Is called at each [`Event`] of a transaction.
    fn at_end(event: Event);
    /// Is called at the end of a subtransaction, with its nesting level (see [`nesting_level`]).
    fn at_subtransaction_end(event: SubEvent, level: i32);
}

/// Registers the callbacks of `T` in this process and in the processes that it forks.
pub fn register<T: TransactionCallbacks>() {
    // SAFETY: the callbacks use the event alone, and are part of the library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_end::<T>), ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_subtransaction_end::<T>), ptr::null_mut());
    }
}

/// The nesting level of the current subtransaction. It is 1 outside of all subtransactions.
pub fn nesting_level() -> i32 {
    // SAFETY: reads the state of the transaction.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() }
}

unsafe extern "C-unwind" fn at_end<T: TransactionCallbacks>(event: pg_sys::XactEvent::Type, _: *mut c_void) {
    use pg_sys::XactEvent as event_type;
    let event = match event {
        event_type::XACT_EVENT_PRE_COMMIT => Event::BeforeCommit,
        event_type::XACT_EVENT_COMMIT => Event::Commit,
        event_type::XACT_EVENT_PRE_PREPARE | event_type::XACT_EVENT_PARALLEL_PRE_COMMIT => return,
        _ => Event::Abort,
    };
    // SAFETY: the guard turns a panic into an error of PostgreSQL before it reaches C.
    unsafe { pg_sys::panic::pgrx_extern_c_guard(|| T::at_end(event)) }
}

unsafe extern "C-unwind" fn at_subtransaction_end<T: TransactionCallbacks>(
    event: pg_sys::SubXactEvent::Type,
    _: pg_sys::SubTransactionId,
    _: pg_sys::SubTransactionId,
    _: *mut c_void,
) {
    let event = match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => SubEvent::Commit,
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => SubEvent::Abort,
        _ => return,
    };
    // SAFETY: the guard turns a panic into an error of PostgreSQL before it reaches C.
    unsafe { pg_sys::panic::pgrx_extern_c_guard(|| T::at_subtransaction_end(event, nesting_level())) }
}

/// The five characters of an SQLSTATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// Unpacks the number by which PostgreSQL represents an SQLSTATE (`MAKE_SQLSTATE` in `utils/elog.h`).
    pub fn from_raw(raw: i32) -> SqlState {
        SqlState([0, 6, 12, 18, 24].map(|shift| b'0' + (raw >> shift & 0x3f) as u8))
    }

    /// Returns the five characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// The error that ended a subtransaction.
pub struct Failure {
    /// The SQLSTATE of the error, whether PostgreSQL knows it or not.
    pub code: SqlState,
    /// Whether the cause is that the role lacks a privilege on an object (`aclcheck_error` in `aclchk.c`).
    pub lacks_privilege: bool,
    /// The message of the error.
    pub message: String,
    cause: Box<CaughtError>,
}

impl Failure {
    /// Raises the original error again.
    pub fn raise(self) -> ! {
        self.cause.rethrow()
    }
}

/// Runs `body` in a subtransaction. An error rolls back the subtransaction and is returned. A Rust panic also rolls it back, and then
/// continues.
///
/// PL/pgSQL runs a block with an EXCEPTION clause in the same way (`exec_stmt_block` in `pl_exec.c`).
pub fn in_subtransaction<T>(body: impl FnOnce() -> T) -> Result<T, Failure> {
    let mut raw_code = 0;
    // SAFETY: an SQL function has a transaction. The memory context and the resource owner of the caller outlive the subtransaction,
    // and are current again after it. The callback is on the stack of errors only while it and `raw_code` exist: pgrx sets the
    // stack back when it catches an error. The subtransaction ends on both paths.
    let result = unsafe {
        let (context, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        // The memory context that is current in the subtransaction is its own, which is freed when it is rolled back.
        pg_sys::BeginInternalSubTransaction(ptr::null());
        let mut callback = pg_sys::ErrorContextCallback {
            previous: pg_sys::error_context_stack,
            callback: Some(note_code),
            arg: (&raw mut raw_code).cast(),
        };
        pg_sys::error_context_stack = &raw mut callback;
        let result = pg_sys::PgTryBuilder::new(AssertUnwindSafe(|| Ok(body())))
            .catch_others(|cause| Err(Box::new(cause)))
            .catch_rust_panic(|cause| Err(Box::new(cause)))
            .execute();
        pg_sys::error_context_stack = callback.previous;
        match &result {
            Ok(_) => pg_sys::ReleaseCurrentSubTransaction(),
            Err(_) => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
        }
        pg_sys::CurrentMemoryContext = context;
        pg_sys::CurrentResourceOwner = owner;
        result
    };
    result.map_err(|cause| match &*cause {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
            // pgrx knows the SQLSTATEs that PostgreSQL defines, and takes every other one for an internal error.
            let code = match report.sql_error_code() {
                PgSqlErrorCode::ERRCODE_INTERNAL_ERROR => raw_code,
                code => code as i32,
            };
            let is_permission = code == PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE as i32;
            let lacks_privilege = is_permission && report.file().ends_with("aclchk.c");
            Failure { code: SqlState::from_raw(code), lacks_privilege, message: report.message().to_string(), cause }
        }
        CaughtError::RustPanic { .. } => cause.rethrow(),
    })
}

/// Writes the SQLSTATE of an error or message that is being reported to `code`.
///
/// # Safety
/// PostgreSQL must call it while it reports an error or a message. `code` points to an `i32`.
unsafe extern "C-unwind" fn note_code(code: *mut c_void) {
    // SAFETY: the place exists, and an error or a message is being reported.
    unsafe { *code.cast::<i32>() = pg_sys::geterrcode() };
}
