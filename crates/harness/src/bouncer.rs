//! PgBouncer in front of a cluster.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use postgres::{Client, NoTls};

use crate::Cluster;
use crate::process::{Beside, as_server_user, give_to_server, wait_until};

/// The port of PgBouncer's socket.
pub const PORT: u16 = 6432;

/// A PgBouncer in transaction mode in front of a cluster. All clients share its few connections to the server.
pub struct Bouncer {
    _process: Beside,
    dir: PathBuf,
}

impl Bouncer {
    /// Starts PgBouncer with at most `connections` connections to the server.
    pub fn new(cluster: &Cluster, program: &Path, connections: u32) -> Self {
        let dir = cluster.socket_dir().join("bouncer");
        fs::create_dir(&dir).unwrap();
        let config = format!(
            "[databases]\npostgres = host={0} port=5432 dbname=postgres\n[pgbouncer]\npool_mode = transaction\n\
             default_pool_size = {2}\nlisten_port = {PORT}\nunix_socket_dir = {1}\nauth_type = trust\n\
             auth_file = {1}/users\nlogfile = {1}/log\n",
            cluster.socket_dir().display(),
            dir.display(),
            connections
        );
        fs::write(dir.join("ini"), config).unwrap();
        fs::write(dir.join("users"), "\"app\" \"\"\n").unwrap();
        give_to_server(&dir);
        let process = Beside::start(program, |command| {
            as_server_user(command.arg(dir.join("ini")));
        });
        wait_until("PgBouncer listens", || UnixStream::connect(dir.join(format!(".s.PGSQL.{PORT}"))).is_ok());
        Self { _process: process, dir }
    }

    /// The connection string of PgBouncer, for libpq and tokio-postgres.
    pub fn url(&self) -> String {
        format!("host={} port={PORT} user=app dbname=postgres", self.dir.display())
    }

    /// Connects through PgBouncer, as the application's role.
    pub fn connect(&self) -> Client {
        Client::connect(&self.url(), NoTls).expect("PgBouncer takes a connection")
    }

    /// The directory of PgBouncer's socket; the port is [`PORT`].
    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }
}
