//! `mana_sync.changes_since`: the rows of a page, and the cursor.

use crate::bounds::key;
use crate::call::Call;
use crate::error::Error;
use crate::page::{self, ClientFilter, PageRow, TakeRows};
use crate::pg::datum::Datum;
use crate::pg::fmgr::{Answer, Args, sql_functions};
use crate::pg::heap::{Descriptor, Row};
use crate::pg::spi::SlotRow;
use crate::pg::tuplestore::ResultSet;
use crate::row;
use crate::scope::Scope;
use crate::settings;
use mana_sync_cursor::Position;
use mana_sync_cursor::page::{Reading, Request, Rows, Start, Taken};

sql_functions!(changes_since);

/// The number of columns that `changes_since` returns: those of a change, and the cursor.
const RESULT_COLUMNS: usize = row::RESULT_COLUMNS.len() + 1;

/// `mana_sync.changes_since(user_id, app_id, table_name, since, exclude_client_id, page_size, space_ids)`
///
/// Returns a page of changes. Errors: 22023 for an empty user or app, a `page_size` below 1 and a damaged cursor; 42501
/// without a user or for another one than the scope's; 55000 for a cursor that is from the server's own future, or that
/// does not cover a delete that was purged.
fn changes_since<'a>(args: &Args<'a>) -> Answer<'a> {
    let result = ResultSet::new(args, RESULT_COLUMNS)?;
    let page_args = PageArgs::new(args, 5000)?;
    Call::PLAIN.in_scope(args.memory(), args.text(0), args.texts(6), |spi, scope| {
        let request = page_args.request(scope);
        let PageArgs { client, start, .. } = page_args;
        let mut rows = ResultRows { result: &result, most: settings::max_page_bytes(), bytes: 0, last: None };
        page::read(spi, &request, (ClientFilter::Everywhere, client), start, &mut rows, |rows, page| {
            if let Some(last) = rows.last.take() {
                let cursor = page.next.issued().ok_or(Error::Installation("a page without a cursor"))?;
                let text = args.memory().text(page::issue(cursor).as_bytes());
                result.add_values(&[last.columns(), vec![Some(text)]].concat());
            }
            Ok(())
        })??;
        Ok(None)
    })
}

/// The arguments of `changes_since` and `records_since`, without the scope.
pub struct PageArgs<'a> {
    /// The app.
    pub app: &'a [u8],
    /// The only table that is wanted; `None` for all tables.
    pub table: Option<&'a [u8]>,
    /// The client whose rows are left out; `None` if no rows are left out.
    pub client: Option<&'a [u8]>,
    /// Where the page begins.
    pub start: Start,
    /// The maximum number of rows of the page.
    pub page_size: usize,
}

impl<'a> PageArgs<'a> {
    /// Reads the arguments of a call. `page_size` is the page size if the argument is NULL.
    pub fn new(args: &Args<'a>, page_size: usize) -> Result<PageArgs<'a>, Error> {
        Ok(PageArgs {
            app: key(args.text(1), "app_id")?,
            page_size: page::page_size(args.int4(5), page_size)?,
            start: page::parse_since(args.text(3))?,
            table: args.text(2).filter(|table| !table.is_empty()),
            client: args.text(4).filter(|client| !client.is_empty()),
        })
    }

    /// Makes the request for a page of changes. The cursor goes into the last row, so a page without rows needs no
    /// cursor.
    pub fn request<'r>(&self, scope: &'r Scope<'_>) -> Request<'r>
    where
        'a: 'r,
    {
        Request { table: self.table, cursor_without_rows: false, ..page::request(scope, self.app, self.page_size) }
    }
}

/// Adds the rows of a page to the result. It keeps back the last row, which gets the cursor of the page.
struct ResultRows<'a, 's> {
    result: &'a ResultSet,
    /// The number of bytes of text that the page may have.
    most: usize,
    /// The number of bytes of text that the page has so far.
    bytes: usize,
    last: Option<ResultRow<'s>>,
}

/// A row of the result, without the column `cursor`.
enum ResultRow<'s> {
    /// The row as it was read.
    Stored(Row<'s>),
    /// The columns of the row, with detoasted JSON.
    Detoasted(Vec<Option<Datum<'s>>>),
}

impl<'s> ResultRow<'s> {
    fn columns(&self) -> Vec<Option<Datum<'s>>> {
        match self {
            ResultRow::Stored(row) => (1..RESULT_COLUMNS).map(|place| row.datum(place)).collect(),
            ResultRow::Detoasted(columns) => columns.clone(),
        }
    }
}

impl<'s> TakeRows<'s> for ResultRows<'_, 's> {
    type Row = PageRow<'s>;

    fn row(slot: &SlotRow<'_, 's>, descriptor: &mut Option<Descriptor<'s>>) -> PageRow<'s> {
        PageRow::of_result(slot, descriptor)
    }
}

impl<'s> Rows<PageRow<'s>> for ResultRows<'_, 's> {
    fn take(&mut self, _: Position, row: PageRow<'s>, _: &Reading<'_>) -> Taken {
        let (row, bytes) = match row.size() {
            Some(size) => (ResultRow::Stored(row.row()), size),
            None => {
                let (columns, size) = row.detoast();
                (ResultRow::Detoasted(columns), size)
            }
        };
        if self.last.is_some() && self.bytes.saturating_add(bytes) > self.most {
            return Taken::Full;
        }
        self.bytes += bytes;
        match self.last.replace(row) {
            None => {}
            Some(ResultRow::Stored(row)) => self.result.add(&row),
            Some(ResultRow::Detoasted(columns)) => self.result.add_values(&[columns.as_slice(), &[None]].concat()),
        }
        Taken::Shown
    }
}
