//! Writing to the log.

use crate::error::{Error, MOST_KEY_BYTES};
use crate::function::{Args, sql_function, text_datum};
use crate::scope::Scope;
use crate::statement::{Spi, Statement};
use pgrx::pg_sys;

sql_function!(mana_sync_record_change, pg_finfo_mana_sync_record_change, record_change);
sql_function!(mana_sync_uuidv7, pg_finfo_mana_sync_uuidv7, uuidv7);
sql_function!(mana_sync_is_change, pg_finfo_mana_sync_is_change, is_change);

static INSERT: Statement = Statement::new(
    c"INSERT INTO mana_sync.sync_changes (id, app_id, table_name, record_id, user_id, space_id, op, client_id,
                                          data, field_timestamps, schema_version, actor)
      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    &[
        pg_sys::UUIDOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::JSONBOID,
        pg_sys::JSONBOID,
        pg_sys::INT4OID,
        pg_sys::JSONBOID,
    ],
);

/// `mana_sync.record_change(app_id, table_name, record_id, user_id, space_id, op, client_id, data,
/// field_timestamps, schema_version, actor, id, space_ids) RETURNS uuid`
///
/// Appends one change under the scope of `user_id` and returns its id. `data`, `field_timestamps` and
/// `actor` are stored as they come. Errors: 22023 for an empty app, table, record or user id or an
/// unknown op; 42501 for another user than the scope's, and for a space that the user is not a member
/// of; 23505 for an id that is taken.
fn record_change(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    key(args.text(0), "app_id")?;
    key(args.text(1), "table_name")?;
    key(args.text(2), "record_id")?;
    if !args.text(5).is_some_and(is_op) {
        return Err(Error::Op);
    }
    let space = args.text(4).filter(|space| !space.is_empty());
    let scope = Scope::enter(args.text(3), args.texts(12))?;
    key(Some(&scope.user), "user_id")?;
    if let Some(space) = space {
        key(Some(space), "space_id")?;
        scope.may_write(space)?;
    }
    let id = args.datum(11).unwrap_or_else(new_id);
    let spi = Spi::connect();
    spi.insert(
        &INSERT,
        &[
            Some(id),
            args.datum(0),
            args.datum(1),
            args.datum(2),
            Some(text_datum(&scope.user)),
            space.and(args.datum(4)),
            args.datum(5),
            Some(args.datum(6).unwrap_or_else(|| text_datum(b""))),
            args.datum(7),
            Some(args.datum(8).unwrap_or_else(empty_object)),
            Some(pg_sys::Datum::from(args.int(9).unwrap_or(1).max(1))),
            args.datum(10),
        ],
    );
    spi.finish();
    scope.leave();
    Ok(Some(id))
}

/// `mana_sync.is_change(op text, user_id text) RETURNS boolean`. NULLs are not its concern, as in any CHECK.
fn is_change(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let is_user = args.text(1).is_none_or(|user| !user.is_empty());
    Ok(Some((args.text(0).is_none_or(is_op) && is_user).into()))
}

/// Whether it is one of the three operations of the wire format.
fn is_op(op: &[u8]) -> bool {
    matches!(op, b"insert" | b"update" | b"delete")
}

/// `mana_sync.uuidv7() RETURNS uuid`
fn uuidv7(_: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    Ok(Some(new_id()))
}

/// A text that is a key of an index.
pub fn key<'a>(text: Option<&'a [u8]>, name: &'static str) -> Result<&'a [u8], Error> {
    let text = text.filter(|text| !text.is_empty()).ok_or(Error::Empty(name))?;
    if text.len() > MOST_KEY_BYTES { Err(Error::TooLong(name)) } else { Ok(text) }
}

/// A new UUID of version 7 in the current memory context.
pub fn new_id() -> pg_sys::Datum {
    uuid_datum(&uuid::Uuid::now_v7())
}

/// A `uuid` in the current memory context.
pub fn uuid_datum(id: &uuid::Uuid) -> pg_sys::Datum {
    // SAFETY: a `uuid` is 16 bytes.
    unsafe {
        let copy = pg_sys::palloc(16).cast::<u8>();
        std::ptr::copy_nonoverlapping(id.as_bytes().as_ptr(), copy, 16);
        pg_sys::Datum::from(copy)
    }
}

/// `'{}'::jsonb` in the current memory context.
pub fn empty_object() -> pg_sys::Datum {
    // SAFETY: jsonb_in takes a C string, and this one is valid JSON.
    let object = unsafe { pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(c"{}".as_ptr().into())]) };
    object.expect("jsonb_in returns a value")
}
