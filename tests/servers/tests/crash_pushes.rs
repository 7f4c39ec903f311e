//! Clients push, and push again if they get no answer, while the tests kill backends, the postmaster and the whole
//! server. Every acknowledged change must be in the log exactly once, and every device must receive it.

use std::collections::HashSet;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::oracle::Difference;
use mana_sync_harness::process::{Signal, signal, wait_until};
use mana_sync_harness::random::{page_size, rng, seed};
use mana_sync_harness::writers::{APP, Stop};
use mana_sync_harness::{Cluster, Device, Options};
use postgres::{Client, Error};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use uuid::Uuid;

const USERS: &[&str] = &["ann", "bob", "cem"];
const SPACES: &[&str] = &["home", "work"];
const CLIENTS: u64 = 8;
const CRASHES: usize = 12;

/// The changes that the server acknowledged: those of durable commits, and those of commits with synchronous_commit =
/// off.
#[derive(Default)]
struct Acknowledged {
    durable: Mutex<HashSet<Uuid>>,
    lazy: Mutex<HashSet<Uuid>>,
    retries: Mutex<usize>,
}

/// A client that connects again whenever the server is back.
struct Patient<'a> {
    cluster: &'a Cluster,
    setting: &'static str,
    client: Option<Client>,
}

impl Patient<'_> {
    /// Runs `work` until it succeeds, on a connection that is opened again after each failure. Returns its result and
    /// the number of failed attempts; `None` if `stop` is due and the server does not run. Panics at a server error
    /// that is not about the end of the server or of the connection.
    fn insist<T>(&mut self, stop: &Stop, mut work: impl FnMut(&mut Client) -> Result<T, Error>) -> Option<(T, usize)> {
        let mut failures = 0;
        loop {
            if self.client.is_none() {
                let client = self.cluster.try_connect("app", DATABASE).and_then(|mut client| {
                    client.batch_execute(self.setting)?;
                    Ok(client)
                });
                self.client = client.ok();
            }
            match self.client.as_mut().map(&mut work) {
                Some(Ok(result)) => return Some((result, failures)),
                Some(Err(error)) => {
                    // 57P01 to 57P03: the server shuts down, has crashed, or is starting.
                    let code = error.code().map(|code| code.code().to_string());
                    assert!(code.as_ref().is_none_or(|code| code.starts_with("57P0")), "{error}: {code:?}");
                    self.client = None;
                    failures += 1;
                }
                None => thread::sleep(Duration::from_millis(20)),
            }
            if stop.is_due() && self.client.is_none() && self.cluster.postmaster().is_none() {
                return None;
            }
        }
    }
}

fn changeset(rng: &mut StdRng) -> (&'static str, Vec<Uuid>, Value) {
    let ids: Vec<Uuid> =
        (0..rng.random_range(1..6)).map(|_| uuid::Builder::from_random_bytes(rng.random()).into_uuid()).collect();
    let change = |id: &Uuid| {
        let space = SPACES.choose(rng).filter(|_| rng.random_bool(0.5));
        json!({"eventId": id.to_string(), "table": "notes", "id": format!("r{}", rng.random_range(0..50)), "op": "insert",
               "data": {"n": rng.random_range(0..100)}, "spaceId": space})
    };
    let changes: Vec<Value> = ids.iter().map(change).collect();
    (USERS.choose(rng).unwrap(), ids, json!({"clientId": "phone", "changes": changes}))
}

#[test]
fn what_was_acknowledged_is_there_once_after_every_kind_of_crash() {
    let seed = seed("crashes beside pushes", 7);
    let cluster = Cluster::with_log(Options::default().durable().set("wal_writer_delay", "2s"));
    let stop = Stop::after(Duration::from_secs(600));
    let acknowledged = Acknowledged::default();
    let scopes: [(&str, &[&str]); 4] = [("ann", &["home"]), ("bob", &[]), ("zoe", SPACES), ("cem", &["work"])];
    let mut devices = Vec::new();
    thread::scope(|scope| {
        let (cluster, stop, acknowledged) = (&cluster, &stop, &acknowledged);
        for number in 0..CLIENTS {
            let is_durable = number % 2 == 0;
            let setting = if is_durable { "SET synchronous_commit = on" } else { "SET synchronous_commit = off" };
            let mut rng = rng(seed, number);
            scope.spawn(move || {
                let mut patient = Patient { cluster, setting, client: None };
                while !stop.is_due() {
                    let (user, ids, changeset) = changeset(&mut rng);
                    let sql = "SELECT mana_sync.push($1, $2, $3)::text";
                    let pushed = patient.insist(stop, |client| client.query_one(sql, &[&user, &APP, &changeset]));
                    let Some((row, failures)) = pushed else { return };
                    let answer: Value = serde_json::from_str(row.get(0)).expect("an answer in JSON");
                    let count = ["inserted", "duplicates"].map(|key| answer[key].as_u64().unwrap());
                    assert_eq!(count.iter().sum::<u64>() as usize, ids.len());
                    assert!(failures > 0 || count[1] == 0, "what was pushed once cannot have been there");
                    *acknowledged.retries.lock().unwrap() += failures;
                    let told = if is_durable { &acknowledged.durable } else { &acknowledged.lazy };
                    told.lock().unwrap().extend(ids);
                }
            });
        }
        let threads: Vec<_> = scopes
            .iter()
            .zip(100..)
            .map(|(&(user, spaces), number)| {
                let mut rng = rng(seed, number);
                scope.spawn(move || {
                    let mut patient = Patient { cluster, setting: "", client: None };
                    let mut device = Device::new(user, APP, spaces);
                    while !stop.is_due() {
                        if patient.insist(stop, |client| device.pull_page(client, page_size(&mut rng))).is_none() {
                            break;
                        }
                        thread::sleep(Duration::from_micros(rng.random_range(0..5000)));
                    }
                    device
                })
            })
            .collect();
        let mut rng = rng(seed, 200);
        for crash in 0..CRASHES {
            thread::sleep(Duration::from_millis(rng.random_range(300..700)));
            match crash % 3 {
                0 => {
                    // The postmaster terminates the other backends and restarts.
                    let mut superuser = cluster.superuser(DATABASE);
                    let sql = "SELECT pid FROM pg_stat_activity WHERE usename = 'app' AND state = 'active' ORDER BY random() LIMIT 1";
                    let pid: i32 = superuser.query_one(sql, &[]).map(|row| row.get(0)).unwrap_or(0);
                    if pid > 0 {
                        signal(Signal::SIGKILL, &[pid]);
                    }
                    wait_until("the server has recovered", || {
                        let client = cluster.try_connect("postgres", DATABASE);
                        client.is_ok_and(|mut client| client.query_one("SELECT 1", &[]).is_ok())
                    });
                }
                1 => cluster.kill_and_restart(),
                _ => {
                    cluster.stop_immediately();
                    cluster.start();
                }
            }
        }
        thread::sleep(Duration::from_millis(300));
        stop.now();
        devices.extend(threads.into_iter().map(|thread| thread.join().expect("the reader is well")));
    });

    let (mut app, mut superuser) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    let rows = superuser.query("SELECT id FROM mana_sync.sync_changes", &[]).unwrap();
    let log: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    let once: HashSet<Uuid> = log.iter().copied().collect();
    let (durable, lazy) = (acknowledged.durable.into_inner().unwrap(), acknowledged.lazy.into_inner().unwrap());
    let lost = durable.difference(&once).count();
    let lazily_lost = lazy.difference(&once).count();
    let retries = acknowledged.retries.into_inner().unwrap();
    println!(
        "{CRASHES} crashes, {} changes in the log; {} acknowledged durably, {lost} lost; {} with synchronous_commit off, {lazily_lost} lost; {retries} pushes sent again",
        log.len(),
        durable.len(),
        lazy.len()
    );
    assert_eq!((log.len(), lost), (once.len(), 0));
    let mut total = Difference::default();
    for mut device in devices {
        device.pull(&mut app, 100).unwrap();
        let mut difference = device.compare(&mut superuser);
        // Changes that were lost with synchronous_commit = off were not shown to any device before.
        difference.assert_exact(&device.user);
        difference.foreign.clear();
        total.add(difference);
    }
    println!("{total}");
    assert!(durable.len() > 500 && retries > 0);
}
