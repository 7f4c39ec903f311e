//! An HTTP front end for `mana_sync`: it authenticates a request and calls SQL.
//!
//! - [`auth`]: the caller of a request: user, app and device
//! - [`db`]: all SQL statements, and the pool of connections
//! - [`routes`]: the routes; each calls one SQL function
//! - [`stream`]: live changes as server-sent events
//! - [`wake`]: the one connection that listens for wake-ups
//! - [`error`]: the HTTP status of each error

use std::error::Error as _;
use std::fmt::Display;
use std::net::SocketAddr;
use std::process::exit;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::{Arg, CommandFactory, FromArgMatches, Parser};
use tokio_postgres::Config;

mod auth;
mod db;
mod error;
mod routes;
mod stream;
mod wake;

/// The state that all requests share.
struct App {
    keys: auth::Keys,
    db: db::Db,
    wake: Arc<wake::Wake>,
    /// The longest time that a stream waits before it pulls again.
    poll: Duration,
}

/// An HTTP front end for mana_sync
///
/// Each setting is an environment variable or an option. Pass secrets in the environment: other users of the machine
/// can read a command line.
#[derive(Parser)]
#[command(name = "mana_sync_http")]
struct Settings {
    /// Database, as a plain role that mana_sync.grant_access was called for; a pooler will do
    #[arg(long, env, hide_env_values = true, value_parser = parser::<Config>("DATABASE_URL"))]
    database_url: Option<Config>,

    /// The same database without a pooler, for LISTEN [default: DATABASE_URL]
    #[arg(long, env, hide_env_values = true, value_parser = parser::<Config>("LISTEN_DATABASE_URL"))]
    listen_database_url: Option<Config>,

    /// Public key of the issuer of tokens, in PEM; \n stands for a line break
    #[arg(long, env, hide_env_values = true)]
    jwt_ed25519_public_key: Option<String>,

    /// Secret that is shared with the issuer of tokens, 32 bytes or more; instead of a public key
    #[arg(long, env, hide_env_values = true)]
    jwt_hs256_secret: Option<String>,

    /// Address and port to serve on
    #[arg(long, env, default_value = "127.0.0.1:8787", value_parser = parser::<SocketAddr>("BIND"))]
    bind: SocketAddr,

    /// How often a stream pulls when nothing wakes it
    #[arg(long, env, default_value = "15", value_parser = parser::<u32>("POLL_SECONDS"))]
    poll_seconds: u32,
}

impl Settings {
    /// Reads the environment and the arguments. Ends the program if that fails, or if the arguments ask for help.
    fn read() -> Self {
        let matches = Self::command().mut_args(without_empty_variable).try_get_matches();
        matches.and_then(|matches| Self::from_arg_matches(&matches)).unwrap_or_else(|error| {
            match (error.kind(), error.source()) {
                // clap would print the value too, which may hold a password.
                (ErrorKind::ValueValidation, Some(source)) => fail(source),
                _ => error.exit(),
            }
        })
    }
}

#[tokio::main]
async fn main() {
    let settings = Settings::read();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();

    let database = settings.database_url.unwrap_or_else(|| fail("set DATABASE_URL"));
    let listen = settings.listen_database_url.unwrap_or_else(|| database.clone());
    let keys = auth::Keys::new(settings.jwt_ed25519_public_key, settings.jwt_hs256_secret);
    let keys = keys.unwrap_or_else(|error| fail(error));
    if settings.poll_seconds == 0 {
        fail("POLL_SECONDS must be at least 1");
    }
    let db = db::Db::new(database).unwrap_or_else(|error| fail(error));
    let wake = wake::Wake::start(listen);
    let app = App { keys, db, wake, poll: Duration::from_secs(settings.poll_seconds.into()) };

    let bind = settings.bind;
    let listener = tokio::net::TcpListener::bind(bind).await.unwrap_or_else(|error| fail(format!("{bind}: {error}")));
    tracing::info!("serving on http://{}", listener.local_addr().unwrap_or(bind));
    axum::serve(listener, routes::router(app)).await.unwrap_or_else(|error| fail(error));
}

/// Makes an argument ignore an environment variable that is empty or not UTF-8. clap would take it as a value.
fn without_empty_variable(argument: Arg) -> Arg {
    let value = argument.get_env().and_then(std::env::var_os);
    let is_unset = value.is_some_and(|value| value.to_str().is_none_or(str::is_empty));
    if is_unset { argument.env(Resettable::Reset) } else { argument }
}

/// Returns a parser for a setting. The error of the parser names the environment variable, but does not contain its
/// value.
fn parser<T: FromStr<Err: Display>>(name: &'static str) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |value| value.parse().map_err(|error| format!("{name} cannot be read: {error}"))
}

/// Ends the program with a message.
fn fail(message: impl Display) -> ! {
    eprintln!("mana_sync_http: {message}");
    exit(2)
}
