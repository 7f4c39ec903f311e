//! Finds the space of a pushed change that names no space: the space of the user's latest change to the same record, which may come earlier
//! in the push. Without this, a device that does not name the space in each edit would make shared records private.
//!
//! If the user has left that space, the change is private, because the user may not write into the space any more.

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

/// The spaces that the records of a push have in the log.
pub struct Spaces<'s> {
    /// The space of each record of the push, if a change needs it and the log has it. The map itself is `None` if no change gets the space
    /// of its record.
    known: Option<HashMap<RecordKey<'s>, Option<&'s [u8]>>>,
}

impl<'s> Spaces<'s> {
    /// Looks up the spaces of the records of those rows whose changes name no space.
    pub fn look_up<'a: 's>(batch: &Batch<'s>, scope: &Scope<'_>, rows: &[NewRow<'s, 'a>]) -> Spaces<'s> {
        if rows.iter().all(is_named) || scope.may_write_no_space() || !settings::space_of_record() {
            return Spaces { known: None };
        }
        let mut known: HashMap<RecordKey<'s>, Option<&'s [u8]>> = HashMap::new();
        let mut wanted: Vec<RecordKey<'s>> = Vec::new();
        for row in rows {
            known.entry(row.change.key()).or_insert_with(|| {
                if !is_named(row) {
                    wanted.push(row.change.key());
                }
                None
            });
        }
        let memory = batch.spi.memory();
        let tables = Some(memory.array(TEXT, wanted.iter().map(|record| memory.text(record.0))));
        let records = Some(memory.array(TEXT, wanted.iter().map(|record| memory.text(record.1))));
        let values = [Some(batch.user), Some(batch.app), tables, records];
        let Ok(found) = with_index_scans(|| Ok::<_, Infallible>(batch.spi.select(&SPACE_OF, &values)));
        for row in found.iter() {
            let record = row.int8(1).and_then(|place| wanted.get(place as usize - 1));
            let space = row.text(2).filter(|space| scope.may_write(space).is_ok());
            if let (Some(record), Some(space)) = (record, space) {
                known.insert(*record, Some(space));
            }
        }
        Spaces { known: Some(known) }
    }

    /// Sets the space of each row whose change names none. It is the space of the record in the latest of the rows before it that name a
    /// space and are not refused; if there is none, the space of the record in the log.
    pub fn assign<'a: 's>(&self, rows: &mut [NewRow<'s, 'a>], is_refused: &[bool]) {
        let Some(mut known) = self.known.clone() else { return };
        for (row, is_refused) in rows.iter_mut().zip(is_refused) {
            let key: RecordKey<'s> = row.change.key();
            match (is_refused, is_named(row)) {
                (true, _) => {}
                (false, true) => drop(known.insert(key, row.space)),
                (false, false) => row.space = known.get(&key).copied().flatten(),
            }
        }
    }
}

/// Whether the change of the row names a space, or says by an empty name that it has none.
fn is_named(row: &NewRow<'_, '_>) -> bool {
    row.change.space.is_some()
}
