//! The functions of the aggregate `mana_sync.merge_changes`, which makes a record of its changes.
//!
//! The crate `mana_sync_merge` knows how changes are merged. This module takes changes in and records out.
//!
//! A state is kept in the memory of the aggregate, so that the server knows how large it is and can spill a hash
//! aggregation to disk. It is declared as `internal`: SQL cannot make one.

use crate::bounds::{self, MOST_SENT};
use crate::error::Error;
use crate::json::text::Size;
use crate::pg::datum::Datum;
use crate::pg::fmgr::{AggregateState, Answer, Args, SerializedState, keep_state, sql_functions};
use crate::pg::jsonb::{self, Builder, Jsonb, Node, NodeBuf, Object, StoredNode};
use crate::pg::memory::Memory;
use mana_sync_cursor::Position;
use mana_sync_merge::change::{Change, FieldWrite, Op};
use mana_sync_merge::record::{Field, Record, StoredRecord};
use mana_sync_merge::time::Time;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

sql_functions!(merge_change, merge_combine, merge_serialize, merge_deserialize, merge_result);

/// The state of the aggregate. For a field it keeps the value, and beside it the device's spelling of the time (empty where the time
/// is the server's).
pub struct State<'m>(pub Record<NodeBuf<'m>, Memory<'m>>);

impl AggregateState for State<'_> {
    const TAG: u64 = u64::from_be_bytes(*b"ms:merge");
}

impl<'m> State<'m> {
    /// The state before the first change.
    pub fn new(memory: Memory<'m>) -> State<'m> {
        State(Record::new(memory))
    }

    /// Merges a change, whose fields are copied into `memory`.
    pub fn apply(&mut self, change: &Change<Object<'_>>, space: Option<&[u8]>, memory: Memory<'m>) {
        self.0.apply(change, space, |write: &FieldWrite<'_, Node<'_>>| {
            NodeBuf::new(write.value, write.device_time.unwrap_or_default(), memory)
        });
    }
}

/// `mana_sync.merge_change(internal, op, data, field_timestamps, created_at, epoch, xact, seq, space_id) RETURNS internal`
///
/// Merges a change into the state. A change without an op is none: an outer join may have made it.
fn merge_change<'a>(args: &Args<'a>) -> Answer<'a> {
    let memory = args.aggregate_memory()?;
    let Some(op) = args.text(1) else { return Ok(args.datum(0)) };
    let column = |place: usize, name| args.datum(place).ok_or(Error::Null(name));
    let change = Change {
        op: Op::parse(op).ok_or(Error::Op)?,
        data: args.jsonb(2).and_then(Jsonb::object),
        field_timestamps: args.jsonb(3).and_then(Jsonb::object),
        created_at: Time::from_micros(column(4, "created_at")?.int8()),
        position: Position::new(
            column(5, "epoch")?.int4() as u32,
            column(6, "xact")?.uint8(),
            column(7, "seq")?.int8(),
        ),
    };
    let space = args.text(8).filter(|space| !space.is_empty());
    let (result, state) = args.first_state(State::new)?;
    state.apply(&change, space, memory);
    Ok(Some(result))
}

/// `mana_sync.merge_combine(internal, internal) RETURNS internal`
///
/// Combines two states into the first.
fn merge_combine<'a>(args: &Args<'a>) -> Answer<'a> {
    let memory = args.aggregate_memory()?;
    let Some(other) = args.state::<State<'a>>(1) else { return Ok(args.datum(0)) };
    let (result, state) = args.first_state(State::new)?;
    state.0.combine(&other.0, |value| value.copy(memory));
    Ok(Some(result))
}

/// `mana_sync.merge_serialize(internal) RETURNS bytea`
fn merge_serialize<'a>(args: &Args<'a>) -> Answer<'a> {
    args.aggregate_memory()?;
    let Some(state) = args.state::<State<'a>>(0) else { return Ok(None) };
    let bytes = postcard::to_stdvec(&state.0.to_stored(NodeBuf::stored))
        .map_err(|_| Error::Installation("a state of merge_changes cannot be written"))?;
    Ok(Some(args.memory().varlena(&bytes)))
}

/// `mana_sync.merge_deserialize(bytea, internal) RETURNS internal`
fn merge_deserialize<'a>(args: &Args<'a>) -> Answer<'a> {
    let Some(serialized) = SerializedState::of_args(args)? else { return Ok(None) };
    // In the memory of the call: the state is combined with another at once.
    let memory = args.memory();
    let stored: StoredRecord<'_, StoredNode<'_>> = postcard::from_bytes(serialized.bytes())
        .map_err(|_| Error::Installation("a state of merge_changes cannot be read"))?;
    let record = Record::from_stored(stored, memory, |node| NodeBuf::from_stored(node, &serialized, memory));
    Ok(Some(keep_state(State(record), memory)))
}

/// `mana_sync.merge_result(internal) RETURNS mana_sync.merged_record`
///
/// The columns of the result are space_id, data, field_timestamps, deleted_at, updated_at.
fn merge_result<'a>(args: &Args<'a>) -> Answer<'a> {
    args.aggregate_memory()?;
    let Some(State(record)) = args.state::<State<'a>>(0) else { return Ok(None) };
    let Some(updated_at) = record.updated_at() else { return Ok(None) };
    let memory = args.memory();
    let mut fields: Vec<_> = record.fields().iter().collect();
    leave_out_what_is_too_large(&mut fields);
    // The order of jsonb, which the server would sort them into otherwise.
    fields.sort_unstable_by_key(|field| (field.name().len(), field.name()));
    let spellings: Vec<String> = fields
        .iter()
        .map(|field| match field.value.text().is_empty() {
            true => field.stamp.time.to_rfc3339(),
            false => String::new(),
        })
        .collect();
    let (mut data, mut times) = (Builder::new(memory), Builder::new(memory));
    for (field, spelling) in fields.iter().zip(&spellings) {
        let (name, device_time) = (jsonb::string(field.name()), field.value.text());
        data.add(name, field.value.node());
        times.add(name, jsonb::string(if device_time.is_empty() { spelling.as_bytes() } else { device_time }));
    }
    let time = |time: Time| Datum::from(time.micros());
    args.composite([
        record.space().map(|space| memory.text(space)),
        Some(data.finish().datum()),
        Some(times.finish().datum()),
        record.deleted_at().map(time),
        Some(time(updated_at)),
    ])
}

/// Leaves out the largest fields of a record that is too large to be sent, with a warning: a record that grew with many changes must
/// not hide all others.
fn leave_out_what_is_too_large(fields: &mut Vec<&Field<NodeBuf<'_>, Memory<'_>>>) {
    if !bounds::is_too_large(fields.iter().map(|field| field.value.node())) {
        return;
    }
    let text = |field: &&Field<NodeBuf<'_>, Memory<'_>>| {
        Size::of(field.value.node()).text.max(field.value.node().stored_size())
    };
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
