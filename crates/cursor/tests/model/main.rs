//! Tests of the cursor algebra against plain sets of transactions.
//!
//! A small model of servers (primaries that fork, a standby that lags, crashes that lose an unflushed tail) runs random schedules of
//! transactions. Devices pull from the model through the code that the extension uses. At the end, every transaction commits, and each
//! device pulls until it is at rest. Then the device must hold each change that its scope allows, and exactly once where the contract says
//! so. Every schedule is made from a list of small numbers, so that proptest can shrink it. A schedule that fails prints as a scenario: its
//! text can be a file in `testdata`, and fails there in the same way.

mod device;
mod records;
mod scenario;
mod schedule;
mod server;
mod step;

use mana_sync_cursor::epoch::History;
use mana_sync_cursor::hash;
use mana_sync_cursor::id::{Lsn, SystemId, Timeline};
use proptest::prelude::*;
use schedule::{World, run};
use std::fmt;

/// Makes the history that began with `timeline` at a position of the write-ahead log.
fn history(timeline: u32, at: u64) -> History {
    let (system, timeline) = (SystemId(42), Timeline(timeline));
    History { system, timeline, id: hash::history_id(system, 5, timeline, Lsn(at)), began_at: Lsn(at) }
}

/// Makes the message of a step that failed.
fn wrong(expected: impl fmt::Display, found: impl fmt::Display) -> String {
    format!("  expected: {expected}\n  found:    {found}")
}

/// Configures proptest with 1,000 cases, which is a quick run, or with the number in `MANA_SYNC_MODEL_CASES`.
fn config() -> ProptestConfig {
    let cases = std::env::var("MANA_SYNC_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1000);
    ProptestConfig { cases, max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() }
}

/// The small numbers that choose the steps of a schedule. They print on one line below the scenario.
#[derive(Clone)]
struct Choices(Vec<u8>);

impl fmt::Debug for Choices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

fn schedule() -> impl Strategy<Value = Choices> {
    prop::collection::vec(any::<u8>(), 1..160).prop_map(Choices)
}

/// Runs a schedule for proptest.
fn check(world: World, choices: &Choices) -> Result<(), TestCaseError> {
    run(world, &choices.0).map(drop).map_err(TestCaseError::fail)
}

/// Plays schedules that once lost changes. The random tests below found them.
///
/// `MANA_SYNC_MODEL_TRACE=0,188,3 cargo test --test model schedules -- --nocapture` also runs the schedule with these
/// numbers, and prints its steps and what they do. With `MANA_SYNC_MODEL_CUT=1` cursors are cut. With
/// `MANA_SYNC_MODEL_FORKS=1` servers fork and crash. With `MANA_SYNC_MODEL_PURGES=1` deletes are purged, and spaces
/// stay as they are. With `MANA_SYNC_MODEL_RECORDS=1` devices pull records.
///
/// `MANA_SYNC_MODEL_SHORTEN=FILE cargo test --test model scenario -- --nocapture` prints a shorter form of the scenario in this file, which
/// must fail. It leaves out the steps without which the scenario still fails.
#[test]
fn schedules_that_once_lost_changes() {
    const JOINED_IN_A_WALK_WHOSE_TARGET_WAS_CUT: &[u8] = &[
        101, 99, 13, 182, 117, 144, 115, 117, 119, 16, 89, 230, 16, 28, 3, 181, 93, 1, 1, 0, 48, 14, 66, 0, 0, 0, 15,
        2, 71, 0, 0, 251, 16, 109, 91, 0, 0, 18, 0, 0, 0, 213, 171, 1, 0, 112, 0, 24, 53, 0, 0, 72, 0, 0, 0, 218, 12,
        0, 27, 137, 29, 17, 0, 16, 0, 116, 0, 0, 0, 16, 0, 77, 38, 0, 0, 69, 0, 1, 1, 205, 236, 8, 0, 80, 1, 205, 5, 0,
        92, 125, 50, 0, 15, 82, 4, 0, 0, 165, 37, 180, 123, 0, 0, 116, 104, 0, 0, 54, 18, 0, 100, 0, 179, 54, 5, 0, 18,
        132, 1, 28, 16, 0, 46, 162, 0, 0, 0, 174, 231, 132, 0, 39, 2, 0, 0, 0, 58, 0, 45, 131, 0, 0, 109, 75, 23, 0, 2,
        0, 0, 0,
    ];
    let world = World { cut: true, spaces_change: true, ..World::default() };
    run(world, JOINED_IN_A_WALK_WHOSE_TARGET_WAS_CUT).unwrap_or_else(|failure| panic!("{failure}"));
    if let Ok(choices) = std::env::var("MANA_SYNC_MODEL_TRACE") {
        let choices: Vec<u8> = choices.split(',').filter_map(|choice| choice.trim().parse().ok()).collect();
        let set = |name| std::env::var_os(name).is_some();
        let (cut, forks) = (set("MANA_SYNC_MODEL_CUT"), set("MANA_SYNC_MODEL_FORKS"));
        let purges = set("MANA_SYNC_MODEL_PURGES");
        let world = World {
            cut,
            spaces_change: !purges,
            forks,
            crashes: forks,
            purges,
            records: set("MANA_SYNC_MODEL_RECORDS"),
        };
        run(world, &choices).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

/// Checks that each step of a schedule reads back as the same step, because a schedule that fails is kept as a file.
#[test]
fn schedules_read_back_as_scenarios() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 100, ..config() });
    let outcome = runner.run(&(schedule(), any::<bool>(), any::<bool>()), |(choices, purges, records)| {
        let world = World { cut: true, spaces_change: !purges, forks: true, crashes: true, purges, records };
        for line in run(world, &choices.0).map_err(TestCaseError::fail)?.lines() {
            let step: step::Step = line.parse().map_err(TestCaseError::fail)?;
            prop_assert_eq!(step.to_string(), line);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn nothing_is_lost_and_nothing_repeated(choices in schedule()) {
        check(World::default(), &choices)?;
    }

    #[test]
    fn spaces_come_and_go(choices in schedule()) {
        check(World { spaces_change: true, ..World::default() }, &choices)?;
    }

    #[test]
    fn nothing_is_lost_in_crashes(choices in schedule()) {
        check(World { spaces_change: true, crashes: true, ..World::default() }, &choices)?;
    }

    #[test]
    fn nothing_is_lost_where_cursors_are_cut(choices in schedule()) {
        check(World { cut: true, spaces_change: true, ..World::default() }, &choices)?;
    }

    #[test]
    fn nothing_is_lost_where_servers_fork_and_cursors_are_cut(choices in schedule()) {
        check(World { cut: true, spaces_change: true, forks: true, crashes: true, ..World::default() }, &choices)?;
    }

    #[test]
    fn nothing_is_lost_where_servers_fork(choices in schedule()) {
        check(World { spaces_change: true, forks: true, crashes: true, ..World::default() }, &choices)?;
    }

    #[test]
    fn what_was_purged_lives_on_no_device(choices in schedule()) {
        check(World { purges: true, ..World::default() }, &choices)?;
    }

    #[test]
    fn what_was_purged_lives_on_no_device_where_servers_fork(choices in schedule()) {
        check(World { cut: true, forks: true, crashes: true, purges: true, ..World::default() }, &choices)?;
    }

    #[test]
    fn devices_hold_the_records_that_the_server_shows(choices in schedule()) {
        check(World { records: true, ..World::default() }, &choices)?;
    }

    #[test]
    fn devices_hold_the_records_of_spaces_that_come_and_go(choices in schedule()) {
        check(World { records: true, spaces_change: true, crashes: true, ..World::default() }, &choices)?;
    }

    #[test]
    fn no_record_is_lost_where_cursors_are_cut(choices in schedule()) {
        check(World { records: true, cut: true, ..World::default() }, &choices)?;
    }

    #[test]
    fn no_record_is_lost_where_spaces_change_and_cursors_are_cut(choices in schedule()) {
        check(World { records: true, cut: true, spaces_change: true, ..World::default() }, &choices)?;
    }

    #[test]
    fn no_record_is_lost_where_servers_fork(choices in schedule()) {
        check(World { records: true, spaces_change: true, forks: true, crashes: true, ..World::default() }, &choices)?;
    }

    #[test]
    fn no_record_is_lost_where_servers_fork_and_cursors_are_cut(choices in schedule()) {
        let world = World { records: true, cut: true, spaces_change: true, forks: true, crashes: true, purges: false };
        check(world, &choices)?;
    }

    #[test]
    fn what_was_purged_lives_in_no_record(choices in schedule()) {
        check(World { records: true, purges: true, ..World::default() }, &choices)?;
    }

    #[test]
    fn what_was_purged_lives_in_no_record_where_servers_fork(choices in schedule()) {
        check(World { records: true, cut: true, forks: true, crashes: true, purges: true, ..World::default() }, &choices)?;
    }
}
