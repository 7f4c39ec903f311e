//! Devices that know only the wire format, and the check that they end with the same data as the server.
//!
//! - [`device`]: a device with its queue and its cursor
//! - [`changes`]: a device that merges changes, in several correct ways and in one wrong way
//! - [`records`]: a device that takes records as the server has merged them
//! - [`arrival`]: a device that applies changes in the order in which they arrive, which is wrong
//! - [`schedule`]: random schedules of devices, memberships, writes and maintenance
//!
//! A device has to end with what `mana_sync.records` returns for its user, except records whose space the user has left.

pub mod arrival;
pub mod changes;
pub mod device;
pub mod records;
pub mod schedule;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SubsecRound, Utc};
use postgres::Client;
use serde_json::{Map, Value};

/// Table and id of a record.
pub type Key = (String, String);

/// A record that a device shows, or that `mana_sync.records` returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// The space of the record; `None` if it is private.
    pub space: Option<String>,
    /// The values of the fields.
    pub data: Map<String, Value>,
    /// The time at which each field was written, in the spelling of the write that won.
    pub times: Map<String, Value>,
    /// The time of the latest write to the record, to the microsecond.
    pub updated_at: DateTime<Utc>,
}

/// Records by table and id.
pub type Records = BTreeMap<Key, Shown>;

/// A difference between a record on a device and the record on the server.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Whether the record exists only on one side, or has another space or other values. Otherwise only its times differ.
    pub of_values: bool,
    /// The description of the difference.
    pub text: String,
}

/// Reads the records that a device of `user` has to have.
pub fn truth(client: &mut Client, user: &str, app: &str, spaces: &[String]) -> Records {
    let sql = "SELECT table_name, record_id, space_id, data::text, field_timestamps::text,
                      to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')
               FROM mana_sync.records($1, $2, space_ids => $3) WHERE space_id IS NULL OR space_id = ANY ($3)";
    let rows = client.query(sql, &[&user, &app, &spaces]).expect("records");
    let object = |text: &str| match serde_json::from_str(text) {
        Ok(Value::Object(object)) => object,
        other => panic!("no object: {other:?}"),
    };
    let shown = rows.iter().map(|row| {
        let shown = Shown {
            space: row.get(2),
            data: object(row.get(3)),
            times: object(row.get(4)),
            updated_at: instant(row.get(5)),
        };
        ((row.get(0), row.get(1)), shown)
    });
    shown.collect()
}

/// Compares the records of a device with those that it has to have. The times of fields are compared as texts if `as_texts` is true, and
/// otherwise as instants.
pub fn differences(who: &str, found: &Records, expected: &Records, as_texts: bool) -> Vec<Difference> {
    let keys: BTreeSet<&Key> = found.keys().chain(expected.keys()).collect();
    let is_same = |key: &Key| match (found.get(key), expected.get(key)) {
        (Some(found), Some(expected)) if !as_texts => {
            let instants = |shown: &Shown| -> BTreeMap<String, DateTime<Utc>> {
                shown.times.iter().map(|(name, at)| (name.clone(), instant(text(at)))).collect()
            };
            Shown { times: Map::new(), ..found.clone() } == Shown { times: Map::new(), ..expected.clone() }
                && instants(found) == instants(expected)
        }
        (found, expected) => found == expected,
    };
    let differ = keys.into_iter().filter(|key| !is_same(key));
    let difference = |key: &Key| {
        let values = |records: &Records| records.get(key).map(|record| (record.space.clone(), record.data.clone()));
        Difference {
            of_values: values(found) != values(expected),
            text: format!(
                "{who}: {key:?}:\n  it has      {:?}\n  it should be {:?}",
                found.get(key),
                expected.get(key)
            ),
        }
    };
    differ.map(difference).collect()
}

/// Parses an RFC 3339 text of the wire format. Panics if it is not valid.
fn instant(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap_or_else(|error| panic!("{text:?}: {error}")).to_utc()
}

/// Cuts an instant to microseconds, as the columns of `mana_sync.records` do.
fn to_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(6)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} should be a string"))
}

fn key_of(item: &Value) -> Key {
    (text(&item["table"]).into(), text(&item["id"]).into())
}

/// The spaces that an answer lists; `None` if it does not list them.
fn spaces_of(answer: &Value) -> Option<BTreeSet<String>> {
    let spaces = answer.get("spaces")?.as_array().expect("spaces are an array");
    Some(spaces.iter().map(|space| text(space).to_string()).collect())
}

fn array<'a>(answer: &'a Value, key: &str) -> &'a [Value] {
    answer[key].as_array().unwrap_or_else(|| panic!("{key} should be an array: {answer}"))
}
