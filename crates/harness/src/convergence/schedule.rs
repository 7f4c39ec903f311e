//! Random schedules. Users with several devices join and leave spaces, write offline and with wrong clocks, lose answers and push late.
//! Meanwhile there are maintenance, and transactions that stay open.
//!
//! A seed repeats a schedule, except for the times of the server's clock.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, Duration, SecondsFormat, Utc};
use postgres::Client;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::arrival::ArrivalStore;
use super::changes::{ChangesStore, Leaving, Order};
use super::device::{Device, Outcome, Request, Store};
use super::records::RecordsStore;
use super::{Difference, Key, differences, truth};

const USERS: [&str; 3] = ["ann", "bob", "cem"];
const SPACES: [&str; 3] = ["club", "home", "work"];
const TABLES: [&str; 2] = ["items", "notes"];
const FIELDS: [&str; 5] = ["a", "b", "c", "", "spaceId"];

/// The kind of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The device takes records.
    Records,
    /// The device merges changes by time and position.
    Changes(Leaving),
    /// The device applies changes in the order of their arrival, which is wrong.
    Arrival,
    /// The device merges changes by time alone, and takes its own clock for its own writes. Both are wrong.
    OwnClock,
}

impl Kind {
    /// Makes an empty store for a device of `user`.
    pub fn store(self, user: &str) -> Box<dyn Store> {
        match self {
            Kind::Records => Box::new(RecordsStore::default()),
            Kind::Changes(leaving) => Box::new(ChangesStore::new(user, leaving, Order::TimeAndPosition)),
            Kind::Arrival => Box::new(ArrivalStore::default()),
            Kind::OwnClock => Box::new(ChangesStore::new(user, Leaving::Drop, Order::OwnClock)),
        }
    }
}

/// What happens in a schedule.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The kinds of the devices.
    pub kinds: Vec<Kind>,
    /// Whether the schedule purges deletes.
    pub purges: bool,
    /// Whether devices go on writing to records from which a purge has removed changes. Such a write may bring the record back
    /// (docs/reference/limits.md). A device that merges changes cannot know that, so its data would differ.
    pub writes_to_purged: bool,
    /// Whether the schedule compacts the log itself.
    pub compactions: bool,
    /// Whether spaces are joined and left.
    pub memberships: bool,
}

impl Plan {
    /// Makes a plan with purges, compactions and changes of memberships, for devices of these kinds.
    pub fn of(kinds: &[Kind]) -> Plan {
        let records_alone = kinds.iter().all(|kind| *kind == Kind::Records);
        Plan {
            kinds: kinds.to_vec(),
            purges: true,
            writes_to_purged: records_alone,
            compactions: true,
            memberships: true,
        }
    }
}

/// The connections that one or more schedules share, and the records from which purges have removed changes.
pub struct Servers {
    /// A connection to the primary as the application's role.
    pub app: Client,
    /// A second connection as the application's role, for a transaction that stays open for a while.
    slow: Client,
    is_slow_open: bool,
    /// A connection to the primary as a superuser.
    pub keeper: Client,
    /// A connection to each standby as the application's role.
    pub standbys: Vec<Client>,
    /// The records from which purges have removed changes, with their apps.
    purged: HashSet<(String, Key)>,
}

impl Servers {
    /// Takes connections to a primary and to its standbys.
    pub fn new(app: Client, slow: Client, keeper: Client, standbys: Vec<Client>) -> Servers {
        Servers { app, slow, is_slow_open: false, keeper, standbys, purged: HashSet::new() }
    }

    /// Replaces the connections. The record of purges stays, so that the same schedules can go on.
    pub fn reconnect(&mut self, other: Servers) {
        let purged = std::mem::take(&mut self.purged);
        *self = Servers { purged, ..other };
    }

    /// Ends the open transaction of `slow`, if there is one: commits it if `commits` is true, and otherwise rolls it back.
    pub fn end_slow(&mut self, commits: bool) {
        if std::mem::take(&mut self.is_slow_open) {
            self.slow.batch_execute(if commits { "COMMIT" } else { "ROLLBACK" }).expect("the transaction ends");
        }
    }

    fn purge(&mut self, app: &str) -> i64 {
        // What an open transaction writes to a purged record would bring it back.
        self.end_slow(true);
        let before = self.changes_of(app);
        let row = self.keeper.query_one("SELECT (mana_sync.purge_deleted('0')).deletes", &[]).expect("a purge");
        let after = self.changes_of(app);
        let removed = before.into_iter().filter(|(key, count)| after.get(key) != Some(count));
        self.purged.extend(removed.map(|(key, _)| (app.to_string(), key)));
        row.get(0)
    }

    fn changes_of(&mut self, app: &str) -> BTreeMap<Key, i64> {
        let sql = "SELECT table_name, record_id, count(*) FROM mana_sync.sync_changes WHERE app_id = $1 GROUP BY 1, 2";
        let rows = self.keeper.query(sql, &[&app]).expect("the log is readable");
        rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect()
    }
}

/// The counts of what has happened in some schedules.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Tally {
    pub schedules: usize,
    pub devices: usize,
    pub records: usize,
    pub writes: usize,
    pub answers: usize,
    pub lost: usize,
    pub rejected: usize,
    pub purged: i64,
    pub resyncs: usize,
    pub begun_again: usize,
    pub memberships: usize,
    pub from_standbys: usize,
    pub slow: usize,
    pub failed_schedules: usize,
    pub different_values: usize,
    pub different_times: usize,
}

impl Tally {
    /// Adds the counts of other schedules.
    pub fn add(&mut self, other: &Tally) {
        self.schedules += other.schedules;
        self.devices += other.devices;
        self.records += other.records;
        self.writes += other.writes;
        self.answers += other.answers;
        self.lost += other.lost;
        self.rejected += other.rejected;
        self.purged += other.purged;
        self.resyncs += other.resyncs;
        self.begun_again += other.begun_again;
        self.memberships += other.memberships;
        self.from_standbys += other.from_standbys;
        self.slow += other.slow;
        self.failed_schedules += other.failed_schedules;
        self.different_values += other.different_values;
        self.different_times += other.different_times;
    }
}

/// A schedule.
pub struct Schedule {
    seed: u64,
    app: String,
    plan: Plan,
    rng: StdRng,
    memberships: BTreeMap<&'static str, BTreeSet<&'static str>>,
    players: Vec<Player>,
    /// The instants from which writes take their times. They are few, so that many writes have the same time.
    instants: Vec<DateTime<Utc>>,
    /// The steps so far, as text for an error message.
    trace: Vec<String>,
    /// The counts of what has happened.
    pub tally: Tally,
    /// The records that a device showed although its user was not a member of their space when the device got the answer.
    pub shown_too_long: Vec<Difference>,
}

/// A device, whether it is online, and its clock.
struct Player {
    device: Device,
    is_online: bool,
    /// How far the clock of the device is ahead; negative if it is behind.
    clock: Duration,
}

impl Schedule {
    /// Makes a schedule whose devices write to the app `app`.
    pub fn new(app: &str, seed: u64, plan: Plan) -> Schedule {
        let mut rng = StdRng::seed_from_u64(seed);
        let base = Utc::now() - Duration::minutes(10);
        let base = base - Duration::nanoseconds(i64::from(base.timestamp_subsec_nanos()));
        let instants = (0..6).map(|n| base + Duration::milliseconds(500 * (n / 2)) + Duration::nanoseconds(n % 2));
        let memberships = USERS.map(|user| (user, SPACES.into_iter().filter(|_| rng.random_bool(0.6)).collect()));
        let mut schedule = Schedule {
            seed,
            app: app.into(),
            plan,
            instants: instants.collect(),
            rng,
            memberships: memberships.into(),
            players: Vec::new(),
            trace: Vec::new(),
            tally: Tally { schedules: 1, ..Tally::default() },
            shown_too_long: Vec::new(),
        };
        for user in USERS {
            for _ in 0..schedule.rng.random_range(1..=2) {
                schedule.add_device(user);
            }
        }
        schedule
    }

    fn add_device(&mut self, user: &'static str) {
        let number = self.players.iter().filter(|player| player.device.user == user).count();
        // Two tabs have the same client id.
        let is_tab = number > 0 && self.rng.random_bool(0.4);
        let client = format!("{user} {}", if is_tab { number - 1 } else { number });
        let kind = *self.plan.kinds.choose(&mut self.rng).expect("a kind");
        let clock = match self.rng.random_range(0..8) {
            0 => Duration::hours(2),
            1 => Duration::hours(-5),
            2 => Duration::days(3 * 365),
            3 => Duration::days(-11 * 365),
            4 => Duration::minutes(3),
            _ => Duration::zero(),
        };
        let device = Device::new(user, &client, &self.app, kind.store(user));
        self.trace.push(format!("device {} is {client}, {kind:?}, clock {clock}", self.players.len()));
        self.players.push(Player { device, is_online: true, clock });
        self.tally.devices += 1;
    }

    /// Plays this number of random steps.
    pub fn play(&mut self, servers: &mut Servers, steps: usize) {
        for _ in 0..steps {
            let player = self.rng.random_range(0..self.players.len());
            match self.rng.random_range(0..100) {
                0..34 => self.write(player, servers),
                34..68 if self.players[player].is_online => self.connect(player, servers),
                34..68 => self.players[player].is_online = true,
                68..74 => self.players[player].is_online = self.rng.random_bool(0.5),
                74..83 if self.plan.memberships => {
                    let user = *USERS.choose(&mut self.rng).expect("a user");
                    let space = *SPACES.choose(&mut self.rng).expect("a space");
                    self.change_membership(user, space);
                }
                83..86 if self.players.len() < 8 => {
                    let user = *USERS.choose(&mut self.rng).expect("a user");
                    self.add_device(user);
                }
                86..92 => self.write_in_sql(servers),
                92..95 => {
                    let commits = self.rng.random_bool(0.8);
                    servers.end_slow(commits);
                    self.trace.push(format!("the open transaction ends: {commits}"));
                }
                95..97 if self.plan.purges => {
                    let purged = servers.purge(&self.app);
                    self.trace.push(format!("purge of {purged} deletes"));
                    self.tally.purged += purged;
                }
                97..99 if self.plan.compactions => {
                    let sql = "CALL mana_sync.compact($1, older_than => '0')";
                    let row = servers.keeper.query_one(sql, &[&self.app]).expect("a compaction");
                    self.trace.push(format!("compaction: {:?} removed", row.get::<_, i64>(1)));
                }
                _ => {}
            }
        }
    }

    fn spaces(&self, user: &str) -> Vec<String> {
        self.memberships[user].iter().map(|space| space.to_string()).collect()
    }

    fn change_membership(&mut self, user: &'static str, space: &'static str) {
        let spaces = self.memberships.get_mut(user).expect("the user is known");
        if !spaces.remove(space) {
            spaces.insert(space);
        }
        self.tally.memberships += 1;
        self.trace.push(format!("{user} is now a member of {spaces:?}"));
    }

    /// Plays a device that is online for a while: it syncs and pulls some pages, perhaps not to the end.
    fn connect(&mut self, player: usize, servers: &mut Servers) {
        let rng = &mut self.rng;
        let request = Request {
            batches: rng.random_range(0..5),
            in_two_calls: rng.random_bool(0.25),
            is_atomic: rng.random_bool(0.5),
            limit: limit(rng),
            loses_push: rng.random_bool(0.15),
            loses_answer: rng.random_bool(0.15),
        };
        // Every other time it only pulls.
        let request = Some(&request).filter(|_| rng.random_bool(0.5));
        let mut outcome = self.exchange(player, servers, request, false);
        // A space that changes back between the pages of a walk.
        let mut changed = None;
        while outcome == Outcome::More && self.rng.random_bool(0.75) {
            if self.plan.memberships && self.rng.random_bool(0.3) {
                let user = USERS.into_iter().find(|user| *user == self.players[player].device.user).expect("a user");
                let space = changed.take().unwrap_or(*SPACES.choose(&mut self.rng).expect("a space"));
                self.change_membership(user, space);
                changed = Some(space);
            }
            let loses_answer = self.rng.random_bool(0.1);
            outcome = self.exchange(player, servers, None, loses_answer);
        }
    }

    /// Plays one request of a device: a push with a pull, or a pull, perhaps from a standby.
    fn exchange(
        &mut self,
        player: usize,
        servers: &mut Servers,
        request: Option<&Request>,
        loses_answer: bool,
    ) -> Outcome {
        let spaces = self.spaces(&self.players[player].device.user);
        let device = &mut self.players[player].device;
        if !self.plan.writes_to_purged {
            // The application gives up what it wrote to a record that is gone.
            for batch in &mut device.queue {
                batch.retain(|change| !servers.purged.contains(&(self.app.clone(), super::key_of(change))));
            }
        }
        let (before, queued) = (device.cursor.clone(), device.queue.len());
        let (mut from, mut limit) = ("primary".to_string(), request.and_then(|request| request.limit));
        let outcome = match request {
            Some(request) => device.sync(&mut servers.app, &spaces, request),
            None => {
                limit = self::limit(&mut self.rng);
                let standbys = servers.standbys.len();
                let client = match standbys > 0 && self.rng.random_bool(0.7) {
                    true => {
                        let standby = self.rng.random_range(0..standbys);
                        from = format!("standby {standby}");
                        self.tally.from_standbys += 1;
                        &mut servers.standbys[standby]
                    }
                    false => &mut servers.app,
                };
                device.pull(client, &spaces, limit, loses_answer)
            }
        };
        self.trace.push(format!(
            "device {player} in {spaces:?} gets {limit:?} from {from}, {} of {queued} batches sent: {outcome:?}, cursor {} to {}",
            queued - device.queue.len(),
            before.as_deref().unwrap_or("none"),
            device.cursor.as_deref().unwrap_or("none"),
        ));
        self.tally.answers += 1;
        match outcome {
            Outcome::Lost => self.tally.lost += 1,
            Outcome::Resync => self.tally.resyncs += 1,
            // A standby that cannot show more yet does not say that a space was left. The next answer that moves the cursor does.
            Outcome::More | Outcome::Done if from == "primary" || device.cursor != before => {
                for (key, shown) in device.store.shown() {
                    if shown.space.as_ref().is_some_and(|space| !spaces.contains(space)) {
                        let text = format!("device {player} shows {key:?} in {:?}", shown.space);
                        self.trace.push(text.clone());
                        self.shown_too_long.push(Difference { of_values: true, text });
                    }
                }
            }
            Outcome::More | Outcome::Done | Outcome::Refused => {}
        }
        outcome
    }

    /// Lets every device pull to the end and once more. Returns how the devices differ from what they have to have. All queues must have
    /// been pushed before ([`Schedule::push_all`]).
    ///
    /// The devices also pull from the standbys, which must have caught up after [`Schedule::push_all`].
    pub fn finish(&mut self, servers: &mut Servers) -> Vec<Difference> {
        let mut found = std::mem::take(&mut self.shown_too_long);
        for player in 0..self.players.len() {
            let mut is_last = false;
            for round in 0.. {
                assert!(round < 3000, "{}: a device pulls without end\n{}", self.seed, self.trace.join("\n"));
                let outcome = self.exchange(player, servers, None, false);
                if outcome == Outcome::Done && std::mem::replace(&mut is_last, true) {
                    break;
                }
                is_last &= outcome == Outcome::Done;
            }
            let device = &self.players[player].device;
            self.tally.rejected += device.rejected;
            self.tally.begun_again += device.begun_again;
            let spaces = self.spaces(&device.user);
            let expected = truth(&mut servers.app, &device.user, &self.app, &spaces);
            self.tally.records += expected.len();
            let keeps_spelling = device.store.keeps_spelling();
            found.extend(differences(&format!("device {player}"), &device.store.shown(), &expected, keeps_spelling));
        }
        let of_values = found.iter().filter(|difference| difference.of_values).count();
        self.tally.failed_schedules += usize::from(!found.is_empty());
        self.tally.different_values += of_values;
        self.tally.different_times += found.len() - of_values;
        found
    }

    /// Lets every device push its whole queue. The caller must not write afterwards.
    pub fn push_all(&mut self, servers: &mut Servers) {
        servers.end_slow(true);
        for player in 0..self.players.len() {
            let mut tries = 0;
            while !self.players[player].device.queue.is_empty() {
                let request = Request {
                    batches: usize::MAX,
                    in_two_calls: false,
                    is_atomic: false,
                    limit: Some(3),
                    loses_push: false,
                    loses_answer: false,
                };
                self.exchange(player, servers, Some(&request), false);
                tries += 1;
                assert!(tries < 100, "{}: a queue is stuck\n{}", self.seed, self.trace.join("\n"));
            }
        }
    }

    /// The seed and the steps of the schedule, for the message of a failure.
    pub fn trace(&self) -> String {
        format!("seed {}, app {}\n{}", self.seed, self.app, self.trace.join("\n"))
    }

    /// Lets a device write one change, or the two changes that move a record.
    fn write(&mut self, player: usize, servers: &Servers) {
        let user = USERS.into_iter().find(|user| *user == self.players[player].device.user).expect("a user");
        let shown = self.players[player].device.store.shown();
        for _ in 0..self.rng.random_range(1..=2) {
            let keys: Vec<&Key> = shown.keys().collect();
            let key = match keys.choose(&mut self.rng) {
                Some(key) if self.rng.random_bool(0.6) => (*key).clone(),
                _ => self.any_key(),
            };
            if !self.plan.writes_to_purged && servers.purged.contains(&(self.app.clone(), key.clone())) {
                continue;
            }
            let batch = match (self.rng.random_range(0..100), shown.get(&key)) {
                (0..15, Some(record)) => {
                    // The record moves to another space, or becomes private, with one time for both changes.
                    let at = self.time(player);
                    let from = record.space.clone().unwrap_or_default();
                    let to = self.member_space(user).unwrap_or_default();
                    let mut delete = self.change(user, &key, "delete", Some(&from));
                    let mut insert = self.change(user, &key, "insert", Some(to));
                    let mut data = record.data.clone();
                    data.remove("spaceId");
                    insert["data"] = Value::Object(data);
                    if let Some(at) = at {
                        (delete["deletedAt"], insert["at"]) = (at.clone(), at);
                    }
                    vec![delete, insert]
                }
                (0..45, _) => vec![self.insert(user, &key, player)],
                (45..85, _) => vec![self.update(user, &key, player)],
                _ => vec![self.delete(user, &key, player)],
            };
            self.trace.push(format!("device {player} writes {}", Value::Array(batch.clone())));
            self.tally.writes += batch.len();
            self.players[player].device.write(batch);
        }
    }

    fn any_key(&mut self) -> Key {
        let table = TABLES.choose(&mut self.rng).expect("a table");
        (table.to_string(), format!("r{}", self.rng.random_range(0..6)))
    }

    fn member_space(&mut self, user: &str) -> Option<&'static str> {
        let spaces: Vec<&'static str> = self.memberships[user].iter().copied().collect();
        spaces.choose(&mut self.rng).copied()
    }

    fn change(&self, user: &str, (table, id): &Key, op: &str, space: Option<&str>) -> Value {
        let event = Uuid::new_v4().to_string();
        let mut change = json!({"eventId": event, "table": table, "id": id, "op": op, "actor": {"user": user}});
        if let Some(space) = space {
            change["spaceId"] = json!(space);
        }
        change
    }

    /// Makes a change that names a random space or none.
    fn change_somewhere(&mut self, user: &str, key: &Key, op: &str) -> Value {
        let space = match self.rng.random_range(0..100) {
            0..45 => None,
            45..55 => Some(""),
            55..97 => self.member_space(user),
            _ => SPACES.choose(&mut self.rng).copied(),
        };
        self.change(user, key, op, space)
    }

    fn insert(&mut self, user: &str, key: &Key, player: usize) -> Value {
        let mut change = self.change_somewhere(user, key, "insert");
        let mut data = self.fields(user);
        match self.rng.random_range(0..3) {
            0 => {
                if let Some(at) = self.time(player) {
                    change["at"] = at;
                }
            }
            1 => {
                for name in ["updatedAt", "createdAt"] {
                    if let Some(at) = self.time(player) {
                        data.insert(name.into(), at);
                    }
                }
            }
            _ => {}
        }
        change["data"] = Value::Object(data);
        change
    }

    fn update(&mut self, user: &str, key: &Key, player: usize) -> Value {
        let mut change = self.change_somewhere(user, key, "update");
        let mut fields = Map::new();
        for (name, value) in self.fields(user) {
            let mut field = json!({"value": value});
            if let Some(at) = self.time(player) {
                field["at"] = at;
            }
            fields.insert(name, field);
        }
        change["fields"] = Value::Object(fields);
        change
    }

    fn delete(&mut self, user: &str, key: &Key, player: usize) -> Value {
        let mut change = self.change_somewhere(user, key, "delete");
        if let Some(at) = self.time(player) {
            change["deletedAt"] = at;
        }
        change
    }

    fn fields(&mut self, user: &str) -> Map<String, Value> {
        let mut fields = Map::new();
        for name in FIELDS {
            let probability = if matches!(name, "" | "spaceId") { 0.05 } else { 0.5 };
            if self.rng.random_bool(probability) {
                let value = match name {
                    "spaceId" => self.member_space(user).map_or(Value::Null, |space| json!(space)),
                    _ => self.value(),
                };
                fields.insert(name.into(), value);
            }
        }
        fields
    }

    fn value(&mut self) -> Value {
        match self.rng.random_range(0..8) {
            0 => Value::Null,
            1 => serde_json::from_str("1.500").expect("a number"),
            2 => serde_json::from_str("12345678901234567890.000000001").expect("a number"),
            3 => json!("é \" \\ \u{1} 🦀"),
            4 => json!({"list": [1, {"x": null}], "": []}),
            _ => json!(self.rng.random_range(0..1000)),
        }
    }

    /// Returns a time as the device spells it, or `None`.
    fn time(&mut self, player: usize) -> Option<Value> {
        let rng = &mut self.rng;
        let time = match rng.random_range(0..10) {
            0..2 => return None,
            2..7 => *self.instants.choose(rng).expect("an instant"),
            _ => Utc::now() + self.players[player].clock,
        };
        Some(json!(spell(time, rng)))
    }

    /// Writes a change in SQL, as if it came from no device, perhaps in a transaction that stays open.
    fn write_in_sql(&mut self, servers: &mut Servers) {
        let user = *USERS.choose(&mut self.rng).expect("a user");
        let key = self.any_key();
        if !self.plan.writes_to_purged && servers.purged.contains(&(self.app.clone(), key.clone())) {
            return;
        }
        let space = self.member_space(user).filter(|_| self.rng.random_bool(0.7));
        let op = *["insert", "update", "delete"].choose(&mut self.rng).expect("an op");
        let (mut data, mut times) = (self.fields(user), Map::new());
        let stale = |rng: &mut StdRng| match rng.random_range(0..3) {
            0 => json!("yesterday"),
            1 => json!(17),
            _ => json!(spell(Utc::now() + Duration::days(400), rng)),
        };
        let names: Vec<String> =
            data.keys().cloned().chain(["updatedAt", "createdAt", "deletedAt"].map(str::to_string)).collect();
        for name in names {
            let at = match self.rng.random_range(0..4) {
                0 => stale(&mut self.rng),
                1 => continue,
                _ => json!(spell(*self.instants.choose(&mut self.rng).expect("an instant"), &mut self.rng)),
            };
            match name.ends_with("At") {
                true => drop(data.insert(name, at)),
                false => drop(times.insert(name, at)),
            }
        }
        let data = self.rng.random_bool(0.9).then_some(Value::Object(data));
        let stays_open = self.rng.random_bool(0.5);
        self.trace.push(format!(
            "SQL: {user} {op} {key:?} in {space:?}: {data:?}, {times:?}; stays open: {}",
            stays_open || servers.is_slow_open
        ));
        let spaces = self.spaces(user);
        let sql =
            "SELECT mana_sync.record_change($1, $2, $3, $4, $5, $6, 'server', $7, $8, actor => $9, space_ids => $10)";
        let actor = json!({"user": user});
        let times = Value::Object(times);
        if stays_open && !std::mem::replace(&mut servers.is_slow_open, true) {
            servers.slow.batch_execute("BEGIN").expect("a transaction begins");
        }
        let client = if stays_open { &mut servers.slow } else { &mut servers.app };
        client
            .execute(sql, &[&self.app, &key.0, &key.1, &user, &space, &op, &data, &times, &actor, &spaces])
            .expect("a change is recorded");
        self.tally.slow += usize::from(stays_open);
        self.tally.writes += 1;
    }
}

/// Returns a random size of a page; `None` for the default. It is mostly small, so that walks have many pages.
fn limit(rng: &mut StdRng) -> Option<i32> {
    match rng.random_range(0..10) {
        0..6 => Some(rng.random_range(1..=2)),
        6..8 => Some(rng.random_range(3..=7)),
        _ => None,
    }
}

/// Formats a time in one of the spellings that RFC 3339 allows.
fn spell(time: DateTime<Utc>, rng: &mut StdRng) -> String {
    let is_whole = time.timestamp_subsec_nanos() % 1_000_000 == 0;
    match rng.random_range(0..3) {
        0 if is_whole => time.to_rfc3339_opts(SecondsFormat::Millis, true),
        1 => {
            let zone = chrono::FixedOffset::east_opt(5400).expect("a zone");
            time.with_timezone(&zone).to_rfc3339_opts(SecondsFormat::Nanos, true)
        }
        _ => time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
    }
}
