//! Deletes that were purged from the log, and who has to know.
//!
//! A reader that has a record, and has not seen the delete that was purged since, would keep the record for ever: the log does
//! not tell it any more. A cursor carries the mark of the latest purge when it was issued. Where there has been another
//! since, it is good only if it has seen all deletes that were purged. This is asked of the set of their transactions, not
//! of a horizon: one transaction that stays open for long makes no cursor too old.
//!
//! What a walk reads from the beginning, of everything or of a space that joined, it reads as the log is at each page. So
//! there all pages have to be of the same mark; or the walk has come past all that was purged since.

use crate::Position;
use crate::cursor::Cursor;
use crate::epoch::{EpochRelation, LocalCoverage};
use crate::snapshot::ALL;

/// What the log remembers of its purges, as one snapshot sees it with the rows.
pub trait Purges {
    /// A number that each purge changes; 0 before the first.
    fn mark(&mut self) -> u64;
    /// Whether a delete was purged that a transaction of a later epoch had written.
    fn any_after(&mut self, epoch: u32) -> bool;
    /// Whether one was of a transaction of this epoch, from an id on.
    fn any_from(&mut self, epoch: u32, xact: u64) -> bool;
    /// Whether one was of this transaction.
    fn contains(&mut self, epoch: u32, xact: u64) -> bool;
    /// The latest `created_at` of all of them.
    fn purged_until(&mut self) -> Option<i64>;
    /// The earliest `created_at` of all changes that purges have removed.
    fn purged_from(&mut self) -> Option<i64>;
}

/// Whether a cursor's reader has got every delete that was purged, if it has got what the delete was of. `seen` is what
/// the cursor has seen, and `target` what its walk leads to; `None` is nothing, or nothing of a history of this server.
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
        // It has come past all of them.
        (Some(walk), Some(target)) if is_past_all_purges(target, walk.last, purges) => true,
        (Some(walk), _) if !walk.joined.is_empty() => false,
        _ => coverage.is_some_and(|coverage| covers_all_purges(coverage, purges)),
    }
}

/// Whether a walk to a view has delivered all transactions whose deletes were purged: they are before its last row.
fn is_past_all_purges(target: &LocalCoverage, last: Position, purges: &mut impl Purges) -> bool {
    !purges.any_after(last.epoch) && !purges.any_from(last.epoch, last.xact) && covers_all_purges(target, purges)
}

/// Whether a view has seen all transactions whose deletes were purged, to their ends.
fn covers_all_purges(local: &LocalCoverage, purges: &mut impl Purges) -> bool {
    let (latest, snapshot) = (local.coverage.epoch.number, &local.coverage.snapshot);
    if purges.any_after(latest) {
        return false;
    }
    let in_progress = snapshot.in_progress();
    !local.epochs.iter().filter(|&&epoch| epoch <= latest).any(|&epoch| {
        let by_id = match local.relation(epoch) {
            EpochRelation::Same => true,
            EpochRelation::Earlier(earlier) => earlier.is_some_and(|earlier| earlier.same_history),
            EpochRelation::Later => false,
        };
        (by_id && purges.any_from(epoch, snapshot.xmax()))
            || in_progress.iter().any(|&xact| local.covered_seq(epoch, xact) != ALL && purges.contains(epoch, xact))
    })
}
