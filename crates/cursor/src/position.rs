//! The position of a row in the log.

use crate::id::{EpochNumber, TransactionId};

/// The position of a row in the log. Rows are delivered in ascending order of position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// The number of the epoch in which the row was written.
    pub epoch: EpochNumber,
    /// The id of the transaction that wrote the row.
    pub xact: TransactionId,
    /// The order within the transaction. A later row has a greater `seq`. The first row has a `seq` of at least 1.
    pub seq: i64,
}

impl Position {
    /// A position before every row.
    pub const START: Position = Position::new(0, 0, 0);
    /// A position after every row.
    pub const END: Position = Position::new(u32::MAX, u64::MAX, i64::MAX);

    /// Makes a position from the values of the columns `epoch`, `xact` and `seq`.
    pub const fn new(epoch: u32, xact: u64, seq: i64) -> Position {
        Position { epoch: EpochNumber(epoch), xact: TransactionId(xact), seq }
    }

    /// The position before every row of the transaction `xact` in `epoch`.
    pub const fn before(epoch: EpochNumber, xact: TransactionId) -> Position {
        Position { epoch, xact, seq: 0 }
    }

    /// The least position after this one.
    pub fn next(self) -> Position {
        Position { seq: self.seq.saturating_add(1), ..self }
    }
}
