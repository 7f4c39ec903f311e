//! The checkout, the state directory, and the environment of the commands that are run.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use duct::{Expression, cmd};
use mana_sync_processes::{as_server_user, server_user};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;

use crate::postgres::PrivateCopy;

/// The version of cargo-pgrx. It must be the version of pgrx in Cargo.toml.
pub const PGRX_VERSION: &str = "0.18.1";

/// The environment variables by which a caller chooses a server for clients. Programs that are started here do not get
/// them.
const CLIENT_VARIABLES: [&str; 16] = [
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGUSER",
    "PGDATABASE",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGOPTIONS",
    "PGAPPNAME",
    "PGSSLMODE",
    "PGCLIENTENCODING",
    "PGDATA",
    "PGDATESTYLE",
    "PGTZ",
];

/// The checkout and the state directory.
pub struct Project {
    /// The root of the checkout.
    pub root: PathBuf,
    /// The state directory, with everything that is kept outside of the checkout: private copies, logs, pgrx's files.
    pub state: PathBuf,
}

impl Project {
    /// Finds the checkout and the state directory. Creates the state directory if it does not exist.
    pub fn new() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
        let uid = geteuid();
        let state =
            variable("MANA_SYNC_STATE").map_or_else(|| format!("/var/tmp/mana_sync-{uid}").into(), PathBuf::from);
        // If root calls, servers run as another user, who must be able to read what is built.
        umask(Mode::from_bits_truncate(0o022));
        if let Ok(found) = state.symlink_metadata() {
            ensure!(
                found.is_dir() && found.uid() == uid.as_raw(),
                "{} belongs to somebody else; set MANA_SYNC_STATE to a directory of your own",
                state.display()
            );
        }
        fs::create_dir_all(&state).with_context(|| format!("cannot create {}", state.display()))?;
        Ok(Self { root, state: std::path::absolute(state)? })
    }

    /// The path of a file in the state directory.
    pub fn state(&self, name: impl AsRef<Path>) -> PathBuf {
        self.state.join(name)
    }

    /// Waits until no other process has the lock `name`, and then holds it until the result is dropped.
    pub fn lock(&self, name: &str) -> Result<Flock<File>> {
        let path = self.state(name);
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
    }

    /// pgrx's own directory, so that ~/.pgrx is left alone. Each version has another one, because a change to its
    /// configuration makes pgrx build again.
    pub fn pgrx_home(&self, server: Option<&PrivateCopy>) -> PathBuf {
        let home = self.state("pgrx");
        server.map_or_else(|| home.clone(), |server| home.join(server.feature()))
    }

    /// Returns an installed PgBouncer, or else the one that the set-up unpacked; `None` if there is none.
    pub fn pgbouncer(&self) -> Option<PathBuf> {
        let unpacked = self.state("pgbouncer/pgbouncer");
        which("pgbouncer").or(unpacked.exists().then_some(unpacked))
    }

    // ---- commands ----------------------------------------------------------------------------------------

    /// Gives a command the environment of this project, and the root of the checkout as its directory. Variables that
    /// the command sets for itself keep their values.
    pub fn prepare(&self, command: Expression) -> Expression {
        self.prepare_for(None, command)
    }

    /// Does what [`Project::prepare`] does, for a command that needs a server, to build for it or to test against it.
    pub fn prepare_for(&self, server: Option<&PrivateCopy>, command: Expression) -> Expression {
        // `cargo run` sets these variables for this crate. The build of another crate would take them for its own.
        let of_cargo = std::env::vars_os().map(|(name, _)| name).filter(|name| {
            let name = name.to_string_lossy();
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO_BIN_NAME"
        });
        let command = CLIENT_VARIABLES
            .iter()
            .map(OsString::from)
            .chain(of_cargo)
            .fold(command, |command, name| command.env_remove(name));
        // duct applies what is added last first. So a variable that the command has set before keeps its value.
        let environment = self.environment(server).into_iter();
        environment.fold(command.dir(&self.root), |command, (name, value)| command.env(name, value))
    }

    fn environment(&self, server: Option<&PrivateCopy>) -> Vec<(&'static str, OsString)> {
        let mut variables: Vec<(&str, OsString)> = vec![
            ("MANA_SYNC_STATE", self.state.clone().into()),
            ("MANA_SYNC_RUN_AS", server_user().map(|user| user.name.clone()).unwrap_or_default().into()),
            ("MANA_SYNC_PGBOUNCER", self.pgbouncer().unwrap_or_default().into()),
            ("PGRX_HOME", self.pgrx_home(server).into()),
            ("PATH", self.path()),
        ];
        if let Some(server) = server {
            variables.push(("PG", server.major.to_string().into()));
            variables.push(("PG_CONFIG", server.bin.join("pg_config").into()));
            variables.push(("MANA_SYNC_PG_BIN", server.bin.clone().into()));
        }
        variables
    }

    /// Returns the PATH, preceded by the directory of the programs that the set-up installed, because the user's own
    /// programs may have other versions.
    fn path(&self) -> OsString {
        let own = self.state("cargo/bin");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let rest = std::env::split_paths(&path).filter(|directory| *directory != own);
        std::env::join_paths([own.clone()].into_iter().chain(rest)).unwrap_or(path)
    }

    /// Prints the environment in the syntax of a shell.
    pub fn print_environment(&self, server: Option<&PrivateCopy>) {
        println!("unset {} PSQLRC", CLIENT_VARIABLES.join(" "));
        for (name, value) in self.environment(server) {
            println!("export {name}={}", quoted(&value));
        }
    }

    /// Removes the build, and everything that was put into the state directory.
    pub fn clean(&self) -> Result<()> {
        self.prepare(cmd!("cargo", "clean")).run()?;
        for entry in fs::read_dir(&self.state)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = [
                "pgbouncer",
                "pgbouncer.new",
                "pgrx",
                "postgresql",
                "cargo",
                "cargo-target",
                "drivers",
                "log",
                "results",
                "lock",
            ];
            let of_a_version =
                name.strip_prefix("pg1").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()));
            let is_ours = ours.contains(&name.as_str())
                || of_a_version
                || name == "default-pg"
                || name.ends_with(".log")
                || name.ends_with(".lock");
            match entry.file_type()? {
                _ if !is_ours => {}
                kind if kind.is_dir() => fs::remove_dir_all(entry.path())?,
                _ => fs::remove_file(entry.path())?,
            }
        }
        // This fails if somebody else's files are in it, and then they stay.
        let _ = fs::remove_dir(&self.state);
        Ok(())
    }
}

/// Makes a command run as the user of the servers, in a directory that this user may enter. The command must not have
/// been prepared yet ([`Project::prepare`]).
pub fn by_server_user(command: Expression) -> Expression {
    command.dir("/").before_spawn(|command| {
        as_server_user(command);
        Ok(())
    })
}

/// Makes a command run as root.
pub fn by_root(program: &str, arguments: &[&str]) -> Result<Expression> {
    if geteuid().is_root() {
        return Ok(duct::cmd(program, arguments));
    }
    if which("sudo").is_none() {
        bail!("this needs root or sudo: {program} {}", arguments.join(" "));
    }
    Ok(duct::cmd("sudo", [program].iter().chain(arguments)))
}

/// Runs a command and writes its output to a log. If the command fails, shows the log.
pub fn run_logged(command: Expression, log: &Path, failure: &str) -> Result<()> {
    let output = command.stdin_null().stderr_to_stdout().stdout_path(log).unchecked().run()?;
    if !output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&fs::read(log)?));
        bail!("{failure}");
    }
    Ok(())
}

/// Returns an environment variable; `None` if it is not set or empty.
pub fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Finds a program in the PATH.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| is_executable(file))
}

/// Whether a file is a program.
pub fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0)
}

/// Quotes a text as one word of the shell.
pub fn quoted(text: &OsStr) -> String {
    format!("'{}'", text.to_string_lossy().replace('\'', r"'\''"))
}

/// Prints the title of the next step.
pub fn say(text: impl std::fmt::Display) {
    if std::io::stderr().is_terminal() {
        eprintln!("\n\x1b[1m==> {text}\x1b[0m");
    } else {
        eprintln!("\n==> {text}");
    }
}

/// Prints a detail of the current step.
pub fn note(text: impl std::fmt::Display) {
    eprintln!("    {text}");
}
