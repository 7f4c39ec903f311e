//! Purges of deletes, and which readers have to begin again after one.
//!
//! A purge removes old deletes from the log. A reader that holds a deleted record, but was not given the delete before
//! the purge, would hold the record for ever. So a cursor carries the mark of the latest purge at the time when it was
//! issued. If there has been another purge since, the cursor is valid only if it covers all deletes that were purged.
//! Otherwise the cursor is stale, and its reader has to begin again.
//!
//! The check compares the cursor with the set of transactions whose deletes were purged, and not with a single position
//! or time. So a transaction that stays open for long makes no cursor stale.
//!
//! A walk may read the whole log, or a space, from the beginning. Each page of such a walk shows the log without the
//! rows that are purged by then. So all its pages must carry the same mark, or the walk must already have passed every
//! delete that was purged meanwhile.

use crate::Position;
use crate::cursor::Cursor;
use crate::epoch::{EpochRelation, LocalCoverage};
use crate::id::{EpochNumber, PurgeMark, TransactionId};
use crate::snapshot::ALL;

/// Why a reader has to discard what it holds and read from the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resync {
    /// The cursor is from this server's own future: the server went back in time.
    Future,
    /// The cursor is stale: it does not cover a delete that was purged.
    Purged,
}

/// What the log remembers about its purges, read with the same snapshot as the rows.
pub trait Purges {
    /// The mark of the latest purge.
    fn mark(&mut self) -> PurgeMark;
    /// Whether a purged delete was written in an epoch after `epoch`.
    fn any_after(&mut self, epoch: EpochNumber) -> bool;
    /// Whether a purged delete was written in `epoch` by the transaction `xact` or one with a greater id.
    fn any_from(&mut self, epoch: EpochNumber, xact: TransactionId) -> bool;
    /// Whether a purged delete was written in `epoch` by the transaction `xact`.
    fn contains(&mut self, epoch: EpochNumber, xact: TransactionId) -> bool;
    /// The latest `created_at` of the deletes that were purged, in microseconds from 2000-01-01; `None` if none was
    /// purged.
    fn purged_until(&mut self) -> Option<i64>;
    /// The earliest `created_at` of all changes that purges have removed, in microseconds from 2000-01-01; `None` if
    /// none was removed.
    fn purged_from(&mut self) -> Option<i64>;
}

/// Whether the reader of a cursor has been given every purged delete of a record that it may hold.
///
/// `coverage` is the coverage of the cursor, and `target` is the target of its walk. Each is `None` if the cursor has
/// none, or if this server does not share its history.
pub(crate) fn has_every_purge(
    cursor: &Cursor,
    coverage: Option<&LocalCoverage>,
    target: Option<&LocalCoverage>,
    purges: &mut impl Purges,
) -> bool {
    if cursor.purges == purges.mark() {
        return true;
    }
    match (&cursor.walk, target) {
        (Some(walk), Some(target)) if is_past_all_purges(target, walk.last, purges) => true,
        (Some(walk), _) if !walk.joined.is_empty() => false,
        _ => coverage.is_some_and(|coverage| covers_all_purges(coverage, purges)),
    }
}

/// Whether a walk to `target` has passed every transaction whose deletes were purged. `last` is the position of the
/// last row that the walk has delivered.
fn is_past_all_purges(target: &LocalCoverage, last: Position, purges: &mut impl Purges) -> bool {
    !purges.any_after(last.epoch) && !purges.any_from(last.epoch, last.xact) && covers_all_purges(target, purges)
}

/// Whether a coverage has all rows of every transaction whose deletes were purged.
fn covers_all_purges(local: &LocalCoverage, purges: &mut impl Purges) -> bool {
    let (latest, snapshot) = (local.coverage.epoch.number, &local.coverage.snapshot);
    if purges.any_after(latest) {
        return false;
    }
    let in_progress = snapshot.in_progress();
    !local.epochs.iter().filter(|&&epoch| epoch <= latest).any(|&epoch| {
        let by_id = match local.relation(epoch) {
            EpochRelation::Same => true,
            EpochRelation::Earlier(earlier) => earlier.same_history,
            EpochRelation::Later | EpochRelation::OtherSystem => false,
        };
        (by_id && purges.any_from(epoch, snapshot.xmax()))
            || in_progress.iter().any(|&xact| local.covered_seq(epoch, xact) != ALL && purges.contains(epoch, xact))
    })
}
