//! Field-level last write wins (LWW), without a server: the state of a record after its changes, and the changes that no reader
//! needs any more.
//!
//! | term | meaning |
//! |---|---|
//! | change    | a row of the log: an insert, an update or a delete of a record |
//! | write     | what a change does to one field; a change writes any number of fields, each at its own time |
//! | stamp     | the time of a write, then its position in the log: of two writes, the one with the greater stamp is the later one |
//! | record    | the state that all changes to one record id give together |
//! | history   | the list of the writes and deletes of a record, each with the value before it |
//! | group     | the changes to one record (app, table and record id) by one user in one space |
//! | overwritten | a write is overwritten if its group has a later write to the same field |
//! | deleted   | a write is deleted if its record has a delete that is not earlier |
//! | live      | a write is live if it is not deleted; a record is live if it was never deleted, or was inserted after its latest delete |
//! | to merge  | to compute a record from changes; merging does not depend on the order of the changes |
//! | to compact | to remove overwritten writes from the log |
//! | to purge  | to remove deletes from the log, together with the writes that they deleted |
//!
//! | module | responsibility |
//! |---|---|
//! | [`time`]    | instants, read from the timestamps of devices |
//! | [`change`]  | the writes of a change, and their stamps |
//! | [`record`]  | merging changes into a record |
//! | [`history`] | the history of a record |
//! | [`compact`] | which changes a compaction removes |
//! | [`purge`]   | which deletes a purge removes |

pub mod change;
pub mod compact;
pub mod history;
pub mod purge;
pub mod record;
pub mod time;
