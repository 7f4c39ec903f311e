//! Writing to the log.

use crate::bounds;
use crate::error::{Error, MOST_KEY_BYTES};
use crate::function::{Args, sql_function, text_datum};
use crate::scope::Scope;
use crate::statement::{Spi, Statement};
use pgrx::pg_sys;
use std::sync::OnceLock;

sql_function!(mana_sync_record_change, pg_finfo_mana_sync_record_change, record_change);
sql_function!(mana_sync_uuidv7, pg_finfo_mana_sync_uuidv7, uuidv7);
sql_function!(mana_sync_is_change, pg_finfo_mana_sync_is_change, is_change);

/// Columns that every change has a value of its own for.
const COLUMNS: [(&str, pg_sys::Oid); 8] = [
    ("id", pg_sys::UUIDOID),
    ("app_id", pg_sys::TEXTOID),
    ("table_name", pg_sys::TEXTOID),
    ("record_id", pg_sys::TEXTOID),
    ("user_id", pg_sys::TEXTOID),
    ("op", pg_sys::TEXTOID),
    ("client_id", pg_sys::TEXTOID),
    ("data", pg_sys::JSONBOID),
];

/// Columns that are left out of the INSERT of a change that has their default: PostgreSQL looks up the caller's privilege
/// to write each column, every time.
const OPTIONAL: [(&str, pg_sys::Oid); 4] = [
    ("space_id", pg_sys::TEXTOID),
    ("field_timestamps", pg_sys::JSONBOID),
    ("schema_version", pg_sys::INT4OID),
    ("actor", pg_sys::JSONBOID),
];

const MOST: usize = COLUMNS.len() + OPTIONAL.len();

/// An INSERT for each set of [`OPTIONAL`] columns, by the bits of their places, made when it is first needed.
static INSERTS: [OnceLock<Statement>; 1 << OPTIONAL.len()] = [const { OnceLock::new() }; 1 << OPTIONAL.len()];

/// Appends a row.
fn insert(values: [Option<pg_sys::Datum>; COLUMNS.len()], optional: [Option<pg_sys::Datum>; OPTIONAL.len()]) {
    let (mut parameters, mut count, mut set) = ([None; MOST], COLUMNS.len(), 0);
    parameters[..count].copy_from_slice(&values);
    for (place, value) in optional.into_iter().enumerate().filter(|(_, value)| value.is_some()) {
        parameters[count] = value;
        count += 1;
        set |= 1 << place;
    }
    let statement = INSERTS[set].get_or_init(|| {
        let given = OPTIONAL.into_iter().enumerate().filter(|(place, _)| set & 1 << place != 0);
        let columns = COLUMNS.into_iter().chain(given.map(|(_, column)| column));
        let (names, types): (Vec<&str>, Vec<pg_sys::Oid>) = columns.unzip();
        let places: Vec<String> = (1..=names.len()).map(|place| format!("${place}")).collect();
        let (names, places) = (names.join(", "), places.join(", "));
        Statement::made(format!("INSERT INTO mana_sync.sync_changes ({names}) VALUES ({places})"), types)
    });
    let spi = Spi::connect();
    spi.insert(statement, &parameters[..count]);
    spi.finish();
}

/// `mana_sync.record_change(app_id, table_name, record_id, user_id, space_id, op, client_id, data,
/// field_timestamps, schema_version, actor, id, space_ids) RETURNS uuid`
///
/// Appends one change under the scope of `user_id` and returns its id. `data`, `field_timestamps` and
/// `actor` are stored as they come. Errors: 22023 for an empty app, table, record or user id or an
/// unknown op, and for what no reader could be given (see `bounds`); 42501 for another user than the scope's, and for a space that the user is not a member
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
    key(Some(scope.user), "user_id")?;
    if let Some(space) = space {
        bounds::check_space(Some(space))?;
        scope.may_write(space)?;
    }
    bounds::check_client(args.text(6))?;
    bounds::check_values([("data", args.datum(7)), ("field_timestamps", args.datum(8)), ("actor", args.datum(10))])?;
    let id = args.datum(11).unwrap_or_else(new_id);
    insert(
        [
            Some(id),
            args.datum(0),
            args.datum(1),
            args.datum(2),
            Some(text_datum(scope.user)),
            args.datum(5),
            Some(args.datum(6).unwrap_or_else(|| text_datum(b""))),
            args.datum(7),
        ],
        [
            space.and(args.datum(4)),
            args.datum(8),
            args.int(9).filter(|&version| version > 1).map(pg_sys::Datum::from),
            args.datum(10),
        ],
    );
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
