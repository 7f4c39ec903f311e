//! Glue: the extension's small tables that application roles have no privilege on, read with the table access
//! method and not with SQL.

use crate::error::Error;
use pgrx::pg_sys;
use std::ffi::CStr;

/// A row of such a table.
pub struct Row {
    tuple: pg_sys::HeapTuple,
    columns: pg_sys::TupleDesc,
}

impl Row {
    /// A column, from 1, which must not be NULL.
    pub fn column(&self, place: i32) -> Result<pg_sys::Datum, Error> {
        let mut null = false;
        // SAFETY: the tuple and its description belong together.
        let value = unsafe { pg_sys::heap_getattr(self.tuple, place, self.columns, &mut null) };
        if null { Err(Error::Installation("a column of a table is NULL")) } else { Ok(value) }
    }

    /// Whether the current transaction added it.
    pub fn is_own(&self) -> bool {
        // SAFETY: a heap tuple has a header.
        unsafe {
            let xmin = pg_sys::htup::HeapTupleHeaderGetXmin((*self.tuple).t_data);
            pg_sys::TransactionIdIsCurrentTransactionId(xmin)
        }
    }
}

/// Hands every row of `mana_sync.$name` that the active snapshot sees to `take`.
pub fn scan(name: &CStr, mut take: impl FnMut(&Row) -> Result<(), Error>) -> Result<(), Error> {
    // SAFETY: the relation is open, with its description, while its tuples are read. An error of `take` ends the
    // transaction or subtransaction, which closes it.
    unsafe {
        let namespace = pg_sys::get_namespace_oid(c"mana_sync".as_ptr(), true);
        let relation = match namespace {
            pg_sys::InvalidOid => pg_sys::InvalidOid,
            namespace => pg_sys::get_relname_relid(name.as_ptr(), namespace),
        };
        if relation == pg_sys::InvalidOid {
            return Err(Error::Installation("a table is missing"));
        }
        let lock = pg_sys::AccessShareLock as i32;
        let relation = pg_sys::table_open(relation, lock);
        let columns = (*relation).rd_att;
        let snapshot = pg_sys::GetActiveSnapshot();
        let scan = pg_sys::systable_beginscan(relation, pg_sys::InvalidOid, false, snapshot, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            take(&Row { tuple, columns })?;
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, lock);
    }
    Ok(())
}
