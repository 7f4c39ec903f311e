//! Callbacks at the end of transactions and subtransactions.

use pgrx::pg_sys;
use std::ffi::c_void;
use std::ptr;

/// An event at the end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The transaction is about to commit. Errors are still possible.
    BeforeCommit,
    /// The transaction has committed. An error here would bring the server down.
    Commit,
    /// The transaction was rolled back. Or it was prepared, and any session may end it later.
    Abort,
}

/// How a subtransaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubEvent {
    /// The subtransaction became part of the one around it.
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

/// Registers callbacks in this process and in those that it forks.
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
