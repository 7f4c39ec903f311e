//! The differences between the major versions of PostgreSQL, 14 to 18, and notes on version 19.
//!
//! No other module asks for the version that it is built for. A condition lists the older versions. So a version that
//! is added gets the code of the newest one.

use pgrx::pg_sys;
use std::ffi::CStr;

/// Returns the end of the record of the write-ahead log that a standby is replaying; `None` on version 14, which does not report it.
pub(super) fn replaying() -> Option<u64> {
    #[cfg(feature = "pg14")]
    return None;
    #[cfg(not(feature = "pg14"))]
    // SAFETY: reads the server's shared memory.
    return Some(unsafe { pg_sys::GetCurrentReplayRecPtr(std::ptr::null_mut()) });
}

/// Returns the timeline that a primary writes.
///
/// # Safety
///
/// `RecoveryInProgress` was called, and the server is not in recovery.
pub(super) unsafe fn written_timeline() -> u32 {
    #[cfg(feature = "pg14")]
    // SAFETY: a variable of the process, which RecoveryInProgress has set.
    return unsafe { pg_sys::ThisTimeLineID };
    #[cfg(not(feature = "pg14"))]
    // SAFETY: reads the server's shared memory.
    return unsafe { pg_sys::GetWALInsertionTimeLine() };
}

/// Makes the server refuse settings with this prefix that no library has defined. Version 14 only warns, and only about settings that
/// are already set.
///
/// # Safety
///
/// A library is being loaded.
pub(super) unsafe fn reserve_prefix(prefix: &CStr) {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(feature = "pg14")]
        pg_sys::EmitWarningsOnPlaceholders(prefix.as_ptr());
        #[cfg(not(feature = "pg14"))]
        pg_sys::MarkGUCPrefixReserved(prefix.as_ptr());
    }
}

/// Makes a signal end the process wherever it can be interrupted. Version 19 gives handlers a second argument.
///
/// # Safety
///
/// The process runs SQL, and signals are blocked.
pub(super) unsafe fn die_on(signal: u32) {
    unsafe extern "C-unwind" {
        /// From tcop/tcopprot.h. It is declared without pgrx's guard, because a signal calls it.
        fn die(signal: std::ffi::c_int);
    }
    #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17"))]
    use pg_sys::pqsignal as set;
    #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17")))]
    use pg_sys::pqsignal_be as set;
    // SAFETY: PostgreSQL's own processes that run SQL do the same.
    unsafe { set(signal as i32, Some(die)) };
}

/// Returns the first attribute of a descriptor. The other attributes follow it in memory.
///
/// # Safety
///
/// The descriptor exists.
#[inline]
pub(super) unsafe fn attributes(descriptor: pg_sys::TupleDesc) -> *const pg_sys::FormData_pg_attribute {
    #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17"))]
    // SAFETY: the caller's promise.
    return unsafe { (*descriptor).attrs.as_ptr() };
    #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17")))]
    // SAFETY: the caller's promise. The attributes follow as many compact attributes (TupleDescAttr in
    // access/tupdesc.h).
    return unsafe { (*descriptor).compact_attrs.as_ptr().add((*descriptor).natts as usize).cast() };
}

/// Makes a descriptor of some columns of another one, in the current memory context. Version 19 needs a call of `TupleDescFinalize`
/// at the end.
///
/// # Safety
///
/// The descriptor exists, and has the columns. Columns are numbered from 1.
pub(super) unsafe fn projected(descriptor: pg_sys::TupleDesc, columns: &[usize]) -> pg_sys::TupleDesc {
    // SAFETY: the caller's promise.
    unsafe {
        let projected = pg_sys::CreateTemplateTupleDesc(columns.len() as i32);
        for (place, &column) in columns.iter().enumerate() {
            pg_sys::TupleDescCopyEntry(projected, place as i16 + 1, descriptor, column as i16);
        }
        projected
    }
}

/// The state of a jsonb that is being built. Version 19 has another type for it, which also holds the result.
pub(super) struct JsonbState(*mut pg_sys::JsonbParseState);

impl JsonbState {
    /// The state before the first token.
    pub(super) const fn new() -> Self {
        Self(std::ptr::null_mut())
    }

    /// Pushes the next token, with its value if it has one. Returns the value that is being built, which is complete at
    /// the end of the outermost object or array.
    ///
    /// # Safety
    ///
    /// The tokens come in the order of the grammar, always in the same memory context. What the value points to exists
    /// until the result was copied.
    pub(super) unsafe fn push(
        &mut self,
        token: pg_sys::JsonbIteratorToken::Type,
        value: Option<&mut pg_sys::JsonbValue>,
    ) -> *mut pg_sys::JsonbValue {
        let value = value.map_or(std::ptr::null_mut(), std::ptr::from_mut);
        // SAFETY: the caller's promise. The value itself is copied.
        unsafe { pg_sys::pushJsonbValue(&mut self.0, token, value) }
    }
}
