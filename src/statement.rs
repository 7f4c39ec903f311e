//! Glue: prepared statements, each planned once in a backend and run many times.

use crate::error::Error;
use crate::memory::Context;
use pgrx::pg_sys;
use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Literals as one C string.
macro_rules! sql {
    ($($part:expr),+) => {
        match std::ffi::CStr::from_bytes_with_nul(concat!($($part,)+ "\0").as_bytes()) {
            Ok(sql) => sql,
            Err(_) => panic!("a zero byte in the statement"),
        }
    };
}
pub(crate) use sql;

/// A file as a C string.
macro_rules! include_sql {
    ($path:literal) => {
        $crate::statement::sql!(include_str!($path))
    };
}
pub(crate) use include_sql;

/// A statement that a backend prepares at its first use and keeps.
///
/// It always runs with a generic plan: its shape does not depend on the values, and planning takes
/// longer than most runs. PostgreSQL plans it again when an object it uses changes.
pub struct Statement {
    sql: &'static CStr,
    parameters: &'static [pg_sys::Oid],
    plan: AtomicPtr<pg_sys::_SPI_plan>,
}

impl Statement {
    /// A statement and the types of its parameters.
    pub const fn new(sql: &'static CStr, parameters: &'static [pg_sys::Oid]) -> Statement {
        Statement { sql, parameters, plan: AtomicPtr::new(ptr::null_mut()) }
    }

    /// A statement whose text is made when it is needed. It is kept for as long as the backend lives.
    pub fn made(sql: String, parameters: Vec<pg_sys::Oid>) -> Statement {
        let sql = CString::new(sql).expect("a statement without a zero byte");
        Statement::new(Box::leak(sql.into_boxed_c_str()), parameters.leak())
    }

    /// A backend has one thread; the atomic is there for Rust, not for it.
    fn plan(&self) -> pg_sys::SPIPlanPtr {
        let plan = self.plan.load(Ordering::Relaxed);
        if !plan.is_null() {
            return plan;
        }
        // SAFETY: connected to SPI (`Spi` exists); the number of parameters is that of their types.
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

/// A connection to PostgreSQL's server programming interface. After an error PostgreSQL ends it by
/// itself, with the transaction or subtransaction.
pub struct Spi(());

/// The rows of a statement. They stay until the connection is finished.
#[derive(Clone, Copy)]
pub struct Rows {
    table: *mut pg_sys::SPITupleTable,
    count: usize,
}

/// A row on its way from a statement to a receiver.
pub struct Passing<'a> {
    values: &'a [pg_sys::Datum],
    nulls: &'a [bool],
    columns: pg_sys::TupleDesc,
}

/// Where PostgreSQL sends the rows of a statement.
#[repr(C)]
struct Receiver<'a> {
    callbacks: pg_sys::DestReceiver,
    take: &'a mut dyn FnMut(&Passing<'_>),
    memory: Context,
}

/// A row of a statement.
#[derive(Clone, Copy)]
pub struct Row {
    /// The tuple, in memory of the connection.
    pub tuple: pg_sys::HeapTuple,
    /// Its description.
    pub columns: pg_sys::TupleDesc,
}

impl Spi {
    /// Connects.
    pub fn connect() -> Spi {
        // SAFETY: called within a function call, which has a transaction.
        let result = unsafe { pg_sys::SPI_connect() };
        assert_eq!(result, pg_sys::SPI_OK_CONNECT as i32, "SPI_connect failed");
        Spi(())
    }

    /// Ends the connection and frees its rows.
    pub fn finish(self) {
        // SAFETY: connected.
        let result = unsafe { pg_sys::SPI_finish() };
        assert_eq!(result, pg_sys::SPI_OK_FINISH as i32, "SPI_finish failed");
    }

    /// Reads with the active snapshot.
    pub fn read(&self, statement: &Statement, values: &[Option<pg_sys::Datum>]) -> Rows {
        self.execute(statement, values, true, pg_sys::SPI_OK_SELECT)
    }

    /// Reads with the active snapshot and hands each row to `take` as the plan makes it, before it is copied anywhere. The
    /// memory context is that of the call.
    pub fn pass(&self, statement: &Statement, values: &[Option<pg_sys::Datum>], take: &mut dyn FnMut(&Passing<'_>)) {
        let (nulls, mut values) = parameters(statement, values);
        let memory = Context::current();
        let mut receiver = Receiver { callbacks: RECEIVER, take, memory };
        // SAFETY: connected; values and nulls have the length of the plan's parameters. The receiver begins with what
        // PostgreSQL knows of it, and lives until the portal has run.
        memory.run(|| unsafe {
            let portal =
                pg_sys::SPI_cursor_open(ptr::null(), statement.plan(), values.as_mut_ptr(), nulls.as_ptr(), true);
            let all = std::ffi::c_long::MAX;
            pg_sys::PortalRunFetch(portal, pg_sys::FetchDirection::FETCH_FORWARD, all, (&raw mut receiver).cast());
            pg_sys::SPI_cursor_close(portal);
        });
    }

    /// Runs a SELECT that may write, with a snapshot of its own.
    pub fn select(&self, statement: &Statement, values: &[Option<pg_sys::Datum>]) -> Rows {
        self.execute(statement, values, false, pg_sys::SPI_OK_SELECT)
    }

    /// Runs an INSERT, and returns how many rows it added.
    pub fn insert(&self, statement: &Statement, values: &[Option<pg_sys::Datum>]) -> usize {
        self.run(statement, values, pg_sys::SPI_OK_INSERT)
    }

    /// Reads with the active snapshot, however many rows there are: they are fetched in portions, and what `take` has
    /// allocated for a row is gone after it. Ends early where `take` says false.
    pub fn for_each(
        &self,
        statement: &Statement,
        values: &[Option<pg_sys::Datum>],
        mut take: impl FnMut(Row) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        const PORTION: usize = 64;
        let (nulls, mut values) = parameters(statement, values);
        let caller = Context::current();
        let memory = caller.child();
        // SAFETY: connected; values and nulls have the length of the plan's parameters. A row and what was allocated for it are
        // not used after it.
        unsafe {
            let portal = caller.run(|| {
                pg_sys::SPI_cursor_open(ptr::null(), statement.plan(), values.as_mut_ptr(), nulls.as_ptr(), true)
            });
            let mut more = true;
            while more {
                caller.run(|| pg_sys::SPI_cursor_fetch(portal, true, PORTION as std::ffi::c_long));
                let rows = Rows { table: pg_sys::SPI_tuptable, count: pg_sys::SPI_processed as usize };
                more = rows.count == PORTION;
                for row in rows.iter() {
                    let goes_on = memory.run(|| take(row))?;
                    memory.reset();
                    if !goes_on {
                        more = false;
                        break;
                    }
                }
                pg_sys::SPI_freetuptable(rows.table);
            }
            caller.run(|| pg_sys::SPI_cursor_close(portal));
            memory.delete();
        }
        Ok(())
    }

    /// Runs a statement that changes rows or settings and returns none; returns how many rows it changed.
    pub fn run(&self, statement: &Statement, values: &[Option<pg_sys::Datum>], expected: u32) -> usize {
        self.execute(statement, values, false, expected).count
    }

    fn execute(&self, statement: &Statement, values: &[Option<pg_sys::Datum>], read_only: bool, expected: u32) -> Rows {
        let (nulls, mut values) = parameters(statement, values);
        // SAFETY: connected; values and nulls have the length of the plan's parameters. SPI leaves another memory context than
        // it found, which would outlive what the caller allocates next.
        unsafe {
            let result = Context::current()
                .run(|| pg_sys::SPI_execute_plan(statement.plan(), values.as_mut_ptr(), nulls.as_ptr(), read_only, 0));
            assert_eq!(result, expected as i32, "{:?}", statement.sql);
            Rows { table: pg_sys::SPI_tuptable, count: pg_sys::SPI_processed as usize }
        }
    }
}

const RECEIVER: pg_sys::DestReceiver = pg_sys::DestReceiver {
    receiveSlot: Some(receive),
    rStartup: Some(start_to_receive),
    rShutdown: Some(end_to_receive),
    rDestroy: Some(end_to_receive),
    mydest: pg_sys::CommandDest::DestNone,
};

/// # Safety
/// Called by PostgreSQL with a row and a [`Receiver`].
unsafe extern "C-unwind" fn receive(slot: *mut pg_sys::TupleTableSlot, receiver: *mut pg_sys::DestReceiver) -> bool {
    // SAFETY: the guard turns a panic into an error of PostgreSQL before it reaches C. A slot whose columns have been taken
    // out of its tuple has as many values and nulls as its description has columns.
    unsafe {
        pg_sys::panic::pgrx_extern_c_guard(|| {
            let receiver = &mut *receiver.cast::<Receiver<'_>>();
            let (columns, known) = ((*slot).tts_tupleDescriptor, (*slot).tts_nvalid as i32);
            let count = (*columns).natts;
            if known < count {
                pg_sys::slot_getsomeattrs_int(slot, count);
            }
            let values = std::slice::from_raw_parts((*slot).tts_values, count as usize);
            let nulls = std::slice::from_raw_parts((*slot).tts_isnull, count as usize);
            receiver.memory.run(|| (receiver.take)(&Passing { values, nulls, columns }));
            true
        })
    }
}

unsafe extern "C-unwind" fn start_to_receive(_: *mut pg_sys::DestReceiver, _: i32, _: pg_sys::TupleDesc) {}

unsafe extern "C-unwind" fn end_to_receive(_: *mut pg_sys::DestReceiver) {}

/// What SPI wants of the values of a statement's parameters.
fn parameters(statement: &Statement, values: &[Option<pg_sys::Datum>]) -> (Vec<c_char>, Vec<pg_sys::Datum>) {
    assert_eq!(values.len(), statement.parameters.len(), "parameters of {:?}", statement.sql);
    let nulls = values.iter().map(|value| if value.is_some() { b' ' } else { b'n' } as c_char).collect();
    (nulls, values.iter().map(|value| value.unwrap_or(pg_sys::Datum::from(0usize))).collect())
}

impl Rows {
    /// All rows.
    pub fn iter(self) -> impl Iterator<Item = Row> {
        // SAFETY: a SELECT leaves a table of `count` tuples, which lives as long as the connection.
        (0..self.count)
            .map(move |i| unsafe { Row { tuple: *(*self.table).vals.add(i), columns: (*self.table).tupdesc } })
    }
}

impl Passing<'_> {
    /// A column, from 1; `None` is NULL.
    pub fn column(&self, place: usize) -> Option<pg_sys::Datum> {
        (!self.nulls[place - 1]).then_some(self.values[place - 1])
    }

    /// The columns behind the first `without` as a row in the current memory context; what is stored out of line stays
    /// there. `description` is theirs, which all rows of a shape share.
    pub fn keep(&self, without: usize, description: &mut Option<pg_sys::TupleDesc>) -> Row {
        let (values, nulls) = (&self.values[without..], &self.nulls[without..]);
        // SAFETY: as many values and nulls as columns, which have the types of those that they are copied from.
        // PostgreSQL only reads the values, though it says otherwise.
        unsafe {
            let columns = *description.get_or_insert_with(|| {
                let columns = pg_sys::CreateTemplateTupleDesc(values.len() as i32);
                for place in 1..=values.len() {
                    pg_sys::TupleDescCopyEntry(columns, place as i16, self.columns, (without + place) as i16);
                }
                columns
            });
            Row {
                tuple: pg_sys::heap_form_tuple(columns, values.as_ptr().cast_mut(), nulls.as_ptr().cast_mut()),
                columns,
            }
        }
    }
}

impl Row {
    /// A copy in the current memory context; what is stored out of line stays there. `columns` is a copy of the
    /// description, which all rows of a statement share.
    pub fn copy(&self, columns: &mut Option<pg_sys::TupleDesc>) -> Row {
        // SAFETY: the tuple and its description are there.
        unsafe {
            let columns = *columns.get_or_insert_with(|| pg_sys::CreateTupleDescCopy(self.columns));
            Row { tuple: pg_sys::heap_copytuple(self.tuple), columns }
        }
    }

    /// A column, from 1; `None` is NULL.
    pub fn column(&self, place: i32) -> Option<pg_sys::Datum> {
        let mut null = false;
        // SAFETY: the tuple and its description belong together.
        let value = unsafe { pg_sys::heap_getattr(self.tuple, place, self.columns, &mut null) };
        (!null).then_some(value)
    }
}
