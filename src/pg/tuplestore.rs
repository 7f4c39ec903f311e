//! Functions that return all their rows at once.

use super::datum::Datum;
use super::fmgr::Args;
use super::heap::Row;
use super::memory::Memory;
use crate::error::Error;
use pgrx::pg_sys;

/// The set of rows that a call returns. PostgreSQL reads the rows after the call.
pub struct ResultSet {
    store: *mut pg_sys::Tuplestorestate,
    descriptor: pg_sys::TupleDesc,
}

impl ResultSet {
    /// Makes the result of a function that is declared with `column_count` columns. Errors: 0A000 if the caller does
    /// not accept a set.
    pub fn new(args: &Args<'_>, column_count: usize) -> Result<ResultSet, Error> {
        let info = args.result_info()?;
        // SAFETY: `result_info` returns the node of this call. The store and its descriptor go into the memory of the query, which
        // reads the store after the call, and ends it.
        unsafe {
            let modes = (*info).allowedModes as u32;
            if modes & pg_sys::SetFunctionReturnMode::SFRM_Materialize == 0 {
                return Err(Error::NoSet);
            }
            let random = modes & pg_sys::SetFunctionReturnMode::SFRM_Materialize_Random != 0;
            // The query expects the columns with which the function is declared. It would be slow to look the
            // declaration up in the catalog instead.
            let expected = (*info).expectedDesc;
            if expected.is_null() || (*expected).natts as usize != column_count {
                return Err(Error::Installation("a function is declared with another result"));
            }
            let (descriptor, store) = Memory::from_raw((*(*info).econtext).ecxt_per_query_memory).run(|| {
                let store = pg_sys::tuplestore_begin_heap(random, false, pg_sys::work_mem);
                (pg_sys::CreateTupleDescCopy(expected), store)
            });
            (*info).returnMode = pg_sys::SetFunctionReturnMode::SFRM_Materialize;
            (*info).setResult = store;
            (*info).setDesc = descriptor;
            Ok(ResultSet { store, descriptor })
        }
    }

    /// Adds a copy of a row. The row has the first columns of the result; the other columns become NULL. Values that
    /// are stored out of line are not copied.
    pub fn add(&self, row: &Row<'_>) {
        // SAFETY: the store copies the tuple. A tuple may have fewer attributes than its descriptor; PostgreSQL reads the missing
        // trailing ones as NULL.
        unsafe {
            assert!(row.descriptor().len() <= (*self.descriptor).natts as usize);
            pg_sys::tuplestore_puttuple(self.store, row.tuple());
        }
    }

    /// Adds a row. `columns` has a value for each column of the result, of the type of that column.
    pub fn add_values(&self, columns: &[Option<Datum<'_>>]) {
        let mut values: Vec<_> = columns.iter().map(|&value| Datum::raw_or_zero(value)).collect();
        let mut nulls: Vec<bool> = columns.iter().map(Option::is_none).collect();
        // SAFETY: as many values as columns; the store copies what it is given.
        unsafe {
            assert_eq!((*self.descriptor).natts as usize, values.len());
            pg_sys::tuplestore_putvalues(self.store, self.descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        }
    }
}
