//! `mana_sync.pull` and `mana_sync.sync`, which is a push and a pull.

use super::push;
use crate::bounds::key;
use crate::call::Call;
use crate::error::Error;
use crate::page::{self, ClientFilter};
use crate::pg::datum::Datum;
use crate::pg::fmgr::{Answer, Args, sql_functions};
use crate::pg::spi::Spi;
use crate::scope::Scope;
use crate::wire::response::Response;
use mana_sync_cursor::cursor::Cursor;
use mana_sync_cursor::page::{Request, Start};

sql_functions!(pull, sync);

/// The default of `pull`'s page_size, which `sync` has no argument for.
const PAGE_SIZE: usize = 1000;

/// `mana_sync.pull(user_id, app_id, table_name, since, client_id, page_size, space_ids) RETURNS json`
///
/// A page of changes as a response of the wire format. Errors: those of `changes_since`, except that 55000 is answered
/// with `resyncRequired`.
fn pull<'a>(args: &Args<'a>) -> Answer<'a> {
    let app = key(args.text(1), "app_id")?;
    let page_size = page::page_size(args.int4(5), PAGE_SIZE)?;
    let since = args.text(3);
    let start = page::parse_since(since)?;
    let table = args.text(2).filter(|table| !table.is_empty());
    let client = args.text(4).filter(|client| !client.is_empty());
    let response = Response::new(args.memory());
    Call::PLAIN.in_scope(args.memory(), args.text(0), args.texts(6), |spi, scope| {
        let request = request(scope, app, table, page_size);
        respond(spi, &request, client, (start, since), false, response).map(Some)
    })
}

/// `mana_sync.sync(user_id, app_id, changeset, client_id, space_ids) RETURNS json`
///
/// Records a changeset as `push` does, and answers as `pull` does from the changeset's `since`. Where the
/// reader has to begin again, it records nothing and says that a resync is required. Errors: those of both; 40001 where a
/// purge commits during the call, after which it would say so.
fn sync<'a>(args: &Args<'a>) -> Answer<'a> {
    let app = key(args.text(1), "app_id")?;
    let changeset = push::changeset(args)?;
    let start = page::parse_since(changeset.since)?;
    let client = push::client(args.text(3), &changeset)?;
    let page_size = changeset.limit.unwrap_or(PAGE_SIZE);
    let response = Response::new(args.memory());
    Call::PLAIN.in_scope(args.memory(), args.text(0), args.texts(4), |spi, scope| {
        let request = request(scope, app, None, page_size);
        if page::check(&request, &start)?.is_err() {
            return Ok(Some(resync(response)));
        }
        push::record(spi, scope, app, client, &changeset.changes)?;
        let has_recorded = !changeset.changes.is_empty();
        respond(spi, &request, client, (start, changeset.since), has_recorded, response).map(Some)
    })
}

fn request<'r>(scope: &'r Scope<'_>, app: &'r [u8], table: Option<&'r [u8]>, page_size: usize) -> Request<'r> {
    Request { user: scope.user, app, spaces: &scope.spaces, table, page_size, cursor_without_rows: true, room: None }
}

/// Reads a page into a response. `has_recorded` is whether the call has recorded anything, which excludes the answer that a resync is
/// required.
fn respond<'m>(
    spi: Spi<'_>,
    request: &Request<'_>,
    client: Option<&[u8]>,
    (start, since): (Start, Option<&[u8]>),
    has_recorded: bool,
    mut response: Response<'m>,
) -> Result<Datum<'m>, Error> {
    // The answer's cursor where this server cannot tell more for now. Text that is neither a cursor nor a time is the beginning.
    let unchanged = match &start {
        Start::Beginning(None) => None,
        Start::Cursor(_) | Start::Beginning(Some(_)) => since.and_then(|since| std::str::from_utf8(since).ok()),
    };
    match page::read(spi, request, (ClientFilter::Echo, client), start, &mut response, |_, _| Ok(()))? {
        // A purge has committed since `sync` looked.
        Err(_) if has_recorded => Err(Error::PurgedMeanwhile),
        Err(_) => Ok(resync(response)),
        Ok(page) => {
            let cursor = match (page.next.issued(), unchanged) {
                (Some(cursor), _) => page::issue(cursor),
                (None, Some(unchanged)) => unchanged.to_string(),
                (None, None) => Cursor::default().to_text(),
            };
            Ok(response.finish(&cursor, page.more, false))
        }
    }
}

/// A response without changes: the client has to begin again.
fn resync(response: Response<'_>) -> Datum<'_> {
    response.finish(&Cursor::default().to_text(), false, true)
}
