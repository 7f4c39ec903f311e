//! Random logs of one record, with several users, private and shared changes, and clocks that are right or wrong in every way.

use mana_sync_cursor::Position;
use mana_sync_merge::change::{Change, JsonObject, Op};
use mana_sync_merge::time::Time;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

pub const USERS: [&str; 3] = ["ann", "bob", "cem"];
pub const SPACES: [&str; 2] = ["home", "work"];

/// A row of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub position: Position,
    /// Minutes since 2000-01-01 UTC.
    pub created_at: i64,
    pub user: &'static str,
    pub space: Option<&'static str>,
    pub op: &'static str,
    pub data: Value,
    pub field_timestamps: Value,
}

/// The changes to one record, in log order.
#[derive(Clone, Debug)]
pub struct Log {
    pub rows: Vec<Row>,
}

/// A JSON object of serde_json.
#[derive(Clone, Copy, Debug)]
pub struct Json<'a>(pub &'a Map<String, Value>);

impl<'a> JsonObject<'a> for Json<'a> {
    type Value = &'a Value;

    fn string(&self, key: &[u8]) -> Option<&'a [u8]> {
        Some(self.0.get(std::str::from_utf8(key).unwrap())?.as_str()?.as_bytes())
    }

    fn fields(self) -> impl Iterator<Item = (&'a [u8], &'a Value)> {
        self.0.iter().map(|(name, value)| (name.as_bytes(), value))
    }
}

impl Row {
    pub fn change(&self) -> Change<Json<'_>> {
        Change {
            op: Op::parse(self.op.as_bytes()).unwrap(),
            position: self.position,
            created_at: Time::from_micros(self.created_at * 60_000_000),
            data: self.data.as_object().map(Json),
            field_timestamps: self.field_timestamps.as_object().map(Json),
        }
    }

    /// Converts the row for the simple implementation of merging.
    pub fn simple(&self) -> mana_sync_simple_merge::Change {
        mana_sync_simple_merge::Change {
            position: (self.position.epoch.0, self.position.xact.0, self.position.seq),
            created_at: date(Time::from_micros(self.created_at * 60_000_000)),
            space: self.space.map(str::to_string),
            op: self.op.to_string(),
            data: self.data.clone(),
            field_timestamps: self.field_timestamps.clone(),
        }
    }

    pub fn group(&self) -> (&'static str, Option<&'static str>) {
        (self.user, self.space)
    }

    pub fn has_non_object_data(&self) -> bool {
        !self.data.is_object() && !self.data.is_null()
    }

    /// Returns the row without some of its fields.
    pub fn without(&self, fields: &[&[u8]]) -> Row {
        let mut row = self.clone();
        for json in [&mut row.data, &mut row.field_timestamps] {
            if let Some(object) = json.as_object_mut() {
                object.retain(|name, _| !fields.contains(&name.as_bytes()));
            }
        }
        row
    }
}

pub fn date(time: Time) -> chrono::DateTime<chrono::Utc> {
    chrono::DateTime::parse_from_rfc3339(&time.to_rfc3339()).unwrap().to_utc()
}

/// Generates the timestamps of devices: right, early, late, far in the future, in several spellings, and invalid.
fn clocks() -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => (0i64..40).prop_map(|minute| json!(text(minute, ".000Z"))),
        2 => (0i64..40).prop_map(|minute| json!(text(minute, "Z"))),
        2 => (0i64..40).prop_map(|minute| json!(text(minute, ".500Z"))),
        1 => (0i64..40).prop_map(|minute| json!(text(minute, ".000000001Z"))),
        1 => (0i64..40).prop_map(|minute| json!(format!("2000-01-01T02:{minute:02}:00+02:00"))),
        1 => Just(json!("2099-01-01T00:00:00Z")),
        1 => Just(json!("yesterday")),
        1 => Just(json!(7)),
        1 => Just(Value::Null),
    ]
}

fn text(minute: i64, end: &str) -> String {
    format!("2000-01-01T00:{minute:02}:00{end}")
}

fn fields() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::btree_map(prop::sample::select(vec!["a", "b", "c", "updatedAt", ""]), 0..9i32, 0..4)
        .prop_map(|fields| fields.into_iter().map(|(name, value)| (name.to_string(), json!(value))).collect())
}

fn rows() -> impl Strategy<Value = (Row, bool)> {
    let who = (prop::sample::select(&USERS[..]), prop::option::of(prop::sample::select(&SPACES[..])));
    let times = prop::collection::btree_map(prop::sample::select(vec!["a", "b", "c", "updatedAt", ""]), clocks(), 0..4);
    let clocks = (prop::option::of(clocks()), prop::option::of(clocks()), prop::option::of(clocks()));
    let op = prop_oneof![2 => Just("insert"), 4 => Just("update"), 2 => Just("delete")];
    let odd = prop_oneof![20 => Just(None), 1 => Just(Some(json!([1]))), 1 => Just(Some(Value::Null))];
    (who, op, fields(), times, clocks, odd, 0i64..40, any::<bool>()).prop_map(
        |((user, space), op, mut data, times, (updated, created, deleted), odd, created_at, same_transaction)| {
            for (key, clock) in [("updatedAt", updated), ("createdAt", created), ("deletedAt", deleted)] {
                if let Some(clock) = clock {
                    data.insert(key.into(), clock);
                }
            }
            let times: Map<_, _> = times.into_iter().map(|(name, time)| (name.to_string(), time)).collect();
            let row = Row {
                position: Position::START,
                created_at,
                user,
                space,
                op,
                data: odd.unwrap_or(Value::Object(data)),
                field_timestamps: Value::Object(times),
            };
            (row, same_transaction)
        },
    )
}

/// Generates a log of up to 16 changes. Many logs have only one user or no space, so that changes overwrite each other.
pub fn logs() -> impl Strategy<Value = Log> {
    (prop::collection::vec(rows(), 0..16), any::<bool>(), any::<bool>()).prop_map(|(rows, one_user, one_space)| {
        let mut xact = 1;
        let rows = rows.into_iter().enumerate().map(|(i, (mut row, same_transaction))| {
            xact += u64::from(!same_transaction);
            row.position = Position::new(1, xact, i as i64 + 1);
            if one_user {
                row.user = USERS[0];
            }
            if one_space {
                row.space = None;
            }
            row
        });
        Log { rows: rows.collect() }
    })
}
