//! Responses: what devices get.

use crate::bounds;
use crate::error::Error;
use crate::json::text::JsonText;
use crate::page::records::{PageRecord, ShowRecords};
use crate::page::{PageRow, TakeRows};
use crate::pg::datum::Datum;
use crate::pg::fmgr::or_raise;
use crate::pg::heap::Descriptor;
use crate::pg::jsonb::{Jsonb, Node, Object};
use crate::pg::memory::Memory;
use crate::pg::server;
use crate::pg::spi::SlotRow;
use crate::pg::xact::{Failure, SqlState};
use crate::row::{Column, LogRow};
use crate::settings;
use crate::wire::changeset::NamedRecord;
use mana_sync_cursor::Position;
use mana_sync_cursor::page::{Reading, Rows, Taken};
use mana_sync_merge::change::{Change, INSERT_TIME_KEY, Op};
use mana_sync_merge::time::Time;

/// A response that is being written. Its items end where a page must end.
pub struct Response<'m> {
    json: JsonText<'m>,
    /// The JSON text that follows the items.
    end_of_items: &'static str,
    /// The number of bytes of text that the response may have. The first item is written even if it is larger.
    most: usize,
    /// The number of changes or records that the response has so far.
    items: usize,
}

/// The values that follow the items of a response.
pub struct End<'e> {
    /// The cursor from which the reader's next pull begins.
    pub synced_until: &'e str,
    /// Whether there may be more changes now.
    pub more: bool,
    /// The spaces of the reader; `None` if the response does not list them.
    pub spaces: Option<&'e [&'e [u8]]>,
    /// The pushed changes that were not recorded; `None` if the response does not list them.
    pub rejected: Option<&'e [Rejected<'e>]>,
    /// Whether the reader holds changes that are not in the log (the key `beginAgain`).
    pub begin_again: bool,
    /// Whether the reader has to begin again, so that the response has no items (the key `resyncRequired`).
    pub resync_required: bool,
}

impl<'m> Response<'m> {
    /// Begins a response that will have changes.
    pub fn of_changes(memory: Memory<'m>) -> Response<'m> {
        Response::new("{\"serverChanges\":[", "],\"conflicts\":[]", memory)
    }

    /// Begins a response that will have records.
    pub fn of_records(memory: Memory<'m>) -> Response<'m> {
        Response::new("{\"serverChanges\":[],\"conflicts\":[],\"records\":[", "]", memory)
    }

    fn new(begin: &str, end_of_items: &'static str, memory: Memory<'m>) -> Response<'m> {
        let mut json = JsonText::new(memory);
        json.raw(begin);
        Response { json, end_of_items, most: settings::max_page_bytes(), items: 0 }
    }

    /// Ends the response, and returns it as a value of type `json`.
    pub fn finish(mut self, end: &End<'_>) -> Datum<'m> {
        let json = &mut self.json;
        json.raw(self.end_of_items);
        json.raw(",\"syncedUntil\":");
        json.string(end.synced_until.as_bytes());
        json.raw(if end.more { ",\"hasMore\":true" } else { ",\"hasMore\":false" });
        if let Some(rejected) = end.rejected {
            json.raw(",\"rejected\":");
            write_rejected(json, rejected);
        }
        if let Some(spaces) = end.spaces {
            json.raw(",\"spaces\":");
            write_strings(json, spaces.iter().copied());
        }
        if end.begin_again {
            json.raw(",\"beginAgain\":true");
        }
        json.raw(if end.resync_required { ",\"resyncRequired\":true}" } else { "}" });
        self.json.finish()
    }

    /// Adds a change. Returns false if the response has no room for it.
    pub fn add_change(&mut self, position: Position, row: &PageRow<'_>) -> bool {
        self.add(|json| or_raise(write_change(json, &row.log_row().deform(), position)))
    }

    /// Adds an item. Returns false, and adds nothing, if there is no room for the item.
    fn add(&mut self, write: impl FnOnce(&mut JsonText<'m>)) -> bool {
        let before = self.json.length();
        if self.items > 0 {
            self.json.raw(",");
        }
        write(&mut self.json);
        let fits = self.items == 0 || self.json.length() <= self.most;
        match fits {
            true => self.items += 1,
            false => self.json.truncate(before),
        }
        fits
    }
}

impl<'s> TakeRows<'s> for Response<'_> {
    type Row = PageRow<'s>;

    fn row(slot: &SlotRow<'_, 's>, descriptor: &mut Option<Descriptor<'s>>) -> PageRow<'s> {
        PageRow::of_change(slot, descriptor)
    }
}

impl Rows<PageRow<'_>> for Response<'_> {
    fn take(&mut self, position: Position, row: PageRow<'_>, _: &Reading<'_>) -> Taken {
        if self.add_change(position, &row) { Taken::Shown } else { Taken::Full }
    }
}

impl<'s> ShowRecords<'s> for Response<'_> {
    fn show(&mut self, record: &PageRecord<'s>) -> bool {
        self.add(|json| write_record(json, record))
    }
}

fn write_change(json: &mut JsonText<'_>, row: &LogRow<'_>, position: Position) -> Result<(), Error> {
    let text = |column| row.text(column);
    let change = row.change_at(position)?;
    let recorded = ServerTime { time: change.created_at, text: change.created_at.to_rfc3339() };
    json.raw("{\"eventId\":\"");
    json.raw(row.id()?.hyphenated().encode_lower(&mut [0; 36]));
    json.raw("\",\"schemaVersion\":");
    json.raw(&row.schema_version().to_string());
    for (key, column) in [(",\"table\":", Column::TableName), (",\"id\":", Column::RecordId), (",\"op\":", Column::Op)]
    {
        json.raw(key);
        json.string(text(column).unwrap_or_default());
    }
    let value = |column| row.jsonb(column).map(Jsonb::root);
    let (data, times, actor) = (value(Column::Data), value(Column::FieldTimestamps), value(Column::Actor));
    match bounds::is_too_large([data, times, actor].into_iter().flatten()) {
        true => json.raw(",\"valuesOmitted\":true"),
        false => write_values(json, &change, &recorded, (data, actor)),
    }
    for (key, column) in [(",\"spaceId\":", Column::SpaceId), (",\"origin\":", Column::Origin)] {
        if let Some(text) = text(column) {
            json.raw(key);
            json.string(text);
        }
    }
    json.raw(",\"recordedAt\":\"");
    json.raw(&recorded.text);
    json.raw("\",\"position\":\"");
    json.raw(&position.to_text());
    json.raw("\"}");
    Ok(())
}

/// The time at which the server recorded a change. Writes without a time of the device count as made at this time.
struct ServerTime {
    time: Time,
    text: String,
}

impl ServerTime {
    /// Writes a time as JSON, in the device's spelling if there is one.
    fn write(&self, json: &mut JsonText<'_>, time: Time, device_time: Option<&[u8]>) {
        match device_time {
            Some(text) => json.string(text),
            None if time == self.time => json.string(self.text.as_bytes()),
            None => json.string(time.to_rfc3339().as_bytes()),
        }
    }
}

/// Writes the values of a change, and their times. Each time is the one that counts in merging, which need not be the
/// one that the device sent.
fn write_values(
    json: &mut JsonText<'_>,
    change: &Change<Object<'_>>,
    recorded: &ServerTime,
    (data, actor): (Option<Node<'_>>, Option<Node<'_>>),
) {
    let (whole, whole_text) = (change.stamp().time, change.device_time());
    match (change.op, data) {
        (Op::Update, _) if change.data.is_some() => {
            json.raw(",\"fields\":");
            let mut separator = "{";
            for write in change.writes() {
                json.raw(separator);
                separator = ",";
                json.string(write.name);
                json.raw(":{\"value\":");
                json.value(write.value);
                json.raw(",\"at\":");
                recorded.write(json, write.stamp.time, write.device_time);
                json.raw("}");
            }
            json.raw(if separator == "{" { "{}" } else { "}" });
        }
        // An update without data was recorded without a changeset.
        (Op::Update, None) => json.raw(",\"fields\":{}"),
        (Op::Delete, _) => {
            json.raw(",\"deletedAt\":");
            recorded.write(json, whole, whole_text);
        }
        (Op::Insert | Op::Update, Some(data)) => {
            json.raw(",\"data\":");
            json.value(data);
        }
        (Op::Insert, None) => {}
    }
    if change.op == Op::Insert {
        json.raw(",\"at\":");
        recorded.write(json, whole, whole_text);
        // An insert may have been recorded with times of its fields, though not by a changeset.
        let is_of_field = |(key, _): (Node<'_>, Node<'_>)| key.text() != Some(INSERT_TIME_KEY.as_bytes());
        if change.field_timestamps.is_some_and(|times| times.pairs().any(is_of_field)) {
            let mut separator = ",\"fieldTimestamps\":{";
            for write in change.writes().filter(|write| write.stamp.time != whole) {
                json.raw(std::mem::replace(&mut separator, ","));
                json.string(write.name);
                json.raw(":");
                recorded.write(json, write.stamp.time, write.device_time);
            }
            json.raw(if separator == "," { "}" } else { "" });
        }
    }
    if let Some(actor) = actor {
        json.raw(",\"actor\":");
        json.value(actor);
    }
}

fn write_record(json: &mut JsonText<'_>, record: &PageRecord<'_>) {
    let (key, merged) = (&record.key, &record.merged);
    for (name, text) in [("{\"table\":", key.table()), (",\"id\":", key.record())] {
        json.raw(name);
        json.string(text);
    }
    if let Some(space) = merged.space {
        json.raw(",\"spaceId\":");
        json.string(space);
    }
    let others = || record.spaces.iter().map(|id| &**id).filter(|id| *id != merged.space.unwrap_or_default());
    if others().next().is_some() {
        json.raw(",\"otherSpaces\":");
        write_strings(json, others());
    }
    // As in the columns of `records`, which have no more than microseconds.
    let time = |time: Time| Time::from_micros(time.micros()).to_rfc3339();
    match merged.deleted_at {
        Some(deleted_at) => {
            json.raw(",\"deletedAt\":");
            json.string(time(deleted_at).as_bytes());
        }
        None => {
            json.raw(",\"data\":");
            json.value(merged.data.root());
            json.raw(",\"fieldTimestamps\":");
            json.value(merged.field_timestamps.root());
        }
    }
    json.raw(",\"updatedAt\":");
    json.string(time(merged.updated_at).as_bytes());
    json.raw("}");
}

/// A change of a push that was not recorded, and the reason.
#[derive(Clone)]
pub struct Rejected<'a> {
    /// The place of the change in the changeset, from 0.
    pub index: usize,
    /// The ids by which the device can find the change.
    named: NamedRecord<'a>,
    /// The SQLSTATE of the error.
    code: SqlState,
    /// The message of the error.
    message: String,
}

impl<'a> Rejected<'a> {
    /// Makes the entry for a change that the extension refuses.
    pub fn new(index: usize, named: &NamedRecord<'a>, error: &Error) -> Rejected<'a> {
        Rejected { index, named: *named, code: error.sql_state(), message: legible(error.to_string()) }
    }

    /// Makes the entry for a change that a trigger, a constraint or a policy of the application refuses.
    pub fn by_application(index: usize, named: &NamedRecord<'a>, failure: Failure) -> Rejected<'a> {
        Rejected { index, named: *named, code: failure.code, message: legible(failure.message) }
    }
}

/// Returns the message in a form that the encoding of the database can store: unless it is UTF-8, characters that are
/// not ASCII become `?`.
fn legible(message: String) -> String {
    match server::is_utf8() {
        true => message,
        false => message.chars().map(|char| if char.is_ascii() { char } else { '?' }).collect(),
    }
}

/// Writes an array of the changes that were not recorded.
pub fn write_rejected(json: &mut JsonText<'_>, rejected: &[Rejected<'_>]) {
    let mut separator = "[";
    for change in rejected {
        json.raw(separator);
        separator = ",";
        json.raw("{\"index\":");
        json.raw(&change.index.to_string());
        for (key, text) in [
            (",\"eventId\":", change.named.event),
            (",\"table\":", change.named.table),
            (",\"id\":", change.named.record),
            (",\"code\":", Some(change.code.as_str().as_bytes())),
            (",\"error\":", Some(change.message.as_bytes())),
        ] {
            if let Some(text) = text {
                json.raw(key);
                json.string(text);
            }
        }
        json.raw("}");
    }
    json.raw(if separator == "[" { "[]" } else { "]" });
}

fn write_strings<'t>(json: &mut JsonText<'_>, strings: impl Iterator<Item = &'t [u8]>) {
    let mut separator = "[";
    for string in strings {
        json.raw(separator);
        separator = ",";
        json.string(string);
    }
    json.raw(if separator == "[" { "[]" } else { "]" });
}
