//! Tests with repeated kills (SIGKILL) of the server. A crash loses commits that were not flushed, assigns their
//! transaction ids again, and keeps prepared transactions. Readers with cursors from before a crash must still lose
//! nothing.

use std::collections::HashSet;
use std::thread;
use std::time::Duration;

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::oracle::Difference;
use mana_sync_harness::random::{page_size, rng, seed};
use mana_sync_harness::writers::{APP, Acknowledged, Change, Stop, Writer};
use mana_sync_harness::{Cluster, Device, Options, naive};
use postgres::{Client, Error};
use rand::Rng;
use rand::rngs::StdRng;
use uuid::Uuid;

const USERS: &[&str] = &["ann", "bob", "cem"];
const SPACES: &[&str] = &["home", "work", "club", "team"];
const ROUNDS: u64 = 15;

#[test]
fn cursors_from_before_a_crash_lose_nothing_after_it() {
    let seed = seed("crash", 9);
    // Only a cursor, a durable commit or a full page of WAL makes the server flush WAL, so that each crash loses the
    // end of it.
    let cluster = Cluster::with_log(Options::default().durable().set("wal_writer_delay", "10s"));
    let scopes: [(&str, &[&str]); 4] = [("ann", &["home", "work"]), ("bob", &[]), ("zoe", SPACES), ("cem", &["club"])];
    let mut devices = scopes.map(|(user, spaces)| Device::new(user, APP, spaces));
    let mut by_snapshot = Device::new("zoe", APP, SPACES);
    let (lazy, durable) = (Acknowledged::default(), Acknowledged::default());
    let mut prepared = Prepared::default();
    let mut rng = rng(seed, 0);
    let (mut reused, mut revived) = (0, 0);

    for round in 0..ROUNDS {
        let ending = [Ending::Sudden, Ending::AbortsPulled, Ending::AbortsUnseen][round as usize % 3];
        prepared.prepare(&cluster, &mut rng, round);
        let before = match ending {
            Ending::Sudden => {
                work(&cluster, &mut devices, &lazy, &durable, seed + round, || cluster.kill());
                None
            }
            Ending::AbortsPulled | Ending::AbortsUnseen => {
                work(&cluster, &mut devices, &lazy, &durable, seed + round, || ());
                let (next, _open) = quiet_end(&cluster, &mut devices, &mut by_snapshot, &lazy, ending, &mut rng);
                cluster.kill();
                Some(next)
            }
        };
        cluster.start();
        let mut superuser = cluster.superuser(DATABASE);
        let after = next_xid(&mut superuser);
        let again = before.map_or(0, |before| before.saturating_sub(after));
        reused += again;

        // Commits with synchronous_commit = off may be lost, the others may not.
        let log = log_ids(&mut superuser);
        let gone = durable.ids().difference(&log).count();
        assert_eq!(gone, 0, "round {round}: {gone} changes committed with synchronous_commit = on are not in the log");

        // Transactions that commit now get the same ids again.
        let (mut app, mut total) = (cluster.app(DATABASE), Difference::default());
        let mut writer = writer(rng.random(), &durable);
        for _ in 0..10 {
            writer.transaction(&mut app).expect("writing succeeds");
        }
        let committed = prepared.finish(&mut app, &mut rng, round, 2);
        revived += committed.len();
        durable.add(committed);
        for device in &mut devices {
            device.pull_by(&mut app, || page_size(&mut rng)).expect("an old cursor is good");
            let difference = device.compare(&mut superuser);
            difference.assert_complete(&format!("round {round}, {}", device.user));
            total.add(difference);
        }
        pull_by_snapshot(&mut by_snapshot, &mut app);
        println!("round {round} ({ending:?}): {total}; {again} transaction ids were given out again");
    }

    let (mut app, mut superuser) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    let committed = prepared.finish(&mut app, &mut rng, ROUNDS, 0);
    revived += committed.len();
    durable.add(committed);
    let (log, mut total) = (log_ids(&mut superuser), Difference::default());
    for device in &mut devices {
        device.pull_by(&mut app, || page_size(&mut rng)).expect("an old cursor is good");
        let difference = device.compare(&mut superuser);
        difference.assert_complete(&device.user);
        total.add(difference);
    }
    pull_by_snapshot(&mut by_snapshot, &mut app);
    let naive = by_snapshot.compare(&mut superuser);
    let lost_with_server = lazy.ids().difference(&log).count();
    println!("{ROUNDS} crashes: {total}; {reused} transaction ids were given out twice");
    println!("{lost_with_server} of {} lazily committed changes were lost with the server", lazy.len());
    println!("{revived} changes were committed by prepared transactions that survived crashes");
    println!("with a snapshot for a cursor that does not wait for WAL: {naive}");
    assert_eq!(durable.ids().difference(&log).count(), 0, "what was committed durably is there");
    assert_eq!(total.repeated, 0, "a crash repeats nothing either");
    assert!(reused > 0, "no transaction id was given out twice: nothing is proven");
    assert!(revived > 0, "no prepared transaction survived: nothing is proven");
    assert!(
        !naive.lost.is_empty(),
        "a cursor that does not wait for WAL loses changes; if none are counted, this test counts none"
    );
}

/// The events just before the kill.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    /// Writers and devices are at work.
    Sudden,
    /// Transactions abort, and then every device pulls.
    AbortsPulled,
    /// Transactions abort after the last pull of every device.
    AbortsUnseen,
}

/// Runs writers and devices for a while, and calls `interrupt` during that time. If `interrupt` kills the server, all
/// of them fail and end.
fn work(
    cluster: &Cluster,
    devices: &mut [Device],
    lazy: &Acknowledged,
    durable: &Acknowledged,
    seed: u64,
    interrupt: impl FnOnce(),
) {
    let stop = Stop::after(Duration::from_secs(30));
    thread::scope(|scope| {
        let stop = &stop;
        for number in 0..5 {
            let (level, acknowledged) = if number < 3 { ("off", lazy) } else { ("on", durable) };
            let mut writer = writer(seed * 100 + number, acknowledged);
            let mut client = cluster.app(DATABASE);
            client.batch_execute(&format!("SET synchronous_commit = {level}")).expect("the level is known");
            scope.spawn(move || expect_or_killed(writer.run(&mut client, stop)));
        }
        for (number, device) in devices.iter_mut().enumerate() {
            let (mut client, mut rng) = (cluster.app(DATABASE), rng(seed, 50 + number as u64));
            scope.spawn(move || {
                while !stop.is_due() {
                    let page = device.pull_page(&mut client, page_size(&mut rng));
                    if page.is_err() {
                        return expect_or_killed(page.map(|_| ()));
                    }
                    thread::sleep(Duration::from_micros(rng.random_range(0..5000)));
                }
            });
        }
        thread::sleep(Duration::from_millis(300 + seed % 7 * 40));
        interrupt();
        stop.now();
    });
}

/// Runs transactions that get an id and then abort or stay open; the next kill comes before their WAL records are
/// flushed. Returns the next transaction id, and the clients of the open transactions.
fn quiet_end(
    cluster: &Cluster,
    devices: &mut [Device],
    by_snapshot: &mut Device,
    lazy: &Acknowledged,
    ending: Ending,
    rng: &mut StdRng,
) -> (u64, Vec<Client>) {
    let mut open = Vec::new();
    let (mut app, mut superuser) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    app.batch_execute("SET synchronous_commit = off").expect("off is a level");
    let mut writer = writer(rng.random(), lazy);
    for device in devices.iter_mut() {
        device.pull(&mut app, 1000).expect("a pull succeeds");
    }
    for _ in 0..rng.random_range(5..30) {
        let mut transaction = app.transaction().expect("a transaction begins");
        if rng.random_bool(0.8) {
            transaction.execute("SELECT pg_current_xact_id()", &[]).expect("an id is given out");
        } else {
            writer.write(&mut transaction, "ann", 1).expect("writing succeeds");
        }
        transaction.rollback().expect("a rollback succeeds");
        if rng.random_ratio(1, 8) {
            let mut client = cluster.app(DATABASE);
            client.batch_execute("BEGIN; SELECT pg_current_xact_id()").expect("an id is given out");
            open.push(client);
        }
    }
    if ending == Ending::AbortsPulled {
        // Each user writes one change, so that the devices get a cursor. Together the changes do not fill a page of
        // WAL.
        for user in USERS {
            let mut transaction = app.transaction().expect("a transaction begins");
            let changes = writer.write(&mut transaction, user, 1).expect("writing succeeds");
            transaction.commit().expect("a commit succeeds");
            lazy.add(changes);
        }
        for device in devices {
            if rng.random_bool(0.5) {
                device.pull_page(&mut app, rng.random_range(1..3)).expect("a page is read");
            } else {
                device.pull(&mut app, 100).expect("a pull succeeds");
            }
        }
    } else {
        pull_by_snapshot(by_snapshot, &mut app);
    }
    (next_xid(&mut superuser), open)
}

fn writer(seed: u64, acknowledged: &Acknowledged) -> Writer<'_> {
    Writer::new(USERS, SPACES, rng(seed, 1), acknowledged)
}

/// Panics at any error of a client, except the loss of its connection.
fn expect_or_killed(result: Result<(), Error>) {
    if let Err(error) = result {
        assert!(error.as_db_error().is_none(), "{error}: {:?}", error.as_db_error());
    }
}

/// Returns every id in the log, by plain SQL.
fn log_ids(superuser: &mut Client) -> HashSet<Uuid> {
    let rows = superuser.query("SELECT id FROM mana_sync.sync_changes", &[]).expect("the log is readable");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Returns the transaction id after the greatest one of a finished transaction.
fn next_xid(superuser: &mut Client) -> u64 {
    let sql = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text";
    let row = superuser.query_one(sql, &[]).expect("a snapshot is taken");
    row.get::<_, &str>(0).parse().expect("a transaction id is a number")
}

/// Pulls everything new for a device whose cursor is a plain snapshot. Such a cursor does not wait until the WAL is
/// flushed.
fn pull_by_snapshot(device: &mut Device, client: &mut Client) {
    let mut transaction = client.transaction().expect("a transaction begins");
    naive::pull_by_snapshot(device, &mut transaction).expect("a pull succeeds");
    transaction.commit().expect("a commit succeeds");
}

/// Prepared transactions, which survive a crash.
#[derive(Default)]
struct Prepared(Vec<(u64, String, Vec<Change>)>);

impl Prepared {
    /// Prepares a transaction with some changes.
    fn prepare(&mut self, cluster: &Cluster, rng: &mut StdRng, round: u64) {
        let nobody = Acknowledged::default();
        let mut client = cluster.app(DATABASE);
        client.batch_execute("BEGIN").expect("a transaction begins");
        let changes = writer(rng.random(), &nobody).write(&mut client, "ann", 5).expect("writing succeeds");
        let name = format!("round {round}");
        client.batch_execute(&format!("PREPARE TRANSACTION '{name}'")).expect("it can be prepared");
        self.0.push((round, name, changes));
    }

    /// Ends the transactions that were prepared `age` rounds ago, one in four by a rollback. Returns the committed
    /// changes.
    fn finish(&mut self, client: &mut Client, rng: &mut StdRng, round: u64, age: u64) -> Vec<Change> {
        let mut committed = Vec::new();
        self.0.retain_mut(|(prepared, name, changes)| {
            if *prepared + age > round {
                return true;
            }
            let commit = rng.random_ratio(3, 4);
            let verb = if commit { "COMMIT" } else { "ROLLBACK" };
            client.batch_execute(&format!("{verb} PREPARED '{name}'")).expect("it is still there");
            if commit {
                committed.append(changes);
            }
            false
        });
        committed
    }
}
