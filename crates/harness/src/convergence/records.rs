//! A device that takes records as the server has merged them. It needs no merge, no clock and no order of changes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::device::{Next, Store};
use super::{Key, Records, Shown, array, instant, key_of, spaces_of, text};

/// The data on a device that takes merged records.
#[derive(Default)]
pub struct RecordsStore {
    /// The spaces that the server listed last; `None` if it has listed none.
    spaces: Option<BTreeSet<String>>,
    held: BTreeMap<Key, Held>,
    /// In a walk from the beginning, the held records that the walk has not brought yet; `None` outside of such a walk.
    unseen: Option<BTreeSet<Key>>,
}

/// A live record, or a deleted one that could live again if one of its spaces were left.
struct Held {
    /// The record; `None` if it is deleted.
    live: Option<Shown>,
    /// The spaces of the record's changes; '' stands for private changes.
    spaces: BTreeSet<String>,
}

impl Store for RecordsStore {
    fn as_records(&self) -> bool {
        true
    }

    fn wants_echo(&self) -> bool {
        false
    }

    fn begin_again(&mut self) {
        self.unseen = Some(self.held.keys().cloned().collect());
    }

    fn forget(&mut self) {
        *self = RecordsStore::default();
    }

    fn apply(&mut self, answer: &Value, is_at_end: bool) -> Next {
        for record in array(answer, "records") {
            let key = key_of(record);
            if let Some(unseen) = &mut self.unseen {
                unseen.remove(&key);
            }
            match held(record) {
                Some(held) => drop(self.held.insert(key, held)),
                None => drop(self.held.remove(&key)),
            }
        }
        let mut next = Next::GoOn;
        if let Some(spaces) = spaces_of(answer) {
            let old = self.spaces.replace(spaces.clone()).unwrap_or_default();
            let left: BTreeSet<String> = old.difference(&spaces).cloned().collect();
            // What is left of a record that also had changes in another space is only known to the server.
            let is_unknown = |held: &Held| !held.spaces.is_disjoint(&left) && !held.spaces.is_subset(&left);
            if self.held.values().any(is_unknown) {
                next = Next::BeginAgain;
            }
        }
        if let Some(spaces) = &self.spaces {
            let is_visible = |shown: &Shown| shown.space.as_ref().is_none_or(|space| spaces.contains(space));
            self.held.retain(|_, held| held.live.as_ref().is_none_or(is_visible));
        }
        if next == Next::GoOn && is_at_end {
            for key in self.unseen.take().into_iter().flatten() {
                self.held.remove(&key);
            }
        }
        next
    }

    fn shown(&self) -> Records {
        let live = self.held.iter().filter_map(|(key, held)| Some((key.clone(), held.live.clone()?)));
        live.collect()
    }
}

/// What the device holds of a record in an answer; `None` for a deleted record that cannot live again.
fn held(record: &Value) -> Option<Held> {
    let space = record.get("spaceId").map(|space| text(space).to_string());
    let others = record.get("otherSpaces").map_or(&[][..], |_| array(record, "otherSpaces"));
    let mut spaces: BTreeSet<String> = others.iter().map(|space| text(space).to_string()).collect();
    spaces.insert(space.clone().unwrap_or_default());
    if let Some(deleted_at) = record.get("deletedAt") {
        instant(text(deleted_at));
        assert!(record.get("data").is_none(), "a deleted record has no data: {record}");
        return (spaces.len() > 1).then_some(Held { live: None, spaces });
    }
    let object = |key: &str| record[key].as_object().unwrap_or_else(|| panic!("{key} is an object: {record}")).clone();
    let live = Shown {
        space,
        data: object("data"),
        times: object("fieldTimestamps"),
        updated_at: instant(text(&record["updatedAt"])),
    };
    Some(Held { live: Some(live), spaces })
}
