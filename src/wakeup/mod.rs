//! Wake-ups: listeners are told by NOTIFY that there is something to pull.
//!
//! ```text
//! note     a row is written: a trigger makes the backend remember the user and space (a touch)
//! feed     the transaction commits: its touches go into shared memory
//! worker   a process of its own drains the feed, and sends at most one NOTIFY per user and space in an interval;
//!          a commit wakes it only if it had nothing to do
//! channel  the name to LISTEN to
//! ```
//!
//! NOTIFY in the writing transaction would serialise commits. A wake-up is a hint: listeners pull when they connect,
//! when they reconnect and from time to time, and lose nothing if a wake-up is missing (after a COMMIT PREPARED, or a
//! restart of the server).

use crate::pg::server;

mod channel;
mod feed;
mod note;
mod worker;

/// Registers the shared memory, the workers and the callbacks, if the library is being preloaded. Called when the
/// library is loaded.
pub fn register() {
    if server::is_preloading() {
        feed::register();
        worker::register();
        // Backends inherit the callbacks. If the library is not preloaded, nobody is woken.
        note::register();
    }
}
