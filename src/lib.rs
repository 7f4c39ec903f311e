//! mana_sync: the change log of local-first apps, inside PostgreSQL.
//!
//! Devices push the changes they made and pull what changed since their cursor. The log is one table
//! under row-level security ([`sql/`](../sql)); the functions around it are here.
//!
//! | module | what it is responsible for |
//! |---|---|
//! | [`scope`]     | who is asking, and for which spaces |
//! | [`log`]       | writing a change: `record_change` |
//! | [`read`]      | reading rows: `changes_since` |
//! | [`push`]      | writing a changeset: `push` |
//! | [`pull`]      | reading in the wire format: `pull`, `sync` |
//! | [`wire`]      | the wire format |
//! | [`bounds`]    | what a change may be, so that whatever gets in comes out |
//! | [`merge`]     | the record that changes make: the aggregate `merge_changes` |
//! | [`records`]   | merged records: `records`, `record_history` |
//! | [`export`]    | everything that a user wrote: `export_changes` |
//! | [`maintenance`] | making the log smaller: `compact`, `purge_deleted`, `forget_user` |
//! | [`wakeup`]    | telling listeners that there is something to pull |
//! | [`snapshot`]  | the server's active snapshot, on a primary and on a standby |
//! | [`epoch`]     | which history of transaction ids the server is on |
//! | [`settings`]  | every setting |
//! | [`error`]     | every SQLSTATE |
//! | [`function`]  | glue: SQL functions in Rust, their arguments |
//! | [`statement`] | glue: prepared statements |
//! | [`jsonb`]     | glue: jsonb |
//! | [`json_text`] | JSON text, and how long a value is as text |
//! | [`number`]    | numbers as they are stored, and their text |
//! | [`table`]     | glue: tables without privileges |
//! | [`result`]    | glue: functions that return all their rows at once |
//! | [`memory`]    | glue: memory contexts |
//!
//! What a cursor means is in the crate `mana_sync_cursor`, what a merge is in `mana_sync_merge`; they know nothing of a server.

use pgrx::prelude::*;

#[cfg(feature = "pg_bench")]
mod benches;
mod bounds;
mod epoch;
mod error;
mod export;
mod function;
mod json_text;
mod jsonb;
mod log;
mod maintenance;
mod memory;
mod merge;
mod number;
mod pull;
mod push;
mod read;
mod records;
mod result;
mod scope;
mod settings;
mod snapshot;
mod statement;
mod table;
#[cfg(any(test, feature = "pg_test"))]
mod tests;
mod wakeup;
mod wire;

::pgrx::pg_module_magic!(name, version);

/// Called when a backend loads the library.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // A server that was started with RUST_BACKTRACE set would send a backtrace, with the build's paths,
    // to the client in the DETAIL of every error that passes through Rust: a unique violation, say.
    if std::env::var_os("RUST_LIB_BACKTRACE").is_none() {
        // SAFETY: a backend has one thread.
        unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
    }
    settings::register();
    epoch::register();
    wakeup::register();
}

// The install script: each file is one kind of object, and needs those before it.
pgrx::extension_sql_file!("../sql/schema.sql", name = "schema", bootstrap);
pgrx::extension_sql_file!("../sql/defaults.sql", name = "defaults", requires = ["schema"]);
pgrx::extension_sql_file!("../sql/tables.sql", name = "tables", requires = ["defaults"]);
pgrx::extension_sql_file!("../sql/policies.sql", name = "policies", requires = ["tables"]);
pgrx::extension_sql_file!("../sql/merge.sql", name = "merge", requires = ["policies"]);
pgrx::extension_sql_file!("../sql/functions.sql", name = "functions", requires = ["merge"]);
pgrx::extension_sql_file!("../sql/maintenance.sql", name = "maintenance", requires = ["functions"]);
pgrx::extension_sql_file!("../sql/grants.sql", name = "grants", requires = ["maintenance"], finalize);

/// Required by `cargo pgrx test`.
#[cfg(test)]
pub mod pg_test {
    /// Nothing to prepare.
    pub fn setup(_options: Vec<&str>) {}

    /// No settings beyond the defaults.
    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec![]
    }
}
