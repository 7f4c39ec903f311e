//! Writing a changeset: `push`, one statement for the batch.

use crate::bounds;
use crate::error::Error;
use crate::function::{
    Args, INT4, JSONB, TEXT, UUID, array_datum, nullable_array_datum, sql_function, text_datum, text_of,
};
use crate::json_text::JsonText;
use crate::jsonb::root;
use crate::log::{empty_object, key, new_id, uuid_datum};
use crate::read::plan_index_scans;
use crate::scope::Scope;
use crate::settings::{self, close_level};
use crate::statement::{Spi, Statement, include_sql};
use crate::wire::{self, Change, Changeset, RecordKey};
use mana_sync_merge::time::Time;
use pgrx::pg_sys;
use std::collections::HashMap;

sql_function!(mana_sync_push, pg_finfo_mana_sync_push, push);

static INSERT: Statement = Statement::new(
    const { include_sql!("push/insert.sql") },
    &[
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::UUIDARRAYOID,
        pg_sys::TEXTARRAYOID,
        pg_sys::TEXTARRAYOID,
        pg_sys::TEXTARRAYOID,
        pg_sys::TEXTARRAYOID,
        pg_sys::JSONBARRAYOID,
        pg_sys::JSONBARRAYOID,
        pg_sys::INT4ARRAYOID,
        pg_sys::JSONBARRAYOID,
    ],
);

static TAKEN: Statement = Statement::new(
    const { include_sql!("push/taken.sql") },
    &[
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::UUIDARRAYOID,
        pg_sys::TEXTARRAYOID,
        pg_sys::TEXTARRAYOID,
        pg_sys::TEXTARRAYOID,
        pg_sys::TEXTARRAYOID,
        pg_sys::JSONBARRAYOID,
        pg_sys::JSONBARRAYOID,
    ],
);

static SPACE_OF: Statement = Statement::new(
    const { include_sql!("push/space_of.sql") },
    &[pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::TEXTARRAYOID, pg_sys::TEXTARRAYOID],
);

/// `mana_sync.push(user_id, app_id, changeset, client_id, space_ids) RETURNS json`
///
/// Records all changes of a changeset, or none, and returns `{"inserted": …, "duplicates": …}`. Errors: 22023
/// for an empty user or app and for whatever is wrong with the changeset, with the change's place and key;
/// 42501 as for `record_change`; 23505 for an `eventId` that is the id of another change, or of the same with other content.
fn push(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let app = key(args.text(1), "app_id")?;
    let changeset = changeset(args)?;
    let client = client(args.text(3), &changeset)?;
    let mut json = JsonText::new();
    let scope = Scope::enter(args.text(0), args.texts(4))?;
    let inserted = record(&scope, app, client, &changeset.changes)?;
    scope.leave();
    let duplicates = changeset.changes.len() - inserted;
    json.raw(&format!("{{\"inserted\":{inserted},\"duplicates\":{duplicates}}}"));
    Ok(Some(json.datum()))
}

/// The changeset that is the third argument.
pub fn changeset<'a>(args: &Args<'a>) -> Result<Changeset<'a>, Error> {
    let changeset = args.datum(2).ok_or(Error::Empty("changeset"))?;
    // SAFETY: the argument is declared as jsonb, and lives as long as the call.
    Changeset::parse(unsafe { root(changeset) })
}

/// Which device sends a changeset: as the call says, or else the changeset.
pub fn client<'a>(argument: Option<&'a [u8]>, changeset: &Changeset<'a>) -> Result<Option<&'a [u8]>, Error> {
    bounds::check_client(argument)?;
    Ok(argument.filter(|client| !client.is_empty()).or(changeset.client))
}

/// Appends changes to the log under a scope that was entered; returns how many had not been there.
pub fn record(scope: &Scope<'_>, app: &[u8], client: Option<&[u8]>, changes: &[Change<'_>]) -> Result<usize, Error> {
    key(Some(scope.user), "user_id")?;
    for (index, change) in changes.iter().enumerate() {
        let may = change.space.filter(|space| !space.is_empty()).map_or(Ok(()), |space| scope.may_write(space));
        may.map_err(|error| Error::Change { index, error: Box::new(error) })?;
    }
    if changes.is_empty() {
        return Ok(0);
    }
    let stored = wire::stored(changes, now());
    let data = |index: usize| stored[index].data.or(changes[index].data);
    let field_timestamps = |index: usize| stored[index].field_timestamps.or(changes[index].field_timestamps);
    for (index, change) in changes.iter().enumerate() {
        if let Some(fault) = bounds::fault_of_values([data(index), field_timestamps(index), change.actor]) {
            return Err(Error::Changeset { path: format!("changes[{index}]"), fault });
        }
    }
    let spi = Spi::connect();
    let user = Some(text_datum(scope.user));
    let app = Some(text_datum(app));
    let spaces = spaces(&spi, scope, (user, app), changes);
    let texts = |of: &dyn Fn(&Change<'_>) -> pg_sys::Datum| Some(array_datum(changes.iter().map(of).collect(), &TEXT));
    let ids = changes.iter().map(|change| change.id.map_or_else(new_id, |id| uuid_datum(&id)));
    let ids = Some(array_datum(ids.collect(), &UUID));
    let tables = texts(&|change| text_datum(change.table));
    let records = texts(&|change| text_datum(change.record));
    let ops = texts(&|change| text_datum(change.op));
    let nullable = |values: &mut dyn Iterator<Item = Option<pg_sys::Datum>>, element| {
        Some(nullable_array_datum(values.collect(), element))
    };
    let nothing = empty_object();
    let inserted = spi.insert(
        &INSERT,
        &[
            app,
            user,
            Some(text_datum(client.unwrap_or_default())),
            ids,
            tables,
            records,
            nullable(&mut spaces.iter().map(|space| space.map(text_datum)), &TEXT),
            ops,
            nullable(&mut (0..changes.len()).map(data), &JSONB),
            Some(array_datum((0..changes.len()).map(|i| field_timestamps(i).unwrap_or(nothing)).collect(), &JSONB)),
            Some(array_datum(changes.iter().map(|c| pg_sys::Datum::from(c.schema_version)).collect(), &INT4)),
            nullable(&mut changes.iter().map(|change| change.actor), &JSONB),
        ],
    );
    if inserted < changes.len() {
        // What was said, and not what was made of it: the rest of a push may be another one the next time.
        let said = nullable(&mut changes.iter().map(|change| change.space.map(text_datum)), &TEXT);
        let said_data = nullable(&mut changes.iter().map(|change| change.data), &JSONB);
        let said_times = nullable(&mut changes.iter().map(|change| change.field_timestamps), &JSONB);
        let level = plan_index_scans();
        let values = [user, app, ids, tables, records, ops, said, said_data, said_times];
        let taken = spi.select(&TAKEN, &values).iter().next();
        close_level(level);
        if let Some(row) = taken {
            let place = row.column(1).map_or(0, |place| place.value()) - 1;
            let is_same_change = row.column(2).is_some_and(|same| same.value() != 0);
            return Err(if is_same_change { Error::Changed(place) } else { Error::Taken(place) });
        }
    }
    spi.finish();
    Ok(inserted)
}

/// The space that each change is recorded in: what it says, or else where the user's changes have the record; the changes before it in
/// the push too. Without this a device that does not name the space of each edit would make records private that others share.
///
/// A space that the user has left is not theirs to write into any more: the change is private then, as one without a space.
fn spaces<'a>(
    spi: &Spi,
    scope: &Scope<'_>,
    (user, app): (Option<pg_sys::Datum>, Option<pg_sys::Datum>),
    changes: &[Change<'a>],
) -> Vec<Option<&'a [u8]>> {
    let is_said = |change: &Change<'_>| change.space.is_some();
    if changes.iter().all(is_said) || scope.may_write_nowhere() || !settings::space_of_record() {
        return changes.iter().map(|change| change.space.filter(|space| !space.is_empty())).collect();
    }
    // The space of each record, as far as the changes before have said it; at first, what the log says.
    let mut known: HashMap<RecordKey<'_>, Option<&[u8]>> = HashMap::new();
    let mut asked: Vec<RecordKey<'_>> = Vec::new();
    for change in changes {
        known.entry(change.key()).or_insert_with(|| {
            if !is_said(change) {
                asked.push(change.key());
            }
            None
        });
    }
    let texts = |texts: &mut dyn Iterator<Item = &[u8]>| Some(array_datum(texts.map(text_datum).collect(), &TEXT));
    let tables = texts(&mut asked.iter().map(|record| record.0));
    let records = texts(&mut asked.iter().map(|record| record.1));
    let level = plan_index_scans();
    let rows = spi.select(&SPACE_OF, &[user, app, tables, records]);
    close_level(level);
    for row in rows.iter() {
        // SAFETY: the column is a text, which lives as long as the connection; the caller ends that last.
        let space = row.column(2).map(|space| unsafe { text_of(space) });
        let record = row.column(1).and_then(|place| asked.get(place.value() - 1));
        if let (Some(record), Some(space)) = (record, space.filter(|space| scope.may_write(space).is_ok())) {
            known.insert(*record, Some(space));
        }
    }
    let space_of = |change: &Change<'a>| match change.space {
        Some(said) => {
            let space = Some(said).filter(|space| !space.is_empty());
            known.insert(change.key(), space);
            space
        }
        None => known.get(&change.key()).copied().flatten(),
    };
    changes.iter().map(space_of).collect()
}

/// The server's clock.
fn now() -> Time {
    // SAFETY: a plain call of the server.
    Time::from_micros(unsafe { pg_sys::GetCurrentTimestamp() })
}
