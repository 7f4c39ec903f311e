//! The SQL functions, a file for each or for those that share their work. `sql/functions.sql` declares them.
//!
//! | file | functions |
//! |---|---|
//! | [`record_change`]  | `record_change`, and the defaults and constraints of the log: `uuidv7`, `is_change` |
//! | [`changes_since`]  | `changes_since` |
//! | [`records_since`]  | `records_since` |
//! | [`push`]           | `push` |
//! | [`pull`]           | `pull`, `sync` |
//! | [`records`]        | `records`, `record_history` |
//! | [`merge_changes`]  | the functions of the aggregate `merge_changes` |
//! | [`export_changes`] | `export_rows`, which `export_changes` selects from |
//!
//! Others are with what they are about: `with_scope` and `may_write` in [`crate::scope`], `within_bounds` in [`crate::bounds`], the
//! epochs' in [`crate::epoch`], those of maintenance in [`crate::maintenance`], the channels' in [`crate::wakeup`].

mod changes_since;
mod export_changes;
mod merge_changes;
mod pull;
pub mod push;
mod record_change;
mod records;
mod records_since;
