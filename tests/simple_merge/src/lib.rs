//! A second, deliberately simple implementation of merging changes into a record. Tests compare `mana_sync_merge` with it.
//!
//! Every rule is a filter or a maximum over lists. The crate shares no code with `mana_sync_merge`, and does not try to be fast.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use std::collections::BTreeMap;

/// A row of the log.
#[derive(Clone, Debug)]
pub struct Change {
    /// Columns `epoch`, `xact` and `seq`.
    pub position: (u32, u64, i64),
    /// The time at which the server recorded the change.
    pub created_at: DateTime<Utc>,
    /// The space of the change; `None` if it is private.
    pub space: Option<String>,
    /// The operation: `insert`, `update` or `delete`.
    pub op: String,
    /// Column `data`; `null` if there is none.
    pub data: Value,
    /// Column `field_timestamps`; `null` if there is none.
    pub field_timestamps: Value,
}

/// A merged record.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// Whether the record is live.
    pub lives: bool,
    /// The value of the latest live write of each field.
    pub fields: BTreeMap<String, Value>,
    /// The time of the latest live write of each field.
    pub times: BTreeMap<String, DateTime<Utc>>,
    /// The space of the latest live write, or of the latest delete if there is none.
    pub space: Option<String>,
    /// The time of the latest write, deletes included.
    pub updated_at: DateTime<Utc>,
    /// The time of the latest delete; `None` if the record is live.
    pub deleted_at: Option<DateTime<Utc>>,
}

type At = (DateTime<Utc>, (u32, u64, i64));

struct Write<'a> {
    at: At,
    kind: &'static str,
    field: Option<(&'a String, &'a Value)>,
    space: &'a Option<String>,
}

fn instant(change: &Change, text: Option<&Value>) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(text?.as_str()?).ok()?.to_utc();
    let latest = change.created_at + TimeDelta::minutes(5);
    Some(if time > latest { change.created_at } else { time })
}

fn writes(change: &Change) -> Vec<Write<'_>> {
    let time_of = |keys: &[&str]| keys.iter().find_map(|key| instant(change, change.data.get(*key)));
    let write = |time, kind, field| Write { at: (time, change.position), kind, field, space: &change.space };
    let mut default = change.created_at;
    let mut writes = Vec::new();
    match change.op.as_str() {
        "insert" => {
            let said = instant(change, change.field_timestamps.get(""));
            default = said.or_else(|| time_of(&["updatedAt", "createdAt"])).unwrap_or(change.created_at);
            writes.push(write(default, "insert", None));
        }
        "delete" => return vec![write(time_of(&["deletedAt"]).unwrap_or(change.created_at), "delete", None)],
        _ => {}
    }
    for (name, value) in change.data.as_object().into_iter().flatten() {
        let time = instant(change, change.field_timestamps.get(name)).unwrap_or(default);
        writes.push(write(time, "field", Some((name, value))));
    }
    writes
}

/// Merges changes into a record. Returns `None` if no change wrote anything.
pub fn merge<'a>(changes: impl IntoIterator<Item = &'a Change>) -> Option<Merged> {
    let writes: Vec<Write> = changes.into_iter().flat_map(writes).collect();
    let last_of = |kind| writes.iter().filter(|write| write.kind == kind).map(|write| write.at).max();
    let (latest, deleted, inserted) =
        (writes.iter().max_by_key(|write| write.at)?, last_of("delete"), last_of("insert"));
    let lives = deleted.is_none() || inserted > deleted;
    let living = || writes.iter().filter(|write| Some(write.at) > deleted);
    let mut latest_of_field: BTreeMap<&String, &Write> = BTreeMap::new();
    for write in living() {
        if let Some((name, _)) = write.field {
            let latest = latest_of_field.entry(name).or_insert(write);
            if write.at > latest.at {
                *latest = write;
            }
        }
    }
    Some(Merged {
        lives,
        fields: latest_of_field
            .iter()
            .map(|(name, write)| (name.to_string(), write.field.unwrap().1.clone()))
            .collect(),
        times: latest_of_field.iter().map(|(name, write)| (name.to_string(), write.at.0)).collect(),
        // A record without a live write has the space of its delete.
        space: living().max_by_key(|write| write.at).unwrap_or(latest).space.clone(),
        updated_at: latest.at.0,
        deleted_at: deleted.filter(|_| !lives).map(|at| at.0),
    })
}
