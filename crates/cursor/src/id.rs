//! Newtypes for the numbers that the crate works with, so that no two kinds can be mixed up.
//!
//! Each type wraps one integer and has the memory layout of that integer, so the types cost nothing at run time.

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl From<$inner> for $name {
            fn from(value: $inner) -> $name {
                $name(value)
            }
        }
    };
}

number! {
    /// A 64-bit transaction id (PostgreSQL's `FullTransactionId`, `xid8` in SQL).
    ///
    /// Ids order transactions only within one history; see [`crate::epoch`].
    TransactionId(u64)
}

number! {
    /// A position in the write-ahead log (PostgreSQL's `XLogRecPtr`, `pg_lsn` in SQL).
    Lsn(u64)
}

number! {
    /// The number of an epoch, from 1. Rows carry the number of their epoch. A later epoch of the same log has a
    /// greater number.
    EpochNumber(u32)
}

number! {
    /// A timeline id of PostgreSQL, from 1. A promotion and a recovery to a point in time begin a new timeline.
    Timeline(u32)
}

number! {
    /// The system identifier that `initdb` gave the cluster. Copies and standbys of the cluster share it.
    SystemId(u64)
}

number! {
    /// The identity of a history of transaction ids: a 48-bit hash of where it began ([`crate::hash::history_id`]).
    HistoryId(u64)
}

number! {
    /// The fingerprint of an epoch: 48 bits that tell apart two epochs with the same number.
    Fingerprint(u64)
}

number! {
    /// A 48-bit hash with a secret key. In a cursor, such hashes stand for spaces, the reader, and the filter of a
    /// walk.
    KeyedHash(u64)
}

number! {
    /// The random mark of the latest purge of deletes; 0 before the first purge.
    PurgeMark(u64)
}

impl TransactionId {
    /// The greatest id. As an exclusive bound it means "no bound".
    pub const MAX: TransactionId = TransactionId(u64::MAX);

    /// The id after this one.
    pub const fn next(self) -> TransactionId {
        TransactionId(self.0.saturating_add(1))
    }
}

impl Lsn {
    /// No position, PostgreSQL's `InvalidXLogRecPtr`.
    pub const INVALID: Lsn = Lsn(0);

    /// Whether this is a valid position, and not [`Lsn::INVALID`].
    pub fn is_valid(self) -> bool {
        self != Lsn::INVALID
    }
}
