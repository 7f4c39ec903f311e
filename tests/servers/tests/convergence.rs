//! Devices that know only the wire format end with the data of the server, in random schedules.
//!
//! Each schedule has an app of its own. Users with several devices join and leave spaces, write offline and with wrong clocks, lose
//! answers, and stop in the middle of a walk. Meanwhile there are purges, compactions and transactions that stay open. At its end each
//! device must hold exactly what `mana_sync.records` returns for its user: record by record, value by value, with spaces and times. The
//! same check must report devices that apply changes in the order of their arrival, or by their own clocks.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use mana_sync_harness::cluster::{APP_ROLE, DATABASE};
use mana_sync_harness::convergence::changes::Leaving;
use mana_sync_harness::convergence::device::{Device, Outcome};
use mana_sync_harness::convergence::schedule::{Kind, Plan, Schedule, Servers, Tally};
use mana_sync_harness::convergence::{Difference, differences, truth};
use mana_sync_harness::history;
use mana_sync_harness::random::seed;
use mana_sync_harness::{Cluster, Options};
use postgres::Client;
use serde_json::json;

/// The number of schedules that are played on one server.
const SCHEDULES: u64 = 1000;
/// The number of steps of a schedule.
const STEPS: usize = 45;

/// The kinds of devices that have to converge.
const RIGHT: [Kind; 3] = [Kind::Records, Kind::Changes(Leaving::BeginAgain), Kind::Changes(Leaving::KeepOwn)];

/// The counts of all schedules, and the first schedule that failed.
#[derive(Default)]
struct Total {
    tally: Tally,
    failures: Vec<String>,
}

impl Total {
    fn add(&mut self, schedule: &Schedule, found: &[Difference]) {
        self.tally.add(&schedule.tally);
        if !found.is_empty() {
            let found: Vec<&str> = found.iter().map(|difference| difference.text.as_str()).collect();
            self.failures.push(format!("{}\n{}", schedule.trace(), found.join("\n")));
        }
    }

    fn assert_none_failed(&self) {
        let shortest = self.failures.iter().min_by_key(|text| text.len());
        assert!(shortest.is_none(), "{} schedules failed, the shortest:\n{}", self.failures.len(), shortest.unwrap());
    }
}

/// Connects to a database of a primary and of its standbys.
fn connect(primary: &Cluster, standbys: &[Cluster], database: &str) -> Servers {
    let app = || primary.connect(APP_ROLE, database);
    let standbys = standbys.iter().map(|standby| standby.connect(APP_ROLE, database)).collect();
    Servers::new(app(), app(), primary.superuser(database), standbys)
}

/// Plays schedules on one server, in two databases at once.
fn play_all(cluster: &Cluster, seed: u64, schedules: u64, plan: &(dyn Fn(u64) -> Plan + Sync)) -> Total {
    let total = Mutex::new(Total::default());
    thread::scope(|scope| {
        for half in 0..2 {
            let total = &total;
            scope.spawn(move || {
                let database = format!("half{half}");
                let mut superuser = cluster.superuser(DATABASE);
                if superuser.query_opt("SELECT FROM pg_database WHERE datname = $1", &[&database]).unwrap().is_none() {
                    superuser.batch_execute(&format!("CREATE DATABASE {database}")).unwrap();
                    cluster.create_log_in(&database);
                }
                let mut servers = connect(cluster, &[], &database);
                for number in (half..schedules).step_by(2) {
                    let seed = seed * 1_000_000 + number;
                    let mut schedule =
                        Schedule::new(&format!("app {seed} {:?}", plan(number).kinds), seed, plan(number));
                    schedule.play(&mut servers, STEPS);
                    schedule.push_all(&mut servers);
                    let found = schedule.finish(&mut servers);
                    total.lock().expect("the other half is well").add(&schedule, &found);
                }
            });
        }
    });
    let total = total.into_inner().expect("both halves are well");
    println!("{:?}", total.tally);
    total
}

/// Makes a plan with devices of all right kinds. Every fourth plan has only devices that pull records; they also write to records from
/// which a purge has removed changes.
fn plan(number: u64) -> Plan {
    Plan::of(if number % 4 == 0 { &RIGHT[..1] } else { &RIGHT })
}

#[test]
fn devices_end_with_the_data_of_the_server() {
    let seed = seed("convergence", 16);
    let total = play_all(&Cluster::with_log(Options::default()), seed, SCHEDULES, &plan);
    total.assert_none_failed();
    let tally = total.tally;
    assert!(tally.writes > 10_000 && tally.records > 10_000 && tally.lost > 1000 && tally.purged > 500);
    assert!(tally.resyncs > 100 && tally.begun_again > 100 && tally.rejected > 100 && tally.slow > 500);
}

/// Proves that the convergence test can fail. It must find differences of values, and not only of times.
#[test]
fn the_same_check_reports_devices_that_merge_by_arrival_or_by_their_own_clock() {
    let seed = seed("convergence of wrong devices", 17);
    let cluster = Cluster::with_log(Options::default());
    for kind in [Kind::Arrival, Kind::OwnClock] {
        let total = play_all(&cluster, seed, 100, &|_| Plan::of(&[kind]));
        let tally = total.tally;
        assert!(tally.failed_schedules > 50 && tally.different_values > 100, "{kind:?}: {tally:?}");
    }
}

/// A device that drops everything of a space that it leaves also drops its own user's changes there. `mana_sync.records` counts these
/// changes, also for a record that had no other changes when the space was left.
#[test]
fn the_same_check_reports_devices_that_forget_their_own_changes_in_a_space_that_they_left() {
    let seed = seed("convergence of devices that forget", 18);
    let cluster = Cluster::with_log(Options::default());
    for leaving in [Leaving::Drop, Leaving::BeginAgainIfElsewhere] {
        let total = play_all(&cluster, seed, 300, &|_| Plan::of(&[Kind::Changes(leaving)]));
        assert!(total.tally.different_values > 0, "{leaving:?}: {:?}", total.tally);
    }
}

#[test]
fn devices_converge_beside_a_compaction_that_never_ends() {
    let seed = seed("convergence beside compaction", 19);
    let cluster = Cluster::with_log(Options::default());
    let (is_over, compactions) = (AtomicBool::new(false), AtomicUsize::new(0));
    let total = thread::scope(|scope| {
        scope.spawn(|| {
            for half in (0..2).cycle() {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                // The databases are created a moment later.
                let Ok(mut keeper) = cluster.try_connect("postgres", &format!("half{half}")) else { continue };
                if keeper.batch_execute("CALL mana_sync.compact(older_than => '0', batch_size => 500)").is_ok() {
                    compactions.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let total = play_all(&cluster, seed, 200, &|number| Plan { purges: number % 4 == 0, ..plan(number) });
        is_over.store(true, Ordering::SeqCst);
        total
    });
    total.assert_none_failed();
    let compactions = compactions.into_inner();
    println!("{compactions} compactions");
    assert!(compactions > 20 && total.tally.records > 1000);
}

/// Devices pull from the primary and from two standbys in turn, also within a walk. Replay pauses now and then.
#[test]
fn devices_converge_that_pull_from_standbys_which_fall_behind() {
    let seed = seed("convergence on standbys", 20);
    let primary = Cluster::with_log(Options::default());
    let standbys = [primary.standby("standby1"), primary.standby("standby2")];
    let mut servers = connect(&primary, &standbys, DATABASE);
    let mut total = Total::default();
    for number in 0..60 {
        let seed = seed * 1_000_000 + number;
        let mut schedule = Schedule::new(&format!("app {seed}"), seed, plan(number));
        for part in 0..5 {
            // One standby is behind, or the other, or neither.
            let behind = standbys.get((number as usize + part) % 3);
            if let Some(standby) = behind {
                standby.pause_replay();
            }
            schedule.play(&mut servers, STEPS / 5);
            if let Some(standby) = behind {
                standby.resume_replay();
            }
        }
        schedule.push_all(&mut servers);
        standbys.iter().for_each(|standby| primary.wait_until_caught_up(standby));
        let found = schedule.finish(&mut servers);
        total.add(&schedule, &found);
    }
    println!("{:?}", total.tally);
    total.assert_none_failed();
    assert!(total.tally.from_standbys > 500 && total.tally.records > 500);
}

/// The primary dies in the middle of the schedules: devices are in the middle of walks, have lost answers, and hold cursors of both
/// servers. The standby has received everything that was committed.
#[test]
fn devices_converge_over_a_failover() {
    let seed = seed("convergence over a failover", 21);
    let primary = Cluster::with_log(Options::default().durable());
    let standby = primary.standby("standby");
    let standbys = [standby];
    let mut servers = connect(&primary, &standbys, DATABASE);
    // A purge concerns all apps, and these schedules are played at once.
    let plan = |number| Plan { purges: false, ..plan(number) };
    let mut schedules: Vec<Schedule> = (0..60)
        .map(|number| Schedule::new(&format!("app {number}"), seed * 1_000_000 + number, plan(number)))
        .collect();
    for _ in 0..5 {
        schedules.iter_mut().for_each(|schedule| schedule.play(&mut servers, 5));
    }
    primary.wait_until_caught_up(&standbys[0]);
    primary.kill();
    standbys[0].promote();
    servers.reconnect(connect(&standbys[0], &[], DATABASE));
    for _ in 0..4 {
        schedules.iter_mut().for_each(|schedule| schedule.play(&mut servers, 5));
    }
    let mut total = Total::default();
    schedules.iter_mut().for_each(|schedule| schedule.push_all(&mut servers));
    for schedule in &mut schedules {
        let found = schedule.finish(&mut servers);
        total.add(schedule, &found);
    }
    println!("{:?}", total.tally);
    total.assert_none_failed();
    assert!(total.tally.from_standbys > 100 && total.tally.records > 500);
}

/// The standby lacks the last changes that devices were given. The answer to a cursor of the lost history says so (`beginAgain`), and the
/// device pulls from the beginning.
#[test]
fn devices_converge_over_a_failover_that_lost_changes() {
    let seed = seed("convergence over a failover that lost changes", 22);
    let primary = Cluster::with_log(Options::default().durable());
    let standbys = [primary.standby("standby")];
    let mut servers = connect(&primary, &standbys, DATABASE);
    let plan = |number| Plan { purges: false, ..plan(number) };
    let mut schedules: Vec<Schedule> = (0..40)
        .map(|number| Schedule::new(&format!("app {number}"), seed * 1_000_000 + number, plan(number)))
        .collect();
    for _ in 0..4 {
        schedules.iter_mut().for_each(|schedule| schedule.play(&mut servers, 5));
    }
    primary.wait_until_caught_up(&standbys[0]);
    servers.reconnect(connect(&primary, &[], DATABASE));
    standbys[0].superuser(DATABASE).batch_execute("ALTER SYSTEM SET primary_conninfo = ''").unwrap();
    standbys[0].restart();
    schedules.iter_mut().for_each(|schedule| schedule.play(&mut servers, 10));
    let count = "SELECT count(*) FROM mana_sync.sync_changes";
    let had: i64 = servers.keeper.query_one(count, &[]).unwrap().get(0);
    primary.kill();
    standbys[0].promote();
    servers.reconnect(connect(&standbys[0], &[], DATABASE));
    let has: i64 = servers.keeper.query_one(count, &[]).unwrap().get(0);
    assert!(has < had - 50, "{has} of {had} changes are left");
    let mut total = Total::default();
    schedules.iter_mut().for_each(|schedule| schedule.play(&mut servers, 10));
    schedules.iter_mut().for_each(|schedule| schedule.push_all(&mut servers));
    for schedule in &mut schedules {
        let found = schedule.finish(&mut servers);
        total.add(schedule, &found);
    }
    println!("{} of {had} changes lost; {:?}", had - has, total.tally);
    total.assert_none_failed();
    assert!(total.tally.records > 300 && total.tally.begun_again > 40);
}

/// A device of ann pulls pages of one record or change. On every pair of pages, ann's spaces change and change back: a space is left and
/// rejoined, or joined and left. No answer may leave records on the device whose space ann is not a member of.
#[test]
fn a_space_that_is_left_is_gone_with_the_next_answer_and_is_back_when_it_is_rejoined() {
    let cluster = Cluster::with_log(Options::default());
    let mut client = cluster.app(DATABASE);
    let write = |client: &mut Client, app: &str, user: &str, record: &str, space: &str, op: &str| {
        let sql = "SELECT mana_sync.record_change($1, 'notes', $2, $3, $4, $5, 'c', $6, actor => $7)";
        let data = json!({space: format!("{user} in {space}"), "latest": space});
        client
            .execute(sql, &[&app, &record, &user, &space, &op, &data, &json!({"user": user})])
            .expect("a change is recorded");
    };
    const BOTH: [&str; 2] = ["home", "work"];
    let mut failures = Vec::new();
    for (usual, sometimes) in [(&BOTH[..], &BOTH[..1]), (&BOTH[..1], &BOTH[..]), (&BOTH[..], &[][..])] {
        for kind in RIGHT {
            for change in 1..9 {
                for back in change + 1..10 {
                    let app = format!("{usual:?} {sometimes:?} {kind:?} {change} {back}");
                    for (user, record, space) in [
                        ("bob", "r1", "home"),
                        ("bob", "r2", "work"),
                        ("ann", "r3", "work"),
                        ("bob", "r3", "home"),
                        ("bob", "r4", "home"),
                        ("bob", "r4", "work"),
                        ("ann", "r5", "work"),
                        ("bob", "r6", "home"),
                        ("bob", "r7", "work"),
                        ("ann", "r7", "home"),
                    ] {
                        write(&mut client, &app, user, record, space, "insert");
                    }
                    write(&mut client, &app, "bob", "r6", "work", "delete");
                    let mut device = Device::new("ann", "ann", &app, kind.store("ann"));
                    let mut outcome = Outcome::More;
                    for page in 0.. {
                        let spaces = if (change..back).contains(&page) { sometimes } else { usual };
                        let spaces: Vec<String> = spaces.iter().map(|space| space.to_string()).collect();
                        let before = outcome;
                        outcome = device.pull(&mut client, &spaces, Some(1), false);
                        for (key, shown) in device.store.shown() {
                            if shown.space.as_ref().is_some_and(|space| !spaces.contains(space)) {
                                failures.push(format!("{app}: page {page} leaves {key:?} in {:?}", shown.space));
                            }
                        }
                        if page == 7 {
                            write(&mut client, &app, "bob", "r5", "work", "delete");
                        }
                        if page > back && (before, outcome) == (Outcome::Done, Outcome::Done) {
                            let expected = truth(&mut client, "ann", &app, &spaces);
                            assert!(!expected.is_empty());
                            let found = differences(&app, &device.store.shown(), &expected, true);
                            failures.extend(found.into_iter().map(|difference| difference.text));
                            break;
                        }
                        assert!(page < 200, "{app}: pages without end");
                    }
                }
            }
        }
    }
    let shown: Vec<String> = failures.iter().take(5).cloned().collect();
    assert!(failures.is_empty(), "{} failures, the first:\n{}", failures.len(), shown.join("\n"));
}

/// A standby that is behind a device in the middle of a walk returns the cursor that the device sent. The answer must not say that a space
/// was left: the device would drop the space, while the cursor would still cover it, so that it would not come again when it is rejoined.
#[test]
fn a_space_that_was_left_on_a_standby_that_was_behind_is_back_when_it_is_rejoined() {
    let primary = Cluster::with_log(Options::default());
    let standby = primary.standby("standby1");
    let (mut client, mut behind) = (primary.app(DATABASE), standby.app(DATABASE));
    let write = |client: &mut Client, app: &str, record: &str, space: &str| {
        let sql = "SELECT mana_sync.record_change($1, 'notes', $2, 'bob', $3, 'insert', 'c', '{}')";
        client.execute(sql, &[&app, &record, &space]).expect("a change is recorded");
    };
    let home = ["home".to_string()];
    let both = ["home".to_string(), "work".to_string()];
    for kind in RIGHT {
        let app = format!("{kind:?}");
        let mut device = Device::new("ann", "ann", &app, kind.store("ann"));
        write(&mut client, &app, "r1", "home");
        write(&mut client, &app, "r2", "work");
        while device.pull(&mut client, &both, None, false) == Outcome::More {}
        primary.wait_until_caught_up(&standby);
        standby.pause_replay();
        (3..7).for_each(|number| write(&mut client, &app, &format!("r{number}"), "home"));
        assert_eq!(device.pull(&mut client, &both, Some(1), false), Outcome::More);
        let cursor = device.cursor.clone();
        assert_eq!(device.pull(&mut behind, &home, Some(1), false), Outcome::Done);
        assert_eq!(device.cursor, cursor, "the standby is behind");
        standby.resume_replay();
        while device.pull(&mut client, &both, None, false) == Outcome::More {}
        let expected = truth(&mut client, "ann", &app, &both);
        assert_eq!(expected.len(), 6);
        let found = differences(&app, &device.store.shown(), &expected, true);
        assert!(found.is_empty(), "{found:?}");
    }
}

/// The test replays 18 years of a repository's history. Each user has a device that pulls records, and one that pulls changes.
#[test]
fn devices_of_the_history_end_with_its_records() {
    let Some(pushes) = history::load("convergence") else { return };
    let cluster = Cluster::with_log(Options::default());
    let mut client = cluster.app(DATABASE);
    for push in &pushes {
        let sql = "SELECT mana_sync.push($1, $2, $3::text::jsonb)::text";
        client.query_one(sql, &[&push.user, &push.app, &push.line]).expect("the push is recorded");
    }
    let (mut devices, mut totals) = (0, [(0, 0, 0); 2]);
    for reader in history::devices_of(&pushes) {
        devices += 1;
        let expected = truth(&mut client, &reader.user, &reader.app, &reader.spaces);
        for (kind, total) in [Kind::Records, Kind::Changes(Leaving::BeginAgain)].into_iter().zip(&mut totals) {
            let mut device = Device::new(&reader.user, "new", &reader.app, kind.store(&reader.user));
            while device.pull(&mut client, &reader.spaces, None, false) == Outcome::More {}
            let found = differences(&reader.user, &device.store.shown(), &expected, device.store.keeps_spelling());
            assert!(found.is_empty(), "{kind:?}: {} differ, the first: {}", found.len(), found[0].text);
            let (answers, items, bytes) = device.received;
            *total = (total.0 + answers, total.1 + items, total.2 + bytes);
        }
    }
    let [(pages, records, bytes), (change_pages, changes, change_bytes)] = totals;
    println!(
        "{devices} devices: {records} records in {pages} pages and {bytes} bytes; {changes} changes in {change_pages} pages and {change_bytes} bytes"
    );
    assert!(devices >= 300 && records > 0 && records < changes && bytes < change_bytes);
}
