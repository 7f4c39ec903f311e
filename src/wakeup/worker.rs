//! The process that sends the wake-ups of a database.

use super::channel::Channels;
use super::feed::{self, Reader};
use super::note::{self, Touch};
use crate::function::text_datum;
use crate::json_text::quote;
use crate::settings;
use crate::statement::{Spi, Statement};
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, SignalWakeFlags};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_guard, pg_sys};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

/// After an error the postmaster starts the worker again so much later.
const RESTART_AFTER: Duration = Duration::from_secs(2);
/// NOTIFY takes no longer payload (NOTIFY_PAYLOAD_MAX_LENGTH in commands/async.c).
const LONGEST_PAYLOAD: usize = 7999;
/// For more channels at once everyone is woken instead.
const MOST_CHANNELS: usize = 5000;

static NOTIFY: Statement = Statement::new(c"SELECT pg_catalog.pg_notify($1, $2)", &[pg_sys::TEXTOID, pg_sys::TEXTOID]);

/// Called in the postmaster.
pub fn register() {
    // SAFETY: a plain variable of the server. pg_upgrade drops and creates databases, to which nobody may be connected then.
    if unsafe { pg_sys::IsBinaryUpgrade } {
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
            .set_argument(Some(pg_sys::Datum::from(place)))
            .enable_spi_access()
            // On a standby, when it is promoted.
            .set_start_time(BgWorkerStartTime::RecoveryFinished)
            .set_restart_time(Some(RESTART_AFTER))
            .load();
    }
}

/// Says so where the workers leave too few for parallel queries, or where not all of them can start. The server itself says only the
/// latter, as LOG and without naming the setting.
fn warn_of_few_worker_processes(taken: usize) {
    // SAFETY: plain variables of the server, which are set when libraries are preloaded.
    let (all, for_a_query) = unsafe { (pg_sys::max_worker_processes, pg_sys::max_parallel_workers_per_gather) };
    // One is the launcher's of logical replication.
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

/// The worker's main function; the argument is its place among the configured databases.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn mana_sync_wakeup_worker(place: pg_sys::Datum) {
    let place = place.value();
    handle_termination();
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP);
    let Some(database) = settings::wakeup_databases().into_iter().nth(place) else { return };
    BackgroundWorker::connect_worker_to_spi(Some(&database), None);
    // Nobody waits for a wake-up to be on disk.
    crate::settings::set_for_session(c"synchronous_commit", b"off");
    let reader = Reader::open(place);
    let (mut bytes, mut pending, mut last_sent) = (Vec::new(), Pending::default(), None::<Instant>);
    let mut idle = false;
    loop {
        let due = last_sent.map_or(Duration::ZERO, |sent| settings::wakeup_interval().saturating_sub(sent.elapsed()));
        let timeout = (!idle).then(|| due.max(Duration::from_millis(1)));
        if !BackgroundWorker::wait_latch(timeout) {
            // The postmaster is gone.
            // SAFETY: ends the process as PostgreSQL's own workers do; nothing here has to be dropped.
            unsafe { pg_sys::proc_exit(1) };
        }
        pgrx::check_for_interrupts!();
        if BackgroundWorker::sighup_received() {
            // SAFETY: what every process of the server does on this signal, between transactions.
            unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
        }
        // Woken early, it only makes room.
        let is_due = last_sent.is_none_or(|sent| sent.elapsed() >= settings::wakeup_interval());
        let or_wait = is_due && pending.is_empty();
        pending.everyone |= reader.drain(&mut bytes, or_wait);
        note::read(&bytes).into_iter().for_each(|touch| pending.add(touch));
        idle = or_wait && pending.is_empty();
        if is_due && !pending.is_empty() {
            let wakeups = std::mem::take(&mut pending);
            BackgroundWorker::transaction(AssertUnwindSafe(|| send(wakeups)));
            last_sent = Some(Instant::now());
        }
    }
}

unsafe extern "C-unwind" {
    /// tcop/tcopprot.h, without pgrx's guard: it is called by a signal.
    fn die(signal: std::ffi::c_int);
}

/// SIGTERM ends the process wherever it can be interrupted, also in the wait for a lock, and with status 1: with 0
/// the postmaster would never start the worker again.
fn handle_termination() {
    // SAFETY: what PostgreSQL's own processes that run SQL do; signals are blocked until the handlers are set.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::pqsignal(pg_sys::SIGTERM as i32, Some(die));
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(pg_sys::SIGTERM as i32, Some(die));
    }
}

/// Sends them; where the extension is not installed (any more) nobody knows a channel.
fn send(wakeups: Pending) {
    // SAFETY: `missing_ok`, within a transaction.
    if unsafe { pg_sys::get_extension_oid(c"mana_sync".as_ptr(), true) } == pg_sys::InvalidOid {
        return;
    }
    let channels = match Channels::load() {
        Ok(channels) => channels,
        Err(error) => return pgrx::pg_sys::panic::ErrorReport::from(error).report(pgrx::PgLogLevel::ERROR),
    };
    let spi = Spi::connect();
    let notify = |channel: String, payload: &[u8]| {
        spi.select(&NOTIFY, &[Some(text_datum(channel.as_bytes())), Some(text_datum(payload))]);
    };
    if wakeups.everyone {
        notify(channels.everyone(), b"{}");
    }
    for ((to, app), written) in &wakeups.written {
        let channel = match to {
            To::User(id) => channels.user(id),
            To::Space(id) => channels.space(id),
        };
        notify(channel, &written.payload(app));
    }
    spi.finish();
}

/// Whose channel.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum To {
    User(Box<[u8]>),
    Space(Box<[u8]>),
}

/// What was written of an app.
#[derive(Debug, Default)]
struct Written {
    tables: BTreeSet<Box<[u8]>>,
    clients: BTreeSet<Box<[u8]>>,
    /// There was a text that was too long for the feed.
    more: bool,
}

/// What is to be sent.
#[derive(Debug, Default)]
struct Pending {
    everyone: bool,
    written: BTreeMap<(To, Box<[u8]>), Written>,
}

impl Pending {
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
        let space = (!space.is_empty()).then_some(To::Space(space));
        for to in [Some(To::User(user)), space].into_iter().flatten() {
            let written = self.written.entry((to, app.clone())).or_default();
            written.more |= app.is_empty() || table.is_empty();
            written.tables.insert(table.clone());
            written.clients.insert(client.clone());
        }
    }
}

impl Written {
    /// `{"app": …, "tables": […], "clients": […]}`, or `{}` where that is too long or not known.
    fn payload(&self, app: &[u8]) -> Vec<u8> {
        let mut json = b"{\"app\": ".to_vec();
        quote(app, |part| json.extend_from_slice(part));
        for (key, texts) in [(", \"tables\": [", &self.tables), (", \"clients\": [", &self.clients)] {
            json.extend_from_slice(key.as_bytes());
            for (place, text) in texts.iter().enumerate() {
                if place > 0 {
                    json.extend_from_slice(b", ");
                }
                quote(text, |part| json.extend_from_slice(part));
            }
            json.push(b']');
        }
        json.push(b'}');
        match self.more || json.len() > LONGEST_PAYLOAD {
            true => b"{}".to_vec(),
            false => json,
        }
    }
}
