//! What a cursor holds.

use crate::Position;
use crate::epoch::{Coverage, Epoch};

/// Where a reader stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Hash of the user and app that it was issued to.
    pub reader: u64,
    /// What the reader has been given in full; nothing at the beginning.
    pub coverage: Option<Coverage>,
    /// Hashes of the spaces whose rows `seen` speaks of, ascending.
    pub spaces: Vec<u64>,
    /// Mark of the latest purge of deletes that the reader knows of ([`crate::resync::Purges::mark`]).
    pub purges: u64,
    /// A walk from `seen` to a later state that is not at its end yet.
    pub walk: Option<Walk>,
}

/// A page walk: its target is fixed, so that its pages fit together whatever commits meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// What the reader will have been given at the end.
    pub target: Coverage,
    /// The last row that was delivered.
    pub last: Position,
    /// Hashes of spaces that this walk reads from the beginning, ascending.
    pub joined: Vec<u64>,
    /// Hashes of spaces in `Cursor::spaces` that this walk does not read to its end, ascending.
    pub left: Vec<u64>,
    /// Hash of the table that the walk is limited to.
    pub table: u64,
    /// Only rows with `created_at` after this (microseconds of PostgreSQL's timestamps).
    pub after: Option<i64>,
}

impl Cursor {
    /// The epoch whose secret keys the hashes in the cursor; none when it holds none.
    pub fn key(&self) -> Option<Epoch> {
        self.coverage.as_ref().or(self.walk.as_ref().map(|walk| &walk.target)).map(|coverage| coverage.epoch)
    }

    /// The rows of an unfinished transaction that the cursor counts as seen, or will at the end of its
    /// walk: up to this `seq`; 0 for none.
    pub fn covered_seq(&self, epoch: u32, xact: u64) -> i64 {
        let states = self.coverage.iter().chain(self.walk.iter().map(|walk| &walk.target));
        states
            .filter(|coverage| coverage.epoch.number == epoch && coverage.new_history.is_none())
            .flat_map(|coverage| coverage.snapshot.partial())
            .filter(|(of, _)| *of == xact)
            .map(|&(_, seq)| seq)
            .max()
            .unwrap_or(0)
    }
}
