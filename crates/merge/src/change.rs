//! What a change writes, and when.

use crate::time::Time;
use mana_sync_cursor::Position;

/// What a change does to its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The record, with its fields.
    Insert,
    /// Some fields of it.
    Update,
    /// Its end.
    Delete,
}

impl Op {
    /// `insert`, `update` or `delete`.
    pub fn parse(text: &[u8]) -> Option<Op> {
        match text {
            b"insert" => Some(Op::Insert),
            b"update" => Some(Op::Update),
            b"delete" => Some(Op::Delete),
            _ => None,
        }
    }
}

/// Which of two writes is the later one. No two changes have the same position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// When it was written, as far as that is credible.
    pub time: Time,
    /// Where it stands in the log.
    pub position: Position,
}

/// A JSON object, wherever it is kept.
pub trait Object<'a>: Copy {
    /// A value of it.
    type Value: Copy;
    /// The text of a key, if that is a string.
    fn string(&self, key: &[u8]) -> Option<&'a [u8]>;
    /// All keys, each once, and their values.
    fn fields(self) -> impl Iterator<Item = (&'a [u8], Self::Value)>;
}

/// A row of the log, as far as a merge looks at it. `O` is an [`Object`].
#[derive(Clone, Copy, Debug)]
pub struct Change<O> {
    /// What it does.
    pub op: Op,
    /// Where it stands.
    pub position: Position,
    /// When the transaction that recorded it began.
    pub created_at: Time,
    /// Column `data`, where that is an object.
    pub data: Option<O>,
    /// Column `field_timestamps`, where that is an object.
    pub field_timestamps: Option<O>,
}

/// A write of a field.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a, V> {
    /// Its name.
    pub name: &'a [u8],
    /// What was written.
    pub value: V,
    /// When.
    pub stamp: Stamp,
    /// The time as the device spelled it, where that is the time that counts.
    pub at: Option<&'a [u8]>,
}

/// The key of an insert's `field_timestamps` that tells when all of it was made, as a device says it. (A field whose name is
/// empty has the same time.)
pub const WHOLE_CHANGE: &str = "";

/// Keys of `data` that tell when an insert was made: the first that can be read.
const INSERTED: &[&str] = &["updatedAt", "createdAt"];
/// And when a delete was.
const DELETED: &[&str] = &["deletedAt"];

/// When an insert was made, as its record tells, and how that is spelled.
pub fn inserted_at<'a>(data: impl Object<'a>) -> Option<(Time, &'a [u8])> {
    INSERTED.iter().find_map(|key| {
        let text = data.string(key.as_bytes())?;
        Some((Time::parse(text)?, text))
    })
}

impl<'a, O: Object<'a>> Change<O> {
    /// When the change as a whole was made.
    pub fn stamp(&self) -> Stamp {
        Stamp { time: self.time().0, position: self.position }
    }

    /// The key of `data` or `field_timestamps` that the change has its time from: an insert whose fields are removed keeps it.
    pub fn time_key(&self) -> Option<&'static str> {
        self.time().2
    }

    /// Its time, as the device spelled it where that is the time that counts, and the key that it is from.
    fn time(&self) -> (Time, Option<&'a [u8]>, Option<&'static str>) {
        let keys = match self.op {
            Op::Insert => INSERTED,
            Op::Delete => DELETED,
            Op::Update => &[],
        };
        let said = match self.op {
            Op::Insert => self.field_timestamps.and_then(|times| times.string(WHOLE_CHANGE.as_bytes())),
            Op::Update | Op::Delete => None,
        };
        if let Some((time, spelling)) = said.and_then(|text| self.read(text)) {
            return (time, spelling, Some(WHOLE_CHANGE));
        }
        for key in keys {
            let text = self.data.and_then(|data| data.string(key.as_bytes()));
            if let Some((time, spelling)) = text.and_then(|text| self.read(text)) {
                return (time, spelling, Some(key));
            }
        }
        (self.created_at, None, None)
    }

    /// The instant that a text counts as, and the text if it says that.
    fn read(&self, text: &'a [u8]) -> Option<(Time, Option<&'a [u8]>)> {
        let time = Time::parse(text)?;
        Some(if time.is_credible(self.created_at) { (time, Some(text)) } else { (self.created_at, None) })
    }

    /// The writes of fields: none for a delete.
    pub fn writes(&self) -> impl Iterator<Item = Write<'a, O::Value>> + use<'a, O> {
        let data = self.data.filter(|_| self.op != Op::Delete);
        let (time, spelling, _) = self.time();
        let change = *self;
        data.into_iter().flat_map(move |data| data.fields()).map(move |(name, value)| {
            let own = change.field_timestamps.and_then(|times| times.string(name)).and_then(|text| change.read(text));
            let (time, at) = own.unwrap_or((time, spelling));
            Write { name, value, stamp: Stamp { time, position: change.position }, at }
        })
    }

    /// The first and the last write of the change, the insert and the delete themselves included. Nothing for an
    /// update without fields.
    pub fn span(&self) -> Option<(Stamp, Stamp)> {
        let whole = (self.op != Op::Update).then(|| self.stamp());
        let stamps = self.writes().map(|write| write.stamp).chain(whole);
        stamps.fold(None, |span, stamp| match span {
            None => Some((stamp, stamp)),
            Some((first, last)) => Some((stamp.min(first), stamp.max(last))),
        })
    }
}
