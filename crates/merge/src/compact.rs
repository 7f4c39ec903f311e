//! Changes that were overwritten for every reader.
//!
//! Who sees one change of a user in a space, of an app, table and record sees all of them: the user, and the members of
//! the space. Changes that agree in these five are a *group*. Within it, a write of a field that is not the latest makes no
//! difference to anybody, whatever a reader has seen before: if it has not seen the latest, that is still to come.
//! Across groups nothing is dead: somebody may see the one and not the other.
//!
//! The time of an insert decides whether the record lives, so that the latest insert stays; and it is read from one
//! of its fields, so that this field stays too.

use crate::change::{Change, Object, Op, Stamp};
use std::collections::HashMap;

/// The latest writes of a group.
#[derive(Clone, Debug, Default)]
pub struct Winners {
    fields: HashMap<Box<[u8]>, Stamp>,
    inserted: Option<Stamp>,
    /// Whether anything was overwritten.
    any_lost: bool,
}

/// What becomes of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// All of it lives.
    Keep,
    /// These fields are dead.
    Trim(Vec<&'a [u8]>),
    /// All of it is dead.
    Remove,
}

impl Winners {
    /// Takes a change of the group into account.
    pub fn add<'a, O: Object<'a>>(&mut self, change: &Change<O>) {
        if change.op == Op::Insert {
            self.any_lost |= self.inserted.is_some();
            self.inserted = self.inserted.max(Some(change.stamp()));
        }
        for write in change.writes() {
            match self.fields.get_mut(write.name) {
                Some(latest) => {
                    self.any_lost = true;
                    *latest = write.stamp.max(*latest);
                }
                None => {
                    self.fields.insert(write.name.into(), write.stamp);
                }
            }
        }
    }

    /// Whether any change of the group may have lost something.
    pub fn any_lost(&self) -> bool {
        self.any_lost
    }

    /// What becomes of a change of the group, all of whose changes have been added. `has_other_data` is for one whose
    /// `data` is JSON, but no object: that is nobody's field.
    pub fn verdict<'a, O: Object<'a>>(&self, change: &Change<O>, has_other_data: bool) -> Verdict<'a> {
        // Deletes stay until a purge.
        if change.op == Op::Delete || has_other_data {
            return Verdict::Keep;
        }
        let (mut dead, mut lives) = (Vec::new(), change.op == Op::Insert && self.inserted == Some(change.stamp()));
        let mut fields = 0;
        for write in change.writes() {
            fields += 1;
            match self.fields.get(write.name) {
                Some(latest) if *latest > write.stamp => dead.push(write.name),
                _ => lives = true,
            }
        }
        if !lives && (fields > 0 || change.op == Op::Insert) {
            return Verdict::Remove;
        }
        let time_key = change.time_key().map(str::as_bytes);
        dead.retain(|name| Some(*name) != time_key);
        if dead.is_empty() { Verdict::Keep } else { Verdict::Trim(dead) }
    }
}
