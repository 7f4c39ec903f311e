//! The SQL functions, each in a file of its own or in one with functions that share its work. `sql/functions.sql` declares them.
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
//! The other SQL functions are in the module of their subject: `with_scope` and `may_write` in [`crate::scope`], `within_bounds` in
//! [`crate::bounds`], those of epochs in [`crate::epoch`], those of maintenance in [`crate::maintenance`], those of channels in
//! [`crate::wakeup`].

mod changes_since;
mod export_changes;
mod merge_changes;
mod pull;
pub mod push;
mod record_change;
mod records;
mod records_since;
