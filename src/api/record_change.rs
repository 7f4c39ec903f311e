//! `mana_sync.record_change`: records one change.

use crate::bounds::{self, key};
use crate::call::Call;
use crate::error::Error;
use crate::pg::datum::{Datum, types::*};
use crate::pg::fmgr::{Answer, Args, sql_functions};
use crate::pg::jsonb::{self, Jsonb};
use crate::pg::spi::{Statement, statement};

sql_functions!(record_change, uuidv7, is_change);

static INSERT: Statement = statement!("record_change/insert.sql", [UUID, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, JSONB]);

static INSERT_ALL: Statement = statement!(
    "record_change/insert_all.sql",
    [UUID, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, JSONB, TEXT, JSONB, INT4, JSONB, TEXT]
);

/// `mana_sync.record_change(app_id, table_name, record_id, user_id, space_id, op, client_id, data,
/// field_timestamps, schema_version, actor, id, space_ids, origin) RETURNS uuid`
///
/// Appends one change under the scope of `user_id` and returns its id. `data`, `field_timestamps` and `actor` are stored as they come.
/// Errors: 22023 for an empty app, table, record or user id, for an unknown op, and for a change that is out of bounds (see
/// [`crate::bounds`]); 42501 for another user than the scope's, and for a space that the user is not a member of; 23505 for an id that is
/// taken.
fn record_change<'a>(args: &Args<'a>) -> Answer<'a> {
    key(args.text(0), "app_id")?;
    key(args.text(1), "table_name")?;
    key(args.text(2), "record_id")?;
    if !args.text(5).is_some_and(is_op) {
        return Err(Error::Op);
    }
    let space = args.text(4).filter(|space| !space.is_empty());
    let memory = args.memory();
    Call::PLAIN.in_scope(memory, args.text(3), args.texts(12), |spi, scope| {
        key(Some(scope.user), "user_id")?;
        if let Some(space) = space {
            bounds::check_space(Some(space))?;
            scope.may_write(space)?;
        }
        bounds::check_client(args.text(6))?;
        let (data, field_timestamps, actor) = (args.jsonb(7), args.jsonb(8), args.jsonb(10));
        bounds::check_values([("data", data), ("field_timestamps", field_timestamps), ("actor", actor)])?;
        let origin = args.text(13).filter(|origin| !origin.is_empty());
        bounds::check_origin(origin)?;
        let id = args.datum(11).unwrap_or_else(|| memory.uuid(&uuid::Uuid::now_v7()));
        let schema_version = args.int4(9).filter(|&version| version > 1);
        let required = [
            Some(id),
            args.datum(0),
            args.datum(1),
            args.datum(2),
            Some(memory.text(scope.user)),
            args.datum(5),
            Some(args.datum(6).unwrap_or_else(|| memory.text(b""))),
            data.map(Jsonb::datum),
        ];
        let has_times = field_timestamps.is_some_and(|times| !times.is_empty_object());
        if space.is_none() && !has_times && schema_version.is_none() && actor.is_none() && origin.is_none() {
            spi.insert(&INSERT, &required);
        } else {
            let optional = [
                space.and(args.datum(4)),
                Some(field_timestamps.unwrap_or_else(|| jsonb::empty_object(memory)).datum()),
                Some(Datum::from(schema_version.unwrap_or(1))),
                actor.map(Jsonb::datum),
                origin.and(args.datum(13)),
            ];
            spi.insert(&INSERT_ALL, &[required.as_slice(), &optional].concat());
        }
        Ok(Some(id))
    })
}

/// `mana_sync.is_change(op text, user_id text) RETURNS boolean`
///
/// Returns whether `op` is one of the three operations and `user_id` is not empty. The CHECK constraint of the log calls it. NULL passes,
/// as in any CHECK.
fn is_change<'a>(args: &Args<'a>) -> Answer<'a> {
    let is_user = args.text(1).is_none_or(|user| !user.is_empty());
    Ok(Some(Datum::from(args.text(0).is_none_or(is_op) && is_user)))
}

/// Whether `op` is one of the three operations of the wire format.
fn is_op(op: &[u8]) -> bool {
    matches!(op, b"insert" | b"update" | b"delete")
}

/// `mana_sync.uuidv7() RETURNS uuid`
///
/// Returns a new UUID of version 7.
fn uuidv7<'a>(args: &Args<'a>) -> Answer<'a> {
    Ok(Some(args.memory().uuid(&uuid::Uuid::now_v7())))
}
