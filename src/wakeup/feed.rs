//! The feed: shared memory between the backends that commit and the workers that send wake-ups.

use crate::pg::server;
use crate::pg::shmem::{self, Latch, Shared};
use crate::settings;
use pgrx::lwlock::PgLwLock;
use pgrx::{pg_guard, pg_shmem_init, pg_sys};
use std::cell::Cell;

/// The greatest number of databases that can have a worker.
pub const MOST_DATABASES: usize = 8;
/// The number of bytes that the touches of a database may take until its worker drains them.
const ROOM: usize = 64 * 1024;

/// The feed of a database.
#[derive(Clone, Copy)]
struct Feed {
    /// OID of the database; 0 until its worker has started.
    database: u32,
    /// Whether the feed lacks touches, so that everybody has to be woken.
    overflow: bool,
    /// Whether the worker waits for the next touch without a timeout. Otherwise the worker drains the feed by itself, at the end of the
    /// interval.
    idle: bool,
    /// The number of bytes at the beginning of `bytes` that are used.
    used: usize,
    /// The latch of the worker; `None` until the worker has started.
    latch: Option<Latch>,
    bytes: [u8; ROOM],
}

/// The feeds of all databases.
type Feeds = [Feed; MOST_DATABASES];

const EMPTY: Feed = Feed { database: 0, overflow: false, idle: false, used: 0, latch: None, bytes: [0; ROOM] };

static FEEDS: PgLwLock<Shared<Feeds>> = shmem::lock(c"mana_sync_wakeups");

thread_local! {
    /// Whether the shared memory of the feeds exists. Backends inherit this value from the postmaster.
    static IS_THERE: Cell<bool> = const { Cell::new(false) };
}

/// Requests the shared memory of the feeds. Called in the postmaster, while libraries are preloaded.
pub fn register() {
    if settings::wakeup_databases().is_empty() {
        return;
    }
    pg_shmem_init!(FEEDS = Shared([EMPTY; MOST_DATABASES]));
    IS_THERE.set(true);
}

/// Whether the shared memory of the feeds exists. Without it nobody can be woken.
pub fn is_there() -> bool {
    IS_THERE.get()
}

/// Adds the touches of a transaction that has committed. `overflow` says whether the transaction touched more than what is in `touches`.
///
/// An error here would bring the server down, because the transaction has committed. So the function allocates nothing, and takes no lock
/// except that of the feeds.
pub fn add(touches: &[u8], overflow: bool) {
    if !is_there() {
        return;
    }
    let database = server::database();
    let mut feeds = FEEDS.exclusive();
    let Some(feed) = feeds.iter_mut().find(|feed| feed.database == database) else { return };
    let before = feed.used;
    let end = feed.used.saturating_add(touches.len());
    match feed.bytes.get_mut(feed.used..end) {
        Some(room) if !overflow => {
            room.copy_from_slice(touches);
            feed.used = end;
        }
        _ => feed.overflow = true,
    }
    // Waking the worker for each commit would cost more than everything else here.
    let is_half_full = before < ROOM / 2 && feed.used >= ROOM / 2;
    let latch = feed.latch.filter(|_| std::mem::take(&mut feed.idle) || is_half_full);
    drop(feeds);
    if let Some(latch) = latch {
        latch.set();
    }
}

/// A worker's access to the feed of the database that it is connected to.
pub struct Reader {
    place: usize,
}

impl Reader {
    /// Takes over the feed for the configured database at this place. The feed begins with an overflow, because earlier touches are not
    /// known.
    pub fn open(place: usize) -> Reader {
        let mut feeds = FEEDS.exclusive();
        let feed = &mut feeds[place];
        feed.database = server::database();
        feed.latch = Some(Latch::own());
        feed.overflow = true;
        Reader { place }
    }

    /// Moves the touches that were added since the last call into `into`. Returns whether the feed lacks touches. `or_wait` says that the
    /// worker will wait if nothing was added: then the next touch wakes the worker.
    pub fn drain(&self, into: &mut Vec<u8>, or_wait: bool) -> bool {
        into.clear();
        into.reserve(ROOM);
        let mut feeds = FEEDS.exclusive();
        let feed = &mut feeds[self.place];
        into.extend_from_slice(&feed.bytes[..feed.used]);
        feed.idle = or_wait && feed.used == 0 && !feed.overflow;
        feed.used = 0;
        std::mem::take(&mut feed.overflow)
    }
}
