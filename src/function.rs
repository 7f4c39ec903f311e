//! Glue between PostgreSQL's function manager and Rust.
//!
//! The functions are declared in `sql/*.sql`, where a DBA reads them. Arguments are passed on as
//! they come: text as bytes in the database's encoding, jsonb undecoded.

use crate::error::Error;
use crate::memory::Context;
use pgrx::pg_sys;
use std::marker::PhantomData;

/// Makes a Rust function `fn(&Args) -> Result<Option<Datum>, Error>` callable from SQL under the
/// name `$symbol`; `None` is NULL.
macro_rules! sql_function {
    ($symbol:ident, $info:ident, $body:path) => {
        #[doc(hidden)]
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $info() -> *const pgrx::pg_sys::Pg_finfo_record {
            static RECORD: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &RECORD
        }

        #[doc(hidden)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $symbol(fcinfo: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
            // SAFETY: the guard turns a Rust panic into a PostgreSQL error before it reaches C, and
            // `fcinfo` is the server's, which keeps it valid during the call.
            unsafe {
                pgrx::pg_sys::panic::pgrx_extern_c_guard(|| {
                    let args = $crate::function::Args::new(fcinfo);
                    $crate::function::answer(fcinfo, $body(&args))
                })
            }
        }
    };
}
pub(crate) use sql_function;

/// Ends a call: with a value, with NULL, or with an error.
///
/// # Safety
/// `fcinfo` is that of the call.
pub unsafe fn answer(fcinfo: pg_sys::FunctionCallInfo, result: Result<Option<pg_sys::Datum>, Error>) -> pg_sys::Datum {
    match result {
        Ok(value) => {
            // SAFETY: see above.
            unsafe { (*fcinfo).isnull = value.is_none() };
            value.unwrap_or(pg_sys::Datum::from(0usize))
        }
        Err(error) => {
            pgrx::pg_sys::panic::ErrorReport::from(error).report(pgrx::PgLogLevel::ERROR);
            unreachable!("an error report does not return")
        }
    }
}

/// The arguments of a call, by their place from 0. A NULL is `None`.
pub struct Args<'a> {
    fcinfo: pg_sys::FunctionCallInfo,
    call: PhantomData<&'a ()>,
}

impl<'a> Args<'a> {
    /// # Safety
    /// `fcinfo` is valid for `'a`, and the declared types are those that the accessors are used for.
    pub unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Args<'a> {
        Args { fcinfo, call: PhantomData }
    }

    /// The call itself, for functions that return a set.
    pub fn fcinfo(&self) -> pg_sys::FunctionCallInfo {
        self.fcinfo
    }

    /// An argument as it came.
    pub fn datum(&self, place: usize) -> Option<pg_sys::Datum> {
        // SAFETY: a call has as many arguments as its declaration, which the places are from.
        unsafe {
            assert!(place < (*self.fcinfo).nargs as usize, "the function is declared with fewer arguments");
            let argument = &*(*self.fcinfo).args.as_ptr().add(place);
            (!argument.isnull).then_some(argument.value)
        }
    }

    /// The columns that the function returns, described in the current memory context.
    pub fn result_columns(&self, count: usize) -> Result<pg_sys::TupleDesc, Error> {
        let mut description = std::ptr::null_mut();
        // SAFETY: `fcinfo` is that of the call; a composite result has a description.
        unsafe {
            let class = pg_sys::get_call_result_type(self.fcinfo, std::ptr::null_mut(), &mut description);
            if class != pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE || (*description).natts as usize != count {
                return Err(Error::Installation("a function is declared with another result"));
            }
            Ok(pg_sys::BlessTupleDesc(description))
        }
    }

    /// A row of the composite type that the function returns.
    pub fn composite<const N: usize>(&self, columns: [Option<pg_sys::Datum>; N]) -> Result<pg_sys::Datum, Error> {
        // SAFETY: `flinfo` is that of the call. The description is kept in its memory, for its next calls.
        unsafe {
            let info = (*self.fcinfo).flinfo;
            if (*info).fn_extra.is_null() {
                let columns = Context::existing((*info).fn_mcxt).run(|| self.result_columns(N))?;
                (*info).fn_extra = columns.cast();
            }
            Ok(composite((*info).fn_extra.cast(), columns))
        }
    }

    /// A `text`.
    pub fn text(&self, place: usize) -> Option<&'a [u8]> {
        // SAFETY: the argument is declared as text.
        self.datum(place).map(|datum| unsafe { text_of(datum) })
    }

    /// An `int`.
    pub fn int(&self, place: usize) -> Option<i32> {
        self.datum(place).map(|datum| datum.value() as i32)
    }

    /// A `text[]`.
    pub fn texts(&self, place: usize) -> Option<Vec<Option<&'a [u8]>>> {
        let datum = self.datum(place)?;
        let (mut elements, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        // SAFETY: the argument is declared as text[]; PostgreSQL allocates both arrays, of `count`
        // elements, in the memory context of the call.
        unsafe {
            let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
            let align = pg_sys::TYPALIGN_INT as std::ffi::c_char;
            pg_sys::deconstruct_array(array, pg_sys::TEXTOID, -1, false, align, &mut elements, &mut nulls, &mut count);
            Some((0..count as usize).map(|i| (!*nulls.add(i)).then(|| text_of(*elements.add(i)))).collect())
        }
    }
}

/// A composite value in the current memory context.
///
/// # Safety
/// The description is of `N` columns of the types of the values.
pub unsafe fn composite<const N: usize>(
    description: pg_sys::TupleDesc,
    columns: [Option<pg_sys::Datum>; N],
) -> pg_sys::Datum {
    let mut nulls = columns.map(|column| column.is_none());
    let mut values = columns.map(|column| column.unwrap_or(pg_sys::Datum::from(0usize)));
    // SAFETY: see above. What is stored out of line is fetched.
    unsafe {
        let tuple = pg_sys::heap_form_tuple(description, values.as_mut_ptr(), nulls.as_mut_ptr());
        pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)
    }
}

/// The bytes of a `text`.
///
/// # Safety
/// `datum` is a text that stays where it is for `'a`.
pub unsafe fn text_of<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: detoasting leaves a short or plain varlena, in place or in the current memory context.
    unsafe {
        let mut varlena = datum.cast_mut_ptr();
        // Most are; the call, which is guarded against errors, takes longer than to look.
        let in_place = pgrx::varatt_is_4b_u(varlena) || (pgrx::varatt_is_1b(varlena) && !pgrx::varatt_is_1b_e(varlena));
        if !in_place {
            varlena = pg_sys::pg_detoast_datum_packed(varlena);
        }
        let (start, length) = (pgrx::vardata_any(varlena), pgrx::varsize_any_exhdr(varlena));
        std::slice::from_raw_parts(start.cast(), length)
    }
}

/// A new `text` in the current memory context.
pub fn text_datum(bytes: &[u8]) -> pg_sys::Datum {
    // SAFETY: copies `bytes`, whose length PostgreSQL checks against its limit for allocations.
    unsafe { pg_sys::Datum::from(pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), bytes.len() as i32)) }
}

/// How an array stores its elements.
pub struct ElementType {
    oid: pg_sys::Oid,
    length: i32,
    by_value: bool,
    align: u8,
}

/// `text`
pub const TEXT: ElementType =
    ElementType { oid: pg_sys::TEXTOID, length: -1, by_value: false, align: pg_sys::TYPALIGN_INT };
/// `int`
pub const INT4: ElementType =
    ElementType { oid: pg_sys::INT4OID, length: 4, by_value: true, align: pg_sys::TYPALIGN_INT };
/// `bigint`
pub const INT8: ElementType =
    ElementType { oid: pg_sys::INT8OID, length: 8, by_value: true, align: pg_sys::TYPALIGN_DOUBLE };
/// `xid8`
pub const XID8: ElementType =
    ElementType { oid: pg_sys::XID8OID, length: 8, by_value: true, align: pg_sys::TYPALIGN_DOUBLE };
/// `boolean`
pub const BOOL: ElementType =
    ElementType { oid: pg_sys::BOOLOID, length: 1, by_value: true, align: pg_sys::TYPALIGN_CHAR };

/// `uuid`
pub const UUID: ElementType =
    ElementType { oid: pg_sys::UUIDOID, length: 16, by_value: false, align: pg_sys::TYPALIGN_CHAR };
/// `jsonb`
pub const JSONB: ElementType =
    ElementType { oid: pg_sys::JSONBOID, length: -1, by_value: false, align: pg_sys::TYPALIGN_INT };

/// A new array in the current memory context, in which `None` is NULL.
pub fn nullable_array_datum(elements: Vec<Option<pg_sys::Datum>>, of: &ElementType) -> pg_sys::Datum {
    let mut nulls: Vec<bool> = elements.iter().map(Option::is_none).collect();
    let mut elements: Vec<pg_sys::Datum> =
        elements.into_iter().map(|element| element.unwrap_or(pg_sys::Datum::from(0usize))).collect();
    let (mut length, mut lower_bound) = (elements.len() as i32, 1);
    // SAFETY: the elements are copied; `of` describes their type as pg_type does; one dimension.
    unsafe {
        pg_sys::Datum::from(pg_sys::construct_md_array(
            elements.as_mut_ptr(),
            nulls.as_mut_ptr(),
            1,
            &mut length,
            &mut lower_bound,
            of.oid,
            of.length,
            of.by_value,
            of.align as std::ffi::c_char,
        ))
    }
}

/// A new array in the current memory context.
pub fn array_datum(mut elements: Vec<pg_sys::Datum>, of: &ElementType) -> pg_sys::Datum {
    // SAFETY: the elements are copied; `of` describes their type as pg_type does.
    unsafe {
        pg_sys::Datum::from(pg_sys::construct_array(
            elements.as_mut_ptr(),
            elements.len() as i32,
            of.oid,
            of.length,
            of.by_value,
            of.align as std::ffi::c_char,
        ))
    }
}
