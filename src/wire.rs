//! The wire format: what devices send and get, as JSON.
//!
//! ```text
//! changeset: {"clientId", "since", "schemaVersion"?, "limit"?, "changes": [change…]}
//! change:    {"eventId"?, "schemaVersion"?, "table", "id", "op", "fields"?: {name: {"value", "at"}},
//!             "data"?, "at"?, "deletedAt"?, "spaceId"?, "actor"?}
//! response:  {"serverChanges": [change…], "conflicts": [], "syncedUntil": cursor, "hasMore": bool,
//!             "resyncRequired"?: true}
//! ```
//!
//! An insert has `data` and may have `at`, an update has `fields`, a delete may have `deletedAt`. Whatever else there is, the
//! format does not know or the op does not use, and it is ignored. `null` and a missing key are the same, for a field's `value`
//! too: devices whose language has no JSON for *undefined* clear a field so.

use crate::bounds;
use crate::error::{Error, MOST_KEY_BYTES};
use crate::json_text::JsonText;
use crate::jsonb::{self, Builder, Object, Raw, Value};
use crate::read::{Found, TakeFound, column};
use crate::settings;
use crate::statement::Row;
use mana_sync_cursor::page::Rows;
use mana_sync_merge::change::{INSERT_TIME_KEY, Op, insert_time};
use mana_sync_merge::time::Time;
use pgrx::pg_sys;
use std::collections::HashMap;

/// What a device pushes.
pub struct Changeset<'a> {
    /// Which device it is, never empty.
    pub client: Option<&'a [u8]>,
    /// Where its next pull begins.
    pub since: Option<&'a [u8]>,
    /// At most so many changes in the answer.
    pub limit: Option<usize>,
    /// In the order in which they are recorded.
    pub changes: Vec<Change<'a>>,
}

/// Table and id of a record.
pub type RecordKey<'a> = (&'a [u8], &'a [u8]);

/// A time, and how the device spells it.
type Said<'a> = (Time, &'a [u8]);

/// A change, with its JSON as the log stores it.
pub struct Change<'a> {
    /// The row's id.
    pub id: Option<uuid::Uuid>,
    /// Table of the record.
    pub table: &'a [u8],
    /// Id of the record.
    pub record: &'a [u8],
    /// `insert`, `update` or `delete`.
    pub op: &'a [u8],
    /// Space of the record, as the change says: none if it is empty, and `None` if it says nothing.
    pub space: Option<&'a [u8]>,
    /// The record; the values of an update's fields; when it was deleted.
    pub data: Option<pg_sys::Datum>,
    /// When each of an update's fields was written, or the whole insert.
    pub field_timestamps: Option<pg_sys::Datum>,
    /// At least 1.
    pub schema_version: i32,
    /// Who acted for the user.
    pub actor: Option<pg_sys::Datum>,
    /// The earliest time that it says something of, and its spelling.
    earliest: Option<Said<'a>>,
    /// What it says no time of.
    untimed: Untimed<'a>,
}

/// Writes of a change that it says no time of.
#[derive(Clone, Copy)]
enum Untimed<'a> {
    /// There are none.
    Nothing,
    /// The only write of an insert or a delete has no time.
    Whole,
    /// Some of these fields of an update have no time.
    Fields(Object<'a>),
}

/// What is stored of a change, where that is more than it says.
#[derive(Clone, Copy, Default)]
pub struct Stored {
    /// Takes the place of [`Change::data`].
    pub data: Option<pg_sys::Datum>,
    /// Takes the place of [`Change::field_timestamps`].
    pub field_timestamps: Option<pg_sys::Datum>,
}

/// A place in a changeset, for errors.
#[derive(Clone, Copy)]
enum At<'a> {
    Changeset,
    Change(usize),
    Field(usize, &'a [u8]),
}

impl At<'_> {
    fn path(&self, key: &str) -> String {
        match self {
            At::Changeset if key.is_empty() => "changeset".into(),
            At::Changeset => key.into(),
            At::Change(index) if key.is_empty() => format!("changes[{index}]"),
            At::Change(index) => format!("changes[{index}].{key}"),
            At::Field(index, name) => {
                // A name is the client's text: enough of it to find it.
                // Of what is not UTF-8, in a database of another encoding, only the ASCII.
                let name: String = String::from_utf8_lossy(name).replace('\u{fffd}', "?").chars().take(64).collect();
                match key {
                    "" => format!("changes[{index}].fields.{name}"),
                    key => format!("changes[{index}].fields.{name}.{key}"),
                }
            }
        }
    }

    fn fault(&self, key: &str, fault: impl Into<String>) -> Error {
        Error::Changeset { path: self.path(key), fault: fault.into() }
    }
}

/// An object of a changeset and where it is.
#[derive(Clone, Copy)]
struct Part<'a> {
    object: Object<'a>,
    at: At<'a>,
}

impl<'a> Part<'a> {
    fn new(value: Raw<'a>, at: At<'a>) -> Result<Part<'a>, Error> {
        match value.get() {
            Value::Object(object) => Ok(Part { object, at }),
            _ => Err(at.fault("", "must be an object")),
        }
    }

    /// A value, unless it is null.
    fn get(&self, key: &str) -> Option<Raw<'a>> {
        self.object.get(key.as_bytes()).filter(|value| !matches!(value.get(), Value::Null))
    }

    fn string(&self, key: &str) -> Result<Option<&'a [u8]>, Error> {
        match self.get(key).map(Raw::get) {
            None => Ok(None),
            Some(Value::String(string)) => Ok(Some(string)),
            Some(_) => Err(self.at.fault(key, "must be a string")),
        }
    }

    /// A string that is a key of an index.
    fn key(&self, key: &str) -> Result<&'a [u8], Error> {
        let string = self.string(key)?.ok_or_else(|| self.at.fault(key, "is missing"))?;
        match string.len() {
            0 => Err(self.at.fault(key, "must not be empty")),
            1..=MOST_KEY_BYTES => Ok(string),
            _ => Err(self.at.fault(key, format!("must have at most {MOST_KEY_BYTES} bytes"))),
        }
    }

    fn object(&self, key: &str) -> Result<Option<Object<'a>>, Error> {
        match self.get(key).map(Raw::get) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(self.at.fault(key, "must be an object")),
        }
    }

    /// A time, as it is spelled.
    fn time(&self, key: &str) -> Result<Option<Said<'a>>, Error> {
        let Some(text) = self.string(key)? else { return Ok(None) };
        match Time::parse(text) {
            Some(time) => Ok(Some((time, text))),
            None => Err(self.at.fault(key, "must be a timestamp of RFC 3339")),
        }
    }

    /// A number without a fraction, however it is spelled (`1`, `1.0`, `1e0`); one that is out of range is the nearest in it.
    fn integer(&self, key: &str) -> Result<Option<i32>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let fault = || self.at.fault(key, "must be an integer");
        match value.digits().ok_or_else(fault)?.integer() {
            Some(integer) => Ok(Some(integer.clamp(i32::MIN.into(), i32::MAX.into()) as i32)),
            None => Err(fault()),
        }
    }

    fn schema_version(&self, default: i32) -> Result<i32, Error> {
        let key = "schemaVersion";
        let greatest = settings::max_schema_version();
        match self.integer(key)? {
            None => Ok(default),
            Some(version) if version <= greatest => Ok(version.max(1)),
            Some(_) => Err(self.at.fault(key, format!("is newer than this log supports: at most {greatest}"))),
        }
    }

    /// A space that a change says. `None` is a value that says none.
    fn space(&self, value: Option<Raw<'a>>) -> Result<Option<&'a [u8]>, Error> {
        let Some(Value::String(space)) = value.map(Raw::get) else { return Ok(None) };
        match bounds::fault_of_space(space) {
            None => Ok(Some(space)),
            Some(fault) => Err(self.at.fault("spaceId", fault)),
        }
    }
}

impl<'a> Changeset<'a> {
    /// Reads a changeset. Nothing of it is used where there is an error.
    pub fn parse(value: Raw<'a>) -> Result<Changeset<'a>, Error> {
        let set = Part::new(value, At::Changeset)?;
        let version = set.schema_version(1)?;
        let changes = match set.get("changes").map(Raw::get) {
            Some(Value::Array(changes)) => changes,
            Some(_) => return Err(set.at.fault("changes", "must be an array")),
            None => return Err(set.at.fault("changes", "is missing")),
        };
        let changes = changes
            .elements()
            .enumerate()
            .map(|(index, change)| Change::parse(Part::new(change, At::Change(index))?, index, version));
        let client = set.string("clientId")?.filter(|client| !client.is_empty());
        if client.is_some_and(|client| client.len() > MOST_KEY_BYTES) {
            return Err(set.at.fault("clientId", bounds::too_long()));
        }
        let limit = match set.integer("limit")? {
            Some(limit @ ..1) => return Err(set.at.fault("limit", format!("must be at least 1, and is {limit}"))),
            limit => limit.map(|limit| limit as usize),
        };
        Ok(Changeset { client, since: set.string("since")?, limit, changes: changes.collect::<Result<_, _>>()? })
    }
}

impl<'a> Change<'a> {
    /// Which record it is of.
    pub fn key(&self) -> RecordKey<'a> {
        (self.table, self.record)
    }

    fn parse(change: Part<'a>, index: usize, version: i32) -> Result<Change<'a>, Error> {
        let at = change.at;
        let id = match change.string("eventId")? {
            None => None,
            Some(text) => Some(uuid::Uuid::try_parse_ascii(text).map_err(|_| at.fault("eventId", "must be a UUID"))?),
        };
        let (table, record) = (change.key("table")?, change.key("id")?);
        let name = change.string("op")?.ok_or_else(|| at.fault("op", "is missing"))?;
        let op = Op::parse(name).ok_or_else(|| at.fault("op", "must be insert, update or delete"))?;
        let (mut data, mut field_timestamps, mut inner_space, mut earliest) = (None, None, None, None);
        let mut untimed = Untimed::Nothing;
        match op {
            Op::Insert => {
                let object = change.object("data")?.ok_or_else(|| at.fault("data", "is missing"))?;
                data = Some(object.raw().datum());
                inner_space = object.get(b"spaceId");
                earliest = change.time("at")?;
                if let Some((_, time)) = earliest {
                    field_timestamps = Some(object_of(INSERT_TIME_KEY, time));
                }
                earliest = earliest.or_else(|| insert_time(object).map(|device| (device.time, device.text)));
                if earliest.is_none() {
                    untimed = Untimed::Whole;
                }
            }
            Op::Update => {
                let object = change.object("fields")?.ok_or_else(|| at.fault("fields", "is missing"))?;
                let (mut values, mut times) = (Builder::new(), Builder::new());
                for (key, field) in object.pairs() {
                    let Value::String(name) = key.get() else { continue };
                    let field = Part::new(field, At::Field(index, name))?;
                    let value = field.object.get(b"value").unwrap_or_else(Raw::null);
                    values.add(key, value);
                    match field_time(&field)? {
                        Some(time) => {
                            times.add(key, jsonb::string(time.1));
                            earliest = Some(earliest.map_or(time, |earliest| time.min(earliest)));
                        }
                        None => untimed = Untimed::Fields(object),
                    }
                    if name == b"spaceId" {
                        inner_space = Some(value);
                    }
                }
                (data, field_timestamps) = (Some(values.datum()), Some(times.datum()));
            }
            Op::Delete => match change.time("deletedAt")? {
                Some(time) => {
                    data = Some(object_of("deletedAt", time.1));
                    earliest = Some(time);
                }
                None => untimed = Untimed::Whole,
            },
        }
        // Only strings count; an application may have other data under this name.
        let space = match change.string("spaceId")? {
            Some(_) => change.space(change.get("spaceId"))?,
            None => change.space(inner_space)?,
        };
        Ok(Change {
            id,
            table,
            record,
            op: name,
            space,
            data,
            field_timestamps,
            schema_version: change.schema_version(version)?,
            actor: change.get("actor").map(Raw::datum),
            earliest,
            untimed,
        })
    }
}

/// When a field of an update was written. Older clients write `updatedAt`.
fn field_time<'a>(field: &Part<'a>) -> Result<Option<Said<'a>>, Error> {
    match field.time("at")? {
        None => field.time("updatedAt"),
        time => Ok(time),
    }
}

/// `{name: text}`
fn object_of(name: &str, text: &[u8]) -> pg_sys::Datum {
    let mut object = Builder::new();
    object.add(jsonb::string(name.as_bytes()), jsonb::string(text));
    object.datum()
}

/// What is stored of changes that are recorded at `now`, for each of them.
///
/// A write without a time would count as made now. It was made before whatever follows it in the same push: a later change of the
/// record, made offline, must not lose to it. So it gets the earliest of the times that the record's later changes say,
/// where that is in the past. (Equal times are in the order of the log.)
pub fn stored(changes: &[Change<'_>], now: Time) -> Vec<Stored> {
    let mut stored = vec![Stored::default(); changes.len()];
    if changes.len() < 2 || changes.iter().all(|change| matches!(change.untimed, Untimed::Nothing)) {
        return stored;
    }
    let mut later: HashMap<RecordKey<'_>, Said<'_>> = HashMap::new();
    for (change, stored) in changes.iter().zip(&mut stored).rev() {
        let bound = later.get(&change.key()).copied();
        if let Some((_, time)) = bound.filter(|(time, _)| *time < now) {
            match change.untimed {
                Untimed::Nothing => {}
                Untimed::Whole if change.op == b"delete" => stored.data = Some(object_of("deletedAt", time)),
                Untimed::Whole => stored.field_timestamps = Some(object_of(INSERT_TIME_KEY, time)),
                Untimed::Fields(fields) => {
                    let mut times = Builder::new();
                    for (key, field) in fields.pairs() {
                        let own = ["at", "updatedAt"].iter().find_map(|name| match field.get() {
                            Value::Object(field) => field.get(name.as_bytes()).and_then(Raw::text),
                            _ => None,
                        });
                        times.add(key, jsonb::string(own.unwrap_or(time)));
                    }
                    stored.field_timestamps = Some(times.datum());
                }
            }
        }
        if let Some(earliest) = change.earliest.into_iter().chain(bound).min() {
            later.insert(change.key(), earliest);
        }
    }
    stored
}

/// A response that is being written, as large as a page may be.
pub struct Response {
    json: JsonText,
    most: usize,
    changes: usize,
}

impl Response {
    /// A response without changes. Its text is in the current memory context.
    pub fn new() -> Response {
        let mut json = JsonText::new();
        json.raw("{\"serverChanges\":[");
        Response { json, most: settings::max_page_bytes(), changes: 0 }
    }

    /// The response, for a reader that goes on from a cursor.
    pub fn end(mut self, synced_until: &str, more: bool, resync_required: bool) -> pg_sys::Datum {
        self.json.raw("],\"conflicts\":[],\"syncedUntil\":");
        self.json.string(synced_until.as_bytes());
        self.json.raw(if more { ",\"hasMore\":true" } else { ",\"hasMore\":false" });
        self.json.raw(if resync_required { ",\"resyncRequired\":true}" } else { "}" });
        self.json.datum()
    }
}

impl TakeFound for Response {
    const MEASURED: bool = false;
}

impl Rows<Found> for Response {
    fn take(&mut self, found: Found) -> bool {
        let before = self.json.length();
        if self.changes > 0 {
            self.json.raw(",");
        }
        write_change(&mut self.json, &found.row);
        let fits = self.changes == 0 || self.json.length() <= self.most;
        if fits {
            self.changes += 1;
        } else {
            self.json.truncate(before);
        }
        fits
    }
}

fn write_change(json: &mut JsonText, row: &Row) {
    // SAFETY: the columns have these types, and the row's memory lives as long as the statement's rows.
    let text = |column| row.column(column).map(|datum| unsafe { crate::function::text_of(datum) });
    // SAFETY: likewise.
    let value = |column| row.column(column).map(|datum| unsafe { jsonb::root(datum) });
    if let Some(id) = row.column(column::ID) {
        // SAFETY: a `uuid` is 16 bytes.
        let id = uuid::Uuid::from_bytes(unsafe { *id.cast_mut_ptr::<[u8; 16]>() });
        json.raw("{\"eventId\":\"");
        json.raw(id.hyphenated().encode_lower(&mut [0; 36]));
        json.raw("\",\"schemaVersion\":");
    }
    json.raw(&row.column(column::SCHEMA_VERSION).map_or(1, |version| version.value() as i32).to_string());
    let op = text(column::OP).unwrap_or_default();
    for (key, bytes) in
        [(",\"table\":", text(column::TABLE)), (",\"id\":", text(column::RECORD)), (",\"op\":", Some(op))]
    {
        json.raw(key);
        json.string(bytes.unwrap_or_default());
    }
    let (mut data, mut times, mut actor) = (value(column::DATA), value(column::FIELD_TIMESTAMPS), value(column::ACTOR));
    if bounds::is_too_large([data, times, actor].into_iter().flatten()) {
        (data, times, actor) = (None, None, None);
        json.raw(",\"valuesOmitted\":true");
    }
    let times = match times.map(Raw::get) {
        Some(Value::Object(times)) => Some(times),
        _ => None,
    };
    match (op, data.map(Raw::get)) {
        (b"update", Some(Value::Object(object))) => {
            json.raw(",\"fields\":");
            write_fields(json, object, times);
        }
        (b"delete", Some(Value::Object(object))) => {
            if let Some(time) = object.get(b"deletedAt") {
                json.raw(",\"deletedAt\":");
                json.value(time);
            }
        }
        // Recorded without a changeset.
        (b"update", None) => json.raw(",\"fields\":{}"),
        (_, Some(_)) => {
            json.raw(",\"data\":");
            data.into_iter().for_each(|data| json.value(data));
        }
        (_, None) => {}
    }
    if let (b"insert", Some(time)) = (op, times.and_then(|times| times.get(INSERT_TIME_KEY.as_bytes()))) {
        json.raw(",\"at\":");
        json.value(time);
    }
    if let Some(space) = text(column::SPACE) {
        json.raw(",\"spaceId\":");
        json.string(space);
    }
    if let Some(actor) = actor {
        json.raw(",\"actor\":");
        json.value(actor);
    }
    json.raw("}");
}

fn write_fields(json: &mut JsonText, values: Object<'_>, times: Option<Object<'_>>) {
    let mut separator = "{";
    for (key, value) in values.pairs() {
        let Value::String(name) = key.get() else { continue };
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
