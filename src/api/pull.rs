//! `mana_sync.pull` and `mana_sync.sync`, which is a push and a pull.

use super::push::{self, Pushed};
use crate::bounds::key;
use crate::call::Call;
use crate::error::Error;
use crate::page::records::RecordRows;
use crate::page::{self, ClientFilter};
use crate::pg::datum::Datum;
use crate::pg::fmgr::{Answer, Args, sql_functions};
use crate::pg::memory::Memory;
use crate::pg::spi::Spi;
use crate::scope::Scope;
use crate::settings;
use crate::wire::response::{End, Response};
use mana_sync_cursor::cursor::Cursor;
use mana_sync_cursor::page::{KnownSpaces, Page, Request, Start};

sql_functions!(pull, sync);

/// The page size of a `pull` without page_size, and of a `sync` whose changeset has no limit.
const PAGE_SIZE: usize = 1000;

/// `mana_sync.pull(user_id, app_id, table_name, since, client_id, page_size, space_ids, as_records, echo) RETURNS json`
///
/// Returns a page of changes or of records, as a response of the wire format. Errors: those of `changes_since`, except that a response with
/// `resyncRequired` takes the place of error 55000.
fn pull<'a>(args: &Args<'a>) -> Answer<'a> {
    let app = key(args.text(1), "app_id")?;
    let page_size = page::page_size(args.int4(5), PAGE_SIZE)?;
    let since = args.text(3);
    let start = page::parse_since(since)?;
    let table = args.text(2).filter(|table| !table.is_empty());
    let client = args.text(4).filter(|client| !client.is_empty() && !args.bool(8).unwrap_or(false));
    let as_records = args.bool(7).unwrap_or(false);
    let memory = args.memory();
    Call::PLAIN.in_scope(memory, args.text(0), args.texts(6), |spi, scope| {
        let request = Request { table, as_records, ..page::request(scope, app, page_size) };
        let answer = Answering { spi, scope, request: &request, client, since, pushed: None };
        answer.read(start, memory).map(Some)
    })
}

/// `mana_sync.sync(user_id, app_id, changeset, client_id, space_ids) RETURNS json`
///
/// Records a changeset as `push` does, and then returns a page as `pull` does, from the changeset's `since`. If the reader has to begin
/// again, the call records nothing and returns `resyncRequired`. Errors: those of `push` and `pull`; 40001 if a purge commits during the
/// call, so that the reader has to begin again although changes were recorded.
fn sync<'a>(args: &Args<'a>) -> Answer<'a> {
    let app = key(args.text(1), "app_id")?;
    let changeset = push::changeset(args)?;
    let start = page::parse_since(changeset.since)?;
    let client = push::client(args.text(3), &changeset)?;
    let page_size = changeset.limit.unwrap_or(PAGE_SIZE);
    let memory = args.memory();
    Call::PLAIN.in_scope(memory, args.text(0), args.texts(4), |spi, scope| {
        let request = Request { as_records: changeset.as_records, ..page::request(scope, app, page_size) };
        let since = changeset.since;
        let mut answer = Answering { spi, scope, request: &request, client, since, pushed: None };
        if page::check(&request, &start)?.is_err() {
            return Ok(Some(answer.resync(memory)));
        }
        let pushed = push::record(spi, scope, app, client, &changeset)?;
        answer.client = client.filter(|_| !changeset.echo);
        answer.pushed = Some(&pushed);
        answer.read(start, memory).map(Some)
    })
}

/// What `pull` and `sync` need to answer a request.
struct Answering<'s, 'r> {
    spi: Spi<'s>,
    scope: &'r Scope<'r>,
    request: &'r Request<'r>,
    /// The client whose own changes the answer leaves out; `None` if it leaves out none.
    client: Option<&'r [u8]>,
    /// The request's `since`.
    since: Option<&'r [u8]>,
    /// What a `sync` has pushed; `None` in a `pull`. Once changes were recorded, the answer cannot be that a resync is required: it is an
    /// error.
    pushed: Option<&'r Pushed<'r>>,
}

impl Answering<'_, '_> {
    /// Reads a page from `start`, and returns it as a response.
    fn read<'m>(&self, start: Start, memory: Memory<'m>) -> Result<Datum<'m>, Error> {
        // The answer's cursor where this server cannot tell more for now. Text that is neither a cursor nor a time is the beginning.
        let unchanged = match &start {
            Start::Beginning(None) => None,
            Start::Cursor(_) | Start::Beginning(Some(_)) => {
                self.since.and_then(|since| std::str::from_utf8(since).ok())
            }
        };
        let (page, response) = match self.request.as_records {
            // A device learns from its own changes what became of them.
            true => {
                let mut response = Response::of_records(memory);
                let mut rows = RecordRows::new(self.spi, self.request, None, settings::max_page_bytes(), &mut response);
                let filter = (ClientFilter::Echo, None);
                let page = page::read(self.spi, self.request, filter, start, &mut rows, |_, _| Ok(()))?;
                (page, response)
            }
            false => {
                let mut response = Response::of_changes(memory);
                let filter = (ClientFilter::Echo, self.client);
                let page = page::read(self.spi, self.request, filter, start, &mut response, |_, _| Ok(()))?;
                (page, response)
            }
        };
        let page = match page {
            Ok(page) => page,
            // A purge has committed since `sync` looked.
            Err(_) if self.pushed.is_some_and(Pushed::has_recorded) => return Err(Error::PurgedMeanwhile),
            Err(_) => return Ok(self.resync(memory)),
        };
        let cursor = match (page.next.issued(), unchanged) {
            (Some(cursor), _) => page::issue(cursor),
            (None, Some(unchanged)) => unchanged.to_string(),
            (None, None) => Cursor::default().to_text(),
        };
        let spaces = self.spaces_to_tell(&page);
        Ok(response.finish(&End {
            synced_until: &cursor,
            more: page.more,
            spaces: spaces.as_deref(),
            rejected: self.pushed.and_then(Pushed::rejected),
            begin_again: page.holds_foreign_rows,
            resync_required: false,
        }))
    }

    /// Returns the spaces of the reader if the response has to list them; otherwise `None`.
    ///
    /// If a device has no earlier page, it is told its spaces only if the application passes memberships: an application that never does so
    /// has devices that know nothing of spaces. Later, a device is told its spaces whenever they differ from those that it was told. That
    /// holds also if the application passes no memberships this time: the device holds records of spaces, and gets no more of them.
    fn spaces_to_tell(&self, page: &Page) -> Option<Vec<&[u8]>> {
        let is_told = match page.known_spaces {
            KnownSpaces::Nothing => self.scope.memberships_known(),
            KnownSpaces::Same => false,
            KnownSpaces::Others => true,
        };
        let spaces = || self.scope.spaces.iter().zip(&page.is_in).filter(|(_, is_in)| **is_in).map(|(id, _)| *id);
        is_told.then(|| spaces().collect())
    }

    /// Returns a response without changes that tells the client to begin again.
    fn resync<'m>(&self, memory: Memory<'m>) -> Datum<'m> {
        let response = match self.request.as_records {
            true => Response::of_records(memory),
            false => Response::of_changes(memory),
        };
        let synced_until = &Cursor::default().to_text();
        response.finish(&End {
            synced_until,
            more: false,
            spaces: None,
            rejected: None,
            begin_again: false,
            resync_required: true,
        })
    }
}
