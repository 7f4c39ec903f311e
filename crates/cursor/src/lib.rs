//! The cursor algebra of mana_sync, without a server.
//!
//! A cursor contains a PostgreSQL snapshot. So "what changed since" is exact by definition: the rows that
//! are visible now and were not visible then. Nothing here knows SQL or pgrx, so the algebra can be tested
//! against plain sets of transactions.
//!
//! | module | what it is responsible for |
//! |---|---|
//! | [`id`]       | the newtypes: transaction ids, positions in the write-ahead log, hashes |
//! | [`snapshot`] | which transactions of one history a reader has been given |
//! | [`epoch`]    | epochs: which history a snapshot belongs to, and what a server knows about it |
//! | [`hash`]     | short keyed hashes of spaces and readers |
//! | [`cursor`]   | the content of a cursor |
//! | [`codec`]    | the text form of a cursor, whose order is the order of age |
//! | [`plan`]     | which ranges of the log can have rows of a walk |
//! | [`scan`]     | reading these ranges from several streams, merged in order |
//! | [`resync`]   | purges of deletes, and which readers have to begin again |
//! | [`page`]     | a page of changes: from a cursor to the next |
//!
//! # Glossary
//!
//! | term | meaning |
//! |---|---|
//! | change | An insert, update or delete of one record by one user; a row of the log. |
//! | record | What an application stores under one table name and record id; it is the result of merging its changes. |
//! | space | A set of changes that several users share, known by an id. |
//! | scope | The user who asks and the spaces that the user may read; it decides which rows a pull may return. |
//! | reader | A user in an app; a cursor is issued to one reader. |
//! | log | The append-only table of changes, ordered by position. |
//! | position | The place of a row in the log: epoch number, transaction id, and `seq` within the transaction. |
//! | transaction id | PostgreSQL's 64-bit id of a transaction, which orders transactions only within one history. |
//! | history | An uninterrupted sequence of transaction ids; a failover that loses a tail of the write-ahead log, or a restore, begins another. |
//! | timeline | PostgreSQL's number for a branch of the write-ahead log. |
//! | epoch | A history, or a part of a history, on which the log was written. Rows carry its number. |
//! | fingerprint | Random bits of an epoch, which tell apart two epochs with the same number. |
//! | secret | The key of an epoch. The hashes in cursors are made with it. |
//! | snapshot | The transactions that had ended at one moment, and the partial transactions. |
//! | open transaction | A transaction below a snapshot's `xmax` that had not ended; the snapshot names it. |
//! | partial transaction | A transaction in progress, the reader's own, whose rows up to a `seq` are covered. |
//! | late commit | A commit of a transaction that was open when the reader last pulled; its rows have old positions. |
//! | coverage | A set of rows of the log: the rows of one epoch that a snapshot covers, and the rows of earlier epochs. |
//! | cursor | The state of a reader between two pages: a coverage, the spaces that the coverage is valid for, and a walk. |
//! | page | The rows that one pull returns, and the next cursor. |
//! | walk | A pull of several pages with a fixed target. A reader or cursor without a walk is at rest. |
//! | target | The coverage that a reader has at the end of a walk. |
//! | stream | The reader's own rows, or the rows of one space, in the order of the log. |
//! | probe | A fetch that only asks where the next rows of a stream are. |
//! | purge | The removal of old deletes from the log, together with what they deleted. |
//! | stale | A cursor is stale if it does not cover a delete that was purged. |
//! | resync | A reader discards what it holds and reads from the beginning. |
//! | standby | A server that replays the write-ahead log of a primary, and may be behind it. |

pub mod codec;
pub mod cursor;
pub mod epoch;
pub mod hash;
pub mod id;
pub mod page;
pub mod plan;
mod position;
pub mod postgres;
pub mod resync;
pub mod scan;
pub mod snapshot;

pub use position::Position;
