//! Driver of the repository: `cargo xtask …`, and the targets of the Makefile. `cargo xtask help` lists what it does.
//!
//! Everything happens in the state directory (`MANA_SYNC_STATE`) and in `target`. Only `install` changes an installed
//! PostgreSQL.
//!
//! - [`project`]: the checkout, the state directory, and the environment of the commands that are run
//! - [`postgres`]: the choice of a PostgreSQL, and the private copy of it
//! - [`setup`]: what is installed before anything else: packages, the private copy, releases of PyPI,
//!   PgBouncer, cargo-pgrx
//! - [`install`]: builds the extension and installs it
//! - [`cluster`]: a private cluster in a temporary directory
//! - [`mod@test`], [`tally`]: the test suites, and how their output is counted
//! - [`versions`]: the suites on several versions, and their table
//! - [`demo`]: plays examples/demo.sql, and examples/http with curl
//! - [`measure`], [`profile`]: benchmarks, and the instructions of one call
//! - [`lint`]: rustfmt, clippy, cargo-deny, shellcheck
//! - [`drivers`]: database drivers for other languages, for their tests
//! - [`interrupt`]: what ^C does

mod cluster;
mod demo;
mod drivers;
mod install;
mod interrupt;
mod lint;
mod measure;
mod postgres;
mod profile;
mod project;
mod setup;
mod tally;
mod test;
mod versions;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

use crate::cluster::Cluster;
use crate::postgres::Choice;
use crate::project::Project;

/// Driver of the mana_sync repository. Each command does all of its own set-up.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    /// Major version of PostgreSQL (14 to 18)
    #[arg(long = "pg", env = "PG", global = true, hide_env_values = true)]
    version: Option<String>,
    /// An installation of PostgreSQL anywhere, by its pg_config
    #[arg(long, env = "PG_CONFIG", global = true, hide_env_values = true)]
    pg_config: Option<String>,
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing: packages, cargo-pgrx, the private copy of PostgreSQL
    Setup,
    /// Print the environment for plain cargo: eval "$(cargo xtask env)"
    Env,
    /// Build the extension and install it into the private copy of PostgreSQL
    Build {
        /// debug or release
        #[arg(long, env = "PROFILE", default_value = "debug")]
        profile: String,
    },
    /// Build for release and install into the PostgreSQL of PG_CONFIG or PG, or of the first pg_config in PATH
    Install,
    /// Run the tests; the last line is the number of those that passed and failed
    Test(test::Arguments),
    /// Play examples/demo.sql and examples/http in a private cluster
    Demo {
        /// Play the SQL silently, then give a psql prompt in its database
        #[arg(long)]
        prompt: bool,
    },
    /// Measure a release build on private servers; `pages` writes the pages, `in-process` measures in a backend
    Bench {
        /// The measurements to make (all): single, push, pull, growth, disk, records, devices, wakeups, memory
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Count the instructions of one call with callgrind, and where they go
    Profile(profile::Arguments),
    /// Run commands against a private cluster
    #[command(subcommand)]
    Cluster(ClusterTask),
    /// Install the drivers of docs/drivers.md for their tests, and print the environment of these tests
    Drivers,
    /// rustfmt, clippy, cargo-deny and shellcheck; a warning is an error
    Lint,
    /// Remove the build, and what is in the state directory
    Clean,
}

#[derive(Subcommand)]
enum ClusterTask {
    /// Run a command with PGHOST and PGUSER set, then remove the cluster
    Run {
        /// The command
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Start a cluster and print its directory, which is its PGHOST too
    Start,
    /// Stop a cluster and remove its directory
    Stop {
        /// What `start` printed
        directory: PathBuf,
    },
}

fn main() -> ExitCode {
    match Arguments::try_parse().map_or_else(|error| error.exit(), run) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nmana_sync: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    interrupt::register()?;
    let project = Project::new()?;
    // An empty variable counts as not set.
    let [version, pg_config] =
        [arguments.version, arguments.pg_config].map(|text| text.filter(|text| !text.is_empty()));
    let choose = || Choice::new(&project, version.as_deref(), pg_config.as_deref());
    let set_up = || setup::set_up(&project, choose()?);
    match arguments.command {
        Task::Setup => drop(set_up()?),
        Task::Env => project.print_environment(choose()?.private_copy(&project)?.as_ref()),
        Task::Build { profile } => install::into_private_copy(&project, &set_up()?, profile == "release")?,
        Task::Install => {
            let choice = Choice::for_users(&project, version.as_deref(), pg_config.as_deref())?;
            install::for_users(&project, &setup::set_up(&project, choice)?)?;
        }
        Task::Test(arguments) => {
            let is_chosen = Choice::is_made(&project, version.as_deref(), pg_config.as_deref());
            if arguments.all {
                ensure!(!is_chosen, "make test-all is for all versions; PG and PG_CONFIG choose one");
                ensure!(arguments.one().is_none(), "make test-all is for suites; ONE names a test");
            }
            if arguments.all || !is_chosen && arguments.suites()?.is_none() && arguments.one().is_none() {
                return versions::run(&project, choose()?, &arguments);
            }
            return test::run(&project, choose()?, &arguments);
        }
        Task::Demo { prompt } => demo::run(&project, &set_up()?, prompt)?,
        Task::Bench { arguments } => measure::run(&project, &set_up()?, &arguments)?,
        Task::Profile(arguments) => profile::run(&project, &set_up()?, &arguments)?,
        Task::Cluster(ClusterTask::Run { command }) => return Cluster::start(&project, &set_up()?, &[])?.run(&command),
        Task::Cluster(ClusterTask::Start) => {
            println!("{}", Cluster::start(&project, &set_up()?, &[])?.keep().display())
        }
        Task::Cluster(ClusterTask::Stop { directory }) => cluster::stop(directory)?,
        Task::Drivers => {
            for (name, value) in drivers::install(&project)? {
                println!("export {name}={}", project::quoted(&value));
            }
        }
        Task::Lint => lint::run(&project, &set_up()?)?,
        Task::Clean => project.clean()?,
    }
    Ok(ExitCode::SUCCESS)
}
