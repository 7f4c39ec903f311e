//! Reading the log: a page of it, and `changes_since`, which returns its rows.
//!
//! A call pushes one snapshot, and every query of it reads with that one. Which rows come next is
//! decided in `mana_sync_cursor::walk`; here are the queries (`read/*.sql`), and the way of a row from
//! a query to the caller, on which nothing in it is decoded.

use crate::epoch;
use crate::error::Error;
use crate::function::{Args, BOOL, ElementType, INT4, INT8, TEXT, XID8, array_datum, sql_function, text_datum};
use crate::log::key;
use crate::scope::{self, Scope};
use crate::snapshot::{self, Pushed, Reading};
use crate::statement::{Row, Rows, Spi, Statement};
use mana_sync_cursor::Position;
use mana_sync_cursor::cursor::Cursor;
use mana_sync_cursor::history::{Here, Server};
use mana_sync_cursor::merge::{Fetch, Filter, Part, Source};
use mana_sync_cursor::text::looks_like_cursor;
use mana_sync_cursor::walk::{self, Page, Request, Start, read_page};
use pgrx::pg_sys;
use std::ffi::CStr;

sql_function!(mana_sync_changes_since, pg_finfo_mana_sync_changes_since, changes_since);

/// Reads a file as a C string.
macro_rules! include_sql {
    ($path:literal) => {
        match CStr::from_bytes_with_nul(concat!(include_str!($path), "\0").as_bytes()) {
            Ok(sql) => sql,
            Err(_) => panic!("a zero byte in the file"),
        }
    };
}

/// The parameters that `read/own.sql` and `read/spaces.sql` have in common: what the call asks for, and an
/// array for each column of its [`Fetch`]es.
macro_rules! fetch_parameters {
    ($($more:expr),*) => {
        &[
            pg_sys::TEXTOID,
            pg_sys::TEXTOID,
            pg_sys::TEXTOID,
            pg_sys::TEXTOID,
            pg_sys::TIMESTAMPTZOID,
            pg_sys::INT4ARRAYOID,
            pg_sys::XID8ARRAYOID,
            pg_sys::INT8ARRAYOID,
            pg_sys::XID8ARRAYOID,
            pg_sys::INT8ARRAYOID,
            pg_sys::BOOLARRAYOID,
            pg_sys::TEXTARRAYOID,
            $($more),*
        ]
    };
}

static OWN: Statement = Statement::new(const { include_sql!("read/own.sql") }, fetch_parameters!());

static SPACES: Statement =
    Statement::new(const { include_sql!("read/spaces.sql") }, fetch_parameters!(pg_sys::BOOLARRAYOID));

static OWN_TRANSACTION: Statement = Statement::new(
    const { include_sql!("read/own_transaction.sql") },
    &[pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::INT4OID, pg_sys::XID8OID, pg_sys::TEXTARRAYOID],
);

/// Where a query's row has what the result has: behind its position and part.
const POSITION_COLUMNS: usize = 4;
/// `changes_since` returns the rest of a query's row, and the cursor.
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

/// Opens a level of settings with [`PLANNER`]; ends with [`scope::close_level`].
pub fn plan_index_scans() -> i32 {
    let level = scope::open_level();
    for (name, value) in PLANNER {
        scope::set_for_call(name, value);
    }
    level
}

/// `mana_sync.changes_since(user_id, app_id, table_name, since, exclude_client_id, page_size, space_ids)`
///
/// Errors: 22023 for an empty user or app, a `page_size` below 1 and a damaged cursor; 42501 without a
/// user or for another one than the scope's; 55000 for a cursor from the server's own future.
fn changes_since(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let result = ResultSet::new(args)?;
    let app = key(args.text(1), "app_id")?;
    let page_size = page_size(args.int(5), 5000)?;
    let start = parse_since(args.text(3))?;
    let scope = Scope::enter(args.text(0), args.texts(6))?;
    let table = args.text(2).filter(|table| !table.is_empty());
    let exclude = Exclude::Client(args.text(4).filter(|client| !client.is_empty()));
    page(&scope, Pull { app, table, exclude, page_size, start }, |page| {
        let page = page.ok_or(Error::Future)?;
        if let Some((last, others)) = page.rows.split_last() {
            let cursor = hand_out(&page.cursor.ok_or(Error::Installation("a page without a cursor"))?);
            for row in others {
                result.add(row, None);
            }
            result.add(last, Some(&cursor));
        }
        Ok(())
    })?;
    scope.leave();
    Ok(None)
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
        Some(size) if size < 1 => Err(Error::PageSize),
        Some(size) => Ok(size as usize),
    }
}

/// The text of a cursor, for the client. What it says has been seen is on disk then.
pub fn hand_out(cursor: &Cursor) -> String {
    snapshot::flush();
    cursor.to_text()
}

/// Reads a page under a scope that was entered, and hands it to `take` while its rows are there; `None` is for a cursor
/// from the server's own future. The page's cursor goes to the client by [`hand_out`].
pub fn page<T>(
    scope: &Scope,
    pull: Pull<'_>,
    take: impl FnOnce(Option<Page<Row>>) -> Result<T, Error>,
) -> Result<T, Error> {
    let level = plan_index_scans();
    let spaces: Vec<&[u8]> = scope.spaces.iter().map(Vec::as_slice).collect();
    let request = Request {
        user: &scope.user,
        app: pull.app,
        spaces: &spaces,
        table: pull.table,
        page_size: pull.page_size,
        room: None,
    };
    let spi = Spi::connect();
    let (pushed, here, replayed, reading) = take_snapshot();
    let server = server(here, replayed, &reading)?;
    let mut log = Log::new(&spi, &request, pull.exclude);
    let page = match label_is_certain(&server, &reading)? {
        true => {
            let now = log.now(&server, &reading, &pull.start);
            read_page(&server, (now, reading.lsn), &request, pull.start, &mut log)
        }
        // Nothing that this transaction can tell would be sure; the next one knows.
        false => Ok(Page { rows: Vec::new(), cursor: None, more: false }),
    };
    // There is no other error than that the cursor is from the future.
    let taken = take(page.ok())?;
    pushed.pop();
    spi.finish();
    scope::close_level(level);
    Ok(taken)
}

/// Whether a page would begin at a cursor from the server's own future.
pub fn is_from_future(start: &Start) -> Result<bool, Error> {
    let Start::Cursor(cursor) = start else { return Ok(false) };
    let (pushed, here, replayed, reading) = take_snapshot();
    let server = server(here, replayed, &reading)?;
    pushed.pop();
    Ok(walk::is_from_future(&server, cursor))
}

/// `since`: a cursor, a timestamp of RFC 3339, or the beginning.
pub fn parse_since(since: Option<&[u8]>) -> Result<Start, Error> {
    let Some(since) = since.filter(|since| !since.is_empty()) else { return Ok(Start::Beginning(None)) };
    if looks_like_cursor(since) {
        return Ok(Start::Cursor(Box::new(Cursor::from_text(since)?)));
    }
    /// PostgreSQL counts microseconds from 2000-01-01.
    const POSTGRES_EPOCH: i64 = 946_684_800;
    let time = std::str::from_utf8(since).ok().and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
    match time {
        Some(time) => {
            let micros = (time.timestamp() - POSTGRES_EPOCH) * 1_000_000 + i64::from(time.timestamp_subsec_micros());
            Ok(Start::Beginning(Some(micros)))
        }
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

/// Pushes the snapshot that the call reads with, and tells on which history it was taken, and how far the
/// log had been replayed before (0 where that is not known). A standby may change its timeline at any
/// moment, hence the second look.
fn take_snapshot() -> (Pushed, Here, u64, Reading) {
    loop {
        let before = epoch::here();
        // A transaction that keeps one snapshot took it earlier.
        let replayed = if snapshot::is_fixed() { 0 } else { snapshot::replayed() };
        let pushed = Pushed::transaction();
        let reading = Reading::active();
        if before == epoch::here() || snapshot::is_fixed() {
            return (pushed, before, replayed, reading);
        }
        pushed.pop();
    }
}

/// What the server knows. The epochs are read with a snapshot no older than the call's.
fn server(here: Here, replayed: u64, reading: &Reading) -> Result<Server, Error> {
    let fresh = Pushed::latest();
    let (epochs, _) = epoch::epochs()?;
    fresh.pop();
    Ok(Server::new(epochs, here, reading.in_recovery, reading.next_xact, replayed))
}

/// Whether the snapshot was taken on the history that the server is on now. It may not have been where
/// a standby's transaction keeps one snapshot, and the timeline changed under it: then the epoch that
/// the server is in now is not the latest that the snapshot sees.
fn label_is_certain(server: &Server, reading: &Reading) -> Result<bool, Error> {
    if !reading.in_recovery || !snapshot::is_fixed() || server.here().timeline == 1 {
        return Ok(true);
    }
    let (seen, _) = epoch::epochs()?;
    let seen = Server::new(seen, server.here(), reading.in_recovery, reading.next_xact, 0);
    Ok(!seen.writes_in().1)
}

/// The log as the call's snapshot sees it.
struct Log<'a> {
    spi: &'a Spi,
    user: pg_sys::Datum,
    app: pg_sys::Datum,
    table: Option<pg_sys::Datum>,
    exclude: Option<pg_sys::Datum>,
    exclude_echo: Option<pg_sys::Datum>,
    spaces: Vec<pg_sys::Datum>,
}

impl<'a> Log<'a> {
    fn new(spi: &'a Spi, request: &Request<'_>, exclude: Exclude<'_>) -> Log<'a> {
        let (exclude, exclude_echo) = match exclude {
            Exclude::Client(client) => (client, None),
            Exclude::Echo(client) => (None, client),
        };
        Log {
            spi,
            user: text_datum(request.user),
            app: text_datum(request.app),
            table: request.table.map(text_datum),
            exclude: exclude.map(text_datum),
            exclude_echo: exclude_echo.map(text_datum),
            spaces: request.spaces.iter().map(|id| text_datum(id)).collect(),
        }
    }

    /// The call's snapshot, with what the reader's own transaction has written so far. Only what the
    /// query sees counts: a row of the same command is not there yet, though its seq may be given out.
    /// What the cursor names counts too: those rows may be gone, by ROLLBACK TO SAVEPOINT, and what the
    /// transaction writes from now on has greater numbers.
    fn now(&self, server: &Server, reading: &Reading, start: &Start) -> mana_sync_cursor::snapshot::Snapshot {
        let own = reading.own.and_then(|own| {
            let (number, missing) = server.writes_in();
            if missing {
                return None;
            }
            let named = match start {
                Start::Cursor(cursor) => cursor.seen_of(number, own),
                Start::Beginning(_) => 0,
            };
            let row = self.spi.read(
                &OWN_TRANSACTION,
                &[
                    Some(self.user),
                    Some(self.app),
                    Some(int4(number)),
                    Some(pg_sys::Datum::from(own)),
                    Some(array_datum(self.spaces.clone(), &TEXT)),
                ],
            );
            let seq = row.iter().next().and_then(|row| row.column(1)).map_or(0, |seq| seq.value() as i64);
            Some(seq.max(named))
        });
        reading.snapshot(own.unwrap_or(0))
    }

    /// The rows of fetches from one kind of part; `more` are the parameters that only its statement has.
    fn fetch(
        &self,
        statement: &Statement,
        fetches: &[&Fetch],
        filter: &Filter,
        exclude: Option<pg_sys::Datum>,
        more: impl IntoIterator<Item = Option<pg_sys::Datum>>,
    ) -> Rows {
        let column = |of: &ElementType, value: &dyn Fn(&Fetch) -> pg_sys::Datum| {
            Some(array_datum(fetches.iter().map(|fetch| value(fetch)).collect(), of))
        };
        let mut values = vec![
            Some(self.user),
            Some(self.app),
            self.table,
            exclude,
            filter.after.map(pg_sys::Datum::from),
            column(&INT4, &|fetch| int4(fetch.range.from.epoch)),
            column(&XID8, &|fetch| pg_sys::Datum::from(fetch.range.from.xact)),
            column(&INT8, &|fetch| pg_sys::Datum::from(fetch.range.from.seq)),
            column(&XID8, &|fetch| pg_sys::Datum::from(fetch.range.to)),
            column(&INT8, &|fetch| pg_sys::Datum::from(fetch.limit as i64)),
            column(&BOOL, &|fetch| pg_sys::Datum::from(fetch.scout)),
        ];
        values.extend(more);
        self.spi.read(statement, &values)
    }

    fn fetch_own(&self, fetches: &[&Fetch], filter: &Filter) -> Rows {
        let except: Vec<pg_sys::Datum> = filter.own_except.iter().map(|&space| self.spaces[space]).collect();
        let exclude = self.exclude.or(self.exclude_echo.filter(|_| !filter.from_beginning));
        self.fetch(&OWN, fetches, filter, exclude, [(!except.is_empty()).then(|| array_datum(except, &TEXT))])
    }

    fn fetch_spaces(&self, fetches: &[&Fetch], filter: &Filter) -> Rows {
        let spaces = fetches.iter().map(|fetch| match fetch.part {
            Part::Own => (self.user, true),
            Part::Space { index, with_own } => (self.spaces[index], with_own),
        });
        let (ids, with_own): (Vec<_>, Vec<_>) = spaces.map(|(id, own)| (id, pg_sys::Datum::from(own))).unzip();
        self.fetch(
            &SPACES,
            fetches,
            filter,
            self.exclude,
            [Some(array_datum(ids, &TEXT)), Some(array_datum(with_own, &BOOL))],
        )
    }
}

impl Source for Log<'_> {
    type Row = Row;
    /// Errors of PostgreSQL end the call by themselves.
    type Error = std::convert::Infallible;

    fn fetch(
        &mut self,
        fetches: &[Fetch],
        filter: &Filter,
        take: &mut dyn FnMut(usize, Position, Row),
    ) -> Result<(), Self::Error> {
        let (own, spaces): (Vec<usize>, Vec<usize>) =
            (0..fetches.len()).partition(|&place| fetches[place].part == Part::Own);
        for (places, read) in
            [(own, Self::fetch_own as fn(&Self, &[&Fetch], &Filter) -> Rows), (spaces, Self::fetch_spaces)]
        {
            if places.is_empty() {
                continue;
            }
            let chosen: Vec<&Fetch> = places.iter().map(|&place| &fetches[place]).collect();
            for row in read(self, &chosen, filter).iter() {
                let part = row.column(4).map_or(0, |place| place.value());
                take(places[part - 1], position(&row), row);
            }
        }
        Ok(())
    }
}

/// The position of a query's row. Its columns are NOT NULL.
fn position(row: &Row) -> Position {
    let part = |place| row.column(place).map_or(0, |datum| datum.value());
    Position::new(part(1) as u32, part(2) as u64, part(3) as i64)
}

/// An epoch's number as an `int`.
fn int4(number: u32) -> pg_sys::Datum {
    pg_sys::Datum::from(i32::try_from(number).unwrap_or(i32::MAX))
}

/// The rows that the call returns.
struct ResultSet {
    store: *mut pg_sys::Tuplestorestate,
    columns: pg_sys::TupleDesc,
}

impl ResultSet {
    fn new(args: &Args) -> Result<ResultSet, Error> {
        // SAFETY: `resultinfo` is NULL or a node. The store and its description are put into the memory
        // of the query, which reads the store after the call, and ends it.
        unsafe {
            let info = (*args.fcinfo()).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            if info.is_null() || (*info).type_ != pg_sys::NodeTag::T_ReturnSetInfo {
                return Err(Error::NoSet);
            }
            let modes = (*info).allowedModes as u32;
            if modes & pg_sys::SetFunctionReturnMode::SFRM_Materialize == 0 {
                return Err(Error::NoSet);
            }
            let mut columns = std::ptr::null_mut();
            let before = pg_sys::MemoryContextSwitchTo((*(*info).econtext).ecxt_per_query_memory);
            let class = pg_sys::get_call_result_type(args.fcinfo(), std::ptr::null_mut(), &mut columns);
            if class != pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE || (*columns).natts as usize != RESULT_COLUMNS {
                pg_sys::MemoryContextSwitchTo(before);
                return Err(Error::Installation("changes_since is declared with other columns"));
            }
            let random = modes & pg_sys::SetFunctionReturnMode::SFRM_Materialize_Random != 0;
            let store = pg_sys::tuplestore_begin_heap(random, false, pg_sys::work_mem);
            (*info).returnMode = pg_sys::SetFunctionReturnMode::SFRM_Materialize;
            (*info).setResult = store;
            (*info).setDesc = columns;
            pg_sys::MemoryContextSwitchTo(before);
            Ok(ResultSet { store, columns })
        }
    }

    /// Copies a row; what is stored out of line stays there.
    fn add(&self, row: &Row, cursor: Option<&str>) {
        let mut values = [pg_sys::Datum::from(0usize); POSITION_COLUMNS + RESULT_COLUMNS];
        let mut nulls = [true; POSITION_COLUMNS + RESULT_COLUMNS];
        // SAFETY: a row of the reading queries has one column less than the arrays, and the store
        // copies what it is given.
        unsafe {
            assert_eq!((*row.columns).natts as usize, POSITION_COLUMNS + RESULT_COLUMNS - 1);
            pg_sys::heap_deform_tuple(row.tuple, row.columns, values.as_mut_ptr(), nulls.as_mut_ptr());
            if let Some(cursor) = cursor {
                values[POSITION_COLUMNS + RESULT_COLUMNS - 1] = text_datum(cursor.as_bytes());
                nulls[POSITION_COLUMNS + RESULT_COLUMNS - 1] = false;
            }
            let (values, nulls) = (&mut values[POSITION_COLUMNS..], &mut nulls[POSITION_COLUMNS..]);
            pg_sys::tuplestore_putvalues(self.store, self.columns, values.as_mut_ptr(), nulls.as_mut_ptr());
        }
    }
}
