//! A merged record.
//!
//! Its parts are maxima, so that it does not matter in which order changes come, how often, or in how many
//! parts they were merged before: the latest write of each field, the latest insert, the latest delete, and the
//! latest of all. It is as large as the record, not as its history.

use crate::change::{Change, Object, Op, Stamp, Write};
use crate::time::Time;
use allocator_api2::alloc::{Allocator, Global};
use allocator_api2::vec::Vec;
use mana_sync_cursor::Position;

/// A record as far as its changes have been seen. `V` is the value of a field with the spelling of its time, as
/// the caller keeps it; memory comes from `A`.
#[derive(Clone, Debug)]
pub struct Record<V, A: Allocator + Clone = Global> {
    /// Ascending by name. None that the latest delete has killed.
    fields: Vec<Field<V, A>, A>,
    inserted: Option<Stamp>,
    deleted: Option<Stamp>,
    /// The latest write, of whatever kind, and the space that it was in.
    latest: Option<(Stamp, Option<Vec<u8, A>>)>,
    memory: A,
}

/// The latest write of a field.
#[derive(Clone, Debug)]
pub struct Field<V, A: Allocator> {
    name: Vec<u8, A>,
    /// When it was written.
    pub stamp: Stamp,
    /// What was written.
    pub value: V,
}

impl<V, A: Allocator> Field<V, A> {
    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }
}

impl<V, A: Allocator + Clone> Record<V, A> {
    /// A record without any change.
    pub fn new(memory: A) -> Self {
        Record { fields: Vec::new_in(memory.clone()), inserted: None, deleted: None, latest: None, memory }
    }

    /// Merges a change, which was made in `space`. `keep` makes a value to keep of a write that is the latest.
    pub fn apply<'a, O: Object<'a>>(
        &mut self,
        change: &Change<O>,
        space: Option<&[u8]>,
        mut keep: impl FnMut(&Write<'a, O::Value>) -> V,
    ) {
        match change.op {
            Op::Insert => self.insert(change.stamp(), space),
            Op::Delete => self.delete(change.stamp(), space),
            Op::Update => {}
        }
        let mut new = Vec::new_in(self.memory.clone());
        for write in change.writes() {
            self.touch(write.stamp, space);
            self.write(write.name, write.stamp, || keep(&write), &mut new);
        }
        self.add(new);
    }

    /// Merges another record that has seen other changes, or the same.
    pub fn merge(&mut self, other: &Record<V, A>, mut copy: impl FnMut(&V) -> V) {
        self.inserted = self.inserted.max(other.inserted);
        if let Some(deleted) = other.deleted {
            self.kill(deleted);
        }
        if let Some((stamp, space)) = &other.latest {
            self.touch(*stamp, space.as_deref());
        }
        let mut new = Vec::new_in(self.memory.clone());
        for field in &other.fields {
            self.write(&field.name, field.stamp, || copy(&field.value), &mut new);
        }
        self.add(new);
    }

    fn insert(&mut self, stamp: Stamp, space: Option<&[u8]>) {
        self.inserted = self.inserted.max(Some(stamp));
        self.touch(stamp, space);
    }

    fn delete(&mut self, stamp: Stamp, space: Option<&[u8]>) {
        self.kill(stamp);
        self.touch(stamp, space);
    }

    fn kill(&mut self, stamp: Stamp) {
        if self.deleted < Some(stamp) {
            self.deleted = Some(stamp);
            self.fields.retain(|field| field.stamp > stamp);
        }
    }

    fn touch(&mut self, stamp: Stamp, space: Option<&[u8]>) {
        if self.latest.as_ref().is_some_and(|(latest, _)| *latest >= stamp) {
            return;
        }
        let space = match (self.latest.take(), space) {
            (_, None) => None,
            // The usual case takes no memory.
            (Some((_, Some(kept))), Some(space)) if kept.as_slice() == space => Some(kept),
            (_, Some(space)) => Some(self.bytes(space)),
        };
        self.latest = Some((stamp, space));
    }

    /// Writes a field. If that is new and the record is large, it goes to `new`, for [`Record::add`]: to make room in the middle
    /// for each of many is quadratic.
    fn write(&mut self, name: &[u8], stamp: Stamp, value: impl FnOnce() -> V, new: &mut Vec<Field<V, A>, A>) {
        const SMALL: usize = 64;
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
                let field = Field { name: self.bytes(name), stamp, value: value() };
                match at == self.fields.len() || self.fields.len() < SMALL {
                    true => self.fields.insert(at, field),
                    false => new.push(field),
                }
            }
        }
    }

    /// Adds fields that are not there yet, each once.
    fn add(&mut self, mut new: Vec<Field<V, A>, A>) {
        const FEW: usize = 8;
        if new.len() > FEW {
            self.fields.append(&mut new);
            self.fields.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        }
        for field in new {
            let at = self.fields.partition_point(|other| other.name < field.name);
            self.fields.insert(at, field);
        }
    }

    fn bytes(&self, bytes: &[u8]) -> Vec<u8, A> {
        let mut copy = Vec::with_capacity_in(bytes.len(), self.memory.clone());
        copy.extend_from_slice(bytes);
        copy
    }

    /// Whether there is anything to say of the record: updates without fields say nothing.
    pub fn exists(&self) -> bool {
        self.latest.is_some()
    }

    /// Whether it lives: an insert is later than its latest delete, or it was never deleted.
    pub fn lives(&self) -> bool {
        self.deleted.is_none() || self.inserted > self.deleted
    }

    /// When it was deleted, unless it lives.
    pub fn deleted_at(&self) -> Option<Time> {
        self.deleted.filter(|_| !self.lives()).map(|stamp| stamp.time)
    }

    /// When it was last written.
    pub fn updated_at(&self) -> Option<Time> {
        self.latest.as_ref().map(|(stamp, _)| stamp.time)
    }

    /// The space of its latest living write; of a record without one, that of its delete.
    ///
    /// The latest write of all is never a dead one: what the latest delete has killed is earlier than the delete.
    pub fn space(&self) -> Option<&[u8]> {
        self.latest.as_ref().and_then(|(_, space)| space.as_deref())
    }

    /// Its fields, ascending by name.
    pub fn fields(&self) -> &[Field<V, A>] {
        &self.fields
    }

    /// The record in bytes, for another process of the same server; `value` writes a value.
    pub fn to_bytes(&self, bytes: &mut std::vec::Vec<u8>, mut value: impl FnMut(&V, &mut std::vec::Vec<u8>)) {
        let stamp = |stamp: Option<Stamp>, bytes: &mut std::vec::Vec<u8>| {
            bytes.push(u8::from(stamp.is_some()));
            stamp.into_iter().for_each(|stamp| bytes.extend_from_slice(&stamp_to_bytes(stamp)));
        };
        stamp(self.inserted, bytes);
        stamp(self.deleted, bytes);
        stamp(self.latest.as_ref().map(|(latest, _)| *latest), bytes);
        bytes.push(u8::from(self.space().is_some()));
        self.space().into_iter().for_each(|space| put(space, bytes));
        bytes.extend_from_slice(&(self.fields.len() as u32).to_le_bytes());
        let mut buffer = std::vec::Vec::new();
        for field in &self.fields {
            put(&field.name, bytes);
            bytes.extend_from_slice(&stamp_to_bytes(field.stamp));
            buffer.clear();
            value(&field.value, &mut buffer);
            put(&buffer, bytes);
        }
    }

    /// The record that [`Record::to_bytes`] wrote; `None` if it did not.
    pub fn from_bytes(mut bytes: &[u8], memory: A, mut value: impl FnMut(&[u8]) -> Option<V>) -> Option<Self> {
        let bytes = &mut bytes;
        let mut record = Record::new(memory);
        let stamp = |bytes: &mut &[u8]| -> Option<Option<Stamp>> {
            if take::<1>(bytes)? == [0] { Some(None) } else { Some(Some(stamp_from_bytes(bytes)?)) }
        };
        record.inserted = stamp(bytes)?;
        record.deleted = stamp(bytes)?;
        let latest = stamp(bytes)?;
        let space = if take::<1>(bytes)? == [0] { None } else { Some(record.bytes(get(bytes)?)) };
        record.latest = latest.map(|stamp| (stamp, space));
        for _ in 0..u32::from_le_bytes(take(bytes)?) {
            let name = record.bytes(get(bytes)?);
            let stamp = stamp_from_bytes(bytes)?;
            record.fields.push(Field { name, stamp, value: value(get(bytes)?)? });
        }
        bytes.is_empty().then_some(record)
    }
}

fn put(part: &[u8], bytes: &mut std::vec::Vec<u8>) {
    bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
    bytes.extend_from_slice(part);
}

fn get<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(take(bytes)?) as usize;
    let (part, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(part)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
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
    let time = Time::from_bytes(take(bytes)?);
    let epoch = u32::from_le_bytes(take(bytes)?);
    let xact = u64::from_le_bytes(take(bytes)?);
    let seq = i64::from_le_bytes(take(bytes)?);
    Some(Stamp { time, position: Position::new(epoch, xact, seq) })
}
