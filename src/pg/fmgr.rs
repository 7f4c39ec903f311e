//! The function manager: SQL functions written in Rust.
//!
//! The functions are declared in `sql/*.sql`, where a DBA reads the declarations. Only the owner of the extension can change the
//! declarations. So the accessors in [`Args`] can rely on the declared types. Arguments are passed on as they are stored: text as bytes in
//! the encoding of the database, jsonb undecoded.

use super::datum::{Datum, types};
use super::heap::{Descriptor, Row};
use super::jsonb::Jsonb;
use super::memory::Memory;
use crate::error::Error;
use pgrx::pg_sys;

/// The result of an SQL function; `None` is NULL.
pub type Answer<'a> = Result<Option<Datum<'a>>, Error>;

/// Makes Rust functions `fn(&Args<'a>) -> Answer<'a>` callable from SQL. Exports each function under its name with the prefix `mana_sync_`,
/// together with the record by which PostgreSQL recognises a function of version 1.
macro_rules! sql_functions {
    ($($body:ident),+ $(,)?) => {
        $(
            const _: () = {
                #[allow(unsafe_code)]
                #[unsafe(export_name = concat!("pg_finfo_mana_sync_", stringify!($body)))]
                extern "C-unwind" fn info() -> *const pgrx::pg_sys::Pg_finfo_record {
                    static RECORD: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
                    &RECORD
                }

                #[allow(unsafe_code)]
                #[unsafe(export_name = concat!("mana_sync_", stringify!($body)))]
                unsafe extern "C-unwind" fn call(fcinfo: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
                    // SAFETY: `fcinfo` comes from the server, which keeps it valid during the call.
                    unsafe { $crate::pg::fmgr::call(fcinfo, $body) }
                }
            };
        )+
    };
}
pub(crate) use sql_functions;

/// Calls the body of an SQL function.
///
/// # Safety
/// `fcinfo` is that of the call, and stays valid until the call ends.
#[inline(always)]
pub unsafe fn call(
    fcinfo: pg_sys::FunctionCallInfo,
    body: impl for<'a> FnOnce(&Args<'a>) -> Answer<'a>,
) -> pg_sys::Datum {
    // SAFETY: the guard turns a Rust panic into a PostgreSQL error before it reaches C. The body cannot choose the lifetime of the
    // arguments, and so keeps none of them.
    unsafe {
        pg_sys::panic::pgrx_extern_c_guard(|| {
            let args = Args::new(fcinfo);
            match body(&args) {
                Ok(value) => {
                    (*fcinfo).isnull = value.is_none();
                    Datum::raw_or_zero(value)
                }
                Err(error) => raise(error),
            }
        })
    }
}

/// Raises an error, which ends the call.
pub fn raise(error: Error) -> ! {
    pg_sys::panic::ErrorReport::from(error).report(pgrx::PgLogLevel::ERROR);
    unreachable!("an error report does not return")
}

/// Returns the value of `result`, or raises its error. It is for implementations of traits whose functions return no errors.
pub fn or_raise<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|error| raise(error))
}

/// The arguments of a call, which exist for `'a`. They are numbered from 0. A NULL is `None`.
pub struct Args<'a> {
    fcinfo: pg_sys::FunctionCallInfo,
    memory: Memory<'a>,
}

impl<'a> Args<'a> {
    /// # Safety
    /// `fcinfo` is valid for `'a`, and the current memory context is that of the call. The declared types of the arguments are the types of
    /// the accessors that the function uses. `sql/*.sql` declares them, and the regress suite calls every function.
    unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Args<'a> {
        // SAFETY: the caller promises that the current memory context is that of the call.
        Args { fcinfo, memory: unsafe { Memory::current() } }
    }

    /// The memory context of the call. The result of the call has to be in it.
    pub fn memory(&self) -> Memory<'a> {
        self.memory
    }

    /// Returns an argument, undecoded.
    pub fn datum(&self, place: usize) -> Option<Datum<'a>> {
        // SAFETY: `fcinfo` has `nargs` arguments, which exist for 'a.
        unsafe {
            assert!(place < (*self.fcinfo).nargs as usize, "the function is declared with fewer arguments");
            let argument = &*(*self.fcinfo).args.as_ptr().add(place);
            (!argument.isnull).then(|| Datum::from_raw(argument.value))
        }
    }

    /// Returns an argument of type `text`.
    pub fn text(&self, place: usize) -> Option<&'a [u8]> {
        // SAFETY: the argument is declared as text.
        self.datum(place).map(|datum| unsafe { datum.text(self.memory) })
    }

    /// Returns an argument of type `jsonb`. It is not detoasted before it is read.
    pub fn jsonb(&self, place: usize) -> Option<Jsonb<'a>> {
        // SAFETY: the argument is declared as jsonb.
        self.datum(place).map(|datum| unsafe { datum.jsonb(self.memory) })
    }

    /// Returns an argument of type `boolean`.
    pub fn bool(&self, place: usize) -> Option<bool> {
        self.datum(place).map(Datum::bool)
    }

    /// Returns an argument of type `int`.
    pub fn int4(&self, place: usize) -> Option<i32> {
        self.datum(place).map(Datum::int4)
    }

    /// Returns an argument of type `text[]`.
    pub fn texts(&self, place: usize) -> Option<Vec<Option<&'a [u8]>>> {
        let raw = self.datum(place)?.into_raw();
        let (mut elements, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        // SAFETY: the argument is declared as text[]. PostgreSQL allocates both arrays, of `count` elements, in the memory of the
        // call; the elements are in the argument, or in its detoasted copy there.
        self.memory.run(|| unsafe {
            let array = pg_sys::pg_detoast_datum(raw.cast_mut_ptr()).cast();
            let align = pg_sys::TYPALIGN_INT as std::ffi::c_char;
            pg_sys::deconstruct_array(array, types::TEXT, -1, false, align, &mut elements, &mut nulls, &mut count);
            let text = |i: usize| {
                let element: Datum<'a> = Datum::from_raw(*elements.add(i));
                (!*nulls.add(i)).then(|| element.text(self.memory))
            };
            Some((0..count as usize).map(text).collect())
        })
    }

    /// Makes the result of a function that returns a composite type.
    pub fn composite<const N: usize>(&self, columns: [Option<Datum<'_>>; N]) -> Answer<'a> {
        // SAFETY: `flinfo` is that of the call. The descriptor is kept in its memory, for its next calls.
        unsafe {
            let info = (*self.fcinfo).flinfo;
            if (*info).fn_extra.is_null() {
                let descriptor = Memory::from_raw((*info).fn_mcxt).run(|| self.result_descriptor(N))?;
                (*info).fn_extra = descriptor.cast();
            }
            Ok(Some(composite((*info).fn_extra.cast(), columns, self.memory)))
        }
    }

    /// Makes a descriptor of the columns that the function returns, in the current memory context. Errors if there are not `count` columns.
    fn result_descriptor(&self, count: usize) -> Result<pg_sys::TupleDesc, Error> {
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: `fcinfo` is that of the call; a composite result has a descriptor.
        unsafe {
            let class = pg_sys::get_call_result_type(self.fcinfo, std::ptr::null_mut(), &mut descriptor);
            if class != pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE || (*descriptor).natts as usize != count {
                return Err(Error::Installation("a function is declared with another result"));
            }
            Ok(pg_sys::BlessTupleDesc(descriptor))
        }
    }

    /// Returns the node through which a function returns a set. Errors: 0A000 if the caller does not accept a set.
    pub(super) fn result_info(&self) -> Result<*mut pg_sys::ReturnSetInfo, Error> {
        // SAFETY: `resultinfo` is NULL or a node.
        unsafe {
            let info = (*self.fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            match !info.is_null() && (*info).type_ == pg_sys::NodeTag::T_ReturnSetInfo {
                true => Ok(info),
                false => Err(Error::NoSet),
            }
        }
    }
}

/// Makes a composite value. Column values that are stored out of line are fetched into it.
///
/// # Safety
/// The descriptor has `N` columns of the types of the values.
unsafe fn composite<'m, const N: usize>(
    descriptor: pg_sys::TupleDesc,
    columns: [Option<Datum<'_>>; N],
    memory: Memory<'m>,
) -> Datum<'m> {
    let mut nulls = columns.map(|column| column.is_none());
    let mut values = columns.map(Datum::raw_or_zero);
    // SAFETY: the caller vouches for the descriptor.
    memory.run(|| unsafe {
        let tuple = pg_sys::heap_form_tuple(descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        Datum::from_raw(pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data))
    })
}

// ---- functions that return a row a call -----------------------------------------------------------------

/// A set of rows that is returned with one row per call (`funcapi.h`), for results that are too large to be kept.
pub trait RowPerCall<const COLUMNS: usize>: Sized {
    /// Begins a set. `memory` exists as long as the set, which may keep data in it.
    fn begin(args: &Args<'_>, memory: Memory<'static>) -> Result<Self, Error>;

    /// Hands the columns of the next row to `row`, and returns what `row` returns; `None` after the last row. `memory` is that of the call
    /// for this row, and is freed after the row.
    fn next<'m>(
        &mut self,
        memory: Memory<'m>,
        row: impl FnOnce([Option<Datum<'_>>; COLUMNS]) -> Datum<'m>,
    ) -> Answer<'m>;
}

/// The body of an SQL function that returns the rows of `S`.
pub fn row_per_call<'a, S: RowPerCall<COLUMNS>, const COLUMNS: usize>(args: &Args<'a>) -> Answer<'a> {
    struct State<S> {
        set: S,
        descriptor: pg_sys::TupleDesc,
    }
    let info = args.result_info()?;
    let fcinfo = args.fcinfo;
    // SAFETY: the protocol of funcapi.h: the context, and the state in its memory, exist from the first call to the
    // last one, or to the end of the query. 'static is longer than the context exists, but nothing outlives the
    // context: the state is dropped when the context is deleted, and nothing that the state keeps there touches the
    // memory when it is dropped (child contexts are deleted before).
    unsafe {
        if (*(*fcinfo).flinfo).fn_extra.is_null() {
            let context = pg_sys::init_MultiFuncCall(fcinfo);
            let memory: Memory<'static> = Memory::from_raw((*context).multi_call_memory_ctx);
            let set = S::begin(args, memory)?;
            let descriptor = memory.run(|| args.result_descriptor(COLUMNS))?;
            let mut owner = pgrx::PgMemoryContexts::For((*context).multi_call_memory_ctx);
            (*context).user_fctx = owner.leak_and_drop_on_delete(State { set, descriptor }).cast();
        }
        let context = pg_sys::per_MultiFuncCall(fcinfo);
        let state = &mut *(*context).user_fctx.cast::<State<S>>();
        let (memory, descriptor) = (args.memory, state.descriptor);
        let row = state.set.next(memory, |columns| composite(descriptor, columns, memory))?;
        (*info).isDone = match row {
            Some(_) => pg_sys::ExprDoneCond::ExprMultipleResult,
            None => {
                pg_sys::end_MultiFuncCall(fcinfo, context);
                pg_sys::ExprDoneCond::ExprEndResult
            }
        };
        Ok(row)
    }
}

// ---- aggregates -----------------------------------------------------------------------------------------

/// The state of an aggregate, of the SQL type `internal`.
pub trait AggregateState {
    /// A number that no other type of state has. It is kept with the state, and checked before the state is used.
    const TAG: u64;
}

/// A state in the memory of its aggregate.
struct Tagged<T> {
    tag: u64,
    state: T,
}

impl<'a> Args<'a> {
    /// Returns the memory context of the aggregate that calls this function. Errors: 0A000 if no aggregate calls it.
    ///
    /// The context exists at least as long as the states in it. During this call, it exists for `'a`.
    pub fn aggregate_memory(&self) -> Result<Memory<'a>, Error> {
        let mut context = std::ptr::null_mut();
        // SAFETY: `fcinfo` is that of the call; the context that is set outlives the call.
        unsafe {
            match pg_sys::AggCheckCallContext(self.fcinfo, &mut context) {
                0 => Err(Error::NoAggregate),
                _ => Ok(Memory::from_raw(context)),
            }
        }
    }

    /// Returns an argument that is a state of the aggregate. Only the functions of an aggregate may use it.
    pub fn state<T: AggregateState>(&self, place: usize) -> Option<&'a T> {
        // SAFETY: nothing else changes the state during the call.
        self.tagged::<T>(place).map(|tagged| unsafe { &(*tagged).state })
    }

    /// Returns the state that is the first argument of a transition or combine function. If the argument is NULL, `new`
    /// makes the state, in the memory of the aggregate. The function may change the state. The returned datum is the
    /// same state, as the result of the function.
    pub fn first_state<T: AggregateState>(
        &self,
        new: impl FnOnce(Memory<'a>) -> T,
    ) -> Result<(Datum<'a>, &'a mut T), Error> {
        let memory = self.aggregate_memory()?;
        let tagged = match self.tagged::<T>(0) {
            Some(tagged) => tagged,
            None => keep_tagged(new(memory), memory),
        };
        // SAFETY: the first state of these functions is theirs to change (AggCheckCallContext in nodeAgg.c); both arguments of a
        // combine function are never the same state.
        unsafe { Ok((Datum::from_raw(pg_sys::Datum::from(tagged)), &mut (*tagged).state)) }
    }

    fn tagged<T: AggregateState>(&self, place: usize) -> Option<*mut Tagged<T>> {
        let tagged = self.datum(place)?.into_raw().cast_mut_ptr::<Tagged<T>>();
        // SAFETY: SQL cannot make an `internal`. So this is a state that `keep_state` made, or the state of another
        // aggregate, whose first eight bytes can be read.
        assert!(unsafe { (*tagged).tag } == T::TAG, "the state of another aggregate");
        Some(tagged)
    }
}

/// Moves a new state into `memory`, which is that of its aggregate. The state is never dropped.
pub fn keep_state<T: AggregateState>(state: T, memory: Memory<'_>) -> Datum<'_> {
    // SAFETY: the block exists as long as the memory.
    unsafe { Datum::from_raw(pg_sys::Datum::from(keep_tagged(state, memory))) }
}

fn keep_tagged<T: AggregateState>(state: T, memory: Memory<'_>) -> *mut Tagged<T> {
    memory.keep(Tagged { tag: T::TAG, state }).as_ptr()
}

/// A serialized state of an aggregate: a `bytea` from a parallel worker or a spilled hash table.
pub struct SerializedState<'a>(&'a [u8]);

impl<'a> SerializedState<'a> {
    /// Returns the first argument of a deserialize function. SQL cannot call such a function, because its second argument is an `internal`.
    /// [`Args::aggregate_memory`] checks that an aggregation calls it. The argument is then what the serialize function returned.
    pub fn of_args(args: &Args<'a>) -> Result<Option<SerializedState<'a>>, Error> {
        args.aggregate_memory()?;
        // A bytea has the form of a text.
        Ok(args.text(0).map(SerializedState))
    }

    /// The bytes of the state.
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }
}

// ---- triggers -------------------------------------------------------------------------------------------

/// The row for which a trigger is fired, before the row is inserted.
pub struct TriggerRow<'a>(Row<'a>);

impl<'a> TriggerRow<'a> {
    /// Returns the row for which a BEFORE INSERT trigger of `mana_sync.$table` is fired.
    ///
    /// Returns `None` if anything else calls the function. For example, whoever has EXECUTE on the trigger function could use it for a
    /// trigger on another table. The row of such a table has other columns, and must not be read.
    pub fn before_insert(args: &Args<'a>, table: &str) -> Option<TriggerRow<'a>> {
        const BEFORE_INSERT: u32 =
            pg_sys::TRIGGER_EVENT_INSERT | pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_BEFORE;
        const EVENT: u32 = pg_sys::TRIGGER_EVENT_OPMASK | pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_TIMINGMASK;
        // SAFETY: the context is NULL or a node. The node of a trigger has the relation, and the tuple if the trigger
        // is fired for a row.
        unsafe {
            let trigger = (*args.fcinfo).context.cast::<pg_sys::TriggerData>();
            if trigger.is_null() || (*trigger).type_ != pg_sys::NodeTag::T_TriggerData {
                return None;
            }
            let relation = (*(*trigger).tg_relation).rd_rel;
            if (*trigger).tg_event & EVENT != BEFORE_INSERT
                || pgrx::name_data_to_str(&(*relation).relname) != table
                || (*relation).relnamespace != pg_sys::get_namespace_oid(c"mana_sync".as_ptr(), true)
            {
                return None;
            }
            let descriptor = Descriptor::from_raw((*(*trigger).tg_relation).rd_att);
            let row = Row::from_raw((*trigger).tg_trigtuple, descriptor, args.memory);
            Some(TriggerRow(row))
        }
    }

    /// The row.
    pub fn row(&self) -> &Row<'a> {
        &self.0
    }

    /// Returns the result of a trigger function that leaves the row unchanged.
    pub fn unchanged(&self) -> Datum<'a> {
        // SAFETY: the tuple is the trigger's own.
        unsafe { Datum::from_raw(pg_sys::Datum::from(self.0.tuple())) }
    }
}
