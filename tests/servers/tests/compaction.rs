//! Tests of compaction and of purges of deletes. No reader may notice them.
//!
//! A device in these tests stores the changes that it receives, and merges them into records. The expected records come
//! from a copy of the log from which nothing is ever removed.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::merged::{COLUMNS, Logged, Records, all_of, assert_same, living, logged, records, records_of};
use mana_sync_harness::process::wait_until;
use mana_sync_harness::random::{page_size, rng, seed};
use mana_sync_harness::writers::{APP, Stop};
use mana_sync_harness::{Cluster, Options};
use postgres::error::SqlState;
use postgres::{Client, Error, GenericClient};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedMutRandom, IndexedRandom};
use serde_json::{Map, Value, json};
use uuid::Uuid;

const USERS: &[&str] = &["ann", "bob", "cem"];
const SPACES: &[&str] = &["home", "work", "club"];

/// Creates a log, and a copy of it that keeps removed changes.
fn log_with_copy() -> Cluster {
    let cluster = Cluster::with_log(Options::default());
    cluster
        .superuser(DATABASE)
        .batch_execute(
            "CREATE TABLE everything (LIKE mana_sync.sync_changes);
             CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
             'BEGIN INSERT INTO public.everything VALUES (NEW.*); RETURN NULL; END';
             CREATE TRIGGER keep AFTER INSERT ON mana_sync.sync_changes FOR EACH ROW EXECUTE FUNCTION keep();
             CREATE ROLE keeper LOGIN; SELECT mana_sync.grant_maintenance('keeper');",
        )
        .unwrap();
    cluster
}

/// A device that stores the changes that it receives.
#[derive(Clone)]
struct Holder {
    user: &'static str,
    spaces: Vec<String>,
    cursor: Option<String>,
    held: HashMap<Uuid, Logged>,
    resyncs: usize,
}

impl Holder {
    fn new(user: &'static str, spaces: &[&str]) -> Holder {
        let spaces = spaces.iter().map(|space| space.to_string()).collect();
        Holder { user, spaces, cursor: None, held: HashMap::new(), resyncs: 0 }
    }

    fn sees(&self, logged: &Logged) -> bool {
        logged.user == self.user || logged.change.space.as_ref().is_some_and(|space| self.spaces.contains(space))
    }

    /// Makes the device join a space, or leave it if it is a member. A device that leaves drops the changes that others
    /// wrote there.
    fn toggle(&mut self, space: &str) {
        match self.spaces.iter().position(|own| own == space) {
            Some(at) => drop(self.spaces.remove(at)),
            None => self.spaces.push(space.into()),
        }
        let (user, spaces) = (self.user, self.spaces.clone());
        self.held.retain(|_, logged| {
            logged.user == user || logged.change.space.as_ref().is_some_and(|space| spaces.contains(space))
        });
    }

    /// Pulls one page. A device that must resync discards everything first. Returns the number of changes received.
    fn page(&mut self, client: &mut impl GenericClient, page_size: i32) -> Result<usize, Error> {
        let sql = format!(
            "SELECT {COLUMNS}, cursor FROM mana_sync.changes_since($1, $2, since => $3, page_size => $4, space_ids => $5)"
        );
        let rows = match client.query(&sql, &[&self.user, &APP, &self.cursor, &page_size, &self.spaces]) {
            Ok(rows) => rows,
            Err(error) if error.code() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) => {
                assert!(self.cursor.is_some(), "from the beginning everybody can pull: {error}");
                (self.cursor, self.held) = (None, HashMap::new());
                self.resyncs += 1;
                return Ok(1);
            }
            Err(error) => return Err(error),
        };
        for row in &rows {
            self.held.extend([logged(row)]);
            self.cursor = row.get::<_, Option<String>>("cursor").or(self.cursor.take());
        }
        Ok(rows.len())
    }

    fn pull(&mut self, client: &mut impl GenericClient, rng: &mut StdRng) -> Result<(), Error> {
        while self.page(client, page_size(rng))? > 0 {}
        Ok(())
    }

    /// Pulls until a page is empty, and keeps the cursor of that page. The cursor in the last row of a full page does
    /// not yet say that the walk has ended.
    fn settle(&mut self, client: &mut impl GenericClient, rng: &mut StdRng) -> Result<(), Error> {
        self.pull(client, rng)?;
        let sql = "SELECT mana_sync.pull($1, $2, since => $3, space_ids => $4)::text";
        let row = client.query_one(sql, &[&self.user, &APP, &self.cursor, &self.spaces])?;
        let response: Value = serde_json::from_str(row.get(0)).expect("a response in JSON");
        assert_eq!((&response["serverChanges"], &response["hasMore"]), (&json!([]), &json!(false)));
        self.cursor = response["syncedUntil"].as_str().map(str::to_string);
        Ok(())
    }

    /// Merges the stored changes into records. The positions come from `all`, because a device does not receive them.
    fn records(&self, all: &HashMap<Uuid, Logged>) -> Records {
        let with_position = self.held.iter().map(|(id, held)| {
            let mut held = held.clone();
            held.change.position = all[id].change.position;
            held
        });
        records_of(&Vec::from_iter(with_position))
    }

    fn expected(&self, all: &HashMap<Uuid, Logged>) -> Records {
        records_of(all.values().filter(|logged| self.sees(logged)))
    }
}

/// The time of the latest purge, and the records from which purges removed changes. Writers write nothing older than
/// the purge and do not update these records, because such an update may bring a deleted record back
/// (docs/reference/limits.md).
struct Purged {
    at: DateTime<Utc>,
    records: HashSet<String>,
}

impl Purged {
    fn nothing() -> Purged {
        Purged { at: DateTime::UNIX_EPOCH, records: HashSet::new() }
    }

    /// Purges every delete that can be purged. Returns the number of removed deletes.
    fn purge(&mut self, keeper: &mut Client, superuser: &mut Client) -> i64 {
        let mut ids = || all_of(superuser, "mana_sync.sync_changes", APP);
        let before = ids();
        let row = keeper.query_one("SELECT * FROM mana_sync.purge_deleted('0')", &[]).expect("a purge succeeds");
        let after = ids();
        self.at = Utc::now();
        let gone = before.into_iter().filter(|(id, _)| !after.contains_key(id));
        self.records.extend(gone.map(|(_, logged)| logged.record));
        row.get(0)
    }
}

/// Writes one transaction of some changes to few records, with timestamps of every kind of right and wrong clock. All
/// users write to some of the records, privately and in every space; each of the other records has one user and one
/// space.
fn write(client: &mut Client, rng: &mut StdRng, since: &Purged) -> Result<(), Error> {
    let user = rng.random_range(0..USERS.len());
    let mut transaction = client.transaction()?;
    for _ in 0..rng.random_range(1..6) {
        let (number, space) = match rng.random_bool(0.5) {
            true => (rng.random_range(0..6), SPACES.choose(rng).filter(|_| rng.random_bool(0.5))),
            false => {
                let number = 6 + 3 * rng.random_range(0..20) + user;
                (number, SPACES.get(number % 5))
            }
        };
        let (user, record) = (USERS[user], format!("r{number}"));
        let ops = if since.records.contains(&record) {
            &["insert", "delete"][..]
        } else {
            &["insert", "update", "update", "delete"]
        };
        let op = *ops.choose(rng).unwrap();
        let (mut data, mut times) = (Map::new(), Map::new());
        for field in ["a", "b", "c"] {
            if rng.random_bool(0.5) {
                data.insert(field.into(), rng.random_range(0..100).into());
                if let Some(clock) = clock(rng, since.at) {
                    times.insert(field.into(), clock);
                }
            }
        }
        for key in ["updatedAt", "createdAt", "deletedAt"] {
            if let Some(clock) = clock(rng, since.at).filter(|_| op != "update" || key == "updatedAt") {
                data.insert(key.into(), clock);
            }
        }
        let data = (op != "delete" || rng.random_bool(0.8)).then_some(Value::Object(data));
        let times = Value::Object(times);
        transaction.execute(
            "SELECT mana_sync.record_change($1, 't', $2, $3, $4, $5, 'c', $6, $7)",
            &[&APP, &record, &user, &space, &op, &data, &times],
        )?;
    }
    if rng.random_ratio(1, 10) { transaction.rollback() } else { transaction.commit() }
}

/// Returns the timestamp of a device: some minutes ago, far in the future, invalid, or none.
fn clock(rng: &mut StdRng, not_before: DateTime<Utc>) -> Option<Value> {
    let ago = |seconds: i64| json!((Utc::now() - TimeDelta::seconds(seconds)).max(not_before).to_rfc3339());
    match rng.random_range(0..10) {
        0 => None,
        1 => Some(json!("yesterday")),
        2 => Some(ago(-86_400)),
        3 => Some(ago(-60)),
        _ => Some(ago(rng.random_range(0..600))),
    }
}

/// Compacts the whole log. Returns the numbers of removed and of trimmed changes.
fn compact(keeper: &mut Client, batch_size: i32) -> (i64, i64) {
    let sql = "CALL mana_sync.compact(older_than => '0', batch_size => $1)";
    let row = keeper.query_one(sql, &[&batch_size]).expect("a compaction succeeds");
    (row.get(1), row.get(2))
}

#[test]
fn a_device_that_resumes_after_a_compaction_or_a_purge_has_the_records_of_one_that_saw_none() {
    let mut rng = rng(seed("compaction", 4), 0);
    let cluster = log_with_copy();
    let (mut client, mut superuser) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    let mut keeper = cluster.connect("keeper", DATABASE);
    // A transaction with an id stays open during the test.
    let mut forgotten = cluster.app(DATABASE);
    forgotten.batch_execute("BEGIN; SELECT pg_current_xact_id()").unwrap();
    let mut devices: Vec<Holder> =
        (0..6).map(|i| Holder::new(USERS[i % 3], &SPACES[..rng.random_range(0..=SPACES.len())])).collect();
    let (mut removed, mut trimmed, mut purged, mut resumed, mut resyncs) = (0, 0, 0, 0, 0);
    let mut last_purge = Purged::nothing();
    for round in 0..40 {
        // Copies of the devices, at rest or in the middle of a walk, which resume after the round.
        let mut earlier: Vec<Holder> = Vec::new();
        for _ in 0..25 {
            match rng.random_range(0..3) {
                0 | 1 => write(&mut client, &mut rng, &last_purge).unwrap(),
                _ => {
                    let device = devices.choose_mut(&mut rng).unwrap();
                    if rng.random_ratio(1, 6) {
                        device.toggle(SPACES.choose(&mut rng).unwrap());
                    }
                    match rng.random_bool(0.5) {
                        true => drop(device.page(&mut client, rng.random_range(1..10)).unwrap()),
                        false => device.pull(&mut client, &mut rng).unwrap(),
                    }
                    earlier.push(device.clone());
                }
            }
        }
        let mut up_to_date = devices.clone();
        up_to_date.iter_mut().for_each(|device| device.settle(&mut client, &mut rng).unwrap());
        let before: usize = up_to_date.iter().map(|device| device.resyncs).sum();

        let counts = compact(&mut keeper, rng.random_range(1..50));
        (removed, trimmed) = (removed + counts.0, trimmed + counts.1);
        assert_eq!(compact(&mut keeper, 10), (0, 0), "a second compaction finds nothing");
        if round % 3 == 2 {
            purged += last_purge.purge(&mut keeper, &mut superuser);
            compact(&mut keeper, 10);
        }

        let all = all_of(&mut superuser, "everything", APP);
        for mut device in up_to_date.iter().cloned() {
            device.pull(&mut client, &mut rng).unwrap();
            assert_same(
                &format!("round {round}, {} up to date", device.user),
                &living(device.records(&all)),
                &living(device.expected(&all)),
            );
            let merged = records(&mut client, device.user, APP, &device.spaces, None).unwrap();
            assert_same(
                &format!("round {round}, records of {}", device.user),
                &living(merged),
                &living(device.expected(&all)),
            );
            resyncs += device.resyncs;
        }
        assert_eq!(before, resyncs, "round {round}: a device that had seen all has to begin again");
        resyncs = 0;
        for mut device in earlier {
            device.resyncs = 0;
            device.pull(&mut client, &mut rng).unwrap();
            let (has, expected) = (device.records(&all), device.expected(&all));
            assert_same(
                &format!("round {round}, {} with {:?} resumed", device.user, device.spaces),
                &living(has.clone()),
                &living(expected.clone()),
            );
            if purged == 0 {
                assert_same(&format!("round {round}, {} with deleted records", device.user), &has, &expected);
            }
            resumed += 1;
            resyncs += device.resyncs;
        }
        println!("round {round}: {resyncs} of the devices before it began again");
        resyncs = 0;
        devices.iter_mut().for_each(|device| device.resyncs = 0);
    }
    println!("{removed} changes removed, {trimmed} trimmed, {purged} deletes purged; {resumed} devices resumed");
    assert!(removed > 500 && trimmed > 100 && purged > 10 && resumed > 200);
    forgotten.batch_execute("COMMIT").unwrap();
}

#[test]
fn nothing_is_lost_beside_a_compaction_that_never_ends() {
    const TIME: Duration = Duration::from_secs(15);
    let seed = seed("compaction beside writers", 4);
    let cluster = log_with_copy();
    let stop = Stop::after(TIME);
    let scopes: [(&str, &[&str]); 4] = [("ann", &["home", "work"]), ("bob", &[]), ("zoe", SPACES), ("cem", &["club"])];
    let saved: Mutex<Vec<Holder>> = Mutex::new(Vec::new());
    let (mut compactions, mut interrupted, mut readers) = (0, 0, Vec::new());
    thread::scope(|scope| {
        let (stop, saved, cluster) = (&stop, &saved, &cluster);
        for number in 0..4 {
            let (mut client, mut rng) = (cluster.app(DATABASE), rng(seed, number));
            scope.spawn(move || {
                while !stop.is_due() {
                    write(&mut client, &mut rng, &Purged::nothing()).expect("writing succeeds");
                }
            });
        }
        let threads: Vec<_> = scopes
            .iter()
            .zip(10..)
            .map(|(&(user, spaces), number)| {
                let (mut client, mut rng) = (cluster.app(DATABASE), rng(seed, number));
                scope.spawn(move || {
                    let mut device = Holder::new(user, spaces);
                    while !stop.is_due() {
                        match rng.random_bool(0.5) {
                            true => drop(device.page(&mut client, page_size(&mut rng)).expect("a pull succeeds")),
                            false => device.pull(&mut client, &mut rng).expect("a pull succeeds"),
                        }
                        if rng.random_ratio(1, 20) {
                            saved.lock().unwrap().push(device.clone());
                        }
                        thread::sleep(Duration::from_micros(rng.random_range(0..20_000)));
                    }
                    device
                })
            })
            .collect();
        let mut rng = rng(seed, 20);
        let mut superuser = cluster.superuser(DATABASE);
        while !stop.is_due() {
            let mut keeper = cluster.connect("keeper", DATABASE);
            let pid: i32 = keeper.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
            let run = thread::spawn(move || {
                keeper.execute("CALL mana_sync.compact(older_than => '0', batch_size => 200)", &[])
            });
            if rng.random_ratio(1, 4) {
                thread::sleep(Duration::from_millis(rng.random_range(0..100)));
                superuser.execute("SELECT pg_terminate_backend($1)", &[&pid]).unwrap();
            }
            match run.join().unwrap() {
                Ok(_) => compactions += 1,
                Err(error) => {
                    let code = error.code().cloned();
                    assert!(code.is_none() || code == Some(SqlState::ADMIN_SHUTDOWN), "{error}");
                    interrupted += 1;
                }
            }
        }
        readers.extend(threads.into_iter().map(|thread| thread.join().expect("the reader is well")));
    });

    let (mut client, mut superuser) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    superuser.batch_execute("CALL mana_sync.compact(older_than => '0')").unwrap();
    let all = all_of(&mut superuser, "everything", APP);
    let left: i64 = superuser.query_one("SELECT count(*) FROM mana_sync.sync_changes", &[]).unwrap().get(0);
    let saved = saved.into_inner().unwrap();
    println!(
        "{} changes written, {left} left after {compactions} compactions ({interrupted} more were terminated); {} readers and {} earlier states of them",
        all.len(),
        readers.len(),
        saved.len()
    );
    let mut rng = rng(seed, 30);
    for mut device in readers.into_iter().chain(saved) {
        device.pull(&mut client, &mut rng).unwrap();
        assert_same(device.user, &device.records(&all), &device.expected(&all));
        assert_eq!(device.resyncs, 0);
    }
    for (user, spaces) in scopes {
        let reader = Holder::new(user, spaces);
        let merged = records(&mut client, user, APP, &reader.spaces, None).unwrap();
        assert_same(user, &merged, &reader.expected(&all));
    }
    assert!(all.len() > 1000 && compactions > 3 && interrupted > 0 && (left as usize) < all.len() / 2);
}

/// The session of a compaction that was stopped may stay connected. The compaction is not running then, and another session resumes it.
#[test]
fn a_stopped_compaction_whose_session_stays_connected() {
    let cluster = Cluster::with_log(Options::default());
    let mut stopped = cluster.superuser(DATABASE);
    let mut other = cluster.superuser(DATABASE);
    stopped
        .batch_execute(
            "SELECT count(mana_sync.record_change('app', 'items', 'r' || n, 'ann', NULL, 'insert', 'phone')) FROM generate_series(1, 30) AS n;
             SET statement_timeout = '2 s'",
        )
        .unwrap();
    let is_running = "SELECT 1 FROM mana_sync.compaction_progress WHERE running AND changes_read > 0";
    thread::scope(|scope| {
        let compacting = scope.spawn(|| {
            stopped.batch_execute("CALL mana_sync.compact(older_than => '0', batch_size => 5, pause => '1 minute')")
        });
        wait_until("the compaction is running", || other.query_opt(is_running, &[]).unwrap().is_some());
        let error = compacting.join().expect("no panic").unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED), "{error:?}");
    });
    assert!(other.query_opt(is_running, &[]).unwrap().is_none(), "the session is idle");
    other.batch_execute("CALL mana_sync.compact(older_than => '0')").unwrap();
    let sql = "SELECT count(*), count(finished_at), max(changes_read) FROM mana_sync.compaction_progress";
    let row = other.query_one(sql, &[]).unwrap();
    let counts: [i64; 3] = [row.get(0), row.get(1), row.get(2)];
    assert_eq!(counts, [1, 1, 30], "the run was resumed");
}
