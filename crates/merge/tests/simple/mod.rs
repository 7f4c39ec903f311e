//! The merge of section "Merged state" in the plainest words: every rule a filter or a maximum over lists.

use super::world::Row;
use chrono::{DateTime, TimeDelta, Utc};
use mana_sync_merge::time::Time;
use serde_json::Value;
use std::collections::BTreeMap;

/// A merged record.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    pub lives: bool,
    pub fields: BTreeMap<String, Value>,
    pub times: BTreeMap<String, Time>,
    pub space: Option<String>,
    pub updated_at: Time,
    pub deleted_at: Option<Time>,
}

type At = (DateTime<Utc>, (u32, u64, i64));

struct Write {
    at: At,
    field: Option<(String, Value)>,
    op: &'static str,
    space: Option<String>,
}

fn created_at(row: &Row) -> DateTime<Utc> {
    DateTime::from_timestamp(946_684_800 + row.created_at * 60, 0).unwrap()
}

fn instant(row: &Row, text: Option<&Value>) -> Option<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(text?.as_str()?).ok()?.to_utc();
    let created_at = created_at(row);
    Some(if time > created_at + TimeDelta::minutes(5) { created_at } else { time })
}

fn at(row: &Row, time: DateTime<Utc>) -> At {
    (time, (row.position.epoch, row.position.xact, row.position.seq))
}

fn writes(row: &Row) -> Vec<Write> {
    let space = row.space.map(str::to_string);
    let time_of = |keys: &[&str]| keys.iter().find_map(|key| instant(row, row.data.get(*key)));
    let mut writes = Vec::new();
    let mut default = created_at(row);
    match row.op {
        "insert" => {
            default = time_of(&["updatedAt", "createdAt"]).unwrap_or(created_at(row));
            writes.push(Write { at: at(row, default), field: None, op: "insert", space: space.clone() });
        }
        "delete" => {
            let time = time_of(&["deletedAt"]).unwrap_or(created_at(row));
            return vec![Write { at: at(row, time), field: None, op: "delete", space }];
        }
        _ => {}
    }
    for (name, value) in row.data.as_object().into_iter().flatten() {
        let time = instant(row, row.field_timestamps.get(name)).unwrap_or(default);
        let field = Some((name.clone(), value.clone()));
        writes.push(Write { at: at(row, time), field, op: "update", space: space.clone() });
    }
    writes
}

/// Merges changes of one record.
pub fn merge<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Option<Merged> {
    let writes: Vec<Write> = rows.into_iter().flat_map(writes).collect();
    let latest = writes.iter().max_by_key(|write| write.at)?;
    let deleted = writes.iter().filter(|write| write.op == "delete").map(|write| write.at).max();
    let inserted = writes.iter().filter(|write| write.op == "insert").map(|write| write.at).max();
    let lives = deleted.is_none() || inserted > deleted;
    let (mut fields, mut times) = (BTreeMap::new(), BTreeMap::new());
    for write in &writes {
        let Some((name, value)) = &write.field else { continue };
        let of_field = writes.iter().filter(|other| other.field.as_ref().is_some_and(|(other, _)| other == name));
        if Some(write.at) > deleted && of_field.map(|other| other.at).max() == Some(write.at) {
            fields.insert(name.clone(), value.clone());
            times.insert(name.clone(), time(write.at.0));
        }
    }
    // The latest living write; a record without one has the space of its delete.
    let living = writes.iter().filter(|write| Some(write.at) > deleted).max_by_key(|write| write.at);
    let space = living.unwrap_or(latest).space.clone();
    let deleted_at = deleted.filter(|_| !lives).map(|at| time(at.0));
    Some(Merged { lives, fields, times, space, updated_at: time(latest.at.0), deleted_at })
}

fn time(time: DateTime<Utc>) -> Time {
    Time::parse(time.to_rfc3339().as_bytes()).unwrap()
}
