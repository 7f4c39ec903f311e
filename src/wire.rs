//! The wire format: what devices send and get, as JSON.
//!
//! ```text
//! changeset: {"clientId", "since", "schemaVersion"?, "changes": [change…]}
//! change:    {"eventId"?, "schemaVersion"?, "table", "id", "op", "fields"?: {name: {"value", "at"}},
//!             "data"?, "deletedAt"?, "spaceId"?, "actor"?}
//! response:  {"serverChanges": [change…], "conflicts": [], "syncedUntil": cursor, "hasMore": bool,
//!             "resyncRequired"?: true}
//! ```
//!
//! An insert has `data`, an update `fields`, a delete may have `deletedAt`. What the format does not know
//! is ignored; what it would have to drop is refused. `null` and a missing key are the same, but for a field's
//! `value`.

use crate::error::{Error, MOST_KEY_BYTES};
use crate::jsonb::{Builder, JsonText, Object, Raw, Value};
use crate::settings;
use crate::statement::Row;
use pgrx::pg_sys;

/// What a device pushes.
pub struct Changeset<'a> {
    /// Which device it is, never empty.
    pub client: Option<&'a [u8]>,
    /// Where its next pull begins.
    pub since: Option<&'a [u8]>,
    /// In the order in which they are recorded.
    pub changes: Vec<Change<'a>>,
}

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
    /// Space of the record, never empty.
    pub space: Option<&'a [u8]>,
    /// The record; the values of an update's fields; when it was deleted.
    pub data: Option<pg_sys::Datum>,
    /// When each of an update's fields was written.
    pub field_timestamps: Option<pg_sys::Datum>,
    /// At least 1.
    pub schema_version: i32,
    /// Who acted for the user.
    pub actor: Option<pg_sys::Datum>,
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

    /// Refuses a value that would have to be dropped. An empty object has nothing to drop.
    fn must_lack(&self, key: &str, why: &str) -> Result<(), Error> {
        match self.get(key).map(Raw::get) {
            None => Ok(()),
            Some(Value::Object(object)) if object.is_empty() => Ok(()),
            Some(_) => Err(self.at.fault(key, why)),
        }
    }

    fn schema_version(&self, default: i32) -> Result<i32, Error> {
        let key = "schemaVersion";
        let Some(value) = self.get(key) else { return Ok(default) };
        let digits = value.number().ok_or_else(|| self.at.fault(key, "must be an integer"))?;
        if !digits.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(self.at.fault(key, "must be an integer"));
        }
        let greatest = settings::max_schema_version();
        match digits.parse::<i32>() {
            Ok(version) if version <= greatest => Ok(version.max(1)),
            Err(_) if digits.starts_with('-') => Ok(1),
            _ => Err(self.at.fault(key, format!("is newer than this log supports: at most {greatest}"))),
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
        Ok(Changeset {
            client: set.string("clientId")?.filter(|client| !client.is_empty()),
            since: set.string("since")?,
            changes: changes.collect::<Result<_, _>>()?,
        })
    }
}

impl<'a> Change<'a> {
    fn parse(change: Part<'a>, index: usize, version: i32) -> Result<Change<'a>, Error> {
        let at = change.at;
        let id = match change.string("eventId")? {
            None => None,
            Some(text) => Some(uuid::Uuid::try_parse_ascii(text).map_err(|_| at.fault("eventId", "must be a UUID"))?),
        };
        let (table, record) = (change.key("table")?, change.key("id")?);
        let op = change.string("op")?.ok_or_else(|| at.fault("op", "is missing"))?;
        let (mut data, mut field_timestamps, mut inner_space) = (None, None, None);
        if op != b"update" {
            change.must_lack("fields", "is for an update")?;
        }
        if op != b"insert" {
            change.must_lack("data", "is for an insert")?;
        }
        let deleted_at = change.string("deletedAt")?;
        match op {
            b"insert" => {
                let object = change.object("data")?.ok_or_else(|| at.fault("data", "is missing"))?;
                data = Some(object.raw().datum());
                inner_space = object.get(b"spaceId");
            }
            b"update" => {
                let object = change.object("fields")?.ok_or_else(|| at.fault("fields", "is missing"))?;
                let (mut values, mut times) = (Builder::new(), Builder::new());
                for (key, field) in object.pairs() {
                    let Value::String(name) = key.get() else { continue };
                    let field = Part::new(field, At::Field(index, name))?;
                    let value = field.object.get(b"value").ok_or_else(|| field.at.fault("value", "is missing"))?;
                    values.add(key, value);
                    // Older clients write updatedAt.
                    for time in ["at", "updatedAt"] {
                        if field.string(time)?.is_some() {
                            field.get(time).into_iter().for_each(|time| times.add(key, time));
                            break;
                        }
                    }
                    if name == b"spaceId" {
                        inner_space = Some(value);
                    }
                }
                (data, field_timestamps) = (Some(values.datum()), Some(times.datum()));
            }
            b"delete" => {
                if let Some(time) = change.get("deletedAt") {
                    let mut object = Builder::new();
                    object.add_named("deletedAt", time);
                    data = Some(object.datum());
                }
            }
            _ => return Err(at.fault("op", "must be insert, update or delete")),
        }
        if op != b"delete" && deleted_at.is_some() {
            return Err(at.fault("deletedAt", "is for a delete"));
        }
        let inner_space = inner_space.and_then(|value| match value.get() {
            Value::String(space) => Some(space),
            _ => None,
        });
        let space = change.string("spaceId")?.filter(|space| !space.is_empty()).or(inner_space);
        if space.is_some_and(|space| space.len() > MOST_KEY_BYTES) {
            return Err(at.fault("spaceId", format!("must have at most {MOST_KEY_BYTES} bytes")));
        }
        Ok(Change {
            id,
            table,
            record,
            op,
            space: space.filter(|space| !space.is_empty()),
            data,
            field_timestamps,
            schema_version: change.schema_version(version)?,
            actor: change.get("actor").map(Raw::datum),
        })
    }
}

/// Places of a row's columns behind its position in the reading statements (`read/*.sql`).
mod column {
    pub const ID: i32 = 1;
    pub const TABLE: i32 = 3;
    pub const RECORD: i32 = 4;
    pub const OP: i32 = 6;
    pub const DATA: i32 = 7;
    pub const FIELD_TIMESTAMPS: i32 = 8;
    pub const SCHEMA_VERSION: i32 = 11;
    pub const SPACE: i32 = 12;
    pub const ACTOR: i32 = 13;
}

/// Writes a response.
pub fn write_response(json: &mut JsonText, rows: &[Row], synced_until: &str, more: bool, resync_required: bool) {
    json.raw("{\"serverChanges\": [");
    for (place, row) in rows.iter().enumerate() {
        if place > 0 {
            json.raw(", ");
        }
        write_change(json, row);
    }
    json.raw("], \"conflicts\": [], \"syncedUntil\": ");
    json.string(synced_until.as_bytes());
    json.raw(if more { ", \"hasMore\": true" } else { ", \"hasMore\": false" });
    json.raw(if resync_required { ", \"resyncRequired\": true}" } else { "}" });
}

fn write_change(json: &mut JsonText, row: &Row) {
    // SAFETY: the columns have these types, and the row's memory lives as long as the statement's rows.
    let text = |column| row.column(column).map(|datum| unsafe { crate::function::text_of(datum) });
    // SAFETY: likewise.
    let value = |column| row.column(column).map(|datum| unsafe { crate::jsonb::root(datum) });
    if let Some(id) = row.column(column::ID) {
        // SAFETY: a `uuid` is 16 bytes.
        let id = uuid::Uuid::from_bytes(unsafe { *id.cast_mut_ptr::<[u8; 16]>() });
        json.raw(&format!("{{\"eventId\": \"{id}\", \"schemaVersion\": "));
    }
    json.raw(&row.column(column::SCHEMA_VERSION).map_or(1, |version| version.value() as i32).to_string());
    let op = text(column::OP).unwrap_or_default();
    for (key, bytes) in
        [(", \"table\": ", text(column::TABLE)), (", \"id\": ", text(column::RECORD)), (", \"op\": ", Some(op))]
    {
        json.raw(key);
        json.string(bytes.unwrap_or_default());
    }
    let data = value(column::DATA);
    match (op, data.map(Raw::get)) {
        (b"update", Some(Value::Object(object))) => {
            let times = match value(column::FIELD_TIMESTAMPS).map(Raw::get) {
                Some(Value::Object(times)) => Some(times),
                _ => None,
            };
            json.raw(", \"fields\": ");
            write_fields(json, object, times);
        }
        (b"delete", Some(Value::Object(object))) => {
            if let Some(time) = object.get(b"deletedAt") {
                json.raw(", \"deletedAt\": ");
                json.value(time);
            }
        }
        // Recorded without a changeset.
        (b"update", None) => json.raw(", \"fields\": {}"),
        (_, Some(_)) => {
            json.raw(", \"data\": ");
            data.into_iter().for_each(|data| json.value(data));
        }
        (_, None) => {}
    }
    if let Some(space) = text(column::SPACE) {
        json.raw(", \"spaceId\": ");
        json.string(space);
    }
    if let Some(actor) = value(column::ACTOR) {
        json.raw(", \"actor\": ");
        json.value(actor);
    }
    json.raw("}");
}

fn write_fields(json: &mut JsonText, values: Object<'_>, times: Option<Object<'_>>) {
    let mut separator = "{";
    for (key, value) in values.pairs() {
        let Value::String(name) = key.get() else { continue };
        json.raw(separator);
        separator = ", ";
        json.string(name);
        json.raw(": {\"value\": ");
        json.value(value);
        if let Some(time) = times.and_then(|times| times.get(name)) {
            json.raw(", \"at\": ");
            json.value(time);
        }
        json.raw("}");
    }
    json.raw(if separator == "{" { "{}" } else { "}" });
}
