//! `mana_sync.forget_user`: erases a user.

use super::{Edits, column, select_changes};
use crate::error::Error;
use crate::function::{Args, sql_function, text_datum};
use crate::log::key;
use crate::merge::change_of;
use crate::read::plan_index_scans;
use crate::settings::close_level;
use crate::snapshot::Pushed;
use crate::statement::{Spi, Statement};
use pgrx::pg_sys;

sql_function!(mana_sync_forget_user, pg_finfo_mana_sync_forget_user, forget_user);

/// The deletes of a user in shared spaces: of nobody, as they are left.
static DELETES: Statement = Statement::new(
    select_changes!(
        "WHERE c.user_id OPERATOR(pg_catalog.=) $1
           AND c.op OPERATOR(pg_catalog.=) 'delete'
           AND c.space_id OPERATOR(pg_catalog.<>) ''"
    ),
    &[pg_sys::TEXTOID],
);

/// Deletes in shared spaces keep dead what others wrote, for readers who have not seen it yet. They stay, with nothing
/// in them but what was deleted, where and when.
static UNNAME: Statement = Statement::new(
    c"UPDATE mana_sync.sync_changes AS c
      SET user_id = $2, client_id = '', actor = NULL, field_timestamps = '{}',
          data = CASE WHEN pg_catalog.jsonb_typeof(c.data OPERATOR(pg_catalog.->) 'deletedAt') OPERATOR(pg_catalog.=) 'string'
                      THEN pg_catalog.jsonb_build_object('deletedAt', c.data OPERATOR(pg_catalog.->) 'deletedAt') END
      WHERE c.user_id OPERATOR(pg_catalog.=) $1
        AND c.op OPERATOR(pg_catalog.=) 'delete'
        AND c.space_id OPERATOR(pg_catalog.<>) ''",
    &[pg_sys::TEXTOID, pg_sys::TEXTOID],
);

static ERASE: Statement = Statement::new(
    c"DELETE FROM mana_sync.sync_changes AS c
      WHERE c.user_id OPERATOR(pg_catalog.=) $1
        AND (c.op OPERATOR(pg_catalog.=) 'delete' AND c.space_id OPERATOR(pg_catalog.<>) '') IS NOT TRUE",
    &[pg_sys::TEXTOID],
);

static FORGET_RUNS: Statement = Statement::new(
    c"DELETE FROM mana_sync.compactions AS c WHERE c.user_id OPERATOR(pg_catalog.=) $1",
    &[pg_sys::TEXTOID],
);

/// A run over all users goes on: from the same place, or a little before it.
static FORGET_PLACES: Statement = Statement::new(
    c"UPDATE mana_sync.compactions AS c
      SET after_record = CASE WHEN c.finished_at IS NULL THEN c.after_record ELSE '' END, after_user = ''
      WHERE c.after_user OPERATOR(pg_catalog.=) $1",
    &[pg_sys::TEXTOID],
);

/// `mana_sync.forget_user(user_id text) RETURNS bigint`
///
/// Errors: 22023 for an empty user; 42501 where row security would hide rows from the owner.
fn forget_user(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let user = Some(text_datum(key(args.text(0), "user_id")?));
    let nobody = Some(text_datum(format!("forgotten:{}", uuid::Uuid::new_v4()).as_bytes()));
    let spi = Spi::connect();
    super::begin(&spi)?;
    let level = plan_index_scans();
    let mut count = 0;
    // Each statement sees what was committed before it: until there is no delete that came after the last look.
    loop {
        let unnamed = spi.run(&UNNAME, &[user, nobody], pg_sys::SPI_OK_UPDATE);
        count += unnamed + spi.run(&ERASE, &[user], pg_sys::SPI_OK_DELETE);
        if unnamed == 0 {
            break;
        }
    }
    // What stands in the place of the time and is none may be anything.
    let mut edits = Edits::new(&spi);
    let pushed = Pushed::latest();
    spi.for_each(&DELETES, &[nobody], |row| {
        // SAFETY: the columns are these, and the row is there during the call.
        let change = unsafe { change_of(&row, column::OP)? };
        if change.time_key().is_none() && change.data.is_some() {
            let id = row.column(column::ID).ok_or(Error::Installation("a change without an id"))?;
            edits.trim(id, &row, column::DATA, &[b"deletedAt"])?;
        }
        Ok(true)
    })?;
    edits.flush()?;
    pushed.pop();
    spi.run(&FORGET_RUNS, &[user], pg_sys::SPI_OK_DELETE);
    spi.run(&FORGET_PLACES, &[user], pg_sys::SPI_OK_UPDATE);
    close_level(level);
    spi.finish();
    Ok(Some(pg_sys::Datum::from(count as i64)))
}
