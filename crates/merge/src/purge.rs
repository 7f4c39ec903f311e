//! Decides which deletes a purge removes.
//!
//! A delete hides earlier writes of its record from a reader, including writes in other spaces and by other users. A
//! purge may remove the delete, together with the writes of the same group that it covers, if every reader sees the
//! same record without them. (A *group* is the changes to one record, app and table by one user in one space.) The
//! purge does not know of which spaces a reader is a member. It therefore considers all combinations, except that no
//! reader sees the private writes of two users.
//!
//! A purge of a delete *D* is allowed if each group that a reader of *D* may see meets one of two conditions:
//!
//! - The latest delete of the group covers all of its writes.
//! - All writes of the group that its latest delete does not cover are later than *D*, and one of them is an insert. The record is
//!   then live with and without *D*.

use crate::change::{Change, JsonObject, Op, Span, Stamp};
use crate::time::Time;

/// What a purge has to know about the changes of a group.
#[derive(Clone, Debug, Default)]
pub struct GroupSummary {
    /// The changes of the group. An update without fields has no stamp and is left out.
    changes: Vec<ChangeSummary>,
    /// The latest delete.
    deleted: Option<Stamp>,
}

/// What a purge has to know about a change.
#[derive(Clone, Copy, Debug)]
struct ChangeSummary {
    span: Span,
    is_insert: bool,
    created_at: Time,
}

/// The limit that a group sets for a purge. The purge may remove a delete, of this group or of another, only if the
/// limit allows it. A greater limit allows more deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PurgeLimit {
    /// No deletes.
    None,
    /// Only deletes before this stamp. It is the stamp of the group's first live write.
    Before(Stamp),
    /// All deletes, because the group has no live write.
    All,
}

impl PurgeLimit {
    /// Returns whether a purge may remove a delete with this stamp.
    pub fn allows(self, delete: Stamp) -> bool {
        match self {
            PurgeLimit::None => false,
            PurgeLimit::Before(first) => delete < first,
            PurgeLimit::All => true,
        }
    }
}

impl GroupSummary {
    /// Adds a change of the group.
    pub fn add<'a, O: JsonObject<'a>>(&mut self, change: &Change<O>) {
        if change.op == Op::Delete {
            self.deleted = self.deleted.max(Some(change.stamp()));
        }
        self.changes.extend(change.span().map(|span| ChangeSummary {
            span,
            is_insert: change.op == Op::Insert,
            created_at: change.created_at,
        }));
    }

    /// Returns the latest delete of the group if it is old enough to be purged; otherwise `None`.
    ///
    /// The delete is old enough if it was made before `created_before`, and if the delete and all changes that it covers were recorded
    /// before that time. A change that was recorded recently may be sent again by its device, and would bring the record back after the
    /// purge.
    pub fn delete_to_purge(&self, created_before: Time) -> Option<Stamp> {
        let mut covered = self.changes.iter().filter(|change| Some(change.span.last) <= self.deleted);
        // The clock of a device may be ahead, so the time of the delete is compared too.
        let is_old = self.deleted.is_some_and(|deleted| deleted.time < created_before);
        self.deleted.filter(|_| is_old && covered.all(|change| change.created_at < created_before))
    }

    /// Returns which deletes the group allows a purge to remove. All changes of the group must have been added before.
    pub fn limit(&self) -> PurgeLimit {
        let (mut first_live, mut has_live_insert) = (None::<Stamp>, false);
        for change in &self.changes {
            let Span { first, last } = change.span;
            if Some(last) <= self.deleted {
                continue;
            }
            if Some(first) <= self.deleted {
                // The delete covers some writes of this change, but not all. A purge would keep the change, and without
                // the delete the covered writes would come back.
                return PurgeLimit::None;
            }
            first_live = Some(first_live.map_or(first, |first_live| first_live.min(first)));
            has_live_insert |= change.is_insert;
        }
        match first_live {
            None => PurgeLimit::All,
            Some(first_live) if has_live_insert => PurgeLimit::Before(first_live),
            Some(_) => PurgeLimit::None,
        }
    }

    /// Returns whether the latest delete of the group covers a change: no write of the change is later than the delete. A purge that
    /// removes the delete also removes the changes that it covers.
    pub fn covers<'a, O: JsonObject<'a>>(&self, change: &Change<O>) -> bool {
        change.span().is_none_or(|span| Some(span.last) <= self.deleted)
    }
}
