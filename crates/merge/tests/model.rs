//! Random logs against a second, deliberately simple implementation of the merge: lists, filters and maxima over JSON.
//!
//! `MANA_SYNC_MODEL_CASES` sets how many logs each property is tried with.

mod world;

use mana_sync_merge::compact::{Verdict, Winners};
use mana_sync_merge::purge::{Group, Limit};
use mana_sync_merge::record::Record;
use mana_sync_simple_merge::{Merged, merge as merge_simply};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use world::{Log, Row, SPACES, USERS, logs};

fn cases() -> ProptestConfig {
    let cases = std::env::var("MANA_SYNC_MODEL_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: cases.unwrap_or(2_000), failure_persistence: None, ..ProptestConfig::default() }
}

/// The record as the simple implementation merges it.
fn merge<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Option<Merged> {
    merge_simply(&rows.into_iter().map(Row::simple).collect::<Vec<_>>())
}

/// The record as the crate merges it, in the form of the simple implementation.
fn by_crate<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Option<Merged> {
    let mut record = Record::new(allocator_api2::alloc::Global);
    for row in rows {
        record.apply(&row.change(), row.space.map(str::as_bytes), |write| {
            (write.value.clone(), write.at.map(<[u8]>::to_vec))
        });
    }
    show(&record)
}

type Kept = (serde_json::Value, Option<Vec<u8>>);

fn show(record: &Record<Kept>) -> Option<Merged> {
    record.exists().then(|| Merged {
        lives: record.lives(),
        fields: record
            .fields()
            .iter()
            .map(|field| (String::from_utf8(field.name().to_vec()).unwrap(), field.value.0.clone()))
            .collect(),
        times: record
            .fields()
            .iter()
            .map(|field| (String::from_utf8(field.name().to_vec()).unwrap(), world::date(field.stamp.time)))
            .collect(),
        space: record.space().map(|space| String::from_utf8(space.to_vec()).unwrap()),
        updated_at: world::date(record.updated_at().unwrap()),
        deleted_at: record.deleted_at().map(world::date),
    })
}

/// What is left of a log after a compaction of everything created before `age`.
fn compacted(log: &Log, age: i64) -> Vec<Row> {
    let mut groups: BTreeMap<_, Winners> = BTreeMap::new();
    for row in &log.rows {
        groups.entry(row.group()).or_default().add(&row.change());
    }
    let rows = log.rows.iter().filter_map(|row| {
        if row.created_at >= age {
            return Some(row.clone());
        }
        match groups[&row.group()].verdict(&row.change(), row.has_other_data()) {
            Verdict::Keep => Some(row.clone()),
            Verdict::Remove => None,
            Verdict::Trim(dead) => Some(row.without(&dead)),
        }
    });
    rows.collect()
}

/// What is left after a purge of deletes created before `age`, and the deletes that went.
fn purged(log: &Log, age: i64) -> (Vec<Row>, Vec<Row>) {
    let mut groups: BTreeMap<_, Group> = BTreeMap::new();
    for row in &log.rows {
        groups.entry(row.group()).or_default().add(&row.change());
    }
    let least = |shared: bool| {
        let groups = groups.iter().filter(|((_, space), _)| space.is_some() == shared);
        groups.map(|(_, group)| group.limit()).min().unwrap_or(Limit::All)
    };
    let (shared, private) = (least(true), least(false));
    let goes = |group: (&'static str, Option<&'static str>)| {
        let facts = &groups[&group];
        let latest = facts.deleted_before(mana_sync_merge::time::Time::from_micros(age * 60_000_000))?;
        let others = if group.1.is_some() { private } else { facts.limit() };
        (shared.allows(latest) && others.allows(latest)).then_some(facts)
    };
    let (gone, left): (Vec<Row>, Vec<Row>) =
        log.rows.iter().cloned().partition(|row| goes(row.group()).is_some_and(|facts| facts.covers(&row.change())));
    (left, gone.into_iter().filter(|row| row.op == "delete").collect())
}

/// Every reader: a user, and each set of spaces.
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

/// The rows that a device got before the log was compacted, and the rest that it gets afterwards.
fn resumed<'a>(before: &'a [Row], after: &'a [Row], seen: impl Fn(&Row) -> bool) -> Vec<&'a Row> {
    let early = before.iter().filter(|row| seen(row));
    early.chain(after.iter().filter(|row| !seen(row))).collect()
}

/// What of a record a user can tell apart: nothing of one that does not live.
fn living(merged: Option<Merged>) -> Option<Merged> {
    merged.filter(|merged| merged.lives)
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_merge_is_the_simple_one_in_any_order(log in logs(), order in any::<prop::sample::Index>(), keys in prop::collection::vec(any::<u64>(), 12)) {
        let expected = merge(log.rows.iter());
        prop_assert_eq!(&by_crate(&log.rows), &expected);
        let mut shuffled: Vec<&Row> = log.rows.iter().collect();
        shuffled.sort_by_key(|row| keys[row.position.seq as usize % keys.len()]);
        // A change that is seen twice makes no difference either.
        if !shuffled.is_empty() {
            shuffled.push(shuffled[order.index(shuffled.len())]);
        }
        prop_assert_eq!(&by_crate(shuffled), &expected);
    }

    #[test]
    fn partial_merges_make_the_same_record(log in logs(), parts in prop::collection::vec(0usize..4, 12), order in Just([0usize, 1, 2, 3]).prop_shuffle()) {
        let mut partial: Vec<Record<Kept>> = (0..4).map(|_| Record::new(allocator_api2::alloc::Global)).collect();
        for (i, row) in log.rows.iter().enumerate() {
            partial[parts[i % parts.len()]].apply(&row.change(), row.space.map(str::as_bytes), |write| (write.value.clone(), write.at.map(<[u8]>::to_vec)));
        }
        let mut whole = Record::new(allocator_api2::alloc::Global);
        for part in order {
            // Through its bytes, as between processes.
            let mut bytes = Vec::new();
            partial[part].to_bytes(&mut bytes, |value, bytes| {
                bytes.extend(serde_json::to_vec(&(&value.0, value.1.as_ref())).unwrap());
            });
            let read = Record::from_bytes(&bytes, allocator_api2::alloc::Global, |bytes| serde_json::from_slice(bytes).ok());
            let read: Record<Kept> = read.expect("what was written can be read");
            prop_assert_eq!(&show(&read), &show(&partial[part]));
            for cut in 0..bytes.len() {
                let cut = Record::from_bytes(&bytes[..cut], allocator_api2::alloc::Global, |bytes| serde_json::from_slice::<Kept>(bytes).ok());
                prop_assert!(cut.is_none(), "half of a record is none");
            }
            whole.merge(&read, Clone::clone);
        }
        prop_assert_eq!(show(&whole), merge(log.rows.iter()));
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
        // Once more changes nothing.
        let again = compacted(&Log { rows: after.clone() }, age);
        prop_assert_eq!(again, after);
    }

    #[test]
    fn no_reader_can_tell_that_deletes_were_purged(log in logs(), age in 0i64..40, seen in any::<u16>(), compact_too in any::<bool>()) {
        let log = if compact_too { Log { rows: compacted(&log, age) } } else { log };
        let (after, gone) = purged(&log, age);
        // A cursor that has not seen all that was removed is refused.
        let had = |row: &Row| {
            seen & (1 << (row.position.seq as u32 % 16)) != 0 || gone.iter().any(|gone| gone.position.xact == row.position.xact)
        };
        for (user, spaces) in readers() {
            let visible = |rows: &[Row]| rows.iter().filter(|row| sees(user, &spaces, row)).cloned().collect::<Vec<_>>();
            let (before, after) = (visible(&log.rows), visible(&after));
            let expected = living(merge(before.iter()));
            prop_assert_eq!(&living(merge(after.iter())), &expected, "{} with {:?} from the beginning", user, spaces);
            prop_assert_eq!(&living(merge(resumed(&before, &after, had))), &expected, "{} with {:?} resumes", user, spaces);
        }
    }
}

#[test]
fn records_of_many_fields_are_the_same() {
    // Keys that come in front of, between and behind those that are there, some and many at a time.
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
        assert_eq!(by_crate(order), merge(&rows));
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
