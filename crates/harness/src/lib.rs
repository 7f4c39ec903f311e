//! The harness of `mana_sync` on real servers, for the tests in `tests/servers` and the benchmarks in `bench`.
//!
//! - [`cluster`]: a private server: it is started, stopped, killed, connected to and removed
//! - [`standby`]: streaming standbys of a server
//! - [`process`]: PostgreSQL's programs, run as an unprivileged user
//! - [`bouncer`]: PgBouncer in front of a server
//! - [`device`]: a reader with its cursor and everything that it was given
//! - [`naive`]: readers with simpler cursors, which lose changes or make the reader wait
//! - [`merged`]: merged records, by the extension and by a simple implementation
//! - [`convergence`]: devices that know only the wire format, and the check that they end with the data of the server
//! - [`oracle`]: the changes that a device should have, computed in plain SQL, and the comparison with those that it
//!   was given
//! - [`original_device`]: a device of the service that the extension replaces; users still have such devices
//! - [`writers`]: transactions of every kind, and the changes that are known to be committed
//! - [`history`]: 18 years of a public repository's history as pushes
//! - [`http`]: the example of an HTTP front end, and devices that sync through it
//! - [`wire`]: removes what the server adds to the changes that devices send
//! - [`random`]: the seed of a run

pub mod bouncer;
pub mod cluster;
pub mod convergence;
pub mod device;
pub mod history;
pub mod http;
pub mod merged;
pub mod naive;
pub mod oracle;
pub mod original_device;
pub mod process;
pub mod random;
pub mod standby;
pub mod wire;
pub mod writers;

pub use cluster::{Cluster, Options};
pub use device::Device;
pub use oracle::{Delivered, Difference};
