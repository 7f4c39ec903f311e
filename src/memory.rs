//! Glue: PostgreSQL's memory contexts.

use allocator_api2::alloc::{AllocError, Allocator, Layout};
use pgrx::pg_sys;
use std::ptr::NonNull;

/// A memory context: what is allocated in it counts for the server's accounting, and is gone with it. A value
/// in it need not be dropped.
#[derive(Clone, Copy)]
pub struct Context(pg_sys::MemoryContext);

impl Context {
    /// An existing one.
    ///
    /// # Safety
    /// It outlives what is allocated in it.
    pub unsafe fn existing(context: pg_sys::MemoryContext) -> Context {
        Context(context)
    }

    /// The one that allocations of the server go to now.
    pub fn current() -> Context {
        // SAFETY: a plain variable of the backend; never NULL within a call.
        Context(unsafe { pg_sys::CurrentMemoryContext })
    }

    /// A new one inside of this one, which ends with it.
    pub fn child(self) -> Context {
        let (least, first, most) = (
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        // SAFETY: the parent exists; the name is a constant.
        Context(unsafe { pg_sys::AllocSetContextCreateInternal(self.0, c"mana_sync".as_ptr(), least, first, most) })
    }

    /// Runs `body` with the server's allocations going here.
    pub fn run<T>(self, body: impl FnOnce() -> T) -> T {
        // SAFETY: the context exists. After an error the server chooses a context by itself.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.0);
            let result = body();
            pg_sys::MemoryContextSwitchTo(before);
            result
        }
    }

    /// Frees everything in it.
    ///
    /// # Safety
    /// Nothing that is in it is used any more.
    pub unsafe fn reset(self) {
        // SAFETY: see above.
        unsafe { pg_sys::MemoryContextReset(self.0) };
    }

    /// Ends it.
    ///
    /// # Safety
    /// Nothing that is in it is used any more, nor the context.
    pub unsafe fn delete(self) {
        // SAFETY: see above.
        unsafe { pg_sys::MemoryContextDelete(self.0) };
    }

    /// A value in this context, which lives as long as it and is not dropped.
    pub fn keep<T>(self, value: T) -> NonNull<T> {
        const { assert!(align_of::<T>() <= pg_sys::MAXIMUM_ALIGNOF as usize) };
        // SAFETY: the allocation is of this size, aligned to MAXIMUM_ALIGNOF, and never NULL.
        unsafe {
            let place = pg_sys::MemoryContextAlloc(self.0, size_of::<T>().max(1)).cast::<T>();
            place.write(value);
            NonNull::new_unchecked(place)
        }
    }
}

// SAFETY: a context's memory stays where it is until it is freed, whichever copy of the handle is used. Every
// allocation is aligned to MAXIMUM_ALIGNOF; one that asks for more is refused. (The server's errors for lack of memory
// and for more than 1 GB pass through as panics do.)
unsafe impl Allocator for Context {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.align() > pg_sys::MAXIMUM_ALIGNOF as usize {
            return Err(AllocError);
        }
        // SAFETY: the context exists.
        let place = unsafe { pg_sys::MemoryContextAlloc(self.0, layout.size().max(1)) };
        let place = NonNull::new(place.cast::<u8>()).ok_or(AllocError)?;
        Ok(NonNull::slice_from_raw_parts(place, layout.size()))
    }

    unsafe fn deallocate(&self, place: NonNull<u8>, _: Layout) {
        // SAFETY: allocated by the function above, as the caller guarantees.
        unsafe { pg_sys::pfree(place.as_ptr().cast()) };
    }

    unsafe fn grow(&self, place: NonNull<u8>, _: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if new.align() > pg_sys::MAXIMUM_ALIGNOF as usize {
            return Err(AllocError);
        }
        // SAFETY: allocated by the function above, as the caller guarantees.
        let place = unsafe { pg_sys::repalloc(place.as_ptr().cast(), new.size()) };
        let place = NonNull::new(place.cast::<u8>()).ok_or(AllocError)?;
        Ok(NonNull::slice_from_raw_parts(place, new.size()))
    }
}
