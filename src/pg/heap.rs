//! Rows: tuples with their descriptors. Also reads small tables with the table access method instead of SQL.

use super::datum::Datum;
use super::jsonb::Jsonb;
use super::memory::Memory;
use super::versions;
use crate::error::Error;
use pgrx::pg_sys;
use std::collections::VecDeque;
use std::ffi::{CStr, c_char};
use std::marker::PhantomData;
use std::ptr;

/// A row: a tuple and its descriptor, which exist for `'r`. Columns are numbered from 1.
///
/// The accessors of types that are passed by reference check the column's type. A NULL is `None`.
#[derive(Clone, Copy)]
pub struct Row<'r> {
    /// The tuple; null for a row that has only values.
    tuple: pg_sys::HeapTuple,
    descriptor: Descriptor<'r>,
    /// The memory into which detoasted copies go.
    memory: Memory<'r>,
    /// The values and the NULL flags of all columns, if they have been taken out of the tuple ([`Row::deform`]). The value of a NULL is
    /// zero.
    deformed: Option<(&'r [pg_sys::Datum], &'r [bool])>,
}

/// The names and types of the columns of a row.
#[derive(Clone, Copy)]
pub struct Descriptor<'r> {
    raw: pg_sys::TupleDesc,
    lives: PhantomData<&'r ()>,
}

impl<'r> Descriptor<'r> {
    /// Wraps a descriptor of the server.
    ///
    /// # Safety The descriptor exists for `'r`.
    pub(super) unsafe fn from_raw(raw: pg_sys::TupleDesc) -> Descriptor<'r> {
        Descriptor { raw, lives: PhantomData }
    }

    pub(super) fn into_raw(self) -> pg_sys::TupleDesc {
        self.raw
    }

    /// The number of columns.
    #[inline]
    pub fn len(self) -> usize {
        // SAFETY: the descriptor exists.
        unsafe { (*self.raw).natts as usize }
    }

    #[inline]
    fn attribute(self, column: usize) -> &'r pg_sys::FormData_pg_attribute {
        assert!((1..=self.len()).contains(&column), "a row has no column {column}");
        // SAFETY: the descriptor has that many attributes.
        unsafe { &*versions::attributes(self.raw).add(column - 1) }
    }

    /// Raises an error if a column does not have the type `of`.
    #[inline]
    pub(super) fn require(self, column: usize, of: pg_sys::Oid) {
        #[cold]
        fn wrong(column: usize, of: pg_sys::Oid) -> ! {
            panic!("column {column} does not have the type {of:?}")
        }
        if self.attribute(column).atttypid != of {
            wrong(column, of);
        }
    }

    /// The name of a column.
    pub fn name(self, column: usize) -> &'r str {
        pgrx::name_data_to_str(&self.attribute(column).attname)
    }

    /// Makes a descriptor of `columns`, in `memory`.
    pub(super) fn project<'m>(self, columns: &[usize], memory: Memory<'m>) -> Descriptor<'m> {
        // SAFETY: both descriptors have the columns that are copied.
        memory.run(|| unsafe { Descriptor::from_raw(versions::projected(self.raw, columns)) })
    }
}

impl<'r> Row<'r> {
    /// Wraps a row of the server.
    ///
    /// # Safety
    /// The tuple exists for `'r`, and has the columns of the descriptor.
    pub(super) unsafe fn from_raw(tuple: pg_sys::HeapTuple, descriptor: Descriptor<'r>, memory: Memory<'r>) -> Row<'r> {
        Row { tuple, descriptor, memory, deformed: None }
    }

    /// Wraps the values of a row that has no tuple.
    ///
    /// # Safety
    /// The values exist for `'r`, and have the types of the descriptor.
    pub(super) unsafe fn from_values(
        values: &'r [pg_sys::Datum],
        nulls: &'r [bool],
        descriptor: Descriptor<'r>,
        memory: Memory<'r>,
    ) -> Row<'r> {
        assert!(
            values.len() == descriptor.len() && nulls.len() == descriptor.len(),
            "a row has a value for each column"
        );
        Row { tuple: ptr::null_mut(), descriptor, memory, deformed: Some((values, nulls)) }
    }

    /// The tuple of the row. It panics for a row that has only values.
    pub(super) fn tuple(&self) -> pg_sys::HeapTuple {
        assert!(!self.tuple.is_null(), "a row that has only values is used as a tuple");
        self.tuple
    }

    /// The names and types of the columns.
    pub fn descriptor(&self) -> Descriptor<'r> {
        self.descriptor
    }

    /// A memory context that exists as long as the row.
    pub fn memory(&self) -> Memory<'r> {
        self.memory
    }

    /// Returns the same row, whose detoasted copies will go into `memory`.
    pub(super) fn in_memory<'n>(&self, memory: Memory<'n>) -> Row<'n>
    where
        'r: 'n,
    {
        Row { tuple: self.tuple, descriptor: self.descriptor, memory, deformed: self.deformed }
    }

    /// Returns a copy of the row in `memory`. Values that are stored out of line are not fetched.
    #[cfg(feature = "pg_bench")]
    pub fn copy<'m>(&self, memory: Memory<'m>) -> Row<'m> {
        // SAFETY: the copies are in `memory`.
        memory.run(|| unsafe {
            let descriptor = Descriptor::from_raw(pg_sys::CreateTupleDescCopy(self.descriptor.raw));
            Row::from_raw(pg_sys::heap_copytuple(self.tuple()), descriptor, memory)
        })
    }

    /// The number of bytes of the tuple, without values that are stored out of line.
    pub fn size(&self) -> usize {
        // SAFETY: the tuple exists.
        unsafe { (*self.tuple()).t_len as usize }
    }

    /// Returns the row with the values of all columns taken out of its tuple at once. This is faster for a reader that needs most columns:
    /// otherwise PostgreSQL walks the tuple from the beginning for each column that comes after a `text` or `jsonb`.
    pub fn deform(&self) -> Row<'r> {
        if self.deformed.is_some() {
            return *self;
        }
        let count = self.descriptor.len();
        let (values, nulls) = (self.memory.zeroed::<pg_sys::Datum>(count), self.memory.zeroed::<bool>(count));
        // SAFETY: the tuple has the columns of the descriptor, and both arrays have room for all of them.
        unsafe {
            pg_sys::heap_deform_tuple(self.tuple, self.descriptor.raw, values.as_mut_ptr(), nulls.as_mut_ptr());
        }
        Row { deformed: Some((values, nulls)), ..*self }
    }

    /// Returns a column as it is stored.
    #[inline]
    pub fn datum(&self, column: usize) -> Option<Datum<'r>> {
        assert!((1..=self.descriptor.len()).contains(&column), "a row has no such column");
        if let Some((values, nulls)) = self.deformed {
            // SAFETY: the values are those of the tuple, which exists.
            return (!nulls[column - 1]).then(|| unsafe { Datum::from_raw(values[column - 1]) });
        }
        let mut null = false;
        // SAFETY: the tuple has the columns of the descriptor, and the column is one of them. (PostgreSQL reads trailing columns
        // that an older tuple does not have as NULL.)
        unsafe {
            let value = pg_sys::heap_getattr(self.tuple, column as i32, self.descriptor.raw, &mut null);
            (!null).then(|| Datum::from_raw(value))
        }
    }

    /// Returns a column of type `boolean`.
    pub fn bool(&self, column: usize) -> Option<bool> {
        self.datum(column).map(Datum::bool)
    }

    /// Returns a column of type `int`.
    pub fn int4(&self, column: usize) -> Option<i32> {
        self.datum(column).map(Datum::int4)
    }

    /// Returns a column of type `bigint`, or of type `timestamptz` in microseconds from 2000-01-01.
    pub fn int8(&self, column: usize) -> Option<i64> {
        self.datum(column).map(Datum::int8)
    }

    /// Returns a column of type `xid8` or `pg_lsn`.
    pub fn uint8(&self, column: usize) -> Option<u64> {
        self.datum(column).map(Datum::uint8)
    }

    /// Returns a column of type `text`, in the encoding of the database.
    #[inline]
    pub fn text(&self, column: usize) -> Option<&'r [u8]> {
        self.descriptor.require(column, pg_sys::TEXTOID);
        // SAFETY: the descriptor says that the column is a text.
        self.datum(column).map(|datum| unsafe { datum.text(self.memory) })
    }

    /// Returns a column of type `bytea`.
    pub fn bytea(&self, column: usize) -> Option<&'r [u8]> {
        self.descriptor.require(column, pg_sys::BYTEAOID);
        // SAFETY: the descriptor says that the column is a bytea.
        self.datum(column).map(|datum| unsafe { datum.text(self.memory) })
    }

    /// Returns a column of type `uuid`.
    #[inline]
    pub fn uuid(&self, column: usize) -> Option<uuid::Uuid> {
        self.descriptor.require(column, pg_sys::UUIDOID);
        // SAFETY: the descriptor says that the column is a uuid.
        self.datum(column).map(|datum| unsafe { datum.uuid() })
    }

    /// Returns a column of type `jsonb`. It is not detoasted before it is read.
    #[inline]
    pub fn jsonb(&self, column: usize) -> Option<Jsonb<'r>> {
        self.descriptor.require(column, pg_sys::JSONBOID);
        // SAFETY: the descriptor says that the column is a jsonb.
        self.datum(column).map(|datum| unsafe { datum.jsonb(self.memory) })
    }

    /// Whether the current transaction wrote the row. The row must come from [`scan`], because only the rows of a table have a header with
    /// this information.
    fn is_own(&self) -> bool {
        // SAFETY: a tuple of a table has a heap tuple header.
        unsafe {
            let xmin = pg_sys::htup::HeapTupleHeaderGetXmin((*self.tuple()).t_data);
            pg_sys::TransactionIdIsCurrentTransactionId(xmin)
        }
    }
}

/// A queue of copies of rows, in a memory context of its own. The copies are kept longer than the statement that read the rows.
///
/// Values that are stored out of line are not copied. So the snapshot with which the rows were read must still be registered when the
/// copies are used.
pub struct RowQueue<'m, K> {
    context: pg_sys::MemoryContext,
    descriptor: Option<pg_sys::TupleDesc>,
    rows: VecDeque<(K, pg_sys::HeapTuple)>,
    lives: PhantomData<&'m ()>,
}

impl<'m, K> RowQueue<'m, K> {
    /// Makes an empty queue, whose memory context is a child of `memory`.
    pub fn new(memory: Memory<'m>) -> RowQueue<'m, K> {
        RowQueue { context: memory.child(), descriptor: None, rows: VecDeque::new(), lives: PhantomData }
    }

    /// Adds a copy of a row. All rows that are added between two calls of [`RowQueue::clear`] must come from one statement.
    pub fn push(&mut self, key: K, row: &Row<'_>) {
        let descriptor = &mut self.descriptor;
        // SAFETY: the context exists for 'm. The copies go into it.
        let tuple = unsafe {
            Memory::from_raw(self.context).run(|| {
                descriptor.get_or_insert_with(|| pg_sys::CreateTupleDescCopy(row.descriptor.raw));
                pg_sys::heap_copytuple(row.tuple())
            })
        };
        self.rows.push_back((key, tuple));
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// The key of the first row; `None` if the queue is empty.
    pub fn first(&self) -> Option<&K> {
        self.rows.front().map(|(key, _)| key)
    }

    /// Removes the first row and returns it; `None` if the queue is empty. The row exists until the queue is used again.
    pub fn pop(&mut self) -> Option<(K, Row<'_>)> {
        let (key, tuple) = self.rows.pop_front()?;
        let raw = self.descriptor?;
        // SAFETY: the tuple and its descriptor are in the context until `clear` resets it, which needs the queue exclusively.
        let row = unsafe { Row::from_raw(tuple, Descriptor::from_raw(raw), Memory::from_raw(self.context)) };
        Some((key, row))
    }

    /// Removes all rows and frees their memory.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.descriptor = None;
        // SAFETY: nothing refers to what is in the context: no row is borrowed, and the fields are empty.
        unsafe { pg_sys::MemoryContextReset(self.context) };
    }
}

// ---- tables without SQL ---------------------------------------------------------------------------------

/// How a column is compared with a value.
#[derive(Clone, Copy, Debug)]
pub enum Compare {
    /// `=`
    Equal,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// A condition on a column of an index.
#[derive(Clone, Copy)]
pub struct Key {
    column: i16,
    compare: Compare,
    /// OIDs of the functions for `=`, `>` and `>=`.
    functions: [u32; 3],
    value: pg_sys::Datum,
}

impl Key {
    /// A condition on an `int`.
    pub fn int4(column: i16, compare: Compare, value: i32) -> Key {
        let functions = [pg_sys::F_INT4EQ, pg_sys::F_INT4GT, pg_sys::F_INT4GE];
        Key { column, compare, functions, value: pg_sys::Datum::from(value) }
    }

    /// A condition on an `xid8`.
    pub fn xid8(column: i16, compare: Compare, value: u64) -> Key {
        let functions = [pg_sys::F_XID8EQ, pg_sys::F_XID8GT, pg_sys::F_XID8GE];
        Key { column, compare, functions, value: pg_sys::Datum::from(value) }
    }

    /// A condition on a `uuid`. The datum has to exist as long as the key.
    pub fn uuid(column: i16, compare: Compare, value: Datum<'_>) -> Key {
        let functions = [pg_sys::F_UUID_EQ, pg_sys::F_UUID_GT, pg_sys::F_UUID_GE];
        Key { column, compare, functions, value: value.into_raw() }
    }

    fn scan_key(&self) -> pg_sys::ScanKeyData {
        let (strategy, function) = match self.compare {
            Compare::Equal => (pg_sys::BTEqualStrategyNumber, self.functions[0]),
            Compare::Greater => (pg_sys::BTGreaterStrategyNumber, self.functions[1]),
            Compare::GreaterOrEqual => (pg_sys::BTGreaterEqualStrategyNumber, self.functions[2]),
        };
        // SAFETY: all zeroes is a key, which ScanKeyInit fills; the constructors chose a function for the type of the value.
        unsafe {
            let mut key: pg_sys::ScanKeyData = std::mem::zeroed();
            pg_sys::ScanKeyInit(&mut key, self.column, strategy as u16, function.into(), self.value);
            key
        }
    }
}

/// Calls `take` with every row of `mana_sync.$table` that the active snapshot sees. The second argument says whether
/// the current transaction wrote the row.
///
/// The caller needs no privilege on the table. This is for small tables that application roles must not read with SQL.
pub fn scan(table: &CStr, mut take: impl FnMut(&Row<'_>, bool) -> Result<(), Error>) -> Result<(), Error> {
    let lock = pg_sys::AccessShareLock as i32;
    // SAFETY: the relation is open, with its descriptor, while its tuples are read. After an error PostgreSQL closes it.
    unsafe {
        let relation = pg_sys::table_open(relation_oid(table)?, lock);
        let descriptor = Descriptor::from_raw((*relation).rd_att);
        let snapshot = pg_sys::GetActiveSnapshot();
        let scan = pg_sys::systable_beginscan(relation, pg_sys::InvalidOid, false, snapshot, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let row = Row::from_raw(tuple, descriptor, Memory::current());
            take(&row, row.is_own())?;
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, lock);
    }
    Ok(())
}

/// Calls `take` with one row of `mana_sync.$table`, and returns what `take` returns. It is the last row, in the order of
/// `mana_sync.$index`, that the active snapshot sees and that meets all `keys`. Returns `None` if there is no such row. The first columns
/// of the table must be those of the index.
///
/// The caller needs no privilege on the table.
pub fn last<T>(
    (table, index): (&CStr, &CStr),
    keys: &[Key],
    take: impl FnOnce(&Row<'_>) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    let lock = pg_sys::AccessShareLock as i32;
    let mut keys: Vec<pg_sys::ScanKeyData> = keys.iter().map(Key::scan_key).collect();
    // SAFETY: the relations are open, with the descriptor, while the tuple is read; the keys outlive the scan. After an error
    // PostgreSQL closes both.
    unsafe {
        let table = pg_sys::table_open(relation_oid(table)?, lock);
        let index = pg_sys::index_open(relation_oid(index)?, lock);
        let descriptor = Descriptor::from_raw((*table).rd_att);
        let snapshot = pg_sys::GetActiveSnapshot();
        let scan = pg_sys::systable_beginscan_ordered(table, index, snapshot, keys.len() as i32, keys.as_mut_ptr());
        let tuple = pg_sys::systable_getnext_ordered(scan, pg_sys::ScanDirection::BackwardScanDirection);
        let taken = match tuple.is_null() {
            true => None,
            false => Some(take(&Row::from_raw(tuple, descriptor, Memory::current()))?),
        };
        pg_sys::systable_endscan_ordered(scan);
        pg_sys::index_close(index, lock);
        pg_sys::table_close(table, lock);
        Ok(taken)
    }
}

/// The names of the objects of a table that may refuse a row.
#[derive(Clone, Copy, Debug)]
pub struct Guards {
    /// Triggers, including those of foreign keys.
    pub triggers: &'static [&'static CStr],
    /// CHECK constraints.
    pub checks: &'static [&'static CStr],
    /// Indexes, which may be unique or exclude rows.
    pub indexes: &'static [&'static CStr],
    /// Policies.
    pub policies: &'static [&'static CStr],
    /// Columns that are NOT NULL.
    pub not_null: &'static [&'static CStr],
}

/// Whether `mana_sync.$table` has a trigger, a CHECK constraint, an index, a policy or a NOT NULL that is not in `own`, or any rule or
/// generated column.
pub fn has_other_guards(table: &CStr, own: &Guards) -> Result<bool, Error> {
    let lock = pg_sys::AccessShareLock as i32;
    // SAFETY: the relation is open, with its descriptors, while they are read. The arrays have the lengths that stand beside them, and
    // the names are C strings. A list without elements is NULL.
    unsafe {
        let relation = pg_sys::table_open(relation_oid(table)?, lock);
        let is_own = |names: &[&CStr], name: *const c_char| !name.is_null() && names.contains(&CStr::from_ptr(name));
        let list = |list: *mut pg_sys::List| match list.is_null() {
            true => &[],
            false => std::slice::from_raw_parts((*list).elements, (*list).length as usize),
        };
        let triggers = match (*relation).trigdesc.as_ref() {
            Some(all) => std::slice::from_raw_parts(all.triggers, all.numtriggers as usize),
            None => &[],
        };
        let checks = match (*(*relation).rd_att).constr.as_ref() {
            Some(all) if all.num_check > 0 => std::slice::from_raw_parts(all.check, all.num_check.into()),
            _ => &[],
        };
        let policies = (*relation).rd_rsdesc.as_ref().map_or(&[][..], |all| list(all.policies));
        let indexes = list(pg_sys::RelationGetIndexList(relation));
        let descriptor = Descriptor::from_raw((*relation).rd_att);
        let mut columns = (1..=descriptor.len()).map(|column| descriptor.attribute(column)).filter(|c| !c.attisdropped);
        let has_others = !(*relation).rd_rules.is_null()
            || triggers.iter().any(|trigger| !is_own(own.triggers, trigger.tgname))
            || checks.iter().any(|check| !is_own(own.checks, check.ccname))
            || indexes.iter().any(|index| !is_own(own.indexes, pg_sys::get_rel_name(index.oid_value)))
            || policies.iter().any(|policy| {
                let policy = policy.ptr_value.cast::<pg_sys::RowSecurityPolicy>();
                !is_own(own.policies, (*policy).policy_name)
            })
            || columns.any(|column| {
                column.attgenerated != 0 || (column.attnotnull && !is_own(own.not_null, column.attname.data.as_ptr()))
            });
        pg_sys::table_close(relation, lock);
        Ok(has_others)
    }
}

/// The OID of the relation `mana_sync.$name`.
pub(super) fn relation_oid(name: &CStr) -> Result<pg_sys::Oid, Error> {
    // SAFETY: the names are C strings.
    let oid = unsafe {
        match pg_sys::get_namespace_oid(c"mana_sync".as_ptr(), true) {
            pg_sys::InvalidOid => pg_sys::InvalidOid,
            namespace => pg_sys::get_relname_relid(name.as_ptr(), namespace),
        }
    };
    if oid == pg_sys::InvalidOid { Err(Error::Installation("a table is missing")) } else { Ok(oid) }
}

/// Whether row-level security of `mana_sync.$table` applies to the current role.
pub fn has_row_security(table: &CStr) -> Result<bool, Error> {
    let relation = relation_oid(table)?;
    // SAFETY: the relation exists. The last argument asks for an answer instead of an error.
    let enabled = unsafe { pg_sys::check_enable_rls(relation, pg_sys::InvalidOid, true) };
    Ok(enabled == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32)
}

/// Makes every backend look up the definition of `mana_sync.$table` again, once the transaction has committed.
pub fn invalidate(table: &CStr) -> Result<(), Error> {
    let relation = relation_oid(table)?;
    // SAFETY: the relation exists.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relation) };
    Ok(())
}

/// Registers `T::invalidated`, which is then called whenever the definition of any relation has changed or was dropped.
pub fn on_invalidation<T: OnInvalidation>() {
    unsafe extern "C-unwind" fn call<T: OnInvalidation>(_: pg_sys::Datum, _: pg_sys::Oid) {
        T::invalidated();
    }
    // SAFETY: the callback uses none of its arguments, and `T` is part of the library, which is never unloaded.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(call::<T>), pg_sys::Datum::from(0usize)) };
}

/// The callback of [`on_invalidation`].
pub trait OnInvalidation {
    /// Is called at each invalidation of a relation. It must not raise an error, and cannot read a table.
    fn invalidated();
}

/// Whether a subscription of logical replication writes into `mana_sync.$table`.
pub fn is_subscribed(table: &CStr) -> Result<bool, Error> {
    // From catalog/pg_subscription_rel.h: the catalog, its index by relation, and the column that names the relation.
    // pgrx does not bind them.
    const CATALOG: pg_sys::Oid = pg_sys::Oid::from_u32(6102);
    const INDEX: pg_sys::Oid = pg_sys::Oid::from_u32(6117);
    const SRRELID: i16 = 2;
    let relation = relation_oid(table)?;
    let lock = pg_sys::AccessShareLock as i32;
    // SAFETY: the catalog and its index exist; without a snapshot the catalog is read as it is now.
    unsafe {
        let catalog = pg_sys::table_open(CATALOG, lock);
        let mut key: pg_sys::ScanKeyData = std::mem::zeroed();
        let strategy = pg_sys::BTEqualStrategyNumber as u16;
        pg_sys::ScanKeyInit(&mut key, SRRELID, strategy, pg_sys::F_OIDEQ.into(), pg_sys::Datum::from(relation));
        let scan = pg_sys::systable_beginscan(catalog, INDEX, true, std::ptr::null_mut(), 1, &mut key);
        let found = !pg_sys::systable_getnext(scan).is_null();
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(catalog, lock);
        Ok(found)
    }
}
