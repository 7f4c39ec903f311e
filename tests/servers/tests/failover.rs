//! Tests of devices with cursors from before a failover, a point-in-time recovery, or a dump and restore. The devices
//! are at rest or in the middle of a walk, and must receive everything that is in the log afterwards.
//!
//! Devices may receive changes again here; the tests count them. Each test also checks that transaction ids were
//! reused, because it would prove nothing otherwise.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::oracle::Difference;
use mana_sync_harness::process::{newer_bin, older_bin, wait_until};
use mana_sync_harness::random::{rng, seed};
use mana_sync_harness::writers::{APP, Acknowledged, Writer};
use mana_sync_harness::{Cluster, Device, Options};
use postgres::error::SqlState;
use postgres::{Client, IsolationLevel};
use rand::Rng;
use rand::rngs::StdRng;

const USERS: &[&str] = &["ann", "bob", "cem"];
const SPACES: &[&str] = &["home", "work"];
const SCOPES: &[(&str, &[&str])] = &[("ann", &["home"]), ("bob", &[]), ("zoe", SPACES), ("cem", &["work"])];

/// Writes and commits this number of transactions of random size.
fn write(client: &mut Client, transactions: usize, rng: &mut StdRng) {
    let acknowledged = Acknowledged::default();
    let mut writer = Writer::new(USERS, SPACES, rng.clone(), &acknowledged);
    writer.longest_pause = std::time::Duration::ZERO;
    while writer.tally.commits < transactions {
        writer.transaction(client).expect("a transaction is committed");
    }
    *rng = writer.rng;
}

/// Returns devices for every scope: some at rest, and some after a few pages of a walk.
fn devices(client: &mut Client, rng: &mut StdRng) -> Vec<Device> {
    let mut devices = Vec::new();
    for &(user, spaces) in SCOPES {
        let mut at_rest = Device::new(user, APP, spaces);
        at_rest.pull(client, 50).unwrap();
        devices.push(at_rest);
        let mut walking = Device::new(user, APP, spaces);
        for _ in 0..rng.random_range(1..4) {
            walking.pull_page(client, 3).unwrap();
        }
        devices.push(walking);
    }
    devices
}

/// Lets each device continue: it pulls a page, pulls everything, or does nothing.
fn go_on(devices: &mut [Device], client: &mut Client, rng: &mut StdRng) {
    for device in devices {
        match rng.random_range(0..3) {
            0 => drop(device.pull_page(client, 5).unwrap()),
            1 => drop(device.pull(client, 20).unwrap()),
            _ => {}
        }
    }
}

/// Lets every device pull to the end.
fn all_pull(devices: &mut [Device], client: &mut Client) {
    for device in devices {
        device.pull(client, 50).unwrap();
    }
}

/// Lets every device pull to the end, and panics unless it then has everything that is in the log.
fn assert_complete(what: &str, devices: &mut [Device], cluster: &Cluster, rng: &mut StdRng) {
    let (mut client, mut superuser) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    let mut total = Difference::default();
    for device in devices.iter_mut() {
        device.pull(&mut client, rng.random_range(1..40)).unwrap();
        let mut difference = device.compare(&mut superuser);
        // Changes that were lost with a server remain on the device.
        difference.foreign.clear();
        difference.assert_complete(&format!("{what}: {}", device.user));
        total.add(difference);
    }
    println!("{what}: {} devices, {total}", devices.len());
    assert!(total.expected > 0);
}

/// Returns the greatest transaction id in the log, and the least one of the latest epoch.
fn ids(superuser: &mut Client) -> (i64, i64) {
    let sql = "SELECT max(xact::text::bigint), min(xact::text::bigint) FILTER (WHERE epoch = (SELECT max(epoch) FROM mana_sync.sync_changes))
               FROM mana_sync.sync_changes";
    let row = superuser.query_one(sql, &[]).unwrap();
    (row.get(0), row.get(1))
}

/// Disconnects a standby from its primary.
fn cut_off(standby: &Cluster) {
    standby.superuser(DATABASE).batch_execute("ALTER SYSTEM SET primary_conninfo = ''").unwrap();
    standby.restart();
}

/// Promotes a standby while other connections to it ask for the epoch in which they would write. Returns these
/// connections.
fn promote_while_asked_for_its_epoch(standby: &Cluster) -> Vec<Client> {
    let promoted = AtomicBool::new(false);
    let mut clients: Vec<Client> = (0..4).map(|_| standby.app(DATABASE)).collect();
    thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| {
                while !promoted.load(Ordering::SeqCst) {
                    let ask = "SELECT count(mana_sync.current_epoch()) FROM generate_series(1, 200)";
                    // During the promotion, a call that would have to open an epoch may be refused.
                    let _ = client.query_one(ask, &[]);
                }
            });
        }
        standby.promote();
        promoted.store(true, Ordering::SeqCst);
    });
    clients
}

#[test]
fn a_failover_that_loses_a_tail() {
    let mut rng = rng(seed("failover", 5), 0);
    let primary = Cluster::with_log(Options::default().durable());
    let mut app = primary.app(DATABASE);
    write(&mut app, 20, &mut rng);
    let mut all = devices(&mut app, &mut rng);
    let standby = primary.standby("standby");
    // A cascading standby. It serves reads all the time, and the promotion reaches it by replication.
    let watcher = standby.standby("watcher");
    primary.wait_until_caught_up(&standby);
    cut_off(&standby);
    // The end of the log, which will be lost, and cursors from it. The standbys serve pulls meanwhile.
    write(&mut app, 30, &mut rng);
    all.extend(devices(&mut app, &mut rng));
    let (mut connected, mut watched) = (standby.app(DATABASE), watcher.app(DATABASE));
    for _ in 0..4 {
        write(&mut app, 5, &mut rng);
        for client in [&mut app, &mut connected, &mut watched] {
            go_on(&mut all, client, &mut rng);
        }
    }
    let (last, _) = ids(&mut primary.superuser(DATABASE));
    primary.kill();
    standby.promote();
    // Devices pull before anybody has written on the new primary. The first writer is then a backend that was connected
    // while the server was a standby.
    let mut app = standby.app(DATABASE);
    for client in [&mut app, &mut connected, &mut watched] {
        go_on(&mut all, client, &mut rng);
    }
    write(&mut connected, 10, &mut rng);
    for _ in 0..4 {
        write(&mut app, 10, &mut rng);
        for client in [&mut app, &mut connected, &mut watched] {
            go_on(&mut all, client, &mut rng);
        }
    }
    let (_, first) = ids(&mut standby.superuser(DATABASE));
    println!("ids up to {last} on the old primary, from {first} on the new one");
    assert!(first <= last, "no transaction id was used again");
    standby.wait_until_caught_up(&watcher);
    assert_complete("lost tail, on the standby of the new primary", &mut all.clone(), &watcher, &mut rng);
    assert_complete("lost tail", &mut all, &standby, &mut rng);
}

#[test]
fn switchovers_one_after_the_other_and_two_servers_that_go_on_separately() {
    let mut rng = rng(seed("switchover", 5), 0);
    let mut server = Cluster::with_log(Options::default().durable());
    let mut app = server.app(DATABASE);
    write(&mut app, 20, &mut rng);
    let mut all = devices(&mut app, &mut rng);
    // A transaction that is prepared now and committed on the last server.
    app.batch_execute(&format!(
        "BEGIN; SELECT mana_sync.record_change('{APP}', 'notes', 'prepared', 'ann', 'home', 'insert', 'c', '{{}}');
         PREPARE TRANSACTION 'long'"
    ))
    .unwrap();
    for turn in 0..3 {
        let standby = server.standby(&format!("standby{turn}"));
        let watcher = standby.standby(&format!("watcher{turn}"));
        let (mut connected, mut watched) = (standby.app(DATABASE), watcher.app(DATABASE));
        // A transaction that keeps its snapshot during replication and the promotion.
        let mut keeps = standby.app(DATABASE);
        let mut old = keeps.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().unwrap();
        old.query_one("SELECT count(*) FROM mana_sync.sync_changes", &[]).unwrap();
        write(&mut app, 5, &mut rng);
        for client in [&mut app, &mut connected, &mut watched] {
            go_on(&mut all, client, &mut rng);
        }
        server.wait_until_caught_up(&standby);
        drop(app);
        server.stop();
        go_on(&mut all, &mut connected, &mut rng);
        let mut asked = promote_while_asked_for_its_epoch(&standby);
        server = standby;
        app = connected;
        go_on(&mut all, &mut app, &mut rng);
        go_on(&mut all, &mut watched, &mut rng);
        // The second server serves only reads before the next switchover.
        if turn != 1 {
            write(&mut app, 10, &mut rng);
            asked.iter_mut().for_each(|client| write(client, 2, &mut rng));
        }
        all.extend(devices(&mut app, &mut rng));
        for &(user, spaces) in SCOPES {
            let mut device = Device::new(user, APP, spaces);
            device.pull(&mut old, 50).unwrap();
            all.push(device);
        }
        old.commit().unwrap();
        go_on(&mut all, &mut watched, &mut rng);
        server.wait_until_caught_up(&watcher);
        assert_complete(&format!("switchover {turn}, on a standby"), &mut all.clone(), &watcher, &mut rng);
        assert_complete(&format!("switchover {turn}"), &mut all, &server, &mut rng);
    }
    // Two standbys of the server are promoted separately. Devices move from one to the other.
    let (left, right) = (server.standby("left"), server.standby("right"));
    write(&mut app, 10, &mut rng);
    server.wait_until_caught_up(&left);
    server.wait_until_caught_up(&right);
    drop(app);
    // Both standbys replay all of the log, and continue from the same point.
    server.stop();
    left.promote();
    right.promote();
    let (mut on_left, mut on_right) = (left.app(DATABASE), right.app(DATABASE));
    // Other transactions use ids on one server before anybody writes to the log there. The other server must not take
    // this for its future.
    on_left
        .batch_execute("DO 'BEGIN FOR i IN 1..2000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END'")
        .unwrap();
    all_pull(&mut all, &mut on_left);
    go_on(&mut all, &mut on_right, &mut rng);
    for _ in 0..3 {
        for client in [&mut on_left, &mut on_right] {
            write(client, 10, &mut rng);
            go_on(&mut all, client, &mut rng);
        }
    }
    on_right.batch_execute("COMMIT PREPARED 'long'").unwrap();
    on_left.batch_execute("COMMIT PREPARED 'long'").unwrap();
    assert_complete("left", &mut all, &left, &mut rng);
    assert_complete("right", &mut all, &right, &mut rng);
    assert_complete("left again", &mut all, &left, &mut rng);
}

#[test]
fn a_recovery_to_a_point_in_time() {
    let mut rng = rng(seed("recovery", 5), 0);
    let archive = tempfile::tempdir().unwrap();
    mana_sync_harness::process::give_to_server(archive.path());
    let primary = Cluster::with_log(
        Options::default()
            .durable()
            .set("archive_mode", "on")
            .set("archive_command", &format!("cp %p {}/%f", archive.path().display())),
    );
    let mut app = primary.app(DATABASE);
    write(&mut app, 20, &mut rng);
    let mut all = devices(&mut app, &mut rng);
    let recovered = primary.backup("recovered");
    write(&mut app, 10, &mut rng);
    all.extend(devices(&mut app, &mut rng));
    let mut superuser = primary.superuser(DATABASE);
    superuser.batch_execute("SELECT pg_create_restore_point('then')").unwrap();
    // The recovery undoes these pulls.
    write(&mut app, 20, &mut rng);
    go_on(&mut all, &mut app, &mut rng);
    all.extend(devices(&mut app, &mut rng));
    let (last, _) = ids(&mut superuser);
    superuser.batch_execute("SELECT pg_switch_wal()").unwrap();
    drop((app, superuser));
    primary.stop();
    recovered.recover(&format!("cp {}/%f %p", archive.path().display()), ("recovery_target_name", "then"));
    let mut app = recovered.app(DATABASE);
    go_on(&mut all, &mut app, &mut rng);
    write(&mut app, 30, &mut rng);
    let (_, first) = ids(&mut recovered.superuser(DATABASE));
    println!("ids up to {last} before, from {first} after");
    assert!(first <= last, "no transaction id was used again");
    assert_complete("point in time", &mut all, &recovered, &mut rng);
}

#[test]
fn a_dump_that_is_restored_into_a_younger_cluster_and_into_another_database() {
    let mut rng = rng(seed("restore", 5), 0);
    let old = Cluster::with_log(Options::default());
    // The transaction ids get far ahead of those of a new cluster.
    old.superuser(DATABASE)
        .batch_execute("DO 'BEGIN FOR i IN 1..5000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END'")
        .unwrap();
    let mut app = old.app(DATABASE);
    write(&mut app, 30, &mut rng);
    let all = devices(&mut app, &mut rng);
    for format in ["plain", "custom"] {
        let new = Cluster::new(Options::default());
        new.superuser(DATABASE).batch_execute("CREATE ROLE app LOGIN").unwrap();
        old.dump_into(DATABASE, format, &new, DATABASE);
        let mut client = new.app(DATABASE);
        let mut devices: Vec<Device> = all.clone();
        go_on(&mut devices, &mut client, &mut rng);
        write(&mut client, 20, &mut rng);
        let (last, first) = ids(&mut new.superuser(DATABASE));
        println!("ids from {first} on after the restore, up to {last} before");
        assert!(first < last, "the new cluster is not younger");
        assert_complete(&format!("restored from a {format} dump"), &mut devices, &new, &mut rng);
    }
    // Another database of the same cluster, where transaction ids continue.
    old.superuser(DATABASE).batch_execute("CREATE DATABASE other").unwrap();
    old.dump_into(DATABASE, "custom", &old, "other");
    let mut client = old.app("other");
    write(&mut client, 20, &mut rng);
    let mut superuser = old.superuser("other");
    for mut device in all {
        device.pull(&mut client, 7).unwrap();
        let mut difference = device.compare(&mut superuser);
        difference.foreign.clear();
        difference.assert_complete(&format!("{} in another database", device.user));
    }
}

/// A log moves to another cluster by a dump, is written to there, and moves back. The first cluster then has an epoch
/// of a history that nobody has continued since.
#[test]
fn a_dump_that_goes_to_another_cluster_and_comes_back() {
    let mut rng = rng(seed("there and back", 5), 0);
    let (here, there) = (Cluster::with_log(Options::default()), Cluster::new(Options::default()));
    let mut app = here.app(DATABASE);
    write(&mut app, 10, &mut rng);
    let mut all = devices(&mut app, &mut rng);
    drop(app);
    there.superuser(DATABASE).batch_execute("CREATE ROLE app LOGIN").unwrap();
    here.dump_into(DATABASE, "custom", &there, DATABASE);
    let mut app_there = there.app(DATABASE);
    write(&mut app_there, 10, &mut rng);
    go_on(&mut all, &mut app_there, &mut rng);
    here.superuser(DATABASE).batch_execute("DROP EXTENSION mana_sync").unwrap();
    there.dump_into(DATABASE, "custom", &here, DATABASE);
    // Devices pull here before anybody has written. Then both logs are written, and devices move between them.
    let mut app = here.app(DATABASE);
    all_pull(&mut all, &mut app);
    for _ in 0..3 {
        write(&mut app_there, 5, &mut rng);
        go_on(&mut all, &mut app_there, &mut rng);
        assert_complete("the log that stayed", &mut all.clone(), &there, &mut rng);
        write(&mut app, 5, &mut rng);
        go_on(&mut all, &mut app, &mut rng);
        assert_complete("the log that came back", &mut all.clone(), &here, &mut rng);
    }
}

/// Logical replication copies the log and its companion tables to a new cluster while writers write. Then the clients
/// move there.
#[test]
fn logical_replication_and_a_switchover() {
    const TABLES: &str = "mana_sync.sync_changes, mana_sync.epochs, mana_sync.purges, mana_sync.purged_transactions";
    let mut rng = rng(seed("logical", 5), 0);
    let publisher = Cluster::with_log(Options::default().set("wal_level", "logical"));
    // The transaction ids of the subscriber are far behind those of the publisher, and later in the middle of them.
    let subscriber = Cluster::with_log(Options::default());
    let mut app = publisher.app(DATABASE);
    write(&mut app, 20, &mut rng);
    let mut all = devices(&mut app, &mut rng);
    publisher.superuser(DATABASE).batch_execute(&format!("CREATE PUBLICATION log FOR TABLE {TABLES}")).unwrap();
    let mut superuser = subscriber.superuser(DATABASE);
    let source = format!("host={} user=postgres dbname={DATABASE}", publisher.socket_dir().display());
    superuser.batch_execute(&format!("CREATE SUBSCRIPTION log CONNECTION '{source}' PUBLICATION log")).unwrap();
    for _ in 0..3 {
        write(&mut app, 10, &mut rng);
        go_on(&mut all, &mut app, &mut rng);
    }
    all.extend(devices(&mut app, &mut rng));
    // A subscriber answers no pull during replication, because it could miss rows that arrive later.
    let mut there = subscriber.app(DATABASE);
    for pull in [
        "SELECT * FROM mana_sync.changes_since('ann', 'app')",
        "SELECT mana_sync.pull('ann', 'app')",
        "SELECT mana_sync.sync('ann', 'app', '{\"changes\": []}')",
    ] {
        let error = there.query(pull, &[]).expect_err("a subscriber answers no pull");
        assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{error}");
    }
    let count = "SELECT count(*) FROM mana_sync.sync_changes";
    let rows: i64 = publisher.superuser(DATABASE).query_one(count, &[]).unwrap().get(0);
    wait_until("the log is replicated", || superuser.query_one(count, &[]).unwrap().get::<_, i64>(0) == rows);
    let sequence = "SELECT last_value FROM mana_sync.sync_changes_seq";
    let last: i64 = publisher.superuser(DATABASE).query_one(sequence, &[]).unwrap().get(0);
    drop(app);
    superuser.batch_execute("DROP SUBSCRIPTION log").unwrap();
    superuser.execute("SELECT setval('mana_sync.sync_changes_seq', $1)", &[&last]).unwrap();
    publisher.stop();
    go_on(&mut all, &mut there, &mut rng);
    write(&mut there, 20, &mut rng);
    let (last, first) = ids(&mut superuser);
    println!("ids up to {last} before, from {first} after");
    assert!(first <= last, "no transaction id was used again");
    assert_complete("logical replication", &mut all, &subscriber, &mut rng);
}

/// pg_upgrade keeps transaction ids, and gives the cluster a new system identifier.
#[test]
fn an_upgrade_to_a_newer_major_version() {
    let Some(bin) = newer_bin() else {
        println!("skipped: MANA_SYNC_NEWER_PG_BIN names no newer server with the extension");
        return;
    };
    let mut rng = rng(seed("upgrade", 5), 0);
    // pg_upgrade would fail if a worker were connected to a database of the new server.
    let settings = [("shared_preload_libraries", "mana_sync"), ("mana_sync.wakeup_databases", "postgres, template1")];
    let options = settings.iter().fold(Options::default(), |options, (name, value)| options.set(name, value));
    let old = Cluster::with_log_of(older_bin(), options);
    let mut app = old.app(DATABASE);
    let before: String = app.query_one("SHOW server_version", &[]).unwrap().get(0);
    write(&mut app, 30, &mut rng);
    let mut all = devices(&mut app, &mut rng);
    write(&mut app, 10, &mut rng);
    drop(app);
    let new = match old.upgraded(&bin, &settings) {
        Ok(new) => new,
        // Recent minor releases add a column option that older minor releases of other majors do not know. pg_upgrade
        // can then transfer no table at all between the two.
        Err(error) if error.contains("unrecognized parameter \"pg_attver\"") => {
            println!("skipped: the newer server is an older release, which cannot take over any table of this one's");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let mut app = new.app(DATABASE);
    let version: String = app.query_one("SHOW server_version", &[]).unwrap().get(0);
    go_on(&mut all, &mut app, &mut rng);
    write(&mut app, 30, &mut rng);
    all.extend(devices(&mut app, &mut rng));
    assert_complete(&format!("upgraded from {before} to {version}"), &mut all, &new, &mut rng);
}
