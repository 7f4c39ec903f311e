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
        // SAFETY: the arrays have as many elements as the row has columns.
        let (mut values, mut nulls) = unsafe {
            let count = (*row.columns).natts as usize;
            let (mut values, mut nulls) = (vec![pg_sys::Datum::from(0usize); count], vec![true; count]);
            pg_sys::heap_deform_tuple(row.tuple, row.columns, values.as_mut_ptr(), nulls.as_mut_ptr());
            (values, nulls)
        };
        values.extend(more.iter().map(|value| value.unwrap_or(pg_sys::Datum::from(0usize))));
        nulls.extend(more.iter().map(Option::is_none));
        self.put(&mut values[first..], &mut nulls[first..]);
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
