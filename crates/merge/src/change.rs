//! The writes of a change, and their stamps.

use crate::time::Time;
use mana_sync_cursor::Position;

/// The operation of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Inserts the record with its fields.
    Insert,
    /// Writes some fields of the record.
    Update,
    /// Deletes the record.
    Delete,
}

impl Op {
    /// Parses `insert`, `update` or `delete`.
    pub fn parse(text: &[u8]) -> Option<Op> {
        match text {
            b"insert" => Some(Op::Insert),
            b"update" => Some(Op::Update),
            b"delete" => Some(Op::Delete),
            _ => None,
        }
    }
}

/// The key by which writes are ordered: the write with the greater stamp is the later one. No two changes have the same position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Stamp {
    /// The time at which the device wrote. If the device gave no credible time, it is the time at which the server recorded the change.
    pub time: Time,
    /// The position of the change in the log, which orders writes of the same time.
    pub position: Position,
}

/// The first and the last stamp of the writes of a change, including the insert or delete itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The earliest stamp.
    pub first: Stamp,
    /// The latest stamp.
    pub last: Stamp,
}

/// A timestamp that a device wrote into a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceTime<'a> {
    /// The instant.
    pub time: Time,
    /// The RFC 3339 text, as the device spelled it.
    pub text: &'a [u8],
}

impl<'a> DeviceTime<'a> {
    /// Parses an RFC 3339 timestamp. Returns `None` for any other text.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        Some(DeviceTime { time: Time::parse(text)?, text })
    }
}

/// A JSON object in any representation.
pub trait JsonObject<'a>: Copy {
    /// A JSON value in this representation.
    type Value: Copy;
    /// Returns the string under a key; `None` if the key is missing or its value is not a string.
    fn string(&self, key: &[u8]) -> Option<&'a [u8]>;
    /// Iterates over all keys, each once, with their values.
    fn fields(self) -> impl Iterator<Item = (&'a [u8], Self::Value)>;
}

/// The columns of a row of the log that merging needs. `O` is a [`JsonObject`].
#[derive(Clone, Copy, Debug)]
pub struct Change<O> {
    /// Column `op`.
    pub op: Op,
    /// Columns `epoch`, `xact` and `seq`.
    pub position: Position,
    /// Column `created_at`: when the server recorded the change.
    pub created_at: Time,
    /// Column `data`; `None` if it is not an object.
    pub data: Option<O>,
    /// Column `field_timestamps`; `None` if it is not an object.
    pub field_timestamps: Option<O>,
}

/// A write of one field.
#[derive(Clone, Copy, Debug)]
pub struct FieldWrite<'a, V> {
    /// The name of the field.
    pub name: &'a [u8],
    /// The value that was written.
    pub value: V,
    /// The stamp of the write.
    pub stamp: Stamp,
    /// The device's spelling of the time in `stamp`; `None` if `stamp` has the server's time.
    pub device_time: Option<&'a [u8]>,
}

/// The key in an insert's `field_timestamps` that holds the time of the insert itself. A field with an empty name has the same key, and
/// therefore the same time.
pub const INSERT_TIME_KEY: &str = "";

/// The keys in an insert's `data` that may hold the time of the insert. The first one with a valid timestamp counts.
const INSERT_TIME_DATA_KEYS: &[&str] = &["updatedAt", "createdAt"];
/// The keys in a delete's `data` that may hold the time of the delete.
const DELETE_TIME_DATA_KEYS: &[&str] = &["deletedAt"];

/// Returns the time of an insert according to its `data`: the first valid timestamp under `updatedAt` or `createdAt`. Returns `None` if
/// there is none.
pub fn insert_time<'a>(data: impl JsonObject<'a>) -> Option<DeviceTime<'a>> {
    INSERT_TIME_DATA_KEYS.iter().find_map(|key| DeviceTime::parse(data.string(key.as_bytes())?))
}

/// The time of a change or of a write.
#[derive(Clone, Copy)]
struct EffectiveTime<'a> {
    time: Time,
    /// The device's spelling of `time`; `None` if `time` is the server's time.
    device_time: Option<&'a [u8]>,
}

impl<'a, O: JsonObject<'a>> Change<O> {
    /// Returns the stamp of the change itself: of the insert or the delete. Fields without a time of their own have it too.
    pub fn stamp(&self) -> Stamp {
        Stamp { time: self.time().0.time, position: self.position }
    }

    /// Returns the device's spelling of the time in [`Change::stamp`]; `None` if that is the server's time.
    pub fn device_time(&self) -> Option<&'a [u8]> {
        self.time().0.device_time
    }

    /// Returns the key of `data` or `field_timestamps` that holds the time of the change; `None` if no key does. A compaction must not
    /// remove this key from an insert.
    pub fn time_key(&self) -> Option<&'static str> {
        self.time().1
    }

    /// Returns the time of the change, and the key of `data` or `field_timestamps` that holds it. Without such a key, the time is the
    /// server's, and the key is `None`.
    fn time(&self) -> (EffectiveTime<'a>, Option<&'static str>) {
        let data_keys = match self.op {
            Op::Insert => INSERT_TIME_DATA_KEYS,
            Op::Delete => DELETE_TIME_DATA_KEYS,
            Op::Update => &[],
        };
        let insert_time = match self.op {
            Op::Insert => self.field_timestamps.and_then(|times| times.string(INSERT_TIME_KEY.as_bytes())),
            Op::Update | Op::Delete => None,
        };
        if let Some(time) = insert_time.and_then(|text| self.effective_time(text)) {
            return (time, Some(INSERT_TIME_KEY));
        }
        for key in data_keys {
            let text = self.data.and_then(|data| data.string(key.as_bytes()));
            if let Some(time) = text.and_then(|text| self.effective_time(text)) {
                return (time, Some(key));
            }
        }
        (EffectiveTime { time: self.created_at, device_time: None }, None)
    }

    /// Returns the effective time of a timestamp that a device wrote: the time of the timestamp, or the server's time if the timestamp is
    /// not credible. Returns `None` if `text` is not a valid timestamp.
    fn effective_time(&self, text: &'a [u8]) -> Option<EffectiveTime<'a>> {
        let time = Time::parse(text)?;
        Some(match time.is_credible(self.created_at) {
            true => EffectiveTime { time, device_time: Some(text) },
            false => EffectiveTime { time: self.created_at, device_time: None },
        })
    }

    /// Iterates over the writes of fields. A delete has none.
    pub fn writes(&self) -> impl Iterator<Item = FieldWrite<'a, O::Value>> + use<'a, O> {
        let data = self.data.filter(|_| self.op != Op::Delete);
        let (change_time, _) = self.time();
        let change = *self;
        data.into_iter().flat_map(move |data| data.fields()).map(move |(name, value)| {
            let text = change.field_timestamps.and_then(|times| times.string(name));
            let own_time = text.and_then(|text| change.effective_time(text));
            let EffectiveTime { time, device_time } = own_time.unwrap_or(change_time);
            FieldWrite { name, value, stamp: Stamp { time, position: change.position }, device_time }
        })
    }

    /// Returns the first and the last stamp of the change, including the stamp of the insert or delete itself. Returns `None` for an update
    /// without fields.
    pub fn span(&self) -> Option<Span> {
        let whole = (self.op != Op::Update).then(|| self.stamp());
        let stamps = self.writes().map(|write| write.stamp).chain(whole);
        stamps.fold(None, |span, stamp| match span {
            None => Some(Span { first: stamp, last: stamp }),
            Some(Span { first, last }) => Some(Span { first: stamp.min(first), last: stamp.max(last) }),
        })
    }
}
