//! `mana_sync.export_rows`: every change that a user wrote, in the order of the log.
//!
//! `sync_changes_own_idx` has the rows of a user sorted by app, and within an app in the order of the log. So the export merges the rows of
//! the apps, with a portion of each app in memory. Each portion is read in the scope of the user, with the snapshot of the calling query.

use crate::call::Call;
use crate::error::Error;
use crate::pg::datum::{Datum, types::*};
use crate::pg::fmgr::{Answer, Args, RowPerCall, row_per_call, sql_functions};
use crate::pg::heap::RowQueue;
use crate::pg::memory::Memory;
use crate::pg::spi::{Statement, statement};
use crate::row::{self, LogRow};
use mana_sync_cursor::Position;

sql_functions!(export_rows);

static APPS: Statement = statement!("export_changes/apps.sql", [TEXT]);

static ROWS: Statement = statement!("export_changes/rows.sql", [TEXT, TEXT, INT4, XID8, INT8, INT8]);

/// The number of columns that `export_rows` returns.
const COLUMNS: usize = row::CHANGE.len();

/// The number of rows that an export holds in memory, over all apps. With very many apps it is more: [`LEAST_PORTION`] for each.
const ROWS_IN_MEMORY: usize = 512;

/// The least number of rows of an app that are read at once.
const LEAST_PORTION: usize = 16;

/// `mana_sync.export_rows(user_id text) RETURNS SETOF record`
///
/// Returns the changes that a user wrote, one at a time. Errors: 22023 for an empty user; 42501 without a user, or for another one than the
/// scope's.
fn export_rows<'a>(args: &Args<'a>) -> Answer<'a> {
    row_per_call::<Export, COLUMNS>(args)
}

/// The state of an export.
struct Export {
    user: Vec<u8>,
    apps: Vec<App>,
    /// The number of rows of an app that are read at once.
    portion: usize,
}

/// The rows of an app in an export.
struct App {
    id: Vec<u8>,
    /// The rows that were read and not returned yet. Values that are stored out of line are not fetched.
    rows: RowQueue<'static, Position>,
    /// The position of the last row that was read.
    last: Position,
    /// Whether the log may have more rows of the app.
    has_more: bool,
}

impl RowPerCall<COLUMNS> for Export {
    fn begin(args: &Args<'_>, memory: Memory<'static>) -> Result<Export, Error> {
        let app =
            |id: &[u8]| App { id: id.to_vec(), rows: RowQueue::new(memory), last: Position::START, has_more: true };
        Call::INDEX_SCANS.in_scope(args.memory(), args.text(0), None, |spi, scope| {
            let rows = spi.read(&APPS, &[Some(spi.memory().text(scope.user))]);
            let apps: Vec<App> = rows.iter().filter_map(|row| row.text(1)).map(app).collect();
            let portion = (ROWS_IN_MEMORY / apps.len().max(1)).max(LEAST_PORTION);
            Ok(Export { user: scope.user.to_vec(), apps, portion })
        })
    }

    fn next<'m>(
        &mut self,
        memory: Memory<'m>,
        row: impl FnOnce([Option<Datum<'_>>; COLUMNS]) -> Datum<'m>,
    ) -> Answer<'m> {
        for app in &mut self.apps {
            if app.rows.len() == 0 && app.has_more {
                app.read(&self.user, self.portion, memory)?;
            }
        }
        let apps = self.apps.iter_mut().filter(|app| app.rows.len() > 0);
        let Some(app) = apps.min_by_key(|app| app.rows.first().copied()) else { return Ok(None) };
        Ok(app.rows.pop().map(|(_, first)| {
            let first = LogRow::of_table(first);
            row(row::CHANGE.map(|column| first.datum(column)))
        }))
    }
}

impl App {
    /// Reads the next portion. All rows of the portion before have been returned.
    fn read(&mut self, user: &[u8], portion: usize, memory: Memory<'_>) -> Result<(), Error> {
        self.rows.clear();
        Call::INDEX_SCANS.in_scope(memory, Some(user), None, |spi, _| {
            let values = [
                Some(spi.memory().text(user)),
                Some(spi.memory().text(&self.id)),
                Some(Datum::from(self.last.epoch.0 as i32)),
                Some(Datum::from(self.last.xact.0)),
                Some(Datum::from(self.last.seq)),
                Some(Datum::from(portion as i64)),
            ];
            for row in spi.read(&ROWS, &values).iter() {
                self.last = LogRow::of_table(row).position()?;
                self.rows.push(self.last, &row);
            }
            self.has_more = self.rows.len() == portion;
            Ok(())
        })
    }
}
