//! Debian's packages.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use duct::cmd;
use nix::unistd::geteuid;

use crate::interrupt;
use crate::project::{Project, by_root, note, say, variable, which};

/// apt-get. Its package lists are updated at most once.
pub struct Apt<'a> {
    project: &'a Project,
    is_updated: bool,
}

impl<'a> Apt<'a> {
    pub fn new(project: &'a Project) -> Self {
        Self { project, is_updated: false }
    }

    /// Fails with `message` if there is no apt-get.
    pub fn require(&self, message: &str) -> Result<()> {
        ensure!(self.is_there(), "{message}");
        Ok(())
    }

    /// Whether there is an apt-get.
    pub fn is_there(&self) -> bool {
        which("apt-get").is_some()
    }

    /// Updates the package lists, unless that was done before.
    pub fn update(&mut self) -> Result<()> {
        if !self.is_updated {
            say("Reading the package lists (apt-get update)");
            if by_root("apt-get", &["update", "-qq"])?.stdout_to_stderr().run().is_err() {
                note("apt-get update failed; going on with the lists that are there");
            }
            self.is_updated = true;
        }
        Ok(())
    }

    /// Whether the package lists have a package.
    pub fn has(&self, package: &str) -> bool {
        let shown = cmd!("apt-cache", "show", package).stderr_null().unchecked().read();
        shown.is_ok_and(|text| text.contains("Version:"))
    }

    /// Returns whether the package of a server of this version can be installed. That needs root or sudo.
    pub fn offers_server(&mut self, major: u32) -> bool {
        let package = format!("postgresql-server-dev-{major}");
        let may_install = geteuid().is_root() || which("sudo").is_some();
        if !self.is_there() || !may_install {
            return false;
        }
        // New machines have no package lists.
        self.has(&package) || (self.update().is_ok() && self.has(&package))
    }

    /// Installs pip, which downloads servers, unless it is already installed.
    pub fn install_pip(&mut self) -> Result<()> {
        let pip = cmd!("python3", "-m", "pip", "--version").stdout_null().stderr_null().unchecked().run();
        if pip.is_ok_and(|output| output.status.success()) {
            return Ok(());
        }
        self.require("pip is missing, and there is no apt-get here to install it")?;
        self.update()?;
        self.install(&["python3-pip".into()])
    }

    /// Installs the packages that are missing, and a server of this version if one is wanted.
    pub fn install_missing(&mut self, server: Option<u32>) -> Result<()> {
        let packages = self.missing(server);
        if packages.is_empty() {
            return Ok(());
        }
        let names = packages.join(" ");
        self.require(&format!("these are missing, and there is no apt-get here to install them: {names}"))?;
        self.update()?;
        let mut _no_cluster = None;
        if let Some(major) = server {
            ensure!(
                self.has(&format!("postgresql-server-dev-{major}")),
                "no package postgresql-{major} here. The PostgreSQL project's apt repository has every version; \
                 or PG_CONFIG=/path/to/pg_config names an installed one"
            );
            _no_cluster = Some(NoCluster::new()?);
        }
        self.install(&packages)
    }

    fn install(&self, packages: &[String]) -> Result<()> {
        say(format!("Installing packages: {}", packages.join(" ")));
        let mut arguments = vec!["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq"];
        arguments.push("--no-install-recommends");
        arguments.extend(packages.iter().map(String::as_str));
        let log = self.project.state("apt.log");
        let install = by_root("env", &arguments)?.stderr_to_stdout().stdout_path(&log);
        if !install.unchecked().run()?.status.success() {
            let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(20)..].join("\n"));
            bail!("apt-get install failed");
        }
        Ok(())
    }

    fn missing(&self, server: Option<u32>) -> Vec<String> {
        let mut packages = Vec::new();
        // Builds need make and pkg-config, and the demo of the HTTP front end needs curl. The C compiler is there:
        // scripts/xtask.sh installs it, because this program could not be linked without it.
        for program in ["make", "pkg-config", "curl"] {
            if which(program).is_none() {
                packages.push(program.to_string());
            }
        }
        if !has_libclang() {
            packages.push("libclang-dev".into());
        }
        // A test changes the order of a locale. Without this package it skips itself.
        if self.is_there() && !Path::new("/usr/share/i18n/locales/en_US").exists() {
            packages.push("locales".into());
        }
        // cargo pgrx test starts its server through sudo when root calls it.
        if geteuid().is_root() && which("sudo").is_none() {
            packages.push("sudo".into());
        }
        if let Some(major) = server {
            // An installed server is not named here: apt could upgrade it and restart its clusters.
            if !Path::new(&format!("/usr/lib/postgresql/{major}/bin/postgres")).exists() {
                packages.push(format!("postgresql-{major}"));
            }
            packages.push(format!("postgresql-server-dev-{major}"));
        }
        packages
    }
}

fn has_libclang() -> bool {
    let llvm = || fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut libraries = llvm()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm-"))
        .flat_map(|entry| fs::read_dir(entry.path().join("lib")).into_iter().flatten().flatten());
    let is_libclang = |name: &str| name.starts_with("libclang") && name.contains(".so");
    variable("LIBCLANG_PATH").is_some()
        || libraries.any(|entry| is_libclang(&entry.file_name().to_string_lossy()))
        || cmd!("ldconfig", "-p")
            .stderr_null()
            .read()
            .is_ok_and(|list| list.lines().any(|line| is_libclang(line.trim())))
}

const NO_CLUSTER: &str = "/etc/postgresql-common/createcluster.d/mana_sync.conf";
const NO_START: &str = "/usr/sbin/policy-rc.d";
const NO_START_TEXT: &str = "#!/bin/sh\n# mana_sync: only while its packages are installed\nexit 101\n";

/// While this value exists, the installation of Debian's server package creates no cluster and starts none.
struct NoCluster {
    /// Keeps ^C from ending this process. It ends apt-get only, and this process then still removes what it has
    /// written.
    _held: interrupt::Held,
}

impl NoCluster {
    fn new() -> Result<Self> {
        let prevented = Self { _held: interrupt::hold() };
        by_root("mkdir", &["-p", "/etc/postgresql-common/createcluster.d"])?.run()?;
        write_by_root(NO_CLUSTER, "create_main_cluster = off\n")?;
        if !Path::new(NO_START).exists() {
            write_by_root(NO_START, NO_START_TEXT)?;
            by_root("chmod", &["755", NO_START])?.run()?;
        }
        Ok(prevented)
    }

    fn allow() -> Result<()> {
        by_root("rm", &["-f", NO_CLUSTER])?.run()?;
        let directory = Path::new(NO_CLUSTER).parent().expect("a directory").display().to_string();
        by_root("rmdir", &["--ignore-fail-on-non-empty", &directory])?.unchecked().run()?;
        if fs::read_to_string(NO_START).is_ok_and(|text| text == NO_START_TEXT) {
            by_root("rm", &["-f", NO_START])?.run()?;
        }
        Ok(())
    }
}

impl Drop for NoCluster {
    fn drop(&mut self) {
        if let Err(error) = Self::allow() {
            note(format!("{NO_CLUSTER} and {NO_START} may be left, and prevent servers from being started: {error}"));
        }
    }
}

fn write_by_root(path: &str, text: &str) -> Result<()> {
    by_root("tee", &[path])?.stdin_bytes(text).stdout_null().run()?;
    Ok(())
}
