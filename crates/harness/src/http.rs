//! The example of an HTTP front end (`examples/http`), and devices that sync through it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tempfile::TempDir;
pub use ureq::http::HeaderMap;
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::cluster::DATABASE;
use crate::process::{Beside, wait_until};
use crate::{Cluster, Options};

/// The secret that the server shares with the issuer of tokens.
pub const SECRET: &str = "a secret of the tests, and of nothing else";

/// Builds the front end once, in the target directory of the tests, and returns the path of its program.
pub fn program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        // target/debug/deps/a_test
        let test = std::env::current_exe().expect("the test is a file");
        let profile = test.ancestors().nth(2).expect("the test is in a directory of cargo's");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        cargo.args(["build", "--quiet", "--package", "mana_sync_http", "--target-dir"]);
        cargo.arg(profile.parent().expect("a profile is below the target directory"));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("cargo runs").success(), "the server does not build");
        profile.join("mana_sync_http")
    };
    PROGRAM.get_or_init(build).clone()
}

/// A running HTTP front end (`examples/http`).
pub struct Http {
    process: Option<Beside>,
    /// The address of the server, without the slash at the end.
    pub url: String,
    log: TempDir,
}

impl Http {
    /// Starts a front end for a cluster's database, with the secret [`SECRET`].
    pub fn new(cluster: &Cluster) -> Self {
        Self::with(&[("DATABASE_URL", &database_url(cluster)), ("JWT_HS256_SECRET", SECRET)])
    }

    /// Starts a front end with these environment variables.
    pub fn with(variables: &[(&str, &str)]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let log = tempfile::tempdir().expect("a temporary directory can be made");
        let process = Beside::start(&program(), |command| {
            command.env("BIND", free.to_string()).envs(variables.iter().copied());
            command.stderr(File::create(log.path().join("log")).expect("a log can be made"));
        });
        let http = Self { process: Some(process), url: format!("http://{free}"), log };
        wait_until("the HTTP server listens", || TcpStream::connect(free).is_ok());
        http
    }

    /// Kills the front end (SIGKILL).
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// The log of the front end so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log.path().join("log")).unwrap_or_default()
    }

    /// Makes a device of a user that has not synced yet.
    pub fn device(&self, user: &str, client: &str) -> HttpDevice {
        HttpDevice {
            url: self.url.clone(),
            token: token(user, 600),
            client: client.into(),
            cursor: String::new(),
            agent: agent(),
        }
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("log of the HTTP server:\n{}", self.log());
        }
    }
}

/// The DATABASE_URL for a cluster's database, with the application's role.
pub fn database_url(cluster: &Cluster) -> String {
    format!("host={} user=app dbname=postgres", cluster.socket_dir().display())
}

/// Makes a token of a user that expires `seconds` from now.
pub fn token(user: &str, seconds: i64) -> String {
    sign(&json!({"sub": user, "exp": now() + seconds}), SECRET)
}

/// Makes a token with these claims.
pub fn sign(claims: &Value, secret: &str) -> String {
    encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes())).expect("claims can be signed")
}

/// The current time, in seconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs() as i64
}

/// Makes an HTTP client that does not reuse connections, because a server may close a connection when it refuses a
/// request before it has read the body.
fn agent() -> Agent {
    Agent::config_builder().http_status_as_error(false).max_idle_connections(0).build().into()
}

/// Returns the status and the body of an answer. The body must be JSON.
fn read(response: Response<Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    let kind = response.headers().get("content-type").cloned();
    let text = response.into_body().into_with_config().limit(1 << 26).read_to_string().expect("a body");
    assert_eq!(kind.as_ref().map(|kind| kind.as_bytes()), Some(&b"application/json"[..]), "{status} {text}");
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {status} {text}")))
}

/// A device that syncs through the front end.
#[derive(Clone)]
pub struct HttpDevice {
    /// The address of the front end.
    pub url: String,
    /// The bearer token of the device.
    pub token: String,
    /// The client id of the device.
    pub client: String,
    /// The cursor of the next request.
    pub cursor: String,
    agent: Agent,
}

impl HttpDevice {
    /// Sends `POST /sync/todo`. An error means that there was no answer.
    pub fn try_post(&self, body: &str) -> Result<(u16, Value), ureq::Error> {
        let request = self.agent.post(format!("{}/sync/todo", self.url)).header("X-Client-Id", &self.client);
        request.header("Authorization", format!("Bearer {}", self.token)).send(body).map(read)
    }

    /// Sends `POST /sync/todo`. Panics if there was no answer.
    pub fn post(&self, body: &str) -> (u16, Value) {
        self.try_post(body).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Sends a GET to any path of the front end.
    pub fn get(&self, path: &str) -> (u16, Value) {
        read(self.response(path, None))
    }

    /// Sends a GET with a header `If-None-Match`. Returns the status, the headers and the body of the answer.
    pub fn get_if_none_match(&self, path: &str, tag: &str) -> (u16, HeaderMap, String) {
        let (head, body) = self.response(path, Some(("If-None-Match", tag))).into_parts();
        let body = body.into_with_config().limit(1 << 26).read_to_string().expect("a body");
        (head.status.as_u16(), head.headers, body)
    }

    fn response(&self, path: &str, header: Option<(&str, &str)>) -> Response<Body> {
        let mut request = self.agent.get(format!("{}{path}", self.url)).header("X-Client-Id", &self.client);
        if !self.token.is_empty() {
            request = request.header("Authorization", format!("Bearer {}", self.token));
        }
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        request.call().unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Pushes changes and pulls from the device's cursor. Returns the changes that the device receives.
    pub fn sync(&mut self, changes: Value) -> Vec<Value> {
        let (status, body) = self.post(&json!({"since": self.cursor, "changes": changes}).to_string());
        assert_eq!(status, 200, "{body}");
        self.take(body)
    }

    /// Pulls pages of `limit` changes until there is no more. Returns the changes that the device receives.
    pub fn pull(&mut self, limit: u32) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let (status, body) = self.get(&format!("/sync/todo/pull?since={}&limit={limit}", self.cursor));
            assert_eq!(status, 200, "{body}");
            let more = body["hasMore"] == json!(true);
            all.extend(self.take(body));
            if !more {
                return all;
            }
        }
    }

    fn take(&mut self, mut body: Value) -> Vec<Value> {
        self.cursor = body["syncedUntil"].as_str().expect("a cursor").into();
        match body["serverChanges"].take() {
            Value::Array(changes) => changes,
            other => panic!("serverChanges: {other}"),
        }
    }

    /// Opens `GET /sync/todo/stream` from the device's cursor, in the way in which a client reconnects after a lost
    /// connection.
    pub fn stream(&self, query: &str) -> Events {
        let header = ("Last-Event-ID", self.cursor.as_str());
        let response =
            self.response(&format!("/sync/todo/stream?{query}"), (!self.cursor.is_empty()).then_some(header));
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let (sender, events) = channel();
        // The thread ends with the connection, at the latest when the front end ends.
        thread::spawn(move || {
            let mut event = Event::default();
            for line in BufReader::new(response.into_body().into_reader()).lines() {
                let Ok(line) = line else { return };
                match line.split_once(':').map(|(field, value)| (field, value.trim_start())) {
                    Some(("event", name)) => event.name = name.into(),
                    Some(("id", id)) => event.id = id.into(),
                    Some(("data", data)) => event.data.push_str(data),
                    _ => {}
                }
                if line.is_empty() && event != Event::default() && sender.send(std::mem::take(&mut event)).is_err() {
                    return;
                }
            }
        });
        Events(events)
    }
}

/// A server-sent event.
#[derive(Debug, Default, PartialEq)]
pub struct Event {
    /// The kind of the event: `change`, `resync` or `error`.
    pub name: String,
    /// The cursor after the event.
    pub id: String,
    /// The page as JSON.
    pub data: String,
}

impl Event {
    /// The record ids of the page's changes.
    pub fn records(&self) -> Vec<String> {
        let page: Value = serde_json::from_str(&self.data).expect("a page in JSON");
        assert_eq!((self.name.as_str(), &json!(self.id)), ("change", &page["syncedUntil"]), "{page}");
        let changes = page["serverChanges"].as_array().expect("changes");
        changes.iter().map(|change| change["id"].as_str().expect("an id").into()).collect()
    }
}

/// The events of a stream.
pub struct Events(Receiver<Event>);

impl Events {
    /// Waits for the next event. Panics if none comes within this time.
    pub fn next(&self, within: Duration) -> Event {
        self.0.recv_timeout(within).unwrap_or_else(|error| panic!("no event within {within:?}: {error}"))
    }

    /// Whether, for this time, no event comes and the stream does not end.
    pub fn is_silent(&self, time: Duration) -> bool {
        self.0.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
    }

    /// Whether the stream ends within this time, without another event.
    pub fn ends(&self, within: Duration) -> bool {
        self.0.recv_timeout(within) == Err(RecvTimeoutError::Disconnected)
    }
}

// ---- the example's database, and what devices send -----------------------------------------------------

/// The SQL that creates the schema of the example.
pub const SCHEMA: &str = include_str!("../../../examples/http/schema.sql");
/// The longest wait for an event of a stream that polls every second. It is two seconds more than the stream needs.
pub const POLLED: Duration = Duration::from_secs(3);

/// Starts a cluster, runs examples/http/schema.sql twice in it, and writes one change to the log. The log must not be
/// empty: a cursor of an empty log is read from the beginning of the log, and a pull from the beginning also brings the
/// device's own changes.
pub fn cluster() -> Cluster {
    cluster_with(Options::default())
}

/// Starts a cluster as [`cluster`] does, with these options.
pub fn cluster_with(options: Options) -> Cluster {
    let cluster = Cluster::new(options);
    for _ in 0..2 {
        cluster.superuser(DATABASE).batch_execute(SCHEMA).expect("the schema can be created again");
    }
    let first = "SELECT mana_sync.record_change('todo', 'items', 'first', 'nobody', NULL, 'delete', NULL)";
    cluster.app(DATABASE).batch_execute(first).expect("the log can be written to");
    cluster
}

/// Starts a front end whose streams poll every `seconds` seconds.
pub fn polling(cluster: &Cluster, seconds: &str) -> Http {
    let url = database_url(cluster);
    Http::with(&[("DATABASE_URL", &url), ("JWT_HS256_SECRET", SECRET), ("POLL_SECONDS", seconds)])
}

/// Makes a user a member of a space.
pub fn join(cluster: &Cluster, user: &str, space: &str) {
    let sql = "INSERT INTO memberships (user_id, space_id) VALUES ($1, $2)";
    cluster.superuser(DATABASE).execute(sql, &[&user, &space]).expect("a membership can be added");
}

/// Ends a user's membership of a space.
pub fn leave(cluster: &Cluster, user: &str, space: &str) {
    let sql = "DELETE FROM memberships WHERE user_id = $1 AND space_id = $2";
    let left = cluster.superuser(DATABASE).execute(sql, &[&user, &space]).expect("a membership can be ended");
    assert_eq!(left, 1, "{user} was in {space}");
}

/// Makes an insert, as a device sends it.
pub fn insert(id: &str) -> Value {
    json!({"table": "items", "id": id, "op": "insert", "data": {"title": id}})
}

/// Makes the body of a push of these changes.
pub fn changeset(changes: &[Value]) -> String {
    json!({"changes": changes}).to_string()
}

/// Returns the ids of the records or changes in an answer, which are under `key`.
pub fn ids<'b>(body: &'b Value, key: &str) -> Vec<&'b str> {
    let items = body[key].as_array().unwrap_or_else(|| panic!("{key}: {body}"));
    items.iter().map(|item| item["id"].as_str().expect("an id")).collect()
}

/// Makes an insert with one more key, for example a space or another table.
pub fn insert_with(id: &str, key: &str, value: &str) -> Value {
    let mut change = insert(id);
    change[key] = json!(value);
    change
}
