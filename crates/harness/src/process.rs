//! The server's programs, run as the user that servers run as, and processes looked up in `/proc`.
//!
//! `make test` sets these environment variables:
//!
//! - `MANA_SYNC_PG_BIN`: directory of `initdb`, `pg_ctl`, `pg_basebackup` of a server that has the extension installed
//! - `MANA_SYNC_NEWER_PG_BIN`: likewise, of a newer major version, for the test of pg_upgrade; where one is installed
//! - `MANA_SYNC_RUN_AS`: when we are root, the user that servers run as, see [`mana_sync_processes::server_user`]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub use mana_sync_processes::{Beside, as_server_user, give_to_server};
pub use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use procfs::process::{ProcState, Process, all_processes};

/// The time that something may take which should happen at once. A busy machine is slow; a hang takes for ever.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Path of one of the server's programs.
pub fn program(name: &str) -> PathBuf {
    let bin = std::env::var_os("MANA_SYNC_PG_BIN").filter(|bin| !bin.is_empty()).unwrap_or_else(|| {
        panic!("MANA_SYNC_PG_BIN is not set: run these tests with `make test` (SUITE=servers for these alone)")
    });
    let path = Path::new(&bin).join(name);
    assert!(path.exists(), "{} is not there: run `make test`, which installs the server's programs", path.display());
    path
}

/// A command that runs one of the server's programs as the user that servers run as.
pub fn server_command(name: &str) -> Command {
    command(program(name))
}

/// Directory of the programs of a server of a newer major version that has the extension installed, if
/// `MANA_SYNC_NEWER_PG_BIN` names one.
pub fn newer_bin() -> Option<PathBuf> {
    std::env::var_os("MANA_SYNC_NEWER_PG_BIN").filter(|bin| !bin.is_empty()).map(PathBuf::from)
}

/// A command that runs a program as the user that servers run as.
pub fn command(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    // A directory that the user may enter; and no setting of the caller's PostgreSQL.
    command.current_dir("/").stdin(Stdio::null()).env("LC_ALL", "C");
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(variable);
    }
    as_server_user(&mut command);
    command
}

/// Runs a command to its end. Shows its output only if it fails.
pub fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&said)))
}

/// Sends a signal to processes; those that are gone already do not matter.
pub fn signal(signal: Signal, pids: &[i32]) {
    for &pid in pids {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// The processes whose parent is `parent`.
pub fn children(parent: i32) -> Vec<i32> {
    let processes = all_processes().expect("/proc is readable");
    // One that ends meanwhile has no stat any more.
    let stats = processes.flatten().filter_map(|process| process.stat().ok());
    stats.filter(|stat| stat.ppid == parent).map(|stat| stat.pid).collect()
}

/// Whether a process runs. (One that ended and was not collected by its parent does not.)
pub fn is_alive(pid: i32) -> bool {
    let state = Process::new(pid).and_then(|process| process.stat()).and_then(|stat| stat.state());
    state.is_ok_and(|state| !matches!(state, ProcState::Zombie | ProcState::Dead))
}

/// Waits for a condition, and panics with its description after [`PATIENCE`].
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited {} s in vain: {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(2));
    }
}
