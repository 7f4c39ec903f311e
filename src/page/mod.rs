//! Reads a page of the log.
//!
//! A call has one snapshot, and all of its queries read with it. The crate `mana_sync_cursor` decides which rows come next
//! (`mana_sync_cursor::page`). This module has the queries (`queries/*.sql`) and takes the rows from them to the caller. Nothing in a
//! row is decoded on its way.

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
    /// About how many bytes of text the row has, without JSON that is toasted; 0 where sizes are not needed.
    size: usize,
    /// Whether any of its JSON is toasted, so that its text is not known yet. False where sizes are not needed.
    is_toasted: bool,
}

impl<'s> PageRow<'s> {
    /// Projects the row in `slot`, whose first column precedes those of the log, to [`row::CHANGE`].
    pub fn of_change(slot: &SlotRow<'_, 's>, descriptor: &mut Option<Descriptor<'s>>) -> PageRow<'s> {
        let row = slot.project::<_, WIDTH>(const { AFTER_ONE.places(&row::CHANGE) }, descriptor);
        PageRow { row, layout: &WHOLE_CHANGE, size: 0, is_toasted: false }
    }

    /// Projects the row in `slot`, whose first column precedes those of the log, to [`row::RESULT_COLUMNS`], and measures it.
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

    /// A copy in other memory. What is stored out of line stays there.
    #[cfg(feature = "pg_bench")]
    pub fn copy<'m>(&self, memory: crate::pg::memory::Memory<'m>) -> PageRow<'m> {
        PageRow { row: self.row.copy(memory), ..*self }
    }

    /// The row without its size.
    pub fn row(&self) -> Row<'s> {
        self.row
    }

    /// The row with the names of its columns.
    pub fn log_row(&self) -> LogRow<'s> {
        LogRow::new(self.row, self.layout)
    }

    /// About how many bytes of text the row has; `None` where that is not known before [`PageRow::detoast`].
    pub fn size(&self) -> Option<usize> {
        (!self.is_toasted).then_some(self.size)
    }

    /// The columns with detoasted JSON, and how many bytes of text they have. If the row is too large to be sent, all its JSON is NULL.
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

/// How many columns the queries that read ranges return: the number of the range, and those of the log.
const WIDTH: usize = 1 + row::COLUMN_COUNT;

/// What takes the rows of a page.
pub trait TakeRows<'s>: Rows<Self::Row> {
    /// What it takes of a row.
    type Row;

    /// Takes it from the row in `slot`, whose first column precedes those of the log. `descriptor` is kept for the next row.
    fn row(slot: &SlotRow<'_, 's>, descriptor: &mut Option<Descriptor<'s>>) -> Self::Row;
}

/// The rows of a client that a page leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientFilter {
    /// The page leaves out all rows with the client's id, whoever wrote them.
    Everywhere,
    /// The page leaves out the user's own rows with the client's id, because the device has them. It has them not in a walk from the
    /// beginning of the log and in a space that a walk newly covers: these bring all rows.
    Echo,
}

/// The number of rows that a page may have, from an argument. Errors: 22023 below 1.
pub fn page_size(asked: Option<i32>, default: usize) -> Result<usize, Error> {
    match asked {
        None => Ok(default),
        Some(size) if size < 1 => Err(Error::Size("page_size")),
        Some(size) => Ok(size as usize),
    }
}

/// The request for a page of changes of all tables, with a cursor in any case.
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

/// The text of a cursor for the client. What the cursor covers is on disk then.
pub fn issue(cursor: &Cursor) -> String {
    server::flush();
    cursor.to_text()
}

/// Reads a page into `rows`, and calls `end` while the rows exist. The page's cursor goes to the client through [`issue`].
///
/// The outer error ends the call; the inner one is the reason why the reader has to begin again.
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

/// Whether a page can be read. The inner error is the reason why the reader has to begin again.
pub fn check(request: &Request<'_>, start: &Start) -> Result<Result<(), Resync>, Error> {
    refuse_subscribers()?;
    with_server(|known, _| Ok(page::check(known, request, start, &mut PurgeTables)))
}

/// Refuses to read a log that a subscription writes into: its rows are of transactions that this server's snapshots know nothing of.
fn refuse_subscribers() -> Result<(), Error> {
    if heap::is_subscribed(c"sync_changes")? { Err(Error::Subscriber) } else { Ok(()) }
}

/// Runs `body` with the snapshot of the call, and with what the server knows of the history that it was taken on.
///
/// A standby may change its timeline at any moment. If it did so between the snapshot and the reading of the epochs, a cursor would mix
/// two histories. So the history is read before and after them. If it differs, everything is read again.
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

/// Whether the snapshot was taken on the history that the server is on now.
///
/// It may not have been where a standby's transaction keeps one snapshot and the timeline changed under it. Then the epoch that the
/// server is in now is not the latest that the snapshot sees.
fn history_is_certain(known: &Server, active: &ActiveSnapshot) -> Result<bool, Error> {
    if !active.in_recovery || !server::keeps_one_snapshot() || known.history().timeline == Timeline(1) {
        return Ok(true);
    }
    let (epochs, _) = epoch::known_epochs()?;
    let seen = Server::new(epochs, known.history(), active.in_recovery, active.next_xact, Lsn::INVALID);
    Ok(matches!(seen.write_epoch(), WriteEpoch::Current(_)))
}

/// Where a page begins, from the argument `since`: a cursor, a timestamp of RFC 3339, or NULL, '' and other text for the beginning.
/// Errors: 22023 for a damaged cursor.
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
