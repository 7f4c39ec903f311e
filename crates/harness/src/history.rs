//! Real input: 18 years of a public repository's history as pushes (13,417 of them, 36,629 changes, 300 users, 118 spaces).
//! The file is not part of the repository.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use flate2::read::GzDecoder;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::Device;

/// A push: one line of the file.
pub struct Push {
    /// The text of the line: a changeset of the wire format, and its user.
    pub line: String,
    /// The user who pushes.
    pub user: String,
    /// The app of the push.
    pub app: String,
    /// The client id of the device.
    pub client: String,
    /// The version of the schema that all changes of the push have.
    pub schema_version: i32,
    /// The changes, in their order.
    pub changes: Vec<Change>,
}

/// A change, with the values of its columns in the log.
#[allow(missing_docs)]
pub struct Change {
    pub id: Uuid,
    pub table: String,
    pub record: String,
    pub op: String,
    pub space: Option<String>,
    pub data: Option<Value>,
    pub field_timestamps: Value,
}

/// Reads the history. If the file is missing, prints that the test is skipped, and returns `None`.
pub fn load(test: &str) -> Option<Vec<Push>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/couchdb-history.jsonl.gz");
    let Ok(file) = File::open(&path) else {
        println!("skipped: {test}, {} is not there", path.display());
        return None;
    };
    let pushes: Vec<Push> =
        BufReader::new(GzDecoder::new(file)).lines().map(|line| parse(line.expect("a line"))).collect();
    println!("{} pushes, {} changes", pushes.len(), pushes.iter().map(|push| push.changes.len()).sum::<usize>());
    Some(pushes)
}

/// Returns a device for each user of each app. The spaces of a device are all spaces in which its user has written.
pub fn devices_of(pushes: &[Push]) -> Vec<Device> {
    let mut spaces: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for push in pushes {
        let own = spaces.entry((&push.user, &push.app)).or_default();
        own.extend(push.changes.iter().filter_map(|change| change.space.as_deref()));
    }
    spaces.into_iter().map(|((user, app), spaces)| Device::new(user, app, &Vec::from_iter(spaces))).collect()
}

fn parse(line: String) -> Push {
    let push: HashMap<String, Value> = serde_json::from_str(&line).expect("a line is a JSON object");
    let changes = push["changes"].as_array().expect("changes is an array");
    Push {
        user: text(&push["userId"]),
        app: text(&push["appId"]),
        client: text(&push["clientId"]),
        schema_version: push["schemaVersion"].as_i64().expect("schemaVersion is a number") as i32,
        changes: changes.iter().map(parse_change).collect(),
        line,
    }
}

/// Reads a change of the wire format: an update has fields, each with a time; an insert has data; a delete has a time.
fn parse_change(change: &Value) -> Change {
    let (mut data, mut field_timestamps) = (change.get("data").cloned(), Map::new());
    if let Some(fields) = change.get("fields").and_then(Value::as_object) {
        data = Some(fields.iter().map(|(name, field)| (name.clone(), field["value"].clone())).collect());
        field_timestamps = fields.iter().map(|(name, field)| (name.clone(), field["at"].clone())).collect();
    }
    if let Some(deleted_at) = change.get("deletedAt") {
        data = Some(Map::from_iter([("deletedAt".to_string(), deleted_at.clone())]).into());
    }
    Change {
        id: text(&change["eventId"]).parse().expect("eventId is a UUID"),
        table: text(&change["table"]),
        record: text(&change["id"]),
        op: text(&change["op"]),
        space: change.get("spaceId").map(text),
        data,
        field_timestamps: field_timestamps.into(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_string()
}
