//! The cursor algebra of mana_sync, without a server.
//!
//! A cursor is a PostgreSQL snapshot: "what changed since" is then exact by definition, the rows
//! visible now that were not visible then. Nothing here knows of SQL or of pgrx, so that the
//! algebra can be tested against plain sets of transactions.
//!
//! | module | what it is responsible for |
//! |---|---|
//! | [`snapshot`] | which transactions of one history of ids a reader has seen |
//! | [`history`]  | epochs: which history a snapshot belongs to, and what a server knows of it |
//! | [`keyed`]    | short keyed hashes of spaces and readers |
//! | [`cursor`]   | what a cursor holds |
//! | [`text`]     | the text form of a cursor, whose order is the order of age |
//! | [`plan`]     | where in the log the rows of a walk can be |
//! | [`merge`]    | reading the parts of the log there, together and in order |
//! | [`purge`]    | deletes that were purged, and who has to know |
//! | [`walk`]     | a page of changes: from a cursor to the next |

pub mod codec;
pub mod cursor;
pub mod epoch;
pub mod hash;
pub mod page;
pub mod plan;
pub mod resync;
pub mod scan;
pub mod snapshot;

/// Where a row stands in the log. Rows are delivered in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Number of the epoch that `xact` belongs to.
    pub epoch: u32,
    /// The writing transaction's 64-bit id.
    pub xact: u64,
    /// Order within the transaction; greater for a later row.
    pub seq: i64,
}

impl Position {
    /// Before every row.
    pub const START: Position = Position::new(0, 0, 0);
    /// After every row.
    pub const END: Position = Position::new(u32::MAX, u64::MAX, i64::MAX);

    /// A position of three parts.
    pub const fn new(epoch: u32, xact: u64, seq: i64) -> Position {
        Position { epoch, xact, seq }
    }

    /// The least position after this one.
    pub fn next(self) -> Position {
        Position { seq: self.seq.saturating_add(1), ..self }
    }
}
