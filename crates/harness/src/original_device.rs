//! A device of the original service: the client that users have, and that cannot be changed. The real client was
//! observed to do the following, and this device does the same:
//!
//! - It has a cursor for each table. The answer to a push sets all cursors; the answer to a pull sets the cursor of its
//!   table.
//! - A push names no table. The `since` of a push is the smallest text of the current time and the cursors of all
//!   tables. A table without a cursor counts as 1970.
//! - A delete has both `fields.deletedAt` and `deletedAt`. A field that was cleared has an `at` and no `value`.
//! - An insert names its space. An update or a delete names the space only if it is the device's first change to
//!   another user's record. From then on, the client treats the record as its own.
//! - After an error 4xx, the batch is not sent again. It stays first in the queue, and nothing behind it is sent. After
//!   a lost answer, the same changes are sent again, with the same ids.
//! - It does not know what a resync is, and treats it as an error (409).
//! - It merges field by field: the later time wins. A delete removes the record.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chrono::{DateTime, Utc};
use postgres::Client;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// The `since` of a device that never synced.
const NEVER: &str = "1970-01-01T00:00:00.000Z";

/// The tables that every device syncs.
pub const TABLES: [&str; 2] = ["items", "notes"];

/// A fault that the server once had. A test simulates it between the device and the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No fault.
    None,
    /// The device is given cursors that, as text, are greater than timestamps.
    CursorsAfterTimestamps,
    /// The server refuses keys that an op does not use, and a field without a value.
    StrictWire,
}

/// A record as the device has it.
#[derive(Clone, Debug, Default)]
struct Record {
    fields: BTreeMap<String, (Value, DateTime<Utc>)>,
    inserted: Option<DateTime<Utc>>,
    deleted: Option<DateTime<Utc>>,
    space: Option<String>,
    space_at: Option<DateTime<Utc>>,
    /// Whether the device itself has changed the record.
    is_own: bool,
}

impl Record {
    fn lives(&self) -> bool {
        self.deleted.is_none() || self.inserted > self.deleted
    }

    fn write(&mut self, name: &str, value: Value, at: DateTime<Utc>) {
        if self.deleted >= Some(at) {
            return;
        }
        match self.fields.get_mut(name) {
            Some(field) if field.1 > at => {}
            Some(field) => *field = (value, at),
            None => drop(self.fields.insert(name.into(), (value, at))),
        }
    }

    fn delete(&mut self, at: DateTime<Utc>) {
        self.deleted = self.deleted.max(Some(at));
        self.fields.retain(|_, field| field.1 > at);
    }

    fn place(&mut self, space: Option<&str>, at: DateTime<Utc>) {
        if self.space_at <= Some(at) {
            self.space = space.map(str::to_string);
            self.space_at = Some(at);
        }
    }
}

/// The device.
pub struct OriginalDevice {
    /// The user of the device.
    pub user: String,
    /// The client id of the device.
    pub client: String,
    /// The app that the device syncs.
    pub app: String,
    /// The spaces of the user.
    pub spaces: Vec<String>,
    /// The simulated fault.
    pub fault: Fault,
    cursors: BTreeMap<&'static str, String>,
    records: BTreeMap<(String, String), Record>,
    /// The queue of batches. Changes that are written after the first batch was sent form one further batch.
    queue: VecDeque<Vec<Value>>,
    /// Whether the server may already have the first batch.
    first_was_sent: bool,
    /// The error after which the device never sends its queue again; `None` if there was none.
    pub stuck: Option<String>,
}

/// Formats a time as these clients do, but with microseconds. The clients send milliseconds, with which two writes of a
/// test could have the same time.
pub fn spell(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

fn read(text: &Value) -> Option<DateTime<Utc>> {
    Some(DateTime::parse_from_rfc3339(text.as_str()?).ok()?.to_utc())
}

impl OriginalDevice {
    /// Makes a device that has not synced yet.
    pub fn new(user: &str, client: &str, app: &str, spaces: &[&str], fault: Fault) -> Self {
        Self {
            user: user.into(),
            client: client.into(),
            app: app.into(),
            spaces: spaces.iter().map(|space| space.to_string()).collect(),
            fault,
            cursors: BTreeMap::new(),
            records: BTreeMap::new(),
            queue: VecDeque::new(),
            first_was_sent: false,
            stuck: None,
        }
    }

    /// The ids of the live records of a table on the device.
    pub fn living(&self, table: &str) -> Vec<String> {
        let of_table = self.records.iter().filter(|((of, _), record)| of == table && record.lives());
        of_table.map(|((_, id), _)| id.clone()).collect()
    }

    /// Creates a record on the device, and puts the insert into the queue.
    pub fn insert(&mut self, table: &str, id: &str, space: Option<&str>, fields: &[(&str, Value)], now: DateTime<Utc>) {
        let mut data: Map<String, Value> =
            fields.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
        data.insert("createdAt".into(), json!(spell(now)));
        let mut change = self.change(table, id, "insert");
        change["data"] = Value::Object(data);
        if let Some(space) = space {
            change["spaceId"] = json!(space);
        }
        self.enqueue(change);
    }

    /// Writes fields of a record, and puts the update into the queue. A null value clears a field.
    pub fn update(&mut self, table: &str, id: &str, fields: &[(&str, Value)], now: DateTime<Utc>) {
        let field = |value: &Value| match value {
            Value::Null => json!({"at": spell(now)}),
            value => json!({"value": value, "at": spell(now)}),
        };
        let fields: Map<String, Value> = fields.iter().map(|(name, value)| (name.to_string(), field(value))).collect();
        let mut change = self.change(table, id, "update");
        change["fields"] = Value::Object(fields);
        self.name_space_of_a_foreign_record(&mut change);
        self.enqueue(change);
    }

    /// Deletes a record, and puts the delete into the queue.
    pub fn delete(&mut self, table: &str, id: &str, now: DateTime<Utc>) {
        let mut change = self.change(table, id, "delete");
        change["deletedAt"] = json!(spell(now));
        change["fields"] = json!({"deletedAt": {"value": spell(now), "at": spell(now)}});
        self.name_space_of_a_foreign_record(&mut change);
        self.enqueue(change);
    }

    fn enqueue(&mut self, change: Value) {
        self.apply(&change);
        match self.queue.len() > usize::from(self.first_was_sent) {
            true => self.queue.back_mut().expect("a batch").push(change),
            false => self.queue.push_back(vec![change]),
        }
    }

    fn change(&self, table: &str, id: &str, op: &str) -> Value {
        json!({"eventId": Uuid::new_v4().to_string(), "table": table, "id": id, "op": op})
    }

    fn name_space_of_a_foreign_record(&self, change: &mut Value) {
        let key = (change["table"].as_str().unwrap().to_string(), change["id"].as_str().unwrap().to_string());
        if let Some(record) = self.records.get(&key).filter(|record| !record.is_own) {
            if let Some(space) = &record.space {
                change["spaceId"] = json!(space);
            }
        }
    }

    /// Merges a change into the records of the device. The change may be the device's own or received.
    fn apply(&mut self, change: &Value) {
        let text = |key: &str| change[key].as_str().expect("a string").to_string();
        let is_own = change.get("schemaVersion").is_none();
        let record = self.records.entry((text("table"), text("id"))).or_default();
        record.is_own |= is_own;
        // The device's own updates name no space: the record stays in its space.
        let space = match (is_own, change["spaceId"].as_str()) {
            (true, None) => record.space.clone(),
            (_, space) => space.map(str::to_string),
        };
        let space = space.as_deref();
        match change["op"].as_str().expect("an op") {
            "insert" => {
                let data = change["data"].as_object().expect("data");
                let said = change.get("at").and_then(read);
                let at = said.or_else(|| read(&data["createdAt"])).expect("an insert says when");
                record.inserted = record.inserted.max(Some(at));
                record.place(space, at);
                for (name, value) in data {
                    record.write(name, value.clone(), at);
                }
            }
            "update" => {
                for (name, field) in change["fields"].as_object().expect("fields") {
                    let at = read(&field["at"]).expect("a field says when");
                    record.place(space, at);
                    record.write(name, field.get("value").cloned().unwrap_or(Value::Null), at);
                }
            }
            _ => {
                let at = read(&change["deletedAt"]).expect("a delete says when");
                record.place(space, at);
                record.delete(at);
            }
        }
    }

    /// Converts a cursor to the spelling that the device stores (if `stored` is true), or to the spelling that the
    /// server expects. The two differ only for [`Fault::CursorsAfterTimestamps`].
    fn spelling(&self, cursor: &str, stored: bool) -> String {
        let (new, old) = ("1a1", "ms1");
        let (from, to) = if stored { (new, old) } else { (old, new) };
        match (self.fault, cursor.strip_prefix(from)) {
            (Fault::CursorsAfterTimestamps, Some(rest)) => format!("{to}{rest}"),
            _ => cursor.to_string(),
        }
    }

    /// Sends the queue, batch by batch. If `loses_answer` returns true, the server has recorded the batch, but the
    /// answer does not reach the device.
    pub fn push(&mut self, client: &mut Client, mut loses_answer: impl FnMut() -> bool) {
        while self.stuck.is_none() {
            let Some(batch) = self.queue.front().cloned() else { return };
            if self.fault == Fault::StrictWire && batch.iter().any(is_refused_by_a_strict_wire) {
                self.stuck = Some(format!("400 {batch:?}"));
                return;
            }
            self.first_was_sent = true;
            let time = Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
            let cursors = TABLES.iter().map(|table| self.cursors.get(table).map_or(NEVER, String::as_str));
            let since = cursors.chain([time.as_str()]).min().expect("a cursor").to_string();
            let changeset =
                json!({"clientId": self.client, "since": self.spelling(&since, false), "changes": batch}).to_string();
            let sql = "SELECT mana_sync.sync($1, $2, $3::text::jsonb, space_ids => $4)::text";
            let answer = match client.query_one(sql, &[&self.user, &self.app, &changeset, &self.spaces]) {
                Ok(row) => row.get::<_, String>(0),
                Err(error) => {
                    let error = error.as_db_error().expect("an error of the server").clone();
                    match error.code().code() {
                        // The front end answers 503, and the device sends the batch again.
                        "40001" | "40P01" => continue,
                        code => self.stuck = Some(format!("{code} {} {batch:?}", error.message())),
                    }
                    return;
                }
            };
            if loses_answer() {
                return;
            }
            let answer: Value = serde_json::from_str(&answer).expect("JSON");
            if answer.get("resyncRequired").is_some() {
                self.stuck = Some(format!("409 resync, since {since}"));
                return;
            }
            self.queue.pop_front();
            self.first_was_sent = false;
            self.take(&answer);
            let cursor = self.spelling(answer["syncedUntil"].as_str().expect("a cursor"), true);
            for table in TABLES {
                self.cursors.insert(table, cursor.clone());
            }
        }
    }

    /// Pulls one table after the other. Returns the number of changes that came.
    pub fn pull(&mut self, client: &mut Client, page_size: i32) -> usize {
        let mut came = 0;
        for table in TABLES {
            loop {
                let since = self.spelling(self.cursors.get(table).map_or(NEVER, String::as_str), false);
                let sql = "SELECT mana_sync.pull($1, $2, $3, $4, $5, $6, $7)::text";
                let row = client
                    .query_one(sql, &[&self.user, &self.app, &table, &since, &self.client, &page_size, &self.spaces]);
                let answer: Value = serde_json::from_str(row.expect("a page").get(0)).expect("JSON");
                if answer.get("resyncRequired").is_some() {
                    self.stuck = Some(format!("409 resync, since {since}"));
                    return came;
                }
                came += self.take(&answer);
                let cursor = self.spelling(answer["syncedUntil"].as_str().expect("a cursor"), true);
                self.cursors.insert(table, cursor);
                if answer["hasMore"] == json!(false) {
                    break;
                }
            }
        }
        came
    }

    fn take(&mut self, answer: &Value) -> usize {
        let changes = answer["serverChanges"].as_array().expect("changes");
        changes.iter().for_each(|change| self.apply(change));
        changes.len()
    }

    /// The number of batches in the queue.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Compares the live records of the device with those that `mana_sync.records` returns for its user.
    pub fn differences(&self, client: &mut Client) -> Vec<String> {
        let sql = "SELECT table_name, record_id, space_id, data FROM mana_sync.records($1, $2, space_ids => $3)";
        let rows = client.query(sql, &[&self.user, &self.app, &self.spaces]).expect("records");
        let expected: BTreeMap<(String, String), (Option<String>, Value)> =
            rows.iter().map(|row| ((row.get(0), row.get(1)), (row.get(2), row.get(3)))).collect();
        let found: BTreeMap<(String, String), (Option<String>, Value)> = self
            .records
            .iter()
            .filter(|(_, record)| record.lives())
            .map(|(key, record)| {
                let data = record.fields.iter().map(|(name, field)| (name.clone(), field.0.clone())).collect();
                (key.clone(), (record.space.clone(), Value::Object(data)))
            })
            .collect();
        let keys: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
        let differ = keys.into_iter().filter(|key| expected.get(key) != found.get(key));
        differ
            .map(|key| format!("{}: {key:?}: {:?} instead of {:?}", self.client, found.get(key), expected.get(key)))
            .collect()
    }
}

/// Whether a server with [`Fault::StrictWire`] refuses a change.
fn is_refused_by_a_strict_wire(change: &Value) -> bool {
    let fields = change["fields"].as_object();
    match change["op"].as_str() {
        Some("update") => fields.is_some_and(|fields| fields.values().any(|field| field.get("value").is_none())),
        _ => fields.is_some_and(|fields| !fields.is_empty()),
    }
}
