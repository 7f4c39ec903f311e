//! Decides which changes a compaction removes.
//!
//! A *group* is the changes to one record, app and table by one user in one space. A reader who sees one change of a group sees all of
//! them: the readers are the user, and the members of the space. An overwritten write of a group therefore makes no difference to any
//! reader, whatever the reader has received before: a reader that has not received the later write will receive it. The writes of different
//! groups are not compared, because a reader may see one group and not the other.
//!
//! A compaction keeps the latest insert of a group, because the time of this insert decides whether the record is live. It also keeps the
//! field that holds this time.

use crate::change::{Change, JsonObject, Op, Stamp};
use std::collections::HashMap;

/// The latest insert of a group of changes, and the latest write of each field in the group.
#[derive(Clone, Debug, Default)]
pub struct LatestWrites {
    fields: HashMap<Box<[u8]>, Stamp>,
    inserted: Option<Stamp>,
    may_have_overwritten: bool,
}

/// What a compaction does with a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Keeps the change as it is.
    Keep,
    /// Removes these fields from the change.
    Trim(Vec<&'a [u8]>),
    /// Removes the change.
    Remove,
}

impl LatestWrites {
    /// Adds a change of the group.
    pub fn add<'a, O: JsonObject<'a>>(&mut self, change: &Change<O>) {
        if change.op == Op::Insert {
            self.may_have_overwritten |= self.inserted.is_some();
            self.inserted = self.inserted.max(Some(change.stamp()));
        }
        for write in change.writes() {
            match self.fields.get_mut(write.name) {
                Some(latest) => {
                    self.may_have_overwritten = true;
                    *latest = write.stamp.max(*latest);
                }
                None => {
                    self.fields.insert(write.name.into(), write.stamp);
                }
            }
        }
    }

    /// Returns whether some write of the group may be overwritten. If false, every change is kept, and [`LatestWrites::action`] need not be
    /// called.
    pub fn may_have_overwritten(&self) -> bool {
        self.may_have_overwritten
    }

    /// Returns what a compaction does with a change of the group. All changes of the group must have been added before.
    /// `has_non_object_data` is true if the change's `data` is JSON but not an object: such data has no fields, and is kept.
    pub fn action<'a, O: JsonObject<'a>>(&self, change: &Change<O>, has_non_object_data: bool) -> Action<'a> {
        // Only a purge removes deletes.
        if change.op == Op::Delete || has_non_object_data {
            return Action::Keep;
        }
        let is_latest_insert = change.op == Op::Insert && self.inserted == Some(change.stamp());
        let (mut overwritten, mut is_needed) = (Vec::new(), is_latest_insert);
        let mut field_count = 0;
        for write in change.writes() {
            field_count += 1;
            match self.fields.get(write.name) {
                Some(latest) if *latest > write.stamp => overwritten.push(write.name),
                _ => is_needed = true,
            }
        }
        if !is_needed && (field_count > 0 || change.op == Op::Insert) {
            return Action::Remove;
        }
        let time_key = change.time_key().map(str::as_bytes);
        overwritten.retain(|name| Some(*name) != time_key);
        if overwritten.is_empty() { Action::Keep } else { Action::Trim(overwritten) }
    }
}
