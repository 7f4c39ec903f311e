//! Runs the test suites on several versions of PostgreSQL, one version after the other, and prints a table of what
//! passed where.
//!
//! `make test` runs what has to pass on each version before a change is taken. `make test-all` runs all suites on all
//! versions. A version that cannot be had, and a build that fails, count as one failure of each of its suites.

use std::process::ExitCode;

use anyhow::Result;

use crate::postgres::{Choice, NEWEST, PrivateCopy, VERSIONS};
use crate::project::{Project, note};
use crate::setup;
use crate::tally::Tally;
use crate::test::{self, Arguments, Selection, Suite};

/// The oldest version on which all suites have to pass.
const OLDEST_WHOLE: u32 = 15;

/// Runs the suites on all versions, and prints the table.
pub fn run(project: &Project, choice: Choice, arguments: &Arguments) -> Result<ExitCode> {
    // The chosen version builds the crates too. It is the one that distributions have, and the others are of PyPI.
    let first = setup::set_up(project, choice)?;
    let chosen = first.major;
    let plan = match (arguments.all, arguments.suites()?) {
        (true, suites) => everything(chosen, &suites.unwrap_or(Suite::ALL.into())),
        (false, _) => required(chosen),
    };
    // All are there before the first suite runs, because the test of pg_upgrade takes the newest.
    let servers = servers(project, &plan, first);
    if let Err(error) = setup::unpack_release(project, chosen) {
        note(format!("the test of pg_upgrade starts from the installed server: {error:#}"));
    }

    let mut rows = Vec::new();
    for ((major, suites), (name, server)) in plan.into_iter().zip(servers) {
        let selections: Vec<Selection> = suites.into_iter().map(Selection::all).collect();
        let newer = arguments.newer_pg_config().filter(|_| major == chosen);
        let run = |server: &PrivateCopy| test::on_version(project, server, &selections, newer);
        let tallies = server.and_then(|server| run(&server)).unwrap_or_else(|error| {
            eprintln!("\nmana_sync: PostgreSQL {name}: {error:#}");
            selections.iter().map(|_| Tally { failed: 1, ..Tally::default() }).collect()
        });
        let suites = selections.iter().map(|selection| selection.suite);
        rows.push(Row { major, name, tallies: suites.zip(tallies).collect() });
    }
    rows.sort_by_key(|row| row.major);
    let total = rows.iter().flat_map(|row| &row.tallies).map(|(_, tally)| *tally).sum();
    println!("\n{}", table(&rows));
    Ok(test::end(total))
}

/// Returns the versions in their order, each with the suites that have to pass on it before a change is taken. The chosen
/// version has all suites. Every other version has `regress` and `isolation`; the oldest of those that are fully supported
/// and the newest also have `servers`.
fn required(chosen: u32) -> Vec<(u32, Vec<Suite>)> {
    let suites = |major| match major {
        _ if major == chosen => Suite::ALL.into(),
        OLDEST_WHOLE | NEWEST => vec![Suite::Regress, Suite::Isolation, Suite::Servers],
        _ => vec![Suite::Regress, Suite::Isolation],
    };
    in_order(chosen).map(|major| (major, suites(major))).collect()
}

/// Returns the versions in their order, each with these suites. The suite `crates` needs no server, so only the chosen
/// version has it.
fn everything(chosen: u32, suites: &[Suite]) -> Vec<(u32, Vec<Suite>)> {
    let on = |major| suites.iter().copied().filter(|&suite| suite != Suite::Crates || major == chosen).collect();
    in_order(chosen)
        .map(|major| (major, on(major)))
        .filter(|(_, suites): &(_, Vec<Suite>)| !suites.is_empty())
        .collect()
}

/// Returns all versions, the chosen one first.
fn in_order(chosen: u32) -> impl Iterator<Item = u32> {
    let mut others = VERSIONS;
    others.sort_unstable();
    [chosen].into_iter().chain(others.into_iter().filter(move |&major| major != chosen))
}

/// Returns, for each version of a plan, the name of its release and its server. The server of the first version is `first`.
fn servers(project: &Project, plan: &[(u32, Vec<Suite>)], first: PrivateCopy) -> Vec<(String, Result<PrivateCopy>)> {
    let mut first = Some(first);
    let get = |major| match first.take() {
        Some(server) => Ok(server),
        None => setup::set_up_version(project, major),
    };
    let servers = plan.iter().map(|(major, _)| *major).map(get);
    let name = |server: &PrivateCopy| server.installation().release();
    servers
        .zip(plan)
        .map(|(server, (major, _))| {
            let name = server.as_ref().ok().and_then(|server| name(server).ok());
            (name.unwrap_or_else(|| major.to_string()), server)
        })
        .collect()
}

/// The results of the suites on a version.
struct Row {
    major: u32,
    /// The release of the version, like `18.6`.
    name: String,
    tallies: Vec<(Suite, Tally)>,
}

/// Returns a table with a row for each version and a column for each suite. `-` stands for a suite that did not run.
fn table(rows: &[Row]) -> String {
    let ran = |suite: &Suite| rows.iter().any(|row| row.tallies.iter().any(|(of, _)| of == suite));
    let suites: Vec<Suite> = Suite::ALL.into_iter().filter(ran).collect();
    let heading = ["PostgreSQL"].into_iter().chain(suites.iter().map(|suite| suite.name())).map(String::from).collect();
    let mut lines: Vec<Vec<String>> = vec![heading];
    for row in rows {
        let tally = |suite| row.tallies.iter().find(|(of, _)| *of == suite);
        let cells = suites.iter().map(|&suite| tally(suite).map_or_else(|| "-".into(), |(_, tally)| tally.in_short()));
        lines.push([row.name.clone()].into_iter().chain(cells).collect());
    }
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..=suites.len()).map(width).collect();
    let padded = |line: &Vec<String>| {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}", width = *width)).collect();
        cells.join("   ").trim_end().to_string()
    };
    lines.iter().map(padded).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use Suite::*;

    fn tally(passed: u64, failed: u64, skipped: u64) -> Tally {
        Tally { passed, failed, skipped }
    }

    #[test]
    fn what_is_required_is_all_suites_on_the_chosen_version_and_servers_on_the_oldest_and_the_newest() {
        let sql = vec![Regress, Isolation];
        let whole = vec![Regress, Isolation, Servers];
        assert_eq!(
            required(15),
            [(15, Suite::ALL.to_vec()), (14, sql.clone()), (16, sql.clone()), (17, sql.clone()), (18, whole.clone())]
        );
        assert_eq!(
            required(17),
            [(17, Suite::ALL.to_vec()), (14, sql.clone()), (15, whole.clone()), (16, sql), (18, whole)]
        );
    }

    #[test]
    fn everything_is_all_suites_on_all_versions_but_the_crates_once() {
        let plan = everything(15, &Suite::ALL);
        assert_eq!(plan.iter().map(|(major, _)| *major).collect::<Vec<_>>(), [15, 14, 16, 17, 18]);
        assert_eq!(plan[0].1, Suite::ALL);
        assert!(plan[1..].iter().all(|(_, suites)| *suites == [Regress, Isolation, Servers, Pgrx]));
    }

    #[test]
    fn a_version_on_which_none_of_the_chosen_suites_runs_is_left_out() {
        assert_eq!(everything(15, &[Crates]), [(15, vec![Crates])]);
        assert_eq!(everything(18, &[Servers]).len(), VERSIONS.len());
    }

    #[test]
    fn the_table_has_a_row_for_each_version_and_a_column_for_each_suite_that_ran() {
        let rows = [
            Row {
                major: 15,
                name: "15.20".into(),
                tallies: vec![(Crates, tally(250, 0, 0)), (Servers, tally(90, 0, 2))],
            },
            Row { major: 18, name: "18".into(), tallies: vec![(Regress, tally(0, 1, 0)), (Servers, tally(90, 12, 0))] },
        ];
        let expected = "\
PostgreSQL   crates       regress    servers
15.20        250 passed   -          90 passed, 2 skipped
18           -            1 failed   90 passed, 12 failed";
        assert_eq!(table(&rows), expected);
    }
}
