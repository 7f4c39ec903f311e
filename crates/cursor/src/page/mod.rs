//! A page of changes: from a cursor to the next.
//!
//! A pull returns the rows that the server's snapshot sees and the cursor does not cover. The next cursor covers what the cursor covered
//! and what the pull has returned. A pull that does not fit into a page becomes a walk, whose target stays fixed from page to page.
//!
//! A walk reads the reader's own rows and each space of the scope as streams, each in the order of the
//! log, and merges them:
//!
//! | stream | from | rows |
//! |---|---|---|
//! | own | the cursor | the reader's own rows, except those in spaces that joined |
//! | a space that the cursor covers | the cursor | the rows of other users |
//! | a space that joined since | the beginning | the rows of all users |
//!
//! A walk from the beginning of the log has no coverage to start from. It reads every space as one that
//! the cursor covers.
//!
//! A page shows the rows themselves, or the records that the rows changed. A page of records shows a record at the first of its rows in the
//! walk, with its current state, and passes over its other rows. It is the first row and not the last, because a compaction may remove any
//! row of the walk between two pages. If the last row counted and was removed, the record would not be shown at all. If the first row is
//! removed, the record is shown at its next row, perhaps once more.

mod issue;
mod reading;
mod resume;

pub use crate::resync::Resync;
pub use reading::{NotHeld, Reading, RowOrigin};

use crate::Position;
use crate::cursor::Cursor;
use crate::epoch::{LocalCoverage, Server};
use crate::hash::Secret;
use crate::id::{KeyedHash, Lsn, PurgeMark};
use crate::resync::Purges;
use crate::scan::Source;
use crate::snapshot::Snapshot;
use resume::Resumption;

/// A request for a page: who pulls, and what.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The user.
    pub user: &'a [u8],
    /// The app.
    pub app: &'a [u8],
    /// The spaces of the scope, each once.
    pub spaces: &'a [&'a [u8]],
    /// The only table whose rows are wanted; `None` for all tables.
    pub table: Option<&'a [u8]>,
    /// The greatest number of rows or records in the page, at least 1.
    pub page_size: usize,
    /// Whether the page shows records; otherwise it shows changes.
    pub as_records: bool,
    /// For a page of records, the client whose rows do not count; `None` if all rows count. A request with another client than the page
    /// before starts the walk again.
    pub excluded_client: Option<&'a [u8]>,
    /// Whether a page without rows has a cursor too. Making a cursor takes time for each space, so that a caller may prefer none.
    pub cursor_without_rows: bool,
    /// The number of bytes that the cursor may use for open transactions. `None` means [`crate::codec::room_for_open`]; tests set less.
    pub room: Option<usize>,
}

/// Where a page begins.
#[derive(Clone, Debug)]
pub enum Start {
    /// The page begins at the beginning of the log. If there is a time, in microseconds from 2000-01-01, the walk has only rows with a
    /// later `created_at`.
    Beginning(Option<i64>),
    /// The page begins at a cursor.
    Cursor(Box<Cursor>),
}

/// A receiver of the rows of a page, in the order of the log.
pub trait Rows<R> {
    /// Is called with the rows that [`Rows::take`] gets next, and with the walk that they belong to.
    fn prepare(&mut self, _rows: &[(Position, R)], _reading: &Reading<'_>) {}

    /// Takes the next row, and the walk that it belongs to. A receiver has room for at least one shown row. A receiver of records counts
    /// the records itself, and has room for at most [`Request::page_size`].
    fn take(&mut self, position: Position, row: R, reading: &Reading<'_>) -> Taken;
}

/// What a receiver did with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The page shows the row, or the record that the row changed.
    Shown,
    /// The page shows nothing for the row.
    Passed,
    /// The page has no room for the row, which belongs to the next page.
    Full,
}

impl<R> Rows<R> for Vec<R> {
    fn take(&mut self, _: Position, row: R, _: &Reading<'_>) -> Taken {
        self.push(row);
        Taken::Shown
    }
}

/// The end of a page.
#[derive(Debug)]
pub struct Page {
    /// The cursor at which the next page begins.
    pub next: NextCursor,
    /// Whether the page ended because it was full, so that there may be more rows now.
    pub more: bool,
    /// Whether the reader was given rows that are not in this log: its cursor is of a history that this server does not share, or of
    /// another reader. The page is made as if the reader had not been given these rows.
    pub holds_foreign_rows: bool,
    /// Whether [`Page::is_in`] differs from what the reader was told with the page before.
    pub known_spaces: KnownSpaces,
    /// For each space of the scope, whether the reader can be told that it is in the space.
    ///
    /// These spaces follow from the cursor of the page, so that the next page knows from the cursor what the reader was told. A space that
    /// the walk does not read yet is not among them. If the reader were told of such a space, and left it before the next walk, the cursor
    /// would not show that the reader was told of it.
    pub is_in: Vec<bool>,
}

/// How the spaces of a reader compare with those that it was told with the page before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownSpaces {
    /// There was no page before, so the reader was told nothing.
    Nothing,
    /// The spaces are the same, or this server cannot tell.
    Same,
    /// The spaces differ.
    Others,
}

impl Page {
    /// A page without rows and with an unchanged cursor, from a server that cannot tell more for now. Such a page must not say which spaces
    /// the reader has left: the reader would drop their records, while its cursor still covers these spaces.
    pub const UNCHANGED: Page = Page {
        next: NextCursor::Unchanged,
        more: false,
        holds_foreign_rows: false,
        known_spaces: KnownSpaces::Same,
        is_in: Vec::new(),
    };
}

/// The cursor at which the next page begins.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a page has one cursor, and a Box would be an allocation for each page")]
pub enum NextCursor {
    /// The next page begins at this cursor.
    Issue(Cursor),
    /// The next page begins where this one began, because this server cannot tell more for now.
    Unchanged,
    /// The page has no rows, and the request wants no cursor for such a page ([`Request::cursor_without_rows`]).
    NotWanted,
}

impl NextCursor {
    /// The cursor, if the page issues one.
    pub fn issued(&self) -> Option<&Cursor> {
        match self {
            NextCursor::Issue(cursor) => Some(cursor),
            NextCursor::Unchanged | NextCursor::NotWanted => None,
        }
    }
}

/// The reason why there is no page.
#[derive(Debug, PartialEq, Eq)]
pub enum Error<E> {
    /// The reader has to begin again.
    Resync(Resync),
    /// The log could not be read.
    Source(E),
}

/// The greatest number of rows that are read at once. A page may end by its size in bytes long before it has as many rows as the request
/// allows. Reading in portions bounds the memory of a call by the size of its page.
const PORTION: usize = 5000;
/// The least number of rows that are read at once for a page of records, however little room the page has left.
const LEAST_PORTION_OF_RECORDS: usize = 256;
/// The number of passed rows after which a page of records may end although it is not full. It bounds the time of a call.
const MOST_PASSED: usize = 50_000;

/// Reads the page of the log that follows `start` into `rows`.
///
/// `now` is the snapshot that `source` and `purges` read with. It was taken on the history that `server` is on. `lsn` is a position in the
/// write-ahead log that was read after `now` was taken. The epochs of `server` were read no earlier than `now`.
pub fn read_page<S: Source>(
    server: &Server,
    (now, lsn): (Snapshot, Lsn),
    request: &Request<'_>,
    start: Start,
    source: &mut S,
    purges: &mut impl Purges,
    rows: &mut impl Rows<S::Row>,
) -> Result<Page, Error<S::Error>> {
    let Some(now) = server.local_coverage(now, lsn) else {
        // Without an epoch, no row of this log has been committed, or replayed by this standby. A cursor may come from a
        // transaction that is prepared now.
        return match start {
            Start::Cursor(_) => Ok(Page::UNCHANGED),
            Start::Beginning(_) => {
                let is_in = vec![true; request.spaces.len()];
                let next = NextCursor::Issue(Cursor::default());
                let known_spaces = KnownSpaces::Nothing;
                Ok(Page { next, more: false, holds_foreign_rows: false, known_spaces, is_in })
            }
        };
    };
    let mut state = match ReaderState::at(server, request, &start, purges) {
        Resumption::Ready(state) => *state,
        Resumption::Wait => return Ok(Page::UNCHANGED),
        Resumption::Resync(why) => return Err(Error::Resync(why)),
    };
    // The reader may have got rows of a later epoch than this snapshot is of, or be in a walk to a target that this
    // server has not reached in full. The server then shows no rows, because it could not show all.
    if state.coverage.as_ref().is_some_and(|local| local.coverage.order() > now.coverage.order())
        || state.walk.as_ref().is_some_and(|walk| !now.contains(&walk.target))
        // A record is shown with its state now. It would lack the changes that the reader was given and this server does not show.
        || (request.as_records && state.coverage.as_ref().is_some_and(|local| !now.contains(local)))
    {
        return Ok(Page::UNCHANGED);
    }
    // This comes after the check above, because a standby that lags does not know of the latest purges.
    if state.stale {
        return Err(Error::Resync(Resync::Purged));
    }
    let end = |state: &ReaderState| (NextCursor::Issue(state.cursor(server, request)), state.spaces());
    let holds_foreign_rows = state.holds_foreign_rows;
    let page = |(next, (known_spaces, is_in)), more| Ok(Page { next, more, holds_foreign_rows, known_spaces, is_in });
    let mut counts = Counts { shown: 0, passed: 0 };
    // The cursor of the end of a walk, for a page that has no room for the first row of the walk after it. A cursor of the
    // state between two walks may have no room for all that the reader has been given. The reader would come back to it
    // for ever.
    let mut walk_end = None;
    loop {
        if state.walk.is_none() {
            state.start(&now);
        }
        let (last, portion_end) = match Reading::new(server, request, &state) {
            None => (None, PortionEnd::WalkEnds),
            Some(reading) => {
                let most = counts.portion(request);
                let found = reading.read(most, source).map_err(Error::Source)?;
                rows.prepare(&found, &reading);
                counts.take(found, most, rows, &reading, request)
            }
        };
        if let Some((walk, last)) = state.walk.as_mut().zip(last) {
            walk.last = last;
        }
        match portion_end {
            PortionEnd::WalkGoesOn => continue,
            PortionEnd::WalkEnds => {}
            PortionEnd::PageIsFull => return page(end(&state), true),
            PortionEnd::NoRoom => {
                let end = match walk_end {
                    Some(walk_end) if !state.is_under_way() => walk_end,
                    _ => end(&state),
                };
                return page(end, true);
            }
        }
        let shown = counts.shown;
        if shown > 0 && state.is_under_way() && !state.leads_to(&now) {
            walk_end = Some(end(&state));
        }
        let has_skipped = state.walk.as_ref().is_some_and(|walk| walk.spaces.contains(&SpaceMode::Skip));
        if state.finish(&now) {
            let end = match request.cursor_without_rows || shown > 0 {
                true => end(&state),
                false => (NextCursor::NotWanted, (KnownSpaces::Same, Vec::new())),
            };
            return page(end, false);
        }
        // The next walk reads a space that this one has skipped. The records so far are those of a reader that is not in the space, and
        // the reader must not be told in one answer with them that it is.
        if let Some(walk_end) = walk_end.take_if(|_| has_skipped && request.as_records) {
            return page(walk_end, true);
        }
    }
}

/// How many rows of a page the receiver has taken.
struct Counts {
    /// The rows that the page shows.
    shown: usize,
    /// The rows that the page shows nothing for.
    passed: usize,
}

/// Where a portion of the rows of a page ends.
enum PortionEnd {
    /// The walk may have more rows.
    WalkGoesOn,
    /// The walk has no more rows.
    WalkEnds,
    /// The page ends after the last row that was taken.
    PageIsFull,
    /// The page has no room for the row after the last one that was taken.
    NoRoom,
}

impl Counts {
    /// The number of rows to read next.
    fn portion(&self, request: &Request<'_>) -> usize {
        let room = request.page_size.saturating_sub(self.shown);
        if !request.as_records {
            return room.clamp(1, PORTION);
        }
        // The next records probably take as many rows each as the records so far.
        let rows_a_record = (self.shown + self.passed).div_ceil(self.shown.max(1)).max(1);
        room.saturating_mul(rows_a_record).clamp(LEAST_PORTION_OF_RECORDS, PORTION)
    }

    /// Hands `found` to the receiver. `most` is how many rows were asked for. Returns the position of the last row that was taken.
    fn take<R>(
        &mut self,
        found: Vec<(Position, R)>,
        most: usize,
        rows: &mut impl Rows<R>,
        reading: &Reading<'_>,
        request: &Request<'_>,
    ) -> (Option<Position>, PortionEnd) {
        let end = if found.len() < most { PortionEnd::WalkEnds } else { PortionEnd::WalkGoesOn };
        let mut last = None;
        for (position, row) in found {
            match rows.take(position, row, reading) {
                Taken::Full => return (last, PortionEnd::NoRoom),
                Taken::Shown => self.shown += 1,
                Taken::Passed => self.passed += 1,
            }
            last = Some(position);
            // A page of records goes on for as long as it passes over rows: otherwise a page without records might follow.
            let is_full = match request.as_records {
                true => self.passed >= MOST_PASSED && (self.shown > 0 || request.cursor_without_rows),
                false => self.shown == request.page_size,
            };
            if is_full {
                return (last, PortionEnd::PageIsFull);
            }
        }
        (last, end)
    }
}

/// Checks whether a reader can resume from `start`, without reading rows.
pub fn check(server: &Server, request: &Request<'_>, start: &Start, purges: &mut impl Purges) -> Result<(), Resync> {
    match ReaderState::at(server, request, start, purges) {
        Resumption::Ready(state) if state.stale => Err(Resync::Purged),
        Resumption::Ready(_) | Resumption::Wait => Ok(()),
        Resumption::Resync(why) => Err(why),
    }
}

/// How a walk reads a space of the scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SpaceMode {
    /// The walk reads the rows of the space that the cursor does not cover. Either the coverage of the cursor is valid for the space, or
    /// the whole walk starts at the beginning of the log.
    Delta,
    /// The space has joined. The walk reads this space from the beginning of the log, and the other rows from the cursor.
    Whole,
    /// The walk does not read the space. The next walk reads it from the beginning of the log.
    Skip,
}

/// The state of a walk in this call.
struct WalkState {
    target: LocalCoverage,
    /// The position of the last row that was delivered; [`Position::START`] before the first row.
    last: Position,
    /// The mode of each space of the scope.
    spaces: Vec<SpaceMode>,
    /// The hashes of the spaces that the cursor covers but that the reader has left, so that this walk does not read them to its end.
    left: Vec<KeyedHash>,
    /// The position of the last row that earlier pages of the walk have passed; [`Position::START`] on the first page.
    resumed_at: Position,
    /// Whether an earlier page of the walk was read with a coverage that its cursor had no room for.
    base_is_cut: bool,
}

/// The spaces that a reader was told it is in, with the page before.
struct Told {
    /// For each space of the scope, whether the reader was told that it is in the space.
    of_scope: Vec<bool>,
    /// The number of all spaces that the reader was told it is in, inside and outside the scope.
    count: usize,
}

/// The state of a reader in this call.
struct ReaderState {
    coverage: Option<LocalCoverage>,
    /// The hashes of the spaces that `coverage` is valid for, if it came from a cursor; otherwise empty.
    cursor_spaces: Vec<KeyedHash>,
    /// The hashes of the spaces of the scope, and the secret that is their key. The secret is that of the cursor's epoch.
    scope: Option<(Secret, Vec<KeyedHash>)>,
    /// For each space of the scope, whether `coverage` is valid for it.
    covered: Vec<bool>,
    walk: Option<WalkState>,
    created_after: Option<i64>,
    /// Whether the reader may hold records of what its walk reads from the beginning: of the whole log, or of the spaces that
    /// joined. An earlier walk that was not read to its end may have shown them.
    may_hold_records: bool,
    /// Whether the reader was given rows that are not in this log.
    holds_foreign_rows: bool,
    /// The spaces that the reader was told it is in when it got its cursor; `None` without a cursor.
    told: Option<Told>,
    /// The mark of the latest purge.
    purges: PurgeMark,
    /// Whether the reader may hold a record whose delete was purged before the reader could get it.
    stale: bool,
}

/// The hashes of the spaces of the scope.
fn scope_hashes(secret: &Secret, request: &Request<'_>) -> Vec<KeyedHash> {
    request.spaces.iter().map(|id| secret.space(id)).collect()
}

impl ReaderState {
    /// Starts a walk whose target covers what `now` covers.
    fn start(&mut self, now: &LocalCoverage) {
        let (target, spaces) = match &self.coverage {
            None => (now.clone(), vec![SpaceMode::Delta; self.covered.len()]),
            Some(coverage) => {
                // A space may join only on a server that sees all that the reader has been given. This server could not
                // show the rows of the space that only the cursor covers.
                let (target, joined) = match now.contains(coverage) {
                    // The snapshot of a standby names open subtransactions, which the cursor does not know.
                    true => (now.union(coverage), SpaceMode::Whole),
                    false => (now.clone(), SpaceMode::Skip),
                };
                (target, self.covered.iter().map(|&covered| if covered { SpaceMode::Delta } else { joined }).collect())
            }
        };
        // The spaces that were left are found when the cursor is issued.
        self.walk = Some(WalkState {
            target,
            last: Position::START,
            spaces,
            left: Vec::new(),
            resumed_at: Position::START,
            base_is_cut: false,
        });
    }

    /// Whether a row of the walk has been read.
    fn is_under_way(&self) -> bool {
        self.walk.as_ref().is_some_and(|walk| walk.last != Position::START)
    }

    /// Whether the reader has everything that `now` covers when the walk ends.
    fn leads_to(&self, now: &LocalCoverage) -> bool {
        self.walk.as_ref().is_some_and(|walk| walk.target.contains(now) && !walk.spaces.contains(&SpaceMode::Skip))
    }

    /// Returns [`Page::known_spaces`] and [`Page::is_in`] for a page that ends with the cursor of this state.
    fn spaces(&self) -> (KnownSpaces, Vec<bool>) {
        let is_in: Vec<bool> = match &self.walk {
            Some(walk) => walk.spaces.iter().map(|mode| *mode != SpaceMode::Skip).collect(),
            None => self.covered.clone(),
        };
        let known = match &self.told {
            None => KnownSpaces::Nothing,
            Some(told) if told.of_scope == is_in && told.count == is_in.iter().filter(|is_in| **is_in).count() => {
                KnownSpaces::Same
            }
            Some(_) => KnownSpaces::Others,
        };
        (known, is_in)
    }

    /// Ends the walk. Returns whether the reader then has everything that `now` covers.
    fn finish(&mut self, now: &LocalCoverage) -> bool {
        let Some(walk) = self.walk.take() else { return true };
        self.covered = walk.spaces.iter().map(|&space| space != SpaceMode::Skip).collect();
        self.cursor_spaces.clear();
        self.created_after = None;
        self.may_hold_records = false;
        let is_at_target = walk.target.contains(now);
        let coverage = match self.coverage.take() {
            Some(coverage) => coverage.union(&walk.target),
            None => walk.target,
        };
        // One more walk reads a space that joined in the middle of this one, if this server can show its rows.
        let has_joins = self.covered.contains(&false) && now.contains(&coverage);
        self.coverage = Some(coverage);
        is_at_target && !has_joins
    }
}
