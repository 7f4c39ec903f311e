//! Runs the benchmarks, which are the crate in `bench`.

use std::fs;

use anyhow::Result;
use duct::cmd;

use crate::install::{cargo_pgrx_install, into_private_copy};
use crate::postgres::PrivateCopy;
use crate::project::{Project, run_logged, say};

/// Makes the measurements that the arguments name, or all, with a release build on private servers. `pages` writes the
/// tables from the results of the last run. `in-process` measures the hot Rust code that needs a backend
/// (src/benches.rs).
pub fn run(project: &Project, server: &PrivateCopy, arguments: &[String]) -> Result<()> {
    let mut bin = server.bin.clone();
    match arguments.first().map(String::as_str) {
        Some("pages") => {}
        Some("in-process") => {
            // This build has its own copy of the server, so that no other command finds benchmarks in the extension.
            let copy = server.directory.with_file_name(format!("pg{}-benches", server.major));
            let _ = fs::remove_dir_all(&copy);
            let log = project.state("install-benches.log");
            run_logged(cmd!("cp", "-a", &server.directory, &copy), &log, "the server cannot be copied")?;
            bin = copy.join(bin.strip_prefix(&server.directory)?);
            say("Building mana_sync with its benchmarks (the first time takes 2 to 4 minutes)");
            let features = format!("{} pg_bench", server.feature());
            cargo_pgrx_install(project, server, &bin, &features, &["--release"], "install-benches.log")?;
            say("Measuring (10 seconds each)");
        }
        _ => {
            into_private_copy(project, server, true)?;
            say("Measuring (20 minutes with ROUNDS=5)");
        }
    }
    let cargo = ["run", "-q", "--release", "-p", "mana_sync_bench", "--"].into_iter();
    let bench = duct::cmd("cargo", cargo.chain(arguments.iter().map(String::as_str)));
    project.prepare_for(Some(server), bench.env("MANA_SYNC_PG_BIN", bin)).run()?;
    Ok(())
}
