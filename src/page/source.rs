//! The log as the snapshot of a call sees it: the queries behind a page.

use super::ClientFilter;
use crate::call::with_index_scans;
use crate::pg::datum::{Datum, types::*};
use crate::pg::heap::Descriptor;
use crate::pg::snapshot::ActiveSnapshot;
use crate::pg::spi::{SlotRow, Spi, Statement, statement};
use crate::row::{AFTER_ONE, Column};
use mana_sync_cursor::Position;
use mana_sync_cursor::epoch::{Server, WriteEpoch};
use mana_sync_cursor::id::{EpochNumber, TransactionId};
use mana_sync_cursor::page::{Request, Start};
use mana_sync_cursor::scan::{Fetch, Filter, Source, Stream};
use mana_sync_cursor::snapshot::Snapshot;
use std::cell::OnceCell;
use std::convert::Infallible;

static OWN_RANGES: Statement = statement!(
    "queries/own_ranges.sql",
    [
        TEXT,
        TEXT,
        TEXT,
        TEXT,
        TIMESTAMPTZ,
        INT4_ARRAY,
        XID8_ARRAY,
        INT8_ARRAY,
        XID8_ARRAY,
        INT8_ARRAY,
        BOOL_ARRAY,
        TEXT_ARRAY
    ]
);

static OWN_RANGE: Statement = statement!(
    "queries/own_range.sql",
    [TEXT, TEXT, TEXT, TEXT, TIMESTAMPTZ, INT4, XID8, INT8, XID8, INT8, BOOL, TEXT_ARRAY]
);

static SPACE_RANGES: Statement = statement!(
    "queries/space_ranges.sql",
    [
        TEXT,
        TEXT,
        TEXT,
        TEXT,
        TIMESTAMPTZ,
        INT4_ARRAY,
        XID8_ARRAY,
        INT8_ARRAY,
        XID8_ARRAY,
        INT8_ARRAY,
        BOOL_ARRAY,
        TEXT_ARRAY,
        BOOL_ARRAY
    ]
);

static SAME_RANGE_OF_SPACES: Statement = statement!(
    "queries/same_range_of_spaces.sql",
    [TEXT, TEXT, TEXT, TEXT, TIMESTAMPTZ, INT4, XID8, INT8, XID8, INT8, BOOL, TEXT_ARRAY, BOOL]
);

static OWN_TRANSACTION: Statement = statement!("queries/own_transaction.sql", [TEXT, TEXT, INT4, XID8, TEXT_ARRAY]);

/// The log as the snapshot of a call sees it.
pub struct LogSource<'s, 'r, R> {
    spi: Spi<'s>,
    user: Datum<'s>,
    app: Datum<'s>,
    table: Option<Datum<'s>>,
    /// The client whose rows are left out; `None` if no rows are left out.
    excluded_client: Option<Datum<'s>>,
    /// The filter says which rows of `excluded_client` are left out.
    filter: ClientFilter,
    /// The ids of the spaces of the request.
    ids: &'r [&'r [u8]],
    /// The ids of the spaces as SQL values. They are made when they are first needed: a pull that finds no ranges to read needs them only
    /// if its own transaction has an id.
    spaces: OnceCell<Vec<Datum<'s>>>,
    /// The descriptor of the rows that `row` makes. It is cached between rows.
    descriptor: Option<Descriptor<'s>>,
    /// Makes the receiver's form of a row.
    row: MakeRow<'s, R>,
}

/// A function that makes the receiver's form of a row. The descriptor is cached between rows.
type MakeRow<'s, R> = fn(&SlotRow<'_, 's>, &mut Option<Descriptor<'s>>) -> R;

impl<'s, 'r, R> LogSource<'s, 'r, R> {
    /// Makes the source for a request.
    pub fn new(
        spi: Spi<'s>,
        request: &Request<'r>,
        (filter, client): (ClientFilter, Option<&[u8]>),
        row: MakeRow<'s, R>,
    ) -> LogSource<'s, 'r, R> {
        let memory = spi.memory();
        LogSource {
            spi,
            user: memory.text(request.user),
            app: memory.text(request.app),
            table: request.table.map(|table| memory.text(table)),
            excluded_client: client.map(|client| memory.text(client)),
            filter,
            ids: request.spaces,
            spaces: OnceCell::new(),
            descriptor: None,
            row,
        }
    }

    fn spaces(&self) -> &[Datum<'s>] {
        let memory = self.spi.memory();
        self.spaces.get_or_init(|| self.ids.iter().map(|id| memory.text(id)).collect())
    }

    /// Returns the snapshot of the call in the form of a cursor. It includes how far the reader's own transaction is covered.
    ///
    /// The reader's own transaction is covered up to the greatest `seq` that the query sees or that the cursor names. The last value of the
    /// sequence would be too great: a row of the same command may have a `seq` but is not visible yet. A row that the cursor names may be
    /// gone, by ROLLBACK TO SAVEPOINT. That does no harm, because later rows of the transaction have greater numbers.
    pub fn snapshot(&self, server: &Server, active: &ActiveSnapshot, start: &Start) -> Snapshot {
        let own = active.own.map(|own| (own, self.own_seq(server, own, start)));
        Snapshot::new(active.xmax, active.open.clone(), own.into_iter().collect())
    }

    /// Returns the `seq` up to which the reader's own transaction is covered; 0 if the snapshot sees no row of the transaction.
    fn own_seq(&self, server: &Server, own: TransactionId, start: &Start) -> i64 {
        let WriteEpoch::Current(number) = server.write_epoch() else { return 0 };
        let named = match start {
            Start::Cursor(cursor) => cursor.covered_seq(number, own),
            Start::Beginning(_) => 0,
        };
        let values = [
            Some(self.user),
            Some(self.app),
            Some(int4(number)),
            Some(Datum::from(own.0)),
            Some(self.spi.memory().array(TEXT, self.spaces().iter().copied())),
        ];
        let Ok(row) = with_index_scans(|| Ok::<_, Infallible>(self.spi.read(&OWN_TRANSACTION, &values).first()));
        row.and_then(|row| row.int8(1)).map_or(0, |seq| seq.max(named))
    }

    /// Returns the statement that reads ranges of the reader's own rows, and its parameters.
    fn own_ranges(&self, fetches: &[&Fetch], filter: &Filter) -> (&'static Statement, Vec<Option<Datum<'s>>>) {
        let excludes = self.filter == ClientFilter::Everywhere || !filter.from_beginning;
        let is_one = fetches.len() == 1;
        let mut values = self.parameters(fetches, is_one, filter, self.excluded_client.filter(|_| excludes));
        let excluded: Vec<Datum<'s>> = filter.excluded_from_own.iter().map(|&space| self.spaces()[space]).collect();
        values.push((!excluded.is_empty()).then(|| self.spi.memory().array(TEXT, excluded)));
        (if is_one { &OWN_RANGE } else { &OWN_RANGES }, values)
    }

    /// Returns the statement that reads ranges of the rows of spaces, and its parameters.
    fn space_ranges(&self, fetches: &[&Fetch], filter: &Filter) -> (&'static Statement, Vec<Option<Datum<'s>>>) {
        let range = |fetch: &Fetch| (fetch.range, fetch.limit, fetch.probe, self.space(fetch).1);
        let is_same = fetches.iter().all(|fetch| range(fetch) == range(fetches[0]));
        let excluded = self.excluded_client.filter(|_| self.filter == ClientFilter::Everywhere);
        let mut values = self.parameters(fetches, is_same, filter, excluded);
        let spaces = fetches.iter().map(|fetch| self.space(fetch).0);
        values.push(Some(self.spi.memory().array(TEXT, spaces)));
        values.push(self.column(fetches, is_same, BOOL, |fetch| Datum::from(self.space(fetch).1)));
        (if is_same { &SAME_RANGE_OF_SPACES } else { &SPACE_RANGES }, values)
    }

    /// Returns the space of a fetch, and whether the reader's own rows in that space are wanted.
    fn space(&self, fetch: &Fetch) -> (Datum<'s>, bool) {
        match fetch.stream {
            Stream::Own => (self.user, true),
            Stream::Space { index, with_own } => (self.spaces()[index], with_own),
        }
    }

    /// Returns the parameters $1 to $11, which all statements that read ranges have.
    fn parameters(
        &self,
        fetches: &[&Fetch],
        is_same: bool,
        filter: &Filter,
        excluded_client: Option<Datum<'s>>,
    ) -> Vec<Option<Datum<'s>>> {
        vec![
            Some(self.user),
            Some(self.app),
            self.table,
            excluded_client,
            filter.created_after.map(Datum::from),
            self.column(fetches, is_same, INT4, |fetch| int4(fetch.range.from.epoch)),
            self.column(fetches, is_same, XID8, |fetch| Datum::from(fetch.range.from.xact.0)),
            self.column(fetches, is_same, INT8, |fetch| Datum::from(fetch.range.from.seq)),
            self.column(fetches, is_same, XID8, |fetch| Datum::from(fetch.range.to.0)),
            self.column(fetches, is_same, INT8, |fetch| Datum::from(fetch.limit as i64)),
            self.column(fetches, is_same, BOOL, |fetch| Datum::from(fetch.probe)),
        ]
    }

    /// Returns a property of the fetches as a parameter: an array with the value of each fetch, or one value if `is_same` is true.
    fn column(
        &self,
        fetches: &[&Fetch],
        is_same: bool,
        of: pgrx::pg_sys::Oid,
        value: impl Fn(&Fetch) -> Datum<'s>,
    ) -> Option<Datum<'s>> {
        Some(match is_same {
            true => value(fetches[0]),
            false => self.spi.memory().array(of, fetches.iter().map(|fetch| value(fetch))),
        })
    }
}

impl<R> Source for LogSource<'_, '_, R> {
    type Row = R;
    /// The type has no values, because an error of PostgreSQL ends the call directly.
    type Error = Infallible;

    fn fetch(
        &mut self,
        fetches: &[Fetch],
        filter: &Filter,
        take: &mut dyn FnMut(usize, Position, R),
    ) -> Result<(), Infallible> {
        let (own, spaces): (Vec<usize>, Vec<usize>) =
            (0..fetches.len()).partition(|&place| fetches[place].stream == Stream::Own);
        with_index_scans(|| {
            for (places, is_own) in [(own, true), (spaces, false)] {
                if places.is_empty() {
                    continue;
                }
                let chosen: Vec<&Fetch> = places.iter().map(|&place| &fetches[place]).collect();
                let (statement, values) = match is_own {
                    true => self.own_ranges(&chosen, filter),
                    false => self.space_ranges(&chosen, filter),
                };
                let (descriptor, make_row) = (&mut self.descriptor, self.row);
                self.spi.stream(statement, &values, &mut |row| {
                    debug_assert!(AFTER_ONE.fits(row.descriptor()), "src/row.rs does not fit sql/tables.sql");
                    let (number, position) = number_and_position(row);
                    take(places[number - 1], position, make_row(row, descriptor));
                    true
                });
            }
            Ok(())
        })
    }
}

/// Returns the number of the range that the row was read for, from 1, and the position of the row. These columns are NOT NULL.
fn number_and_position(row: &SlotRow<'_, '_>) -> (usize, Position) {
    let value = |column| row.datum(column).map_or(0, Datum::uint8);
    let part = |column| value(AFTER_ONE.place(column));
    let (epoch, xact, seq) = (part(Column::Epoch), part(Column::Xact), part(Column::Seq));
    (value(1) as usize, Position::new(epoch as u32, xact, seq as i64))
}

/// Converts the number of an epoch to an `int`.
fn int4(number: EpochNumber) -> Datum<'static> {
    Datum::from(i32::try_from(number.0).unwrap_or(i32::MAX))
}
