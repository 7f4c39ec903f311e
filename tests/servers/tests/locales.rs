//! Tests of a changed locale. An upgrade of the operating system can change the sort order of text; an index in the old
//! order then hides rows. glibc 2.28 was such an upgrade, and a standby on another release of the system has the same
//! problem. The log therefore orders text by its bytes.

use std::collections::BTreeSet;
use std::path::Path;

use mana_sync_harness::oracle::{Delivered, Difference};
use mana_sync_harness::random::{rng, seed};
use mana_sync_harness::{Cluster, Device, Options};
use rand::seq::IndexedRandom;
use rand::{Rng, rngs::StdRng};

/// The database with the locale that changes.
const DATABASE: &str = "moved";
const LOCALE: &str = "aa_ZZ.utf8";
/// A user with many apps.
const EXPORTER: &str = "exporter";
const APPS: usize = 400;
const USERS: usize = 400;
const SPACES: usize = 60;
/// The number of records of each user. All users together have more rows than fit into one leaf page of an index, so
/// that a changed order can hide some.
const ROWS: usize = 10;

#[test]
fn nothing_is_lost_when_text_sorts_differently_after_an_upgrade() {
    let mut rng = rng(seed("locales", 3), 0);
    let sources = ["en_US", "C"].map(|name| Path::new("/usr/share/i18n/locales").join(name));
    if let Some(missing) = sources.iter().find(|source| !source.exists()) {
        println!("skipped: {} is not there (Debian's package locales)", missing.display());
        return;
    }
    let cluster = Cluster::new(Options::default());
    cluster.define_locale(LOCALE, "en_US");
    cluster.restart();
    cluster
        .superuser("postgres")
        .batch_execute(&format!(
            "CREATE DATABASE {DATABASE} TEMPLATE template0 LC_COLLATE '{LOCALE}' LC_CTYPE '{LOCALE}'"
        ))
        .expect("a database is created");
    cluster.create_log_in(DATABASE);
    assert!(sorts_before(&cluster, "a", "B"), "the locale has the order of people");

    let spaces = names(SPACES, &mut rng);
    let mut devices: Vec<Device> = names(USERS, &mut rng)
        .iter()
        .map(|user| {
            let spaces: Vec<&str> = spaces.choose_multiple(&mut rng, 3).map(String::as_str).collect();
            Device::new(user, "app", &spaces)
        })
        .collect();
    let apps = names(APPS, &mut rng);
    let mut superuser = cluster.superuser(DATABASE);
    superuser.batch_execute(include_str!("../../../examples/http/schema.sql")).expect("the example has its table");
    for Device { user, spaces, .. } in &devices {
        let join = "INSERT INTO public.memberships SELECT $1, space FROM unnest($2::text[]) AS of (space)";
        superuser.execute(join, &[user, spaces]).expect("a user joins spaces");
    }
    drop(superuser);
    write(&cluster, &devices, "before", &mut rng);
    write_in(&cluster, &apps);
    pull(&cluster, &mut devices);
    compare(&cluster, &devices).assert_exact("before the upgrade");

    cluster.define_locale(LOCALE, "C");
    cluster.restart();
    assert!(!sorts_before(&cluster, "a", "B"), "the order has changed");
    write(&cluster, &devices, "after", &mut rng);
    write_in(&cluster, &apps);
    pull(&cluster, &mut devices);
    compare(&cluster, &devices).assert_exact("after the upgrade");
    let anew = |device: &Device| Device { cursor: None, delivered: Delivered::default(), ..device.clone() };
    let mut fresh: Vec<Device> = devices.iter().map(anew).collect();
    pull(&cluster, &mut fresh);
    compare(&cluster, &fresh).assert_exact("a first sync after the upgrade");

    // Each record was written before and after the upgrade. The index of records must find both changes.
    let mut client = cluster.app(DATABASE);
    for Device { user, app, spaces, .. } in &devices {
        for row in 0..ROWS {
            let changes: i64 = client
                .query_one(
                    "SELECT count(*) FROM mana_sync.record_history($1, 'notes', $2, $3, $4)",
                    &[app, &record(user, row), user, spaces],
                )
                .expect("a history is read")
                .get(0);
            assert_eq!(changes, 2, "changes of record {row} of {user}");
        }
    }
    // The HTTP front end of the examples finds every space of its users by an index.
    let mut front_end = cluster.app(DATABASE);
    front_end.batch_execute("SET enable_seqscan = off").expect("a setting is set");
    for Device { user, spaces, .. } in &devices {
        let look_up = "SELECT space_id FROM public.memberships WHERE user_id = $1";
        let rows = front_end.query(look_up, &[user]).expect("memberships are read");
        let found: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(found, spaces.iter().cloned().collect(), "spaces of {user}");
    }
    // Each batch continues where the one before ended.
    let mut superuser = cluster.superuser(DATABASE);
    superuser
        .batch_execute("CALL mana_sync.compact(older_than => '0', batch_size => 100)")
        .expect("the log is compacted");
    superuser.batch_execute(WITHOUT_INDEXES).expect("settings are set");
    let left = superuser
        .query_one(
            "SELECT count(*), count(*) FILTER (WHERE data ->> 'value' = 'before')
             FROM mana_sync.sync_changes WHERE app_id = 'app'",
            &[],
        )
        .expect("rows are counted");
    assert_eq!((left.get(0), left.get(1)), ((USERS * ROWS) as i64, 0i64), "of two changes the later is left");
    // An export continues from one app of its user to the next.
    let exported: i64 = client
        .query_one("SELECT count(DISTINCT app_id) FROM mana_sync.export_changes($1)", &[&EXPORTER])
        .expect("an export is read")
        .get(0);
    assert_eq!(exported as usize, apps.len(), "apps of an export");
}

/// Returns ids of the kinds that people and programs choose. Locales sort such ids in different ways.
fn names(count: usize, rng: &mut StdRng) -> Vec<String> {
    const PARTS: [&str; 24] = [
        "a", "A", "b", "B", "ch", "h", "i", "z", "Z", "y", "ä", "é", "ss", "ß", "0", "10", "9", "-", "_", ".", " ",
        "+", "@", "'",
    ];
    let mut names = BTreeSet::new();
    while names.len() < count {
        names.insert((0..rng.random_range(2..9)).map(|_| *PARTS.choose(rng).expect("some")).collect::<String>());
    }
    names.into_iter().collect()
}

fn record(user: &str, row: usize) -> String {
    format!("{user}/{row}")
}

/// Writes a change to each record of each user, some of them in a space.
fn write(cluster: &Cluster, devices: &[Device], value: &str, rng: &mut StdRng) {
    let mut client = cluster.app(DATABASE);
    let statement = client
        .prepare(
            "SELECT mana_sync.record_change('app', 'notes', $1, $2, $3, 'update', 'phone',
                data => jsonb_build_object('value', $4::text), space_ids => $5)",
        )
        .expect("a statement is prepared");
    let mut places: Vec<(usize, usize)> = (0..devices.len()).flat_map(|i| (0..ROWS).map(move |row| (i, row))).collect();
    rand::seq::SliceRandom::shuffle(&mut places[..], rng);
    let mut transaction = client.transaction().expect("a transaction begins");
    for (i, row) in places {
        let Device { user, spaces, .. } = &devices[i];
        // The same record is in the same space each time.
        let space = (row % 3 == 0).then(|| &spaces[0]);
        transaction
            .execute(&statement, &[&record(user, row), user, &space, &value, spaces])
            .expect("a change is recorded");
    }
    transaction.commit().expect("a transaction commits");
}

/// Writes a change in each of the apps.
fn write_in(cluster: &Cluster, apps: &[String]) {
    let write = "SELECT mana_sync.record_change(id, 'notes', 'one', $1, NULL, 'update', 'phone', '{}') FROM unnest($2::text[]) AS app (id)";
    cluster.app(DATABASE).execute(write, &[&EXPORTER, &apps]).expect("changes are recorded");
}

fn pull(cluster: &Cluster, devices: &mut [Device]) {
    let mut client = cluster.app(DATABASE);
    for device in devices {
        device.pull(&mut client, 100).expect("pages are read");
    }
}

fn compare(cluster: &Cluster, devices: &[Device]) -> Difference {
    let mut superuser = cluster.superuser(DATABASE);
    superuser.batch_execute(WITHOUT_INDEXES).expect("settings are set");
    let mut total = Difference::default();
    devices.iter().for_each(|device| total.add(device.compare(&mut superuser)));
    println!("{total}");
    total
}

/// The SQL of the settings under which a query reads the table itself, whatever its indexes contain.
const WITHOUT_INDEXES: &str = "SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off";

fn sorts_before(cluster: &Cluster, one: &str, other: &str) -> bool {
    let query = "SELECT $1::text < $2::text";
    cluster.superuser(DATABASE).query_one(query, &[&one, &other]).expect("a query is answered").get(0)
}
