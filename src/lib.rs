//! mana_sync: the change log of local-first apps, inside PostgreSQL.
//!
//! Devices push the changes they made and pull what changed since their cursor. The log is one table under row-level security
//! ([`sql/`](../sql)). This crate has the functions that read and write it.
//!
//! | module | what it is responsible for |
//! |---|---|
//! | [`api`]       | the SQL functions that read and write the log |
//! | [`page`]      | reading a page of the log |
//! | [`wire`]      | the wire format |
//! | [`maintenance`] | making the log smaller: `compact`, `purge_deleted`, `forget_user`; `adopt`, which takes over a log of the original store |
//! | [`wakeup`]    | telling listeners that there is something to pull |
//! | [`call`]      | what a call opens and closes: scope, planner settings, connection, snapshot |
//! | [`row`]       | a row of the log and its columns |
//! | [`merged`]    | a record while changes are merged into it |
//! | [`bounds`]    | the limits of a change, so that every reader can be sent it |
//! | [`scope`]     | who asks, and for which spaces |
//! | [`epoch`]     | which history of transaction ids the server is on |
//! | [`settings`]  | every setting |
//! | [`json`]      | JSON text, and the numbers in it |
//! | [`pg`]        | a safe interface to PostgreSQL's server API |
//! | [`error`]     | every SQLSTATE |
//!
//! Two crates of the workspace need no server: `mana_sync_cursor` (what a cursor means) and `mana_sync_merge` (what a record is after its
//! changes). ARCHITECTURE.md has the picture, the invariants and the decisions.

use pgrx::prelude::*;

mod api;
#[cfg(feature = "pg_bench")]
mod benches;
mod bounds;
mod call;
mod epoch;
mod error;
mod json;
mod maintenance;
mod merged;
mod page;
mod pg;
mod row;
mod scope;
mod settings;
#[cfg(any(test, feature = "pg_test"))]
mod tests;
mod wakeup;
mod wire;

::pgrx::pg_module_magic!(name, version);

/// Registers settings and callbacks. PostgreSQL calls it when a process loads the library.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::server::hide_backtraces();
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
pgrx::extension_sql_file!("../sql/adoption.sql", name = "adoption", requires = ["maintenance"]);
pgrx::extension_sql_file!("../sql/grants.sql", name = "grants", requires = ["adoption"], finalize);

/// Required by `cargo pgrx test`.
#[cfg(test)]
pub mod pg_test {
    /// Does nothing: the tests need no preparation.
    pub fn setup(_options: Vec<&str>) {}

    /// Returns no settings: the tests run with the defaults.
    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec![]
    }
}
