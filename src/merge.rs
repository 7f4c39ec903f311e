//! `mana_sync.merge_changes`, the aggregate that makes a record of its changes. What a merge is, see the crate
//! `mana_sync_merge`; here are the ways of a change into it and of a record out of it.
//!
//! The state is kept in the memory of the aggregate, so that the server knows how large it is and can spill a hash
//! aggregation to disk. It is declared as `internal`: nobody can make one up in SQL.

use crate::bounds::{self, MOST_SENT};
use crate::error::Error;
use crate::function::{Args, sql_function, text_of};
use crate::json_text::Size;
use crate::jsonb::{self, Builder, Object, Raw, Value};
use crate::memory::Context;
use mana_sync_cursor::Position;
use mana_sync_merge::change::{Change, FieldWrite, JsonObject, Op};
use mana_sync_merge::record::{Field, Record};
use mana_sync_merge::time::Time;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};
use std::ptr::NonNull;

sql_function!(mana_sync_merge_change, pg_finfo_mana_sync_merge_change, merge_change);
sql_function!(mana_sync_merge_combine, pg_finfo_mana_sync_merge_combine, merge_combine);
sql_function!(mana_sync_merge_serialize, pg_finfo_mana_sync_merge_serialize, merge_serialize);
sql_function!(mana_sync_merge_deserialize, pg_finfo_mana_sync_merge_deserialize, merge_deserialize);
sql_function!(mana_sync_merge_result, pg_finfo_mana_sync_merge_result, merge_result);

/// The value of a field, and the spelling of its time, in one piece of memory.
pub struct Kept {
    kind: pg_sys::jbvType::Type,
    /// The value, and behind it the spelling.
    bytes: allocator_api2::vec::Vec<u8, Context>,
    /// Where the one ends and the other begins.
    at: usize,
}

/// What the aggregate keeps of a record.
pub type State = Record<Kept, Context>;

impl Kept {
    fn new(kind: pg_sys::jbvType::Type, value: &[u8], at: &[u8], memory: Context) -> Kept {
        let mut bytes = allocator_api2::vec::Vec::with_capacity_in(value.len() + at.len(), memory);
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(at);
        Kept { kind, bytes, at: value.len() }
    }

    fn copy(&self, memory: Context) -> Kept {
        let (value, at) = self.bytes.split_at(self.at);
        Kept::new(self.kind, value, at, memory)
    }

    fn value(&self) -> Raw<'_> {
        // SAFETY: the bytes are those of a value of this kind, at the start of an allocation of the server, which is
        // aligned for every type.
        unsafe { Raw::from_bytes(self.kind, &self.bytes[..self.at]) }
    }

    /// For [`Kept::from_bytes`].
    fn to_bytes(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.kind.to_le_bytes());
        bytes.extend_from_slice(&(self.at as u32).to_le_bytes());
        bytes.extend_from_slice(&self.bytes);
    }

    fn from_bytes(bytes: &[u8], memory: Context) -> Option<Kept> {
        let (kind, rest) = bytes.split_first_chunk()?;
        let (at, rest) = rest.split_first_chunk()?;
        let (value, spelling) = rest.split_at_checked(u32::from_le_bytes(*at) as usize)?;
        Some(Kept::new(u32::from_le_bytes(*kind) as pg_sys::jbvType::Type, value, spelling, memory))
    }
}

/// `mana_sync.merge_change(internal, op, data, field_timestamps, created_at, epoch, xact, seq, space_id)`
///
/// Merges a change into the state. One without an op is none (an outer join's, say).
fn merge_change(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let memory = aggregate_memory(args)?;
    let state = args.datum(0);
    let Some(op) = args.text(1) else { return Ok(state) };
    // SAFETY: the arguments are declared so.
    let change = unsafe { change(op, args.datum(2), args.datum(3), args, 4)? };
    let space = args.text(8).filter(|space| !space.is_empty());
    let mut state = state.map_or_else(|| memory.keep(State::new(memory)), state_of);
    // SAFETY: the state is this aggregate's alone.
    apply(unsafe { state.as_mut() }, &change, space, memory);
    Ok(Some(pg_sys::Datum::from(state.as_ptr())))
}

/// Merges a change into a state in `memory`.
pub fn apply(state: &mut State, change: &Change<Object<'_>>, space: Option<&[u8]>, memory: Context) {
    state.apply(change, space, |write: &FieldWrite<'_, Raw<'_>>| {
        let (kind, value) = write.value.bytes();
        Kept::new(kind, value, write.device_time.unwrap_or_default(), memory)
    });
}

/// A change of parts; `created_at`, `epoch`, `xact` and `seq` are arguments from `place` on.
///
/// # Safety
/// `data` and `field_timestamps` are jsonb, the arguments are of their types, and all live for `'a`.
unsafe fn change<'a>(
    op: &[u8],
    data: Option<pg_sys::Datum>,
    field_timestamps: Option<pg_sys::Datum>,
    args: &Args<'a>,
    place: usize,
) -> Result<Change<Object<'a>>, Error> {
    const NAMES: [&str; 4] = ["created_at", "epoch", "xact", "seq"];
    let part = |i: usize| args.datum(place + i).map(|datum| datum.value()).ok_or(Error::Null(NAMES[i]));
    Ok(Change {
        op: Op::parse(op).ok_or(Error::Op)?,
        created_at: Time::from_micros(part(0)? as i64),
        position: Position::new(part(1)? as u32, part(2)? as u64, part(3)? as i64),
        // SAFETY: see above.
        data: unsafe { object(data) },
        // SAFETY: see above.
        field_timestamps: unsafe { object(field_timestamps) },
    })
}

/// A jsonb that is an object.
///
/// # Safety
/// It is a jsonb that lives for `'a`.
pub unsafe fn object<'a>(datum: Option<pg_sys::Datum>) -> Option<Object<'a>> {
    // SAFETY: see above.
    match unsafe { jsonb::root(datum?) }.get() {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

/// `mana_sync.merge_combine(internal, internal) RETURNS internal`
fn merge_combine(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let memory = aggregate_memory(args)?;
    let Some(other) = args.datum(1).map(state_of) else { return Ok(args.datum(0)) };
    let mut state = args.datum(0).map_or_else(|| memory.keep(State::new(memory)), state_of);
    // SAFETY: the first state is this aggregate's alone, the other is another one and only read.
    unsafe { state.as_mut().combine(other.as_ref(), |kept| kept.copy(memory)) };
    Ok(Some(pg_sys::Datum::from(state.as_ptr())))
}

/// `mana_sync.merge_serialize(internal) RETURNS bytea`
fn merge_serialize(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    aggregate_memory(args)?;
    let Some(state) = args.datum(0).map(state_of) else { return Ok(None) };
    let mut bytes = Vec::new();
    // SAFETY: a state, only read.
    unsafe { state.as_ref() }.to_bytes(&mut bytes, Kept::to_bytes);
    // A bytea and a text have the same form.
    Ok(Some(crate::function::text_datum(&bytes)))
}

/// `mana_sync.merge_deserialize(bytea, internal) RETURNS internal`
fn merge_deserialize(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    aggregate_memory(args)?;
    // It goes into another state at once.
    let memory = Context::current();
    // A bytea and a text have the same form.
    let state =
        args.text(0).and_then(|bytes| State::from_bytes(bytes, memory, |value| Kept::from_bytes(value, memory)));
    let state = state.ok_or(Error::Installation("a state of merge_changes cannot be read"))?;
    Ok(Some(pg_sys::Datum::from(memory.keep(state).as_ptr())))
}

/// `mana_sync.merge_result(internal) RETURNS mana_sync.merged_record`
///
/// Its columns are space_id, data, field_timestamps, deleted_at, updated_at.
fn merge_result(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    aggregate_memory(args)?;
    // SAFETY: a state, only read.
    let state = match args.datum(0).map(state_of) {
        Some(state) => unsafe { &*state.as_ptr() },
        None => return Ok(None),
    };
    let Some(updated_at) = state.updated_at() else { return Ok(None) };
    // In the order of jsonb, which the server sorts them into otherwise.
    let mut fields: Vec<_> = state.fields().iter().collect();
    leave_out_what_is_too_large(&mut fields);
    fields.sort_unstable_by_key(|field| (field.name().len(), field.name()));
    let spellings: Vec<String> = fields
        .iter()
        .map(|field| match field.value.bytes.len() == field.value.at {
            true => field.stamp.time.to_rfc3339(),
            false => String::new(),
        })
        .collect();
    let (mut data, mut times) = (Builder::new(), Builder::new());
    for (field, spelling) in fields.iter().zip(&spellings) {
        let name = jsonb::string(field.name());
        data.add(name, field.value.value());
        let at = &field.value.bytes[field.value.at..];
        times.add(name, jsonb::string(if at.is_empty() { spelling.as_bytes() } else { at }));
    }
    let time = |time: Time| pg_sys::Datum::from(time.micros());
    let columns = [
        state.space().map(crate::function::text_datum),
        Some(data.datum()),
        Some(times.datum()),
        state.deleted_at().map(time),
        Some(time(updated_at)),
    ];
    args.composite(columns).map(Some)
}

/// Leaves the largest fields out, with a warning, where the others could not be returned with them: a record that many changes
/// have made larger than a value can be must not hide all others.
fn leave_out_what_is_too_large(fields: &mut Vec<&Field<Kept, Context>>) {
    if !bounds::is_too_large(fields.iter().map(|field| field.value.value())) {
        return;
    }
    let text = |field: &&Field<Kept, Context>| Size::of(field.value.value()).text.max(field.value.at);
    fields.sort_by_cached_key(text);
    let mut total = 0;
    let fitting = fields.iter().take_while(|field| {
        total += text(field);
        total <= MOST_SENT
    });
    let fitting = fitting.count();
    let names: Vec<_> = fields.drain(fitting..).map(|field| String::from_utf8_lossy(field.name())).collect();
    let shown: Vec<String> = names.iter().take(5).map(|name| format!("\"{name}\"")).collect();
    let more = match names.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = "a record is too large: its largest fields are left out";
    ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "mana_sync")
        .set_detail(format!("Fields: {}{more}.", shown.join(", ")))
        .report(PgLogLevel::WARNING);
}

/// The memory of the aggregate that calls.
fn aggregate_memory(args: &Args) -> Result<Context, Error> {
    let mut memory = std::ptr::null_mut();
    // SAFETY: `fcinfo` is that of the call; the context that is set outlives the states in it.
    unsafe {
        match pg_sys::AggCheckCallContext(args.fcinfo(), &mut memory) {
            0 => Err(Error::NoAggregate),
            _ => Ok(Context::existing(memory)),
        }
    }
}

/// A state: SQL cannot make an `internal`, so that it is one of this module's.
fn state_of(datum: pg_sys::Datum) -> NonNull<State> {
    NonNull::new(datum.cast_mut_ptr()).expect("a state is not NULL")
}

/// The change that a row of the log is.
///
/// # Safety
/// The columns from `first` on are op, data, field_timestamps, created_at, epoch, xact, seq; the row lives for `'a`.
pub unsafe fn change_of<'a>(row: &crate::statement::Row, first: i32) -> Result<Change<Object<'a>>, Error> {
    let part =
        |place: i32| row.column(first + place).ok_or(Error::Installation("a column of mana_sync.sync_changes is NULL"));
    // SAFETY: see above.
    unsafe {
        Ok(Change {
            op: Op::parse(text_of(part(0)?)).ok_or(Error::Installation("mana_sync.sync_changes has another op"))?,
            data: object(row.column(first + 1)),
            field_timestamps: object(row.column(first + 2)),
            created_at: Time::from_micros(part(3)?.value() as i64),
            position: Position::new(part(4)?.value() as u32, part(5)?.value() as u64, part(6)?.value() as i64),
        })
    }
}

impl<'a> JsonObject<'a> for Object<'a> {
    type Value = Raw<'a>;

    fn string(&self, key: &[u8]) -> Option<&'a [u8]> {
        match self.get(key)?.get() {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    fn fields(self) -> impl Iterator<Item = (&'a [u8], Raw<'a>)> {
        self.pairs().filter_map(|(key, value)| match key.get() {
            Value::String(name) => Some((name, value)),
            _ => None,
        })
    }
}
