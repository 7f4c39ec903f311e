//! The functions of the aggregate `mana_sync.merge_changes`, which merges the changes of a record.
//!
//! The state of the aggregate is [`crate::merged::State`].
//!
//! A state is kept in the memory context of the aggregate, so that the server knows the size of the state and can spill a hash aggregation
//! to disk. In SQL the type of a state is `internal`, of which SQL cannot make a value.

use crate::error::Error;
use crate::merged::State;
use crate::pg::datum::Datum;
use crate::pg::fmgr::{AggregateState, Answer, Args, SerializedState, keep_state, sql_functions};
use crate::pg::jsonb::{Jsonb, NodeBuf, StoredNode};
use mana_sync_cursor::Position;
use mana_sync_merge::change::{Change, Op};
use mana_sync_merge::record::{Record, StoredRecord};
use mana_sync_merge::time::Time;

sql_functions!(merge_change, merge_combine, merge_serialize, merge_deserialize, merge_result);

impl AggregateState for State<'_> {
    const TAG: u64 = u64::from_be_bytes(*b"ms:merge");
}

/// `mana_sync.merge_change(internal, op, data, field_timestamps, created_at, epoch, xact, seq, space_id) RETURNS internal`
///
/// Merges a change into the state. A row without an op is ignored, because an outer join may have made it.
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
/// Merges the second state into the first.
fn merge_combine<'a>(args: &Args<'a>) -> Answer<'a> {
    let memory = args.aggregate_memory()?;
    let Some(other) = args.state::<State<'a>>(1) else { return Ok(args.datum(0)) };
    let (result, state) = args.first_state(State::new)?;
    state.0.combine(&other.0, |value| value.copy(memory));
    Ok(Some(result))
}

/// `mana_sync.merge_serialize(internal) RETURNS bytea`
///
/// Encodes a state for another process.
fn merge_serialize<'a>(args: &Args<'a>) -> Answer<'a> {
    args.aggregate_memory()?;
    let Some(state) = args.state::<State<'a>>(0) else { return Ok(None) };
    let bytes = postcard::to_stdvec(&state.0.to_stored(NodeBuf::stored))
        .map_err(|_| Error::Installation("a state of merge_changes cannot be written"))?;
    Ok(Some(args.memory().varlena(&bytes)))
}

/// `mana_sync.merge_deserialize(bytea, internal) RETURNS internal`
///
/// Decodes a state from another process.
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
/// Returns the merged record, with the columns space_id, data, field_timestamps, deleted_at and updated_at; NULL if no change wrote
/// anything.
fn merge_result<'a>(args: &Args<'a>) -> Answer<'a> {
    args.aggregate_memory()?;
    let memory = args.memory();
    let Some(merged) = args.state::<State<'a>>(0).and_then(|state| state.merged(memory)) else { return Ok(None) };
    let time = |time: Time| Datum::from(time.micros());
    args.composite([
        merged.space.map(|space| memory.text(space)),
        Some(merged.data.datum()),
        Some(merged.field_timestamps.datum()),
        merged.deleted_at.map(time),
        Some(time(merged.updated_at)),
    ])
}
