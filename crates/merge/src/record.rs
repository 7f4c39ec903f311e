//! Merging changes into a record.
//!
//! A record consists of maxima: the latest write of each field, the latest insert, the latest delete, and the latest write of any kind. The
//! result therefore does not depend on the order of the changes, on whether a change is merged twice, or on how partial results are
//! combined. The size of a record depends on the number of its fields, not on the number of its changes.

use crate::change::{Change, FieldWrite, JsonObject, Op, Stamp};
use crate::time::Time;
use allocator_api2::alloc::{Allocator, Global};
use allocator_api2::vec::Vec;
use serde_bytes::Bytes;

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

/// A write of any kind, and its space.
#[derive(Clone, Debug)]
struct WriteInSpace<A: Allocator> {
    stamp: Stamp,
    /// The space of the change that wrote; `None` if the change was private.
    space: Option<Vec<u8, A>>,
}

/// The latest write of a field.
#[derive(Clone, Debug)]
pub struct Field<V, A: Allocator> {
    name: Vec<u8, A>,
    /// The stamp of the write.
    pub stamp: Stamp,
    /// What the caller stores for the field.
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

    /// Merges a change into the record. `space` is the space of the change; `None` for a private change. `to_value` is called for each
    /// write that is the latest of its field so far, and returns what to store for the field.
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

    /// Merges another state of the same record into this one. Both may have changes in common. `copy` copies what is stored for a field.
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

    /// Applies a delete with this stamp: removes the fields whose writes are not later.
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

    /// Writes a field, unless the record has a later write or delete. A new field of a large record goes to `new`: the caller passes `new`
    /// to [`Record::add_fields`], because inserting many fields one by one would take quadratic time.
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

    /// Adds fields that the record does not have yet. Each field must occur only once in `new`.
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

    /// Returns the time of the latest write of any kind (an insert, a delete or a write of a field); `None` if the record does not exist.
    pub fn updated_at(&self) -> Option<Time> {
        self.latest.as_ref().map(|latest| latest.stamp.time)
    }

    /// Returns the space of the latest write of any kind; `None` if that write was private or the record does not exist.
    ///
    /// The latest write of any kind is a live write or the latest delete, because deleted writes are earlier than the delete.
    pub fn space(&self) -> Option<&[u8]> {
        self.latest.as_ref().and_then(|latest| latest.space.as_deref())
    }

    /// Returns the fields, in ascending order of their names.
    pub fn fields(&self) -> &[Field<V, A>] {
        &self.fields
    }

    /// Returns the record in a form that serde can encode, for another process of the same server. `value` converts what is stored
    /// for a field.
    pub fn to_stored<'r, W>(&'r self, mut value: impl FnMut(&'r V) -> W) -> StoredRecord<'r, W> {
        let latest = self.latest.as_ref().map(|latest| (latest.stamp, latest.space.as_deref().map(Bytes::new)));
        let field = |field: &'r Field<V, A>| StoredField {
            name: Bytes::new(&field.name),
            stamp: field.stamp,
            value: value(&field.value),
        };
        let fields = self.fields.iter().map(field).collect();
        StoredRecord { inserted: self.inserted, deleted: self.deleted, latest, fields }
    }

    /// Returns the record from which [`Record::to_stored`] made `stored`. `value` converts what is stored for a field.
    pub fn from_stored<W>(stored: StoredRecord<'_, W>, allocator: A, mut value: impl FnMut(W) -> V) -> Self {
        let mut record = Record::new(allocator);
        record.inserted = stored.inserted;
        record.deleted = stored.deleted;
        record.latest = stored
            .latest
            .map(|(stamp, space)| WriteInSpace { stamp, space: space.map(|space| record.copy_bytes(space)) });
        for field in stored.fields {
            let name = record.copy_bytes(field.name);
            record.fields.push(Field { name, stamp: field.stamp, value: value(field.value) });
        }
        record
    }
}

/// A [`Record`] in a form that serde can encode and decode. `V` is what is stored for a field.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct StoredRecord<'a, V> {
    inserted: Option<Stamp>,
    deleted: Option<Stamp>,
    #[serde(borrow)]
    latest: Option<(Stamp, Option<&'a Bytes>)>,
    #[serde(borrow)]
    fields: std::vec::Vec<StoredField<'a, V>>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct StoredField<'a, V> {
    #[serde(borrow)]
    name: &'a Bytes,
    stamp: Stamp,
    value: V,
}
