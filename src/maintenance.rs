//! Maintenance: what makes the log smaller. Its functions act as the owner of the extension (`sql/maintenance.sql`).

mod compact;
mod forget;
mod purge;

use crate::error::Error;
use crate::function::{JSONB, UUID, array_datum, nullable_array_datum, text_datum};
use crate::jsonb::{Builder, Object, Value};
use crate::log::uuid_datum;
use crate::memory::Context;
use crate::snapshot;
use crate::statement::{Row, Spi, Statement};
use pgrx::pg_sys;
use std::collections::HashSet;

/// One at a time: two that remove the same rows in different orders would wait for each other. Readers and writers of
/// the log do not touch this table.
static LOCK: Statement = Statement::new(c"LOCK TABLE mana_sync.compactions IN SHARE ROW EXCLUSIVE MODE", &[]);

static DELETE: Statement = Statement::new(
    c"DELETE FROM mana_sync.sync_changes AS c WHERE c.id OPERATOR(pg_catalog.=) ANY ($1)",
    &[pg_sys::UUIDARRAYOID],
);

static UPDATE: Statement = Statement::new(
    c"UPDATE mana_sync.sync_changes AS c
      SET data = u.data, field_timestamps = u.field_timestamps
      FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))
           AS u (id, data, field_timestamps)
      WHERE c.id OPERATOR(pg_catalog.=) u.id",
    &[pg_sys::UUIDARRAYOID, pg_sys::JSONBARRAYOID, pg_sys::JSONBARRAYOID],
);

/// Waits for other maintenance, and refuses to work where row security would hide rows, or where the transaction does not
/// see what has been committed since it began: it could remove a delete, and not what that deleted.
fn begin(spi: &Spi) -> Result<(), Error> {
    if snapshot::is_fixed() {
        return Err(Error::FixedSnapshot);
    }
    // SAFETY: the names are constants. The last argument: no error, but an answer.
    let hidden = unsafe {
        let relation = crate::table::oid_of(c"sync_changes")?;
        pg_sys::check_enable_rls(relation, pg_sys::InvalidOid, true) == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32
    };
    if hidden {
        return Err(Error::HiddenRows);
    }
    spi.run(&LOCK, &[], pg_sys::SPI_OK_UTILITY);
    Ok(())
}

/// Changes of the log to remove or to rewrite, some thousand at a time.
struct Edits<'a> {
    spi: &'a Spi,
    /// For what is kept from row to row; emptied with each portion.
    memory: Context,
    removed: Vec<pg_sys::Datum>,
    /// Id, data, field_timestamps.
    rewritten: Vec<(pg_sys::Datum, Option<pg_sys::Datum>, Option<pg_sys::Datum>)>,
    /// Of what was rewritten.
    bytes: usize,
}

impl<'a> Edits<'a> {
    /// So many changes at a time,
    const PORTION: usize = 1000;
    /// or so many bytes of them.
    const BYTES: usize = 16 << 20;

    fn new(spi: &'a Spi) -> Edits<'a> {
        Edits { spi, memory: Context::current().child(), removed: Vec::new(), rewritten: Vec::new(), bytes: 0 }
    }

    /// Removes the row of an id.
    fn remove(&mut self, id: pg_sys::Datum) -> Result<(), Error> {
        self.removed.push(self.keep_id(id));
        self.flush_at(Self::PORTION)
    }

    /// Removes fields of a row; `first` is its column `data`, and `field_timestamps` is the next.
    fn trim(&mut self, id: pg_sys::Datum, row: &Row, first: i32, dead: &[&[u8]]) -> Result<(), Error> {
        let dead = HashSet::from_iter(dead.iter().copied());
        let id = self.keep_id(id);
        let column = |place| {
            // SAFETY: the column is a jsonb.
            let object = unsafe { crate::merge::object(row.column(place)) };
            self.memory.run(|| match object {
                Some(object) => Some(without(object, &dead)),
                // SAFETY: copies a jsonb.
                None => row
                    .column(place)
                    .map(|datum| unsafe { pg_sys::Datum::from(pg_sys::pg_detoast_datum_copy(datum.cast_mut_ptr())) }),
            })
        };
        let (data, field_timestamps) = (column(first), column(first + 1));
        // SAFETY: both are jsonb, and begin with their length.
        let size = |datum: pg_sys::Datum| unsafe { pgrx::varsize_any(datum.cast_mut_ptr()) };
        self.bytes += data.into_iter().chain(field_timestamps).map(size).sum::<usize>();
        self.rewritten.push((id, data, field_timestamps));
        self.flush_at(if self.bytes > Self::BYTES { 1 } else { Self::PORTION })
    }

    fn keep_id(&self, id: pg_sys::Datum) -> pg_sys::Datum {
        // SAFETY: a `uuid` is 16 bytes.
        let id = uuid::Uuid::from_bytes(unsafe { *id.cast_mut_ptr::<[u8; 16]>() });
        self.memory.run(|| uuid_datum(&id))
    }

    /// Does what was asked for.
    fn flush(&mut self) -> Result<(), Error> {
        self.flush_at(1)
    }

    fn flush_at(&mut self, count: usize) -> Result<(), Error> {
        let asked = self.removed.len() + self.rewritten.len();
        if asked < count {
            return Ok(());
        }
        self.bytes = 0;
        let mut done = 0;
        let (removed, rewritten) = (std::mem::take(&mut self.removed), std::mem::take(&mut self.rewritten));
        self.memory.run(|| {
            if !removed.is_empty() {
                done += self.spi.run(&DELETE, &[Some(array_datum(removed, &UUID))], pg_sys::SPI_OK_DELETE);
            }
            if !rewritten.is_empty() {
                let ids = rewritten.iter().map(|(id, _, _)| *id).collect();
                let data = rewritten.iter().map(|(_, data, _)| *data).collect();
                let times = rewritten.iter().map(|(_, _, times)| *times).collect();
                let values = [
                    Some(array_datum(ids, &UUID)),
                    Some(nullable_array_datum(data, &JSONB)),
                    Some(nullable_array_datum(times, &JSONB)),
                ];
                done += self.spi.run(&UPDATE, &values, pg_sys::SPI_OK_UPDATE);
            }
        });
        // SAFETY: the lists are empty.
        unsafe { self.memory.reset() };
        // Nobody but maintenance, of which there is one at a time, and a superuser by hand removes rows.
        if done == asked { Ok(()) } else { Err(Error::RowsChanged) }
    }
}

/// An object without some of its keys.
fn without(object: Object<'_>, dead: &HashSet<&[u8]>) -> pg_sys::Datum {
    let mut rest = Builder::new();
    for (key, value) in object.pairs() {
        if !matches!(key.get(), Value::String(name) if dead.contains(name)) {
            rest.add(key, value);
        }
    }
    rest.datum()
}

/// The columns that a group of changes agrees in: app, record, space ('' for none), user, table. All that a reader sees of it,
/// it sees together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct GroupKey([Vec<u8>; 5]);

impl GroupKey {
    /// Of a row, whose columns from `first` on these are.
    fn of(row: &Row, first: i32) -> GroupKey {
        GroupKey(std::array::from_fn(|i| {
            row.column(first + i as i32).map(|text| bytes(text).to_vec()).unwrap_or_default()
        }))
    }

    fn is_of(&self, row: &Row, first: i32) -> bool {
        self.0.iter().zip(first..).all(|(part, place)| row.column(place).is_some_and(|text| bytes(text) == part))
    }

    /// As parameters.
    fn values(&self) -> Vec<Option<pg_sys::Datum>> {
        self.0.iter().map(|part| Some(text_datum(part))).collect()
    }

    fn space(&self) -> &[u8] {
        &self.0[2]
    }
}

/// The bytes of a column that is a `text`.
fn bytes<'a>(text: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: the column is a text, and the row is there as long as the slice is used.
    unsafe { crate::function::text_of(text) }
}

/// Columns of `GROUP`, and of the statements that read the log in the order of its groups: id, then op and so on.
mod column {
    pub const ID: i32 = 1;
    pub const OP: i32 = 2;
    pub const DATA: i32 = 3;
    /// App, record, space, user, table.
    pub const GROUP: i32 = 9;
}

/// What the statements of maintenance read; `$rest` begins with WHERE.
macro_rules! select_changes {
    ($($rest:literal),+) => {
        $crate::statement::sql!(
            "SELECT c.id, c.op, c.data, c.field_timestamps, c.created_at, c.epoch, c.xact, c.seq,
                    c.app_id, c.record_id, CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END, c.user_id, c.table_name
             FROM mana_sync.sync_changes AS c ",
            $($rest),+
        )
    };
}
use select_changes;

/// The changes of a group.
static GROUP: Statement = Statement::new(
    select_changes!(
        "WHERE c.app_id OPERATOR(pg_catalog.=) $1
           AND c.record_id OPERATOR(pg_catalog.=) $2
           AND CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END OPERATOR(pg_catalog.=) $3
           AND c.user_id COLLATE pg_catalog.\"POSIX\" OPERATOR(pg_catalog.=) $4
           AND c.table_name OPERATOR(pg_catalog.=) $5"
    ),
    &[pg_sys::TEXTOID; 5],
);
