//! Responses: what devices get.

use crate::bounds;
use crate::json::text::JsonText;
use crate::page::{PageRow, TakeRows};
use crate::pg::datum::Datum;
use crate::pg::jsonb::{Jsonb, Node, Object};
use crate::pg::memory::Memory;
use crate::row::{Column, LogRow};
use crate::settings;
use mana_sync_cursor::page::Rows;
use mana_sync_merge::change::INSERT_TIME_KEY;

/// A response that is being written. It is not longer than a page may be.
pub struct Response<'m> {
    json: JsonText<'m>,
    /// The most bytes of text that it may have, unless the first change has more.
    most: usize,
    /// How many changes it has.
    changes: usize,
}

impl<'m> Response<'m> {
    /// A response without changes.
    pub fn new(memory: Memory<'m>) -> Response<'m> {
        let mut json = JsonText::new(memory);
        json.raw("{\"serverChanges\":[");
        Response { json, most: settings::max_page_bytes(), changes: 0 }
    }

    /// The response as a `json`, for a reader that goes on from the cursor `synced_until`.
    pub fn finish(mut self, synced_until: &str, more: bool, resync_required: bool) -> Datum<'m> {
        self.json.raw("],\"conflicts\":[],\"syncedUntil\":");
        self.json.string(synced_until.as_bytes());
        self.json.raw(if more { ",\"hasMore\":true" } else { ",\"hasMore\":false" });
        self.json.raw(if resync_required { ",\"resyncRequired\":true}" } else { "}" });
        self.json.finish()
    }
}

impl TakeRows for Response<'_> {
    const NEEDS_SIZE: bool = false;
}

impl Rows<PageRow<'_>> for Response<'_> {
    fn take(&mut self, row: PageRow<'_>) -> bool {
        let before = self.json.length();
        if self.changes > 0 {
            self.json.raw(",");
        }
        write_change(&mut self.json, &row.log_row());
        let fits = self.changes == 0 || self.json.length() <= self.most;
        if fits {
            self.changes += 1;
        } else {
            self.json.truncate(before);
        }
        fits
    }
}

fn write_change(json: &mut JsonText<'_>, row: &LogRow<'_>) {
    let text = |column| row.text(column);
    let value = |column| row.jsonb(column).map(Jsonb::root);
    if let Ok(id) = row.id() {
        json.raw("{\"eventId\":\"");
        json.raw(id.hyphenated().encode_lower(&mut [0; 36]));
        json.raw("\",\"schemaVersion\":");
    }
    json.raw(&row.schema_version().to_string());
    let op = text(Column::Op).unwrap_or_default();
    for (key, bytes) in
        [(",\"table\":", text(Column::TableName)), (",\"id\":", text(Column::RecordId)), (",\"op\":", Some(op))]
    {
        json.raw(key);
        json.string(bytes.unwrap_or_default());
    }
    let (mut data, mut times, mut actor) = (value(Column::Data), value(Column::FieldTimestamps), value(Column::Actor));
    if bounds::is_too_large([data, times, actor].into_iter().flatten()) {
        (data, times, actor) = (None, None, None);
        json.raw(",\"valuesOmitted\":true");
    }
    let times = times.and_then(Node::object);
    match (op, data, data.and_then(Node::object)) {
        (b"update", _, Some(object)) => {
            json.raw(",\"fields\":");
            write_fields(json, object, times);
        }
        (b"delete", _, Some(object)) => {
            if let Some(time) = object.get(b"deletedAt") {
                json.raw(",\"deletedAt\":");
                json.value(time);
            }
        }
        // An update without data was recorded without a changeset.
        (b"update", None, _) => json.raw(",\"fields\":{}"),
        (_, Some(data), _) => {
            json.raw(",\"data\":");
            json.value(data);
        }
        (_, None, _) => {}
    }
    if let (b"insert", Some(time)) = (op, times.and_then(|times| times.get(INSERT_TIME_KEY.as_bytes()))) {
        json.raw(",\"at\":");
        json.value(time);
    }
    if let Some(space) = text(Column::SpaceId) {
        json.raw(",\"spaceId\":");
        json.string(space);
    }
    if let Some(actor) = actor {
        json.raw(",\"actor\":");
        json.value(actor);
    }
    json.raw("}");
}

fn write_fields(json: &mut JsonText<'_>, values: Object<'_>, times: Option<Object<'_>>) {
    let mut separator = "{";
    for (key, value) in values.pairs() {
        let Some(name) = key.text() else { continue };
        json.raw(separator);
        separator = ",";
        json.string(name);
        json.raw(":{\"value\":");
        json.value(value);
        if let Some(time) = times.and_then(|times| times.get(name)) {
            json.raw(",\"at\":");
            json.value(time);
        }
        json.raw("}");
    }
    json.raw(if separator == "{" { "{}" } else { "}" });
}
