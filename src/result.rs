//! Glue: functions that return all their rows at once.

use crate::error::Error;
use crate::function::Args;
use crate::memory::Context;
use crate::statement::Row;
use pgrx::pg_sys;

/// The rows that a call returns.
pub struct ResultSet {
    store: *mut pg_sys::Tuplestorestate,
    columns: pg_sys::TupleDesc,
}

impl ResultSet {
    /// Of a function that is declared with so many columns.
    pub fn new(args: &Args, column_count: usize) -> Result<ResultSet, Error> {
        // SAFETY: `resultinfo` is NULL or a node. The store and its description are put into the memory
        // of the query, which reads the store after the call, and ends it.
        unsafe {
            let info = (*args.fcinfo()).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            if info.is_null() || (*info).type_ != pg_sys::NodeTag::T_ReturnSetInfo {
                return Err(Error::NoSet);
            }
            let modes = (*info).allowedModes as u32;
            if modes & pg_sys::SetFunctionReturnMode::SFRM_Materialize == 0 {
                return Err(Error::NoSet);
            }
            let random = modes & pg_sys::SetFunctionReturnMode::SFRM_Materialize_Random != 0;
            // What the query expects is what the function is declared with; to look that up once more would be
            // a tenth of a pull that finds nothing.
            let expected = (*info).expectedDesc;
            if expected.is_null() || (*expected).natts as usize != column_count {
                return Err(Error::Installation("a function is declared with another result"));
            }
            let (columns, store) = Context::existing((*(*info).econtext).ecxt_per_query_memory).run(|| {
                let store = pg_sys::tuplestore_begin_heap(random, false, pg_sys::work_mem);
                (pg_sys::CreateTupleDescCopy(expected), store)
            });
            (*info).returnMode = pg_sys::SetFunctionReturnMode::SFRM_Materialize;
            (*info).setResult = store;
            (*info).setDesc = columns;
            Ok(ResultSet { store, columns })
        }
    }

    /// Copies a row, whose columns are the first ones of the result; the others are NULL. What is stored out of line
    /// stays there.
    pub fn add(&self, row: &Row) {
        // SAFETY: the store copies the tuple. One of fewer columns than its description has is as good as one with NULLs behind
        // them: so are all tuples that are older than a column of their table.
        unsafe {
            assert!((*row.columns).natts <= (*self.columns).natts);
            pg_sys::tuplestore_puttuple(self.store, row.tuple);
        }
    }

    /// Adds a row.
    pub fn add_values(&self, columns: &[Option<pg_sys::Datum>]) {
        let mut values: Vec<_> = columns.iter().map(|value| value.unwrap_or(pg_sys::Datum::from(0usize))).collect();
        let mut nulls: Vec<bool> = columns.iter().map(Option::is_none).collect();
        // SAFETY: as many values as columns; the store copies what it is given.
        unsafe {
            assert_eq!((*self.columns).natts as usize, values.len());
            pg_sys::tuplestore_putvalues(self.store, self.columns, values.as_mut_ptr(), nulls.as_mut_ptr());
        }
    }
}
