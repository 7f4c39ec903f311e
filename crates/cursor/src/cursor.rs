//! The content of a cursor.

use crate::Position;
use crate::epoch::{Coverage, Epoch};
use crate::id::{EpochNumber, KeyedHash, PurgeMark, TransactionId};

/// The state of a reader between two pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The hash of the reader to whom the cursor was issued: a user in an app.
    pub reader: KeyedHash,
    /// The coverage that the reader has been given in full; `None` at the beginning of the log.
    pub coverage: Option<Coverage>,
    /// The hashes of the spaces for which `coverage` is valid, ascending.
    pub spaces: Vec<KeyedHash>,
    /// The mark of the latest purge that the reader knows of ([`crate::resync::Purges::mark`]).
    pub purges: PurgeMark,
    /// The unfinished walk from `coverage` to a later coverage, if there is one.
    pub walk: Option<Walk>,
}

/// A walk over several pages. Its target is fixed: whatever commits meanwhile, the pages together give exactly the rows of the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The coverage that the reader has at the end of the walk.
    pub target: Coverage,
    /// The position of the last row that was delivered.
    pub last: Position,
    /// The hashes of the spaces that joined: this walk reads them from the beginning of the log. Ascending.
    pub joined: Vec<KeyedHash>,
    /// The hashes of the spaces in [`Cursor::spaces`] that the reader left during the walk, ascending. The cursor at the end of the walk
    /// does not name them any more.
    pub left: Vec<KeyedHash>,
    /// The hash of the filter of the walk ([`crate::hash::Secret::filter`]): the table to which the walk is limited, and the client whose
    /// rows do not count.
    pub table: KeyedHash,
    /// The walk has only rows with `created_at` after this time, in microseconds from 2000-01-01; `None` for all rows.
    pub created_after: Option<i64>,
    /// Whether the pages of the walk show records, and not changes.
    pub as_records: bool,
    /// Whether the reader, when the walk began, may have held records of what the walk reads from the beginning: of the whole log, or of
    /// the spaces that joined.
    pub may_hold_records: bool,
    /// Whether a page of the walk was read with a coverage that this cursor had no room for. The rows of that page cannot be told from rows
    /// that were covered before the walk.
    pub base_is_cut: bool,
}

impl Cursor {
    /// The epoch whose secret is the key of the hashes in the cursor. An empty cursor has none.
    pub fn key(&self) -> Option<Epoch> {
        self.coverage.as_ref().or(self.walk.as_ref().map(|walk| &walk.target)).map(|coverage| coverage.epoch)
    }

    /// The greatest `seq` up to which the cursor names the rows of a partial transaction as covered, by its coverage or by the
    /// target of its walk. It is 0 if neither names the transaction as partial, even if the transaction had ended and is
    /// covered as a whole. A coverage of another epoch, or with a `new_history`, does not count.
    pub fn covered_seq(&self, epoch: EpochNumber, xact: TransactionId) -> i64 {
        let coverages = self.coverage.iter().chain(self.walk.iter().map(|walk| &walk.target));
        coverages
            .filter(|coverage| coverage.epoch.number == epoch && coverage.new_history.is_none())
            .flat_map(|coverage| coverage.snapshot.partial())
            .filter(|(partial, _)| *partial == xact)
            .map(|&(_, seq)| seq)
            .max()
            .unwrap_or(0)
    }
}
