//! A record in the server's memory: its state while changes are merged into it, and the merged result.
//!
//! The crate `mana_sync_merge` knows how changes are merged.

use crate::bounds::{self, MOST_SENT};
use crate::json::text::Size;
use crate::pg::jsonb::{self, Builder, Jsonb, Node, NodeBuf, Object};
use crate::pg::memory::Memory;
use mana_sync_merge::change::{Change, FieldWrite};
use mana_sync_merge::record::{Field, Record};
use mana_sync_merge::time::Time;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

/// The state of a record after some of its changes. For each field, the record stores the value, and the device's spelling of the time of
/// the write. The spelling is empty if that time is the server's.
pub struct State<'m>(pub Record<NodeBuf<'m>, Memory<'m>>);

impl<'m> State<'m> {
    /// The state before the first change.
    pub fn new(memory: Memory<'m>) -> State<'m> {
        State(Record::new(memory))
    }

    /// Merges a change. The fields that the record keeps are copied into `memory`.
    pub fn apply(&mut self, change: &Change<Object<'_>>, space: Option<&[u8]>, memory: Memory<'m>) {
        self.0.apply(change, space, |write: &FieldWrite<'_, Node<'_>>| {
            NodeBuf::new(write.value, write.device_time.unwrap_or_default(), memory)
        });
    }

    /// Returns the merged record, in `memory`; `None` if no change wrote anything. A record that is too large to be sent lacks its largest
    /// fields.
    pub fn merged<'o>(&self, memory: Memory<'o>) -> Option<MergedRecord<'o>> {
        let State(record) = self;
        let updated_at = record.updated_at()?;
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
        Some(MergedRecord {
            space: record.space().map(|space| memory.bytes(space)),
            data: data.finish(),
            field_timestamps: times.finish(),
            deleted_at: record.deleted_at(),
            updated_at,
        })
    }
}

/// A record as its readers see it.
#[derive(Clone, Copy)]
pub struct MergedRecord<'m> {
    /// The space of the latest write of any kind; `None` if that write was private.
    pub space: Option<&'m [u8]>,
    /// The value of each field.
    pub data: Jsonb<'m>,
    /// The time at which each field was written: an object of RFC 3339 timestamps.
    pub field_timestamps: Jsonb<'m>,
    /// The time at which the record was deleted; `None` for a live record.
    pub deleted_at: Option<Time>,
    /// The time of the latest write of any kind.
    pub updated_at: Time,
}

/// If a record is too large to be sent, removes its largest fields from `fields`, and raises a WARNING. The record itself is still sent: a
/// record that grew with many changes must not make other records unreadable.
fn leave_out_what_is_too_large(fields: &mut Vec<&Field<NodeBuf<'_>, Memory<'_>>>) {
    /// The approximate number of bytes that a field takes in addition to its name and its value: its time, and the headers of both.
    const OVERHEAD: usize = 48;
    let rest = |field: &&Field<NodeBuf<'_>, Memory<'_>>| field.name().len() + OVERHEAD;
    let are_few = fields.iter().map(rest).sum::<usize>() <= MOST_SENT / 4;
    if are_few && !bounds::is_too_large(fields.iter().map(|field| field.value.node())) {
        return;
    }
    let text = |field: &&Field<NodeBuf<'_>, Memory<'_>>| {
        rest(field) + Size::of(field.value.node()).text.max(field.value.node().stored_size())
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
