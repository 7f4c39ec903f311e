//! The feed: shared memory between the backends that commit and the workers that send wake-ups.

use crate::pg::server;
use crate::pg::shmem::{self, Latch, Shared};
use crate::settings;
use pgrx::lwlock::PgLwLock;
use pgrx::{pg_guard, pg_shmem_init, pg_sys};
use std::cell::Cell;

/// How many databases can have a worker.
pub const MOST_DATABASES: usize = 8;
/// How many bytes the touches of a database may take until its worker drains them.
const ROOM: usize = 64 * 1024;

/// The feed of a database.
#[derive(Clone, Copy)]
struct Feed {
    /// OID of the database; 0 until its worker has started.
    database: u32,
    /// Whether something did not fit, so that everybody has to be woken.
    overflow: bool,
    /// Whether the worker waits for the next touch without a timeout. Otherwise the worker looks into the feed by
    /// itself, at the end of the interval.
    idle: bool,
    /// How many of `bytes` are used.
    used: usize,
    /// The latch of the worker, once it has started.
    latch: Option<Latch>,
    bytes: [u8; ROOM],
}

/// The feeds of all databases.
type Feeds = [Feed; MOST_DATABASES];

const EMPTY: Feed = Feed { database: 0, overflow: false, idle: false, used: 0, latch: None, bytes: [0; ROOM] };

static FEEDS: PgLwLock<Shared<Feeds>> = shmem::lock(c"mana_sync_wakeups");

thread_local! {
    /// Whether the shared memory is there. Backends inherit this from the postmaster.
    static IS_THERE: Cell<bool> = const { Cell::new(false) };
}

/// Requests the shared memory. Called in the postmaster, while libraries are preloaded.
pub fn register() {
    if settings::wakeup_databases().is_empty() {
        return;
    }
    pg_shmem_init!(FEEDS = Shared([EMPTY; MOST_DATABASES]));
    IS_THERE.set(true);
}

/// Whether there are feeds. Without them nobody can be woken.
pub fn is_there() -> bool {
    IS_THERE.get()
}

/// Adds the touches of a transaction that has committed. `overflow` says whether the transaction touched more than
/// `touches` names.
///
/// An error here would bring the server down, because the transaction has committed: the function allocates nothing, and takes no other lock.
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

/// The feed of the database to which a worker is connected.
pub struct Reader {
    place: usize,
}

impl Reader {
    /// Takes the feed at this place among the configured databases. It begins with an overflow: what was touched before is not known.
    pub fn open(place: usize) -> Reader {
        let mut feeds = FEEDS.exclusive();
        let feed = &mut feeds[place];
        feed.database = server::database();
        feed.latch = Some(Latch::own());
        feed.overflow = true;
        Reader { place }
    }

    /// Moves the touches that were added since the last call into `into`. Returns whether some touches are missing
    /// there. If nothing was added and the worker will wait (`or_wait`), the next touch wakes it.
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
