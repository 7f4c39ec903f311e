//! `make bench`: measures mana_sync, the store that it replaces and plain PostgreSQL in turns, on private servers.
//!
//! Ratios are printed first, because machines are noisy, and both sides of a ratio are measured in the same seconds.
//! Each figure is the median of the rounds, with the least and the greatest value. target/bench/results.json has the
//! results as JSON, beside the plots.
//!
//! | module | what it measures |
//! |---|---|
//! | [`single`]  | single changes, compared with the original store and a bare INSERT |
//! | [`push`]    | pushes, compared with the original store and COPY |
//! | [`pull`]    | first syncs, compared with the original store and bare index scans |
//! | [`growth`]  | the cost of calls in large logs, with many spaces, and while other transactions are open or write |
//! | [`disk`]    | bytes per row |
//! | [`adopt`]   | adoption of a log of the original store, compared with INSERT … SELECT |
//! | [`records`] | merged records, compared with the same merging in SQL |
//! | [`devices`] | pulls of records, compared with pulls of changes |
//! | [`wakeups`] | the cost of wake-ups for writers |
//! | [`memory`]  | the memory of backends, and the memory that they do not free |
//!
//! Apart from these, [`in_process`] runs the benchmarks of the extension's Rust code.

mod adopt;
mod devices;
mod disk;
mod growth;
mod in_process;
mod memory;
mod page;
mod plot;
mod pull;
mod push;
mod records;
mod report;
mod server;
mod single;
mod times;
mod wakeups;

use std::error::Error;
use std::fs;
use std::process::Command;

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::{Cluster, Options};
use report::{Part, Report};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "usage: mana_sync_bench [part…]
       mana_sync_bench pages: docs/benchmarks.md from the last results
       mana_sync_bench in-process [name…]: Rust code in a backend; all of it, or what has one of these in its name

Parts: single push pull growth disk adopt records devices wakeups memory; all of them, unless some are named. In the environment:
ROUNDS=n is the number of rounds (default 7), ROWS=n the largest log of growth (default 1000000; 10000000 takes long).
Results are printed, and written to target/bench: results.json and plots.";

/// The directory of the results.
const DIRECTORY: &str = "target/bench";

const PARTS: [&str; 10] =
    ["single", "push", "pull", "growth", "disk", "adopt", "records", "devices", "wakeups", "memory"];

fn main() -> Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if names == ["pages"] {
        return page::publish(format!("{DIRECTORY}/results.json").as_ref());
    }
    if let Some(("in-process", benches)) = names.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        fs::create_dir_all(DIRECTORY)?;
        return in_process::run(benches, &format!("{DIRECTORY}/in-process.json"));
    }
    if names.iter().any(|name| !PARTS.contains(&name.as_str())) {
        println!("{USAGE}");
        return Ok(());
    }
    let rounds: usize = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(7);
    let mut report = about()?;
    println!("{}\n{}", report.machine, report.server);
    let of =
        format!("{}, commit {}", said("date", &["-u", "+%Y-%m-%d"])?, said("git", &["rev-parse", "--short", "HEAD"])?);
    fs::create_dir_all(DIRECTORY)?;
    // Parts that are not measured now keep their earlier results, if these are from the same machine.
    let results = format!("{DIRECTORY}/results.json");
    let last = fs::read_to_string(&results).ok().and_then(|text| serde_json::from_str::<Report>(&text).ok());
    if let Some(last) = last.filter(|last| (&last.machine, &last.server) == (&report.machine, &report.server)) {
        report.parts = last.parts;
    }
    for name in PARTS.into_iter().filter(|part| names.is_empty() || names.iter().any(|name| name == part)) {
        eprintln!("\n==> {name}");
        let parts = match name {
            "single" => single::single(rounds)?,
            "push" => push::push(rounds)?,
            "pull" => pull::pull(rounds)?,
            "growth" => vec![growth::growth(rounds)?],
            "disk" => vec![disk::disk()?],
            "adopt" => vec![adopt::adopt(rounds)?],
            "records" => vec![records::records(rounds)?],
            "devices" => devices::devices(rounds)?,
            "wakeups" => vec![wakeups::wakeups(rounds)?],
            _ => vec![memory::memory()?],
        };
        let parts: Vec<Part> = parts.into_iter().map(|part| Part { of: of.clone(), ..part }).collect();
        parts.iter().for_each(Part::print);
        report.replace(name, &PARTS, parts);
        fs::write(&results, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    plot::write_all(&report, DIRECTORY.as_ref())?;
    let (met, all) = report.contracts().fold((0, 0), |(met, all), line| (met + usize::from(line.is_met()), all + 1));
    println!("\n{met} of {all} limits of the contract are met. Written to {DIRECTORY}: results.json and plots");
    Ok(())
}

/// Describes the machine and the server.
fn about() -> Result<Report> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let models: Vec<&str> = cpus.lines().filter(|line| line.starts_with("model name")).collect();
    let model = models.first().and_then(|line| line.split(':').nth(1)).unwrap_or("unknown processor").trim();
    let cluster = Cluster::new(Options::default());
    let version: String = cluster.superuser(DATABASE).query_one("SHOW server_version", &[])?.get(0);
    let settings: Vec<String> = server::SETTINGS.iter().map(|(name, value)| format!("{name} {value}")).collect();
    Ok(Report {
        machine: format!("{model}, {} cores, Linux {}", models.len(), said("uname", &["-r"])?),
        server: format!("PostgreSQL {version}, fsync on, {}", settings.join(", ")),
        parts: Vec::new(),
    })
}

/// Runs a program and returns its output.
fn said(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}
