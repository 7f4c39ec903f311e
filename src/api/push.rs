//! `mana_sync.push`: records a changeset, with one statement for all of its changes.

use crate::bounds::{self, key};
use crate::call::{Call, with_index_scans};
use crate::error::Error;
use crate::json::text::JsonText;
use crate::pg::datum::{Datum, types::*};
use crate::pg::fmgr::{Answer, Args, sql_functions};
use crate::pg::jsonb::{Jsonb, empty_object};
use crate::pg::server;
use crate::pg::spi::{Spi, Statement, statement};
use crate::scope::Scope;
use crate::settings;
use crate::wire::changeset::{Change, Changeset, RecordKey, derive_times};
use mana_sync_merge::time::Time;
use std::collections::HashMap;
use std::convert::Infallible;

sql_functions!(push);

static INSERT: Statement = statement!(
    "push/insert.sql",
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
        JSONB_ARRAY
    ]
);

static TAKEN: Statement = statement!(
    "push/taken.sql",
    [TEXT, TEXT, UUID_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, JSONB_ARRAY, JSONB_ARRAY]
);

static SPACE_OF: Statement = statement!("push/space_of.sql", [TEXT, TEXT, TEXT_ARRAY, TEXT_ARRAY]);

/// `mana_sync.push(user_id, app_id, changeset, client_id, space_ids) RETURNS json`
///
/// Records all changes of a changeset, or none, and returns `{"inserted": …, "duplicates": …}`. Errors: 22023
/// for an empty user or app and for whatever is wrong with the changeset, with the change's place and key;
/// 42501 as for `record_change`; 23505 for an `eventId` that is the id of another change, or of the same with other content.
fn push<'a>(args: &Args<'a>) -> Answer<'a> {
    let app = key(args.text(1), "app_id")?;
    let changeset = changeset(args)?;
    let client = client(args.text(3), &changeset)?;
    let inserted = Call::PLAIN.in_scope(args.memory(), args.text(0), args.texts(4), |spi, scope| {
        record(spi, scope, app, client, &changeset.changes)
    })?;
    let duplicates = changeset.changes.len() - inserted;
    let mut json = JsonText::new(args.memory());
    json.raw(&format!("{{\"inserted\":{inserted},\"duplicates\":{duplicates}}}"));
    Ok(Some(json.finish()))
}

/// The changeset that is the third argument.
pub fn changeset<'a>(args: &Args<'a>) -> Result<Changeset<'a>, Error> {
    let changeset = args.jsonb(2).ok_or(Error::Empty("changeset"))?;
    Changeset::parse(changeset.root(), args.memory())
}

/// The device that sends a changeset: the one that the call names, or else the one that the changeset names.
pub fn client<'a>(argument: Option<&'a [u8]>, changeset: &Changeset<'a>) -> Result<Option<&'a [u8]>, Error> {
    bounds::check_client(argument)?;
    Ok(argument.filter(|client| !client.is_empty()).or(changeset.client))
}

/// Appends changes to the log under a scope. Returns how many had not been there.
pub fn record(
    spi: Spi<'_>,
    scope: &Scope<'_>,
    app: &[u8],
    client: Option<&[u8]>,
    changes: &[Change<'_>],
) -> Result<usize, Error> {
    key(Some(scope.user), "user_id")?;
    for (index, change) in changes.iter().enumerate() {
        let may = change.space.filter(|space| !space.is_empty()).map_or(Ok(()), |space| scope.may_write(space));
        may.map_err(|error| Error::Change { index, error: Box::new(error) })?;
    }
    if changes.is_empty() {
        return Ok(0);
    }
    let memory = spi.memory();
    let derived = derive_times(changes, Time::from_micros(server::now()), memory);
    let data = |index: usize| derived[index].data.or(changes[index].data);
    let field_timestamps = |index: usize| derived[index].field_timestamps.or(changes[index].field_timestamps);
    for (index, change) in changes.iter().enumerate() {
        if let Some(fault) = bounds::fault_of_values([data(index), field_timestamps(index), change.actor]) {
            return Err(Error::Changeset { path: format!("changes[{index}]"), fault });
        }
    }
    let user = Some(memory.text(scope.user));
    let app = Some(memory.text(app));
    let spaces = spaces(spi, scope, (user, app), changes);
    let texts = |column: &dyn for<'c> Fn(&Change<'c>) -> &'c [u8]| {
        Some(memory.array(TEXT, changes.iter().map(|change| memory.text(column(change)))))
    };
    let new_id = uuid::Uuid::now_v7;
    let ids = Some(memory.array(UUID, changes.iter().map(|change| memory.uuid(&change.id.unwrap_or_else(new_id)))));
    let tables = texts(&|change| change.table);
    let records = texts(&|change| change.record);
    let ops = texts(&|change| change.op);
    let nothing = empty_object(memory);
    let inserted = spi.insert(
        &INSERT,
        &[
            app,
            user,
            Some(memory.text(client.unwrap_or_default())),
            ids,
            tables,
            records,
            Some(memory.nullable_array(TEXT, spaces.iter().map(|space| space.map(|space| memory.text(space))))),
            ops,
            Some(memory.nullable_array(JSONB, (0..changes.len()).map(|i| data(i).map(Jsonb::datum)))),
            Some(memory.array(JSONB, (0..changes.len()).map(|i| field_timestamps(i).unwrap_or(nothing).datum()))),
            Some(memory.array(INT4, changes.iter().map(|change| Datum::from(change.schema_version)))),
            Some(memory.nullable_array(JSONB, changes.iter().map(|change| change.actor.map(Jsonb::datum)))),
        ],
    );
    if inserted < changes.len() {
        // The changes are compared as they were sent, without derived times and spaces: those depend on the rest of the push.
        let spaces = changes.iter().map(|change| change.space.map(|space| memory.text(space)));
        let spaces = Some(memory.nullable_array(TEXT, spaces));
        let data = Some(memory.nullable_array(JSONB, changes.iter().map(|change| change.data.map(Jsonb::datum))));
        let times = changes.iter().map(|change| change.field_timestamps.map(Jsonb::datum));
        let times = Some(memory.nullable_array(JSONB, times));
        let values = [user, app, ids, tables, records, ops, spaces, data, times];
        let taken = with_index_scans(|| Ok::<_, Infallible>(spi.select(&TAKEN, &values).first()));
        let Ok(taken) = taken;
        if let Some(row) = taken {
            let index = row.int8(1).map_or(0, |place| place as usize - 1);
            let is_same_change = row.bool(2) == Some(true);
            return Err(if is_same_change { Error::Changed(index) } else { Error::Taken(index) });
        }
    }
    Ok(inserted)
}

/// The space that each change is recorded in: the one that it names, or else the one in which the user's changes have the record,
/// including the changes before it in the push. Without this, a device that does not name the space in each edit would make records
/// private that others share.
///
/// A change in a space that the user has left is private, as a change without a space: the space is not theirs to write into any more.
fn spaces<'a>(
    spi: Spi<'a>,
    scope: &Scope<'_>,
    (user, app): (Option<Datum<'_>>, Option<Datum<'_>>),
    changes: &[Change<'a>],
) -> Vec<Option<&'a [u8]>> {
    let is_named = |change: &Change<'_>| change.space.is_some();
    if changes.iter().all(is_named) || scope.may_write_no_space() || !settings::space_of_record() {
        return changes.iter().map(|change| change.space.filter(|space| !space.is_empty())).collect();
    }
    // The space of each record, after the changes so far; at first, what the log says.
    let mut known: HashMap<RecordKey<'_>, Option<&'a [u8]>> = HashMap::new();
    let mut wanted: Vec<RecordKey<'_>> = Vec::new();
    for change in changes {
        known.entry(change.key()).or_insert_with(|| {
            if !is_named(change) {
                wanted.push(change.key());
            }
            None
        });
    }
    let memory = spi.memory();
    let tables = Some(memory.array(TEXT, wanted.iter().map(|record| memory.text(record.0))));
    let records = Some(memory.array(TEXT, wanted.iter().map(|record| memory.text(record.1))));
    let rows = with_index_scans(|| Ok::<_, Infallible>(spi.select(&SPACE_OF, &[user, app, tables, records])));
    let Ok(rows) = rows;
    for row in rows.iter() {
        let record = row.int8(1).and_then(|place| wanted.get(place as usize - 1));
        let space = row.text(2).filter(|space| scope.may_write(space).is_ok());
        if let (Some(record), Some(space)) = (record, space) {
            known.insert(*record, Some(space));
        }
    }
    let space_of = |change: &Change<'a>| match change.space {
        Some(named) => {
            let space = Some(named).filter(|space| !space.is_empty());
            known.insert(change.key(), space);
            space
        }
        None => known.get(&change.key()).copied().flatten(),
    };
    changes.iter().map(space_of).collect()
}
