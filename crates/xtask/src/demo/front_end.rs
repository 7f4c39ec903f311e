//! The part of the demo that calls the HTTP front end as its users do.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, fs, thread};

use anyhow::{Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use duct::cmd;
use mana_sync_processes::Beside;
use uuid::Uuid;

use super::{create, read};
use crate::cluster::Cluster;
use crate::project::Project;

const ADDS_TEA: &str = r#"{"since": "", "changes": [
    {"eventId": "0190f5fe-7c00-7000-8000-00000000000a", "table": "items", "id": "tea", "op": "insert",
     "data": {"title": "Tea"}, "spaceId": "home"}]}"#;
const DELETES_TEA: &str = r#"{"changes": [
    {"table": "items", "id": "tea", "op": "delete", "spaceId": "home"}]}"#;

/// Builds the front end, in the target directory of this program.
pub fn build(project: &Project) -> Result<()> {
    project.prepare(cmd!("cargo", "build", "-q", "-p", "mana_sync_http")).run()?;
    Ok(())
}

/// Plays the steps that the README of the front end describes.
pub fn play(project: &Project, cluster: &Cluster) -> Result<()> {
    let front_end = FrontEnd::start(project, cluster)?;
    let url = &front_end.url;

    println!("Ben's laptop is new. It waits on a stream, on which the history of the space comes first.");
    println!("\n$ curl -N \"{url}/stream?since=\" … >ben.stream &\n");
    let stream = front_end.stream("ben", "laptop")?;
    front_end.expect(&stream.output, &[r#""id":"milk""#])?;

    println!("Ada's phone pushes a change and gets what she has not seen, in one request.");
    let answer = front_end.request("ada", "phone", &["-d", ADDS_TEA, url])?;
    front_end.expect(&answer, &[r#""syncedUntil":"1a"#, r#""hasMore":false"#])?;
    println!("\nBen's laptop has it already:");
    front_end.expect(&stream.output, &[r#""id":"tea""#])?;
    println!("{}", read(&stream.output).lines().rfind(|line| line.contains("\"tea\"")).unwrap_or_default());

    println!("\nThe phone got no answer, say, and sends the same again: it is stored once, for her tablet too.");
    front_end.request("ada", "phone", &["-o", "/dev/null", "-d", ADDS_TEA, url])?;
    let answer = front_end.request("ada", "tablet", &[&format!("{url}/pull?collection=items&since=")])?;
    front_end.expect(&answer, &[r#""id":"tea""#])?;
    ensure!(read(&answer).matches(r#""id":"tea""#).count() == 1, "tea is there more than once");

    println!("\nEve is in no space, and may not write there. Nor does anybody who has no token.");
    let answer = front_end.request("eve", "phone", &["-w", " %{http_code}", "-d", DELETES_TEA, url])?;
    front_end.expect(&answer, &[" 403"])?;
    println!("\n$ curl \"{url}/pull\"");
    let answer = front_end.work.join("answer");
    cmd!("curl", "-sS", "-w", " %{http_code}\n", format!("{url}/pull")).stdout_path(&answer).run()?;
    print!("{}", read(&answer));
    front_end.expect(&answer, &[" 401"])
}

/// The running front end.
struct FrontEnd {
    _process: Beside,
    /// The address at which the app `todo` syncs.
    url: String,
    /// The secret that the front end shares with the issuer of tokens.
    secret: String,
    /// The directory of the front end's log and of answers.
    work: PathBuf,
}

/// A stream of changes that a running client reads.
struct Stream {
    _client: Beside,
    output: PathBuf,
}

impl FrontEnd {
    fn start(project: &Project, cluster: &Cluster) -> Result<Self> {
        let work = cluster.path().join("http");
        fs::create_dir(&work)?;
        let schema = project.root.join("examples/http/schema.sql").display().to_string();
        cluster.script("demo", ["-c", "SET client_min_messages = warning", "-f", &schema]).stdout_null().run()?;
        let members = "INSERT INTO memberships VALUES ('ada', 'home'), ('ben', 'home') ON CONFLICT DO NOTHING";
        cluster.script("demo", ["-c", members]).run()?;

        let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let log = create(&work.join("front-end.log"))?;
        let process = Beside::start(&env::current_exe()?.with_file_name("mana_sync_http"), |command| {
            command.env("DATABASE_URL", format!("host={} user=app dbname=demo", cluster.path().display()));
            command.env("JWT_HS256_SECRET", &secret).env("BIND", free.to_string());
            command.stderr(log);
        });
        let front_end = Self { _process: process, url: format!("http://{free}/sync/todo"), secret, work };
        if !within(Duration::from_secs(10), || TcpStream::connect(free).is_ok()) {
            eprint!("{}", front_end.log());
            bail!("the front end did not start");
        }
        Ok(front_end)
    }

    fn log(&self) -> String {
        read(&self.work.join("front-end.log"))
    }

    /// Shows a curl command with these arguments, runs it, and prints the answer. Returns the file with the answer.
    fn request(&self, user: &str, device: &str, arguments: &[&str]) -> Result<PathBuf> {
        let words: String = arguments.iter().map(|argument| format!(" '{argument}'")).collect();
        // As one would type it.
        println!("\n$ curl{words} \\");
        println!("      -H \"Authorization: Bearer $(token {user})\" -H \"X-Client-Id: {device}\"");
        let answer = self.work.join("answer");
        let headers = self.headers(user, device);
        let options = ["-sS", "--max-time", "20"].into_iter().chain(headers.iter().map(String::as_str));
        duct::cmd("curl", options.chain(arguments.iter().copied())).stdout_path(&answer).run()?;
        println!("{}", read(&answer));
        Ok(answer)
    }

    /// Starts a client that reads the stream of changes from the beginning.
    fn stream(&self, user: &str, device: &str) -> Result<Stream> {
        let output = self.work.join(format!("{user}.stream"));
        let file = create(&output)?;
        let client = Beside::start(Path::new("curl"), |command| {
            command.args(["-sSN"]).args(self.headers(user, device));
            command.arg(format!("{}/stream?since=", self.url)).stdout(file);
        });
        Ok(Stream { _client: client, output })
    }

    fn headers(&self, user: &str, device: &str) -> [String; 4] {
        let token = token(user, &self.secret);
        ["-H".into(), format!("Authorization: Bearer {token}"), "-H".into(), format!("X-Client-Id: {device}")]
    }

    /// Waits until the file contains each of the texts. Fails after five seconds.
    fn expect(&self, file: &Path, texts: &[&str]) -> Result<()> {
        for text in texts {
            if !within(Duration::from_secs(5), || read(file).contains(text)) {
                eprint!("{}{}", read(file), self.log());
                bail!("the answer has no {text} after 5 seconds");
            }
        }
        Ok(())
    }
}

/// Makes a token of a user for ten minutes, as an identity provider would sign it (a JWT, HS256).
fn token(user: &str, secret: &str) -> String {
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() + 600;
    let claims = format!(r#"{{"sub":"{user}","exp":{expires}}}"#);
    let text = format!("{}.{}", encode(br#"{"alg":"HS256"}"#), encode(claims.as_bytes()));
    format!("{text}.{}", encode(&hmac_sha256::HMAC::mac(&text, secret)))
}

/// Waits at most `time` for a condition, and returns whether it became true.
fn within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !condition() {
        if started.elapsed() > time {
            return false;
        }
        thread::sleep(Duration::from_millis(50));
    }
    true
}
