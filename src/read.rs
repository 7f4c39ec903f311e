//! Reading the log: a page of it, and `changes_since`, which returns its rows.
//!
//! A call pushes one snapshot, and every query of it reads with that one. Which rows come next is
//! decided in `mana_sync_cursor::page`; here are the queries (`read/*.sql`), and the way of a row from
//! a query to the caller, on which nothing in it is decoded.

mod log;
mod purges;

use crate::epoch;
use crate::error::Error;
use crate::function::{Args, sql_function, text_datum};
use crate::log::key;
use crate::result::ResultSet;
use crate::scope::Scope;
use crate::settings;
use crate::snapshot::{self, Pushed, Reading};
use crate::statement::{Row, Spi};
use crate::table;
use log::Log;
pub use log::{Found, column};
use mana_sync_cursor::codec::looks_like_cursor;
use mana_sync_cursor::cursor::Cursor;
use mana_sync_cursor::epoch::{History, Server, WriteEpoch};
use mana_sync_cursor::id::{Lsn, Timeline};
use mana_sync_cursor::page::{self as pages, NextCursor, Page, Request, Resync, Rows, Start, read_page};
use mana_sync_merge::time::Time;
use pgrx::pg_sys;
use purges::Purged;
use std::ffi::CStr;

sql_function!(mana_sync_changes_since, pg_finfo_mana_sync_changes_since, changes_since);

/// `changes_since` returns a row of the log, and the cursor.
const RESULT_COLUMNS: usize = 14;

/// Settings of the planner while a statement that reads the log runs, for it may be planned then: the statements
/// are index scans, ordered where the order matters, also on a table that was small or not analysed when they
/// were planned, and take less time than a just-in-time compilation.
const PLANNER: [(&CStr, &[u8]); 5] = [
    (c"enable_seqscan", b"off"),
    (c"enable_bitmapscan", b"off"),
    (c"enable_sort", b"off"),
    (c"enable_indexscan", b"on"),
    (c"jit", b"off"),
];

/// Opens a level of settings with [`PLANNER`]; ends with [`settings::close_level`].
pub fn plan_index_scans() -> i32 {
    let level = settings::open_level();
    for (name, value) in PLANNER {
        settings::set_for_call(name, value);
    }
    level
}

/// `mana_sync.changes_since(user_id, app_id, table_name, since, exclude_client_id, page_size, space_ids)`
///
/// Errors: 22023 for an empty user or app, a `page_size` below 1 and a damaged cursor; 42501 without a
/// user or for another one than the scope's; 55000 for a cursor from the server's own future, or from before a
/// delete that was purged.
fn changes_since(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let result = ResultSet::new(args, RESULT_COLUMNS)?;
    let app = key(args.text(1), "app_id")?;
    let page_size = page_size(args.int(5), 5000)?;
    let start = parse_since(args.text(3))?;
    let scope = Scope::enter(args.text(0), args.texts(6))?;
    let table = args.text(2).filter(|table| !table.is_empty());
    let exclude = Exclude::Client(args.text(4).filter(|client| !client.is_empty()));
    // The cursor is in the last row.
    let pull = Pull { app, table, exclude, page_size, start, cursor_without_rows: false };
    let mut rows = ResultRows { result: &result, most: settings::max_page_bytes(), bytes: 0, last: None };
    page(&scope, pull, &mut rows, |rows, page| {
        if let Some(last) = rows.last.take() {
            let cursor = page.next.issued().ok_or(Error::Installation("a page without a cursor"))?;
            result.add_values(&[last.columns(), vec![Some(text_datum(hand_out(cursor).as_bytes()))]].concat());
        }
        Ok(())
    })??;
    scope.leave();
    Ok(None)
}

/// The rows of a page on their way into the result, of which the last one waits for the cursor.
struct ResultRows<'a> {
    result: &'a ResultSet,
    /// How many bytes of text a page may have.
    most: usize,
    /// How many it has.
    bytes: usize,
    last: Option<ResultRow>,
}

enum ResultRow {
    /// As it was read.
    Plain(Row),
    /// With what was stored out of line or compressed.
    Fetched(Vec<Option<pg_sys::Datum>>),
}

impl ResultRow {
    fn columns(&self) -> Vec<Option<pg_sys::Datum>> {
        match self {
            ResultRow::Plain(row) => (1..=RESULT_COLUMNS as i32 - 1).map(|place| row.column(place)).collect(),
            ResultRow::Fetched(columns) => columns.clone(),
        }
    }
}

/// What takes the rows of a page.
pub trait TakeFound: Rows<Found> {
    /// Whether it is told how much text each has; it finds out by itself otherwise.
    const MEASURED: bool;
}

impl TakeFound for ResultRows<'_> {
    const MEASURED: bool = true;
}

impl Rows<Found> for ResultRows<'_> {
    fn take(&mut self, found: Found) -> bool {
        let (row, bytes) = match found.is_toasted {
            false => (ResultRow::Plain(found.row), found.text),
            true => {
                let (columns, text) = found.fetch();
                (ResultRow::Fetched(columns), text)
            }
        };
        if self.last.is_some() && self.bytes.saturating_add(bytes) > self.most {
            return false;
        }
        self.bytes += bytes;
        match self.last.replace(row) {
            None => {}
            Some(ResultRow::Plain(row)) => self.result.add(&row),
            Some(ResultRow::Fetched(columns)) => {
                self.result.add_values(&[columns.as_slice(), &[None]].concat());
            }
        }
        true
    }
}

/// A page to read.
pub struct Pull<'a> {
    /// Of this app.
    pub app: &'a [u8],
    /// Of this table only.
    pub table: Option<&'a [u8]>,
    /// But the rows of a client.
    pub exclude: Exclude<'a>,
    /// At most so many rows.
    pub page_size: usize,
    /// Where it begins.
    pub start: Start,
    /// Whether a page without rows has a cursor too.
    pub cursor_without_rows: bool,
}

/// Whose rows a page leaves out.
#[derive(Clone, Copy)]
pub enum Exclude<'a> {
    /// Those of a client id, whoever's it is.
    Client(Option<&'a [u8]>),
    /// What the client has written itself: the user's rows with its id, but not where the device may have lost
    /// them, which is in a walk from the beginning of the log and in a space that a walk newly covers.
    Echo(Option<&'a [u8]>),
}

/// A page size that was asked for.
pub fn page_size(asked: Option<i32>, default: usize) -> Result<usize, Error> {
    match asked {
        None => Ok(default),
        Some(size) if size < 1 => Err(Error::Size("page_size")),
        Some(size) => Ok(size as usize),
    }
}

/// The text of a cursor, for the client. What it says has been seen is on disk then.
pub fn hand_out(cursor: &Cursor) -> String {
    snapshot::flush();
    cursor.to_text()
}

/// Reads a page under a scope that was entered into `rows`, and calls `end` while they are there; or tells why the reader has to
/// begin again. The page's cursor goes to the client by [`hand_out`].
pub fn page<R: TakeFound>(
    scope: &Scope<'_>,
    pull: Pull<'_>,
    rows: &mut R,
    end: impl FnOnce(&mut R, &Page) -> Result<(), Error>,
) -> Result<Result<Page, Resync>, Error> {
    refuse_subscribers()?;
    let request = pull.request(scope);
    let spi = Spi::connect();
    let (pushed, server, reading) = take_snapshot()?;
    let mut log = Log::new(&spi, &request, pull.exclude, R::MEASURED);
    let page = match label_is_certain(&server, &reading)? {
        true => {
            let now = log.now(&server, &reading, &pull.start);
            read_page(&server, (now, reading.lsn), &request, pull.start, &mut log, &mut Purged, rows)
        }
        // Nothing that this transaction can tell would be sure; the next one knows.
        false => Ok(Page { next: NextCursor::Unchanged, more: false }),
    };
    let page = page.map_err(|error| match error {
        pages::Error::Resync(why) => why,
        pages::Error::Source(never) => match never {},
    });
    if let Ok(page) = &page {
        end(rows, page)?;
    }
    pushed.pop();
    spi.finish();
    Ok(page)
}

/// Whether a page can be read, under a scope that was entered.
pub fn check(scope: &Scope<'_>, pull: &Pull<'_>) -> Result<Result<(), Resync>, Error> {
    refuse_subscribers()?;
    let (pushed, server, _) = take_snapshot()?;
    let checked = pages::check(&server, &pull.request(scope), &pull.start, &mut Purged);
    pushed.pop();
    Ok(checked)
}

/// A log that a subscription writes into gets rows of transactions that this server's snapshots know nothing of.
fn refuse_subscribers() -> Result<(), Error> {
    match table::is_subscribed(table::oid_of(c"sync_changes")?) {
        true => Err(Error::Subscriber),
        false => Ok(()),
    }
}

impl<'a> Pull<'a> {
    fn request(&self, scope: &'a Scope<'_>) -> Request<'a> {
        Request {
            user: scope.user,
            app: self.app,
            spaces: &scope.spaces,
            table: self.table,
            page_size: self.page_size,
            cursor_without_rows: self.cursor_without_rows,
            room: None,
        }
    }
}

/// `since`: a cursor, a timestamp of RFC 3339, or the beginning.
pub fn parse_since(since: Option<&[u8]>) -> Result<Start, Error> {
    let Some(since) = since.filter(|since| !since.is_empty()) else { return Ok(Start::Beginning(None)) };
    if looks_like_cursor(since) {
        return Ok(Start::Cursor(Box::new(Cursor::from_text(since)?)));
    }
    match Time::parse(since) {
        Some(time) => Ok(Start::Beginning(Some(time.micros()))),
        None => {
            pg_sys::panic::ErrorReport::new(
                pgrx::PgSqlErrorCode::ERRCODE_WARNING,
                "since is neither a cursor nor a timestamp: reading from the beginning",
                "mana_sync",
            )
            .set_detail("Argument: since.")
            .set_hint("Pass a cursor as it was returned, a timestamp of RFC 3339, or NULL for the beginning.")
            .report(pgrx::PgLogLevel::WARNING);
            Ok(Start::Beginning(None))
        }
    }
}

/// Pushes the snapshot that the call reads with, and tells what the server knows of the history that it was taken on.
///
/// A standby may change its timeline at any moment, hence the second look, after the epochs: were they of a later
/// history than the snapshot, a cursor would speak of both.
fn take_snapshot() -> Result<(Pushed, Server, Reading), Error> {
    loop {
        let here = epoch::here()?;
        // How far the log had been replayed before the snapshot. A transaction that keeps one took it earlier.
        let replayed = if snapshot::is_fixed() { Lsn::INVALID } else { snapshot::replayed() };
        let pushed = Pushed::transaction();
        let reading = Reading::active();
        let server = server(here, replayed, &reading)?;
        if here == epoch::here()? {
            return Ok((pushed, server, reading));
        }
        pushed.pop();
    }
}

/// What the server knows. The epochs are read with a snapshot no older than the call's.
fn server(here: History, replayed: Lsn, reading: &Reading) -> Result<Server, Error> {
    let fresh = Pushed::latest();
    let (epochs, _) = epoch::epochs()?;
    fresh.pop();
    Ok(Server::new(epochs, here, reading.in_recovery, reading.next_xact, replayed))
}

/// Whether the snapshot was taken on the history that the server is on now. It may not have been where
/// a standby's transaction keeps one snapshot, and the timeline changed under it: then the epoch that
/// the server is in now is not the latest that the snapshot sees.
fn label_is_certain(server: &Server, reading: &Reading) -> Result<bool, Error> {
    if !reading.in_recovery || !snapshot::is_fixed() || server.history().timeline == Timeline(1) {
        return Ok(true);
    }
    let (seen, _) = epoch::epochs()?;
    let seen = Server::new(seen, server.history(), reading.in_recovery, reading.next_xact, Lsn::INVALID);
    Ok(matches!(seen.write_epoch(), WriteEpoch::Current(_)))
}
