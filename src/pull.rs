//! Reading in the wire format: `pull`, and `sync`, which is a push and a pull.

use crate::error::Error;
use crate::function::{Args, sql_function};
use crate::jsonb::Text;
use crate::log::key;
use crate::push;
use crate::read::{self, Exclude, Pull};
use crate::scope::Scope;
use crate::{snapshot, wire};
use mana_sync_cursor::cursor::Cursor;
use mana_sync_cursor::walk::Start;
use pgrx::pg_sys;

sql_function!(mana_sync_pull, pg_finfo_mana_sync_pull, pull);
sql_function!(mana_sync_sync, pg_finfo_mana_sync_sync, sync);

/// The default of `pull`'s page_size, which `sync` has no argument for.
const PAGE_SIZE: usize = 1000;

/// `mana_sync.pull(user_id, app_id, table_name, since, client_id, page_size, space_ids) RETURNS json`
///
/// A page of changes as a response of the wire format. Errors: those of `changes_since`, but that a cursor from
/// the server's own future is answered with `resyncRequired`.
fn pull(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let app = key(args.text(1), "app_id")?;
    let page_size = read::page_size(args.int(5), PAGE_SIZE)?;
    let (start, since) = (read::parse_since(args.text(3))?, args.text(3));
    let json = Text::new();
    let scope = Scope::enter(args.text(0), args.texts(6))?;
    let table = args.text(2).filter(|table| !table.is_empty());
    let client = args.text(4).filter(|client| !client.is_empty());
    let json = respond(&scope, Request { app, table, client, page_size, start, since }, json)?;
    scope.leave();
    Ok(Some(json.datum()))
}

/// `mana_sync.sync(user_id, app_id, changeset, client_id, space_ids) RETURNS json`
///
/// Records a changeset as `push` does, and answers as `pull` does from the changeset's `since`. Where that is a cursor
/// from the server's own future it records nothing and says that a resync is required.
fn sync(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let app = key(args.text(1), "app_id")?;
    let changeset = push::changeset(args)?;
    let (start, since) = (read::parse_since(changeset.since)?, changeset.since);
    let client =
        args.text(3).filter(|client| !client.is_empty()).or(changeset.client.filter(|client| !client.is_empty()));
    let mut json = Text::new();
    let scope = Scope::enter(args.text(0), args.texts(4))?;
    if read::is_from_future(&start)? {
        write_resync(&mut json);
    } else {
        push::record(&scope, app, client, &changeset.changes)?;
        json = respond(&scope, Request { app, table: None, client, page_size: PAGE_SIZE, start, since }, json)?;
    }
    scope.leave();
    Ok(Some(json.datum()))
}

struct Request<'a> {
    app: &'a [u8],
    table: Option<&'a [u8]>,
    client: Option<&'a [u8]>,
    page_size: usize,
    start: Start,
    since: Option<&'a [u8]>,
}

/// Reads a page and writes it into `json`, which was made in the caller's memory.
fn respond(scope: &Scope, request: Request<'_>, mut json: Text) -> Result<Text, Error> {
    let Request { app, table, client, page_size, start, since } = request;
    // Where this server cannot tell more for now, the cursor stays what it was.
    let unchanged = match &start {
        Start::Cursor(_) => since.map(|since| String::from_utf8_lossy(since).into_owned()),
        Start::Beginning(Some(_)) => since.map(|since| String::from_utf8_lossy(since).into_owned()),
        Start::Beginning(None) => None,
    };
    let unchanged = unchanged.unwrap_or_else(|| Cursor::default().to_text());
    let pull = Pull { app, table, exclude: Exclude::Echo(client), page_size, start };
    read::page(scope, pull, |page| {
        match page {
            None => write_resync(&mut json),
            Some(page) => {
                if page.cursor.is_some() {
                    snapshot::flush();
                }
                let synced_until = page.cursor.map_or(unchanged, |cursor| cursor.to_text());
                wire::write_response(&mut json, &page.rows, &synced_until, page.more, false);
            }
        }
        Ok(json)
    })
}

/// The client goes on from the beginning.
fn write_resync(json: &mut Text) {
    wire::write_response(json, &[], &Cursor::default().to_text(), false, true);
}
