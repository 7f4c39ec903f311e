//! A safe interface to PostgreSQL's server API. It is the only module of this crate with unsafe code.
//!
//! The files are named after the parts of PostgreSQL that they wrap. Nothing in this module knows what a change log is.
//!
//! | module | what it wraps |
//! |---|---|
//! | [`fmgr`]       | the function manager: SQL functions written in Rust, aggregates, triggers |
//! | [`datum`]      | values, and the types that arrays and parameters are made of |
//! | [`memory`]     | memory contexts |
//! | [`heap`]       | rows: tuples and their descriptors; small tables read without SQL |
//! | [`spi`]        | the server programming interface: prepared statements |
//! | [`tuplestore`] | functions that return all their rows at once |
//! | [`jsonb`]      | jsonb, read in place |
//! | [`snapshot`]   | snapshots: which transactions a query sees |
//! | [`server`]     | the server's state: recovery, timeline, write-ahead log, clock |
//! | [`guc`]        | settings, and levels of settings |
//! | [`xact`]       | callbacks at the end of transactions and subtransactions |
//! | [`shmem`]      | shared memory and latches |
//! | [`worker`]     | background workers |
//! | [`versions`]   | where PostgreSQL's major versions differ, for the other files |
//!
//! Three rules hold for all of it:
//!
//! - **Lifetimes.** A [`datum::Datum`] and a [`heap::Row`] carry the lifetime of the memory that they point into: the
//!   lifetime of the call, of the SPI connection, or of one step of a loop. Every handle knows the memory context for
//!   detoasted copies, so that a copy lives as long as the value from which it was made.
//! - **Errors.** A PostgreSQL error passes through Rust frames as a panic, which drops their values, and is raised again at the boundary of
//!   the SQL function (`pgrx_extern_c_guard`). PostgreSQL then cleans up: it ends the SPI connection, pops snapshots, closes relations,
//!   resets settings and frees memory. A call that succeeds closes what it opened. So nothing here closes in `Drop`.
//! - **Threads.** A backend has one thread.

#![allow(unsafe_code)]

pub mod datum;
pub mod fmgr;
pub mod guc;
pub mod heap;
pub mod jsonb;
pub mod memory;
pub mod server;
pub mod shmem;
pub mod snapshot;
pub mod spi;
pub mod tuplestore;
mod versions;
pub mod worker;
pub mod xact;
