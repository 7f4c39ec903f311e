//! An HTTP front end for `mana_sync`: it authenticates a request and calls SQL.
//!
//! - [`auth`]: who is asking, for which app and from which device
//! - [`db`]: every statement, through the pool
//! - [`routes`]: a request, a call, an answer
//! - [`stream`]: changes as they come, as server-sent events
//! - [`wake`]: the one connection that listens for wake-ups
//! - [`error`]: the status of everything that can go wrong

use std::env;
use std::fmt::Display;
use std::process::exit;
use std::sync::Arc;
use std::time::Duration;

mod auth;
mod db;
mod error;
mod routes;
mod stream;
mod wake;

/// What every request needs.
struct App {
    keys: auth::Keys,
    db: db::Db,
    wake: Arc<wake::Wake>,
    /// How long a stream waits at most until it pulls again.
    poll: Duration,
}

const HELP: &str = "\
mana_sync_http: an HTTP front end for mana_sync. It is configured by environment variables:

  DATABASE_URL             the database, as a plain role that mana_sync.grant_access was called for; a pooler will do
  LISTEN_DATABASE_URL      the same database without a pooler, for LISTEN (DATABASE_URL)
  JWT_ED25519_PUBLIC_KEY   public key of the issuer of tokens, in PEM; \\n stands for a line break; or
  JWT_HS256_SECRET         the secret that is shared with the issuer, 32 bytes or more
  BIND                     address and port to serve on (127.0.0.1:8787)
  POLL_SECONDS             how often a stream pulls when nothing wakes it (15)
";

#[tokio::main]
async fn main() {
    if let Some(argument) = env::args().nth(1) {
        if argument != "--help" {
            fail(format!("{argument} is not an option; --help lists the environment variables"));
        }
        return print!("{HELP}");
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();

    let database: tokio_postgres::Config = parsed("DATABASE_URL", None);
    let listen = variable("LISTEN_DATABASE_URL").map_or(database.clone(), |_| parsed("LISTEN_DATABASE_URL", None));
    let keys = auth::Keys::new(variable("JWT_ED25519_PUBLIC_KEY"), variable("JWT_HS256_SECRET"));
    let keys = keys.unwrap_or_else(|error| fail(error));
    let poll: u32 = parsed("POLL_SECONDS", Some("15"));
    if poll == 0 {
        fail("POLL_SECONDS must be at least 1");
    }
    let db = db::Db::new(database).unwrap_or_else(|error| fail(error));
    let wake = wake::Wake::start(listen);
    let app = App { keys, db, wake, poll: Duration::from_secs(poll.into()) };

    let bind: std::net::SocketAddr = parsed("BIND", Some("127.0.0.1:8787"));
    let listener = tokio::net::TcpListener::bind(bind).await.unwrap_or_else(|error| fail(format!("{bind}: {error}")));
    tracing::info!("serving on http://{}", listener.local_addr().unwrap_or(bind));
    axum::serve(listener, routes::router(app)).await.unwrap_or_else(|error| fail(error));
}

/// An environment variable; an empty one is none.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// An environment variable, parsed. The value stays out of the message: it may hold a password.
fn parsed<T: std::str::FromStr<Err: Display>>(name: &str, default: Option<&str>) -> T {
    let value = variable(name).or(default.map(str::to_string)).unwrap_or_else(|| fail(format!("set {name}")));
    value.parse().unwrap_or_else(|error| fail(format!("{name} cannot be read: {error}")))
}

/// Ends the program with a message.
fn fail(message: impl Display) -> ! {
    eprintln!("mana_sync_http: {message}");
    exit(2)
}
