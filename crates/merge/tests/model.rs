//! Property tests on random logs. The expected results come from a second, deliberately simple implementation of merging, which
//! consists of lists, filters and maxima over JSON.
//!
//! `MANA_SYNC_MODEL_CASES` sets the number of logs for each property.

mod random_log;

use mana_sync_merge::compact::{Action, LatestWrites};
use mana_sync_merge::purge::{GroupSummary, PurgeLimit};
use mana_sync_merge::record::{Record, StoredRecord};
use mana_sync_merge::time::Time;
use mana_sync_simple_merge::{Merged, merge as merge_simply};
use proptest::prelude::*;
use random_log::{Log, Row, SPACES, USERS, logs};
use std::collections::{BTreeMap, BTreeSet};

fn cases() -> ProptestConfig {
    let cases = std::env::var("MANA_SYNC_MODEL_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: cases.unwrap_or(2_000), failure_persistence: None, ..ProptestConfig::default() }
}

/// Merges rows with the simple implementation.
fn merge<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Option<Merged> {
    merge_simply(&rows.into_iter().map(Row::simple).collect::<Vec<_>>())
}

/// Merges rows with the crate, and returns the result in the form of the simple implementation.
fn merge_with_crate<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Option<Merged> {
    let mut record = Record::new(allocator_api2::alloc::Global);
    for row in rows {
        record.apply(&row.change(), row.space.map(str::as_bytes), |write| {
            (write.value.clone(), write.device_time.map(<[u8]>::to_vec))
        });
    }
    to_simple(&record)
}

/// What the tests store for a field: its value, and the device's spelling of its time.
type StoredValue = (serde_json::Value, Option<Vec<u8>>);

fn to_simple(record: &Record<StoredValue>) -> Option<Merged> {
    record.exists().then(|| Merged {
        lives: record.is_live(),
        fields: record
            .fields()
            .iter()
            .map(|field| (String::from_utf8(field.name().to_vec()).unwrap(), field.value.0.clone()))
            .collect(),
        times: record
            .fields()
            .iter()
            .map(|field| (String::from_utf8(field.name().to_vec()).unwrap(), random_log::date(field.stamp.time)))
            .collect(),
        space: record.space().map(|space| String::from_utf8(space.to_vec()).unwrap()),
        updated_at: random_log::date(record.updated_at().unwrap()),
        deleted_at: record.deleted_at().map(random_log::date),
    })
}

/// Returns the rows that a compaction of all changes created before minute `age` keeps.
fn compacted(log: &Log, age: i64) -> Vec<Row> {
    let mut groups: BTreeMap<_, LatestWrites> = BTreeMap::new();
    for row in &log.rows {
        groups.entry(row.group()).or_default().add(&row.change());
    }
    let rows = log.rows.iter().filter_map(|row| {
        if row.created_at >= age {
            return Some(row.clone());
        }
        match groups[&row.group()].action(&row.change(), row.has_non_object_data()) {
            Action::Keep => Some(row.clone()),
            Action::Remove => None,
            Action::Trim(fields) => Some(row.without(&fields)),
        }
    });
    rows.collect()
}

/// Returns the rows that a purge of all deletes created before minute `age` keeps, and the deletes that it removes.
fn purged(log: &Log, age: i64) -> (Vec<Row>, Vec<Row>) {
    let mut groups: BTreeMap<_, GroupSummary> = BTreeMap::new();
    for row in &log.rows {
        groups.entry(row.group()).or_default().add(&row.change());
    }
    let least = |shared: bool| {
        let groups = groups.iter().filter(|((_, space), _)| space.is_some() == shared);
        groups.map(|(_, group)| group.limit()).min().unwrap_or(PurgeLimit::All)
    };
    let (shared, private) = (least(true), least(false));
    let purged_group = |group: (&'static str, Option<&'static str>)| {
        let summary = &groups[&group];
        let delete = summary.delete_to_purge(Time::from_micros(age * 60_000_000))?;
        let others = if group.1.is_some() { private } else { summary.limit() };
        (shared.allows(delete) && others.allows(delete)).then_some(summary)
    };
    let is_removed = |row: &Row| purged_group(row.group()).is_some_and(|summary| summary.covers(&row.change()));
    let (removed, kept): (Vec<Row>, Vec<Row>) = log.rows.iter().cloned().partition(is_removed);
    (kept, removed.into_iter().filter(|row| row.op == "delete").collect())
}

/// Returns every possible reader: each user with each set of spaces.
fn readers() -> impl Iterator<Item = (&'static str, BTreeSet<&'static str>)> {
    USERS.into_iter().flat_map(|user| {
        (0..1 << SPACES.len()).map(move |set: usize| {
            (
                user,
                SPACES.into_iter().enumerate().filter(|(i, _)| set & (1 << i) != 0).map(|(_, space)| space).collect(),
            )
        })
    })
}

fn sees(user: &str, spaces: &BTreeSet<&str>, row: &Row) -> bool {
    row.user == user || row.space.is_some_and(|space| spaces.contains(space))
}

/// Returns what a device receives if it pulls before the log changes, and again afterwards: first the rows of `before`
/// that it has `seen`, then the other rows of `after`.
fn resumed<'a>(before: &'a [Row], after: &'a [Row], seen: impl Fn(&Row) -> bool) -> Vec<&'a Row> {
    let early = before.iter().filter(|row| seen(row));
    early.chain(after.iter().filter(|row| !seen(row))).collect()
}

/// Returns what a reader sees of a record: nothing if the record is deleted.
fn live(merged: Option<Merged>) -> Option<Merged> {
    merged.filter(|merged| merged.lives)
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn merging_gives_the_simple_result_in_any_order(log in logs(), order in any::<prop::sample::Index>(), keys in prop::collection::vec(any::<u64>(), 12)) {
        let expected = merge(log.rows.iter());
        prop_assert_eq!(&merge_with_crate(&log.rows), &expected);
        let mut shuffled: Vec<&Row> = log.rows.iter().collect();
        shuffled.sort_by_key(|row| keys[row.position.seq as usize % keys.len()]);
        // Merging a change twice makes no difference.
        if !shuffled.is_empty() {
            shuffled.push(shuffled[order.index(shuffled.len())]);
        }
        prop_assert_eq!(&merge_with_crate(shuffled), &expected);
    }

    #[test]
    fn combined_partial_records_are_the_same_record(log in logs(), parts in prop::collection::vec(0usize..4, 12), order in Just([0usize, 1, 2, 3]).prop_shuffle()) {
        let mut partial: Vec<Record<StoredValue>> = (0..4).map(|_| Record::new(allocator_api2::alloc::Global)).collect();
        for (i, row) in log.rows.iter().enumerate() {
            partial[parts[i % parts.len()]].apply(&row.change(), row.space.map(str::as_bytes), |write| (write.value.clone(), write.device_time.map(<[u8]>::to_vec)));
        }
        let mut whole = Record::new(allocator_api2::alloc::Global);
        for part in order {
            // Encoded and decoded, as between processes. A JSON value goes as text: postcard does not describe its data.
            let to_text = |value: &StoredValue| (value.0.to_string(), value.1.clone());
            let from_text = |value: (String, Option<Vec<u8>>)| (serde_json::from_str(&value.0).unwrap(), value.1);
            let bytes = postcard::to_stdvec(&partial[part].to_stored(to_text)).unwrap();
            let decode = |bytes| postcard::from_bytes::<StoredRecord<'_, (String, Option<Vec<u8>>)>>(bytes).ok();
            let stored = decode(&bytes).expect("what was written can be read");
            let read: Record<StoredValue> = Record::from_stored(stored, allocator_api2::alloc::Global, from_text);
            prop_assert_eq!(&to_simple(&read), &to_simple(&partial[part]));
            for cut in 0..bytes.len() {
                prop_assert!(decode(&bytes[..cut]).is_none(), "half of a record is none");
            }
            whole.combine(&read, Clone::clone);
        }
        prop_assert_eq!(to_simple(&whole), merge(log.rows.iter()));
    }

    #[test]
    fn no_reader_can_tell_that_the_log_was_compacted(log in logs(), age in 0i64..40, seen in any::<u16>()) {
        let after = compacted(&log, age);
        let had = |row: &Row| seen & (1 << (row.position.seq as u32 % 16)) != 0;
        for (user, spaces) in readers() {
            let visible = |rows: &[Row]| rows.iter().filter(|row| sees(user, &spaces, row)).cloned().collect::<Vec<_>>();
            let (before, after) = (visible(&log.rows), visible(&after));
            let expected = merge(before.iter());
            prop_assert_eq!(&merge(after.iter()), &expected, "{} with {:?} from the beginning", user, spaces);
            prop_assert_eq!(&merge(resumed(&before, &after, had)), &expected, "{} with {:?} resumes", user, spaces);
        }
        // A second compaction changes nothing.
        let again = compacted(&Log { rows: after.clone() }, age);
        prop_assert_eq!(again, after);
    }

    #[test]
    fn no_reader_can_tell_that_deletes_were_purged(log in logs(), age in 0i64..40, seen in any::<u16>(), compact_too in any::<bool>()) {
        let log = if compact_too { Log { rows: compacted(&log, age) } } else { log };
        let (after, gone) = purged(&log, age);
        // A cursor that has not seen all purged deletes is refused.
        let had = |row: &Row| {
            seen & (1 << (row.position.seq as u32 % 16)) != 0 || gone.iter().any(|gone| gone.position.xact == row.position.xact)
        };
        for (user, spaces) in readers() {
            let visible = |rows: &[Row]| rows.iter().filter(|row| sees(user, &spaces, row)).cloned().collect::<Vec<_>>();
            let (before, after) = (visible(&log.rows), visible(&after));
            let expected = live(merge(before.iter()));
            prop_assert_eq!(&live(merge(after.iter())), &expected, "{} with {:?} from the beginning", user, spaces);
            prop_assert_eq!(&live(merge(resumed(&before, &after, had))), &expected, "{} with {:?} resumes", user, spaces);
        }
    }
}

#[test]
fn records_of_many_fields_are_the_same() {
    // New keys sort before, between and after the existing ones; they come in small and in large numbers.
    let names =
        |from: usize, step: usize, count: usize| (0..count).map(move |i| format!("f{}", (from + i * step) % 997));
    let parts = [(0, 7, 150), (500, 1, 5), (3, 2, 300), (990, 13, 100), (1, 1, 40), (100, 5, 200)];
    let rows: Vec<Row> = parts
        .iter()
        .zip(1..)
        .map(|(&(from, step, count), seq)| Row {
            position: mana_sync_cursor::Position::new(1, 1, seq),
            created_at: 10 - seq % 3,
            user: "ann",
            space: None,
            op: if seq == 1 { "insert" } else { "update" },
            data: names(from, step, count).map(|name| (name, serde_json::json!(seq))).collect(),
            field_timestamps: serde_json::json!({}),
        })
        .collect();
    for first in 0..rows.len() {
        let order: Vec<&Row> = rows[first..].iter().chain(&rows[..first]).collect();
        assert_eq!(merge_with_crate(order), merge(&rows));
    }
}

#[test]
fn random_logs_have_something_to_compact_and_to_purge() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut removed, mut trimmed, mut deletes, mut dead) = (0, 0, 0, 0);
    for _ in 0..500 {
        let log = logs().new_tree(&mut runner).unwrap().current();
        let after = compacted(&log, 100);
        removed += log.rows.len() - after.len();
        trimmed += after.iter().filter(|row| !log.rows.contains(row)).count();
        deletes += purged(&log, 100).1.len();
        dead += usize::from(merge(log.rows.iter()).is_some_and(|merged| !merged.lives));
    }
    println!("{removed} removed, {trimmed} trimmed, {deletes} deletes purged, {dead} of 500 records dead");
    assert!(removed > 200 && trimmed > 200 && deletes > 50 && dead > 20);
}
