//! The choice of a PostgreSQL, and the private copy of it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use duct::cmd;

use crate::project::{Project, is_executable, which};
use crate::setup::release;

/// The major versions that the extension builds for, the preferred ones first.
pub const VERSIONS: [u32; 5] = [15, 18, 17, 16, 14];
/// The newest of [`VERSIONS`].
pub const NEWEST: u32 = 18;

/// An installation of PostgreSQL, which is identified by its pg_config.
#[derive(Clone, PartialEq)]
pub struct Installation {
    /// The path of the installation's pg_config.
    pub pg_config: PathBuf,
}

impl Installation {
    /// Asks the pg_config of the installation, with an option like `--bindir`.
    pub fn ask(&self, option: &str) -> Result<String> {
        cmd!(&self.pg_config, option).read().with_context(|| self.pg_config.display().to_string())
    }

    /// Returns a directory that the pg_config of the installation names.
    pub fn directory(&self, option: &str) -> Result<PathBuf> {
        self.ask(option).map(PathBuf::from)
    }

    /// Returns the major version.
    pub fn major(&self) -> Result<u32> {
        let version = self.ask("--version")?;
        let digits = version.trim_start_matches(|c: char| !c.is_ascii_digit());
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        digits[..end].parse().with_context(|| format!("{} says {version}", self.pg_config.display()))
    }

    /// Returns the release, like `18.6`.
    pub fn release(&self) -> Result<String> {
        let version = self.ask("--version")?;
        Ok(version.split_whitespace().nth(1).unwrap_or(&version).into())
    }

    /// Whether the installation has a server and its development files.
    pub fn is_complete(&self) -> bool {
        let is_there = |option, file: &str| self.directory(option).is_ok_and(|directory| directory.join(file).exists());
        is_executable(&self.pg_config)
            && is_there("--bindir", "postgres")
            && is_there("--includedir-server", "postgres.h")
            && self.directory("--pgxs").is_ok_and(|makefile| makefile.exists())
    }

    /// Returns the same installation with the pg_config in its own directory of programs. A pg_config in the PATH may
    /// be a wrapper, which may stand for another version later.
    fn by_its_own(self) -> Result<Self> {
        let own = self.directory("--bindir")?.join("pg_config");
        Ok(if is_executable(&own) { Self { pg_config: own } } else { self })
    }

    /// Returns the installation whose pg_config is named by a path, or by a name in the PATH.
    pub fn named(pg_config: &str) -> Result<Self> {
        let path = if pg_config.contains('/') { Some(PathBuf::from(pg_config)) } else { which(pg_config) };
        let path = path.filter(|path| is_executable(path));
        let named = Self { pg_config: path.with_context(|| format!("PG_CONFIG={pg_config} is not a program"))? };
        ensure!(named.is_complete(), "{pg_config} does not belong to a server with its development files");
        named.by_its_own()
    }

    /// Returns an installation of a major version: the one that was named before, or else Debian's, or else the one in the
    /// PATH, or else the one that the set-up unpacked.
    pub fn of_version(project: &Project, major: u32) -> Option<Self> {
        let remembered = fs::read_to_string(project.state(format!("pg{major}/source"))).ok();
        let remembered = remembered.map(|path| Self { pg_config: path.trim().into() }).filter(Self::is_complete);
        // What the set-up unpacked may be an older release than the one that it would unpack now.
        let remembered = remembered.filter(|named| !named.pg_config.starts_with(&project.state));
        let of_debian = Self { pg_config: format!("/usr/lib/postgresql/{major}/bin/pg_config").into() };
        let of_path = || {
            let found = Self { pg_config: which("pg_config")? };
            (found.major().ok()? == major && found.is_complete()).then(|| found.by_its_own().ok())?
        };
        remembered
            .or_else(|| Some(of_debian).filter(Self::is_complete))
            .or_else(of_path)
            .or_else(|| release::unpacked(project, major))
    }
}

/// The PostgreSQL that the caller chose. The set-up chooses what the caller left open, and installs what is missing.
pub struct Choice {
    /// The major version. `None` lets the set-up choose one.
    pub major: Option<u32>,
    /// The installation. `None` lets the set-up install one.
    pub source: Option<Installation>,
}

impl Choice {
    /// Returns whether the caller chose a version or an installation.
    pub fn is_made(project: &Project, version: Option<&str>, pg_config: Option<&str>) -> bool {
        version.is_some() || pg_config.is_some_and(|path| is_choice(project, path))
    }

    /// Chooses by a version (`PG`) or by an installation (`PG_CONFIG`). Without either, chooses 15 if it is installed,
    /// or else what the set-up chose before.
    pub fn new(project: &Project, version: Option<&str>, pg_config: Option<&str>) -> Result<Self> {
        let version = version.map(|text| match text.parse() {
            Ok(major) if VERSIONS.contains(&major) => Ok(major),
            _ => bail!("PG={text}: PostgreSQL 14 to 18 are supported"),
        });
        let version = version.transpose()?;
        if let Some(pg_config) = pg_config.filter(|path| is_choice(project, path)) {
            let source = Installation::named(pg_config)?;
            let major = source.major()?;
            ensure!(VERSIONS.contains(&major), "{pg_config} is version {major}: PostgreSQL 14 to 18 are supported");
            if let Some(version) = version {
                ensure!(version == major, "PG={version}, but {pg_config} is version {major}");
            }
            return Ok(Self { major: Some(major), source: Some(source) });
        }
        let chosen_before = || fs::read_to_string(project.state("default-pg")).ok()?.trim().parse().ok();
        let fifteen = || Installation::of_version(project, 15).map(|_| 15);
        let major = version.or_else(fifteen).or_else(chosen_before);
        Ok(Self { major, source: major.and_then(|major| Installation::of_version(project, major)) })
    }

    /// Chooses for users of the extension. If they name neither, it is the first pg_config in the PATH.
    pub fn for_users(project: &Project, version: Option<&str>, pg_config: Option<&str>) -> Result<Self> {
        let of_path = which("pg_config").filter(|_| version.is_none()).map(|_| "pg_config");
        Self::new(project, version, pg_config.or(of_path))
    }

    /// Returns the private copy of the chosen installation, which may not exist yet. Returns `None` if the choice is
    /// not complete.
    pub fn private_copy(self, project: &Project) -> Result<Option<PrivateCopy>> {
        let Self { major: Some(major), source: Some(source) } = self else { return Ok(None) };
        PrivateCopy::new(project, major, source).map(Some)
    }
}

/// Returns whether a `PG_CONFIG` is a choice of the caller. If it is within the state directory, `cargo xtask env` printed it.
fn is_choice(project: &Project, pg_config: &str) -> bool {
    !Path::new(pg_config).starts_with(&project.state)
}

/// A copy of an installation in the state directory. The extension is installed into it, so that a PostgreSQL that is
/// in use is not touched.
pub struct PrivateCopy {
    /// The major version.
    pub major: u32,
    /// The installation from which the copy is made.
    pub source: Installation,
    /// The directory of the copy. Below its `root`, files have the same paths as in the source, because a server looks
    /// for its files relative to its own program.
    pub directory: PathBuf,
    /// The directory of the copy's programs.
    pub bin: PathBuf,
}

impl PrivateCopy {
    /// Determines where the copy of an installation is. Copies nothing.
    pub fn new(project: &Project, major: u32, source: Installation) -> Result<Self> {
        let directory = project.state(format!("pg{major}"));
        let bin = below(&directory.join("root"), &source.directory("--bindir")?);
        Ok(Self { major, source, directory, bin })
    }

    /// The path of a program of the copy.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Returns the copy as an installation.
    pub fn installation(&self) -> Installation {
        Installation { pg_config: self.program("pg_config") }
    }

    /// The cargo feature of this version.
    pub fn feature(&self) -> String {
        format!("pg{}", self.major)
    }

    /// Makes the copy, unless it exists and was made from the same program.
    pub fn make(&self) -> Result<()> {
        let fingerprint = self.fingerprint()?;
        if fs::read_to_string(self.directory.join("fingerprint")).is_ok_and(|text| text.trim_end() == fingerprint) {
            return Ok(());
        }
        crate::project::say(format!(
            "Making a private copy of PostgreSQL {}, so that the installed one stays as it is",
            self.major
        ));
        crate::project::note(format!("{} -> {}", self.source.pg_config.display(), self.directory.display()));
        let [new, old] = ["new", "old"].map(|extension| self.directory.with_extension(extension));
        for left in [&new, &old] {
            let _ = fs::remove_dir_all(left);
        }
        self.copy_to(&new.join("root"))?;
        fs::write(new.join("source"), format!("{}\n", self.source.pg_config.display()))?;
        fs::write(new.join("fingerprint"), format!("{fingerprint}\n"))?;
        if self.directory.exists() {
            fs::rename(&self.directory, &old)?;
        }
        fs::rename(&new, &self.directory)?;
        let _ = fs::remove_dir_all(&old);
        Ok(())
    }

    fn fingerprint(&self) -> Result<String> {
        let program = self.source.directory("--bindir")?.join("postgres");
        let version = cmd!(&program, "--version").read()?;
        let found = program.metadata()?;
        let modified = found.modified()?.duration_since(std::time::UNIX_EPOCH)?.as_secs();
        Ok(format!("{} {version} {} {modified} layout 1", self.source.pg_config.display(), found.len()))
    }

    fn copy_to(&self, root: &Path) -> Result<()> {
        let bin = self.source.directory("--bindir")?;
        fs::create_dir_all(below(root, &bin))?;
        // Programs are copied and not linked. A linked program would look for its files beside the original program.
        for program in fs::read_dir(&bin)?.flatten() {
            fs::copy(program.path(), below(root, &program.path()))?;
        }
        let share = self.source.directory("--sharedir")?;
        link_entries(&self.source.directory("--pkglibdir")?, root)?;
        link_entries(&share, root)?;
        fs::remove_file(below(root, &share.join("extension")))?;
        link_entries(&share.join("extension"), root)?;
        for option in ["--includedir", "--pkgincludedir", "--includedir-server", "--libdir", "--localedir"] {
            let directory = self.source.directory(option)?;
            let link = below(root, &directory);
            // A directory is already there if it is below a directory that is linked.
            if directory.is_dir() && !link.exists() {
                fs::create_dir_all(link.parent().expect("it is below the root"))?;
                std::os::unix::fs::symlink(directory, link)?;
            }
        }
        Ok(())
    }

    /// Fails if a server would not find its files in the copy.
    pub fn check(&self) -> Result<()> {
        let copy = self.installation();
        for option in ["--bindir", "--pkglibdir", "--sharedir"] {
            ensure!(
                copy.directory(option)?.starts_with(&self.directory),
                "the copy of {} does not find its own files; please report this with the output of {}",
                self.source.pg_config.display(),
                copy.pg_config.display()
            );
        }
        Ok(())
    }
}

/// Returns an absolute path moved below another root.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Makes a copy of a directory below another root, with links to all entries of the original directory. Leaves out this
/// extension's files, which `make install` may have put into the original.
fn link_entries(directory: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(below(root, directory))?;
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())?.flatten() {
        if !entry.file_name().to_string_lossy().starts_with("mana_sync") {
            std::os::unix::fs::symlink(entry.path(), below(root, &entry.path()))?;
        }
    }
    Ok(())
}
