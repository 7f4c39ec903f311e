//! PgBouncer, which a few tests need. It is unpacked and not installed, because Debian's package would start a service.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;
use duct::cmd;

use super::Apt;
use crate::project::{Project, note, say};

/// A script that starts the PgBouncer in the script's own directory.
const WRAPPER: &str = r#"#!/bin/sh
here=${0%/*}
LD_LIBRARY_PATH=$(echo "$here"/usr/lib/*-linux-gnu*) exec "$here/usr/sbin/pgbouncer" "$@"
"#;

/// Unpacks PgBouncer, unless there is one. This is tried only once: an empty directory means that it failed.
pub fn unpack(project: &Project, apt: &mut Apt) -> Result<()> {
    let directory = project.state("pgbouncer");
    if project.pgbouncer().is_some() || directory.exists() || !apt.is_there() {
        return Ok(());
    }
    say(format!("Unpacking PgBouncer into {}", directory.display()));
    let new = project.state("pgbouncer.new");
    let log = project.state("pgbouncer.log");
    let _ = fs::remove_dir_all(&new);
    fs::create_dir(&new)?;
    if let Err(error) = unpack_into(&new, &log, apt) {
        note(format!("it cannot be had, and its tests will be skipped: {error}; see {}", log.display()));
        fs::remove_dir_all(&new)?;
        fs::create_dir(&new)?;
    }
    fs::rename(&new, &directory)?;
    Ok(())
}

fn unpack_into(directory: &Path, log: &Path, apt: &mut Apt) -> Result<()> {
    if !apt.has("pgbouncer") {
        apt.update()?;
    }
    let log = File::create(log)?;
    // apt downloads packages as a user of its own. If that user may not write here, apt warns and downloads as root.
    let packages = directory.join("packages");
    fs::create_dir(&packages)?;
    let download = ["download", "-qq", "pgbouncer"].map(String::from).into_iter().chain(libraries()?);
    duct::cmd("apt-get", download).dir(&packages).stderr_to_stdout().stdout_file(log.try_clone()?).run()?;
    for package in fs::read_dir(&packages)?.flatten() {
        cmd!("dpkg-deb", "-x", package.path(), directory).stderr_to_stdout().stdout_file(log.try_clone()?).run()?;
    }
    fs::remove_dir_all(&packages)?;
    let program = directory.join("pgbouncer");
    fs::write(&program, WRAPPER)?;
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
    cmd!(&program, "--version").stderr_to_stdout().stdout_file(log).run()?;
    Ok(())
}

/// The libraries of PgBouncer that a machine with a PostgreSQL server may lack. Their names depend on the release.
fn libraries() -> Result<Vec<String>> {
    let depends = cmd!("apt-cache", "depends", "pgbouncer").stderr_null().unchecked().read()?;
    let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let wanted = |name: &&str| ["libc-ares", "libcares", "libevent"].iter().any(|prefix| name.starts_with(prefix));
    Ok(names.filter(wanted).map(String::from).collect())
}
