//! The database drivers for which docs/drivers.md has programs. The tests of these programs need the drivers. They are
//! installed into the state directory, once for each list of versions. If a driver cannot be installed, its tests
//! report that they were skipped.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use duct::cmd;

use crate::project::{Project, note, say};

/// Installs the drivers, and returns the environment variables that tests/servers/tests/drivers.rs reads. A variable is
/// empty if its drivers are missing.
pub fn install(project: &Project) -> Result<[(&'static str, OsString); 2]> {
    let python = install_once(project, "python", &["requirements.txt"], python)?.join("venv/bin/python");
    let node = install_once(project, "node", &["package.json", "package-lock.json"], node)?.join("node_modules");
    let if_there = |path: PathBuf| if path.exists() { path.into() } else { OsString::new() };
    Ok([("MANA_SYNC_PYTHON", if_there(python)), ("MANA_SYNC_NODE_MODULES", if_there(node))])
}

/// Installs a Python with psycopg and asyncpg.
fn python(lists: &Path, directory: &Path, log: &fs::File) -> Result<()> {
    let venv = directory.join("venv");
    cmd!("python3", "-m", "venv", &venv).stderr_to_stdout().stdout_file(log.try_clone()?).run()?;
    let pip = cmd!(
        venv.join("bin/python"),
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "-r",
        lists.join("requirements.txt")
    );
    pip.stderr_to_stdout().stdout_file(log.try_clone()?).run()?;
    Ok(())
}

/// Installs the Node modules pg and postgres.
fn node(lists: &Path, directory: &Path, log: &fs::File) -> Result<()> {
    cmd!("node", "--version").stderr_to_stdout().stdout_file(log.try_clone()?).run()?;
    for list in ["package.json", "package-lock.json"] {
        fs::copy(lists.join(list), directory.join(list))?;
    }
    let npm = cmd!("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error").dir(directory);
    npm.stderr_to_stdout().stdout_file(log.try_clone()?).run()?;
    Ok(())
}

/// Runs `install` for a new directory, unless that was tried before with the same lists of versions.
fn install_once(
    project: &Project,
    name: &str,
    lists: &[&str],
    install: fn(&Path, &Path, &fs::File) -> Result<()>,
) -> Result<PathBuf> {
    let all = project.root.join("tests/servers/drivers");
    let directory = project.state("drivers").join(name);
    let wanted: String = lists.iter().map(|list| fs::read_to_string(all.join(list))).collect::<Result<_, _>>()?;
    let tried = directory.join("lists");
    if fs::read_to_string(&tried).is_ok_and(|text| text == wanted) {
        return Ok(directory);
    }
    say(format!("Installing drivers for {name} (tests/servers/drivers)"));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory)?;
    let log = project.state(format!("drivers-{name}.log"));
    if let Err(error) = install(&all, &directory, &fs::File::create(&log)?) {
        note(format!("they cannot be had, and their tests will be skipped: {error}; see {}", log.display()));
        fs::remove_dir_all(&directory)?;
        fs::create_dir_all(&directory)?;
    }
    fs::write(tried, wanted)?;
    Ok(directory)
}
