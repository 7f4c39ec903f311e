//! Reading in the wire format: `pull`, and `sync`, which is a push and a pull.

use crate::error::Error;
use crate::function::{Args, sql_function};
use crate::log::key;
use crate::push;
use crate::read::{self, Exclude, Pull};
use crate::scope::Scope;
use crate::wire::Response;
use mana_sync_cursor::cursor::Cursor;
use mana_sync_cursor::page::Start;
use pgrx::pg_sys;

sql_function!(mana_sync_pull, pg_finfo_mana_sync_pull, pull);
sql_function!(mana_sync_sync, pg_finfo_mana_sync_sync, sync);

/// The default of `pull`'s page_size, which `sync` has no argument for.
const PAGE_SIZE: usize = 1000;

/// `mana_sync.pull(user_id, app_id, table_name, since, client_id, page_size, space_ids) RETURNS json`
///
/// A page of changes as a response of the wire format. Errors: those of `changes_since`, but that 55000 is answered
/// with `resyncRequired`.
fn pull(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let app = key(args.text(1), "app_id")?;
    let page_size = read::page_size(args.int(5), PAGE_SIZE)?;
    let since = args.text(3);
    let pull = Pull {
        app,
        table: args.text(2).filter(|table| !table.is_empty()),
        exclude: Exclude::Echo(args.text(4).filter(|client| !client.is_empty())),
        page_size,
        cursor_without_rows: true,
        start: read::parse_since(since)?,
    };
    let response = Response::new();
    let scope = Scope::enter(args.text(0), args.texts(6))?;
    let json = respond(&scope, pull, since, false, response)?;
    scope.leave();
    Ok(Some(json))
}

/// `mana_sync.sync(user_id, app_id, changeset, client_id, space_ids) RETURNS json`
///
/// Records a changeset as `push` does, and answers as `pull` does from the changeset's `since`. Where the
/// reader has to begin again, it records nothing and says that a resync is required. Errors: those of both; 40001 where a
/// purge commits during the call, after which it would say so.
fn sync(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let app = key(args.text(1), "app_id")?;
    let changeset = push::changeset(args)?;
    let start = read::parse_since(changeset.since)?;
    let client = push::client(args.text(3), &changeset)?;
    let response = Response::new();
    let scope = Scope::enter(args.text(0), args.texts(4))?;
    let pull = Pull {
        app,
        table: None,
        exclude: Exclude::Echo(client),
        page_size: changeset.limit.unwrap_or(PAGE_SIZE),
        start,
        cursor_without_rows: true,
    };
    let json = if read::check(&scope, &pull)?.is_err() {
        resync(response)
    } else {
        push::record(&scope, app, client, &changeset.changes)?;
        respond(&scope, pull, changeset.since, !changeset.changes.is_empty(), response)?
    };
    scope.leave();
    Ok(Some(json))
}

/// Reads a page into a response that was begun in the caller's memory. `recorded` is whether the call has recorded
/// anything, which goes with no resync.
fn respond(
    scope: &Scope<'_>,
    pull: Pull<'_>,
    since: Option<&[u8]>,
    recorded: bool,
    mut response: Response,
) -> Result<pg_sys::Datum, Error> {
    // Where this server cannot tell more for now, the cursor stays what it was. Text that is none is the beginning.
    let unchanged = match &pull.start {
        Start::Beginning(None) => None,
        Start::Cursor(_) | Start::Beginning(Some(_)) => since.and_then(|since| std::str::from_utf8(since).ok()),
    };
    match read::page(scope, pull, &mut response, |_, _| Ok(()))? {
        // A purge has committed since the call looked.
        Err(_) if recorded => Err(Error::PurgedMeanwhile),
        Err(_) => Ok(resync(response)),
        Ok(page) => {
            let cursor = match (page.next.issued(), unchanged) {
                (Some(cursor), _) => read::hand_out(cursor),
                (None, Some(unchanged)) => unchanged.to_string(),
                (None, None) => Cursor::default().to_text(),
            };
            Ok(response.end(&cursor, page.more, false))
        }
    }
}

/// The client goes on from the beginning.
fn resync(response: Response) -> pg_sys::Datum {
    response.end(&Cursor::default().to_text(), false, true)
}
