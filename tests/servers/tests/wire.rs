//! Tests of the wire format with whole request bodies: `push`, `pull` and `sync` on a real server.
//!
//! Fails if a push that is sent again is stored again; if a change does not come back as it was sent; if a bad changeset leaves something
//! behind or is not refused properly; or if a change of a changeset that is not atomic is both recorded and rejected, or neither.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use chrono::{DateTime, Utc};
use mana_sync_harness::cluster::DATABASE;
use mana_sync_harness::history::{self, devices_of};
use mana_sync_harness::oracle::Difference;
use mana_sync_harness::random::{page_size, rng, seed};
use mana_sync_harness::wire::remove_added;
use mana_sync_harness::{Cluster, Device, Options};
use postgres::{Client, Error};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Map, Value, json};
use uuid::Uuid;

const PUSH: &str = "SELECT mana_sync.push($1, $2, $3::text::jsonb)::text";

/// Pushes a changeset. Returns how many changes were inserted, and how many were duplicates.
fn push(client: &mut Client, user: &str, app: &str, changeset: &str) -> Result<(u64, u64), Error> {
    let row = client.query_one(PUSH, &[&user, &app, &changeset])?;
    let answer: Value = serde_json::from_str(row.get(0)).expect("an answer in JSON");
    Ok((answer["inserted"].as_u64().unwrap(), answer["duplicates"].as_u64().unwrap()))
}

/// Pulls one page in the wire format.
fn pull(client: &mut Client, device: &Device, page_size: i32) -> Value {
    let sql = "SELECT mana_sync.pull($1, $2, since => $3, page_size => $4, space_ids => $5)::text";
    let values: [&(dyn postgres::types::ToSql + Sync); 5] =
        [&device.user, &device.app, &device.cursor, &page_size, &device.spaces];
    serde_json::from_str(client.query_one(sql, &values).unwrap().get(0)).expect("a response in JSON")
}

/// Pulls until there is nothing more.
fn pull_all(client: &mut Client, device: &mut Device, mut page_size: impl FnMut() -> i32) -> Vec<Value> {
    let mut changes = Vec::new();
    loop {
        let mut page = pull(client, device, page_size());
        device.cursor = Some(page["syncedUntil"].as_str().expect("a cursor").to_string());
        assert_eq!(page["conflicts"], json!([]));
        for change in page["serverChanges"].as_array_mut().expect("changes").drain(..) {
            device.delivered.add(change["eventId"].as_str().unwrap().parse().unwrap());
            changes.push(change);
        }
        if page["hasMore"] == json!(false) {
            return changes;
        }
    }
}

#[test]
fn the_history_pushed_twice_is_stored_once_and_comes_back_as_it_was() {
    let Some(pushes) = history::load("wire") else { return };
    let seed = seed("wire", 4);
    let cluster = Cluster::with_log(Options::default());
    let changes: u64 = pushes.iter().map(|push| push.changes.len() as u64).sum();
    for (round, expected) in [(1, (changes, 0)), (2, (0, changes))] {
        let next = AtomicUsize::new(0);
        let counts = thread::scope(|scope| {
            let writer = || {
                let mut client = cluster.app(DATABASE);
                let (mut inserted, mut duplicates) = (0, 0);
                while let Some(line) = pushes.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let (new, old) = push(&mut client, &line.user, &line.app, &line.line).expect("the push is taken");
                    (inserted, duplicates) = (inserted + new, duplicates + old);
                }
                (inserted, duplicates)
            };
            let writers: Vec<_> = (0..4).map(|_| scope.spawn(writer)).collect();
            writers.into_iter().map(|writer| writer.join().expect("the writer is well")).collect::<Vec<_>>()
        });
        let sum = counts.iter().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
        println!("round {round}: {} inserted, {} duplicates", sum.0, sum.1);
        assert_eq!(sum, expected);
    }
    let sent: HashMap<String, Value> = pushes
        .iter()
        .flat_map(|push| {
            let mut push: Value = serde_json::from_str(&push.line).unwrap();
            push["changes"].as_array_mut().unwrap().drain(..).collect::<Vec<_>>()
        })
        .map(|change| (change["eventId"].as_str().unwrap().to_string(), change))
        .collect();
    let (mut app, mut superuser) = (cluster.app(DATABASE), cluster.superuser(DATABASE));
    let (mut rng, mut total) = (rng(seed, 0), Difference::default());
    for device in &mut devices_of(&pushes) {
        for mut change in pull_all(&mut app, device, || page_size(&mut rng).max(100)) {
            assert_eq!(change.as_object_mut().unwrap().remove("schemaVersion"), Some(json!(1)));
            let sent = &sent[change["eventId"].as_str().unwrap()];
            remove_added(&mut change, sent);
            assert_eq!(change, *sent);
        }
        let difference = device.compare(&mut superuser);
        difference.assert_exact(&device.user);
        total.add(difference);
    }
    println!("{total}");

    // An id that was used for another record.
    let mut line: Value = serde_json::from_str(&pushes[0].line).unwrap();
    line["changes"][0]["id"] = json!("another");
    let error = push(&mut app, &pushes[0].user, &pushes[0].app, &line.to_string()).expect_err("another record");
    assert_eq!(error.code().unwrap().code(), "23505");
}

#[test]
fn a_push_that_is_sent_twice_at_once_is_stored_once() {
    let cluster = Cluster::with_log(Options::default());
    let rounds: Vec<String> = (0..60)
        .map(|round| {
            let change = |i: u128| json!({"eventId": Uuid::from_u128(round * 1000 + i).to_string(), "table": "t", "id": i.to_string(), "op": "delete"});
            json!({"changes": (0..40).map(change).collect::<Vec<_>>()}).to_string()
        })
        .collect();
    let barrier = Barrier::new(3);
    let counts: Vec<Vec<(u64, u64)>> = thread::scope(|scope| {
        let sender = || {
            let mut client = cluster.app(DATABASE);
            let send = |changeset: &String| {
                barrier.wait();
                push(&mut client, "ann", "app", changeset).expect("each is answered")
            };
            rounds.iter().map(send).collect()
        };
        let senders: Vec<_> = (0..3).map(|_| scope.spawn(sender)).collect();
        senders.into_iter().map(|sender| sender.join().expect("the sender is well")).collect()
    });
    for round in 0..rounds.len() {
        let of_round: Vec<(u64, u64)> = counts.iter().map(|counts| counts[round]).collect();
        assert_eq!(of_round.iter().map(|count| count.0).sum::<u64>(), 40, "{of_round:?}");
        assert!(of_round.iter().all(|count| count.0 + count.1 == 40), "{of_round:?}");
    }
    let mut superuser = cluster.superuser(DATABASE);
    let row = superuser.query_one("SELECT count(*) FROM mana_sync.sync_changes", &[]).unwrap();
    assert_eq!(row.get::<_, i64>(0), 60 * 40);
}

#[test]
fn ten_megabytes_go_in_and_out() {
    let cluster = Cluster::with_log(Options::default().set("mana_sync.max_change_size", "16MB"));
    let mut app = cluster.app(DATABASE);
    let change = |i: u32| json!({"table": "t", "id": i.to_string(), "op": "insert", "data": {"text": "0123456789".repeat(1000), "n": i}});
    let many = json!({"changes": (0..1000).map(change).collect::<Vec<_>>()}).to_string();
    let one = json!({"changes": [{"table": "t", "id": "big", "op": "update",
                                  "fields": {"text": {"value": "x".repeat(10_000_000), "at": "2026-01-01T00:00:00Z"}}}]});
    assert_eq!(push(&mut app, "ann", "app", &many).unwrap(), (1000, 0));
    assert_eq!(push(&mut app, "ann", "app", &one.to_string()).unwrap(), (1, 0));
    let mut device = Device::new("ann", "app", &[]);
    let changes = pull_all(&mut app, &mut device, || 700);
    assert_eq!(changes.len(), 1001);
    for (i, change) in changes[..1000].iter().enumerate() {
        assert_eq!((&change["data"]["n"], change["data"]["text"].as_str().unwrap().len()), (&json!(i), 10_000));
    }
    assert_eq!(changes[1000]["fields"]["text"]["value"].as_str().unwrap().len(), 10_000_000);
}

/// The extension can be created in databases of other encodings, and its answers are JSON with the characters that were pushed.
#[test]
fn other_encodings_keep_their_characters() {
    let cluster = Cluster::new(Options::default());
    for (encoding, text) in [("LATIN1", "caf\u{e9}"), ("EUC_JP", "\u{65e5}\u{672c}"), ("SQL_ASCII", "caf\u{e9}")] {
        let database = encoding.to_lowercase();
        let sql =
            format!("CREATE DATABASE {database} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
        cluster.superuser("postgres").batch_execute(&sql).unwrap();
        cluster.create_log_in(&database);
        let mut app = cluster.app(&database);
        let change = json!({"table": text, "id": format!("{text}\u{7}\"\\"), "op": "update",
                            "fields": {text: {"value": [text, {text: "\n"}], "at": "2026-01-01T00:00:00Z"}}});
        let changeset = json!({"changes": [change]}).to_string();
        assert_eq!(push(&mut app, "ann", "app", &changeset).unwrap(), (1, 0), "{encoding}");
        let back = pull_all(&mut app, &mut Device::new("ann", "app", &[]), || 10);
        let key = |key: &str| (&back[0][key], &change[key]);
        for (back, sent) in [key("table"), key("id"), key("fields")] {
            assert_eq!(back, sent, "{encoding}");
        }
    }
    // An error message contains only characters that its encoding shares with UTF-8.
    let bad = "{\"changes\": [{\"table\": \"t\", \"id\": \"r\", \"op\": \"update\", \"fields\": {\"k\u{e9}y\": 1}}]}";
    let error = push(&mut cluster.app("latin1"), "ann", "app", bad).expect_err("a field is an object");
    assert_eq!(error.as_db_error().unwrap().message(), "changes[0].fields.k?y must be an object");
    // The same holds for the messages of rejected changes, in the words of the extension and of an application.
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a caf\u{e9} too many'; END $$;
                  CREATE TRIGGER app_refuse BEFORE INSERT ON mana_sync.sync_changes FOR EACH ROW WHEN (NEW.table_name = 'caf\u{e9}')
                  EXECUTE FUNCTION refuse()";
    for database in ["latin1", "sql_ascii"] {
        cluster.superuser(database).batch_execute(refuse).unwrap();
        let both = bad.replacen("[{", "[{\"table\": \"caf\u{e9}\", \"id\": \"r\", \"op\": \"delete\"}, {", 1);
        let both = both.replacen('{', "{\"atomic\": false, ", 1);
        let sql = "SELECT mana_sync.push('ann', 'app', $1::text::jsonb)::text";
        let answer: String = cluster.app(database).query_one(sql, &[&both]).unwrap().get(0);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let messages: Vec<_> = (0..2).map(|place| answer["rejected"][place]["error"].as_str().unwrap()).collect();
        assert_eq!(messages, ["a caf? too many", "changes[1].fields.k?y must be an object"], "{database}");
    }
}

/// The backlog is larger than a page. A `sync` without a limit returns a page of a thousand changes, and says that there is more.
#[test]
fn a_sync_brings_a_page_of_a_thousand_and_says_that_there_is_more() {
    let cluster = Cluster::with_log(Options::default());
    let mut app = cluster.app(DATABASE);
    let change = |i: u32| json!({"table": "t", "id": i.to_string(), "op": "delete"});
    let changes = |of: std::ops::Range<u32>| json!({"changes": of.map(change).collect::<Vec<_>>()}).to_string();
    push(&mut app, "ann", "app", &changes(0..1)).unwrap();
    let mut device = Device::new("ann", "app", &[]);
    pull_all(&mut app, &mut device, || 10);
    push(&mut app, "ann", "app", &changes(1..1501)).unwrap();
    let mut sizes = Vec::new();
    loop {
        let sql =
            "SELECT mana_sync.sync('ann', 'app', jsonb_build_object('since', $1::text, 'changes', jsonb '[]'))::text";
        let answer: String = app.query_one(sql, &[&device.cursor]).unwrap().get(0);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        device.cursor = answer["syncedUntil"].as_str().map(str::to_string);
        sizes.push((answer["serverChanges"].as_array().unwrap().len(), answer["hasMore"] == json!(true)));
        if sizes.last().is_some_and(|(_, more)| !more) {
            break;
        }
    }
    assert_eq!(sizes, [(1000, true), (500, false)]);
}

/// On a standby, `pull` works as on the primary. It returns the same cursor if the standby cannot deliver more, and a
/// `sync` without changes is a pull.
#[test]
fn a_standby_pulls_and_syncs_without_changes() {
    let primary = Cluster::with_log(Options::default());
    let standby = primary.standby("standby1");
    let (mut app, mut there) = (primary.app(DATABASE), standby.app(DATABASE));
    let changeset = |id: &str| json!({"changes": [{"table": "t", "id": id, "op": "delete"}]}).to_string();
    let mut device = Device::new("ann", "app", &[]);
    push(&mut app, "ann", "app", &changeset("one")).unwrap();
    primary.wait_until_caught_up(&standby);
    assert_eq!(pull_all(&mut there, &mut device, || 10).len(), 1);
    // The standby is behind: no rows, and the same cursor.
    standby.pause_replay();
    for id in ["two", "three", "four"] {
        push(&mut app, "ann", "app", &changeset(id)).unwrap();
    }
    assert_eq!(pull(&mut app, &device, 1)["hasMore"], json!(true));
    device.cursor = pull(&mut app, &device, 1)["syncedUntil"].as_str().map(str::to_string);
    let page = pull(&mut there, &device, 1);
    assert_eq!((&page["serverChanges"], &page["hasMore"]), (&json!([]), &json!(false)));
    assert_eq!(page["syncedUntil"].as_str(), device.cursor.as_deref());
    standby.resume_replay();
    primary.wait_until_caught_up(&standby);
    assert_eq!(pull_all(&mut there, &mut device, || 1).len(), 2);

    let sync = "SELECT mana_sync.sync('ann', 'app', $1::text::jsonb)::text";
    let answer: String = there.query_one(sync, &[&"{\"changes\": []}"]).unwrap().get(0);
    assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["serverChanges"].as_array().unwrap().len(), 4);
    let error = there.query_one(sync, &[&changeset("five")]).expect_err("a standby records nothing");
    assert_eq!(error.code().unwrap().code(), "25006");
}

/// Returns the changes that must come back for a changeset that was stored. This is a second implementation of the rules of the wire
/// format.
fn expected(changeset: &Value) -> Vec<Value> {
    let present = |value: Option<&Value>| value.filter(|value| !value.is_null()).cloned();
    let version = |of: &Value| {
        let version = present(of.get("schemaVersion"))?;
        Some(version.to_string().parse::<i64>().unwrap_or(1).max(1))
    };
    let sent = changeset["changes"].as_array().expect("a changeset that was stored has changes");
    let (mut changes, mut spaces) = (Vec::new(), HashMap::new());
    for change in sent {
        let mut back = Map::new();
        for key in ["table", "id", "op"] {
            back.insert(key.into(), change[key].clone());
        }
        back.insert("schemaVersion".into(), json!(version(change).or(version(changeset)).unwrap_or(1)));
        let mut space = None;
        match change["op"].as_str().unwrap() {
            "insert" => {
                back.insert("data".into(), change["data"].clone());
                present(change.get("at")).into_iter().for_each(|at| drop(back.insert("at".into(), at)));
                space = change["data"].get("spaceId").cloned();
            }
            "update" => {
                let field = |(name, field): (&String, &Value)| {
                    let mut back = Map::from_iter([("value".to_string(), field["value"].clone())]);
                    let at = present(field.get("at")).or(present(field.get("updatedAt")));
                    at.into_iter().for_each(|at| drop(back.insert("at".into(), at)));
                    (name.clone(), Value::Object(back))
                };
                let fields: Map<String, Value> = change["fields"].as_object().unwrap().iter().map(field).collect();
                space = fields.get("spaceId").map(|field| field["value"].clone());
                back.insert("fields".into(), fields.into());
            }
            _ => {
                present(change.get("deletedAt")).into_iter().for_each(|at| drop(back.insert("deletedAt".into(), at)));
            }
        }
        // A change without a space takes the space of the previous change to the same record. An empty space means
        // private.
        let record = (change["table"].to_string(), change["id"].to_string());
        let space = present(change.get("spaceId")).or(space.filter(Value::is_string));
        let space = space.or_else(|| spaces.get(&record).cloned());
        if let Some(space) = space {
            if space != "" {
                back.insert("spaceId".into(), space.clone());
            }
            spaces.insert(record, space);
        }
        present(change.get("actor")).into_iter().for_each(|actor| drop(back.insert("actor".into(), actor)));
        changes.push(Value::Object(back));
    }
    // A change without a time takes the earliest time of a later change to the same record, if that time is in the
    // past.
    let said: Vec<Vec<(DateTime<Utc>, Value)>> = changes.iter().map(times).collect();
    for (place, change) in changes.iter_mut().enumerate() {
        let is_later =
            |other: &usize| sent[*other]["table"] == sent[place]["table"] && sent[*other]["id"] == sent[place]["id"];
        let later = (place + 1..sent.len()).filter(is_later).flat_map(|other| said[other].iter());
        let Some((time, text)) = later.min_by_key(|(time, text)| (*time, text.to_string())) else { continue };
        if *time >= Utc::now() {
            continue;
        }
        match change["op"].as_str().unwrap() {
            "insert" if said[place].is_empty() => change["at"] = text.clone(),
            "delete" if said[place].is_empty() => change["deletedAt"] = text.clone(),
            "update" => {
                for field in change["fields"].as_object_mut().unwrap().values_mut() {
                    if field.get("at").is_none() {
                        field["at"] = text.clone();
                    }
                }
            }
            _ => {}
        }
    }
    // A change that is sent twice is stored once.
    let mut seen = HashSet::new();
    let mut is_new = sent.iter().map(|change| {
        let id: Option<Uuid> = present(change.get("eventId")).map(|id| id.as_str().unwrap().parse().unwrap());
        id.is_none_or(|id| seen.insert(id))
    });
    changes.retain(|_| is_new.next().expect("as many as were sent"));
    changes
}

/// Returns the times that a change contains.
fn times(change: &Value) -> Vec<(DateTime<Utc>, Value)> {
    let read = |value: &Value| Some((DateTime::parse_from_rfc3339(value.as_str()?).ok()?.to_utc(), value.clone()));
    match change["op"].as_str().unwrap() {
        "insert" => {
            let first =
                [&change["at"], &change["data"]["updatedAt"], &change["data"]["createdAt"]].into_iter().find_map(read);
            first.into_iter().collect()
        }
        "update" => change["fields"].as_object().unwrap().values().filter_map(|field| read(&field["at"])).collect(),
        _ => read(&change["deletedAt"]).into_iter().collect(),
    }
}

/// Generates changesets, and mutates them.
struct Fuzz(StdRng);

impl Fuzz {
    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.0.random_range(0..of.len())]
    }

    fn text(&mut self) -> String {
        let words = [
            "milk",
            "",
            "ü",
            "日本",
            "\"",
            "\\",
            "\n",
            "\u{1}",
            "a,b",
            "2026-01-01T00:00:00Z",
            "\u{7f}",
            "🥛",
            "x'y",
            "{}",
        ];
        let mut text: String = (0..self.0.random_range(0..4)).map(|_| self.pick(&words)).collect();
        if self.0.random_range(0..40) == 0 {
            text = text.repeat(200);
        }
        text
    }

    fn any(&mut self, depth: usize) -> Value {
        match self.0.random_range(0..if depth == 0 { 6 } else { 8 }) {
            0 => Value::Null,
            1 => json!(self.0.random::<bool>()),
            2 => json!(self.0.random_range(-5i64..100)),
            3 => serde_json::from_str(self.pick(&["12345678901234567890123.450", "0.10", "-7", "9223372036854775808"]))
                .unwrap(),
            4 | 5 => json!(self.text()),
            6 => (0..self.0.random_range(0..3)).map(|_| self.any(depth - 1)).collect(),
            _ => Value::Object((0..self.0.random_range(0..4)).map(|_| (self.text(), self.any(depth - 1))).collect()),
        }
    }

    fn object(&mut self) -> Value {
        let mut object: Map<String, Value> =
            (0..self.0.random_range(0..5)).map(|_| (self.text(), self.any(3))).collect();
        if self.0.random_range(0..6) == 0 {
            object.insert("spaceId".into(), json!("home"));
        }
        object.into()
    }

    fn change(&mut self) -> Value {
        let op = self.pick(&["insert", "update", "delete"]);
        let mut change = json!({"table": self.pick(&["notes", "tasks"]), "id": format!("r{}", self.text()), "op": op});
        match op {
            "insert" => change["data"] = self.object(),
            "update" => {
                let fields = (0..self.0.random_range(0..4)).map(|_| {
                    let key = self.pick(&["at", "updatedAt"]);
                    (self.text(), json!({"value": self.any(3), key: "2026-01-01T00:00:00Z"}))
                });
                change["fields"] = Value::Object(fields.collect());
            }
            _ => change["deletedAt"] = json!("2026-01-01T00:00:00Z"),
        }
        if self.0.random::<bool>() {
            change["eventId"] = json!(Uuid::from_u128(self.0.random()).to_string());
        }
        for (key, value) in [("spaceId", json!("home")), ("actor", self.any(2)), ("schemaVersion", json!(1))] {
            if self.0.random_range(0..4) == 0 {
                change[key] = value;
            }
        }
        change
    }

    fn changeset(&mut self) -> Value {
        let changes: Vec<Value> = (0..self.0.random_range(0..5)).map(|_| self.change()).collect();
        json!({"clientId": "phone", "since": "", "schemaVersion": 1, "changes": changes})
    }

    /// Changes one random part of a value.
    fn mutate(&mut self, value: &mut Value) {
        let stop = self.0.random_range(0..4) == 0;
        match value {
            Value::Object(object) if !object.is_empty() && !stop => {
                let at = self.0.random_range(0..object.len());
                let key = object.keys().nth(at).unwrap().clone();
                match self.0.random_range(0..6) {
                    0 => drop(object.remove(&key)),
                    1 => drop(object.insert(self.text(), Value::Null)),
                    2 => {
                        let name = self.pick(&[
                            "changes",
                            "fields",
                            "data",
                            "deletedAt",
                            "spaceId",
                            "actor",
                            "eventId",
                            "op",
                            "value",
                            "at",
                        ]);
                        let any = self.any(2);
                        object.insert(name.into(), any);
                    }
                    _ => self.mutate(object.get_mut(&key).unwrap()),
                }
            }
            Value::Array(array) if !array.is_empty() && !stop => {
                let at = self.0.random_range(0..array.len());
                match self.0.random_range(0..6) {
                    0 => drop(array.remove(at)),
                    1 => array.push(array[at].clone()),
                    _ => self.mutate(&mut array[at]),
                }
            }
            value => *value = self.any(3),
        }
    }
}

/// A seeded fuzz test: each changeset comes back as it was sent, or is refused without leaving anything behind.
#[test]
fn mutated_changesets_come_back_equal_or_are_refused() {
    const COUNT: usize = 20_000;
    let seed = seed("fuzz", 11);
    let cluster = Cluster::with_log(Options::default());
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    let runs: Vec<BTreeMap<String, usize>> = thread::scope(|scope| {
        let run = |thread: usize| {
            let (mut client, mut fuzz) = (cluster.app(DATABASE), Fuzz(rng(seed, thread as u64)));
            let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
            for i in 0..COUNT / 2 {
                let user = format!("user {thread} {i}");
                let mut changeset = fuzz.changeset();
                for _ in 0..fuzz.0.random_range(0..4) {
                    fuzz.mutate(&mut changeset);
                }
                let mut text = changeset.to_string();
                if fuzz.0.random_range(0..20) == 0 {
                    // The JSON parser of PostgreSQL refuses it.
                    text = text.replacen("phone", fuzz.pick(&["\\u0000", "\\ud800", "\"", "\u{1}"]), 1);
                }
                let outcome = match push(&mut client, &user, "app", &text) {
                    Ok((inserted, _)) => {
                        let mut device = Device::new(&user, "app", &[]);
                        let mut back = pull_all(&mut client, &mut device, || 3);
                        assert_eq!(back.len() as u64, inserted, "{text}");
                        let sent = serde_json::from_str(&text).unwrap();
                        let expected = expected(&sent);
                        assert_eq!(back.len(), expected.len(), "{text}");
                        for (change, sent) in back.iter_mut().zip(&expected) {
                            change.as_object_mut().unwrap().remove("eventId");
                            remove_added(change, sent);
                        }
                        assert_eq!(back, expected, "{text}");
                        "stored".to_string()
                    }
                    Err(error) => {
                        let code = error.code().unwrap_or_else(|| panic!("{error} for {text}")).code().to_string();
                        let message = error.as_db_error().unwrap().message();
                        // An id that a mutation gave to two records is refused too.
                        let allowed = ["22023", "22P02", "22P05", "22003", "54001", "23505"];
                        assert!(allowed.contains(&code.as_str()), "{code} {message} for {text}");
                        if code == "22023" {
                            assert!(
                                message.contains("changes")
                                    || ["changeset", "clientId", "since", "limit", "schemaVersion"]
                                        .iter()
                                        .any(|key| message.starts_with(key)),
                                "{message}"
                            );
                        }
                        let mut device = Device::new(&user, "app", &[]);
                        assert!(pull_all(&mut client, &mut device, || 100).is_empty(), "{text}");
                        code
                    }
                };
                *outcomes.entry(outcome).or_default() += 1;
            }
            outcomes
        };
        let runs: Vec<_> = (0..2).map(|thread| scope.spawn(move || run(thread))).collect();
        runs.into_iter().map(|run| run.join().expect("every outcome is allowed")).collect()
    });
    for (outcome, count) in runs.into_iter().flatten() {
        *outcomes.entry(outcome).or_default() += count;
    }
    println!("{COUNT} changesets: {outcomes:?}");
    assert!(outcomes["stored"] > COUNT / 10 && outcomes["22023"] > COUNT / 10, "{outcomes:?}");
    assert!(!cluster.server_log().contains("PANIC"));
}

/// A seeded fuzz test of changesets that are not atomic. Each change that was sent must be either recorded or rejected. A second push of
/// the same changeset must insert nothing and reject the same changes. The second half of the changesets goes into a log with a trigger of
/// the application, which refuses some changes.
#[test]
fn what_is_recorded_and_what_is_rejected_are_what_was_sent() {
    const COUNT: usize = 20_000;
    let seed = seed("fuzz of rejected changes", 12);
    let cluster = Cluster::with_log(Options::default());
    for half in 0..2 {
        if half == 1 {
            cluster
                .superuser(DATABASE)
                .batch_execute(
                    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                     BEGIN
                         IF NEW.record_id LIKE '%milk%' OR NEW.op = 'delete' AND NEW.record_id LIKE '%y%' THEN
                             RAISE EXCEPTION 'refused by the application';
                         END IF;
                         RETURN NEW;
                     END
                     $$;
                     CREATE TRIGGER refuse BEFORE INSERT ON mana_sync.sync_changes FOR EACH ROW EXECUTE FUNCTION refuse()",
                )
                .expect("a trigger can be created");
        }
        let counts: Vec<BTreeMap<String, usize>> = thread::scope(|scope| {
            let run = |thread: usize| {
                let (mut client, mut fuzz) = (cluster.app(DATABASE), Fuzz(rng(seed, (2 * half + thread) as u64)));
                let mut counts: BTreeMap<String, usize> = BTreeMap::new();
                for i in 0..COUNT / 4 {
                    let outcome = push_not_atomic(&mut client, &format!("user {half} {thread} {i}"), &mut fuzz);
                    outcome.into_iter().for_each(|(what, count)| *counts.entry(what).or_default() += count);
                }
                counts
            };
            let runs: Vec<_> = (0..2).map(|thread| scope.spawn(move || run(thread))).collect();
            runs.into_iter().map(|run| run.join().expect("every outcome is allowed")).collect()
        });
        let mut sum: BTreeMap<String, usize> = BTreeMap::new();
        counts.into_iter().flatten().for_each(|(what, count)| *sum.entry(what).or_default() += count);
        println!("half {half}: {sum:?}");
        let judged = sum.get("P0001").copied().unwrap_or_default();
        assert!(sum["recorded"] > 1000 && sum["22023"] > 100 && (judged > 100) == (half == 1), "{sum:?}");
    }
}

/// Pushes a mutated changeset twice. Returns the number of its changes for each outcome: an SQLSTATE, or recorded.
fn push_not_atomic(client: &mut Client, user: &str, fuzz: &mut Fuzz) -> BTreeMap<String, usize> {
    let mut changeset = fuzz.changeset();
    for _ in 0..fuzz.0.random_range(0..4) {
        fuzz.mutate(&mut changeset);
    }
    let mut counts = BTreeMap::new();
    let Some(object) = changeset.as_object_mut() else { return counts };
    object.insert("atomic".into(), json!(false));
    // A change that names no id would be another one the second time.
    let mut ids: Vec<Option<Uuid>> = Vec::new();
    for change in object.get_mut("changes").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(change) = change.as_object_mut() {
            if change.get("eventId").is_none_or(Value::is_null) {
                change.insert("eventId".into(), json!(Uuid::from_u128(fuzz.0.random()).to_string()));
            }
        }
        ids.push(change["eventId"].as_str().and_then(|id| id.parse().ok()));
    }
    let text = changeset.to_string();
    let mut send = || -> Result<Value, Error> {
        let row = client.query_one(PUSH, &[&user, &"app", &text])?;
        Ok(serde_json::from_str(row.get(0)).expect("an answer in JSON"))
    };
    let (first, second) = match (send(), send()) {
        (Ok(first), Ok(second)) => (first, second),
        (Err(first), Err(second)) => {
            let code = first.code().expect("an error of the server");
            assert_eq!(Some(code), second.code(), "{text}");
            // A fault of the whole changeset.
            assert!(["22023", "22P02", "22P05", "22003", "54001"].contains(&code.code()), "{first} for {text}");
            *counts.entry("an error".to_string()).or_default() += 1;
            return counts;
        }
        (first, second) => panic!("{first:?} and then {second:?} for {text}"),
    };
    let rejected = first["rejected"].as_array().expect("what was rejected");
    let number = |answer: &Value, key: &str| answer[key].as_u64().expect("a number") as usize;
    let (inserted, duplicates) = (number(&first, "inserted"), number(&first, "duplicates"));
    assert_eq!(inserted + duplicates + rejected.len(), ids.len(), "{first} for {text}");
    assert_eq!(first["skipped"], Value::Null, "{first}");
    assert_eq!((number(&second, "inserted"), number(&second, "duplicates")), (0, inserted + duplicates), "{text}");
    assert_eq!(second["rejected"], first["rejected"], "{text}");
    let mut device = Device::new(user, "app", &[]);
    let back = pull_all(client, &mut device, || 100);
    let recorded: HashSet<Uuid> =
        back.iter().map(|change| change["eventId"].as_str().unwrap().parse().unwrap()).collect();
    let refused: HashSet<usize> = rejected.iter().map(|change| change["index"].as_u64().unwrap() as usize).collect();
    assert_eq!((recorded.len(), refused.len()), (inserted, rejected.len()), "{first} for {text}");
    for (index, id) in ids.iter().enumerate() {
        match (refused.contains(&index), id) {
            (false, Some(id)) => assert!(recorded.contains(id), "changes[{index}] is neither: {first} for {text}"),
            (false, None) => panic!("changes[{index}] has no id and is not rejected: {first} for {text}"),
            // An id may be that of another change of the changeset.
            (true, Some(id)) if ids.iter().filter(|other| *other == &Some(*id)).count() == 1 => {
                assert!(!recorded.contains(id), "changes[{index}] is both: {first} for {text}");
            }
            (true, _) => {}
        }
    }
    for change in rejected {
        let code = change["code"].as_str().expect("a code");
        assert!(["22023", "23505", "P0001"].contains(&code), "{change} for {text}");
        assert!(change["error"].as_str().is_some_and(|error| !error.is_empty()), "{change}");
        *counts.entry(code.to_string()).or_default() += 1;
    }
    *counts.entry("recorded".to_string()).or_default() += inserted;
    counts
}
