//! Maintenance: the functions that remove rows from the log. They run with the rights of the owner of the extension
//! (`sql/maintenance.sql`).

mod adopt;
mod compact;
mod forget;
mod purge;

use crate::error::Error;
use crate::pg::datum::{Datum, types::*};
use crate::pg::jsonb::{Builder, Jsonb, JsonbBuf, Object};
use crate::pg::memory::{Memory, with_scratch};
use crate::pg::spi::{Spi, Statement, statement};
use crate::pg::{heap, server};
use crate::row::{Column, GROUP, LogRow};
use std::collections::HashSet;

/// The lock that lets only one maintenance function run at a time. Two of them could remove the same rows in different orders, and wait for
/// each other. Readers and writers of the log do not use this table.
static LOCK: Statement = statement!(sql "LOCK TABLE mana_sync.compactions IN SHARE ROW EXCLUSIVE MODE", []);

static DELETE: Statement = statement!("queries/delete.sql", [UUID_ARRAY]);

static UPDATE: Statement = statement!("queries/update.sql", [UUID_ARRAY, JSONB_ARRAY, JSONB_ARRAY]);

static CHANGES_OF_GROUP: Statement = statement!("queries/group.sql", [TEXT, TEXT, TEXT, TEXT, TEXT]);

/// Waits until no other maintenance function runs. A snapshot that is taken afterwards sees what the other function has removed.
///
/// Errors: 25001 if the transaction keeps one snapshot. Such a transaction does not see later commits, and could remove a delete but not
/// all changes that the delete covers. 42501 if row security would hide rows.
fn lock(spi: Spi<'_>) -> Result<(), Error> {
    if server::keeps_one_snapshot() {
        return Err(Error::FixedSnapshot);
    }
    if heap::has_row_security(c"sync_changes")? {
        return Err(Error::HiddenRows);
    }
    spi.command(&LOCK);
    Ok(())
}

/// The changes that are to be removed or trimmed. They are collected, and written to the log many at once.
struct Edits<'s> {
    spi: Spi<'s>,
    removed: Vec<uuid::Uuid>,
    trimmed: Vec<Trimmed<'s>>,
    /// The number of bytes of JSON in `trimmed`.
    bytes: usize,
}

/// The new values of a change that loses some of its fields.
struct Trimmed<'s> {
    id: uuid::Uuid,
    data: Option<JsonbBuf<'s>>,
    field_timestamps: Option<JsonbBuf<'s>>,
}

impl<'s> Edits<'s> {
    /// The maximum number of changes that are written at once.
    const MOST_CHANGES: usize = 1000;
    /// The number of bytes of JSON above which the collected changes are written.
    const MOST_BYTES: usize = 16 << 20;

    fn new(spi: Spi<'s>) -> Edits<'s> {
        Edits { spi, removed: Vec::new(), trimmed: Vec::new(), bytes: 0 }
    }

    /// Collects a change to remove.
    fn remove(&mut self, row: &LogRow<'_>) -> Result<(), Error> {
        self.removed.push(row.id()?);
        self.flush_at(Self::MOST_CHANGES)
    }

    /// Collects a change to trim: it loses the fields named in `overwritten`.
    fn trim(&mut self, row: &LogRow<'_>, overwritten: &[&[u8]]) -> Result<(), Error> {
        let overwritten = HashSet::from_iter(overwritten.iter().copied());
        let memory = self.spi.memory();
        let trim = |column| {
            let value = row.jsonb(column)?;
            let trimmed = match value.object() {
                Some(object) => without(object, &overwritten, row.row().memory()),
                None => value,
            };
            Some(trimmed.to_owned_in(memory))
        };
        let trimmed =
            Trimmed { id: row.id()?, data: trim(Column::Data), field_timestamps: trim(Column::FieldTimestamps) };
        self.bytes += trimmed.data.iter().chain(&trimmed.field_timestamps).map(JsonbBuf::size).sum::<usize>();
        self.trimmed.push(trimmed);
        self.flush_at(if self.bytes > Self::MOST_BYTES { 1 } else { Self::MOST_CHANGES })
    }

    /// Writes the collected edits.
    fn flush(&mut self) -> Result<(), Error> {
        self.flush_at(1)
    }

    /// Writes the collected edits if there are at least `count`.
    fn flush_at(&mut self, count: usize) -> Result<(), Error> {
        let asked = self.removed.len() + self.trimmed.len();
        if asked < count {
            return Ok(());
        }
        let done = with_scratch(|memory| {
            let mut done = 0;
            if !self.removed.is_empty() {
                let ids = self.removed.iter().map(|id| memory.uuid(id));
                done += self.spi.delete(&DELETE, &[Some(memory.array(UUID, ids))]);
            }
            if !self.trimmed.is_empty() {
                let ids = self.trimmed.iter().map(|change| memory.uuid(&change.id));
                let data = self.trimmed.iter().map(|change| change.data.as_ref().map(JsonbBuf::datum));
                let times = self.trimmed.iter().map(|change| change.field_timestamps.as_ref().map(JsonbBuf::datum));
                let values = [
                    Some(memory.array(UUID, ids)),
                    Some(memory.nullable_array(JSONB, data)),
                    Some(memory.nullable_array(JSONB, times)),
                ];
                done += self.spi.update(&UPDATE, &values);
            }
            done
        });
        self.removed.clear();
        self.trimmed.clear();
        self.bytes = 0;
        // Only maintenance, which runs one at a time, and a superuser's own statements remove rows. So the numbers
        // differ only if a superuser has done so.
        if done == asked { Ok(()) } else { Err(Error::RowsChanged) }
    }
}

/// Returns a copy of an object without `keys`.
fn without<'m>(object: Object<'m>, keys: &HashSet<&[u8]>, memory: Memory<'m>) -> Jsonb<'m> {
    let mut rest = Builder::new(memory);
    for (key, value) in object.pairs() {
        if !key.text().is_some_and(|name| keys.contains(name)) {
            rest.add(key, value);
        }
    }
    rest.finish()
}

/// The key of a group of changes: app, record, space ('' for none), user, table. A reader sees all changes of a group or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct GroupKey([Vec<u8>; GROUP.len()]);

impl GroupKey {
    /// The key of the group of a change.
    fn of(row: &LogRow<'_>) -> GroupKey {
        GroupKey(GROUP.map(|column| row.group_key(column).to_vec()))
    }

    /// Whether a change is in the group with this key.
    fn is_of(&self, row: &LogRow<'_>) -> bool {
        self.0.iter().zip(GROUP).all(|(part, column)| row.group_key(column) == part)
    }

    /// The parts of the key as parameters of a statement.
    fn values<'m>(&self, memory: Memory<'m>) -> Vec<Option<Datum<'m>>> {
        self.0.iter().map(|part| Some(memory.text(part))).collect()
    }

    fn space(&self) -> &[u8] {
        &self.0[2]
    }
}
