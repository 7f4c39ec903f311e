//! Background workers.

use super::{guc, versions};
use pgrx::bgworkers::{BackgroundWorker, SignalWakeFlags};
use pgrx::pg_sys;
use std::time::Duration;

/// Exports the main function of a background worker, `fn(usize)`, under the name `$symbol`. Its argument is the one
/// that was given when the worker was registered.
macro_rules! background_worker {
    ($symbol:ident, $body:path) => {
        #[doc(hidden)]
        #[allow(unsafe_code)]
        #[pgrx::pg_guard]
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $symbol(argument: pgrx::pg_sys::Datum) {
            $body(argument.value())
        }
    };
}
pub(crate) use background_worker;

/// Installs the handlers of the signals that a worker gets. SIGTERM ends the worker wherever it can be interrupted,
/// also while it waits for a lock. The worker ends with status 1, because after status 0 the postmaster would never
/// start it again. SIGHUP is handled by [`wait`].
pub fn handle_signals() {
    // SAFETY: the worker runs SQL. Signals are blocked until the handlers are set.
    unsafe { versions::die_on(pg_sys::SIGTERM) };
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP);
}

/// Waits for the latch of the process, at most for `timeout`; `None` waits without a limit. Ends the process if the
/// postmaster has ended. After a SIGHUP, reads the configuration again.
pub fn wait(timeout: Option<Duration>) {
    if !BackgroundWorker::wait_latch(timeout) {
        // SAFETY: ends the process as PostgreSQL's own workers do. Nothing in a worker has to be dropped.
        unsafe { pg_sys::proc_exit(1) };
    }
    pgrx::check_for_interrupts!();
    if BackgroundWorker::sighup_received() {
        guc::reload();
    }
}
