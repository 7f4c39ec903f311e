//! `make bench`: mana_sync beside the store that it replaces, and beside plain PostgreSQL, on private servers, in
//! turns.
//!
//! Prints ratios first: machines are noisy, and both sides of a ratio were measured in the same seconds. Each figure is
//! the median of the rounds, with the fastest and the slowest. The same as JSON is in target/bench.json.
//!
//! | module | what it measures |
//! |---|---|
//! | [`push`]    | pushes, beside the original and COPY |
//! | [`wakeups`] | what wake-ups cost writers |
//! | [`records`] | merged records, beside the same merge in SQL |
//! | [`memory`]  | what backends hold while they merge and export a million changes |

mod memory;
mod push;
mod records;
mod server;
mod times;
mod wakeups;

use std::error::Error;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "usage: mana_sync_bench [push] [wakeups] [records] [memory]

All of them, unless some are named. ROUNDS=n in the environment sets the number of rounds (default 7).";

fn main() -> Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if names.iter().any(|name| !["push", "wakeups", "records", "memory"].contains(&name.as_str())) {
        println!("{USAGE}");
        return Ok(());
    }
    let chosen = |name: &str| names.is_empty() || names.iter().any(|chosen| chosen == name);
    let rounds: usize = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(7);
    let mut results = Vec::new();
    if chosen("push") {
        for synchronous_commit in ["off", "on"] {
            results.push(push::push(synchronous_commit, rounds)?);
        }
    }
    if chosen("wakeups") {
        results.push(wakeups::wakeups(rounds)?);
    }
    if chosen("records") {
        results.push(records::records(rounds)?);
    }
    if chosen("memory") {
        results.push(memory::memory()?);
    }
    let file = "target/bench.json";
    std::fs::write(file, serde_json::to_string_pretty(&results)?)?;
    println!("\nwritten to {file}");
    Ok(())
}
