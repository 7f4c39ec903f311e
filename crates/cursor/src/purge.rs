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
use crate::history::{Of, View};
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
    fn until(&mut self) -> Option<i64>;
    /// The earliest `created_at` of all changes that purges have removed.
    fn from(&mut self) -> Option<i64>;
}

/// Whether a cursor's reader has got every delete that was purged, if it has got what the delete was of. `seen` is what
/// the cursor has seen, and `target` what its walk leads to; `None` is nothing, or nothing of a history of this server.
pub(crate) fn knows_what_was_purged(
    cursor: &Cursor,
    seen: Option<&View>,
    target: Option<&View>,
    purges: &mut impl Purges,
) -> bool {
    if cursor.purges == purges.mark() {
        return true;
    }
    match (&cursor.walk, target) {
        // It has come past all of them.
        (Some(walk), Some(target)) if has_walked_past_all(target, walk.last, purges) => true,
        (Some(walk), _) if !walk.joined.is_empty() => false,
        _ => seen.is_some_and(|seen| has_seen_all(seen, purges)),
    }
}

/// Whether a walk to a view has delivered all transactions whose deletes were purged: they are before its last row.
fn has_walked_past_all(target: &View, last: Position, purges: &mut impl Purges) -> bool {
    !purges.any_after(last.epoch) && !purges.any_from(last.epoch, last.xact) && has_seen_all(target, purges)
}

/// Whether a view has seen all transactions whose deletes were purged, to their ends.
fn has_seen_all(view: &View, purges: &mut impl Purges) -> bool {
    let (latest, snapshot) = (view.seen.epoch.number, &view.seen.snapshot);
    if purges.any_after(latest) {
        return false;
    }
    let unfinished = snapshot.unfinished();
    !view.epochs.iter().filter(|&&epoch| epoch <= latest).any(|&epoch| {
        let by_id = match view.of(epoch) {
            Of::Own => true,
            Of::Earlier(kin) => kin.is_some_and(|kin| kin.twin),
            Of::Later => false,
        };
        (by_id && purges.any_from(epoch, snapshot.xmax()))
            || unfinished.iter().any(|&xact| view.horizon(epoch, xact) != ALL && purges.contains(epoch, xact))
    })
}
