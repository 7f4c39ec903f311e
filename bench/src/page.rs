//! Writes the results into pages: the README's table, and docs/benchmarks.md with its plots.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::Result;
use crate::plot;
use crate::report::{Comparison, Report, digits};

/// Directory of the published results and plots.
const KEPT: &str = "docs/benchmarks";
const PAGE: &str = "docs/benchmarks.md";
const README: &str = "README.md";
const BEGIN: &str = "<!-- begin benchmarks -->";
const END: &str = "<!-- end benchmarks -->";

/// Copies the results of a run into the repository, and writes the pages from them.
pub fn publish(results: &Path) -> Result<()> {
    fs::create_dir_all(KEPT)?;
    let text = fs::read_to_string(results)?;
    fs::write(format!("{KEPT}/results.json"), &text)?;
    let report: Report = serde_json::from_str(&text)?;
    plot::write_all(&report, KEPT.as_ref())?;
    fs::write(PAGE, page(&report)?)?;
    fs::write(README, with_table(&fs::read_to_string(README)?, &report)?)?;
    println!("written: {README}, {PAGE}, {KEPT}");
    Ok(())
}

/// Returns the README with the table of a report.
fn with_table(readme: &str, report: &Report) -> Result<String> {
    let (before, rest) = readme.split_once(BEGIN).ok_or("README.md has no place for benchmarks")?;
    let (_, after) = rest.split_once(END).ok_or("README.md has no end of benchmarks")?;
    let lines: Vec<&Comparison> = report.contracts().collect();
    Ok(format!("{before}{BEGIN}\n{}\n{}{END}{after}", table(&lines)?, about(report)))
}

/// Returns the content of docs/benchmarks.md.
fn page(report: &Report) -> Result<String> {
    let mut page = String::from(
        "# Benchmarks\n\nWritten by `make bench-pages` from [results.json](benchmarks/results.json), which is what `make bench` measured. Ratios \
         first: both sides of each were measured in turns, in the same minutes; the first is so many times as fast as the \
         second, or takes so many times as much (time or room). In brackets the least and the greatest of \
         the rounds. \"The original\" is the store that mana_sync replaces, with its own statements, round trips, indexes and \
         row security; \"bare\" is plain PostgreSQL, as the owner, without row security.\n\nWhat the Rust code costs without \
         queries, `make bench-in-process` measures in a backend ([benches.rs](../src/benches.rs)); to compare a change with the \
         code before it, and not for this page.\n\n",
    );
    page += &about(report);
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
    fn the_pages_are_those_of_the_results_that_are_kept() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let read = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let report: Report = serde_json::from_str(&read(&format!("{KEPT}/results.json"))).expect("a report");
        let readme = read(README);
        assert!(page(&report).unwrap() == read(PAGE), "make bench-pages writes another {PAGE}");
        assert!(with_table(&readme, &report).unwrap() == readme, "make bench-pages writes another {README}");
    }
}
