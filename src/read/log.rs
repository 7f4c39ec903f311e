//! The log as the snapshot of a call sees it: the queries behind a page.

use super::{Exclude, plan_index_scans};
use crate::bounds::MOST_SENT;
use crate::function::{BOOL, ElementType, INT4, INT8, TEXT, XID8, array_datum, text_datum};
use crate::json_text::{Size, has_no_number, with_value};
use crate::settings::close_level;
use crate::snapshot::Reading;
use crate::statement::{Passing, Row, Spi, Statement, include_sql, sql};
use mana_sync_cursor::Position;
use mana_sync_cursor::epoch::{Server, WriteEpoch};
use mana_sync_cursor::id::EpochNumber;
use mana_sync_cursor::page::{Request, Start};
use mana_sync_cursor::scan::{Fetch, Filter, Source, Stream};
use mana_sync_cursor::snapshot::Snapshot;
use pgrx::pg_sys;
use std::cell::OnceCell;

/// How many columns say where a row is; those behind them are the row.
const POSITION_COLUMNS: usize = 4;

/// A statement that reads a range of each of some parts: where it has the parts from, which is made of the parameters from
/// the sixth on, the file that says what it reads of each, and the types of those parameters.
macro_rules! reading {
    ($parts:literal, $file:literal, $($type:ident),*) => {
        Statement::new(
            const { sql!(include_str!("columns.sql"), $parts, "\n", include_str!($file)) },
            &[
                pg_sys::TEXTOID,
                pg_sys::TEXTOID,
                pg_sys::TEXTOID,
                pg_sys::TEXTOID,
                pg_sys::TIMESTAMPTZOID,
                $(pg_sys::$type),*
            ],
        )
    };
}

/// An array for each column of the [`Fetch`]es.
#[rustfmt::skip]
static OWN: Statement = reading!(
    "ROWS FROM (pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9),
         pg_catalog.unnest($10), pg_catalog.unnest($11)) WITH ORDINALITY",
    "own.sql",
    INT4ARRAYOID, XID8ARRAYOID, INT8ARRAYOID, XID8ARRAYOID, INT8ARRAYOID, BOOLARRAYOID, TEXTARRAYOID
);

/// One range, as most pulls have it: to start the function scans takes longer than to read it.
#[rustfmt::skip]
static OWN_ONE: Statement = reading!(
    "(SELECT $6, $7, $8, $9, $10, $11, 1::bigint)",
    "own.sql",
    INT4OID, XID8OID, INT8OID, XID8OID, INT8OID, BOOLOID, TEXTARRAYOID
);

/// An array for each column of the [`Fetch`]es.
#[rustfmt::skip]
static SPACES: Statement = reading!(
    "ROWS FROM (pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9),
         pg_catalog.unnest($10), pg_catalog.unnest($11), pg_catalog.unnest($12), pg_catalog.unnest($13)) WITH ORDINALITY",
    "spaces.sql",
    INT4ARRAYOID, XID8ARRAYOID, INT8ARRAYOID, XID8ARRAYOID, INT8ARRAYOID, BOOLARRAYOID, TEXTARRAYOID, BOOLARRAYOID
);

/// The same range of each space.
#[rustfmt::skip]
static SPACES_ALIKE: Statement = reading!(
    "(SELECT $6, $7, $8, $9, $10, $11, space.id, $13, space.place
          FROM pg_catalog.unnest($12) WITH ORDINALITY AS space (id, place))",
    "spaces.sql",
    INT4OID, XID8OID, INT8OID, XID8OID, INT8OID, BOOLOID, TEXTARRAYOID, BOOLOID
);

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
    /// Whether rows are measured.
    measured: bool,
}

/// A row of the log that was read.
#[derive(Clone, Copy)]
pub struct Found {
    /// The row itself.
    pub row: Row,
    /// About how many bytes of text it has, where rows are measured; without what is toasted.
    pub text: usize,
    /// Whether any of its JSON is stored out of line or compressed, so that its text is not known yet.
    pub is_toasted: bool,
}

impl Found {
    fn new(passing: &Passing<'_>, row: Row, measured: bool) -> Found {
        let mut found = Found { row, text: 0, is_toasted: false };
        if measured {
            // SAFETY: a tuple has its length.
            found.text = unsafe { (*row.tuple).t_len as usize };
            for place in column::JSON {
                let Some(datum) = passing.column(POSITION_COLUMNS + place as usize) else { continue };
                // SAFETY: the column is a jsonb.
                unsafe {
                    let varlena: *const pg_sys::varlena = datum.cast_mut_ptr();
                    let in_place = pgrx::varatt_is_4b_u(varlena)
                        || (pgrx::varatt_is_1b(varlena) && !pgrx::varatt_is_1b_e(varlena));
                    match in_place {
                        // Of its strings the bytes are counted, as of all other columns.
                        true if has_no_number(datum) => {}
                        true => found.text += with_value(datum, Size::of_numbers).0.text,
                        false => found.is_toasted = true,
                    }
                }
            }
        }
        found
    }

    /// The columns of a row whose JSON is toasted, with it; and how many bytes of text there are.
    pub fn fetch(&self) -> (Vec<Option<pg_sys::Datum>>, usize) {
        // SAFETY: a row has its description.
        let count = unsafe { (*self.row.columns).natts };
        let mut columns: Vec<Option<pg_sys::Datum>> = (1..=count).map(|place| self.row.column(place)).collect();
        let mut text = self.text;
        for place in column::JSON {
            let column = &mut columns[place as usize - 1];
            let Some(datum) = *column else { continue };
            // SAFETY: the column is a jsonb.
            if let (size, Some(fetched)) = unsafe { with_value(datum, Size::of) } {
                *column = Some(fetched);
                text = text.saturating_add(size.text);
            }
        }
        if text > MOST_SENT {
            for place in column::JSON {
                columns[place as usize - 1] = None;
            }
            text = self.text;
        }
        (columns, text)
    }
}

/// Places of a row's columns (`columns.sql`), from 1, without those of the position.
pub mod column {
    pub const ID: i32 = 1;
    pub const TABLE: i32 = 3;
    pub const RECORD: i32 = 4;
    pub const OP: i32 = 6;
    pub const DATA: i32 = 7;
    pub const FIELD_TIMESTAMPS: i32 = 8;
    pub const SCHEMA_VERSION: i32 = 11;
    pub const SPACE: i32 = 12;
    pub const ACTOR: i32 = 13;
    /// Those that are jsonb.
    pub const JSON: [i32; 3] = [DATA, FIELD_TIMESTAMPS, ACTOR];
}

impl<'a> Log<'a> {
    pub fn new(spi: &'a Spi, request: &Request<'a>, exclude: Exclude<'_>, measured: bool) -> Log<'a> {
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
            measured,
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
            let WriteEpoch::Current(number) = server.write_epoch() else { return None };
            let named = match start {
                Start::Cursor(cursor) => cursor.covered_seq(number, own),
                Start::Beginning(_) => 0,
            };
            let level = plan_index_scans();
            let row = self.spi.read(
                &OWN_TRANSACTION,
                &[
                    Some(self.user),
                    Some(self.app),
                    Some(int4(number)),
                    Some(pg_sys::Datum::from(own.0)),
                    Some(array_datum(self.spaces().to_vec(), &TEXT)),
                ],
            );
            close_level(level);
            let seq = row.iter().next().and_then(|row| row.column(1)).map_or(0, |seq| seq.value() as i64);
            Some(seq.max(named))
        });
        reading.snapshot(own.unwrap_or(0))
    }

    /// What reads these ranges of own rows.
    fn own(&self, fetches: &[&Fetch], filter: &Filter) -> (&'static Statement, Vec<Option<pg_sys::Datum>>) {
        let exclude = self.exclude.or(self.exclude_echo.filter(|_| !filter.from_beginning));
        let is_one = fetches.len() == 1;
        let mut values = self.parameters(fetches, is_one, filter, exclude);
        let except: Vec<pg_sys::Datum> = filter.excluded_from_own.iter().map(|&space| self.spaces()[space]).collect();
        values.push((!except.is_empty()).then(|| array_datum(except, &TEXT)));
        (if is_one { &OWN_ONE } else { &OWN }, values)
    }

    /// What reads these ranges of spaces.
    fn of_spaces(&self, fetches: &[&Fetch], filter: &Filter) -> (&'static Statement, Vec<Option<pg_sys::Datum>>) {
        let way = |fetch: &Fetch| (fetch.range, fetch.limit, fetch.probe, self.space(fetch).1);
        let are_alike = fetches.iter().all(|fetch| way(fetch) == way(fetches[0]));
        let mut values = self.parameters(fetches, are_alike, filter, self.exclude);
        values.push(Some(array_datum(fetches.iter().map(|fetch| self.space(fetch).0).collect(), &TEXT)));
        values.push(column(fetches, are_alike, &BOOL, |fetch| pg_sys::Datum::from(self.space(fetch).1)));
        (if are_alike { &SPACES_ALIKE } else { &SPACES }, values)
    }

    /// The space of a fetch, and whether own rows in it are wanted.
    fn space(&self, fetch: &Fetch) -> (pg_sys::Datum, bool) {
        match fetch.stream {
            Stream::Own => (self.user, true),
            Stream::Space { index, with_own } => (self.spaces()[index], with_own),
        }
    }

    /// The parameters that all statements have.
    fn parameters(
        &self,
        fetches: &[&Fetch],
        are_alike: bool,
        filter: &Filter,
        exclude: Option<pg_sys::Datum>,
    ) -> Vec<Option<pg_sys::Datum>> {
        vec![
            Some(self.user),
            Some(self.app),
            self.table,
            exclude,
            filter.created_after.map(pg_sys::Datum::from),
            column(fetches, are_alike, &INT4, |fetch| int4(fetch.range.from.epoch)),
            column(fetches, are_alike, &XID8, |fetch| pg_sys::Datum::from(fetch.range.from.xact.0)),
            column(fetches, are_alike, &INT8, |fetch| pg_sys::Datum::from(fetch.range.from.seq)),
            column(fetches, are_alike, &XID8, |fetch| pg_sys::Datum::from(fetch.range.to.0)),
            column(fetches, are_alike, &INT8, |fetch| pg_sys::Datum::from(fetch.limit as i64)),
            column(fetches, are_alike, &BOOL, |fetch| pg_sys::Datum::from(fetch.probe)),
        ]
    }
}

/// A column of fetches as a parameter: an array, or the value of all of them.
fn column(
    fetches: &[&Fetch],
    are_alike: bool,
    of: &ElementType,
    value: impl Fn(&Fetch) -> pg_sys::Datum,
) -> Option<pg_sys::Datum> {
    Some(match are_alike {
        true => value(fetches[0]),
        false => array_datum(fetches.iter().map(|fetch| value(fetch)).collect(), of),
    })
}

impl Source for Log<'_> {
    type Row = Found;
    /// Errors of PostgreSQL end the call by themselves.
    type Error = std::convert::Infallible;

    fn fetch(
        &mut self,
        fetches: &[Fetch],
        filter: &Filter,
        take: &mut dyn FnMut(usize, Position, Found),
    ) -> Result<(), Self::Error> {
        let (own, spaces): (Vec<usize>, Vec<usize>) =
            (0..fetches.len()).partition(|&place| fetches[place].stream == Stream::Own);
        let level = plan_index_scans();
        for (places, is_own) in [(own, true), (spaces, false)] {
            if places.is_empty() {
                continue;
            }
            let chosen: Vec<&Fetch> = places.iter().map(|&place| &fetches[place]).collect();
            let (statement, values) = if is_own { self.own(&chosen, filter) } else { self.of_spaces(&chosen, filter) };
            let (columns, measured) = (&mut self.columns, self.measured);
            self.spi.pass(statement, &values, &mut |row| {
                let (position, part) = place(row);
                let found = Found::new(row, row.keep(POSITION_COLUMNS, columns), measured);
                take(places[part - 1], position, found);
            });
        }
        close_level(level);
        Ok(())
    }
}

/// The position of a query's row, and which fetch it is of, from 1. These columns are NOT NULL.
fn place(row: &Passing<'_>) -> (Position, usize) {
    let value = |column| row.column(column).map_or(0, |datum| datum.value());
    (Position::new(value(1) as u32, value(2) as u64, value(3) as i64), value(4))
}

/// An epoch's number as an `int`.
fn int4(number: EpochNumber) -> pg_sys::Datum {
    pg_sys::Datum::from(i32::try_from(number.0).unwrap_or(i32::MAX))
}
