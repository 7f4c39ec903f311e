//! Reads a page of the log.
//!
//! A call has one snapshot, and all queries of the call read with it. The crate `mana_sync_cursor` decides which rows come next
//! (`mana_sync_cursor::page`). This module runs the queries (`queries/*.sql`) and hands their rows to the caller, without decoding the
//! values.

mod purges;
pub mod records;
mod source;

use crate::bounds::MOST_SENT;
use crate::epoch;
use crate::error::Error;
use crate::json::text::Size;
use crate::pg::datum::Datum;
use crate::pg::heap::{self, Descriptor, Row};
use crate::pg::server;
use crate::pg::snapshot::{self, ActiveSnapshot, Kind};
use crate::pg::spi::{SlotRow, Spi};
use crate::row::{self, AFTER_ONE, Layout, LogRow, RESULT, WHOLE_CHANGE};
use crate::scope::Scope;
use mana_sync_cursor::codec::looks_like_cursor;
use mana_sync_cursor::cursor::Cursor;
use mana_sync_cursor::epoch::{Server, WriteEpoch};
use mana_sync_cursor::id::{Lsn, Timeline};
use mana_sync_cursor::page::{self, Page, Request, Resync, Rows, Start, read_page};
use mana_sync_merge::time::Time;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};
use purges::PurgeTables;
use source::LogSource;

/// A row of a page.
#[derive(Clone, Copy)]
pub struct PageRow<'s> {
    row: Row<'s>,
    layout: &'static Layout,
    /// The approximate number of bytes of text in the row, without JSON that is toasted; 0 if sizes are not needed.
    size: usize,
    /// Whether any JSON of the row is toasted, so that the size of its text is not known yet. False if sizes are not needed.
    is_toasted: bool,
}

impl<'s> PageRow<'s> {
    /// Projects the row in `slot` to [`row::CHANGE`]. In `slot`, one other column precedes the columns of the log.
    pub fn of_change(slot: &SlotRow<'_, 's>, descriptor: &mut Option<Descriptor<'s>>) -> PageRow<'s> {
        let row = slot.project::<_, WIDTH>(const { AFTER_ONE.places(&row::CHANGE) }, descriptor);
        PageRow { row, layout: &WHOLE_CHANGE, size: 0, is_toasted: false }
    }

    /// Projects the row in `slot` to [`row::RESULT_COLUMNS`], and measures it. In `slot`, one other column precedes the columns of the log.
    pub fn of_result(slot: &SlotRow<'_, 's>, descriptor: &mut Option<Descriptor<'s>>) -> PageRow<'s> {
        let row = slot.project::<_, WIDTH>(const { AFTER_ONE.places(&row::RESULT_COLUMNS) }, descriptor);
        let mut page_row = PageRow { row, layout: &RESULT, size: row.size(), is_toasted: false };
        for column in row::JSON {
            match slot.jsonb(AFTER_ONE.place(column)) {
                Some(value) if value.is_toasted() => page_row.is_toasted = true,
                // The tuple has the bytes of its strings already, as of all other columns.
                Some(value) if !value.has_no_number() => {
                    page_row.size += value.with_root(Size::of_numbers).0.text;
                }
                _ => {}
            }
        }
        page_row
    }

    /// Returns a copy in `memory`. Values that are stored out of line are not fetched.
    #[cfg(feature = "pg_bench")]
    pub fn copy<'m>(&self, memory: crate::pg::memory::Memory<'m>) -> PageRow<'m> {
        PageRow { row: self.row.copy(memory), ..*self }
    }

    /// The row without its size.
    pub fn row(&self) -> Row<'s> {
        self.row
    }

    /// Returns the row in a form that finds columns by name.
    pub fn log_row(&self) -> LogRow<'s> {
        LogRow::new(self.row, self.layout)
    }

    /// Returns the approximate number of bytes of text in the row; `None` if only [`PageRow::detoast`] can tell.
    pub fn size(&self) -> Option<usize> {
        (!self.is_toasted).then_some(self.size)
    }

    /// Returns the columns with detoasted JSON, and their number of bytes of text. If the row is too large to be sent, all its JSON is
    /// NULL.
    pub fn detoast(&self) -> (Vec<Option<Datum<'s>>>, usize) {
        let log_row = self.log_row();
        let mut columns: Vec<Option<Datum<'s>>> =
            row::RESULT_COLUMNS.iter().map(|&column| log_row.datum(column)).collect();
        let mut size = self.size;
        for column in row::JSON {
            let Some(value) = log_row.jsonb(column) else { continue };
            if let (text, Some(detoasted)) = value.with_root(Size::of) {
                columns[RESULT.place(column) - 1] = Some(detoasted.datum());
                size = size.saturating_add(text.text);
            }
        }
        if size > MOST_SENT {
            for column in row::JSON {
                columns[RESULT.place(column) - 1] = None;
            }
            size = self.size;
        }
        (columns, size)
    }
}

/// The number of columns of the queries that read ranges: the number of the range comes first, then the columns of the log.
const WIDTH: usize = 1 + row::COLUMN_COUNT;

/// A receiver of the rows of a page that makes its own form of each row.
pub trait TakeRows<'s>: Rows<Self::Row> {
    /// The form of a row that the receiver needs.
    type Row;

    /// Makes the receiver's form of the row in `slot`. There, one other column precedes the columns of the log. `descriptor` is cached
    /// between rows.
    fn row(slot: &SlotRow<'_, 's>, descriptor: &mut Option<Descriptor<'s>>) -> Self::Row;
}

/// A filter of the rows of the excluded client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientFilter {
    /// The page leaves out all rows with the client's id, whichever user wrote them.
    Everywhere,
    /// The page leaves out the user's own rows with the client's id, because the device has them already. There are two exceptions: a walk
    /// from the beginning of the log, and a space that a walk newly covers. They bring all rows, because the device may not have them.
    Echo,
}

/// Returns the page size that an argument asks for, or `default` for NULL. Errors: 22023 below 1.
pub fn page_size(asked: Option<i32>, default: usize) -> Result<usize, Error> {
    match asked {
        None => Ok(default),
        Some(size) if size < 1 => Err(Error::Size("page_size")),
        Some(size) => Ok(size as usize),
    }
}

/// Makes the request for a page of changes to all tables. The page has a cursor even if it has no rows.
pub fn request<'r>(scope: &'r Scope<'_>, app: &'r [u8], page_size: usize) -> Request<'r> {
    Request {
        user: scope.user,
        app,
        spaces: &scope.spaces,
        table: None,
        page_size,
        as_records: false,
        excluded_client: None,
        cursor_without_rows: true,
        room: None,
    }
}

/// Returns the text of a cursor for the client. Everything that the cursor covers is flushed to disk before.
pub fn issue(cursor: &Cursor) -> String {
    server::flush();
    cursor.to_text()
}

/// Reads a page into `rows`, and then calls `end` while the snapshot is still active. A caller that sends the page's cursor to the client
/// must use [`issue`].
///
/// The outer error ends the call. The inner error is the reason why the reader has to begin again.
pub fn read<'s, R: TakeRows<'s>>(
    spi: Spi<'s>,
    request: &Request<'_>,
    filter: (ClientFilter, Option<&[u8]>),
    start: Start,
    rows: &mut R,
    end: impl FnOnce(&mut R, &Page) -> Result<(), Error>,
) -> Result<Result<Page, Resync>, Error> {
    refuse_subscribers()?;
    let mut source = LogSource::new(spi, request, filter, R::row);
    with_server(|known, active| {
        let page = match history_is_certain(known, active)? {
            true => {
                let snapshot = source.snapshot(known, active, &start);
                read_page(known, (snapshot, active.lsn), request, start, &mut source, &mut PurgeTables, rows)
            }
            // Nothing that this transaction can tell would be certain. The next one knows.
            false => Ok(Page::UNCHANGED),
        };
        match page {
            Ok(page) => end(rows, &page).map(|()| Ok(page)),
            Err(page::Error::Resync(why)) => Ok(Err(why)),
            Err(page::Error::Source(never)) => match never {},
        }
    })
}

/// Checks whether a page can be read, without reading rows. The outer error ends the call. The inner error is the reason why the reader has
/// to begin again.
pub fn check(request: &Request<'_>, start: &Start) -> Result<Result<(), Resync>, Error> {
    refuse_subscribers()?;
    with_server(|known, _| Ok(page::check(known, request, start, &mut PurgeTables)))
}

/// Returns an error if a subscription writes into the log. The rows then belong to transactions of another server, about which the
/// snapshots of this server say nothing.
fn refuse_subscribers() -> Result<(), Error> {
    if heap::is_subscribed(c"sync_changes")? { Err(Error::Subscriber) } else { Ok(()) }
}

/// Runs `body` with the snapshot of the call, and with what the server knows about the history on which the snapshot was taken.
///
/// A standby may change its timeline at any moment. If that happened between taking the snapshot and reading the epochs, a cursor would mix
/// two histories. So the history is read before and after both. If it has changed, everything is read again.
fn with_server<T>(body: impl FnOnce(&Server, &ActiveSnapshot) -> Result<T, Error>) -> Result<T, Error> {
    let mut body = Some(body);
    loop {
        let history = epoch::history()?;
        // How far the server had replayed before the snapshot was taken. A transaction that keeps one snapshot took it earlier.
        let replayed = if server::keeps_one_snapshot() { Lsn::INVALID } else { server::replayed() };
        let result = snapshot::with(Kind::Transaction, || {
            let active = ActiveSnapshot::get();
            // The epochs are read with a snapshot that is not older than the call's.
            let (epochs, _) = snapshot::with(Kind::Latest, epoch::known_epochs)?;
            if history != epoch::history()? {
                return Ok(None);
            }
            let known = Server::new(epochs, history, active.in_recovery, active.next_xact, replayed);
            body.take().map(|body| body(&known, &active)).transpose()
        })?;
        if let Some(result) = result {
            return Ok(result);
        }
    }
}

/// Whether the snapshot was certainly taken on the history that the server is on now.
///
/// The two histories may differ if a transaction on a standby keeps one snapshot, and the timeline changed after the snapshot was taken.
/// The function returns false if the latest epoch that the snapshot sees is not one of the server's current history.
fn history_is_certain(known: &Server, active: &ActiveSnapshot) -> Result<bool, Error> {
    if !active.in_recovery || !server::keeps_one_snapshot() || known.history().timeline == Timeline(1) {
        return Ok(true);
    }
    let (epochs, _) = epoch::known_epochs()?;
    let seen = Server::new(epochs, known.history(), active.in_recovery, active.next_xact, Lsn::INVALID);
    Ok(matches!(seen.write_epoch(), WriteEpoch::Current(_)))
}

/// Returns where a page begins. The argument `since` is a cursor, an RFC 3339 timestamp, or NULL or '' for the beginning of the log. Any
/// other text also means the beginning, and raises a WARNING. Errors: 22023 for a damaged cursor.
pub fn parse_since(since: Option<&[u8]>) -> Result<Start, Error> {
    let Some(since) = since.filter(|since| !since.is_empty()) else { return Ok(Start::Beginning(None)) };
    if looks_like_cursor(since) {
        return Ok(Start::Cursor(Box::new(Cursor::from_text(since)?)));
    }
    match Time::parse(since) {
        Some(time) => Ok(Start::Beginning(Some(time.micros()))),
        None => {
            let message = "since is neither a cursor nor a timestamp: reading from the beginning";
            ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "mana_sync")
                .set_detail("Argument: since.")
                .set_hint("Pass a cursor as it was returned, a timestamp of RFC 3339, or NULL for the beginning.")
                .report(PgLogLevel::WARNING);
            Ok(Start::Beginning(None))
        }
    }
}
