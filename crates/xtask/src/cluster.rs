//! A private cluster in a temporary directory. It listens only on a socket, an unprivileged user runs it, and it is
//! removed at the end.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use duct::{Expression, cmd};
use mana_sync_processes::ServerDirectory;

use crate::interrupt;
use crate::postgres::PrivateCopy;
use crate::project::{Project, by_server_user, run_logged};

/// A cluster that runs. It is removed when this value is dropped, and when this process is killed.
pub struct Cluster<'a> {
    project: &'a Project,
    server: &'a PrivateCopy,
    directory: ServerDirectory,
}

impl<'a> Cluster<'a> {
    /// Starts a new cluster. `settings` are further lines of postgresql.conf.
    pub fn start(project: &'a Project, server: &'a PrivateCopy, settings: &[&str]) -> Result<Self> {
        let cluster = Self { project, server, directory: ServerDirectory::new() };
        // --no-locale: the same order and messages everywhere.
        let initdb = cmd!(
            server.program("initdb"),
            "--no-locale",
            "--no-sync",
            "--encoding=UTF8",
            "--auth=trust",
            "--username=postgres",
            "--pgdata",
            cluster.data()
        );
        run_logged(cluster.prepare(by_server_user(initdb)), &project.state("initdb.log"), "initdb failed")?;
        let mut file = fs::OpenOptions::new().append(true).open(cluster.data().join("postgresql.conf"))?;
        write!(file, "{}", cluster.configuration(settings))?;
        fs::set_permissions(cluster.path(), PermissionsExt::from_mode(0o755))?;

        let pg_ctl = server.program("pg_ctl");
        let start = cmd!(pg_ctl, "start", "--wait", "--timeout=60", "--log", cluster.log(), "--pgdata", cluster.data())
            // With RUST_BACKTRACE in its environment, the server would show a backtrace in the DETAIL of each error
            // that passes through Rust.
            .env_remove("RUST_BACKTRACE")
            .env_remove("RUST_LIB_BACKTRACE")
            // ^C must reach only this process, which then stops the server.
            .before_spawn(|command| {
                command.process_group(0);
                Ok(())
            })
            // The server would keep a pipe open.
            .stdin_null()
            .stdout_null()
            .stderr_null()
            .unchecked();
        if !cluster.prepare(by_server_user(start)).run()?.status.success() {
            eprint!("{}", fs::read_to_string(cluster.log()).unwrap_or_default());
            bail!("the private cluster did not start");
        }
        Ok(cluster)
    }

    fn configuration(&self, settings: &[&str]) -> String {
        format!(
            "listen_addresses = ''
unix_socket_directories = '{}'
unix_socket_permissions = 0777
port = 5432
fsync = off
wal_level = replica
max_prepared_transactions = 20
autovacuum_naptime = 10s
log_line_prefix = '%m [%p] %a '
{}
",
            self.path().display(),
            settings.join("\n")
        )
    }

    /// The directory of the cluster, which is also its PGHOST.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The data directory of the cluster.
    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// The path of the server's log.
    pub fn log(&self) -> PathBuf {
        self.path().join("log")
    }

    /// Sets the environment variables of a command by which clients find this cluster.
    pub fn prepare(&self, command: Expression) -> Expression {
        let command = command.env("PGHOST", self.path()).env("PGPORT", "5432").env("PGUSER", "postgres");
        self.project.prepare_for(Some(self.server), command.env("PGSSLMODE", "disable"))
    }

    /// Makes a command that runs psql with these options.
    pub fn psql<'b>(&self, database: &'b str, options: impl IntoIterator<Item = &'b str>) -> Expression {
        let psql = duct::cmd(self.server.program("psql"), ["-d", database].into_iter().chain(options));
        self.prepare(psql.env("PGCLIENTENCODING", "UTF8"))
    }

    /// Makes a command that runs psql for a script: psql reads no configuration, is quiet and stops at the first error.
    pub fn script<'b>(&self, database: &'b str, options: impl IntoIterator<Item = &'b str>) -> Expression {
        self.psql(database, ["-X", "-q", "-v", "ON_ERROR_STOP=1"].into_iter().chain(options))
    }

    /// Stops the server as a DBA would. Its files stay until this value is dropped.
    pub fn stop(&self) -> Result<()> {
        let stop = cmd!(self.server.program("pg_ctl"), "stop", "--mode=fast", "--wait", "--pgdata", self.data());
        self.prepare(by_server_user(stop)).stdout_null().run()?;
        Ok(())
    }

    /// Runs a command in the caller's directory, and returns the exit code of the command. Its environment names this
    /// cluster.
    pub fn run(&self, command: &[String]) -> Result<ExitCode> {
        let [program, arguments @ ..] = command else { bail!("no command is given") };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([self.server.bin.clone()].into_iter().chain(std::env::split_paths(&path)))?;
        // ^C is for the command.
        let _held = interrupt::hold();
        let command = duct::cmd(program, arguments).env("PATH", path).dir(std::env::current_dir()?);
        let status = self.prepare(command).unchecked().run()?.status;
        Ok(ExitCode::from(status.code().and_then(|code| code.try_into().ok()).unwrap_or(1)))
    }

    /// Leaves the cluster running, and returns its directory, which [`stop`] takes.
    pub fn keep(self) -> PathBuf {
        self.directory.keep()
    }
}

/// Stops a cluster that [`Cluster::keep`] left running, and removes its directory.
pub fn stop(directory: PathBuf) -> Result<()> {
    ensure!(directory.join("data").is_dir(), "{} is no cluster", directory.display());
    drop(ServerDirectory::watch(directory.canonicalize()?));
    Ok(())
}
