//! Merging changes into a record.
//!
//! A record consists of maxima: the latest write of each field, the latest insert, the latest delete, and the latest write of any
//! kind. The result therefore does not depend on the order of the changes, on changes that are merged twice, or on how records of
//! some of the changes are combined. The size of a record depends on the number of its fields, not on the number of its changes.

use crate::change::{Change, FieldWrite, JsonObject, Op, Stamp};
use crate::time::Time;
use allocator_api2::alloc::{Allocator, Global};
use allocator_api2::vec::Vec;
use mana_sync_cursor::Position;

/// The state of a record after the changes that were merged into it.
///
/// `V` is what the caller stores for a field: its value, and the device's spelling of its time. `A` allocates the memory.
#[derive(Clone, Debug)]
pub struct Record<V, A: Allocator + Clone = Global> {
    /// The latest live write of each field, in ascending order of the names.
    fields: Vec<Field<V, A>, A>,
    /// The latest insert.
    inserted: Option<Stamp>,
    /// The latest delete.
    deleted: Option<Stamp>,
    /// The latest write of any kind.
    latest: Option<WriteInSpace<A>>,
    allocator: A,
}

/// A write of any kind, and the space that it was in.
#[derive(Clone, Debug)]
struct WriteInSpace<A: Allocator> {
    stamp: Stamp,
    /// The space of the change; `None` if it was private.
    space: Option<Vec<u8, A>>,
}

/// The latest write of a field.
#[derive(Clone, Debug)]
pub struct Field<V, A: Allocator> {
    name: Vec<u8, A>,
    /// The stamp of the write.
    pub stamp: Stamp,
    /// What the caller stores for the write.
    pub value: V,
}

impl<V, A: Allocator> Field<V, A> {
    /// Returns the name of the field.
    pub fn name(&self) -> &[u8] {
        &self.name
    }
}

impl<V, A: Allocator + Clone> Record<V, A> {
    /// Creates a record without any change.
    pub fn new(allocator: A) -> Self {
        Record { fields: Vec::new_in(allocator.clone()), inserted: None, deleted: None, latest: None, allocator }
    }

    /// Merges a change into the record. `space` is the space of the change, `None` if it is private. `to_value` is called for the
    /// writes that are the latest of their fields, and returns what to store for them.
    pub fn apply<'a, O: JsonObject<'a>>(
        &mut self,
        change: &Change<O>,
        space: Option<&[u8]>,
        mut to_value: impl FnMut(&FieldWrite<'a, O::Value>) -> V,
    ) {
        match change.op {
            Op::Insert => self.insert(change.stamp(), space),
            Op::Delete => self.delete(change.stamp(), space),
            Op::Update => {}
        }
        let mut new = Vec::new_in(self.allocator.clone());
        for write in change.writes() {
            self.update_latest(write.stamp, space);
            self.write_field(write.name, write.stamp, || to_value(&write), &mut new);
        }
        self.add_fields(new);
    }

    /// Combines the record with another state of the same record, which may have the same changes or others. `copy` copies what is
    /// stored for a field.
    pub fn combine(&mut self, other: &Record<V, A>, mut copy: impl FnMut(&V) -> V) {
        self.inserted = self.inserted.max(other.inserted);
        if let Some(deleted) = other.deleted {
            self.delete_fields(deleted);
        }
        if let Some(WriteInSpace { stamp, space }) = &other.latest {
            self.update_latest(*stamp, space.as_deref());
        }
        let mut new = Vec::new_in(self.allocator.clone());
        for field in &other.fields {
            self.write_field(&field.name, field.stamp, || copy(&field.value), &mut new);
        }
        self.add_fields(new);
    }

    fn insert(&mut self, stamp: Stamp, space: Option<&[u8]>) {
        self.inserted = self.inserted.max(Some(stamp));
        self.update_latest(stamp, space);
    }

    fn delete(&mut self, stamp: Stamp, space: Option<&[u8]>) {
        self.delete_fields(stamp);
        self.update_latest(stamp, space);
    }

    /// Removes the fields that a delete with this stamp deletes.
    fn delete_fields(&mut self, stamp: Stamp) {
        if self.deleted < Some(stamp) {
            self.deleted = Some(stamp);
            self.fields.retain(|field| field.stamp > stamp);
        }
    }

    fn update_latest(&mut self, stamp: Stamp, space: Option<&[u8]>) {
        if self.latest.as_ref().is_some_and(|latest| latest.stamp >= stamp) {
            return;
        }
        let space = match (self.latest.take().and_then(|latest| latest.space), space) {
            (_, None) => None,
            // Most writes are in the same space as the one before: this case allocates no memory.
            (Some(old), Some(space)) if old.as_slice() == space => Some(old),
            (_, Some(space)) => Some(self.copy_bytes(space)),
        };
        self.latest = Some(WriteInSpace { stamp, space });
    }

    /// Writes a field. A field that the record does not have yet goes to `new` if the record is large: the caller passes `new` to
    /// [`Record::add_fields`], because inserting many fields one by one would take quadratic time.
    fn write_field(&mut self, name: &[u8], stamp: Stamp, value: impl FnOnce() -> V, new: &mut Vec<Field<V, A>, A>) {
        const MAX_FIELDS_OF_SMALL_RECORD: usize = 64;
        if self.deleted >= Some(stamp) {
            return;
        }
        match self.fields.binary_search_by(|field| field.name.as_slice().cmp(name)) {
            Ok(at) if self.fields[at].stamp >= stamp => {}
            Ok(at) => {
                let field = &mut self.fields[at];
                (field.stamp, field.value) = (stamp, value());
            }
            Err(at) => {
                let field = Field { name: self.copy_bytes(name), stamp, value: value() };
                match at == self.fields.len() || self.fields.len() < MAX_FIELDS_OF_SMALL_RECORD {
                    true => self.fields.insert(at, field),
                    false => new.push(field),
                }
            }
        }
    }

    /// Adds fields that the record does not have yet. Each may occur once.
    fn add_fields(&mut self, mut new: Vec<Field<V, A>, A>) {
        const MAX_SINGLE_INSERTIONS: usize = 8;
        if new.len() > MAX_SINGLE_INSERTIONS {
            self.fields.append(&mut new);
            self.fields.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        }
        for field in new {
            let at = self.fields.partition_point(|other| other.name < field.name);
            self.fields.insert(at, field);
        }
    }

    fn copy_bytes(&self, bytes: &[u8]) -> Vec<u8, A> {
        let mut copy = Vec::with_capacity_in(bytes.len(), self.allocator.clone());
        copy.extend_from_slice(bytes);
        copy
    }

    /// Returns whether the record exists: some change inserted it, deleted it or wrote a field.
    pub fn exists(&self) -> bool {
        self.latest.is_some()
    }

    /// Returns whether the record is live: it was never deleted, or was inserted after its latest delete.
    pub fn is_live(&self) -> bool {
        self.deleted.is_none() || self.inserted > self.deleted
    }

    /// Returns when the record was deleted; `None` if it is live.
    pub fn deleted_at(&self) -> Option<Time> {
        self.deleted.filter(|_| !self.is_live()).map(|stamp| stamp.time)
    }

    /// Returns the time of the latest write of any kind; `None` if the record does not exist.
    pub fn updated_at(&self) -> Option<Time> {
        self.latest.as_ref().map(|latest| latest.stamp.time)
    }

    /// Returns the space of the latest write of any kind; `None` if it was private.
    ///
    /// This is a live write or the latest delete, because deleted writes are earlier than the delete.
    pub fn space(&self) -> Option<&[u8]> {
        self.latest.as_ref().and_then(|latest| latest.space.as_deref())
    }

    /// Returns the fields, in ascending order of their names.
    pub fn fields(&self) -> &[Field<V, A>] {
        &self.fields
    }

    /// Encodes the record for another process of the same server, which [`Record::from_bytes`] reads. `value` encodes what is stored
    /// for a field.
    pub fn to_bytes(&self, bytes: &mut std::vec::Vec<u8>, mut value: impl FnMut(&V, &mut std::vec::Vec<u8>)) {
        let stamp = |stamp: Option<Stamp>, bytes: &mut std::vec::Vec<u8>| {
            bytes.push(u8::from(stamp.is_some()));
            stamp.into_iter().for_each(|stamp| bytes.extend_from_slice(&stamp_to_bytes(stamp)));
        };
        stamp(self.inserted, bytes);
        stamp(self.deleted, bytes);
        stamp(self.latest.as_ref().map(|latest| latest.stamp), bytes);
        bytes.push(u8::from(self.space().is_some()));
        self.space().into_iter().for_each(|space| write_slice(space, bytes));
        bytes.extend_from_slice(&(self.fields.len() as u32).to_le_bytes());
        let mut buffer = std::vec::Vec::new();
        for field in &self.fields {
            write_slice(&field.name, bytes);
            bytes.extend_from_slice(&stamp_to_bytes(field.stamp));
            buffer.clear();
            value(&field.value, &mut buffer);
            write_slice(&buffer, bytes);
        }
    }

    /// Decodes a record. Returns `None` if [`Record::to_bytes`] did not write these bytes. `value` decodes what is stored for a field.
    pub fn from_bytes(mut bytes: &[u8], allocator: A, mut value: impl FnMut(&[u8]) -> Option<V>) -> Option<Self> {
        let bytes = &mut bytes;
        let mut record = Record::new(allocator);
        let stamp = |bytes: &mut &[u8]| -> Option<Option<Stamp>> {
            if read_array::<1>(bytes)? == [0] { Some(None) } else { Some(Some(stamp_from_bytes(bytes)?)) }
        };
        record.inserted = stamp(bytes)?;
        record.deleted = stamp(bytes)?;
        let latest = stamp(bytes)?;
        let space = if read_array::<1>(bytes)? == [0] { None } else { Some(record.copy_bytes(read_slice(bytes)?)) };
        record.latest = latest.map(|stamp| WriteInSpace { stamp, space });
        for _ in 0..u32::from_le_bytes(read_array(bytes)?) {
            let name = record.copy_bytes(read_slice(bytes)?);
            let stamp = stamp_from_bytes(bytes)?;
            record.fields.push(Field { name, stamp, value: value(read_slice(bytes)?)? });
        }
        bytes.is_empty().then_some(record)
    }
}

fn write_slice(part: &[u8], bytes: &mut std::vec::Vec<u8>) {
    bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
    bytes.extend_from_slice(part);
}

fn read_slice<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(read_array(bytes)?) as usize;
    let (part, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(part)
}

fn read_array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (part, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*part)
}

fn stamp_to_bytes(stamp: Stamp) -> [u8; 30] {
    let mut bytes = [0; 30];
    bytes[..10].copy_from_slice(&stamp.time.to_bytes());
    bytes[10..14].copy_from_slice(&stamp.position.epoch.0.to_le_bytes());
    bytes[14..22].copy_from_slice(&stamp.position.xact.0.to_le_bytes());
    bytes[22..].copy_from_slice(&stamp.position.seq.to_le_bytes());
    bytes
}

fn stamp_from_bytes(bytes: &mut &[u8]) -> Option<Stamp> {
    let time = Time::from_bytes(read_array(bytes)?);
    let epoch = u32::from_le_bytes(read_array(bytes)?);
    let xact = u64::from_le_bytes(read_array(bytes)?);
    let seq = i64::from_le_bytes(read_array(bytes)?);
    Some(Stamp { time, position: Position::new(epoch, xact, seq) })
}
