//! Processes of private servers: which user runs them, and how they end when the process that owns them is killed.
//!
//! The test harness and `cargo xtask` both use this crate. It has few dependencies, and builds in a moment.

use std::io::Write;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use nix::unistd::{User, geteuid};
use tempfile::TempDir;

// ---- the user that servers run as ----------------------------------------------------------------------

/// The user that runs the servers; `None` if it is the caller. PostgreSQL refuses to run as root. So if the caller is
/// root, the user is the one that `MANA_SYNC_RUN_AS` names, or else `postgres`, or else `nobody`.
pub fn server_user() -> Option<&'static User> {
    static USER: OnceLock<Option<User>> = OnceLock::new();
    let find = |name: &str| User::from_name(name).expect("users can be looked up");
    let choose = || match std::env::var("MANA_SYNC_RUN_AS") {
        Ok(name) if !name.is_empty() => {
            Some(find(&name).unwrap_or_else(|| panic!("MANA_SYNC_RUN_AS={name}: there is no such user")))
        }
        _ if geteuid().is_root() => find("postgres").or_else(|| find("nobody")),
        _ => None,
    };
    USER.get_or_init(choose).as_ref()
}

/// Makes a command run as the user of the servers.
pub fn as_server_user(command: &mut Command) {
    if let Some(user) = server_user() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).env("HOME", "/nonexistent");
    }
}

/// Makes the user of the servers the owner of a file or directory.
pub fn give_to_server(path: &Path) {
    if let Some(user) = server_user() {
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .unwrap_or_else(|error| panic!("chown {}: {error}", path.display()));
    }
}

// ---- what ends with its owner --------------------------------------------------------------------------

/// A program that runs beside this process. It is killed (SIGKILL) when this value is dropped, and when this process is
/// killed.
pub struct Beside(Child);

impl Beside {
    /// Starts a program. `configure` sets its arguments, its environment and the place of its output.
    pub fn start(program: &Path, configure: impl FnOnce(&mut Command)) -> Self {
        let mut command = shell(r#""$@" & pid=$!; read -r _; kill -9 "$pid"; wait "$pid""#);
        configure(command.arg(program));
        Self(command.spawn().expect("sh runs"))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A temporary directory for a server. It contains the server's socket. The data directory is `data` in it, or a
/// subdirectory of `data`.
///
/// When this value is dropped, or this process is killed, a watchdog process stops the server without a checkpoint and
/// removes the directory.
pub struct ServerDirectory {
    path: PathBuf,
    watchdog: Child,
}

impl ServerDirectory {
    /// Makes a new directory, which belongs to the user of the servers.
    pub fn new() -> Self {
        let path = short_temp_dir().keep();
        give_to_server(&path);
        Self::watch(path)
    }

    /// Takes over a directory that [`ServerDirectory::keep`] returned, and starts a watchdog for it.
    pub fn watch(path: PathBuf) -> Self {
        // The watchdog has a process group of its own, so that ^C in the terminal reaches only its owner.
        let watchdog = shell(WATCHDOG).arg(&path).process_group(0).spawn().expect("sh runs");
        Self { path, watchdog }
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends the watchdog, which leaves the directory and its server as they are. Returns the path of the directory.
    pub fn keep(mut self) -> PathBuf {
        let _ = self.watchdog.stdin.take().expect("it is piped").write_all(b"keep\n");
        self.path.clone()
    }
}

impl Default for ServerDirectory {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for ServerDirectory {
    fn drop(&mut self) {
        // The watchdog stops the server and removes the directory before it ends.
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// The script of the watchdog. It waits for the end of its input, which comes when its owner ends. Then it stops the
/// server, waits for the end of the server, and removes the directory. If its input is the word `keep`, it ends at
/// once.
const WATCHDOG: &str = r#"
read -r word
[ "$word" != keep ] || exit 0
for data in "$1"/data "$1"/data/*/; do
    [ -e "$data/postmaster.pid" ] || continue
    pid=$(head -n 1 "$data/postmaster.pid") && [ "/proc/$pid/cwd" -ef "$data" ] && kill -QUIT "$pid" && {
        tries=0
        while [ "/proc/$pid/cwd" -ef "$data" ] && [ $tries -lt 200 ]; do
            sleep 0.05
            tries=$((tries + 1))
        done
    }
done
rm -rf "$1"
"#;

/// Makes a command that runs a shell script. When this process ends, the kernel closes the standard input of the
/// script, so that the script notices the end.
fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Makes a new directory for a socket, in `TMPDIR` or else in `/tmp`. The path of a socket has at most 107 bytes, so a
/// long `TMPDIR` cannot be used, nor can one that the user of the servers may not enter.
fn short_temp_dir() -> TempDir {
    let preferred = std::env::temp_dir();
    let suits = preferred.as_os_str().len() <= 60 && may_enter(&preferred);
    let base = if suits { preferred } else { "/tmp".into() };
    tempfile::Builder::new().prefix("mana_sync.").tempdir_in(base).expect("a temporary directory can be made")
}

fn may_enter(directory: &Path) -> bool {
    let mut test = Command::new("test");
    as_server_user(test.arg("-x").arg(directory).current_dir("/"));
    test.status().is_ok_and(|status| status.success())
}
