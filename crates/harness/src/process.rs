//! Runs PostgreSQL's programs as the user of the servers, and looks processes up in `/proc`.
//!
//! `make test` sets these environment variables:
//!
//! - `MANA_SYNC_PG_BIN`: the directory of `initdb`, `pg_ctl` and `pg_basebackup` of a PostgreSQL that has the extension
//!   installed
//! - `MANA_SYNC_NEWER_PG_BIN`: the same directory of a newer major version, for the test of pg_upgrade; set only if one
//!   is there
//! - `MANA_SYNC_OLDER_PG_BIN`: the directory of another minor release of the tested version, from which the test of
//!   pg_upgrade starts; set only if the newer one may be older than the tested server
//! - `MANA_SYNC_RUN_AS`: the user of the servers if the caller is root; see [`mana_sync_processes::server_user`]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub use mana_sync_processes::{Beside, as_server_user, give_to_server};
pub use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use procfs::process::{ProcState, Process, all_processes};

/// The longest wait for something that should happen at once. It is long, because a busy machine is slow.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The path of one of PostgreSQL's programs.
pub fn program(name: &str) -> PathBuf {
    let bin = std::env::var_os("MANA_SYNC_PG_BIN").filter(|bin| !bin.is_empty()).unwrap_or_else(|| {
        panic!("MANA_SYNC_PG_BIN is not set: run these tests with `make test` (SUITE=servers for these alone)")
    });
    let path = Path::new(&bin).join(name);
    assert!(path.exists(), "{} is not there: run `make test`, which installs the server's programs", path.display());
    path
}

/// Makes a command that runs one of PostgreSQL's programs as the user of the servers.
pub fn server_command(name: &str) -> Command {
    command(program(name))
}

/// The directory that `MANA_SYNC_NEWER_PG_BIN` names; `None` if the variable is not set. The directory has the programs
/// of a newer major version that has the extension installed.
pub fn newer_bin() -> Option<PathBuf> {
    std::env::var_os("MANA_SYNC_NEWER_PG_BIN").filter(|bin| !bin.is_empty()).map(PathBuf::from)
}

/// The directory that `MANA_SYNC_OLDER_PG_BIN` names, if it is set: the programs from which the test of pg_upgrade
/// starts.
pub fn older_bin() -> Option<PathBuf> {
    std::env::var_os("MANA_SYNC_OLDER_PG_BIN").filter(|bin| !bin.is_empty()).map(PathBuf::from)
}

/// Makes a command that runs a program as the user of the servers.
pub fn command(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    // The user of the servers may not be able to enter the caller's directory. The settings of the caller's PostgreSQL
    // must not have an effect.
    command.current_dir("/").stdin(Stdio::null()).env("LC_ALL", "C");
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(variable);
    }
    as_server_user(&mut command);
    command
}

/// Runs a command to its end. If the command fails, the error contains its output.
pub fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&said)))
}

/// Sends a signal to processes. Ignores processes that have already ended.
pub fn signal(signal: Signal, pids: &[i32]) {
    for &pid in pids {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// The child processes of `parent`.
pub fn children(parent: i32) -> Vec<i32> {
    let processes = all_processes().expect("/proc is readable");
    // A process that has ended meanwhile has no stat.
    let stats = processes.flatten().filter_map(|process| process.stat().ok());
    stats.filter(|stat| stat.ppid == parent).map(|stat| stat.pid).collect()
}

/// Whether a process runs. A process that has ended and was not yet reaped by its parent does not run.
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
