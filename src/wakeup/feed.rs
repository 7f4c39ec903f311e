//! Shared memory between those who commit and the workers that tell of it.

use crate::settings;
use pgrx::lwlock::PgLwLock;
use pgrx::shmem::PGRXSharedMemory;
use pgrx::{pg_guard, pg_shmem_init, pg_sys};
use std::cell::Cell;

/// How many databases can have a worker.
pub const MOST_DATABASES: usize = 8;
/// What the touches of a database's transactions may take until its worker has drained them, in bytes.
const ROOM: usize = 64 * 1024;

/// A database's feed. All zeroes is one that nobody reads.
#[derive(Clone, Copy)]
#[repr(C)]
struct Feed {
    /// OID of the database; 0 until its worker has started.
    database: u32,
    /// Something did not fit: everybody is to be woken.
    overflow: bool,
    /// The worker waits for the next touch, however long. Otherwise it looks by itself when it is time to.
    idle: bool,
    /// How much of `bytes` is used.
    used: usize,
    /// The worker's latch, which is in the server's shared memory.
    latch: usize,
    bytes: [u8; ROOM],
}

/// The feeds of all databases.
#[derive(Clone, Copy)]
#[repr(C)]
struct Feeds([Feed; MOST_DATABASES]);

// SAFETY: plain numbers; the latch is used as an address only by SetLatch.
unsafe impl PGRXSharedMemory for Feeds {}

// SAFETY: no other lock of the server has this name.
static FEEDS: PgLwLock<Feeds> = unsafe { PgLwLock::new(c"mana_sync_wakeups") };

thread_local! {
    /// Whether the shared memory is there; inherited from the postmaster.
    static THERE: Cell<bool> = const { Cell::new(false) };
}

/// Called in the postmaster.
pub fn register() {
    if settings::wakeup_databases().is_empty() {
        return;
    }
    pg_shmem_init!(
        FEEDS = Feeds(
            [Feed { database: 0, overflow: false, idle: false, used: 0, latch: 0, bytes: [0; ROOM] }; MOST_DATABASES]
        )
    );
    THERE.set(true);
}

/// Whether anybody may be woken.
pub fn is_there() -> bool {
    THERE.get()
}

/// Adds touches of a transaction that has committed, or that something was touched which they do not name. Called
/// where an error would bring the server down: it allocates nothing, and only takes the lock.
pub fn add(touches: &[u8], overflow: bool) {
    if !is_there() {
        return;
    }
    // SAFETY: a plain variable of the backend.
    let database = u32::from(unsafe { pg_sys::MyDatabaseId });
    let mut feeds = FEEDS.exclusive();
    let Some(feed) = feeds.0.iter_mut().find(|feed| feed.database == database) else { return };
    let before = feed.used;
    let end = feed.used.saturating_add(touches.len());
    match feed.bytes.get_mut(feed.used..end) {
        Some(room) if !overflow => {
            room.copy_from_slice(touches);
            feed.used = end;
        }
        _ => feed.overflow = true,
    }
    // To wake the worker for each commit would cost more than all the rest.
    let wake = std::mem::take(&mut feed.idle) || (before < ROOM / 2 && feed.used >= ROOM / 2);
    let latch = feed.latch;
    drop(feeds);
    if wake && latch != 0 {
        // SAFETY: a latch in the server's shared memory; if its process has ended, at worst another one
        // is woken for nothing.
        unsafe { pg_sys::SetLatch(latch as *mut pg_sys::Latch) };
    }
}

/// The feed of this process's database, which it drains.
pub struct Reader {
    place: usize,
}

impl Reader {
    /// Takes the feed at this place among the configured databases. What was touched before is not known.
    pub fn open(place: usize) -> Reader {
        let mut feeds = FEEDS.exclusive();
        let feed = &mut feeds.0[place];
        // SAFETY: plain variables of the process.
        unsafe {
            feed.database = u32::from(pg_sys::MyDatabaseId);
            feed.latch = pg_sys::MyLatch as usize;
        }
        feed.overflow = true;
        Reader { place }
    }

    /// What was added since, and whether something is missing in it. If that is nothing, and the worker will then
    /// wait (`or_wait`), the next touch wakes it.
    pub fn drain(&self, into: &mut Vec<u8>, or_wait: bool) -> bool {
        into.clear();
        into.reserve(ROOM);
        let mut feeds = FEEDS.exclusive();
        let feed = &mut feeds.0[self.place];
        into.extend_from_slice(&feed.bytes[..feed.used]);
        feed.idle = or_wait && feed.used == 0 && !feed.overflow;
        feed.used = 0;
        std::mem::take(&mut feed.overflow)
    }
}
