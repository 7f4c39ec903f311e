//! Field-level last write wins, without a server: what a record looks like after its changes, in whatever
//! order they are seen, and which changes no reader needs any more.
//!
//! A change is an insert, an update or a delete of a record; it writes fields, each at a time. All comparisons
//! are of [`change::Stamp`]s: the time of the write, then its position in the log.
//!
//! | module | what it is responsible for |
//! |---|---|
//! | [`time`]    | instants, read from the clock formats of devices |
//! | [`change`]  | what a change writes, and when |
//! | [`record`]  | the merged record |
//! | [`story`]   | who changed which field, from what to what |
//! | [`compact`] | changes that were overwritten for every reader |
//! | [`purge`]   | deletes that are not needed any more |

pub mod change;
pub mod compact;
pub mod purge;
pub mod record;
pub mod story;
pub mod time;
