//! The background worker that sends the wake-ups of a database.

use super::channel::Channels;
use super::feed::{self, Reader};
use super::note::{self, Touch};
use crate::call::Call;
use crate::error::Error;
use crate::json::text::JsonText;
use crate::pg::datum::{Datum, types::*};
use crate::pg::fmgr::raise;
use crate::pg::memory::Memory;
use crate::pg::spi::{Statement, statement};
use crate::pg::worker::{self, background_worker};
use crate::pg::{guc, server};
use crate::settings;
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{IntoDatum, PgLogLevel, PgSqlErrorCode};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

background_worker!(mana_sync_wakeup_worker, run);

/// How long the postmaster waits before it restarts a worker that an error has ended.
const RESTART_AFTER: Duration = Duration::from_secs(2);
/// The longest payload of NOTIFY, in bytes (NOTIFY_PAYLOAD_MAX_LENGTH in commands/async.c).
const LONGEST_PAYLOAD: usize = 7999;
/// The number of channels above which everyone is woken, instead of the listeners of each channel.
const MOST_CHANNELS: usize = 5000;

static NOTIFY: Statement = statement!(sql "SELECT pg_catalog.pg_notify($1, $2)", [TEXT, TEXT]);

/// Registers a worker for each configured database. Called in the postmaster, while libraries are preloaded.
pub fn register() {
    // pg_upgrade drops and copies databases, and fails if a worker is connected to one of them.
    if server::is_upgrading() {
        return;
    }
    let databases = settings::wakeup_databases();
    warn_of_few_worker_processes(databases.len().min(feed::MOST_DATABASES));
    if databases.len() > feed::MOST_DATABASES {
        pgrx::warning!(
            "mana_sync.wakeup_databases names {} databases: listeners of the first {} are woken",
            databases.len(),
            feed::MOST_DATABASES
        );
    }
    for (place, database) in databases.iter().enumerate().take(feed::MOST_DATABASES) {
        BackgroundWorkerBuilder::new(&format!("mana_sync wake-ups of {database}"))
            .set_type("mana_sync wake-ups")
            .set_library("mana_sync")
            .set_function("mana_sync_wakeup_worker")
            .set_argument((place as i64).into_datum())
            .enable_spi_access()
            // On a standby, the worker starts when the standby is promoted.
            .set_start_time(BgWorkerStartTime::RecoveryFinished)
            .set_restart_time(Some(RESTART_AFTER))
            .load();
    }
}

/// Warns if the workers leave too few processes for parallel queries, or if not all workers can start. The server
/// itself logs only that a worker cannot start, and does not name the setting.
fn warn_of_few_worker_processes(taken: usize) {
    let (all, for_a_query) = server::worker_processes();
    // The launcher of logical replication takes one process.
    let left = i64::from(all) - 1 - taken as i64;
    if taken == 0 || left >= i64::from(for_a_query.max(1)) {
        return;
    }
    let message = format!("mana_sync.wakeup_databases takes {taken} of {all} worker processes");
    ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "mana_sync")
        .set_detail(format!(
            "The launcher of logical replication takes one more. Left for parallel queries and other extensions: {}.",
            left.max(0)
        ))
        .set_hint("Raise max_worker_processes by the number of databases that are named.")
        .report(PgLogLevel::WARNING);
}

/// The main function of a worker. `place` is the place of the worker's database among the configured databases.
fn run(place: usize) {
    worker::handle_signals();
    let Some(database) = settings::wakeup_databases().into_iter().nth(place) else { return };
    BackgroundWorker::connect_worker_to_spi(Some(&database), None);
    // Nobody waits for a wake-up to be on disk.
    guc::set_for_session(c"synchronous_commit", b"off");
    let reader = Reader::open(place);
    let (mut bytes, mut due, mut last_sent) = (Vec::new(), Wakeups::default(), None::<Instant>);
    let mut idle = false;
    loop {
        let wait = last_sent.map_or(Duration::ZERO, |sent| settings::wakeup_interval().saturating_sub(sent.elapsed()));
        worker::wait((!idle).then(|| wait.max(Duration::from_millis(1))));
        // If the worker is woken before the interval has passed, it only makes room in the feed.
        let is_time = last_sent.is_none_or(|sent| sent.elapsed() >= settings::wakeup_interval());
        let or_wait = is_time && due.is_empty();
        due.everyone |= reader.drain(&mut bytes, or_wait);
        note::decode(&bytes).into_iter().for_each(|touch| due.add(touch));
        idle = or_wait && due.is_empty();
        if is_time && !due.is_empty() {
            let wakeups = std::mem::take(&mut due);
            BackgroundWorker::transaction(AssertUnwindSafe(|| send(&wakeups).unwrap_or_else(|error| raise(error))));
            last_sent = Some(Instant::now());
        }
    }
}

/// Sends wake-ups, but none if the extension is not installed: then nobody knows a channel.
fn send(wakeups: &Wakeups) -> Result<(), Error> {
    if !server::has_extension(c"mana_sync") {
        return Ok(());
    }
    let channels = Channels::load()?;
    Call::PLAIN.run(|spi| {
        let memory = spi.memory();
        let notify = |channel: String, payload| {
            spi.select(&NOTIFY, &[Some(memory.text(channel.as_bytes())), Some(payload)]);
        };
        if wakeups.everyone {
            notify(channels.everyone(), memory.text(b"{}"));
        }
        for ((listener, app), written) in &wakeups.written {
            let channel = match listener {
                Listener::User(id) => channels.user(id),
                Listener::Space(id) => channels.space(id),
            };
            notify(channel, written.payload(app, memory));
        }
        Ok(())
    })
}

/// The owner of the channel to which a wake-up is sent.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Listener {
    User(Box<[u8]>),
    Space(Box<[u8]>),
}

/// The tables of an app that have new changes, and the clients that wrote them.
#[derive(Debug, Default)]
struct Written {
    tables: BTreeSet<Box<[u8]>>,
    clients: BTreeSet<Box<[u8]>>,
    /// Whether the name of an app or table is missing because it was too long for the feed.
    is_incomplete: bool,
}

/// The wake-ups that are due.
#[derive(Debug, Default)]
struct Wakeups {
    /// Whether everyone has to be woken.
    everyone: bool,
    /// What was written, for each listener and app.
    written: BTreeMap<(Listener, Box<[u8]>), Written>,
}

impl Wakeups {
    fn is_empty(&self) -> bool {
        !self.everyone && self.written.is_empty()
    }

    fn add(&mut self, touch: Touch) {
        if self.written.len() > MOST_CHANNELS {
            self.everyone = true;
            self.written.clear();
        }
        if self.everyone {
            return;
        }
        let Touch { user, space, app, table, client } = touch;
        let space = (!space.is_empty()).then_some(Listener::Space(space));
        for to in [Some(Listener::User(user)), space].into_iter().flatten() {
            let written = self.written.entry((to, app.clone())).or_default();
            written.is_incomplete |= app.is_empty() || table.is_empty();
            written.tables.insert(table.clone());
            written.clients.insert(client.clone());
        }
    }
}

impl Written {
    /// Makes the payload of a NOTIFY: `{"app": …, "tables": […], "clients": […]}`, or `{}` if that is too long or
    /// incomplete.
    fn payload<'m>(&self, app: &[u8], memory: Memory<'m>) -> Datum<'m> {
        let mut json = JsonText::new(memory);
        json.raw("{\"app\": ");
        json.string(app);
        for (key, texts) in [(", \"tables\": [", &self.tables), (", \"clients\": [", &self.clients)] {
            json.raw(key);
            for (place, text) in texts.iter().enumerate() {
                if place > 0 {
                    json.raw(", ");
                }
                json.string(text);
            }
            json.raw("]");
        }
        json.raw("}");
        match self.is_incomplete || json.length() > LONGEST_PAYLOAD {
            true => memory.text(b"{}"),
            // A json has the form of a text.
            false => json.finish(),
        }
    }
}
