//! Runs rustfmt, clippy, cargo-deny and shellcheck. A warning is an error.

use anyhow::Result;
use duct::cmd;

use crate::postgres::PrivateCopy;
use crate::project::{Project, say, which};
use crate::setup;

/// Runs rustfmt, clippy, cargo-deny and shellcheck, up to the first that fails.
pub fn run(project: &Project, server: &PrivateCopy) -> Result<()> {
    let run = |command| project.prepare_for(Some(server), command).run();
    say("rustfmt");
    run(cmd!("cargo", "fmt", "--all", "--", "--check"))?;

    say(format!("clippy, for PostgreSQL {}", server.major));
    let feature = format!("mana_sync/pg{}", server.major);
    let clippy = ["clippy", "--workspace", "--no-default-features", "--features"];
    run(duct::cmd("cargo", clippy.into_iter().chain([&*feature, "--", "-D", "warnings"])))?;
    // Once more with all tests and benchmarks, also those that run in the server.
    let features = format!("{feature} mana_sync/pg_test mana_sync/pg_bench");
    run(duct::cmd("cargo", clippy.into_iter().chain([&*features, "--all-targets", "--", "-D", "warnings"])))?;

    setup::install_cargo_deny(project)?;
    if which("cargo-deny").is_some() || project.state("cargo/bin/cargo-deny").exists() {
        say("cargo-deny");
        // Advisories are not checked, because they are read from the network.
        run(cmd!("cargo", "deny", "--workspace", "--all-features", "check", "licenses", "bans", "sources"))?;
    }

    if which("shellcheck").is_some() {
        say("shellcheck");
        run(cmd!("shellcheck", "-x", "scripts/xtask.sh", "tests/regress/check.sh", ".ci/run"))?;
    }
    Ok(())
}
