//! Counts the tests in the output of a suite: the output of cargo, and the output of pg_regress in its old form and in
//! its form since PostgreSQL 16.

use std::fmt;
use std::iter::Sum;
use std::ops::AddAssign;

/// How many tests passed, failed, and were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl Tally {
    /// Counts the tests in a suite's output. `ran` says whether the suite ended without an error. A suite that could
    /// not run, or that has no test, counts as one failure.
    pub fn of_suite(output: &str, ran: bool) -> Self {
        let mut tally = Self::default();
        for line in output.lines() {
            tally += Self::of_line(line);
        }
        // A test that has to skip itself says so, and passes.
        tally.skipped += skipped_by_themselves(output);
        tally.passed = tally.passed.saturating_sub(skipped_by_themselves(output));
        if (!ran && tally.failed == 0) || tally.passed + tally.failed == 0 {
            tally.failed += 1;
        }
        tally
    }

    /// Returns the numbers that are not zero: `90 passed, 2 skipped`.
    pub fn in_short(self) -> String {
        let counts = [(self.passed, "passed"), (self.failed, "failed"), (self.skipped, "skipped")];
        let shown: Vec<String> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        shown.join(", ")
    }

    fn of_line(line: &str) -> Self {
        if let Some(summary) = line.strip_prefix("test result:") {
            return Self::of_summary(summary);
        }
        match of_pg_regress(line) {
            Some(true) => Self { passed: 1, ..Self::default() },
            Some(false) => Self { failed: 1, ..Self::default() },
            None => Self::default(),
        }
    }

    /// Parses a summary of cargo: `ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s`
    fn of_summary(summary: &str) -> Self {
        let words: Vec<&str> = summary.split_whitespace().collect();
        let before = |unit: &str| {
            let pairs = words.windows(2).filter(|pair| pair[1] == unit);
            pairs.filter_map(|pair| pair[0].parse::<u64>().ok()).sum()
        };
        Self { passed: before("passed;"), failed: before("failed;"), skipped: before("ignored;") }
    }
}

/// Parses a result of pg_regress: `ok 3 - wire   123 ms`, `not ok 3 - wire   123 ms`; before PostgreSQL 16
/// `test wire ... ok   123 ms`, or `     wire ... FAILED   123 ms` within a group. Returns `None` for any other line.
fn of_pg_regress(line: &str) -> Option<bool> {
    let is_numbered = |rest: &str| rest.starts_with(|first: char| first.is_ascii_digit());
    if line.strip_prefix("ok ").is_some_and(is_numbered) {
        return Some(true);
    }
    if line.strip_prefix("not ok ").is_some_and(is_numbered) {
        return Some(false);
    }
    let (name, outcome) = line.rsplit_once("... ")?;
    // cargo prints no time.
    if !(name.starts_with("test") || name.starts_with("    ")) || !outcome.ends_with(" ms") {
        return None;
    }
    match outcome.split_whitespace().next()? {
        "ok" => Some(true),
        "FAILED" => Some(false),
        _ => None,
    }
}

fn skipped_by_themselves(output: &str) -> u64 {
    output.lines().filter(|line| line.starts_with("skipped: ")).count() as u64
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |mut total, tally| {
            total += tally;
            total
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(formatter, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// Whether a line of the output is shown while a suite runs. The log has every line.
pub fn is_progress(line: &str) -> bool {
    let compiles = line.trim_start().strip_prefix("Compiling ");
    let begins = ["test ", "ok ", "not ok ", "error"].iter().any(|prefix| line.starts_with(prefix));
    begins
        || (line.starts_with("     ") && line.contains("... "))
        || compiles.is_some_and(|name| name.starts_with("mana_sync") || name.starts_with("pgrx"))
}

/// Returns the part of a failed suite's log that is shown: what cargo says about failures and errors, or else the last
/// lines.
pub fn excerpt(log: &str) -> String {
    /// The number of lines that are shown at most. They are enough to know what to look for in the log.
    const MOST: usize = 250;
    const FIRST: usize = 100;
    const LAST: usize = 40;
    let lines: Vec<&str> = log.lines().collect();
    let begin = lines.iter().position(|line| line.starts_with("failures:") || line.starts_with("error"));
    let shown = &lines[begin.unwrap_or(lines.len().saturating_sub(LAST))..];
    if shown.len() <= MOST {
        return shown.join("\n");
    }
    let end = shown.len() - (MOST - FIRST);
    [&shown[..FIRST], &["[…]"], &shown[end..]].concat().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, failed: u64, skipped: u64) -> Tally {
        Tally { passed, failed, skipped }
    }

    #[test]
    fn summaries_of_cargo_are_added_up() {
        let output = "\
running 2 tests
test ids ... ok
test flush ... FAILED

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 4 filtered out; finished in 1.20s
";
        assert_eq!(Tally::of_suite(output, false), tally(13, 1, 3));
    }

    #[test]
    fn a_test_of_cargo_that_skips_itself_is_skipped_and_not_passed() {
        let output = "skipped: psycopg, its driver is not there\ntest result: ok. 2 passed; 0 failed; 0 ignored;\n";
        assert_eq!(Tally::of_suite(output, true), tally(1, 0, 1));
    }

    #[test]
    fn pg_regress_before_16_is_counted_by_line() {
        let output = "\
============== running regression test queries        ==============
test helpers                      ... ok           40 ms
test wire                         ... FAILED      210 ms
parallel group (2 tests):  a b
     a                            ... ok           12 ms
     b                            ... FAILED (test process exited with exit code 2)       12 ms
======================
 1 of 2 tests failed.
";
        assert_eq!(Tally::of_suite(output, false), tally(2, 2, 0));
    }

    #[test]
    fn pg_regress_since_16_is_counted_by_line() {
        let output = "\
ok 1         - helpers                                    40 ms
not ok 2     - wire                                      210 ms
# 1 of 2 tests failed.
1..2
";
        assert_eq!(Tally::of_suite(output, false), tally(1, 1, 0));
    }

    #[test]
    fn a_line_of_cargo_is_no_line_of_pg_regress() {
        assert_eq!(of_pg_regress("test ids_are_widened ... ok"), None);
        assert_eq!(of_pg_regress("test takes_many_ms ... ok"), None);
        assert_eq!(of_pg_regress("ok then"), None);
    }

    #[test]
    fn a_suite_that_could_not_run_counts_as_one_failure() {
        assert_eq!(Tally::of_suite("error: could not compile\n", false), tally(0, 1, 0));
        let crashed = "test result: ok. 4 passed; 0 failed; 0 ignored;\nerror: test failed\n";
        assert_eq!(Tally::of_suite(crashed, false), tally(4, 1, 0));
    }

    #[test]
    fn a_suite_without_a_test_counts_as_one_failure() {
        assert_eq!(Tally::of_suite("", true), tally(0, 1, 0));
    }

    #[test]
    fn the_last_line_names_skipped_tests_where_there_are_some() {
        assert_eq!(tally(3, 0, 0).to_string(), "3 passed, 0 failed");
        assert_eq!(tally(3, 1, 2).to_string(), "3 passed, 1 failed, 2 skipped");
    }

    #[test]
    fn in_short_there_are_no_zeros() {
        assert_eq!(tally(3, 0, 2).in_short(), "3 passed, 2 skipped");
        assert_eq!(tally(0, 1, 0).in_short(), "1 failed");
    }

    #[test]
    fn tallies_add_up() {
        assert_eq!([tally(3, 0, 2), tally(0, 1, 0), tally(4, 0, 1)].into_iter().sum::<Tally>(), tally(7, 1, 3));
    }

    #[test]
    fn progress_is_shown_and_the_rest_is_not() {
        for line in [
            "test a ... ok",
            "ok 1 - a",
            "not ok 2 - b",
            "     a ... ok  1 ms",
            "error[E1]",
            "   Compiling mana_sync v0.1.0",
        ] {
            assert!(is_progress(line), "{line}");
        }
        for line in ["", "running 2 tests", "   Compiling libc v0.2.0", "warning: unused"] {
            assert!(!is_progress(line), "{line}");
        }
    }

    #[test]
    fn an_excerpt_begins_with_the_failures_and_leaves_out_the_middle_of_many_lines() {
        assert_eq!(excerpt("test a ... FAILED\n\nfailures:\n---- a stdout ----"), "failures:\n---- a stdout ----");
        let many: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        let text = excerpt(&many);
        assert_eq!((text.lines().count(), text.lines().next()), (40, Some("line 960")));
        let text = excerpt(&format!("error: it failed\n{many}"));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), lines[0], lines[100], lines[250]), (251, "error: it failed", "[…]", "line 999"));
    }
}
