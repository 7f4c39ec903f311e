//! A device that merges changes: the latest write of each field wins, by its time and then by its position.
//!
//! This implementation is written from the documents, and shares no code with `mana_sync_merge`.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::device::{Next, Store};
use super::{Key, Records, Shown, array, instant, key_of, spaces_of, text, to_micros};

/// What the device does when its user has left a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// The device drops what it has of the space. The user's own changes there are lost with it, but the server still
    /// counts them.
    Drop,
    /// The device drops what it has of the space. It pulls from the beginning if one of the dropped records has changes
    /// in another space too.
    BeginAgainIfElsewhere,
    /// The device drops what it has of the space, and pulls from the beginning if it has dropped anything.
    BeginAgain,
    /// The device drops what other users wrote in the space. The writers of this test name their user in `actor`, so
    /// that a device can tell them apart.
    KeepOwn,
}

/// How the device orders changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The device orders changes by the time that counts, and then by the position in the log.
    TimeAndPosition,
    /// The device orders changes by time alone; of changes with equal times, the last to arrive wins. The device takes
    /// its own clock for its own writes, and ignores the times that the server gave them.
    OwnClock,
}

/// The data on a device that merges changes.
pub struct ChangesStore {
    user: String,
    leaving: Leaving,
    order: Order,
    /// The spaces that the server listed last; `None` if it has listed none.
    spaces: Option<BTreeSet<String>>,
    states: States,
    /// In a walk from the beginning after a space was left, what the walk has brought so far. It replaces `states` at
    /// the end of the walk.
    fresh: Option<States>,
    /// The number of changes that have arrived.
    arrived: u64,
}

type States = BTreeMap<Key, BTreeMap<Part, State>>;

/// The changes of a record that a reader gets or loses together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    /// The space; '' for private changes.
    space: String,
    /// Whether the changes are the user's own; false if the device does not tell them apart.
    is_own: bool,
}

/// The order of writes: the time, then the position.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp {
    time: DateTime<Utc>,
    position: String,
}

/// The winning writes of a part.
#[derive(Clone, Debug, Default)]
struct State {
    fields: BTreeMap<String, Field>,
    inserted: Option<Stamp>,
    deleted: Option<Stamp>,
    latest: Option<Stamp>,
}

#[derive(Clone, Debug)]
struct Field {
    stamp: Stamp,
    at: String,
    value: Value,
}

impl State {
    fn apply(&mut self, change: &Value, position: &str) {
        let stamp = |at: &str| Stamp { time: instant(at), position: position.into() };
        match text(&change["op"]) {
            "insert" => {
                let at = text(&change["at"]);
                self.inserted = self.inserted.take().max(Some(stamp(at)));
                self.latest = self.latest.take().max(Some(stamp(at)));
                for (name, value) in change.get("data").and_then(Value::as_object).into_iter().flatten() {
                    let own = change.get("fieldTimestamps").and_then(|times| times.get(name));
                    let at = own.map_or(at, text);
                    self.write(name, value, at, stamp(at));
                }
            }
            "update" => {
                for (name, field) in change["fields"].as_object().expect("an update has fields") {
                    let at = text(&field["at"]);
                    self.write(name, &field["value"], at, stamp(at));
                }
            }
            "delete" => {
                let stamp = stamp(text(&change["deletedAt"]));
                self.deleted = self.deleted.take().max(Some(stamp.clone()));
                self.latest = self.latest.take().max(Some(stamp));
            }
            op => panic!("an unknown op {op}"),
        }
    }

    fn write(&mut self, name: &str, value: &Value, at: &str, stamp: Stamp) {
        self.latest = self.latest.take().max(Some(stamp.clone()));
        if self.fields.get(name).is_none_or(|field| field.stamp < stamp) {
            self.fields.insert(name.into(), Field { stamp, at: at.into(), value: value.clone() });
        }
    }
}

/// Merges the parts of a record into the record; `None` if it is not live.
fn merge(parts: &BTreeMap<Part, State>) -> Option<Shown> {
    let deleted = parts.values().filter_map(|state| state.deleted.as_ref()).max();
    let inserted = parts.values().filter_map(|state| state.inserted.as_ref()).max();
    let (latest, part) = parts.iter().filter_map(|(part, state)| Some((state.latest.as_ref()?, part))).max()?;
    if deleted.is_some() && inserted <= deleted {
        return None;
    }
    let mut fields: BTreeMap<&String, &Field> = BTreeMap::new();
    for (name, field) in parts.values().flat_map(|state| &state.fields) {
        let wins = fields.get(name).is_none_or(|other| other.stamp < field.stamp);
        if Some(&field.stamp) > deleted && wins {
            fields.insert(name, field);
        }
    }
    Some(Shown {
        space: Some(part.space.clone()).filter(|space| !space.is_empty()),
        data: fields.iter().map(|(name, field)| (name.to_string(), field.value.clone())).collect(),
        times: fields.iter().map(|(name, field)| (name.to_string(), field.at.clone().into())).collect(),
        updated_at: to_micros(latest.time),
    })
}

impl ChangesStore {
    /// Makes an empty store for a device of `user`.
    pub fn new(user: &str, leaving: Leaving, order: Order) -> ChangesStore {
        let states = States::new();
        ChangesStore { user: user.into(), leaving, order, spaces: None, states, fresh: None, arrived: 0 }
    }

    fn add(&mut self, change: &Value) {
        self.arrived += 1;
        let position = match self.order {
            Order::TimeAndPosition => text(&change["position"]).to_string(),
            Order::OwnClock => format!("{:020}", self.arrived),
        };
        let space = change.get("spaceId").map(text).unwrap_or_default().to_string();
        let is_own = self.leaving == Leaving::KeepOwn && change["actor"]["user"] == Value::String(self.user.clone());
        let states = self.fresh.as_mut().unwrap_or(&mut self.states);
        let parts = states.entry(key_of(change)).or_default();
        parts.entry(Part { space, is_own }).or_default().apply(change, &position);
    }
}

/// How much was removed of some records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Removed {
    /// Nothing was removed.
    #[default]
    Nothing,
    /// Only whole records were removed.
    Whole,
    /// At least one record lost some of its parts and kept others.
    Parts,
}

/// Removes the parts for which `is_left` is true.
fn remove(states: &mut States, is_left: impl Fn(&Part) -> bool) -> Removed {
    let mut removed = Removed::Nothing;
    for parts in states.values_mut() {
        let before = parts.len();
        parts.retain(|part, _| !is_left(part));
        removed = removed.max(match parts.len() {
            after if after == before => Removed::Nothing,
            0 => Removed::Whole,
            _ => Removed::Parts,
        });
    }
    states.retain(|_, parts| !parts.is_empty());
    removed
}

impl Store for ChangesStore {
    fn as_records(&self) -> bool {
        false
    }

    fn wants_echo(&self) -> bool {
        self.order == Order::TimeAndPosition
    }

    fn note_own(&mut self, change: &Value) {
        if self.order != Order::OwnClock {
            return;
        }
        let mut change = change.clone();
        let now = Utc::now().to_rfc3339();
        match text(&change["op"]) {
            "insert" if change.get("at").is_none() => change["at"] = now.into(),
            "delete" if change.get("deletedAt").is_none() => change["deletedAt"] = now.into(),
            "update" => {
                for (_, field) in change["fields"].as_object_mut().expect("fields") {
                    if field.get("at").is_none() {
                        field["at"] = now.clone().into();
                    }
                }
            }
            _ => {}
        }
        if change.get("spaceId").is_none() {
            let space = self.shown().get(&key_of(&change)).and_then(|shown| shown.space.clone());
            change["spaceId"] = space.unwrap_or_default().into();
        }
        self.add(&change);
    }

    fn begin_again(&mut self) {
        self.fresh = Some(States::new());
    }

    fn forget(&mut self) {
        (self.states, self.fresh, self.spaces) = (States::new(), None, None);
    }

    fn apply(&mut self, answer: &Value, is_at_end: bool) -> Next {
        array(answer, "serverChanges").iter().for_each(|change| self.add(change));
        if let Some(spaces) = spaces_of(answer) {
            let old = self.spaces.replace(spaces.clone()).unwrap_or_default();
            let left: BTreeSet<String> = old.difference(&spaces).cloned().collect();
            let is_left = |part: &Part| left.contains(&part.space) && !part.is_own;
            let fresh = self.fresh.as_mut().map(|fresh| remove(fresh, is_left)).unwrap_or_default();
            let removed = remove(&mut self.states, is_left).max(fresh);
            let begins_again = match self.leaving {
                Leaving::BeginAgain => removed >= Removed::Whole,
                Leaving::BeginAgainIfElsewhere => removed == Removed::Parts,
                Leaving::Drop | Leaving::KeepOwn => false,
            };
            if begins_again {
                return Next::BeginAgain;
            }
        }
        if is_at_end {
            if let Some(fresh) = self.fresh.take() {
                self.states = fresh;
            }
        }
        Next::GoOn
    }

    fn shown(&self) -> Records {
        let is_visible = |shown: &Shown| match (&shown.space, &self.spaces) {
            (Some(space), Some(spaces)) => spaces.contains(space),
            _ => true,
        };
        let shown = self.states.iter().filter_map(|(key, parts)| Some((key.clone(), merge(parts)?)));
        shown.filter(|(_, shown)| is_visible(shown)).collect()
    }
}
