//! Tests of readers that alternate between the primary and a standby from page to page, also in the middle of a walk,
//! while writers write and the replay of the standby is paused and resumed. Nothing may be lost.

use std::thread;
use std::time::Duration;

use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::oracle::Difference;
use mana_sync_harness::random::{page_size, rng, seed};
use mana_sync_harness::writers::{APP, Acknowledged, Stop, Tally, Writer};
use mana_sync_harness::{Cluster, Device, Options};
use postgres::Client;
use rand::Rng;
use rand::rngs::StdRng;

const USERS: &[&str] = &["ann", "bob", "cem"];
const SPACES: &[&str] = &["home", "work", "club", "team"];
const SCOPES: [(&str, &[&str]); 4] = [("ann", &["home", "work"]), ("bob", &[]), ("zoe", SPACES), ("cem", &["club"])];
const WRITERS: u64 = 6;
const TIME: Duration = Duration::from_secs(15);

#[test]
fn readers_alternate_between_a_primary_and_a_standby_that_falls_behind() {
    let primary = Cluster::with_log(Options::default());
    let standby = primary.standby("standby1");
    let seed = seed("standby", 1);
    run(&primary, &[&standby], &[&standby], "on", seed);
}

/// The snapshot of a standby lists subtransactions as open that are finished for a cursor of the primary. The standby
/// must nevertheless show everything that the cursor has seen, continue its walk, and deliver a space that is joined
/// there.
#[test]
fn a_standby_that_has_caught_up_goes_on_beside_open_savepoints() {
    let primary = Cluster::with_log(Options::default());
    let standby = primary.standby("standby1");
    let (mut app, mut other) = (primary.app(DATABASE), primary.superuser(DATABASE));
    let write = |app: &mut Client, space: Option<&str>| {
        let sql = "SELECT mana_sync.record_change($1, 'notes', 'r', 'ann', $2, 'insert', 'c', '{}')";
        app.execute(sql, &[&APP, &space]).unwrap();
    };
    let mut device = Device::new("ann", APP, &[]);
    let mut member = Device::new("zoe", APP, &["work"]);
    write(&mut app, Some("home"));
    write(&mut app, Some("work"));
    other
        .batch_execute("BEGIN; CREATE TABLE a (); SAVEPOINT s; CREATE TABLE b (); SAVEPOINT t; CREATE TABLE c ()")
        .unwrap();
    (0..10).for_each(|_| write(&mut app, None));
    device.pull_page(&mut app, 3).unwrap();
    member.pull(&mut app, 10).unwrap();
    primary.wait_until_caught_up(&standby);

    let (mut there, mut superuser) = (standby.app(DATABASE), primary.superuser(DATABASE));
    device.pull(&mut there, 3).unwrap();
    device.compare(&mut superuser).assert_exact("a walk that began on the primary");
    member.spaces.push("home".into());
    member.pull(&mut there, 3).unwrap();
    write(&mut app, Some("home"));
    primary.wait_until_caught_up(&standby);
    member.pull(&mut there, 3).unwrap();
    member.compare(&mut superuser).assert_exact("a space that was joined on the standby");
}

/// A standby shows a transaction before it has replayed the end of the commit record, and this interval is long if the
/// commit drops files. The test uses a cursor from that moment on another standby, which has replayed everything before
/// the commit: the cursor has seen more than that standby shows.
#[test]
fn a_standby_shows_a_commit_while_it_is_replaying_it() {
    const TABLES: usize = 4000;
    let primary = Cluster::with_log(Options::default().set("max_locks_per_transaction", "400"));
    let (ahead, behind) = (primary.standby("ahead"), primary.standby("behind"));
    let (mut app, mut writer) = (primary.app(DATABASE), primary.superuser(DATABASE));
    let write = |client: &mut Client, user: &str, space: Option<&str>| {
        let sql = "SELECT mana_sync.record_change($1, 'notes', 'r', $2, $3, 'insert', 'c', '{}')";
        client.execute(sql, &[&APP, &user, &space]).unwrap();
    };
    let chunks = || (0..TABLES).step_by(500);
    for from in chunks() {
        let create: String = (from..from + 500).map(|i| format!("CREATE TABLE t{i} ();")).collect();
        writer.batch_execute(&create).unwrap();
    }
    write(&mut app, "bob", Some("home"));
    write(&mut app, "ann", None);
    primary.wait_until_caught_up(&ahead);
    let (mut there, mut ann) = (ahead.app(DATABASE), Device::new("ann", APP, &[]));
    ann.pull(&mut there, 10).unwrap();
    writer.batch_execute("BEGIN").unwrap();
    write(&mut writer, "bob", Some("home"));
    write(&mut writer, "ann", None);
    for from in chunks() {
        let names: Vec<String> = (from..from + 500).map(|i| format!("t{i}")).collect();
        writer.batch_execute(&format!("DROP TABLE {}", names.join(","))).unwrap();
    }
    primary.wait_until_caught_up(&ahead);
    primary.wait_until_caught_up(&behind);
    behind.pause_replay();
    let mut ann = thread::scope(|scope| {
        let poll = scope.spawn(move || {
            while ann.pull_page(&mut there, 10).unwrap() == 0 {}
            ann
        });
        writer.batch_execute("COMMIT").unwrap();
        poll.join().expect("the commit is shown")
    });
    ann.spaces.push("home".into());
    ann.pull(&mut behind.app(DATABASE), 10).unwrap();
    ann.pull(&mut app, 10).unwrap();
    behind.resume_replay();
    ann.compare(&mut primary.superuser(DATABASE)).assert_exact("a space joined on the standby behind");
}

/// Each commit waits until two standbys have applied it. One of the two pauses, so that the other shows the commit
/// before the primary does, for the length of the pause.
#[test]
fn readers_alternate_between_a_primary_and_a_synchronous_standby_that_shows_commits_first() {
    let primary = Cluster::with_log(Options::default());
    let (ahead, slow) = (primary.standby("ahead"), primary.standby("slow"));
    primary.wait_for_commits_of(&[&ahead, &slow]);
    let seed = seed("synchronous standby", 2);
    let shown_first = run(&primary, &[&ahead, &slow], &[&slow], "remote_apply", seed);
    assert!(shown_first > 0, "the standby never showed a change before the primary did: nothing is proven");
}

/// Runs writers, readers on the primary and all standbys, and pauses of some standbys. At the end every change must
/// have been delivered exactly once. Returns the number of changes that a standby delivered before the primary showed
/// them.
fn run(primary: &Cluster, standbys: &[&Cluster], paused: &[&Cluster], synchronous_commit: &str, seed: u64) -> usize {
    let acknowledged = Acknowledged::default();
    let stop = Stop::after(TIME);
    let (mut tally, mut ahead, mut pauses) = (Tally::default(), 0, 0);
    let mut devices = Vec::new();
    thread::scope(|scope| {
        let (acknowledged, stop) = (&acknowledged, &stop);
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let mut writer = Writer::new(USERS, SPACES, rng(seed, number), acknowledged);
                let mut client = primary.app(DATABASE);
                // Every other writer uses the synchronous_commit of the test; the others use the default.
                let level = if number % 2 == 0 { synchronous_commit } else { "on" };
                client.batch_execute(&format!("SET synchronous_commit = {level}")).expect("the level is known");
                scope.spawn(move || {
                    writer.run(&mut client, stop).expect("writing succeeds");
                    writer.tally
                })
            })
            .collect();
        let readers: Vec<_> = (0..SCOPES.len())
            .map(|number| {
                let mut reader = Reader::new(primary, standbys, number, rng(seed, 100 + number as u64));
                scope.spawn(move || {
                    while !stop.is_due() {
                        reader.visit();
                        thread::sleep(Duration::from_micros(reader.rng.random_range(0..10_000)));
                    }
                    reader
                })
            })
            .collect();
        let pauser = scope.spawn(move || {
            let (mut rng, mut pauses) = (rng(seed, 200), 0);
            while !stop.is_due() {
                paused.iter().for_each(|standby| standby.pause_replay());
                thread::sleep(Duration::from_millis(rng.random_range(0..600)));
                paused.iter().for_each(|standby| standby.resume_replay());
                thread::sleep(Duration::from_millis(rng.random_range(0..300)));
                pauses += 1;
            }
            pauses
        });
        writers.into_iter().for_each(|writer| tally.add(writer.join().expect("the writer is well")));
        for reader in readers {
            let reader = reader.join().expect("the reader is well");
            ahead += reader.ahead;
            println!("{}: pages by server, the primary first: {:?}", reader.device.user, reader.pages);
            devices.push(reader.device);
        }
        pauses = pauser.join().expect("the pauses are well");
    });
    println!("written: {tally:?}; {pauses} pauses; {} deliveries by a standby before the primary showed them", ahead);

    let (mut app, mut superuser) = (primary.app(DATABASE), primary.superuser(DATABASE));
    let mut total = Difference::default();
    // The remaining changes come from a standby and from the primary. Each must then report that there is no more.
    for standby in standbys {
        primary.wait_until_caught_up(standby);
        for device in &mut devices {
            device.pull(&mut standby.app(DATABASE), 777).expect("the standby gives the rest");
        }
    }
    for device in &mut devices {
        assert_eq!(
            device.compare(&mut superuser).lost.len(),
            0,
            "{} has everything from standbys that caught up",
            device.user
        );
        device.pull(&mut app, 777).expect("the primary gives the rest");
        let difference = device.compare(&mut superuser);
        println!("{}: {difference}", device.user);
        difference.assert_exact(&device.user);
        total.add(difference);
    }
    println!("{total}");
    assert!(total.expected > 1000, "too little was written to prove anything: {total}");
    let row = superuser.query_one("SELECT count(*) FROM mana_sync.sync_changes", &[]).unwrap();
    assert_eq!(row.get::<_, i64>(0) as usize, tally.changes, "the log holds what was committed");
    ahead
}

/// A device that chooses a server for each page.
struct Reader {
    device: Device,
    /// The connections to the servers. The first is that to the primary.
    servers: Vec<Client>,
    superuser: Client,
    rng: StdRng,
    pages: Vec<usize>,
    ahead: usize,
}

impl Reader {
    fn new(primary: &Cluster, standbys: &[&Cluster], scope: usize, rng: StdRng) -> Self {
        let (user, spaces) = SCOPES[scope];
        let mut servers = vec![primary.app(DATABASE)];
        servers.extend(standbys.iter().map(|standby| standby.app(DATABASE)));
        let pages = vec![0; servers.len()];
        let superuser = primary.superuser(DATABASE);
        Self { device: Device::new(user, APP, spaces), servers, superuser, rng, pages, ahead: 0 }
    }

    /// Pulls a few pages from one server.
    fn visit(&mut self) {
        let server = self.rng.random_range(0..self.servers.len());
        for _ in 0..self.rng.random_range(1..4) {
            let size = page_size(&mut self.rng);
            let ids = self.device.pull_page_ids(&mut self.servers[server], size).expect("a page is read");
            self.pages[server] += 1;
            if server > 0 && !ids.is_empty() {
                let sql = "SELECT count(*) FROM mana_sync.sync_changes WHERE id = ANY ($1)";
                let shown: i64 = self.superuser.query_one(sql, &[&ids]).expect("the log is readable").get(0);
                self.ahead += ids.len() - shown as usize;
            }
        }
    }
}
