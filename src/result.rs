//! Glue: functions that return all their rows at once.

use crate::error::Error;
use crate::function::Args;
use crate::memory::Context;
use crate::statement::Row;
use pgrx::pg_sys;

/// No query and no result has more columns.
const MOST_COLUMNS: usize = 32;

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
            let (columns, store) = Context::existing((*(*info).econtext).ecxt_per_query_memory).run(|| {
                let store = pg_sys::tuplestore_begin_heap(random, false, pg_sys::work_mem);
                (args.result_columns(column_count), store)
            });
            let columns = columns?;
            (*info).returnMode = pg_sys::SetFunctionReturnMode::SFRM_Materialize;
            (*info).setResult = store;
            (*info).setDesc = columns;
            Ok(ResultSet { store, columns })
        }
    }

    /// Copies a row of a query, from its column `first` (from 0) on, and the columns behind it; what is stored out of
    /// line stays there.
    pub fn add(&self, row: &Row, first: usize, more: &[Option<pg_sys::Datum>]) {
        // On the stack: a page has thousands of rows.
        let (mut values, mut nulls) = ([pg_sys::Datum::from(0usize); MOST_COLUMNS], [true; MOST_COLUMNS]);
        // SAFETY: a row has its description.
        let count = unsafe { (*row.columns).natts } as usize;
        let total = count + more.len();
        assert!(total <= MOST_COLUMNS, "a row of {total} columns");
        // SAFETY: the arrays have room for as many elements as the row has columns.
        unsafe { pg_sys::heap_deform_tuple(row.tuple, row.columns, values.as_mut_ptr(), nulls.as_mut_ptr()) };
        for (place, value) in (count..).zip(more) {
            (values[place], nulls[place]) = (value.unwrap_or(pg_sys::Datum::from(0usize)), value.is_none());
        }
        self.put(&mut values[first..total], &mut nulls[first..total]);
    }

    /// Adds a row.
    pub fn add_values(&self, columns: &[Option<pg_sys::Datum>]) {
        let mut values: Vec<_> = columns.iter().map(|value| value.unwrap_or(pg_sys::Datum::from(0usize))).collect();
        let mut nulls: Vec<bool> = columns.iter().map(Option::is_none).collect();
        self.put(&mut values, &mut nulls);
    }

    fn put(&self, values: &mut [pg_sys::Datum], nulls: &mut [bool]) {
        // SAFETY: as many values as columns; the store copies what it is given.
        unsafe {
            assert_eq!((*self.columns).natts as usize, values.len());
            pg_sys::tuplestore_putvalues(self.store, self.columns, values.as_mut_ptr(), nulls.as_mut_ptr());
        }
    }
}
