//! The space of a change that names none: the one in which the user's changes have the record, including the changes before it in the
//! push. Without this, a device that does not name the space in each edit would make records private that others share.
//!
//! A change in a space that the user has left is private, as a change without a space: the space is not theirs to write into any more.

use super::batch::{Batch, NewRow};
use crate::call::with_index_scans;
use crate::pg::datum::types::*;
use crate::pg::spi::{Statement, statement};
use crate::scope::Scope;
use crate::settings;
use crate::wire::changeset::RecordKey;
use std::collections::HashMap;
use std::convert::Infallible;

static SPACE_OF: Statement = statement!("space_of.sql", [TEXT, TEXT, TEXT_ARRAY, TEXT_ARRAY]);

impl<'s> Batch<'s> {
    /// The rows with the spaces of their records.
    pub fn with_spaces<'a>(&self, scope: &Scope<'_>, mut rows: Vec<NewRow<'s, 'a>>) -> Vec<NewRow<'s, 'a>>
    where
        'a: 's,
    {
        let is_named = |row: &NewRow<'_, '_>| row.change.space.is_some();
        if rows.iter().all(is_named) || scope.may_write_no_space() || !settings::space_of_record() {
            return rows;
        }
        // The space of each record, after the changes so far; at first, what the log says.
        let mut known: HashMap<RecordKey<'s>, Option<&'s [u8]>> = HashMap::new();
        let mut wanted: Vec<RecordKey<'s>> = Vec::new();
        for row in &rows {
            known.entry(row.change.key()).or_insert_with(|| {
                if !is_named(row) {
                    wanted.push(row.change.key());
                }
                None
            });
        }
        let memory = self.spi.memory();
        let tables = Some(memory.array(TEXT, wanted.iter().map(|record| memory.text(record.0))));
        let records = Some(memory.array(TEXT, wanted.iter().map(|record| memory.text(record.1))));
        let values = [Some(self.user), Some(self.app), tables, records];
        let Ok(found) = with_index_scans(|| Ok::<_, Infallible>(self.spi.select(&SPACE_OF, &values)));
        for row in found.iter() {
            let record = row.int8(1).and_then(|place| wanted.get(place as usize - 1));
            let space = row.text(2).filter(|space| scope.may_write(space).is_ok());
            if let (Some(record), Some(space)) = (record, space) {
                known.insert(*record, Some(space));
            }
        }
        for row in &mut rows {
            let key: RecordKey<'s> = row.change.key();
            match is_named(row) {
                true => {
                    known.insert(key, row.space);
                }
                false => row.space = known.get(&key).copied().flatten(),
            }
        }
        rows
    }
}
