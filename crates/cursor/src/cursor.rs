//! The content of a cursor.

use crate::Position;
use crate::epoch::{Coverage, Epoch};
use crate::id::{EpochNumber, KeyedHash, PurgeMark, TransactionId};

/// The state of a reader between two pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The hash of the user and the app that the cursor was issued to.
    pub reader: KeyedHash,
    /// The rows that the reader has been given in full. There are none at the beginning.
    pub coverage: Option<Coverage>,
    /// The hashes of the spaces that `coverage` holds for, ascending.
    pub spaces: Vec<KeyedHash>,
    /// The mark of the latest purge that the reader knows of ([`crate::resync::Purges::mark`]).
    pub purges: PurgeMark,
    /// A walk from `coverage` to a later coverage that has not reached its end.
    pub walk: Option<Walk>,
}

/// A walk over several pages. Its target is fixed, so that its pages fit together whatever commits meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The rows that the reader has been given at the end of the walk.
    pub target: Coverage,
    /// The position of the last row that was delivered.
    pub last: Position,
    /// The hashes of the spaces that this walk reads from the beginning, ascending.
    pub joined: Vec<KeyedHash>,
    /// The hashes of the spaces in [`Cursor::spaces`] that this walk does not read to its end, ascending.
    pub left: Vec<KeyedHash>,
    /// The hash of the table that the walk is limited to.
    pub table: KeyedHash,
    /// The walk has only rows with `created_at` after this time, in microseconds from 2000-01-01.
    pub created_after: Option<i64>,
    /// Whether the pages of the walk show records, and not changes.
    pub as_records: bool,
    /// Whether the reader may have held records when the walk began. A walk that began from a coverage always has such a
    /// reader; the flag tells it of a walk that began at the beginning of the log.
    pub may_hold_records: bool,
}

impl Cursor {
    /// The epoch whose secret is the key of the hashes in the cursor. An empty cursor has none.
    pub fn key(&self) -> Option<Epoch> {
        self.coverage.as_ref().or(self.walk.as_ref().map(|walk| &walk.target)).map(|coverage| coverage.epoch)
    }

    /// The last `seq` of a transaction in progress that the cursor names as covered, now or at the end of its
    /// walk. It is 0 if the cursor names no row of the transaction.
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
