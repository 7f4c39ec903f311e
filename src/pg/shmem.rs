//! Shared memory behind a lightweight lock, and latches.

use pgrx::lwlock::PgLwLock;
use pgrx::pg_sys;
use pgrx::shmem::PGRXSharedMemory;
use std::ffi::CStr;
use std::ops::{Deref, DerefMut};

/// Plain data in memory that all processes of the server share. It must not contain references or pointers, because an address means
/// nothing in another process.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Shared<T>(pub T);

// SAFETY: the data is plain: `Copy` excludes values that own memory, `Send` excludes raw pointers, and the documentation of the
// type excludes references.
unsafe impl<T: Copy + Send + 'static> PGRXSharedMemory for Shared<T> {}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// Makes a lock around shared data, which `pg_shmem_init!` has to initialise. `name` must begin with the name of the extension, so that no
/// other lock of the server has it.
pub const fn lock<T: Copy + Send + 'static>(name: &'static CStr) -> PgLwLock<Shared<T>> {
    // SAFETY: the callers choose a name of the extension's own.
    unsafe { PgLwLock::new(name) }
}

/// The latch of a process, by its address in the server's shared memory. A latch can be shared: the address is the same in all
/// processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latch(usize);

impl Latch {
    /// The latch of this process.
    pub fn own() -> Latch {
        // SAFETY: a variable of the process; a process that is connected to a database has its latch in shared memory.
        Latch(unsafe { pg_sys::MyLatch as usize })
    }

    /// Wakes the process that waits for the latch. If that process has ended, another process may be woken for nothing.
    pub fn set(self) {
        // SAFETY: the address is that of a latch in the server's shared memory, which stays a latch for as long as the server runs.
        unsafe { pg_sys::SetLatch(self.0 as *mut pg_sys::Latch) };
    }
}
