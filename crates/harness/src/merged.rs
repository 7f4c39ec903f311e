//! Merged records from two sources: `mana_sync.records` returns them, and a simple implementation computes them from
//! the changes that a device has or that a scope allows.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, SubsecRound, Utc};
use mana_sync_simple_merge::{Change, Merged, merge};
use postgres::{Client, Error, GenericClient, Row};
use serde_json::Value;
use uuid::Uuid;

/// A change of the log, with its user and its record.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Logged {
    pub user: String,
    pub table: String,
    pub record: String,
    pub change: Change,
}

/// Records by table and id.
pub type Records = BTreeMap<(String, String), Merged>;

/// The columns of the log that [`logged`] reads. They do not include the position, which a device does not know.
pub const COLUMNS: &str = "id, user_id, table_name, record_id, space_id, op, data, field_timestamps,
    to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS created";

/// Reads a row that has [`COLUMNS`]. The position of the change is all zeroes.
pub fn logged(row: &Row) -> (Uuid, Logged) {
    let json = |column| row.get::<_, Option<Value>>(column).unwrap_or(Value::Null);
    let change = Change {
        position: (0, 0, 0),
        created_at: time(row.get("created")),
        space: row.get("space_id"),
        op: row.get("op"),
        data: json("data"),
        field_timestamps: json("field_timestamps"),
    };
    let logged =
        Logged { user: row.get("user_id"), table: row.get("table_name"), record: row.get("record_id"), change };
    (row.get("id"), logged)
}

/// Returns all changes of an app, with their positions, from a table that has the columns of the log.
pub fn all_of(superuser: &mut Client, table: &str, app: &str) -> HashMap<Uuid, Logged> {
    let sql = format!("SELECT {COLUMNS}, epoch, xact::text, seq FROM {table} WHERE app_id = $1");
    let rows = superuser.query(&sql, &[&app]).expect("the log is readable");
    let with_position = |row: &Row| {
        let (id, mut logged) = logged(row);
        let xact: String = row.get("xact");
        logged.change.position = (row.get::<_, i32>("epoch") as u32, xact.parse().expect("a number"), row.get("seq"));
        (id, logged)
    };
    rows.iter().map(with_position).collect()
}

/// Merges changes into records, with the simple implementation.
pub fn records_of<'a>(changes: impl IntoIterator<Item = &'a Logged>) -> Records {
    let mut by_record: BTreeMap<(String, String), Vec<Change>> = BTreeMap::new();
    for logged in changes {
        by_record.entry((logged.table.clone(), logged.record.clone())).or_default().push(logged.change.clone());
    }
    by_record.into_iter().filter_map(|(key, changes)| Some((key, to_micros(merge(&changes)?)))).collect()
}

/// Keeps only the live records.
pub fn living(mut records: Records) -> Records {
    records.retain(|_, record| record.lives);
    records
}

/// Reads the records with `mana_sync.records`.
pub fn records(
    client: &mut impl GenericClient,
    user: &str,
    app: &str,
    spaces: &[String],
    record: Option<&str>,
) -> Result<Records, Error> {
    let sql = "SELECT table_name, record_id, space_id, data, field_timestamps,
                      to_char(deleted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS deleted,
                      to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS updated
               FROM mana_sync.records($1, $2, record_id => $3, include_deleted => true, space_ids => $4)";
    let rows = client.query(sql, &[&user, &app, &record, &spaces])?;
    let record = |row: &Row| {
        let (data, times): (Value, Value) = (row.get("data"), row.get("field_timestamps"));
        let fields = data.as_object().expect("data is an object").clone().into_iter().collect();
        let times = times.as_object().expect("field_timestamps is an object").iter();
        let times = times.map(|(name, at)| (name.clone(), time(at.as_str().expect("a string")))).collect();
        let deleted: Option<&str> = row.get("deleted");
        let merged = Merged {
            lives: deleted.is_none(),
            fields,
            times,
            space: row.get("space_id"),
            updated_at: time(row.get("updated")),
            deleted_at: deleted.map(time),
        };
        ((row.get("table_name"), row.get("record_id")), to_micros(merged))
    };
    Ok(rows.iter().map(record).collect())
}

/// Cuts the times of a record to microseconds, the resolution of a `timestamptz`.
fn to_micros(mut merged: Merged) -> Merged {
    merged.updated_at = merged.updated_at.trunc_subsecs(6);
    merged.deleted_at = merged.deleted_at.map(|time| time.trunc_subsecs(6));
    merged
}

fn time(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).expect("a timestamp").to_utc()
}

/// Panics if two sets of records differ. The message names the first record that differs.
pub fn assert_same(who: &str, found: &Records, expected: &Records) {
    for (key, record) in expected {
        assert_eq!(found.get(key), Some(record), "{who}: {key:?}");
    }
    for key in found.keys() {
        assert!(expected.contains_key(key), "{who}: {key:?} is there, and should not be: {:?}", found[key]);
    }
}
