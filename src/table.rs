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

/// How a column is compared with a value.
#[derive(Clone, Copy, Debug)]
pub enum Compare {
    /// It is equal.
    Equal,
    /// It is greater.
    Greater,
    /// It is greater or equal.
    GreaterOrEqual,
}

/// A condition on a column of an index.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    column: i16,
    compare: Compare,
    /// Equal, greater, greater or equal: OIDs of the functions.
    functions: [u32; 3],
    value: pg_sys::Datum,
}

impl Key {
    /// A condition on an `int`, the column of this number.
    pub fn int4(column: i16, compare: Compare, value: i32) -> Key {
        let functions = [pg_sys::F_INT4EQ, pg_sys::F_INT4GT, pg_sys::F_INT4GE];
        Key { column, compare, functions, value: pg_sys::Datum::from(value) }
    }

    /// A condition on an `xid8`.
    pub fn xid8(column: i16, compare: Compare, value: u64) -> Key {
        let functions = [pg_sys::F_XID8EQ, pg_sys::F_XID8GT, pg_sys::F_XID8GE];
        Key { column, compare, functions, value: pg_sys::Datum::from(value) }
    }

    /// As the server wants it.
    fn scan_key(&self) -> pg_sys::ScanKeyData {
        let (strategy, function) = match self.compare {
            Compare::Equal => (pg_sys::BTEqualStrategyNumber, self.functions[0]),
            Compare::Greater => (pg_sys::BTGreaterStrategyNumber, self.functions[1]),
            Compare::GreaterOrEqual => (pg_sys::BTGreaterEqualStrategyNumber, self.functions[2]),
        };
        // SAFETY: all zeroes is a key, which the call sets; the function takes values of the column's type.
        unsafe {
            let mut key: pg_sys::ScanKeyData = std::mem::zeroed();
            pg_sys::ScanKeyInit(&mut key, self.column, strategy as u16, function.into(), self.value);
            key
        }
    }
}

/// Hands every row of `mana_sync.$name` that the active snapshot sees to `take`.
pub fn scan(name: &CStr, mut take: impl FnMut(&Row) -> Result<(), Error>) -> Result<(), Error> {
    let lock = pg_sys::AccessShareLock as i32;
    // SAFETY: the relation is open, with its description, while its tuples are read. An error of `take` ends the
    // transaction or subtransaction, which closes it.
    unsafe {
        let relation = pg_sys::table_open(oid_of(name)?, lock);
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

/// Hands the last row of a table, in the order of its index, that the active snapshot sees and for which all of `keys`
/// hold to `take`. The table's first columns are those of the index.
pub fn last<T>(
    (table, index): (&CStr, &CStr),
    keys: &[Key],
    take: impl FnOnce(&Row) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    let lock = pg_sys::AccessShareLock as i32;
    let mut keys: Vec<pg_sys::ScanKeyData> = keys.iter().map(Key::scan_key).collect();
    // SAFETY: as above; the keys outlive the scan.
    unsafe {
        let table = pg_sys::table_open(oid_of(table)?, lock);
        let index = pg_sys::index_open(oid_of(index)?, lock);
        let columns = (*table).rd_att;
        let snapshot = pg_sys::GetActiveSnapshot();
        let scan = pg_sys::systable_beginscan_ordered(table, index, snapshot, keys.len() as i32, keys.as_mut_ptr());
        let tuple = pg_sys::systable_getnext_ordered(scan, pg_sys::ScanDirection::BackwardScanDirection);
        let taken = if tuple.is_null() { None } else { Some(take(&Row { tuple, columns })?) };
        pg_sys::systable_endscan_ordered(scan);
        pg_sys::index_close(index, lock);
        pg_sys::table_close(table, lock);
        Ok(taken)
    }
}

/// The relation `mana_sync.$name`.
pub fn oid_of(name: &CStr) -> Result<pg_sys::Oid, Error> {
    // SAFETY: the names are constants.
    let oid = unsafe {
        match pg_sys::get_namespace_oid(c"mana_sync".as_ptr(), true) {
            pg_sys::InvalidOid => pg_sys::InvalidOid,
            namespace => pg_sys::get_relname_relid(name.as_ptr(), namespace),
        }
    };
    if oid == pg_sys::InvalidOid { Err(Error::Installation("a table is missing")) } else { Ok(oid) }
}

/// Whether a subscription of logical replication writes into a relation: its rows are then of transactions of another server.
pub fn is_subscribed(relation: pg_sys::Oid) -> bool {
    // catalog/pg_subscription_rel.h, of which pgrx does not bind these: the catalog, its index by relation, and the column
    // that names the relation.
    const CATALOG: pg_sys::Oid = pg_sys::Oid::from_u32(6102);
    const INDEX: pg_sys::Oid = pg_sys::Oid::from_u32(6117);
    const SRRELID: i16 = 2;
    let lock = pg_sys::AccessShareLock as i32;
    // SAFETY: the catalog and its index are there; without a snapshot the catalog is read as it is now.
    unsafe {
        let catalog = pg_sys::table_open(CATALOG, lock);
        let mut key: pg_sys::ScanKeyData = std::mem::zeroed();
        let strategy = pg_sys::BTEqualStrategyNumber as u16;
        pg_sys::ScanKeyInit(&mut key, SRRELID, strategy, pg_sys::F_OIDEQ.into(), pg_sys::Datum::from(relation));
        let scan = pg_sys::systable_beginscan(catalog, INDEX, true, std::ptr::null_mut(), 1, &mut key);
        let found = !pg_sys::systable_getnext(scan).is_null();
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(catalog, lock);
        found
    }
}
