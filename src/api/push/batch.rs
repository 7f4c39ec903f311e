//! The rows of a push, and the statements that insert and compare them.

use super::spaces::Spaces;
use crate::call::with_index_scans;
use crate::epoch;
use crate::error::Error;
use crate::pg::datum::{Datum, types::*};
use crate::pg::heap::{self, Compare, Guards, Key};
use crate::pg::jsonb::{Jsonb, empty_object};
use crate::pg::memory::{Memory, with_scratch};
use crate::pg::snapshot::{self, Kind};
use crate::pg::spi::{Spi, Statement, statement};
use crate::pg::xact::{self, SqlState};
use crate::wire::changeset::Change;
use crate::wire::response::Rejected;
use std::convert::Infallible;
use std::ops::Range;

static INSERT: Statement = statement!(
    "insert.sql",
    [
        TEXT,
        TEXT,
        TEXT,
        UUID_ARRAY,
        TEXT_ARRAY,
        TEXT_ARRAY,
        TEXT_ARRAY,
        TEXT_ARRAY,
        JSONB_ARRAY,
        JSONB_ARRAY,
        INT4_ARRAY,
        JSONB_ARRAY,
        TEXT_ARRAY
    ]
);

static TAKEN: Statement = statement!(
    "taken.sql",
    [TEXT, TEXT, UUID_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, JSONB_ARRAY, JSONB_ARRAY]
);

/// A row that is going to be inserted.
pub struct NewRow<'s, 'a> {
    /// The change that the row records.
    pub change: &'s Change<'a>,
    /// The id of the row.
    pub id: uuid::Uuid,
    /// The space of the row; `None` for a private row.
    pub space: Option<&'s [u8]>,
    /// The column `data`.
    pub data: Option<Jsonb<'s>>,
    /// The column `field_timestamps`.
    pub field_timestamps: Option<Jsonb<'s>>,
}

/// Why a row was not inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotInserted {
    /// A trigger of the application left the row out.
    Skipped,
    /// The id of the row is the id of another change.
    Taken,
    /// The change was recorded before, with other content.
    Changed,
}

/// A connection, with the user, the app and the device whose changes it inserts.
pub struct Batch<'s> {
    pub(super) spi: Spi<'s>,
    pub(super) user: Datum<'s>,
    pub(super) app: Datum<'s>,
    client: Datum<'s>,
}

impl<'s> Batch<'s> {
    /// Makes a batch for the changes that `client` pushes for `user`.
    pub fn new(spi: Spi<'s>, user: &[u8], app: &[u8], client: Option<&[u8]>) -> Batch<'s> {
        let memory = spi.memory();
        let client = memory.text(client.unwrap_or_default());
        Batch { spi, user: memory.text(user), app: memory.text(app), client }
    }

    /// Inserts the rows whose ids are not taken, and returns the ids of those that were inserted.
    pub fn insert(&self, rows: &[NewRow<'_, '_>]) -> Vec<uuid::Uuid> {
        with_scratch(|memory| {
            let rows: Vec<&NewRow<'_, '_>> = rows.iter().collect();
            let columns = Columns { rows: &rows, memory };
            let nothing = empty_object(memory);
            let times = rows.iter().map(|row| row.field_timestamps.unwrap_or(nothing).datum());
            let values = [
                Some(self.app),
                Some(self.user),
                Some(self.client),
                columns.ids(),
                columns.texts(|row| row.change.table),
                columns.texts(|row| row.change.record),
                columns.nullable_texts(|row| row.space),
                columns.texts(|row| row.change.op),
                columns.jsonbs(|row| row.data),
                Some(memory.array(JSONB, times)),
                Some(memory.array(INT4, rows.iter().map(|row| Datum::from(row.change.schema_version)))),
                columns.jsonbs(|row| row.change.actor),
                columns.nullable_texts(|row| row.change.origin),
            ];
            self.spi.insert_returning(&INSERT, &values).iter().filter_map(|row| row.uuid(1)).collect()
        })
    }

    /// Inserts the rows that nothing in the database refuses. Returns the ids of the rows that were inserted, and all rows that were not
    /// refused. Adds the refused rows to `rejected`.
    ///
    /// Each statement runs in a subtransaction, which is rolled back if a row is refused. The number of rows that the statement had begun
    /// tells which row that was. If it had begun all its rows, any of them may be at fault, because the error may come from an AFTER
    /// trigger: then both halves are tried again. A row is rejected only if it was the only row of its statement, or the first one.
    pub fn insert_what_is_not_refused<'a>(
        &self,
        mut rows: Vec<NewRow<'s, 'a>>,
        spaces: &Spaces<'s>,
        rejected: &mut Vec<Rejected<'a>>,
    ) -> (Vec<uuid::Uuid>, Vec<NewRow<'s, 'a>>) {
        /// The least number of rows that one statement tries after rows were refused.
        const LEAST: usize = 16;
        let (mut inserted, mut is_refused) = (Vec::with_capacity(rows.len()), vec![false; rows.len()]);
        let mut most = rows.len();
        // The ranges of rows that are still to be tried, the next one last.
        let mut ranges: Vec<Range<usize>> = Vec::new();
        ranges.push(0..rows.len());
        while let Some(range) = ranges.pop() {
            if range.len() > most {
                ranges.extend([range.start + most..range.end, range.start..range.start + most]);
                continue;
            }
            let begun_before = epoch::rows_begun();
            let failure = match xact::in_subtransaction(|| self.insert(&rows[range.clone()])) {
                Ok(ids) => {
                    inserted.extend(ids);
                    most = most.saturating_mul(2);
                    continue;
                }
                Err(failure) => failure,
            };
            let begun = epoch::rows_begun().wrapping_sub(begun_before) as usize;
            // Before a row is begun, no row can be at fault. A role that lacks a privilege, on the log or on what a trigger uses, is
            // a fault of the application.
            if begun == 0 || failure.lacks_privilege || !is_refusal(failure.code) {
                failure.raise();
            }
            most = (most / 4).max(LEAST);
            let parts = match (range.len(), begun) {
                (1, _) | (_, 1) => {
                    is_refused[range.start] = true;
                    // The rows after it may have their spaces from it.
                    spaces.assign(&mut rows, &is_refused);
                    let change = rows[range.start].change;
                    rejected.push(Rejected::by_application(change.index, &change.named(), failure));
                    [range.start + 1..range.end, 0..0, 0..0]
                }
                (length, begun) if begun < length => {
                    let row = range.start + begun - 1;
                    [row + 1..range.end, row..row + 1, range.start..row]
                }
                (length, _) => {
                    let middle = range.start + length / 2;
                    [middle..range.end, range.start..middle, 0..0]
                }
            };
            ranges.extend(parts.into_iter().filter(|part| !part.is_empty()));
        }
        let kept = rows.into_iter().zip(is_refused).filter(|(_, is_refused)| !is_refused).map(|(row, _)| row);
        (inserted, kept.collect())
    }

    /// Returns those of `rows` that are not duplicates, each with the reason why it was not inserted. A duplicate was recorded before, with
    /// the same content.
    pub fn not_inserted<'r, 'a>(
        &self,
        rows: &[&'r NewRow<'s, 'a>],
    ) -> Result<Vec<(&'r NewRow<'s, 'a>, NotInserted)>, Error> {
        with_scratch(|memory| {
            let columns = Columns { rows, memory };
            // The changes are compared as they were sent, without derived times and spaces: those depend on the rest of the push.
            let values = [
                Some(self.user),
                Some(self.app),
                columns.ids(),
                columns.texts(|row| row.change.table),
                columns.texts(|row| row.change.record),
                columns.texts(|row| row.change.op),
                columns.nullable_texts(|row| row.change.space),
                columns.jsonbs(|row| row.change.data),
                columns.jsonbs(|row| row.change.field_timestamps),
            ];
            let Ok(found) = with_index_scans(|| Ok::<_, Infallible>(self.spi.select(&TAKEN, &values)));
            let mut not_inserted = Vec::new();
            for row in found.iter() {
                let Some(&new) = row.int8(1).and_then(|place| rows.get(place as usize - 1)) else { continue };
                let why = match row.bool(2) {
                    Some(true) => NotInserted::Changed,
                    Some(false) => NotInserted::Taken,
                    None if id_exists(memory.uuid(&new.id))? => NotInserted::Taken,
                    None => NotInserted::Skipped,
                };
                not_inserted.push((new, why));
            }
            Ok(not_inserted)
        })
    }
}

/// Whether the log has a row with this id, even one that row security hides from the caller.
fn id_exists(id: Datum<'_>) -> Result<bool, Error> {
    let index = (c"sync_changes", c"sync_changes_pkey");
    let keys = [Key::uuid(1, Compare::Equal, id)];
    snapshot::with(Kind::Latest, || Ok(heap::last(index, &keys, |_| Ok(()))?.is_some()))
}

/// Whether the log has a trigger, constraint, index or policy of the application, which may refuse a row.
pub fn may_be_refused() -> Result<bool, Error> {
    /// The objects that `sql/tables.sql` and `sql/policies.sql` create.
    const OWN: Guards = Guards {
        triggers: &[c"sync_changes_note"],
        checks: &[c"sync_changes_op_and_user_id_check"],
        indexes: &[
            c"sync_changes_pkey",
            c"sync_changes_own_idx",
            c"sync_changes_space_idx",
            c"sync_changes_record_idx",
        ],
        policies: &[c"sync_changes_user_isolation", c"sync_changes_space_member_read"],
        not_null: &[
            c"id",
            c"created_at",
            c"xact",
            c"epoch",
            c"schema_version",
            c"user_id",
            c"app_id",
            c"table_name",
            c"record_id",
            c"op",
            c"client_id",
            c"seq",
        ],
    };
    heap::has_other_guards(c"sync_changes", &OWN)
}

/// Whether an error is a refusal of a change, and not a fault of the server or of the application.
///
/// Refusals are errors of the classes 22 (data exception) and 23 (integrity constraint violation), `insufficient_privilege`, what RAISE
/// EXCEPTION raises by default, and every SQLSTATE of a class that PostgreSQL does not use. The standard leaves the classes that begin
/// with 5 to 9 or I to Z to implementations.
fn is_refusal(code: SqlState) -> bool {
    const USED_BY_POSTGRESQL: [&str; 8] = ["53", "54", "55", "57", "58", "72", "P0", "XX"];
    let code = code.as_str();
    let (class, first) = (&code[..2], code.as_bytes()[0]);
    let is_of_application = matches!(first, b'5'..=b'9' | b'I'..=b'Z') && !USED_BY_POSTGRESQL.contains(&class);
    matches!(class, "22" | "23") || matches!(code, "42501" | "P0001") || is_of_application
}

/// Makes an array of the rows' values for each column.
struct Columns<'r, 's, 'a, 'm> {
    rows: &'r [&'r NewRow<'s, 'a>],
    memory: Memory<'m>,
}

impl<'s, 'a, 'm> Columns<'_, 's, 'a, 'm> {
    fn ids(&self) -> Option<Datum<'m>> {
        Some(self.memory.array(UUID, self.rows.iter().map(|row| self.memory.uuid(&row.id))))
    }

    fn texts(&self, text: impl for<'r> Fn(&'r NewRow<'s, 'a>) -> &'r [u8]) -> Option<Datum<'m>> {
        Some(self.memory.array(TEXT, self.rows.iter().map(|row| self.memory.text(text(row)))))
    }

    fn nullable_texts(&self, text: impl for<'r> Fn(&'r NewRow<'s, 'a>) -> Option<&'r [u8]>) -> Option<Datum<'m>> {
        let texts = self.rows.iter().map(|row| text(row).map(|text| self.memory.text(text)));
        Some(self.memory.nullable_array(TEXT, texts))
    }

    fn jsonbs(&self, json: impl for<'r> Fn(&'r NewRow<'s, 'a>) -> Option<Jsonb<'r>>) -> Option<Datum<'m>> {
        Some(self.memory.nullable_array(JSONB, self.rows.iter().map(|row| json(row).map(Jsonb::datum))))
    }
}
