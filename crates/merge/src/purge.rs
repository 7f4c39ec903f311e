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
    /// Those that write anything.
    changes: Vec<Span>,
    deleted: Option<Stamp>,
}

/// A change.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// Its first write.
    first: Stamp,
    /// Its last write.
    last: Stamp,
    is_insert: bool,
    recorded_at: Time,
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
        if change.op == Op::Delete {
            self.deleted = self.deleted.max(Some(change.stamp()));
        }
        self.changes.extend(change.span().map(|(first, last)| Span {
            first,
            last,
            is_insert: change.op == Op::Insert,
            recorded_at: change.created_at,
        }));
    }

    /// Its latest delete, if that was made before a time (the clock of its device may be ahead), and all that goes with it
    /// recorded before: what came late may be sent once more.
    pub fn deleted_before(&self, time: Time) -> Option<Stamp> {
        let goes = self.changes.iter().filter(|span| Some(span.last) <= self.deleted);
        let is_old = self.deleted.is_some_and(|deleted| deleted.time < time);
        self.deleted.filter(|_| is_old && goes.into_iter().all(|span| span.recorded_at < time))
    }

    /// Which deletes it allows to go, its own and those of others, once it has all its changes.
    pub fn limit(&self) -> Limit {
        let (mut first, mut inserted) = (None::<Stamp>, false);
        for span in &self.changes {
            if Some(span.last) <= self.deleted {
                continue;
            }
            if Some(span.first) <= self.deleted {
                // Partly killed: without the delete, the rest would come back with it.
                return Limit::None;
            }
            first = Some(first.map_or(span.first, |first| first.min(span.first)));
            inserted |= span.is_insert;
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
