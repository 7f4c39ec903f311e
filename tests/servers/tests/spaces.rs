//! Tests of spaces that a device joins, leaves and joins again, at rest and in the middle of a page walk.
//!
//! Fails if a member misses a row that was written before it joined; if joining brings rows of another space again; if
//! a device still receives rows of a space after leaving it; or if it loses its own rows in a space that it left in the
//! middle of a walk.

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::{Cluster, Device, Options};
use postgres::Client;
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// Writes `count` changes. Their ids are not returned, because the oracle reads them from the log.
fn write(app: &mut Client, user: &str, space: Option<&str>, count: i32) {
    app.execute(
        "SELECT mana_sync.record_change('app', 'notes', 'r' || i, $1, $2, 'insert', 'c', '{}') FROM generate_series(1, $3) AS i",
        &[&user, &space, &count],
    )
    .unwrap();
}

fn spaces(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| id.to_string()).collect()
}

/// Returns the number of rows that the device has received from a space, for each author.
fn count(device: &Device, superuser: &mut Client, space: Option<&str>) -> BTreeMap<String, usize> {
    let sql = "SELECT id, user_id FROM mana_sync.sync_changes WHERE space_id IS NOT DISTINCT FROM $1";
    let mut counts = BTreeMap::new();
    for row in superuser.query(sql, &[&space]).unwrap() {
        if device.delivered.contains(&row.get(0)) {
            *counts.entry(row.get::<_, String>(1)).or_default() += 1;
        }
    }
    counts
}

#[test]
fn joining_brings_the_history_and_leaving_stops_it() {
    let cluster = Cluster::with_log(Options::default());
    let (mut app, mut superuser) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    for (user, space) in
        [("ann", None), ("ann", Some("home")), ("ben", Some("home")), ("ben", Some("work")), ("cid", Some("work"))]
    {
        write(&mut app, user, space, 5);
    }
    write(&mut app, "ann", Some("work"), 5);

    // Ann begins as a member of one space. Her own rows in another space reach her as her own.
    let mut ann = Device::new("ann", "app", &["home"]);
    assert_eq!(ann.pull(&mut app, 3).unwrap(), 20);
    ann.compare(&mut superuser).assert_exact("in one space");

    // Ann joins. She receives the whole history of the space, including her own five rows again, and nothing else.
    ann.spaces = spaces(&["home", "work"]);
    assert_eq!(ann.pull(&mut app, 4).unwrap(), 15);
    let difference = ann.compare(&mut superuser);
    difference.assert_complete("joined");
    assert_eq!(difference.repeated, 5);

    // Ann leaves. Of what is written there afterwards, she receives only her own changes.
    ann.spaces = spaces(&["home"]);
    write(&mut app, "ben", Some("work"), 7);
    write(&mut app, "ann", Some("work"), 2);
    write(&mut app, "ben", Some("home"), 3);
    assert_eq!(ann.pull(&mut app, 100).unwrap(), 5);

    // Ann joins again, and receives everything again.
    ann.spaces = spaces(&["work", "home"]);
    assert_eq!(ann.pull(&mut app, 100).unwrap(), 5 + 5 + 5 + 7 + 2);
    ann.compare(&mut superuser).assert_complete("joined again");
    assert_eq!(
        count(&ann, &mut superuser, Some("work")),
        BTreeMap::from([("ann".into(), 7), ("ben".into(), 12), ("cid".into(), 5)])
    );

    // The walk has ended: a further pull returns nothing.
    assert_eq!(ann.pull(&mut app, 100).unwrap(), 0);
    write(&mut app, "cid", Some("work"), 1);
    assert_eq!(ann.pull(&mut app, 100).unwrap(), 1);
}

/// A device that knows the author and the space of each row, and how often each space was joined.
struct Watched<'a> {
    device: Device,
    log: &'a HashMap<Uuid, (String, Option<String>)>,
    times: HashMap<Uuid, usize>,
    joins: HashMap<String, usize>,
    who: String,
}

impl Watched<'_> {
    /// Pulls a page as a member of these spaces. Panics at a row outside the scope.
    fn page(&mut self, app: &mut Client, current: &[&str], size: i32) -> usize {
        let current = spaces(current);
        // Before the first pull, no row can come again.
        for space in current.iter().filter(|space| self.device.cursor.is_some() && !self.device.spaces.contains(space))
        {
            *self.joins.entry(space.clone()).or_default() += 1;
        }
        self.device.spaces = current;
        let ids = self.device.pull_page_ids(app, size).unwrap();
        for id in &ids {
            let (user, space) = &self.log[id];
            assert!(self.device.sees(user, space.as_deref()), "{}: {user}'s row in {space:?}", self.who);
            *self.times.entry(*id).or_default() += 1;
        }
        ids.len()
    }

    /// Panics unless every row that the device may see came, and none came again more often than its space was joined.
    fn check(&self) {
        for (id, (user, space)) in self.log {
            let times = self.times.get(id).copied().unwrap_or(0);
            assert!(times > 0 || !self.device.sees(user, space.as_deref()), "{}: lost {user} {space:?}", self.who);
            let joins = space.as_ref().and_then(|space| self.joins.get(space)).copied().unwrap_or(0);
            assert!(
                times <= 1 + joins,
                "{}: {user}'s row in {space:?}, joined {joins} times, came {times} times",
                self.who
            );
        }
    }
}

#[test]
fn joining_and_leaving_in_the_middle_of_a_walk() {
    let cluster = Cluster::with_log(Options::default());
    let (mut app, mut superuser) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    for round in 0..20 {
        for (user, space) in
            [("ann", None), ("ann", Some("home")), ("ben", Some("home")), ("cid", Some("work")), ("ann", Some("work"))]
        {
            write(&mut app, user, space, 1 + round % 3);
        }
    }
    let rows = superuser.query("SELECT id, user_id, space_id FROM mana_sync.sync_changes", &[]).unwrap();
    let log = rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    let mut again = 0;
    // Walks from the beginning, and from a cursor that has seen a part, with every possible change of membership.
    for begin in [None, Some(7), Some(100)] {
        for (before, during, after) in [
            (&["home"][..], &["home", "work"][..], &["home", "work"][..]),
            (&["home", "work"], &["home"], &["home", "work"]),
            (&["home", "work"], &["home"], &["home"]),
            (&["home", "work"], &["work"], &["home"]),
            (&[], &["home", "work"], &["home"]),
            (&["home"], &[], &["home", "work"]),
        ] {
            for size in [1, 4, 9] {
                let who = format!("{begin:?} {before:?} {during:?} {after:?} pages of {size}");
                let device = Device::new("ann", "app", &[]);
                let mut ann = Watched { device, log: &log, times: HashMap::new(), joins: HashMap::new(), who };
                for _ in 0..begin.unwrap_or(0) {
                    ann.page(&mut app, &[], 5);
                }
                for current in [before, before, during, during] {
                    ann.page(&mut app, current, size);
                }
                while ann.page(&mut app, after, size) > 0 {}
                ann.check();
                assert_eq!(ann.page(&mut app, after, size), 0, "{}", ann.who);
                again += ann.times.values().filter(|times| **times > 1).count();
            }
        }
    }
    // Some rows must have come again; otherwise the test has checked nothing.
    assert!(again > 0);
}

#[test]
fn a_space_is_not_covered_by_a_standby_that_is_behind() {
    let primary = Cluster::with_log(Options::default());
    let standby = primary.standby("standby1");
    let mut app = primary.app(DATABASE);
    write(&mut app, "ben", Some("home"), 3);
    primary.wait_until_caught_up(&standby);
    standby.pause_replay();
    write(&mut app, "ben", Some("home"), 4);
    write(&mut app, "ann", None, 1);

    // The cursor has seen more than the standby has. The standby cannot show the space that Ann joins completely.
    let mut ann = Device::new("ann", "app", &[]);
    assert_eq!(ann.pull(&mut app, 10).unwrap(), 1);
    ann.spaces = spaces(&["home"]);
    assert_eq!(ann.pull(&mut standby.app(DATABASE), 10).unwrap(), 0);
    standby.resume_replay();
    primary.wait_until_caught_up(&standby);
    assert_eq!(ann.pull(&mut standby.app(DATABASE), 10).unwrap(), 7);
    ann.compare(&mut primary.superuser(DATABASE)).assert_exact("after the standby caught up");
}
