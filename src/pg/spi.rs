//! The server programming interface (SPI). Each statement is planned once in a backend, and run many times.

use super::datum::Datum;
use super::heap::{Descriptor, Row};
use super::jsonb::Jsonb;
use super::memory::Memory;
use crate::error::Error;
use pgrx::pg_sys;
use std::ffi::{CStr, c_char, c_long};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Makes a [`Statement`]. The SQL is a file beside the module: `statement!("queries/own.sql", [TEXT, INT4])`. SQL of at most three lines
/// may be a string: `statement!(sql "SELECT 1", [])`. The list has the types of the parameters.
macro_rules! statement {
    ($path:literal, [$($of:expr),* $(,)?]) => {
        $crate::pg::spi::statement!(sql include_str!($path), [$($of),*])
    };
    (sql $sql:expr, [$($of:expr),* $(,)?]) => {
        $crate::pg::spi::Statement::new(
            const {
                match std::ffi::CStr::from_bytes_with_nul(concat!($sql, "\0").as_bytes()) {
                    Ok(sql) => sql,
                    Err(_) => panic!("a zero byte in the statement"),
                }
            },
            &[$($of),*],
        )
    };
}
pub(crate) use statement;

/// A statement that a backend prepares at its first use and keeps.
///
/// It always runs with a generic plan. Planning takes longer than most runs, and the best shape of the plan does not depend on the values.
/// PostgreSQL plans the statement again when an object that it uses changes.
pub struct Statement {
    sql: &'static CStr,
    parameters: &'static [pg_sys::Oid],
    /// The plan; NULL until the first use. It is atomic because a static has to be `Sync`, although a backend has only one thread.
    plan: AtomicPtr<pg_sys::_SPI_plan>,
}

impl Statement {
    /// Makes a statement with parameters of these types.
    pub const fn new(sql: &'static CStr, parameters: &'static [pg_sys::Oid]) -> Statement {
        Statement { sql, parameters, plan: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Returns the plan, and makes it at the first use. If making the plan fails, the statement stays unprepared.
    fn plan(&self, _: Spi<'_>) -> pg_sys::SPIPlanPtr {
        let plan = self.plan.load(Ordering::Relaxed);
        if !plan.is_null() {
            return plan;
        }
        // SAFETY: there is a connection; the number of parameters is that of their types.
        let plan = unsafe {
            let mut types = self.parameters.to_vec();
            let options = pg_sys::CURSOR_OPT_GENERIC_PLAN as i32;
            let plan = pg_sys::SPI_prepare_cursor(self.sql.as_ptr(), types.len() as i32, types.as_mut_ptr(), options);
            assert!(!plan.is_null(), "SPI_prepare_cursor failed");
            assert_eq!(pg_sys::SPI_keepplan(plan), 0, "SPI_keepplan failed");
            plan
        };
        self.plan.store(plan, Ordering::Relaxed);
        plan
    }
}

/// A connection to the server programming interface, which exists for `'s`.
#[derive(Clone, Copy)]
pub struct Spi<'s> {
    /// The memory context in which the connection began.
    memory: Memory<'s>,
}

/// Runs `body` with an SPI connection. The rows that its statements return are freed when the connection ends.
///
/// Connections may be nested. While an inner connection is open, the outer one must not be used.
pub fn connect<T, E>(body: impl for<'s> FnOnce(Spi<'s>) -> Result<T, E>) -> Result<T, E> {
    // SAFETY: an SQL function and a transaction of a background worker have a transaction. After an error PostgreSQL ends the
    // connection.
    unsafe {
        assert_eq!(pg_sys::SPI_connect(), pg_sys::SPI_OK_CONNECT as i32, "SPI_connect failed");
        // A connection begins in a context of its own, which exists until it ends.
        let result = body(Spi { memory: Memory::current() })?;
        assert_eq!(pg_sys::SPI_finish(), pg_sys::SPI_OK_FINISH as i32, "SPI_finish failed");
        Ok(result)
    }
}

impl<'s> Spi<'s> {
    /// The memory context of the connection.
    pub fn memory(self) -> Memory<'s> {
        self.memory
    }

    /// Runs a SELECT that only reads, with the active snapshot.
    pub fn read(self, statement: &Statement, values: &[Option<Datum<'_>>]) -> Rows<'s> {
        self.execute(statement, values, true, pg_sys::SPI_OK_SELECT)
    }

    /// Runs a SELECT that may write, with a snapshot of its own.
    pub fn select(self, statement: &Statement, values: &[Option<Datum<'_>>]) -> Rows<'s> {
        self.execute(statement, values, false, pg_sys::SPI_OK_SELECT)
    }

    /// Runs an INSERT, and returns the number of rows that it added.
    pub fn insert(self, statement: &Statement, values: &[Option<Datum<'_>>]) -> usize {
        self.execute(statement, values, false, pg_sys::SPI_OK_INSERT).count
    }

    /// Runs an INSERT with a RETURNING clause, and returns the rows of this clause.
    pub fn insert_returning(self, statement: &Statement, values: &[Option<Datum<'_>>]) -> Rows<'s> {
        self.execute(statement, values, false, pg_sys::SPI_OK_INSERT_RETURNING)
    }

    /// Runs an UPDATE, and returns the number of rows that it changed.
    pub fn update(self, statement: &Statement, values: &[Option<Datum<'_>>]) -> usize {
        self.execute(statement, values, false, pg_sys::SPI_OK_UPDATE).count
    }

    /// Runs a DELETE, and returns the number of rows that it removed.
    pub fn delete(self, statement: &Statement, values: &[Option<Datum<'_>>]) -> usize {
        self.execute(statement, values, false, pg_sys::SPI_OK_DELETE).count
    }

    /// Runs a command such as LOCK TABLE, which returns no rows and changes none.
    pub fn command(self, statement: &Statement) {
        self.execute(statement, &[], false, pg_sys::SPI_OK_UTILITY);
    }

    fn execute(self, statement: &Statement, values: &[Option<Datum<'_>>], read_only: bool, expected: u32) -> Rows<'s> {
        let (nulls, mut values) = parameters(statement, values);
        let plan = statement.plan(self);
        let memory = self.memory();
        // SAFETY: values and nulls have the length of the plan's parameters. SPI changes the current memory context to
        // one that lives longer, and `run` sets it back.
        memory.run(|| unsafe {
            let result = pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), nulls.as_ptr(), read_only, 0);
            assert_eq!(result, expected as i32, "{:?}", statement.sql);
            Rows::of_connection(self)
        })
    }

    /// Runs a SELECT that only reads, with the active snapshot. Hands each row to `take` as soon as the executor has made it, before the
    /// row is copied anywhere. The statement ends early if `take` returns false. `take` must not run statements.
    pub fn stream(
        self,
        statement: &Statement,
        values: &[Option<Datum<'_>>],
        take: &mut dyn FnMut(&SlotRow<'_, 's>) -> bool,
    ) {
        let (nulls, mut values) = parameters(statement, values);
        let plan = statement.plan(self);
        let memory = self.memory();
        let mut receiver = Receiver { callbacks: RECEIVER, take, memory };
        // SAFETY: values and nulls have the length of the plan's parameters. The receiver begins with the part that PostgreSQL
        // knows, and lives until the portal has run.
        memory.run(|| unsafe {
            let portal = pg_sys::SPI_cursor_open(ptr::null(), plan, values.as_mut_ptr(), nulls.as_ptr(), true);
            let forward = pg_sys::FetchDirection::FETCH_FORWARD;
            pg_sys::PortalRunFetch(portal, forward, c_long::MAX, (&raw mut receiver).cast());
            pg_sys::SPI_cursor_close(portal);
        });
    }

    /// Runs a SELECT that only reads, with the active snapshot. Hands each row to `take` as soon as the executor has made it; the row has
    /// no tuple. Memory that `take` allocates in the memory context of a row is freed after that row. The statement ends early if `take`
    /// returns false or an error. `take` must not run statements.
    pub fn stream_each(
        self,
        statement: &Statement,
        values: &[Option<Datum<'_>>],
        mut take: impl FnMut(Row<'_>) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let context = self.memory().child();
        let mut result = Ok(());
        self.stream(statement, values, &mut |slot| {
            // SAFETY: the context exists until the statement has run. The argument of `take` has no lifetime that could leave it, so
            // that nothing refers to the context after the call.
            let goes_on = unsafe {
                let memory = Memory::from_raw(context);
                let goes_on = memory.run(|| take(slot.row(memory)));
                pg_sys::MemoryContextReset(context);
                goes_on
            };
            goes_on.unwrap_or_else(|error| {
                result = Err(error);
                false
            })
        });
        // SAFETY: nothing refers to the context.
        unsafe { pg_sys::MemoryContextDelete(context) };
        result
    }

    /// Runs a SELECT that only reads, with the active snapshot, and calls `take` for each row. The rows are fetched in portions, so that
    /// there may be any number of them, and `take` may run statements. Memory that `take` allocates in the memory context of a row is freed
    /// after that row. The loop ends early if `take` returns false.
    pub fn for_each(
        self,
        statement: &Statement,
        values: &[Option<Datum<'_>>],
        mut take: impl FnMut(Row<'_>) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        const PORTION: usize = 64;
        let (nulls, mut values) = parameters(statement, values);
        let plan = statement.plan(self);
        let caller = self.memory();
        let context = caller.child();
        // SAFETY: values and nulls have the length of the plan's parameters. A row, and what is in the context, is used by `take`
        // alone: its argument has no lifetime that could leave it. The context exists until the end of this function.
        unsafe {
            let memory = Memory::from_raw(context);
            let portal =
                caller.run(|| pg_sys::SPI_cursor_open(ptr::null(), plan, values.as_mut_ptr(), nulls.as_ptr(), true));
            let mut more = true;
            while more {
                caller.run(|| pg_sys::SPI_cursor_fetch(portal, true, PORTION as c_long));
                let rows = Rows::of_connection(self);
                more = rows.count == PORTION;
                for row in rows.iter() {
                    let goes_on = memory.run(|| take(row.in_memory(memory)))?;
                    pg_sys::MemoryContextReset(context);
                    if !goes_on {
                        more = false;
                        break;
                    }
                }
                pg_sys::SPI_freetuptable(rows.table);
            }
            caller.run(|| pg_sys::SPI_cursor_close(portal));
            pg_sys::MemoryContextDelete(context);
        }
        Ok(())
    }
}

/// Converts the values of a statement's parameters to the form that SPI expects.
fn parameters(statement: &Statement, values: &[Option<Datum<'_>>]) -> (Vec<c_char>, Vec<pg_sys::Datum>) {
    assert_eq!(values.len(), statement.parameters.len(), "parameters of {:?}", statement.sql);
    let nulls = values.iter().map(|value| if value.is_some() { b' ' } else { b'n' } as c_char).collect();
    (nulls, values.iter().map(|&value| Datum::raw_or_zero(value)).collect())
}

/// The rows that a statement has returned.
#[derive(Clone, Copy)]
pub struct Rows<'s> {
    table: *mut pg_sys::SPITupleTable,
    count: usize,
    memory: Memory<'s>,
}

impl<'s> Rows<'s> {
    /// Returns the rows that the last statement of the connection has returned.
    ///
    /// # Safety
    /// A statement has run.
    unsafe fn of_connection(spi: Spi<'s>) -> Rows<'s> {
        // SAFETY: the variables of SPI are those of the last statement. Its table is in the memory of its connection, which is
        // compared: the handle of an outer connection does not work while an inner one is open.
        unsafe {
            let table = pg_sys::SPI_tuptable;
            let is_own = table.is_null() || spi.memory.is_parent_of((*table).tuptabcxt);
            assert!(is_own, "an SPI connection is used within another");
            Rows { table, count: pg_sys::SPI_processed as usize, memory: spi.memory }
        }
    }

    /// Iterates over all rows.
    pub fn iter(self) -> impl Iterator<Item = Row<'s>> {
        // SAFETY: a SELECT leaves a table of `count` tuples with one descriptor, which exists as long as the connection.
        (0..self.count).map(move |i| unsafe {
            let descriptor = Descriptor::from_raw((*self.table).tupdesc);
            Row::from_raw(*(*self.table).vals.add(i), descriptor, self.memory)
        })
    }

    /// Returns the first row; `None` if there is none.
    pub fn first(self) -> Option<Row<'s>> {
        self.iter().next()
    }
}

// ---- rows on their way ----------------------------------------------------------------------------------

/// A row that [`Spi::stream`] hands to its caller while the row is still in the executor's slot. Columns are numbered from 1.
pub struct SlotRow<'p, 's> {
    values: &'p [pg_sys::Datum],
    nulls: &'p [bool],
    descriptor: Descriptor<'p>,
    memory: Memory<'s>,
}

impl<'p, 's> SlotRow<'p, 's> {
    /// Returns a column as it is stored.
    pub fn datum(&self, column: usize) -> Option<Datum<'p>> {
        // SAFETY: the slot keeps its values until it has been received.
        (!self.nulls[column - 1]).then(|| unsafe { Datum::from_raw(self.values[column - 1]) })
    }

    /// Returns a column of type `text`.
    pub fn text(&self, column: usize) -> Option<&'p [u8]>
    where
        's: 'p,
    {
        self.descriptor.require(column, pg_sys::TEXTOID);
        // SAFETY: the descriptor says that the column is a text.
        self.datum(column).map(|datum| unsafe { datum.text(self.memory) })
    }

    /// Returns a column of type `jsonb`. It is not detoasted before it is read.
    pub fn jsonb(&self, column: usize) -> Option<Jsonb<'p>>
    where
        's: 'p,
    {
        self.descriptor.require(column, pg_sys::JSONBOID);
        // SAFETY: the descriptor says that the column is a jsonb.
        self.datum(column).map(|datum| unsafe { datum.jsonb(self.memory) })
    }

    /// The names and types of the columns.
    pub fn descriptor(&self) -> Descriptor<'p> {
        self.descriptor
    }

    /// Returns the values as a row that has no tuple. Detoasted copies of its values go into `memory`.
    fn row<'r>(&self, memory: Memory<'r>) -> Row<'r>
    where
        'p: 'r,
    {
        // SAFETY: the slot keeps its values until it has been received; they have the types of the descriptor.
        unsafe { Row::from_values(self.values, self.nulls, self.descriptor, memory) }
    }

    /// Copies `columns` to a row in the memory of the connection. Values that are stored out of line are not copied. `descriptor` is made
    /// for the first row, and shared by all rows with these columns.
    ///
    /// The row must have at least `WIDTH` columns. If the caller passes constants as `columns`, none of them is checked at run time.
    #[inline(always)]
    pub fn project<const N: usize, const WIDTH: usize>(
        &self,
        columns: [usize; N],
        descriptor: &mut Option<Descriptor<'s>>,
    ) -> Row<'s> {
        let descriptor = *descriptor.get_or_insert_with(|| self.descriptor.project(&columns, self.memory));
        let (values, nulls) = (self.values.first_chunk::<WIDTH>(), self.nulls.first_chunk::<WIDTH>());
        let (values, nulls) = values.zip(nulls).expect("the row has so many columns");
        let mut values = columns.map(|column| values[column - 1]);
        let mut nulls = columns.map(|column| nulls[column - 1]);
        // SAFETY: as many values and nulls as columns, which have the types of those that they are copied from.
        self.memory.run(|| unsafe {
            let tuple = pg_sys::heap_form_tuple(descriptor.into_raw(), values.as_mut_ptr(), nulls.as_mut_ptr());
            Row::from_raw(tuple, descriptor, self.memory)
        })
    }
}

/// The receiver to which PostgreSQL sends the rows of a statement.
#[repr(C)]
struct Receiver<'t, 's> {
    callbacks: pg_sys::DestReceiver,
    take: &'t mut dyn FnMut(&SlotRow<'_, 's>) -> bool,
    memory: Memory<'s>,
}

const RECEIVER: pg_sys::DestReceiver = pg_sys::DestReceiver {
    receiveSlot: Some(receive),
    rStartup: Some(start),
    rShutdown: Some(end),
    rDestroy: Some(end),
    mydest: pg_sys::CommandDest::DestNone,
};

/// # Safety
/// PostgreSQL must call it with a slot and the [`Receiver`] that [`Spi::stream`] passed.
unsafe extern "C-unwind" fn receive(slot: *mut pg_sys::TupleTableSlot, receiver: *mut pg_sys::DestReceiver) -> bool {
    // SAFETY: the guard turns a panic into an error of PostgreSQL before it reaches C. A slot whose columns have been taken
    // out of its tuple has as many values and nulls as its descriptor has columns.
    unsafe {
        pg_sys::panic::pgrx_extern_c_guard(|| {
            let receiver = &mut *receiver.cast::<Receiver<'_, '_>>();
            let (descriptor, known) = ((*slot).tts_tupleDescriptor, (*slot).tts_nvalid as i32);
            let count = (*descriptor).natts;
            if known < count {
                pg_sys::slot_getsomeattrs_int(slot, count);
            }
            let values = std::slice::from_raw_parts((*slot).tts_values, count as usize);
            let nulls = std::slice::from_raw_parts((*slot).tts_isnull, count as usize);
            let (descriptor, memory) = (Descriptor::from_raw(descriptor), receiver.memory);
            memory.run(|| (receiver.take)(&SlotRow { values, nulls, descriptor, memory }))
        })
    }
}

unsafe extern "C-unwind" fn start(_: *mut pg_sys::DestReceiver, _: i32, _: pg_sys::TupleDesc) {}

unsafe extern "C-unwind" fn end(_: *mut pg_sys::DestReceiver) {}
