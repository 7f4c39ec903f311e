//! `mana_sync.push`: records a changeset, with one statement for all of its changes.

mod batch;
mod spaces;

use crate::bounds::{self, key};
use crate::call::Call;
use crate::error::Error;
use crate::json::text::JsonText;
use crate::pg::fmgr::{Answer, Args, sql_functions};
use crate::pg::server;
use crate::pg::spi::Spi;
use crate::scope::Scope;
use crate::wire::changeset::{Change, Changeset, derive_times};
use crate::wire::response::{Rejected, write_rejected};
use batch::{Batch, NewRow, NotInserted};
use mana_sync_merge::time::Time;
use spaces::Spaces;
use std::collections::HashSet;

sql_functions!(push);

/// `mana_sync.push(user_id, app_id, changeset, client_id, space_ids) RETURNS json`
///
/// Records all changes of a changeset, or none, and returns `{"inserted": …, "duplicates": …}`. Errors: 22023 for an empty user or app, and
/// for a fault of the changeset, with the place and the key of the fault; 42501 as for `record_change`; 23505 for an `eventId` that is the
/// id of another change, or of the same change with other content.
///
/// If the changeset is not atomic, the call records every change that can be recorded, and returns the others under `rejected`.
fn push<'a>(args: &Args<'a>) -> Answer<'a> {
    let app = key(args.text(1), "app_id")?;
    let changeset = changeset(args)?;
    let client = client(args.text(3), &changeset)?;
    let memory = args.memory();
    Call::PLAIN.in_scope(memory, args.text(0), args.texts(4), |spi, scope| {
        let pushed = record(spi, scope, app, client, &changeset)?;
        let mut json = JsonText::new(memory);
        json.raw(&format!("{{\"inserted\":{},\"duplicates\":{}", pushed.inserted, pushed.duplicates));
        if pushed.skipped > 0 {
            json.raw(&format!(",\"skipped\":{}", pushed.skipped));
        }
        if let Some(rejected) = pushed.rejected() {
            json.raw(",\"rejected\":");
            write_rejected(&mut json, rejected);
        }
        json.raw("}");
        Ok(Some(json.finish()))
    })
}

/// Parses the third argument, which is a changeset.
pub fn changeset<'a>(args: &Args<'a>) -> Result<Changeset<'a>, Error> {
    let changeset = args.jsonb(2).ok_or(Error::Empty("changeset"))?;
    Changeset::parse(changeset.root(), args.memory())
}

/// Returns the device that sends a changeset: the one that the argument names, or else the one that the changeset names.
pub fn client<'a>(argument: Option<&'a [u8]>, changeset: &Changeset<'a>) -> Result<Option<&'a [u8]>, Error> {
    bounds::check_client(argument)?;
    Ok(argument.filter(|client| !client.is_empty()).or(changeset.client))
}

/// The outcome of recording a changeset.
pub struct Pushed<'a> {
    /// The number of changes that were recorded.
    inserted: usize,
    /// The number of changes that had been recorded before.
    duplicates: usize,
    /// The number of changes that a trigger of the application left out.
    skipped: usize,
    /// The changes that cannot be recorded, in the order of the changeset; `None` if the changeset is atomic.
    rejected: Option<Vec<Rejected<'a>>>,
}

impl<'a> Pushed<'a> {
    /// Whether the call has recorded a change.
    pub fn has_recorded(&self) -> bool {
        self.inserted > 0
    }

    /// The changes that cannot be recorded; `None` if the changeset is atomic.
    pub fn rejected(&self) -> Option<&[Rejected<'a>]> {
        self.rejected.as_deref()
    }
}

/// How a push handles the changes that cannot be recorded.
enum Refusals<'a> {
    /// The first such change ends the call with an error.
    Raise,
    /// The changes are collected here and returned.
    Return(Vec<Rejected<'a>>),
}

impl<'a> Refusals<'a> {
    fn add(&mut self, change: &Change<'a>, error: Error) -> Result<(), Error> {
        match self {
            Refusals::Raise => Err(error),
            Refusals::Return(rejected) => {
                rejected.push(Rejected::new(change.index, &change.named(), &error));
                Ok(())
            }
        }
    }
}

/// Appends the changes of a changeset to the log under a scope.
pub fn record<'a>(
    spi: Spi<'_>,
    scope: &Scope<'_>,
    app: &[u8],
    client: Option<&[u8]>,
    changeset: &Changeset<'a>,
) -> Result<Pushed<'a>, Error> {
    key(Some(scope.user), "user_id")?;
    let mut refusals = match changeset.is_atomic {
        true => Refusals::Raise,
        false => Refusals::Return(changeset.rejected.clone()),
    };
    let mut rows = new_rows(spi, scope, &changeset.changes, &mut refusals)?;
    let (mut inserted, mut duplicates, mut skipped) = (0, 0, 0);
    if !rows.is_empty() {
        let batch = Batch::new(spi, scope.user, app, client);
        let spaces = Spaces::look_up(&batch, scope, &rows);
        let is_refused = vec![false; rows.len()];
        spaces.assign(&mut rows, &is_refused);
        let (ids, sent) = match &mut refusals {
            Refusals::Return(rejected) if batch::may_be_refused()? => {
                batch.insert_what_is_not_refused(rows, &spaces, rejected)
            }
            Refusals::Return(_) | Refusals::Raise => (batch.insert(&rows), rows),
        };
        inserted = ids.len();
        if inserted < sent.len() {
            // The first of several changes with the same id is inserted.
            let mut new: HashSet<uuid::Uuid> = ids.into_iter().collect();
            let rest: Vec<&NewRow<'_, 'a>> = sent.iter().filter(|row| !new.remove(&row.id)).collect();
            let others = batch.not_inserted(&rest)?;
            duplicates = rest.len() - others.len();
            for (row, why) in others {
                let change = row.change;
                match why {
                    NotInserted::Skipped => skipped += 1,
                    NotInserted::Taken => refusals.add(change, Error::Taken(change.index))?,
                    NotInserted::Changed => refusals.add(change, Error::Changed(change.index))?,
                }
            }
        }
    }
    let rejected = match refusals {
        Refusals::Raise => None,
        Refusals::Return(mut rejected) => {
            rejected.sort_by_key(|change| change.index);
            Some(rejected)
        }
    };
    Ok(Pushed { inserted, duplicates, skipped, rejected })
}

/// Makes the rows of the changes that the extension does not refuse, and adds the other changes to `refusals`. A change that names no space
/// gets the space of its record later.
fn new_rows<'s, 'a>(
    spi: Spi<'s>,
    scope: &Scope<'_>,
    changes: &'s [Change<'a>],
    refusals: &mut Refusals<'a>,
) -> Result<Vec<NewRow<'s, 'a>>, Error> {
    let mut allowed = Vec::with_capacity(changes.len());
    for change in changes {
        match change.space.filter(|space| !space.is_empty()).map_or(Ok(()), |space| scope.may_write(space)) {
            Ok(()) => allowed.push(change),
            Err(error) => refusals.add(change, Error::Change { index: change.index, error: Box::new(error) })?,
        }
    }
    let derived = derive_times(&allowed, Time::from_micros(server::now()), spi.memory());
    let mut rows = Vec::with_capacity(allowed.len());
    for (change, derived) in allowed.into_iter().zip(derived) {
        let data = derived.data.or(change.data);
        let field_timestamps = derived.field_timestamps.or(change.field_timestamps);
        match bounds::fault_of_values([data, field_timestamps, change.actor]) {
            None => rows.push(NewRow {
                change,
                id: change.id.unwrap_or_else(uuid::Uuid::now_v7),
                space: change.space.filter(|space| !space.is_empty()),
                data,
                field_timestamps,
            }),
            Some(fault) => {
                let path = format!("changes[{}]", change.index);
                refusals.add(change, Error::Changeset { path, fault })?;
            }
        }
    }
    Ok(rows)
}
