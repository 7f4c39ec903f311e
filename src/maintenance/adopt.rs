//! The functions of `mana_sync.adopt` that look into values. One says why the log cannot take a row of the original store. The other
//! converts the times of its fields. The procedure itself is in `sql/adoption.sql`.

use crate::bounds::{check_client, check_origin, check_space, check_values, is_too_deep, key};
use crate::error::Error;
use crate::pg::fmgr::{Answer, Args, sql_functions};
use crate::pg::jsonb::{Builder, Node, Object, Value, empty_object, string};
use mana_sync_merge::change::Op;

sql_functions!(fault_of_change, times_of_fields);

/// 1970-01-01T00:00:00Z, in microseconds from 2000-01-01. Devices send this time as `since` to mean the beginning of the log. They would
/// not get a change that was recorded then or earlier.
const BEGINNING: i64 = -10_957 * DAY;
/// 10000-01-01T00:00:00Z. A later time has no text of RFC 3339.
const END: i64 = 2_921_940 * DAY;
const DAY: i64 = 86_400 * 1_000_000;

/// `mana_sync.fault_of_change(id, created_at, user_id, app_id, table_name, record_id, op, client_id, space_id, data, field_timestamps,
/// actor, origin) RETURNS text`
///
/// Returns why the log cannot take a change with these columns, or NULL if it can.
fn fault_of_change<'a>(args: &Args<'a>) -> Answer<'a> {
    let fault = match check(args) {
        Err(error) => Some(error.to_string().into_bytes()),
        Ok(()) => fault_of_times(args),
    };
    Ok(fault.map(|fault| args.memory().text(&fault)))
}

/// Checks everything but the form of the times.
fn check(args: &Args<'_>) -> Result<(), Error> {
    args.datum(0).ok_or(Error::Null("id"))?;
    let created_at = args.datum(1).ok_or(Error::Null("created_at"))?.int8();
    if !(BEGINNING + 1..END).contains(&created_at) {
        let fault = "must be after 1970-01-01 00:00:00 and before 10000-01-01 (UTC)".into();
        return Err(Error::OutOfBounds { what: "created_at", fault });
    }
    for (place, name) in (2..).zip(["user_id", "app_id", "table_name", "record_id"]) {
        key(args.text(place), name)?;
    }
    args.text(6).and_then(Op::parse).ok_or(Error::Op)?;
    let client = args.text(7).ok_or(Error::Null("client_id"))?;
    check_client(Some(client))?;
    check_space(args.text(8))?;
    check_values([("data", args.jsonb(9)), ("field_timestamps", args.jsonb(10)), ("actor", args.jsonb(11))])?;
    check_origin(args.text(12))
}

/// Returns the fault of the field times, if [`times_of_fields`] has left one of them as an object: a key that the log has no place for.
fn fault_of_times(args: &Args<'_>) -> Option<Vec<u8>> {
    let times = args.jsonb(10)?;
    let of_field = times.object()?.pairs().find_map(|(_, value)| {
        let object = value.object()?;
        at(object)?;
        object.pairs().find_map(|(key, _)| key.text().filter(|&key| key != b"at"))
    });
    of_field.map(|key| [b"the time of a field has the key \"", key, b"\" beside \"at\""].concat())
}

/// `mana_sync.times_of_fields(times jsonb, dropped_keys text[]) RETURNS jsonb`
///
/// Returns the times of fields as the log stores them. An object with a string under `at` becomes that string, if each of its other
/// keys is in `dropped_keys`. Every other value stays as it is. NULL and the JSON value null become `{}`.
fn times_of_fields<'a>(args: &Args<'a>) -> Answer<'a> {
    let memory = args.memory();
    let Some(times) = args.jsonb(0) else { return Ok(Some(empty_object(memory).datum())) };
    let root = times.root();
    if matches!(root.get(), Value::Null) {
        return Ok(Some(empty_object(memory).datum()));
    }
    let Some(object) = root.object() else { return Ok(Some(times.datum())) };
    // PostgreSQL cannot rebuild a value that is nested so deeply. fault_of_change refuses it.
    if object.pairs().all(|(_, value)| value.object().is_none()) || is_too_deep(root) {
        return Ok(Some(times.datum()));
    }
    let dropped: Vec<&[u8]> = args.texts(1).unwrap_or_default().into_iter().flatten().collect();
    let mut stored = Builder::new(memory);
    for (key, value) in object.pairs() {
        stored.add(key, value.object().and_then(|object| only_at(object, &dropped)).unwrap_or(value));
    }
    Ok(Some(stored.finish().datum()))
}

/// Returns the string under `at`, if `dropped` has all other keys of the object.
fn only_at<'a>(object: Object<'a>, dropped: &[&[u8]]) -> Option<Node<'a>> {
    let at = at(object)?;
    let is_known = |key: Node<'_>| key.text().is_some_and(|key| key == b"at" || dropped.contains(&key));
    object.pairs().all(|(key, _)| is_known(key)).then(|| string(at))
}

/// Returns the string under `at`.
fn at<'a>(object: Object<'a>) -> Option<&'a [u8]> {
    object.get(b"at")?.text()
}
