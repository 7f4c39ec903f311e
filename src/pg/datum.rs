//! Values of SQL types.

use super::jsonb::Jsonb;
use super::memory::Memory;
use pgrx::pg_sys;
use std::marker::PhantomData;

/// The OIDs of the types of parameters and of array elements.
pub mod types {
    pub use pg_sys::{
        BOOLARRAYOID as BOOL_ARRAY, BOOLOID as BOOL, BYTEAOID as BYTEA, INT4ARRAYOID as INT4_ARRAY, INT4OID as INT4,
        INT8ARRAYOID as INT8_ARRAY, INT8OID as INT8, INTERVALOID as INTERVAL, JSONBARRAYOID as JSONB_ARRAY,
        JSONBOID as JSONB, OIDOID as OID, PG_LSNOID as PG_LSN, TEXTARRAYOID as TEXT_ARRAY, TEXTOID as TEXT,
        TIMESTAMPTZOID as TIMESTAMPTZ, UUIDARRAYOID as UUID_ARRAY, UUIDOID as UUID, XID8ARRAYOID as XID8_ARRAY,
        XID8OID as XID8,
    };
    use pgrx::pg_sys;
}

/// Length, "passed by value" and alignment of the type `element`, as `pg_type` has them (`typlen`, `typbyval`,
/// `typalign`).
pub(super) const fn layout(element: pg_sys::Oid) -> (i32, bool, u8) {
    match element {
        types::BOOL => (1, true, pg_sys::TYPALIGN_CHAR),
        types::INT4 => (4, true, pg_sys::TYPALIGN_INT),
        types::INT8 | types::XID8 => (8, true, pg_sys::TYPALIGN_DOUBLE),
        types::UUID => (16, false, pg_sys::TYPALIGN_CHAR),
        types::TEXT | types::JSONB => (-1, false, pg_sys::TYPALIGN_INT),
        _ => panic!("an array of another type"),
    }
}

/// A value that is not NULL. The caller knows its type. The data that the value points to exists for `'a`.
#[derive(Clone, Copy)]
pub struct Datum<'a> {
    raw: pg_sys::Datum,
    lives: PhantomData<&'a ()>,
}

impl<'a> Datum<'a> {
    /// Wraps a value of the server.
    ///
    /// # Safety
    /// If the value's type is passed by reference, the data that the value points to exists for `'a`, and is not
    /// changed in that time.
    pub(super) unsafe fn from_raw(raw: pg_sys::Datum) -> Datum<'a> {
        Datum { raw, lives: PhantomData }
    }

    pub(super) fn into_raw(self) -> pg_sys::Datum {
        self.raw
    }

    /// Returns the raw value that PostgreSQL expects beside a NULL flag: zero for NULL.
    pub(super) fn raw_or_zero(value: Option<Datum<'_>>) -> pg_sys::Datum {
        value.map_or(pg_sys::Datum::from(0usize), Datum::into_raw)
    }

    /// The value of a `boolean`.
    pub fn bool(self) -> bool {
        self.raw.value() != 0
    }

    /// The value of an `int`.
    pub fn int4(self) -> i32 {
        self.raw.value() as i32
    }

    /// The value of a `bigint`, or of a `timestamptz` (microseconds from 2000-01-01).
    pub fn int8(self) -> i64 {
        self.raw.value() as i64
    }

    /// The value of an `xid8` or of a `pg_lsn`.
    pub fn uint8(self) -> u64 {
        self.raw.value() as u64
    }

    /// The value of an `oid`.
    pub fn oid(self) -> u32 {
        self.raw.value() as u32
    }

    /// The bytes of a `text`, `bytea` or `json`. A copy that detoasting makes goes into `memory`.
    ///
    /// # Safety
    /// The value is a `text`, `bytea` or `json`.
    #[inline]
    pub(super) unsafe fn text(self, memory: Memory<'a>) -> &'a [u8] {
        // SAFETY: the value is a varlena that exists for 'a. Detoasting leaves it in place, or makes a copy in `memory`, which
        // exists for 'a too.
        unsafe {
            let mut varlena = self.raw.cast_mut_ptr();
            if !is_in_place(varlena) {
                varlena = memory.run(|| pg_sys::pg_detoast_datum_packed(varlena));
            }
            let (start, length) = (pgrx::vardata_any(varlena), pgrx::varsize_any_exhdr(varlena));
            std::slice::from_raw_parts(start.cast(), length)
        }
    }

    /// The value of a `uuid`.
    ///
    /// # Safety
    /// The value is of that type.
    pub(super) unsafe fn uuid(self) -> uuid::Uuid {
        // SAFETY: a `uuid` has 16 bytes and needs no alignment.
        uuid::Uuid::from_bytes(unsafe { *self.raw.cast_mut_ptr::<[u8; 16]>() })
    }

    /// The value of a `jsonb`. A copy that detoasting makes goes into `memory`.
    ///
    /// # Safety
    /// The value is of that type.
    pub(super) unsafe fn jsonb(self, memory: Memory<'a>) -> Jsonb<'a> {
        // SAFETY: the caller vouches for the type.
        unsafe { Jsonb::from_datum(self, memory) }
    }
}

/// Whether a varlena can be read in place: it is neither compressed nor stored out of line.
///
/// Most varlenas can. This check costs less than calling the function that detoasts, because that call is guarded
/// against errors.
///
/// # Safety
/// `varlena` points to a varlena.
#[inline]
pub(super) unsafe fn is_in_place(varlena: *const pg_sys::varlena) -> bool {
    // SAFETY: every varlena begins with a byte that says which form it has.
    unsafe { pgrx::varatt_is_4b_u(varlena) || (pgrx::varatt_is_1b(varlena) && !pgrx::varatt_is_1b_e(varlena)) }
}

impl From<bool> for Datum<'_> {
    fn from(value: bool) -> Self {
        Datum { raw: pg_sys::Datum::from(value), lives: PhantomData }
    }
}

impl From<i32> for Datum<'_> {
    fn from(value: i32) -> Self {
        Datum { raw: pg_sys::Datum::from(value), lives: PhantomData }
    }
}

impl From<i64> for Datum<'_> {
    fn from(value: i64) -> Self {
        Datum { raw: pg_sys::Datum::from(value), lives: PhantomData }
    }
}

/// Converts the value of an `xid8` or a `pg_lsn`.
impl From<u64> for Datum<'_> {
    fn from(value: u64) -> Self {
        Datum { raw: pg_sys::Datum::from(value), lives: PhantomData }
    }
}

impl From<pg_sys::Oid> for Datum<'_> {
    fn from(value: pg_sys::Oid) -> Self {
        Datum { raw: pg_sys::Datum::from(value), lives: PhantomData }
    }
}
