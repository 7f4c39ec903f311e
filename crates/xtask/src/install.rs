//! Builds the extension and installs it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::postgres::{Installation, PrivateCopy};
use crate::project::{Project, by_root, note, say};

/// Builds the extension and installs it into the private copy of PostgreSQL.
pub fn into_private_copy(project: &Project, server: &PrivateCopy, release: bool) -> Result<()> {
    say(format!("Building mana_sync for PostgreSQL {} (the first time takes 2 to 4 minutes)", server.major));
    let profile = if release { &["--release"][..] } else { &[] };
    cargo_pgrx_install(project, server, &server.bin, &server.feature(), profile, "install.log")
}

/// Copies the extension that was installed into the private copy to another installation of the same version, which may
/// be another minor release.
pub fn into_another(server: &PrivateCopy, other: &Installation) -> Result<()> {
    let own = server.installation();
    for (option, below) in [("--pkglibdir", ""), ("--sharedir", "extension")] {
        let [from, to] = [own.directory(option)?.join(below), other.directory(option)?.join(below)];
        for entry in fs::read_dir(&from).with_context(|| from.display().to_string())?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("mana_sync") {
                fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
        }
    }
    Ok(())
}

/// Builds the extension with these features, and installs it into the server whose programs are in `bin`. Shows the
/// messages of cargo. Shows those of cargo-pgrx only if it fails.
pub fn cargo_pgrx_install(
    project: &Project,
    server: &PrivateCopy,
    bin: &Path,
    features: &str,
    options: &[&str],
    log: &str,
) -> Result<()> {
    let pg_config = bin.join("pg_config").display().to_string();
    let mut arguments = vec!["pgrx", "install", "--package", "mana_sync", "--pg-config", &pg_config];
    arguments.extend(["--no-default-features", "--features", features]);
    arguments.extend(options);
    let log = project.state(log);
    let command = project.prepare_for(Some(server), duct::cmd("cargo", arguments));
    if !command.stdout_path(&log).unchecked().run()?.status.success() {
        eprint!("{}", String::from_utf8_lossy(&fs::read(&log)?));
        bail!("the extension does not build");
    }
    Ok(())
}

/// Builds the extension for release, and installs it into the PostgreSQL from which the private copy was made. This is
/// for users of the extension, and not for its developers.
pub fn for_users(project: &Project, server: &PrivateCopy) -> Result<()> {
    let target = &server.source;
    say(format!(
        "Building mana_sync for release, for the PostgreSQL {} of {}",
        server.major,
        target.pg_config.display()
    ));
    let package = project.root.join(format!("target/package/pg{}", server.major));
    let _ = fs::remove_dir_all(&package);
    let [pg_config, directory] = [&target.pg_config, &package].map(|path| path.display().to_string());
    let mut arguments = vec!["pgrx", "package", "--package", "mana_sync", "--pg-config", &pg_config];
    let feature = server.feature();
    arguments.extend(["--out-dir", &directory, "--no-default-features", "--features", &feature]);
    project.prepare_for(Some(server), duct::cmd("cargo", arguments)).run()?;

    say("Installing");
    for file in files_below(&package)? {
        let place = Path::new("/").join(file.strip_prefix(&package).expect("it is below"));
        let mode = if place.extension().is_some_and(|extension| extension == "so") { "755" } else { "644" };
        note(place.display());
        install_file(&file, &place, mode)?;
    }
    note("Then, in a database, as a superuser: CREATE EXTENSION mana_sync;");
    Ok(())
}

/// Installs a file with install(1), which replaces the old file by a new one. Running servers go on using the old file.
fn install_file(file: &Path, place: &Path, mode: &str) -> Result<()> {
    let directory = place.parent().context("a file is in a directory")?;
    let [from, to] = [file, place].map(|path| path.display().to_string());
    let arguments = ["-D", "-m", mode, &from, &to];
    let may_write = nix::unistd::access(directory, nix::unistd::AccessFlags::W_OK).is_ok();
    let install = if may_write { duct::cmd("install", arguments) } else { by_root("install", &arguments)? };
    install.stdin_null().run()?;
    Ok(())
}

fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())?.flatten() {
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}
