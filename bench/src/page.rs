//! Writes the results as a document: docs/benchmarks.md and its plots.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::Result;
use crate::plot;
use crate::report::{Comparison, Report, digits};

/// The directory of the published results and plots.
const KEPT: &str = "docs/benchmarks";
const PAGE: &str = "docs/benchmarks.md";

/// Copies the results of a run into the repository, and writes docs/benchmarks.md from them.
pub fn publish(results: &Path) -> Result<()> {
    fs::create_dir_all(KEPT)?;
    let text = fs::read_to_string(results)?;
    fs::write(format!("{KEPT}/results.json"), &text)?;
    let report: Report = serde_json::from_str(&text)?;
    plot::write_all(&report, KEPT.as_ref())?;
    fs::write(PAGE, page(&report)?)?;
    println!("written: {PAGE}, {KEPT}");
    Ok(())
}

/// Returns the content of docs/benchmarks.md.
fn page(report: &Report) -> Result<String> {
    let mut page = String::from(
        "# Benchmarks\n\n`make bench-pages` writes this page from [results.json](benchmarks/results.json), the results of the last \
         `make bench`. A ratio compares two sides that were measured in turns, in the same minutes. \"3 × as fast\" means that the \
         first side is so many times as fast as the second; \"3 × as much\" means that it takes so many times as much time or \
         room. \"Rounds\" has the least and the greatest ratio of a round. \"The original\" is the store that mana_sync \
         replaces, with its own statements, round trips, indexes and row security. \"Bare\" is plain PostgreSQL, as the owner, \
         without row security.\n\n`make bench-in-process` measures the Rust code without queries, in a backend \
         ([benches.rs](../src/benches.rs)). It compares a change with the code before it, and is not part of this page. \
         Nor is `cargo bench -p mana_sync_cursor -p mana_sync_merge`, which measures the code that needs no backend. \
         [Where the time goes](benchmarks/profile.md) counts instructions.\n\n",
    );
    page += &about(report);
    page += "\n## Ratios that have a limit\n\nThe column \"contract\" has the limit, and says where it is not met.\n\n";
    page += &table(&report.contracts().collect::<Vec<_>>())?;
    let plots: BTreeSet<&str> =
        report.parts.iter().flat_map(|part| &part.curves).map(|curve| curve.plot.as_str()).collect();
    let mut last = "";
    for part in &report.parts {
        if part.name != last {
            write!(page, "\n## {}\n", part.name)?;
        }
        last = &part.name;
        write!(page, "\n{} ({}).\n\n", part.about, part.of)?;
        if !part.comparisons.is_empty() {
            page += &table(&part.comparisons.iter().collect::<Vec<_>>())?;
            page.push('\n');
        }
        page += "| | figure | range |\n|---|---:|---:|\n";
        for figure in &part.figures {
            let value = figure.value;
            let range = match value.least == value.greatest {
                true => String::new(),
                false => format!("{} to {}", digits(value.least), digits(value.greatest)),
            };
            writeln!(page, "| {} | {} {} | {range} |", figure.what, digits(value.median), figure.unit)?;
        }
    }
    page += "\n## Plots\n";
    for plot in plots {
        write!(page, "\n![{plot}](benchmarks/{})\n", plot::file_name(plot))?;
    }
    Ok(page)
}

fn table(lines: &[&Comparison]) -> Result<String> {
    let mut table = String::from("| what | beside | ratio | rounds | contract |\n|---|---|---:|---:|---|\n");
    for line in lines {
        let contract = match (line.contract, line.is_met()) {
            (None, _) => String::new(),
            (_, true) => line.limit(),
            (_, false) => format!("**{}: not met**", line.limit()),
        };
        writeln!(
            table,
            "| {} | {} | {} × {} | {} to {} | {contract} |",
            line.what,
            line.against,
            digits(line.ratio),
            line.sense(),
            digits(line.of_rounds.least),
            digits(line.of_rounds.greatest),
        )?;
    }
    Ok(table)
}

fn about(report: &Report) -> String {
    format!("{}; {}.\n", report.machine, report.server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_that_of_the_results_that_are_kept() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let read = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let report: Report = serde_json::from_str(&read(&format!("{KEPT}/results.json"))).expect("a report");
        assert!(page(&report).unwrap() == read(PAGE), "make bench-pages writes another {PAGE}");
    }
}
