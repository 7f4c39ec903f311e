//! Changesets: what devices push.

use crate::bounds;
use crate::error::{Error, MOST_KEY_BYTES};
use crate::json;
use crate::pg::jsonb::{self, Builder, Jsonb, Node, Object, Value};
use crate::pg::memory::Memory;
use crate::settings;
use crate::wire::response::Rejected;
use mana_sync_merge::change::{DeviceTime, INSERT_TIME_KEY, Op, insert_time};
use mana_sync_merge::time::Time;
use std::collections::HashMap;

/// A changeset: what a device pushes.
pub struct Changeset<'a> {
    /// The id of the device, never empty.
    pub client: Option<&'a [u8]>,
    /// The text from which the device's next pull begins: a cursor or a timestamp.
    pub since: Option<&'a [u8]>,
    /// The maximum number of changes or records of the answer.
    pub limit: Option<usize>,
    /// Whether the changeset is recorded as a whole or not at all: one change that cannot be recorded keeps all others from being recorded.
    pub is_atomic: bool,
    /// Whether the answer has records; otherwise it has changes.
    pub as_records: bool,
    /// Whether the answer has the device's own changes too.
    pub echo: bool,
    /// The changes that are well-formed, in the order in which they are recorded.
    pub changes: Vec<Change<'a>>,
    /// The changes that are malformed. An atomic changeset has none, because the first one is an error.
    pub rejected: Vec<Rejected<'a>>,
}

/// Table and id of a record.
pub type RecordKey<'a> = (&'a [u8], &'a [u8]);

/// A change of a changeset, with its JSON in the form that the log stores.
pub struct Change<'a> {
    /// The place of the change in the changeset, from 0.
    pub index: usize,
    /// The id of the row that records the change, from `eventId`; `None` if the change has none.
    pub id: Option<uuid::Uuid>,
    /// The `eventId` as the device spelled it.
    event: Option<&'a [u8]>,
    /// Table of the record.
    pub table: &'a [u8],
    /// Id of the record.
    pub record: &'a [u8],
    /// `insert`, `update` or `delete`.
    pub op: &'a [u8],
    /// The space that the change names: empty if it says that it has no space, `None` if it does not name any.
    pub space: Option<&'a [u8]>,
    /// All fields of an insert, the changed fields of an update, or the time of a delete.
    pub data: Option<Jsonb<'a>>,
    /// The times of an update's fields, or the time of an insert.
    pub field_timestamps: Option<Jsonb<'a>>,
    /// The version of the schema that the device had when it wrote the change; at least 1.
    pub schema_version: i32,
    /// The person or program that acted for the user.
    pub actor: Option<Jsonb<'a>>,
    /// What made the change, never empty.
    pub origin: Option<&'a [u8]>,
    /// The earliest of the times that the change names; `None` if it names none.
    earliest: Option<DeviceTime<'a>>,
    /// The writes of the change that come without a time.
    untimed: UntimedWrites<'a>,
}

/// The writes of a change to which the device gave no time.
#[derive(Clone, Copy)]
enum UntimedWrites<'a> {
    /// Each write has a time.
    None,
    /// The only write of an insert or a delete has no time.
    Whole,
    /// Some of these fields of an update have no time.
    Fields(Object<'a>),
}

/// The JSON that is stored in place of that of a change, because it also has the times that were derived for the change. `None` means that
/// the change's own JSON is stored.
#[derive(Clone, Copy, Default)]
pub struct DerivedTimes<'a> {
    /// The JSON in place of [`Change::data`].
    pub data: Option<Jsonb<'a>>,
    /// The JSON in place of [`Change::field_timestamps`].
    pub field_timestamps: Option<Jsonb<'a>>,
}

/// A place in a changeset, which error messages name.
#[derive(Clone, Copy)]
enum Place<'a> {
    Changeset,
    Change(usize),
    Field(usize, &'a [u8]),
}

impl Place<'_> {
    fn path(&self, key: &str) -> String {
        match self {
            Place::Changeset if key.is_empty() => "changeset".into(),
            Place::Changeset => key.into(),
            Place::Change(index) if key.is_empty() => format!("changes[{index}]"),
            Place::Change(index) => format!("changes[{index}].{key}"),
            Place::Field(index, name) => {
                // A name is the client's text: as much of it as it takes to find the field. In a database of another encoding than
                // UTF-8, only the ASCII characters are legible.
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

/// A JSON object of a changeset, and its place.
#[derive(Clone, Copy)]
struct PlacedObject<'a> {
    object: Object<'a>,
    place: Place<'a>,
}

impl<'a> PlacedObject<'a> {
    fn new(value: Node<'a>, place: Place<'a>) -> Result<PlacedObject<'a>, Error> {
        match value.get() {
            Value::Object(object) => Ok(PlacedObject { object, place }),
            _ => Err(place.fault("", "must be an object")),
        }
    }

    /// Returns the value of a key; `None` if the key is missing or its value is null.
    fn get(&self, key: &str) -> Option<Node<'a>> {
        self.object.get(key.as_bytes()).filter(|value| !matches!(value.get(), Value::Null))
    }

    fn string(&self, key: &str) -> Result<Option<&'a [u8]>, Error> {
        match self.get(key).map(Node::get) {
            None => Ok(None),
            Some(Value::String(string)) => Ok(Some(string)),
            Some(_) => Err(self.place.fault(key, "must be a string")),
        }
    }

    /// Returns a string that is a key of an index. Errors: 22023 if the string is missing, empty or too long.
    fn key(&self, key: &str) -> Result<&'a [u8], Error> {
        let string = self.string(key)?.ok_or_else(|| self.place.fault(key, "is missing"))?;
        match string.len() {
            0 => Err(self.place.fault(key, "must not be empty")),
            1..=MOST_KEY_BYTES => Ok(string),
            _ => Err(self.place.fault(key, bounds::too_long())),
        }
    }

    /// Returns a string; `None` if it is missing or empty. Errors: 22023 if the string is longer than an id may be.
    fn short_string(&self, key: &str) -> Result<Option<&'a [u8]>, Error> {
        match self.string(key)?.filter(|string| !string.is_empty()) {
            Some(string) if string.len() > MOST_KEY_BYTES => Err(self.place.fault(key, bounds::too_long())),
            string => Ok(string),
        }
    }

    fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.get(key).map(Node::get) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(_) => Err(self.place.fault(key, "must be a boolean")),
        }
    }

    fn object(&self, key: &str) -> Result<Option<Object<'a>>, Error> {
        match self.get(key).map(Node::get) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(self.place.fault(key, "must be an object")),
        }
    }

    fn time(&self, key: &str) -> Result<Option<DeviceTime<'a>>, Error> {
        let Some(text) = self.string(key)? else { return Ok(None) };
        match DeviceTime::parse(text) {
            Some(time) => Ok(Some(time)),
            None => Err(self.place.fault(key, "must be a timestamp of RFC 3339")),
        }
    }

    /// Returns a number without a fraction, however it is spelled (`1`, `1.0`, `1e0`); `None` if it is missing. A number out of the range
    /// of `i32` becomes the nearest number in the range.
    fn integer(&self, key: &str) -> Result<Option<i32>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let fault = || self.place.fault(key, "must be an integer");
        match json::number(value).ok_or_else(fault)?.integer() {
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
            Some(_) => Err(Error::NewerSchema { path: self.place.path(key), greatest }),
        }
    }

    /// Returns the space that a value names; `None` if the value is not a string.
    fn space(&self, value: Option<Node<'a>>) -> Result<Option<&'a [u8]>, Error> {
        let Some(Value::String(space)) = value.map(Node::get) else { return Ok(None) };
        match bounds::fault_of_space(space) {
            None => Ok(Some(space)),
            Some(fault) => Err(self.place.fault("spaceId", fault)),
        }
    }
}

impl<'a> Changeset<'a> {
    /// Parses a changeset. JSON that is built for the log goes into `memory`. Errors: 22023 with the place and the key of the first fault.
    /// If the changeset is not atomic, faults of single changes go to `rejected` instead.
    pub fn parse(value: Node<'a>, memory: Memory<'a>) -> Result<Changeset<'a>, Error> {
        let set = PlacedObject::new(value, Place::Changeset)?;
        let version = set.schema_version(1)?;
        let changes = match set.get("changes").map(Node::get) {
            Some(Value::Array(changes)) => changes,
            Some(_) => return Err(set.place.fault("changes", "must be an array")),
            None => return Err(set.place.fault("changes", "is missing")),
        };
        let is_atomic = set.bool("atomic")?.unwrap_or(true);
        let (mut parsed, mut rejected) = (Vec::new(), Vec::new());
        for (index, change) in changes.elements().enumerate() {
            let place = Place::Change(index);
            match PlacedObject::new(change, place).and_then(|change| Change::parse(change, index, version, memory)) {
                Ok(change) => parsed.push(change),
                Err(error) if is_atomic => return Err(error),
                // A later release of the application may take it: the device keeps the change, and tries again.
                Err(error @ Error::NewerSchema { .. }) => return Err(error),
                Err(error) => rejected.push(Rejected::new(index, &NamedRecord::of_malformed(change), &error)),
            }
        }
        let client = set.short_string("clientId")?;
        let limit = match set.integer("limit")? {
            Some(limit @ ..1) => return Err(set.place.fault("limit", format!("must be at least 1, and is {limit}"))),
            limit => limit.map(|limit| limit as usize),
        };
        let as_records = match set.string("as")? {
            None | Some(b"changes") => false,
            Some(b"records") => true,
            Some(_) => return Err(set.place.fault("as", "must be changes or records")),
        };
        Ok(Changeset {
            client,
            since: set.string("since")?,
            limit,
            is_atomic,
            as_records,
            echo: set.bool("echo")?.unwrap_or(false),
            changes: parsed,
            rejected,
        })
    }
}

/// The ids by which a device can find a change that was rejected. Each is `None` if the change does not have it as a string.
#[derive(Clone, Copy, Default)]
pub struct NamedRecord<'a> {
    /// The `eventId`.
    pub event: Option<&'a [u8]>,
    /// The table of the record.
    pub table: Option<&'a [u8]>,
    /// The id of the record.
    pub record: Option<&'a [u8]>,
}

impl<'a> NamedRecord<'a> {
    /// Takes the ids from a change that is malformed.
    fn of_malformed(change: Node<'a>) -> NamedRecord<'a> {
        let text = |key: &[u8]| change.object()?.get(key).and_then(Node::text);
        NamedRecord { event: text(b"eventId"), table: text(b"table"), record: text(b"id") }
    }
}

impl<'a> Change<'a> {
    /// Returns the ids by which the device can find the change.
    pub fn named(&self) -> NamedRecord<'a> {
        NamedRecord { event: self.event, table: Some(self.table), record: Some(self.record) }
    }

    /// Returns the table and the id of the record.
    pub fn key(&self) -> RecordKey<'a> {
        (self.table, self.record)
    }

    fn parse(change: PlacedObject<'a>, index: usize, version: i32, memory: Memory<'a>) -> Result<Change<'a>, Error> {
        let place = change.place;
        let event = change.string("eventId")?;
        let id = match event {
            None => None,
            Some(text) => {
                Some(uuid::Uuid::try_parse_ascii(text).map_err(|_| place.fault("eventId", "must be a UUID"))?)
            }
        };
        let (table, record) = (change.key("table")?, change.key("id")?);
        let name = change.string("op")?.ok_or_else(|| place.fault("op", "is missing"))?;
        let op = Op::parse(name).ok_or_else(|| place.fault("op", "must be insert, update or delete"))?;
        let (mut data, mut field_timestamps, mut inner_space, mut earliest) = (None, None, None, None);
        let mut untimed = UntimedWrites::None;
        match op {
            Op::Insert => {
                let object = change.object("data")?.ok_or_else(|| place.fault("data", "is missing"))?;
                data = Some(object.node().to_jsonb(memory));
                inner_space = object.get(b"spaceId");
                earliest = change.time("at")?;
                field_timestamps = earliest.map(|time| object_of(INSERT_TIME_KEY, time.text, memory));
                earliest = earliest.or_else(|| insert_time(object));
                if earliest.is_none() {
                    untimed = UntimedWrites::Whole;
                }
            }
            Op::Update => {
                let object = change.object("fields")?.ok_or_else(|| place.fault("fields", "is missing"))?;
                let (mut values, mut times) = (Builder::new(memory), Builder::new(memory));
                for (key, field) in object.pairs() {
                    let Some(name) = key.text() else { continue };
                    let field = PlacedObject::new(field, Place::Field(index, name))?;
                    let value = field.object.get(b"value").unwrap_or_else(Node::null);
                    values.add(key, value);
                    match field_time(&field)? {
                        Some(time) => {
                            times.add(key, jsonb::string(time.text));
                            earliest = min([earliest, Some(time)]);
                        }
                        None => untimed = UntimedWrites::Fields(object),
                    }
                    if name == b"spaceId" {
                        inner_space = Some(value);
                    }
                }
                (data, field_timestamps) = (Some(values.finish()), Some(times.finish()));
            }
            Op::Delete => match change.time("deletedAt")? {
                Some(time) => {
                    data = Some(object_of("deletedAt", time.text, memory));
                    earliest = Some(time);
                }
                None => untimed = UntimedWrites::Whole,
            },
        }
        // Only strings count; an application may have other data under this name.
        let space = match change.string("spaceId")? {
            Some(_) => change.space(change.get("spaceId"))?,
            None => change.space(inner_space)?,
        };
        Ok(Change {
            index,
            id,
            event,
            table,
            record,
            op: name,
            space,
            data,
            field_timestamps,
            schema_version: change.schema_version(version)?,
            actor: change.get("actor").map(|actor| actor.to_jsonb(memory)),
            origin: change.short_string("origin")?,
            earliest,
            untimed,
        })
    }
}

/// Returns the time at which a field of an update was written. Older clients write `updatedAt` in the place of `at`.
fn field_time<'a>(field: &PlacedObject<'a>) -> Result<Option<DeviceTime<'a>>, Error> {
    match field.time("at")? {
        None => field.time("updatedAt"),
        time => Ok(time),
    }
}

/// Returns the earliest of some times.
fn min<'a>(times: impl IntoIterator<Item = Option<DeviceTime<'a>>>) -> Option<DeviceTime<'a>> {
    times.into_iter().flatten().min_by_key(|time| (time.time, time.text))
}

/// Makes the object `{name: text}`.
fn object_of<'m>(name: &str, text: &[u8], memory: Memory<'m>) -> Jsonb<'m> {
    let mut object = Builder::new(memory);
    object.add(jsonb::string(name.as_bytes()), jsonb::string(text));
    object.finish()
}

/// Derives the times that changes do not name, for changes that are recorded at `now`. Returns one element for each change.
///
/// A write without a time would count as made at `now`, and would win over later changes of the same push that the device made offline.
/// Therefore it gets the earliest time that the later changes to the same record name, if that time is in the past. (Of writes with equal
/// times, the one that is later in the log wins.)
pub fn derive_times<'m>(changes: &[&Change<'_>], now: Time, memory: Memory<'m>) -> Vec<DerivedTimes<'m>> {
    let mut derived = vec![DerivedTimes::default(); changes.len()];
    if changes.len() < 2 || changes.iter().all(|change| matches!(change.untimed, UntimedWrites::None)) {
        return derived;
    }
    let mut later: HashMap<RecordKey<'_>, DeviceTime<'_>> = HashMap::new();
    for (change, derived) in changes.iter().zip(&mut derived).rev() {
        let bound = later.get(&change.key()).copied();
        if let Some(bound) = bound.filter(|bound| bound.time < now) {
            match change.untimed {
                UntimedWrites::None => {}
                UntimedWrites::Whole if change.op == b"delete" => {
                    derived.data = Some(object_of("deletedAt", bound.text, memory));
                }
                UntimedWrites::Whole => {
                    derived.field_timestamps = Some(object_of(INSERT_TIME_KEY, bound.text, memory));
                }
                UntimedWrites::Fields(fields) => {
                    let mut times = Builder::new(memory);
                    for (key, field) in fields.pairs() {
                        let own = ["at", "updatedAt"]
                            .iter()
                            .find_map(|name| field.object()?.get(name.as_bytes()).and_then(Node::text));
                        times.add(key, jsonb::string(own.unwrap_or(bound.text)));
                    }
                    derived.field_timestamps = Some(times.finish());
                }
            }
        }
        if let Some(earliest) = min([change.earliest, bound]) {
            later.insert(change.key(), earliest);
        }
    }
    derived
}
