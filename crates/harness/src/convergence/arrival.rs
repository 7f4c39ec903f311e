//! A device that applies changes in the order in which they arrive. This is wrong: the device does not end with the
//! data of the server.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::device::{Next, Store};
use super::{Records, Shown, array, instant, key_of, spaces_of, text, to_micros};

/// The data on a device that applies changes in the order in which they arrive.
#[derive(Default)]
pub struct ArrivalStore {
    spaces: Option<BTreeSet<String>>,
    records: Records,
}

impl ArrivalStore {
    fn add(&mut self, change: &Value) {
        let key = key_of(change);
        if change["op"] == "delete" {
            self.records.remove(&key);
            return;
        }
        let record = self.records.entry(key).or_insert_with(|| Shown {
            space: None,
            data: Default::default(),
            times: Default::default(),
            updated_at: DateTime::<Utc>::UNIX_EPOCH,
        });
        record.space = change.get("spaceId").map(|space| text(space).to_string());
        let mut write = |name: &str, value: &Value, at: &Value| {
            record.data.insert(name.into(), value.clone());
            record.times.insert(name.into(), at.clone());
            record.updated_at = to_micros(instant(text(at)));
        };
        match change["op"] == "insert" {
            true => {
                for (name, value) in change.get("data").and_then(Value::as_object).into_iter().flatten() {
                    write(name, value, &change["at"]);
                }
            }
            false => {
                for (name, field) in change["fields"].as_object().expect("fields") {
                    write(name, &field["value"], &field["at"]);
                }
            }
        }
    }
}

impl Store for ArrivalStore {
    fn as_records(&self) -> bool {
        false
    }

    fn wants_echo(&self) -> bool {
        true
    }

    fn begin_again(&mut self) {}

    fn forget(&mut self) {
        *self = ArrivalStore::default();
    }

    fn apply(&mut self, answer: &Value, _: bool) -> Next {
        array(answer, "serverChanges").iter().for_each(|change| self.add(change));
        if let Some(spaces) = spaces_of(answer) {
            let is_visible = |shown: &Shown| shown.space.as_ref().is_none_or(|space| spaces.contains(space));
            self.records.retain(|_, shown| is_visible(shown));
            self.spaces = Some(spaces);
        }
        Next::GoOn
    }

    fn shown(&self) -> Records {
        self.records.clone()
    }
}
