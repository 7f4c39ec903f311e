//! Deletes that are not needed any more.
//!
//! A delete keeps earlier writes of its record dead, also those in other spaces and by other users that a reader
//! sees. It can go together with the writes of its own group that it killed, if for every reader the record looks the
//! same without it. Nobody knows which spaces a reader is a member of, so that all combinations count, but for one:
//! nobody sees the private writes of two users. (What a *group* is, see [`crate::compact`].)
//!
//! For a delete *D*, every group that a reader of *D* may see must therefore have no write that its own latest delete does
//! not cover; or only writes later than *D*, an insert among them, so that the record lives with and without *D*.

use crate::change::{Change, Object, Op, Stamp};
use crate::time::Time;

/// The changes of a group, as they are read.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// First and last write of each change, and whether it is an insert.
    changes: Vec<(Stamp, Stamp, bool)>,
    deleted: Option<Stamp>,
    /// When the latest delete was recorded.
    recorded_at: Option<Time>,
}

/// Which deletes a group allows to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// None.
    None,
    /// Those before its first living write.
    Before(Stamp),
    /// All: it has no living write.
    All,
}

impl Limit {
    /// Whether a delete is below it.
    pub fn allows(self, delete: Stamp) -> bool {
        match self {
            Limit::None => false,
            Limit::Before(first) => delete < first,
            Limit::All => true,
        }
    }
}

impl Group {
    /// Takes a change of the group into account.
    pub fn add<'a, O: Object<'a>>(&mut self, change: &Change<O>) {
        if change.op == Op::Delete && self.deleted < Some(change.stamp()) {
            (self.deleted, self.recorded_at) = (Some(change.stamp()), Some(change.created_at));
        }
        let span = change.span();
        self.changes.extend(span.map(|(first, last)| (first, last, change.op == Op::Insert)));
    }

    /// Its latest delete, if that was recorded before a time, and made before it too: the clock of its device may be ahead.
    pub fn deleted_before(&self, time: Time) -> Option<Stamp> {
        self.deleted.filter(|deleted| self.recorded_at < Some(time) && deleted.time < time)
    }

    /// Which deletes it allows to go, its own and those of others, once it has all its changes.
    pub fn limit(&self) -> Limit {
        let (mut first, mut inserted) = (None::<Stamp>, false);
        for &(from, to, is_insert) in &self.changes {
            if Some(to) <= self.deleted {
                continue;
            }
            if Some(from) <= self.deleted {
                // Partly killed: without the delete, the rest would come back with it.
                return Limit::None;
            }
            first = Some(first.map_or(from, |first| first.min(from)));
            inserted |= is_insert;
        }
        match first {
            None => Limit::All,
            Some(first) if inserted => Limit::Before(first),
            Some(_) => Limit::None,
        }
    }

    /// Whether a change goes with the latest delete.
    pub fn covers<'a, O: Object<'a>>(&self, change: &Change<O>) -> bool {
        change.span().is_none_or(|(_, last)| Some(last) <= self.deleted)
    }
}
