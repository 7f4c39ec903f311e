//! A private server in a temporary directory. It listens only on a unix socket.
//!
//! The server is stopped and removed when the [`Cluster`] is dropped, also after a panic. If the test itself is killed,
//! a watchdog process stops and removes the server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mana_sync_processes::ServerDirectory;
use postgres::{Client, Config, NoTls};

use crate::process::{
    Signal, children, command, give_to_server, is_alive, program, run, server_command, signal, wait_until,
};

/// The name of the application's role, which is not a superuser.
pub const APP_ROLE: &str = "app";
/// The database that every cluster has.
pub const DATABASE: &str = "postgres";

/// How a server is set up.
#[derive(Clone, Default)]
pub struct Options {
    /// Whether commits are flushed to disk. Tests of crashes need it.
    pub fsync: bool,
    /// Further settings in `postgresql.conf`. If a setting occurs twice, the later value counts.
    pub settings: Vec<(String, String)>,
}

impl Options {
    /// Switches `fsync` on.
    pub fn durable(mut self) -> Self {
        self.fsync = true;
        self
    }

    /// Adds a setting.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }
}

/// A server, primary or standby.
pub struct Cluster {
    name: String,
    dir: ServerDirectory,
    /// The directory of the server's programs; `None` if it has the programs of the other servers.
    bin: Option<PathBuf>,
}

impl Cluster {
    /// Starts a primary with an empty database.
    pub fn new(options: Options) -> Self {
        Self::of(None, options)
    }

    /// Does the same as [`Cluster::new`], with the server whose programs are in `bin`, if it is given.
    fn of(bin: Option<PathBuf>, options: Options) -> Self {
        let mut cluster = Self::empty("primary");
        cluster.bin = bin;
        let mut initdb = cluster.command("initdb");
        initdb
            .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(cluster.data());
        run(&mut initdb).unwrap_or_else(|error| panic!("{error}"));
        let mut lines = vec![
            ("listen_addresses", ""),
            ("fsync", if options.fsync { "on" } else { "off" }),
            ("wal_level", "replica"),
            ("max_wal_senders", "8"),
            ("max_connections", "60"),
            ("max_prepared_transactions", "20"),
            ("shared_buffers", "64MB"),
            ("max_wal_size", "1GB"),
            ("hot_standby", "on"),
            ("wal_retrieve_retry_interval", "100ms"),
            // Replay waits for a query that conflicts with it, and does not cancel the query. A waiting replay shows
            // more about the conflict than a cancelled query.
            ("max_standby_streaming_delay", "-1"),
            ("log_line_prefix", "%m [%p] %x "),
        ];
        lines.extend(options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        cluster.configure(&lines);
        cluster.start();
        cluster
    }

    /// Starts a primary with the extension in [`DATABASE`] and the role [`APP_ROLE`].
    pub fn with_log(options: Options) -> Self {
        Self::with_log_of(None, options)
    }

    /// Does the same as [`Cluster::with_log`], with the server whose programs are in `bin`, if it is given.
    pub fn with_log_of(bin: Option<PathBuf>, options: Options) -> Self {
        let cluster = Self::of(bin, options);
        cluster.create_log();
        cluster
    }

    /// Makes a directory for a server that does not exist yet. A watchdog removes the directory if the test is killed.
    pub(crate) fn empty(name: &str) -> Self {
        Self { name: name.into(), dir: ServerDirectory::new(), bin: None }
    }

    /// `primary`, or the name that a standby was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of the socket. Clients pass it as the host.
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The content of the server's log file so far.
    pub fn server_log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Appends settings to `postgresql.conf`. If a setting occurs twice, the later value counts. A running server reads
    /// the settings at [`Cluster::reload`].
    pub fn configure(&self, settings: &[(&str, &str)]) {
        let path = self.data().join("postgresql.conf");
        let mut text = fs::read_to_string(&path).expect("postgresql.conf is readable");
        for (name, value) in settings {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        fs::write(&path, text).expect("postgresql.conf is writable");
    }

    /// Makes the server read its configuration again. Backends apply it a moment later.
    pub fn reload(&self) {
        signal(Signal::SIGHUP, &[self.postmaster().expect("the server runs")]);
    }

    /// Starts the server and waits until it takes connections.
    pub fn start(&self) {
        self.start_with("");
    }

    /// Starts the server with more options for `postgres`.
    pub fn start_with(&self, options: &str) {
        let mut pg_ctl = self.pg_ctl("start");
        pg_ctl.arg("-l").arg(self.dir.path().join("log")).args(["-t", "60", "-o"]);
        // `Command::output` would wait for ever, because the server would keep its pipes open.
        pg_ctl.arg(format!("-k {} {options}", self.socket_dir().display())).stdout(Stdio::null()).stderr(Stdio::null());
        let status = pg_ctl.status().expect("pg_ctl runs");
        assert!(status.success(), "{} does not start: {status}\n{}", self.name, tail(&self.server_log()));
    }

    /// Stops the server as a DBA would (mode fast), and waits until it has stopped.
    pub fn stop(&self) {
        run(self.pg_ctl("stop").args(["-m", "fast"])).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Stops the server without a shutdown checkpoint (mode immediate), and waits until it has stopped.
    pub fn stop_immediately(&self) {
        run(self.pg_ctl("stop").args(["-m", "immediate"])).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Stops the server as a DBA would, and starts it again.
    pub fn restart(&self) {
        self.stop();
        self.start();
    }

    /// Defines the locale `name` for the server's C library. It gets the rules of `source`, a locale that comes with
    /// localedef. The first definition of a locale takes effect at the next start of the server, and a later one in new
    /// connections.
    pub fn define_locale(&self, name: &str, source: &str) {
        let directory = self.locales().join(name);
        let _ = fs::create_dir(self.locales());
        let _ = fs::remove_dir_all(&directory);
        let mut localedef = Command::new("localedef");
        localedef.args(["--no-archive", "-i", source, "-f", "UTF-8"]).arg(&directory);
        run(&mut localedef).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Stops the server, copies its data directory, and starts it again. [`Cluster::put_back`] takes the copy.
    pub fn copy_data(&self) -> PathBuf {
        let copy = self.dir.path().join("copy");
        self.stop();
        run(Command::new("cp").arg("-a").args([self.data(), copy.clone()])).unwrap_or_else(|error| panic!("{error}"));
        self.start();
        copy
    }

    /// Makes the server go back in time: it starts again with a copy of its data directory from [`Cluster::copy_data`].
    pub fn put_back(&self, copy: PathBuf) {
        self.stop();
        fs::remove_dir_all(self.data()).expect("the data directory is ours");
        fs::rename(copy, self.data()).expect("the copy is beside it");
        self.start();
    }

    /// Moves the server's next transaction id ahead to `xact`, with pg_resetwal.
    pub fn jump_to_xact(&self, xact: u32) {
        for database in ["postgres", "template1"] {
            self.superuser(database).batch_execute("VACUUM FREEZE").expect("a database can be frozen");
        }
        self.stop();
        // A file in pg_xact holds the state of 2^20 transactions. pg_resetwal does not make the file of the new id.
        let segment = self.data().join("pg_xact").join(format!("{:04X}", xact >> 20));
        fs::write(&segment, vec![0; 256 * 1024]).expect("the data directory is ours");
        give_to_server(&segment);
        let mut reset = server_command("pg_resetwal");
        run(reset.args(["-x", &xact.to_string()]).arg(self.data())).unwrap_or_else(|error| panic!("{error}"));
        self.start();
    }

    /// Kills the postmaster and all its children at once (SIGKILL): nothing more is written or flushed.
    pub fn kill(&self) {
        let postmaster = self.postmaster().expect("the server runs");
        // A stopped postmaster starts no process, and a stopped process does not react to the death of another one.
        signal(Signal::SIGSTOP, &[postmaster]);
        let mut pids = children(postmaster);
        pids.push(postmaster);
        signal(Signal::SIGSTOP, &pids);
        signal(Signal::SIGKILL, &pids);
        wait_until("the killed server is gone", || !pids.iter().any(|&pid| is_alive(pid)));
        // In some containers dead processes are reaped late. There, the next postmaster would take the killed one for
        // alive.
        for lock in ["data/postmaster.pid", ".s.PGSQL.5432.lock"] {
            let _ = fs::remove_file(self.dir.path().join(lock));
        }
    }

    /// Kills the server and starts it again: it recovers from its write-ahead log.
    pub fn kill_and_restart(&self) {
        self.kill();
        self.start();
    }

    /// The process id of the postmaster; `None` if it does not run.
    pub fn postmaster(&self) -> Option<i32> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        // A killed server leaves its file behind. The process id in it may belong to another process by now.
        let is_ours = fs::canonicalize(format!("/proc/{pid}/cwd")).ok()? == fs::canonicalize(self.data()).ok()?;
        (is_ours && is_alive(pid)).then_some(pid)
    }

    /// Connects as a role. Panics if the server refuses.
    pub fn connect(&self, role: &str, database: &str) -> Client {
        self.try_connect(role, database).unwrap_or_else(|error| panic!("{role} at {}: {error}", self.name))
    }

    /// Connects as a role. Returns an error if the server refuses.
    pub fn try_connect(&self, role: &str, database: &str) -> Result<Client, postgres::Error> {
        let mut config = Config::new();
        config.host_path(self.socket_dir()).user(role).dbname(database);
        config.application_name("mana_sync tests").connect(NoTls)
    }

    /// Connects as the superuser.
    pub fn superuser(&self, database: &str) -> Client {
        self.connect("postgres", database)
    }

    /// Connects as the plain role that has access to the log.
    pub fn app(&self, database: &str) -> Client {
        self.connect(APP_ROLE, database)
    }

    /// Creates the extension in [`DATABASE`], and the role [`APP_ROLE`] with access to it.
    pub fn create_log(&self) {
        self.create_log_in(DATABASE);
    }

    /// Creates the extension in a database, and the role [`APP_ROLE`] unless the role exists.
    pub fn create_log_in(&self, database: &str) {
        let mut client = self.superuser(database);
        let sql = format!(
            "CREATE EXTENSION mana_sync;
             DO $$ BEGIN CREATE ROLE {APP_ROLE} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
             SELECT mana_sync.grant_access('{APP_ROLE}');"
        );
        client.batch_execute(&sql).unwrap_or_else(|error| panic!("the extension cannot be created: {error}"));
    }

    /// Upgrades this server with pg_upgrade to the version whose programs are in `bin`, starts the new server and
    /// returns it. The new server has `settings` from the beginning. This server stays stopped. An error contains the
    /// output of pg_upgrade.
    pub fn upgraded(&self, bin: &Path, settings: &[(&str, &str)]) -> Result<Cluster, String> {
        let mut new = Self::empty("upgraded");
        new.bin = Some(bin.into());
        let mut initdb = new.command("initdb");
        initdb.args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]);
        run(initdb.arg("-D").arg(new.data())).unwrap_or_else(|error| panic!("{error}"));
        new.configure(&[("max_prepared_transactions", "20"), ("listen_addresses", ""), ("max_connections", "60")]);
        new.configure(settings);
        self.stop();
        // Since PostgreSQL 18 a new cluster has checksums, and pg_upgrade demands that both clusters have them or
        // neither. Both commands fail for a cluster without checksums.
        if run(self.command("pg_checksums").arg("--check").arg(self.data())).is_err() {
            let _ = run(new.command("pg_checksums").arg("--disable").arg(new.data()));
        }
        let mut upgrade = new.command("pg_upgrade");
        upgrade.current_dir(new.socket_dir()).args(["-U", "postgres", "-s"]).arg(new.socket_dir());
        let own = self.bin.clone().unwrap_or_else(|| program("pg_upgrade").parent().expect("a directory").into());
        upgrade.arg("-b").arg(own).arg("-B").arg(bin);
        upgrade.arg("-d").arg(self.data()).arg("-D").arg(new.data());
        // If pg_upgrade fails, its logs say why. They are deep below the new data directory.
        let mut grep = Command::new("grep");
        grep.args(["-rh", "error:"]).arg(new.data().join("pg_upgrade_output.d"));
        run(&mut upgrade).map_err(|error| {
            let logs = grep.output().expect("grep runs").stdout;
            format!("{error}{}", String::from_utf8_lossy(&logs))
        })?;
        new.start();
        Ok(new)
    }

    /// Makes a command that runs one of this server's programs.
    fn command(&self, name: &str) -> Command {
        match &self.bin {
            Some(bin) => command(bin.join(name)),
            None => server_command(name),
        }
    }

    pub(crate) fn pg_ctl(&self, action: &str) -> Command {
        let mut command = self.command("pg_ctl");
        command.args([action, "-s", "-w", "-D"]).arg(self.data());
        if self.locales().exists() {
            command.env("LOCPATH", self.locales());
        }
        command
    }

    /// The directory of the locales that [`Cluster::define_locale`] defined.
    fn locales(&self) -> PathBuf {
        self.dir.path().join("locales")
    }

    pub(crate) fn rename(&mut self, name: &str) {
        self.name = name.into();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("last lines of the log of {}:\n{}", self.name, tail(&self.server_log()));
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}
