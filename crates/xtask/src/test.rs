//! Runs the test suites one after the other on one version. A suite that fails does not stop the next one. A build that
//! fails stops all. The last line of the output has the numbers of tests that passed and failed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use duct::{Expression, cmd};
use mana_sync_processes::{ServerDirectory, server_user};
use nix::unistd::{User, geteuid};

use crate::cluster::Cluster;
use crate::postgres::{Choice, Installation, NEWEST, PrivateCopy};
use crate::project::{Project, by_server_user, note, run_logged, say, variable};
use crate::setup::release;
use crate::tally::{Tally, excerpt, is_progress};
use crate::{drivers, install, setup};

#[derive(clap::Args)]
pub struct Arguments {
    /// All suites on all versions
    #[arg(long)]
    pub all: bool,
    /// Some of the suites: crates, regress, isolation, servers, pgrx
    #[arg(long, env = "SUITE", hide_env_values = true)]
    suite: Option<String>,
    /// One test: regress/FILE, isolation/SPEC, servers/FILE[/NAME], crates/CRATE[/NAME], pgrx/NAME
    #[arg(long, env = "ONE", hide_env_values = true)]
    one: Option<String>,
    /// A PostgreSQL of a newer version, for the test of pg_upgrade (the newest that is there)
    #[arg(long, env = "NEWER_PG_CONFIG", hide_env_values = true)]
    newer_pg_config: Option<String>,
}

impl Arguments {
    /// Returns the suites that `SUITE` names, if it is given.
    pub fn suites(&self) -> Result<Option<Vec<Suite>>> {
        given(&self.suite).map(|suites| suites.split_whitespace().map(str::parse).collect()).transpose()
    }

    /// Returns the test that `ONE` names, if it is given.
    pub fn one(&self) -> Option<&str> {
        given(&self.one)
    }

    /// Returns the path that `NEWER_PG_CONFIG` names, if it is given.
    pub fn newer_pg_config(&self) -> Option<&str> {
        given(&self.newer_pg_config)
    }
}

/// Returns an argument, if it is given and not empty.
fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.trim().is_empty())
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Suite {
    Crates,
    Regress,
    Isolation,
    Servers,
    Pgrx,
}

impl Suite {
    pub const ALL: [Self; 5] = [Self::Crates, Self::Regress, Self::Isolation, Self::Servers, Self::Pgrx];

    pub fn name(self) -> &'static str {
        match self {
            Self::Crates => "crates",
            Self::Regress => "regress",
            Self::Isolation => "isolation",
            Self::Servers => "servers",
            Self::Pgrx => "pgrx",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Crates => "cursors, merging, the pages of results and this driver, without a server",
            Self::Regress => "SQL with its output (pg_regress)",
            Self::Isolation => "concurrent sessions, step by step (pg_isolation_regress)",
            Self::Servers => "real clusters: crashes, standbys, stress",
            Self::Pgrx => "inside the server (cargo pgrx test)",
        }
    }
}

impl FromStr for Suite {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|suite| suite.name() == name).with_context(|| format!("no suite named {name}"))
    }
}

/// The crates of the suite `crates`: the name in `ONE=crates/…`, and the package.
const CRATES: [(&str, &str); 4] =
    [("cursor", "mana_sync_cursor"), ("merge", "mana_sync_merge"), ("bench", "mana_sync_bench"), ("xtask", "xtask")];

/// The part of a suite that runs: all of it, one file or crate, or the tests with a given name in that file or crate.
pub struct Selection {
    pub suite: Suite,
    file: Option<String>,
    name: Option<String>,
}

impl Selection {
    pub fn all(suite: Suite) -> Self {
        Self { suite, file: None, name: None }
    }

    /// Returns whether the selection contains the test of pg_upgrade.
    fn has_upgrade(&self) -> bool {
        self.suite == Suite::Servers && self.file.as_ref().is_none_or(|file| file == "failover")
    }
}

impl FromStr for Selection {
    type Err = anyhow::Error;

    fn from_str(one: &str) -> Result<Self> {
        let mut parts = one.splitn(3, '/');
        let suite: Suite = parts.next().unwrap_or_default().parse().with_context(|| format!("ONE={one}"))?;
        let file = parts.next().filter(|file| !file.is_empty()).map(String::from);
        ensure!(file.is_some(), "ONE={one} names no test of the suite {0}; all of it is SUITE={0}", suite.name());
        Ok(Self { suite, file, name: parts.next().map(String::from) })
    }
}

/// Runs the chosen suites on the chosen version.
pub fn run(project: &Project, choice: Choice, arguments: &Arguments) -> Result<ExitCode> {
    let selections: Vec<Selection> = match (arguments.one(), arguments.suites()?) {
        (Some(one), _) => vec![one.parse()?],
        (None, suites) => suites.unwrap_or(Suite::ALL.into()).into_iter().map(Selection::all).collect(),
    };
    let server = setup::set_up(project, choice)?;
    let tallies = on_version(project, &server, &selections, arguments.newer_pg_config())?;
    Ok(end(tallies.into_iter().sum()))
}

/// Runs tests on a version, and counts them, each selection for itself. An error says that nothing could be built.
pub fn on_version(
    project: &Project,
    server: &PrivateCopy,
    selections: &[Selection],
    newer_pg_config: Option<&str>,
) -> Result<Vec<Tally>> {
    for directory in ["log", "results"] {
        fs::create_dir_all(project.state(directory))?;
    }
    let mut tests = Tests { project, server, environment: Vec::new() };
    let started = Instant::now();
    tests.build(selections, newer_pg_config)?;
    note(format!("PostgreSQL {}: built in {} s", server.major, started.elapsed().as_secs()));
    let mut tallies = Vec::new();
    for selection in selections {
        tallies.push(tests.run(selection)?);
        if selection.suite == Suite::Pgrx {
            tests.install_again();
        }
    }
    Ok(tallies)
}

/// Prints the last line.
pub fn end(total: Tally) -> ExitCode {
    println!("\n{total}");
    if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Tests<'a> {
    project: &'a Project,
    server: &'a PrivateCopy,
    /// The environment variables of the tests that run real clusters.
    environment: Vec<(&'static str, OsString)>,
}

impl Tests<'_> {
    fn prepare(&self, command: Expression) -> Expression {
        let environment = self.environment.iter();
        let command = environment.fold(command, |command, (name, value)| command.env(name, value));
        self.project.prepare_for(Some(self.server), command)
    }

    // ---- building ----------------------------------------------------------------------------------------

    fn build(&mut self, selections: &[Selection], newer: Option<&str>) -> Result<()> {
        let has = |suite| selections.iter().any(|selection| selection.suite == suite);
        for selection in selections.iter().filter(|selection| selection.suite == Suite::Crates) {
            let options = ["test", "-q", "--no-run"].map(String::from).into_iter();
            let build = duct::cmd("cargo", options.chain(packages(selection)?));
            self.prepare(build).run()?;
        }
        if selections.iter().any(|selection| selection.suite != Suite::Crates) {
            install::into_private_copy(self.project, self.server, false)?;
        }
        if selections.iter().any(Selection::has_upgrade) {
            self.prepare_upgrade(newer)?;
        }
        if has(Suite::Servers) {
            self.environment.extend(drivers::install(self.project)?);
            say("Building the tests that run real clusters");
            for selection in selections.iter().filter(|selection| selection.suite == Suite::Servers) {
                let build = duct::cmd("cargo", ["test", "-q", "--no-run"].into_iter().chain(server_tests(selection)));
                self.prepare(build).run()?;
            }
            self.prepare(cmd!("cargo", "build", "-q", "-p", "mana_sync_http")).run()?;
        }
        Ok(())
    }

    /// Installs the extension into a server of a newer major version, for the test of pg_upgrade. The server is the one
    /// that is named, or else the newest that is there. Without one, the test says that it was skipped.
    fn prepare_upgrade(&mut self, named: Option<&str>) -> Result<()> {
        let own = self.server.major;
        if let Some(pg_config) = named {
            let source = Installation::named(pg_config).context("NEWER_PG_CONFIG")?;
            let major = source.major()?;
            ensure!(major > own, "NEWER_PG_CONFIG={pg_config} is version {major}, not newer than {own}");
            return self.install_newer(major, source);
        }
        let of_version = |major| Some((major, Installation::of_version(self.project, major)?));
        let Some((major, source)) = (own + 1..=NEWEST).rev().find_map(of_version) else { return Ok(()) };
        if let Err(error) = self.install_newer(major, source) {
            note(format!("the test of pg_upgrade will be skipped: {error:#}"));
            return Ok(());
        }
        // Distributions have minor releases of their own date, and pg_upgrade may need the newer server to be as recent.
        // The releases of PyPI are of one date.
        if let Some(release) = release::unpacked(self.project, own).filter(|release| *release != self.server.source) {
            install::into_another(self.server, &release)?;
            self.environment.push(("MANA_SYNC_OLDER_PG_BIN", release.directory("--bindir")?.into()));
        }
        Ok(())
    }

    fn install_newer(&mut self, major: u32, source: Installation) -> Result<()> {
        let newer = setup::set_up(self.project, Choice { major: Some(major), source: Some(source) })?;
        install::into_private_copy(self.project, &newer, false)?;
        self.environment.push(("MANA_SYNC_NEWER_PG_BIN", newer.bin.into()));
        Ok(())
    }

    /// Installs the extension again, because `cargo pgrx test` has installed a build that contains the tests.
    fn install_again(&self) {
        if let Err(error) = install::into_private_copy(self.project, self.server, false) {
            note(format!("installing again failed: {error}"));
        }
    }

    // ---- running -----------------------------------------------------------------------------------------

    fn run(&self, selection: &Selection) -> Result<Tally> {
        let suite = selection.suite;
        let started = Instant::now();
        let results = self.results(suite);
        let _ = fs::remove_dir_all(&results);
        let one = selection.file.as_ref().map(|file| format!("/{file}")).unwrap_or_default();
        let version = if suite == Suite::Crates { String::new() } else { format!(" on {}", self.server.major) };
        say(format!("{}{one}{version}: {}", suite.name(), suite.title()));

        let log = self.project.state(format!("log/{}.log", self.name(suite)));
        let mut output = Output(File::create(&log)?);
        let ran = match suite {
            Suite::Crates => self.crates(selection, &mut output),
            Suite::Regress => self.regress(selection, &mut output),
            Suite::Isolation => self.pg_regress(selection, "specs", "isolation/pg_isolation_regress", &mut output),
            Suite::Servers => self.servers(selection, &mut output),
            Suite::Pgrx => self.pgrx(selection, &mut output),
        };
        let ran = ran.unwrap_or_else(|error| {
            output.line(&format!("error: {error:#}"));
            false
        });
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        let tally = Tally::of_suite(&text, ran);
        note(format!("{}{version}: {tally} in {} s ({})", suite.name(), started.elapsed().as_secs(), log.display()));
        if tally.failed > 0 {
            match fs::read_to_string(results.join("regression.diffs")) {
                Ok(differences) if !differences.is_empty() => println!("{differences}"),
                _ => println!("{}", excerpt(&text)),
            }
        }
        Ok(tally)
    }

    fn crates(&self, selection: &Selection, output: &mut Output) -> Result<bool> {
        let name = selection.name.clone();
        let arguments = ["test".to_string()].into_iter().chain(packages(selection)?).chain(name);
        output.of(self.prepare(duct::cmd("cargo", arguments)))
    }

    fn servers(&self, selection: &Selection, output: &mut Output) -> Result<bool> {
        let cargo = ["test", "--no-fail-fast"].into_iter().chain(server_tests(selection));
        let tests = ["--", "--show-output"].into_iter().chain(selection.name.as_deref());
        output.of(self.prepare(duct::cmd("cargo", cargo.chain(tests))))
    }

    fn pgrx(&self, selection: &Selection, output: &mut Output) -> Result<bool> {
        let directory = ServerDirectory::new();
        let [version, data] = [self.server.feature(), directory.path().join("data").display().to_string()];
        let mut arguments = vec!["pgrx", "test", "--package", "mana_sync", "--no-default-features", "--pgdata", &data];
        if let Some(user) = server_user() {
            arguments.extend(["--runas", &user.name]);
        }
        arguments.push(&version);
        arguments.extend(selection.file.as_deref());
        // pgrx-tests connects as the user that `USER` names.
        let caller = || User::from_uid(geteuid()).ok().flatten().map(|user| user.name.into());
        let user = variable("USER").or_else(caller).unwrap_or_default();
        // The server's port is fixed, so only one run is possible at a time.
        let _lock = self.project.lock("pgrx.lock")?;
        output.of(self.prepare(duct::cmd("cargo", arguments).env("USER", user)))
    }

    fn regress(&self, selection: &Selection, output: &mut Output) -> Result<bool> {
        let same = selection.file.is_some() || output.of(self.prepare(cmd!("tests/regress/check.sh")))?;
        Ok(self.pg_regress(selection, "sql", "regress/pg_regress", output)? && same)
    }

    /// Runs pg_regress or pg_isolation_regress. Inputs and outputs are in a directory of the user of the servers,
    /// because this user may not be able to read the checkout.
    fn pg_regress(&self, selection: &Selection, inputs: &str, program: &str, output: &mut Output) -> Result<bool> {
        let name = selection.suite.name();
        let tests = self.project.root.join("tests").join(name);
        let cluster = Cluster::start(self.project, self.server, &[])?;
        let work = cluster.path().join("work");
        run_logged(
            cmd!("cp", "-R", &tests, &work),
            &self.project.state("pg_regress.log"),
            "the tests cannot be copied",
        )?;
        fs::create_dir(work.join("out"))?;
        if let Some(user) = server_user() {
            cmd!("chown", "-R", &user.name, &work).run()?;
        }
        let mut command = vec!["--bindir".into(), self.server.bin.clone()];
        for (option, path) in [("--inputdir", work.clone()), ("--outputdir", work.join("out"))] {
            command.extend([option.into(), path]);
        }
        command.extend(["--host".into(), cluster.path().into()]);
        command.extend(["--port", "5432", "--user", "postgres", "--dbname"].map(PathBuf::from));
        command.push(format!("mana_sync_{name}").into());
        match &selection.file {
            None => command.extend(["--schedule".into(), work.join("schedule")]),
            Some(file) => {
                ensure!(has_test(&tests.join(inputs), file), "there is no test {file} in tests/{name}/{inputs}");
                // The test `helpers` makes what the other tests share.
                let helpers = (file != "helpers").then(|| "helpers".into());
                command.extend(helpers.into_iter().chain([file.into()]));
            }
        }
        let pgxs = self.server.installation().directory("--pgxs")?;
        let program = pgxs.parent().context("it is in a directory")?.join("../test").join(program);
        let passed = output.of(cluster.prepare(by_server_user(duct::cmd(program, command))))?;
        let results = self.results(selection.suite);
        run_logged(cmd!("cp", "-R", work.join("out"), &results), &self.project.state("pg_regress.log"), "no results")?;
        fs::copy(cluster.log(), results.join("server.log"))?;
        Ok(passed)
    }

    fn results(&self, suite: Suite) -> PathBuf {
        self.project.state(format!("results/{}", self.name(suite)))
    }

    /// Returns the name of a suite's log and results: `regress-15`. So the results of other versions are kept.
    fn name(&self, suite: Suite) -> String {
        match suite {
            Suite::Crates => suite.name().into(),
            _ => format!("{}-{}", suite.name(), self.server.major),
        }
    }
}

fn has_test(directory: &Path, name: &str) -> bool {
    ["sql", "spec"].iter().any(|extension| directory.join(format!("{name}.{extension}")).exists())
}

/// The arguments of cargo for the chosen crates.
fn packages(selection: &Selection) -> Result<Vec<String>> {
    let chosen = |name: &str| selection.file.as_ref().is_none_or(|file| file == name);
    let packages: Vec<&str> = CRATES.iter().filter(|(name, _)| chosen(name)).map(|(_, package)| *package).collect();
    if packages.is_empty() {
        let names = CRATES.map(|(name, _)| name).join(", ");
        bail!(
            "there is no crate {} in the suite crates, which has {names}",
            selection.file.as_deref().unwrap_or_default()
        );
    }
    Ok(packages.into_iter().flat_map(|package| ["-p".to_string(), package.to_string()]).collect())
}

/// The arguments of cargo for the chosen tests on real servers.
fn server_tests(selection: &Selection) -> Vec<&str> {
    let file = selection.file.as_deref().map(|file| ["--test", file]);
    ["-p", "mana_sync_servers"].into_iter().chain(file.into_iter().flatten()).collect()
}

/// Writes the output of a suite: all of it to the log, and its progress to the terminal.
struct Output(File);

impl Output {
    /// Runs a command with this output, and returns whether the command succeeded.
    fn of(&mut self, command: Expression) -> Result<bool> {
        let reader = command.stdin_null().stderr_to_stdout().unchecked().reader()?;
        let mut lines = BufReader::new(&reader);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            self.line(String::from_utf8_lossy(&line).trim_end_matches('\n'));
            line.clear();
        }
        let ended = reader.try_wait()?.context("its output has ended")?;
        Ok(ended.status.success())
    }

    fn line(&mut self, line: &str) {
        // An error, such as a full disk, is ignored here: the tests in the log are counted later, and would be missing.
        let _ = writeln!(self.0, "{line}");
        if is_progress(line) {
            println!("{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_test_is_named_by_its_suite_and_file() {
        let one: Selection = "regress/wire".parse().unwrap();
        assert_eq!((one.suite.name(), one.file.as_deref(), one.name), ("regress", Some("wire"), None));
        let one: Selection = "servers/http/tokens/x".parse().unwrap();
        assert_eq!((one.file.as_deref(), one.name.as_deref()), (Some("http"), Some("tokens/x")));
        assert!("regress".parse::<Selection>().is_err());
        assert!("regres/wire".parse::<Selection>().is_err());
    }

    #[test]
    fn an_upgrade_is_prepared_where_its_test_runs() {
        let has_upgrade = |one: &str| one.parse::<Selection>().unwrap().has_upgrade();
        assert!(Selection::all(Suite::Servers).has_upgrade() && has_upgrade("servers/failover"));
        assert!(!Selection::all(Suite::Regress).has_upgrade() && !has_upgrade("servers/stress"));
    }

    #[test]
    fn packages_are_all_crates_or_the_one_that_is_named() {
        assert_eq!(packages(&Selection::all(Suite::Crates)).unwrap().len(), 2 * CRATES.len());
        assert_eq!(packages(&"crates/cursor".parse().unwrap()).unwrap(), ["-p", "mana_sync_cursor"]);
        assert!(packages(&"crates/nothing".parse().unwrap()).is_err());
    }
}
