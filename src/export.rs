//! `mana_sync.export_rows`, which returns a row a call: everything that a user wrote, in the order of the log.
//!
//! The index has a user's rows app by app, each in the order of the log; they are merged, with a portion of each app in
//! memory. All portions are read with the snapshot of the query that the rows are for, each under the scope of the user.

use crate::error::Error;
use crate::function::{Args, sql_function, text_datum};
use crate::memory::Context;
use crate::read::plan_index_scans;
use crate::scope::Scope;
use crate::settings::close_level;
use crate::statement::{Row, Spi, Statement};
use mana_sync_cursor::Position;
use pgrx::pg_sys;
use std::collections::VecDeque;

sql_function!(mana_sync_export_rows, pg_finfo_mana_sync_export_rows, export_rows);

/// The apps that a user has written in: one probe of the index for each.
static APPS: Statement = Statement::new(
    c"WITH RECURSIVE app (id) AS (
          (SELECT c.app_id FROM mana_sync.sync_changes AS c
           WHERE c.user_id OPERATOR(pg_catalog.=) $1
           ORDER BY c.app_id LIMIT 1)
          UNION ALL
          SELECT (SELECT c.app_id FROM mana_sync.sync_changes AS c
                  WHERE c.user_id OPERATOR(pg_catalog.=) $1 AND c.app_id OPERATOR(pg_catalog.>) app.id
                  ORDER BY c.app_id LIMIT 1)
          FROM app WHERE app.id IS NOT NULL
      )
      SELECT app.id FROM app WHERE app.id IS NOT NULL",
    &[pg_sys::TEXTOID],
);

static PORTION: Statement = Statement::new(
    c"SELECT c.epoch, c.xact, c.seq,
             c.id, c.app_id, c.table_name, c.record_id, c.user_id, c.op, c.data, c.field_timestamps, c.client_id,
             c.created_at, c.schema_version, c.space_id, c.actor
      FROM mana_sync.sync_changes AS c
      WHERE c.user_id OPERATOR(pg_catalog.=) $1
        AND c.app_id OPERATOR(pg_catalog.=) $2
        AND ROW(c.epoch, c.xact, c.seq) OPERATOR(pg_catalog.>) ROW($3, $4, $5)
      ORDER BY c.epoch, c.xact, c.seq
      LIMIT $6",
    &[pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::INT4OID, pg_sys::XID8OID, pg_sys::INT8OID, pg_sys::INT8OID],
);

/// Columns of the result, behind the position.
const COLUMNS: usize = 13;

/// So many rows of all apps together are in memory.
const ROWS_IN_MEMORY: usize = 512;

/// An export under way.
struct Export {
    user: Vec<u8>,
    apps: Vec<App>,
    portion: usize,
    /// Of the result.
    columns: pg_sys::TupleDesc,
}

/// The rows of an app.
struct App {
    id: Vec<u8>,
    /// Rows that were read and not returned yet; what is stored out of line still is.
    rows: VecDeque<(Position, Row)>,
    /// Where they are.
    memory: Context,
    /// The last row that was read.
    last: Position,
    /// Whether there may be more.
    more: bool,
}

/// `mana_sync.export_rows(user_id text) RETURNS SETOF record`
///
/// Errors: 22023 for an empty user; 42501 without a user, or for another one than the scope's.
fn export_rows(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    // SAFETY: the protocol of functions that return a row a call (funcapi.h): the context, and the export in its memory,
    // live from the first call to the last, or to the end of the query.
    unsafe {
        let info = (*args.fcinfo()).resultinfo.cast::<pg_sys::ReturnSetInfo>();
        if info.is_null() || (*info).type_ != pg_sys::NodeTag::T_ReturnSetInfo {
            return Err(Error::NoSet);
        }
        if (*(*args.fcinfo()).flinfo).fn_extra.is_null() {
            let context = pg_sys::init_MultiFuncCall(args.fcinfo());
            let export = Export::begin(args, Context::existing((*context).multi_call_memory_ctx))?;
            let mut memory = pgrx::PgMemoryContexts::For((*context).multi_call_memory_ctx);
            (*context).user_fctx = memory.leak_and_drop_on_delete(export).cast();
        }
        let context = pg_sys::per_MultiFuncCall(args.fcinfo());
        let row = (*(*context).user_fctx.cast::<Export>()).next()?;
        (*info).isDone = match row {
            Some(_) => pg_sys::ExprDoneCond::ExprMultipleResult,
            None => {
                pg_sys::end_MultiFuncCall(args.fcinfo(), context);
                pg_sys::ExprDoneCond::ExprEndResult
            }
        };
        Ok(row)
    }
}

impl Export {
    fn begin(args: &Args, memory: Context) -> Result<Export, Error> {
        let scope = Scope::enter(args.text(0), None)?;
        let level = plan_index_scans();
        let spi = Spi::connect();
        let apps: Vec<App> = spi
            .read(&APPS, &[Some(text_datum(scope.user))])
            .iter()
            .filter_map(|row| row.column(1))
            .map(|id| App {
                // SAFETY: a text of a row that is there.
                id: unsafe { crate::function::text_of(id) }.to_vec(),
                rows: VecDeque::new(),
                memory: memory.child(),
                last: Position::START,
                more: true,
            })
            .collect();
        spi.finish();
        close_level(level);
        let user = scope.user.to_vec();
        scope.leave();
        let portion = (ROWS_IN_MEMORY / apps.len().max(1)).max(16);
        let columns = memory.run(|| args.result_columns(COLUMNS))?;
        Ok(Export { user, apps, portion, columns })
    }

    /// The next row, in the memory of the call.
    fn next(&mut self) -> Result<Option<pg_sys::Datum>, Error> {
        for i in 0..self.apps.len() {
            if self.apps[i].rows.is_empty() && self.apps[i].more {
                self.fill(i)?;
            }
        }
        let first = self.apps.iter_mut().filter(|app| !app.rows.is_empty()).min_by_key(|app| app.rows[0].0);
        let row = first.and_then(|app| app.rows.pop_front());
        Ok(row.map(|(_, row)| {
            let columns: [_; COLUMNS] = std::array::from_fn(|i| row.column(4 + i as i32));
            // SAFETY: the description is that of the columns.
            unsafe { crate::function::composite(self.columns, columns) }
        }))
    }

    /// Reads the next portion of an app, whose rows have all been returned.
    fn fill(&mut self, app: usize) -> Result<(), Error> {
        let scope = Scope::enter(Some(&self.user), None)?;
        let level = plan_index_scans();
        let spi = Spi::connect();
        let app = &mut self.apps[app];
        // SAFETY: they were copied as they were returned.
        unsafe { app.memory.reset() };
        let values = [
            Some(text_datum(&self.user)),
            Some(text_datum(&app.id)),
            Some(pg_sys::Datum::from(app.last.epoch.0 as i32)),
            Some(pg_sys::Datum::from(app.last.xact.0)),
            Some(pg_sys::Datum::from(app.last.seq)),
            Some(pg_sys::Datum::from(self.portion as i64)),
        ];
        let mut columns = None;
        for row in spi.read(&PORTION, &values).iter() {
            let part = |place| row.column(place).map_or(0, |datum| datum.value());
            app.last = Position::new(part(1) as u32, part(2) as u64, part(3) as i64);
            let row = app.memory.run(|| row.copy(&mut columns));
            app.rows.push_back((app.last, row));
        }
        app.more = app.rows.len() == self.portion;
        spi.finish();
        close_level(level);
        scope.leave();
        Ok(())
    }
}
