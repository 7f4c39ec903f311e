//! Tests with devices of the original service, which users have and which cannot be changed, in a thousand random
//! schedules.
//!
//! Fails if such a device ends without a record that `mana_sync.records` returns for its user, with an additional
//! record, or with another value; or if its queue is stuck. The same check must report a loss when one of two earlier
//! faults is simulated between device and server: cursors that sort after timestamps, and a wire format that refuses
//! keys which the op does not use.

use std::sync::Mutex;
use std::thread;

use chrono::{DateTime, Duration, Utc};
use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::original_device::{Fault, OriginalDevice, TABLES};
use mana_sync_harness::random::{rng, seed};
use mana_sync_harness::{Cluster, Delivered, Device, Options};
use postgres::Client;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

const SPACES: [&str; 2] = ["home", "work"];
/// The users and their spaces. Ann has two devices.
const DEVICES: [(&str, &str, &[&str]); 4] = [
    ("ann", "ann phone", &["home", "work"]),
    ("ann", "ann laptop", &["home", "work"]),
    ("ben", "ben phone", &["home"]),
    ("cem", "cem phone", &[]),
];

/// A correct clock whose readings are all different and in the past.
struct Clock(DateTime<Utc>);

impl Clock {
    fn new() -> Clock {
        Clock(Utc::now() - Duration::minutes(10))
    }

    fn now(&mut self) -> DateTime<Utc> {
        self.0 += Duration::milliseconds(3);
        self.0
    }
}

/// The result of a schedule.
#[derive(Default, Debug)]
struct Outcome {
    writes: usize,
    lost_answers: usize,
    purges: usize,
    late_devices: usize,
    /// The number of times that a device of the current wire format had to resync.
    resyncs: usize,
    /// The differences between the devices and `mana_sync.records`.
    differences: Vec<String>,
    stuck: Vec<String>,
}

/// Plays a schedule in an app of its own. Schedules in one log are played one after the other, because a purge affects
/// all apps.
fn play(client: &mut Client, owner: &mut Client, seed: u64, fault: Fault) -> Outcome {
    let app = format!("{fault:?} {seed}");
    let mut rng = rng(seed, 1);
    let (mut clock, mut outcome) = (Clock::new(), Outcome::default());
    let device = |user: &str, client: &str, spaces: &[&str]| OriginalDevice::new(user, client, &app, spaces, fault);
    let mut devices: Vec<OriginalDevice> =
        DEVICES.iter().map(|(user, client, spaces)| device(user, client, spaces)).collect();
    let mut online = vec![true; devices.len()];
    // Readers of the current wire format, one of whom is a member. They receive the changes themselves.
    let mut ours = [Device::new("ann", &app, &SPACES), Device::new("dan", &app, &SPACES[..1])];
    let mut resyncs = 0;
    for step in 0..40 {
        let place = rng.random_range(0..devices.len());
        match rng.random_range(0..100) {
            0..50 => {
                outcome.writes += 1;
                write(&mut devices[place], &format!("r{step}"), &mut rng, &mut clock);
            }
            50..60 => online[place] = !online[place],
            60..90 if online[place] => sync(&mut devices[place], client, &mut rng, &mut outcome),
            90..93 if devices.len() < 6 => {
                let (user, _, spaces) = DEVICES[rng.random_range(0..DEVICES.len())];
                devices.push(device(user, &format!("{user} new {step}"), spaces));
                online.push(true);
                outcome.late_devices += 1;
            }
            93..97 => resyncs += pull_page(&mut ours[step % 2], client, 7).1,
            97..100 => purge(client, owner, &app, &mut devices, &mut outcome),
            _ => {}
        }
    }
    // All devices are online and sync until nothing moves: what one pushes last, the others receive in the next round.
    for _ in 0..3 {
        devices.iter_mut().for_each(|device| sync_all(device, client));
    }
    for device in &devices {
        outcome.differences.extend(device.differences(client));
        outcome.stuck.extend(device.stuck.iter().map(|why| format!("{}: {why}", device.client)));
        assert!(device.stuck.is_some() || device.queued() == 0, "{}: what was not sent is stuck", device.client);
    }
    for device in &mut ours {
        loop {
            let (more, resynced) = pull_page(device, client, 100);
            resyncs += resynced;
            if !more {
                break;
            }
        }
        // Changes that were purged after their arrival are not in the log any more.
        let difference = device.compare(owner);
        assert!(
            difference.lost.is_empty() && difference.repeated == 0,
            "{app}: a device of our own wire: {difference}"
        );
    }
    outcome.resyncs = resyncs;
    outcome
}

/// Lets a user create a record, privately or in a space, or write to a live record of the device, or delete it.
fn write(device: &mut OriginalDevice, new: &str, rng: &mut StdRng, clock: &mut Clock) {
    let table = TABLES[rng.random_range(0..TABLES.len())];
    let living = device.living(table);
    let id = match living.is_empty() {
        true => None,
        false => Some(living[rng.random_range(0..living.len())].clone()),
    };
    let mut value = || match rng.random_range(0..4) {
        0 => Value::Null,
        _ => json!(rng.random_range(0..1000)),
    };
    let fields = [("a", value()), ("b", value()), ("c", value())];
    let some = &fields[..rng.random_range(1..=3)];
    match (rng.random_range(0..10), id) {
        (0..5, Some(id)) => device.update(table, &id, some, clock.now()),
        (5, Some(id)) => device.delete(table, &id, clock.now()),
        _ => {
            let space = rng.random_range(0..=device.spaces.len());
            let space = device.spaces.get(space).cloned();
            let id = format!("{new} of {}", device.client);
            device.insert(table, &id, space.as_deref(), some, clock.now());
        }
    }
}

fn sync(device: &mut OriginalDevice, client: &mut Client, rng: &mut StdRng, outcome: &mut Outcome) {
    let mut lost = 0;
    device.push(client, || {
        let loses = rng.random_range(0..4) == 0;
        lost += usize::from(loses);
        loses
    });
    outcome.lost_answers += lost;
    // As with a user who looks at one screen: not every push is followed by a pull.
    if rng.random_range(0..3) > 0 {
        device.pull(client, [1, 3, 100][rng.random_range(0..3)]);
    }
}

fn sync_all(device: &mut OriginalDevice, client: &mut Client) {
    device.push(client, || false);
    device.pull(client, 100);
}

/// Pulls one page for a device of the current wire format. Returns whether there is more, and how often the device had
/// to resync.
fn pull_page(device: &mut Device, client: &mut Client, page_size: i32) -> (bool, usize) {
    let sql = "SELECT mana_sync.pull($1, $2, since => $3, page_size => $4, space_ids => $5)::text";
    let row = client.query_one(sql, &[&device.user, &device.app, &device.cursor, &page_size, &device.spaces]);
    let page: Value = serde_json::from_str(row.expect("a page").get(0)).expect("JSON");
    device.cursor = page["syncedUntil"].as_str().map(str::to_string);
    if page.get("resyncRequired").is_some() {
        device.delivered = Delivered::default();
        return (true, 1);
    }
    for change in page["serverChanges"].as_array().expect("changes") {
        device.delivered.add(change["eventId"].as_str().expect("an id").parse().expect("a UUID"));
    }
    (page["hasMore"] == json!(true), 0)
}

/// Purges all deletes, including one of a user of another app. As the documentation requires, no device has been
/// offline for longer than the purge interval: all devices sync before.
fn purge(client: &mut Client, owner: &mut Client, app: &str, devices: &mut [OriginalDevice], outcome: &mut Outcome) {
    let eve = "SELECT mana_sync.record_change($1, 't', 'r', 'eve', NULL, op, 'c') FROM unnest('{insert,delete}'::text[]) AS op";
    owner.execute(eve, &[&format!("of eve beside {app}")]).expect("eve's record");
    for _ in 0..2 {
        devices.iter_mut().for_each(|device| sync_all(device, client));
    }
    let deletes = owner.query_one("SELECT (mana_sync.purge_deleted('0')).deletes", &[]).expect("a purge");
    outcome.purges += usize::from(deletes.get::<_, i64>(0) > 0);
}

/// Plays schedules on two clusters, and adds up their outcomes.
fn play_all(seed: u64, schedules: u64, fault: Fault) -> Outcome {
    let total = Mutex::new(Outcome::default());
    thread::scope(|scope| {
        for half in 0..2 {
            let total = &total;
            scope.spawn(move || {
                let cluster = Cluster::with_log(Options::default());
                let (mut client, mut owner) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
                for schedule in (half..schedules).step_by(2) {
                    let seed = seed * 100_000 + schedule;
                    let outcome = play(&mut client, &mut owner, seed, fault);
                    let mut total = total.lock().expect("the other half is well");
                    total.writes += outcome.writes;
                    total.lost_answers += outcome.lost_answers;
                    total.purges += outcome.purges;
                    total.late_devices += outcome.late_devices;
                    total.resyncs += outcome.resyncs;
                    let named = |text: String| format!("schedule {seed}: {text}");
                    total.differences.extend(outcome.differences.into_iter().map(named));
                    total.stuck.extend(outcome.stuck.into_iter().map(named));
                }
            });
        }
    });
    let total = total.into_inner().expect("both halves are well");
    println!(
        "{schedules} schedules, {fault:?}: {} writes, {} lost answers, {} purges, {} devices that came late, {} resyncs; {} records differ, {} devices are stuck",
        total.writes,
        total.lost_answers,
        total.purges,
        total.late_devices,
        total.resyncs,
        total.differences.len(),
        total.stuck.len()
    );
    total
}

#[test]
fn devices_in_the_field_end_with_what_records_says() {
    let seed = seed("original_devices", 14);
    let outcome = play_all(seed, 1000, Fault::None);
    let shown = |all: &[String]| all.iter().take(10).cloned().collect::<Vec<_>>().join("\n");
    assert!(outcome.stuck.is_empty(), "{}", shown(&outcome.stuck));
    assert!(outcome.differences.is_empty(), "{}", shown(&outcome.differences));
    assert!(
        outcome.writes > 10_000 && outcome.lost_answers > 500 && outcome.purges > 300 && outcome.late_devices > 300
    );
}

/// Proves that the check can fail. Earlier builds of the server had both faults.
#[test]
fn the_same_check_reports_greater_cursors_and_a_strict_wire() {
    let seed = seed("original_devices", 15);
    let outcome = play_all(seed, 100, Fault::CursorsAfterTimestamps);
    assert!(outcome.differences.len() > 100, "{} records differ", outcome.differences.len());
    let outcome = play_all(seed, 100, Fault::StrictWire);
    assert!(outcome.stuck.len() > 100, "{} devices are stuck", outcome.stuck.len());
}
