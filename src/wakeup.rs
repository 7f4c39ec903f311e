//! Wake-ups: who wrote into the log is told to those who listen, by NOTIFY.
//!
//! ```text
//! note     a row is written: the backend remembers whom it touches (a trigger)
//! feed     the transaction commits: that goes into shared memory
//! worker   a process of its own drains the feed, and sends one NOTIFY per user and space at most every interval;
//!          a commit wakes it only if it had nothing to do
//! channel  the name to LISTEN to
//! ```
//!
//! NOTIFY in the writing transaction would serialise commits. A wake-up is a hint: listeners pull as they
//! connect, reconnect and from time to time, and lose nothing where one is missing (a COMMIT PREPARED, a
//! server that is restarted).

use pgrx::pg_sys;

mod channel;
mod feed;
mod note;
mod worker;

/// Called when the library is loaded.
pub fn register() {
    // SAFETY: a plain variable of the server.
    if unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        feed::register();
        worker::register();
        // Backends inherit it; where the library is not preloaded, nobody is woken.
        note::register();
    }
}
