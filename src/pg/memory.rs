//! Memory contexts.

use super::datum::{Datum, layout};
use allocator_api2::alloc::{AllocError, Allocator, Layout};
use pgrx::pg_sys;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// A memory context that exists for `'m`.
///
/// The server counts the memory that is allocated in the context, and frees it with the context. A value in the context
/// need not be dropped.
#[derive(Clone, Copy)]
pub struct Memory<'m> {
    context: pg_sys::MemoryContext,
    lives: PhantomData<&'m ()>,
}

impl<'m> Memory<'m> {
    /// Wraps a context of the server.
    ///
    /// # Safety
    /// The context exists for `'m`, and is not reset in that time.
    pub(super) unsafe fn from_raw(context: pg_sys::MemoryContext) -> Memory<'m> {
        Memory { context, lives: PhantomData }
    }

    /// Returns the current memory context, to which the server's allocations go.
    ///
    /// # Safety
    /// The context exists for `'m`, and is not reset in that time.
    pub(super) unsafe fn current() -> Memory<'m> {
        // SAFETY: CurrentMemoryContext is never NULL in a call; the caller vouches for the lifetime.
        unsafe { Memory::from_raw(pg_sys::CurrentMemoryContext) }
    }

    /// Makes a context inside this one. It is deleted when this one is deleted, or earlier.
    pub(super) fn child(self) -> pg_sys::MemoryContext {
        let (least, first, most) = (
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        // SAFETY: the parent exists; the name is a constant.
        unsafe { pg_sys::AllocSetContextCreateInternal(self.context, c"mana_sync".as_ptr(), least, first, most) }
    }

    /// Whether `context` is directly inside this one.
    ///
    /// # Safety
    /// `context` exists.
    pub(super) unsafe fn is_parent_of(self, context: pg_sys::MemoryContext) -> bool {
        // SAFETY: the caller vouches for the context.
        unsafe { (*context).parent == self.context }
    }

    /// Runs `body` while the server's allocations go to this context.
    pub(super) fn run<T>(self, body: impl FnOnce() -> T) -> T {
        // SAFETY: the context exists. After an error the server chooses a context by itself.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.context);
            let result = body();
            pg_sys::MemoryContextSwitchTo(before);
            result
        }
    }

    /// Allocates a block of `size` bytes, aligned to `MAXIMUM_ALIGNOF`.
    pub(super) fn allocate_bytes(self, size: usize) -> *mut u8 {
        // SAFETY: the context exists. MemoryContextAlloc raises an error instead of returning NULL. It also raises an
        // error for more than 1 GB.
        unsafe { pg_sys::MemoryContextAlloc(self.context, size).cast() }
    }

    /// Makes a `text`, a `bytea` or a `json`. All three have the same form.
    pub fn varlena(self, bytes: &[u8]) -> Datum<'m> {
        let size = bytes.len() + pg_sys::VARHDRSZ;
        let start = self.allocate_bytes(size);
        // SAFETY: the block has `size` bytes: a length word of four, and the contents.
        unsafe {
            pgrx::set_varsize_4b(start.cast(), size as i32);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), start.add(pg_sys::VARHDRSZ), bytes.len());
            Datum::from_raw(pg_sys::Datum::from(start))
        }
    }

    /// Makes a `text` from bytes in the encoding of the database.
    pub fn text(self, bytes: &[u8]) -> Datum<'m> {
        self.varlena(bytes)
    }

    /// Makes a `uuid`.
    pub fn uuid(self, id: &uuid::Uuid) -> Datum<'m> {
        let bytes = id.as_bytes();
        let start = self.allocate_bytes(bytes.len());
        // SAFETY: a `uuid` is 16 bytes, which the block has.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len());
            Datum::from_raw(pg_sys::Datum::from(start))
        }
    }

    /// Makes an array of one dimension. `element` is the type of the elements.
    pub fn array<'e>(self, element: pg_sys::Oid, elements: impl IntoIterator<Item = Datum<'e>>) -> Datum<'m> {
        let mut elements: Vec<pg_sys::Datum> = elements.into_iter().map(Datum::into_raw).collect();
        let (length, by_value, align) = layout(element);
        // SAFETY: `layout` describes the type as pg_type does; the elements are copied.
        self.run(|| unsafe {
            let count = elements.len() as i32;
            let array = pg_sys::construct_array(
                elements.as_mut_ptr(),
                count,
                element,
                length,
                by_value,
                align as std::ffi::c_char,
            );
            Datum::from_raw(pg_sys::Datum::from(array))
        })
    }

    /// Makes an array of one dimension. `element` is the type of the elements. An element that is `None` becomes NULL.
    pub fn nullable_array<'e>(
        self,
        element: pg_sys::Oid,
        elements: impl IntoIterator<Item = Option<Datum<'e>>>,
    ) -> Datum<'m> {
        let (mut elements, mut nulls): (Vec<pg_sys::Datum>, Vec<bool>) =
            elements.into_iter().map(|element| (Datum::raw_or_zero(element), element.is_none())).unzip();
        let (length, by_value, align) = layout(element);
        let (mut count, mut lower_bound) = (elements.len() as i32, 1);
        // SAFETY: `layout` describes the type as pg_type does; as many nulls as elements, which are copied; one dimension.
        self.run(|| unsafe {
            let array = pg_sys::construct_md_array(
                elements.as_mut_ptr(),
                nulls.as_mut_ptr(),
                1,
                &mut count,
                &mut lower_bound,
                element,
                length,
                by_value,
                align as std::ffi::c_char,
            );
            Datum::from_raw(pg_sys::Datum::from(array))
        })
    }

    /// Copies bytes into this context.
    pub fn bytes(self, bytes: &[u8]) -> &'m [u8] {
        let place = self.allocate_bytes(bytes.len().max(1));
        // SAFETY: the block has so many bytes, overlaps nothing, and exists as long as the context.
        unsafe {
            place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            std::slice::from_raw_parts(place, bytes.len())
        }
    }

    /// Makes an array of `count` values in this context, whose bytes are all zero.
    pub(super) fn zeroed<T: Copy>(self, count: usize) -> &'m mut [T] {
        const { assert!(align_of::<T>() <= pg_sys::MAXIMUM_ALIGNOF as usize) };
        let place = self.allocate_bytes((size_of::<T>() * count).max(1)).cast::<T>();
        // SAFETY: the block has the size of so many values, is aligned to MAXIMUM_ALIGNOF, and exists as long as the context. It is
        // used for numbers, pointers and booleans alone, of which zero is a value.
        unsafe {
            place.write_bytes(0, count);
            std::slice::from_raw_parts_mut(place, count)
        }
    }

    /// Moves a value into this context. The value is never dropped.
    pub(super) fn keep<T>(self, value: T) -> NonNull<T> {
        const { assert!(align_of::<T>() <= pg_sys::MAXIMUM_ALIGNOF as usize) };
        let place = self.allocate_bytes(size_of::<T>().max(1)).cast::<T>();
        // SAFETY: the block has the size of T, is aligned to MAXIMUM_ALIGNOF, and is never NULL.
        unsafe {
            place.write(value);
            NonNull::new_unchecked(place)
        }
    }
}

/// Runs `body` with a memory context that is deleted afterwards.
pub fn with_scratch<T>(body: impl for<'m> FnOnce(Memory<'m>) -> T) -> T {
    // SAFETY: the current context exists during the call.
    let context = unsafe { Memory::current() }.child();
    // SAFETY: the context exists until `body` has returned. The result of `body` cannot have the lifetime of the
    // context.
    let result = body(unsafe { Memory::from_raw(context) });
    // SAFETY: nothing refers to the context any more.
    unsafe { pg_sys::MemoryContextDelete(context) };
    result
}

/// A `text`, `bytea` or `json` that grows.
pub struct Varlena<'m>(allocator_api2::vec::Vec<u8, Memory<'m>>);

impl<'m> Varlena<'m> {
    /// Makes an empty value, with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize, memory: Memory<'m>) -> Varlena<'m> {
        let mut buffer = allocator_api2::vec::Vec::with_capacity_in(capacity + pg_sys::VARHDRSZ, memory);
        // Room for the length word.
        buffer.extend_from_slice(&[0; pg_sys::VARHDRSZ]);
        Varlena(buffer)
    }

    /// The number of bytes so far.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.len() - pg_sys::VARHDRSZ
    }

    /// Adds a byte.
    #[inline]
    pub fn push(&mut self, byte: u8) {
        self.0.push(byte);
    }

    /// Adds bytes.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Removes everything after the first `length` bytes.
    #[inline]
    pub fn truncate(&mut self, length: usize) {
        self.0.truncate(length + pg_sys::VARHDRSZ);
    }

    /// The bytes so far.
    #[cfg(any(test, feature = "pg_test"))]
    pub fn bytes(&self) -> &[u8] {
        &self.0[pg_sys::VARHDRSZ..]
    }

    /// Returns the value. It is not copied again.
    pub fn finish(self) -> Datum<'m> {
        let (start, length, _, _) = self.0.into_raw_parts_with_alloc();
        // SAFETY: the block has `length` bytes, the first of which are the length word. It is the server's memory.
        unsafe {
            pgrx::set_varsize_4b(start.cast(), length as i32);
            Datum::from_raw(pg_sys::Datum::from(start))
        }
    }
}

// SAFETY: a block stays where it is until it is freed, whichever copy of the handle is used. Every block is aligned to
// MAXIMUM_ALIGNOF; a request for more is refused. The context outlives every value with this allocator, which carries `'m`. The
// server's errors for lack of memory and for more than 1 GB pass through as panics do.
unsafe impl Allocator for Memory<'_> {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.align() > pg_sys::MAXIMUM_ALIGNOF as usize {
            return Err(AllocError);
        }
        let place = NonNull::new(self.allocate_bytes(layout.size().max(1))).ok_or(AllocError)?;
        Ok(NonNull::slice_from_raw_parts(place, layout.size()))
    }

    unsafe fn deallocate(&self, place: NonNull<u8>, _: Layout) {
        // SAFETY: `allocate` or `grow` returned the block, as the caller guarantees.
        unsafe { pg_sys::pfree(place.as_ptr().cast()) };
    }

    unsafe fn grow(&self, place: NonNull<u8>, _: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if new.align() > pg_sys::MAXIMUM_ALIGNOF as usize {
            return Err(AllocError);
        }
        // SAFETY: `allocate` or `grow` returned the block, as the caller guarantees.
        let place = unsafe { pg_sys::repalloc(place.as_ptr().cast(), new.size()) };
        let place = NonNull::new(place.cast::<u8>()).ok_or(AllocError)?;
        Ok(NonNull::slice_from_raw_parts(place, new.size()))
    }
}
