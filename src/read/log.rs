//! The log as the snapshot of a call sees it: the queries behind a page.

use super::Exclude;
use crate::function::{BOOL, ElementType, INT4, INT8, TEXT, XID8, array_datum, text_datum};
use crate::snapshot::Reading;
use crate::statement::{Passing, Row, Spi, Statement, include_sql};
use mana_sync_cursor::Position;
use mana_sync_cursor::history::Server;
use mana_sync_cursor::merge::{Fetch, Filter, Part, Source};
use mana_sync_cursor::snapshot::Snapshot;
use mana_sync_cursor::walk::{Request, Start};
use pgrx::pg_sys;
use std::cell::OnceCell;

/// How many columns say where a row is; those behind them are the row.
const POSITION_COLUMNS: usize = 4;

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

static OWN: Statement = Statement::new(const { include_sql!("own.sql") }, fetch_parameters!());

static SPACES: Statement =
    Statement::new(const { include_sql!("spaces.sql") }, fetch_parameters!(pg_sys::BOOLARRAYOID));

static OWN_TRANSACTION: Statement = Statement::new(
    const { include_sql!("own_transaction.sql") },
    &[pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::INT4OID, pg_sys::XID8OID, pg_sys::TEXTARRAYOID],
);

/// The log as the call's snapshot sees it.
pub struct Log<'a> {
    spi: &'a Spi,
    user: pg_sys::Datum,
    app: pg_sys::Datum,
    table: Option<pg_sys::Datum>,
    exclude: Option<pg_sys::Datum>,
    exclude_echo: Option<pg_sys::Datum>,
    ids: &'a [&'a [u8]],
    /// The same as texts.
    spaces: OnceCell<Vec<pg_sys::Datum>>,
    /// Description of a row.
    columns: Option<pg_sys::TupleDesc>,
}

impl<'a> Log<'a> {
    pub fn new(spi: &'a Spi, request: &Request<'a>, exclude: Exclude<'_>) -> Log<'a> {
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
            ids: request.spaces,
            spaces: OnceCell::new(),
            columns: None,
        }
    }

    /// The spaces, made when they are first needed: most pulls find no transaction that they would have to look for.
    fn spaces(&self) -> &[pg_sys::Datum] {
        self.spaces.get_or_init(|| self.ids.iter().map(|id| text_datum(id)).collect())
    }

    /// The call's snapshot, with what the reader's own transaction has written so far. Only what the
    /// query sees counts: a row of the same command is not there yet, though its seq may be given out.
    /// What the cursor names counts too: those rows may be gone, by ROLLBACK TO SAVEPOINT, and what the
    /// transaction writes from now on has greater numbers.
    pub fn now(&self, server: &Server, reading: &Reading, start: &Start) -> Snapshot {
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
                    Some(array_datum(self.spaces().to_vec(), &TEXT)),
                ],
            );
            let seq = row.iter().next().and_then(|row| row.column(1)).map_or(0, |seq| seq.value() as i64);
            Some(seq.max(named))
        });
        reading.snapshot(own.unwrap_or(0))
    }

    /// The parameters of a statement that reads one kind of part; `more` are those that only it has.
    fn parameters(
        &self,
        fetches: &[&Fetch],
        filter: &Filter,
        exclude: Option<pg_sys::Datum>,
        more: impl IntoIterator<Item = Option<pg_sys::Datum>>,
    ) -> Vec<Option<pg_sys::Datum>> {
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
        values
    }

    fn own(&self, fetches: &[&Fetch], filter: &Filter) -> Vec<Option<pg_sys::Datum>> {
        let except: Vec<pg_sys::Datum> = filter.own_except.iter().map(|&space| self.spaces()[space]).collect();
        let exclude = self.exclude.or(self.exclude_echo.filter(|_| !filter.from_beginning));
        self.parameters(fetches, filter, exclude, [(!except.is_empty()).then(|| array_datum(except, &TEXT))])
    }

    fn of_spaces(&self, fetches: &[&Fetch], filter: &Filter) -> Vec<Option<pg_sys::Datum>> {
        let spaces = fetches.iter().map(|fetch| match fetch.part {
            Part::Own => (self.user, true),
            Part::Space { index, with_own } => (self.spaces()[index], with_own),
        });
        let (ids, with_own): (Vec<_>, Vec<_>) = spaces.map(|(id, own)| (id, pg_sys::Datum::from(own))).unzip();
        let more = [Some(array_datum(ids, &TEXT)), Some(array_datum(with_own, &BOOL))];
        self.parameters(fetches, filter, self.exclude, more)
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
        for (places, statement, is_own) in [(own, &OWN, true), (spaces, &SPACES, false)] {
            if places.is_empty() {
                continue;
            }
            let chosen: Vec<&Fetch> = places.iter().map(|&place| &fetches[place]).collect();
            let values = if is_own { self.own(&chosen, filter) } else { self.of_spaces(&chosen, filter) };
            let columns = &mut self.columns;
            self.spi.pass(statement, &values, &mut |row| {
                let (position, part) = place(row);
                take(places[part - 1], position, row.keep(POSITION_COLUMNS, columns));
            });
        }
        Ok(())
    }
}

/// The position of a query's row, and which fetch it is of, from 1. These columns are NOT NULL.
fn place(row: &Passing<'_>) -> (Position, usize) {
    let value = |column| row.column(column).map_or(0, |datum| datum.value());
    (Position::new(value(1) as u32, value(2) as u64, value(3) as i64), value(4))
}

/// An epoch's number as an `int`.
fn int4(number: u32) -> pg_sys::Datum {
    pg_sys::Datum::from(i32::try_from(number).unwrap_or(i32::MAX))
}
