//! Writing a changeset: `push`, one statement for the batch.

use crate::error::Error;
use crate::function::{Args, INT4, JSONB, TEXT, UUID, array_datum, nullable_array_datum, sql_function, text_datum};
use crate::jsonb::{JsonText, root};
use crate::log::{empty_object, key, new_id, uuid_datum};
use crate::read::plan_index_scans;
use crate::scope::Scope;
use crate::settings::close_level;
use crate::statement::{Spi, Statement};
use crate::wire::{Change, Changeset};
use pgrx::pg_sys;

sql_function!(mana_sync_push, pg_finfo_mana_sync_push, push);

/// In the order of the changes: a function scan returns its rows in order, and the defaults (`seq`) are
/// drawn as they come.
static INSERT: Statement = Statement::new(
    c"INSERT INTO mana_sync.sync_changes (id, app_id, table_name, record_id, user_id, space_id, op, client_id,
                                          data, field_timestamps, schema_version, actor)
      SELECT c.id, $1, c.table_name, c.record_id, $2, c.space_id, c.op, $3, c.data, c.field_timestamps,
             c.schema_version, c.actor
      FROM ROWS FROM (
               pg_catalog.unnest($4), pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7),
               pg_catalog.unnest($8), pg_catalog.unnest($9), pg_catalog.unnest($10), pg_catalog.unnest($11),
               pg_catalog.unnest($12)
           ) AS c (id, table_name, record_id, space_id, op, data, field_timestamps, schema_version, actor)
      ON CONFLICT (id) DO NOTHING",
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

/// The first change whose id is not that of the caller's own row for the same record and op.
static TAKEN: Statement = Statement::new(
    c"SELECT c.place
      FROM ROWS FROM (
               pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5), pg_catalog.unnest($6)
           ) WITH ORDINALITY AS c (id, table_name, record_id, op, place)
      LEFT JOIN LATERAL (
          SELECT stored.user_id, stored.app_id, stored.table_name, stored.record_id, stored.op
          FROM mana_sync.sync_changes AS stored
          WHERE stored.id OPERATOR(pg_catalog.=) c.id
          LIMIT 1
      ) AS s ON true
      WHERE (s.user_id OPERATOR(pg_catalog.=) $1 AND s.app_id OPERATOR(pg_catalog.=) $2
             AND s.table_name OPERATOR(pg_catalog.=) c.table_name
             AND s.record_id OPERATOR(pg_catalog.=) c.record_id
             AND s.op OPERATOR(pg_catalog.=) c.op) IS NOT TRUE
      ORDER BY c.place
      LIMIT 1",
    &[
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::UUIDARRAYOID,
        pg_sys::TEXTARRAYOID,
        pg_sys::TEXTARRAYOID,
        pg_sys::TEXTARRAYOID,
    ],
);

/// `mana_sync.push(user_id, app_id, changeset, client_id, space_ids) RETURNS json`
///
/// Records all changes of a changeset, or none, and returns `{"inserted": …, "duplicates": …}`. Errors: 22023
/// for an empty user or app and for whatever is wrong with the changeset, with the change's place and key;
/// 42501 as for `record_change`; 23505 for an `eventId` that is the id of another change.
fn push(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let app = key(args.text(1), "app_id")?;
    let changeset = changeset(args)?;
    let client = args.text(3).filter(|client| !client.is_empty()).or(changeset.client);
    let mut json = JsonText::new();
    let scope = Scope::enter(args.text(0), args.texts(4))?;
    let inserted = record(&scope, app, client, &changeset.changes)?;
    scope.leave();
    let duplicates = changeset.changes.len() - inserted;
    json.raw(&format!("{{\"inserted\": {inserted}, \"duplicates\": {duplicates}}}"));
    Ok(Some(json.datum()))
}

/// The changeset that is the third argument.
pub fn changeset<'a>(args: &Args<'a>) -> Result<Changeset<'a>, Error> {
    let changeset = args.datum(2).ok_or(Error::Empty("changeset"))?;
    // SAFETY: the argument is declared as jsonb, and lives as long as the call.
    Changeset::parse(unsafe { root(changeset) })
}

/// Appends changes to the log under a scope that was entered; returns how many had not been there.
pub fn record(scope: &Scope<'_>, app: &[u8], client: Option<&[u8]>, changes: &[Change<'_>]) -> Result<usize, Error> {
    key(Some(scope.user), "user_id")?;
    for (index, change) in changes.iter().enumerate() {
        let may = change.space.map_or(Ok(()), |space| scope.may_write(space));
        may.map_err(|error| Error::Change { index, error: Box::new(error) })?;
    }
    if changes.is_empty() {
        return Ok(0);
    }
    let spi = Spi::connect();
    let texts = |of: &dyn Fn(&Change<'_>) -> pg_sys::Datum| Some(array_datum(changes.iter().map(of).collect(), &TEXT));
    let user = Some(text_datum(scope.user));
    let app = Some(text_datum(app));
    let ids = changes.iter().map(|change| change.id.map_or_else(new_id, |id| uuid_datum(&id)));
    let ids = Some(array_datum(ids.collect(), &UUID));
    let tables = texts(&|change| text_datum(change.table));
    let records = texts(&|change| text_datum(change.record));
    let ops = texts(&|change| text_datum(change.op));
    let nullable = |of: &dyn Fn(&Change<'_>) -> Option<pg_sys::Datum>, element| {
        Some(nullable_array_datum(changes.iter().map(of).collect(), element))
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
            nullable(&|change| change.space.map(text_datum), &TEXT),
            ops,
            nullable(&|change| change.data, &JSONB),
            Some(array_datum(changes.iter().map(|c| c.field_timestamps.unwrap_or(nothing)).collect(), &JSONB)),
            Some(array_datum(changes.iter().map(|c| pg_sys::Datum::from(c.schema_version)).collect(), &INT4)),
            nullable(&|change| change.actor, &JSONB),
        ],
    );
    if inserted < changes.len() {
        let level = plan_index_scans();
        let taken = spi.select(&TAKEN, &[user, app, ids, tables, records, ops]).iter().next();
        close_level(level);
        if let Some(place) = taken.and_then(|row| row.column(1)) {
            return Err(Error::Taken(place.value() - 1));
        }
    }
    spi.finish();
    Ok(inserted)
}
