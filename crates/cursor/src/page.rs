//! A page of changes: from a cursor to the next.
//!
//! At rest, a pull returns the rows that the server's snapshot sees and the cursor does not, and the
//! new cursor is the union of both. A pull that is longer than a page becomes a walk, whose target
//! stays fixed from page to page.
//!
//! A walk reads the reader's own rows and each space of the scope in parts, every part in the order
//! of the log, and merges them:
//!
//! | part | from | rows |
//! |---|---|---|
//! | own | the cursor | the reader's own, but those in spaces that joined |
//! | a space that the cursor covers | the cursor | other users' |
//! | a space that joined since | the beginning | everybody's |
//!
//! In a walk that starts at the beginning of the log nothing has been seen before, and every space
//! is read as a covered one.

use crate::Position;
use crate::codec;
use crate::cursor::{Cursor, Walk};
use crate::epoch::{Coverage, LocalCoverage, Resolution, Server};
use crate::hash::Secret;
use crate::plan::Plan;
use crate::resync::{Purges, has_every_purge};
use crate::scan::{Filter, Source, Stream, StreamScan, merge_scans};
use crate::snapshot::Snapshot;
use std::borrow::Cow;

/// Who pulls, and what.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The user.
    pub user: &'a [u8],
    /// The app.
    pub app: &'a [u8],
    /// The spaces of the scope, each once.
    pub spaces: &'a [&'a [u8]],
    /// Only this table.
    pub table: Option<&'a [u8]>,
    /// At most so many rows; at least 1.
    pub page_size: usize,
    /// Whether a page without rows has a cursor too. To make one takes time for each space.
    pub cursor_without_rows: bool,
    /// How many bytes the cursor has for the open transactions that it names; for tests. `None` is
    /// [`codec::room_for_open`].
    pub room: Option<usize>,
}

/// Where to begin.
#[derive(Clone, Debug)]
pub enum Start {
    /// Before the first row; with a time, only rows with `created_at` after it, in this walk.
    Beginning(Option<i64>),
    /// At a cursor.
    Cursor(Box<Cursor>),
}

/// Takes the rows of a page, in the order of the log.
pub trait Rows<R> {
    /// Takes a row; or does not, and says false, where the page has no room left for it. A page takes at least one.
    fn take(&mut self, row: R) -> bool;
}

impl<R> Rows<R> for Vec<R> {
    fn take(&mut self, row: R) -> bool {
        self.push(row);
        true
    }
}

/// What a page says besides its rows.
#[derive(Debug)]
pub struct Page {
    /// Where to go on; `None` means where the page began: this server cannot tell more for now, or there is no row and no
    /// cursor was wanted then.
    pub cursor: Option<Cursor>,
    /// Whether the page was filled, so that there may be more now.
    pub more: bool,
}

/// Why a reader has to begin again, from the beginning and with nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resync {
    /// The cursor is from this server's own future: the server went back in time.
    Future,
    /// The cursor has not seen a delete that was purged.
    Purged,
}

/// Why there is no page.
#[derive(Debug, PartialEq, Eq)]
pub enum Error<E> {
    /// The reader has to begin again.
    Resync(Resync),
    /// The log could not be read.
    Source(E),
}

/// So many rows are asked for at once, at most: the memory of a call is that of a page's text, not of its number of rows.
const PORTION: usize = 5000;

/// Reads the page of the log that follows `start`, into `rows`.
///
/// `now` is the snapshot that `source` reads with, and `lsn` a position in the write-ahead log that
/// was read after it; `purges` is of the same snapshot. `server` was read no earlier, and `now` was taken on the history that `server` is on.
pub fn read_page<S: Source>(
    server: &Server,
    (now, lsn): (Snapshot, u64),
    request: &Request<'_>,
    start: Start,
    source: &mut S,
    purges: &mut impl Purges,
    rows: &mut impl Rows<S::Row>,
) -> Result<Page, Error<S::Error>> {
    let Some(now) = server.local_coverage(now, lsn) else {
        // No epoch: nothing in this log has been committed, or replayed by this standby. A cursor may
        // come from a transaction that is prepared.
        return match start {
            Start::Cursor(_) => Ok(unchanged()),
            Start::Beginning(_) => Ok(Page { cursor: Some(Cursor::default()), more: false }),
        };
    };
    let mut state = match ReaderState::at(server, request, &start, purges) {
        Resumption::Ready(state) => *state,
        Resumption::Wait => return Ok(unchanged()),
        Resumption::Resync(why) => return Err(Error::Resync(why)),
    };
    // The reader has seen a later epoch than this snapshot is of, or is in a walk to a state that
    // this server has not reached in full: it shows no rows, for it could not show all.
    if state.coverage.as_ref().is_some_and(|coverage| coverage.coverage.order() > now.coverage.order())
        || state.walk.as_ref().is_some_and(|active| !now.contains(&active.target))
    {
        return Ok(unchanged());
    }
    // Only now: a standby that lags does not know of the latest purges.
    if state.stale {
        return Err(Error::Resync(Resync::Purged));
    }
    let mut taken = 0;
    // Where to go on if the page has no room for the first row of a walk that it begins: at the end of the walk before. The state
    // between two walks will not do. A cursor for it gives up what it has no room for, and the reader would come back to it for ever.
    let mut before = None;
    loop {
        if state.walk.is_none() {
            state.start(&now);
        }
        let room = (request.page_size - taken).min(PORTION);
        let found = state.read(room, source).map_err(Error::Source)?;
        let is_full = found.len() == room;
        for (position, row) in found {
            if !rows.take(row) {
                let cursor = match before {
                    Some(before) if !state.is_under_way() => before,
                    _ => state.cursor(server, request),
                };
                return Ok(Page { cursor: Some(cursor), more: true });
            }
            taken += 1;
            if let Some(active) = &mut state.walk {
                active.last = position;
            }
        }
        if taken == request.page_size {
            return Ok(Page { cursor: Some(state.cursor(server, request)), more: true });
        }
        if is_full {
            continue;
        }
        if taken > 0 && state.is_under_way() && !state.leads_to(&now) {
            before = Some(state.cursor(server, request));
        }
        if state.finish(&now) {
            let wanted = request.cursor_without_rows || taken > 0;
            return Ok(Page { cursor: wanted.then(|| state.cursor(server, request)), more: false });
        }
    }
}

/// Whether a reader can go on from `start`.
pub fn check(server: &Server, request: &Request<'_>, start: &Start, purges: &mut impl Purges) -> Result<(), Resync> {
    match ReaderState::at(server, request, start, purges) {
        Resumption::Ready(state) if state.stale => Err(Resync::Purged),
        Resumption::Ready(_) | Resumption::Wait => Ok(()),
        Resumption::Resync(why) => Err(why),
    }
}

fn unchanged() -> Page {
    Page { cursor: None, more: false }
}

/// What a walk does with a space of the scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SpaceMode {
    /// Covered by the cursor, or seen from the beginning together with everything else.
    Delta,
    /// Read from the beginning although the rest is not.
    Whole,
    /// Not in this walk; the next one brings it from the beginning.
    Skip,
}

struct WalkState {
    target: LocalCoverage,
    last: Position,
    /// For each space of the scope.
    spaces: Vec<SpaceMode>,
    /// Hashes of spaces that the cursor covers, and that this walk does not read to its end.
    left: Vec<u64>,
}

struct ReaderState {
    coverage: Option<LocalCoverage>,
    /// Hashes of the spaces that `seen` covers, where it came from a cursor.
    hashes: Vec<u64>,
    /// Hashes of the spaces of the scope, with the key that they were made with: that of the cursor.
    scope: Option<(Secret, Vec<u64>)>,
    /// For each space of the scope, whether `seen` covers it.
    covered: Vec<bool>,
    walk: Option<WalkState>,
    after: Option<i64>,
    /// Mark of the latest purge.
    purges: u64,
    /// Whether the reader may hold what was deleted, and the delete purged, before it could see it.
    stale: bool,
}

/// A hash for each space of the scope.
fn scope_hashes(secret: &Secret, request: &Request<'_>) -> Vec<u64> {
    request.spaces.iter().map(|id| secret.space(id)).collect()
}

enum Resumption {
    Ready(Box<ReaderState>),
    Wait,
    Resync(Resync),
}

impl ReaderState {
    fn at(server: &Server, request: &Request<'_>, start: &Start, purges: &mut impl Purges) -> Resumption {
        match start {
            Start::Beginning(after) => {
                let stale = after.is_some_and(|after| {
                    // A reader from before the first row has nothing, and so no record whose delete was purged.
                    let had_rows = server.began().into_iter().chain(purges.purged_from()).any(|began| began <= after);
                    had_rows && purges.purged_until() > Some(after)
                });
                Resumption::Ready(Box::new(ReaderState {
                    after: *after,
                    stale,
                    ..ReaderState::beginning(request, purges)
                }))
            }
            Start::Cursor(cursor) => ReaderState::resume(server, request, (**cursor).clone(), purges),
        }
    }

    fn beginning(request: &Request<'_>, purges: &mut impl Purges) -> ReaderState {
        let covered = vec![false; request.spaces.len()];
        ReaderState {
            coverage: None,
            hashes: Vec::new(),
            scope: None,
            covered,
            walk: None,
            after: None,
            purges: purges.mark(),
            stale: false,
        }
    }

    fn resume(server: &Server, request: &Request<'_>, mut cursor: Cursor, purges: &mut impl Purges) -> Resumption {
        let resolve = |coverage: &Coverage| match server.resolve(coverage) {
            Resolution::Shared(local) => Ok(Some(local)),
            Resolution::Foreign => Ok(None),
            Resolution::NotReplayed => Err(Resumption::Wait),
            Resolution::Future => Err(Resumption::Resync(Resync::Future)),
        };
        let coverage = match cursor.coverage.as_ref().map(&resolve).transpose() {
            Ok(coverage) => coverage,
            Err(resumed) => return resumed,
        };
        // A cursor of another history counts for nothing.
        let foreign = coverage == Some(None);
        let target = match cursor.walk.as_ref().filter(|_| !foreign).map(|walk| resolve(&walk.target)).transpose() {
            Ok(target) => target.flatten(),
            Err(resumed) => return resumed,
        };
        let secret = cursor.key().map(|epoch| server.secret(epoch));
        let other = |secret: &Secret| cursor.reader != secret.reader(request.user, request.app);
        if secret.is_none() || secret.flatten().is_some_and(other) {
            return Resumption::Ready(Box::new(ReaderState::beginning(request, purges)));
        }
        let coverage = coverage.flatten();
        let stale = !has_every_purge(&cursor, coverage.as_ref(), target.as_ref(), purges);
        let Some(secret) = secret.flatten().filter(|_| !foreign) else {
            return Resumption::Ready(Box::new(ReaderState { stale, ..ReaderState::beginning(request, purges) }));
        };
        if target.is_none() {
            cursor.walk = None;
        }
        if cursor.walk.as_ref().is_some_and(|walk| walk.table != secret.table(request.table)) {
            cursor.walk = None;
        }
        let scope = scope_hashes(secret, request);
        let covered: Vec<bool> = scope.iter().map(|hash| cursor.spaces.binary_search(hash).is_ok()).collect();
        let mut state = ReaderState {
            coverage,
            hashes: cursor.spaces,
            scope: None,
            covered,
            walk: None,
            after: None,
            purges: purges.mark(),
            stale,
        };
        if let (Some(walk), Some(target)) = (cursor.walk, target) {
            let mut present = scope.clone();
            present.sort_unstable();
            let mut left = walk.left;
            left.extend(state.hashes.iter().filter(|hash| present.binary_search(hash).is_err()));
            left.sort_unstable();
            left.dedup();
            let from_beginning = state.coverage.is_none();
            let spaces = scope.iter().zip(&state.covered).map(|(hash, &covered)| {
                if covered && left.binary_search(hash).is_err() {
                    SpaceMode::Delta
                } else if walk.joined.binary_search(hash).is_err() {
                    SpaceMode::Skip
                } else if from_beginning {
                    SpaceMode::Delta
                } else {
                    SpaceMode::Whole
                }
            });
            state.walk = Some(WalkState { target, last: walk.last, spaces: spaces.collect(), left });
            state.after = walk.after;
        }
        state.scope = Some((*secret, scope));
        Resumption::Ready(Box::new(state))
    }

    /// Begins the walk to `now`.
    fn start(&mut self, now: &LocalCoverage) {
        let (target, spaces) = match &self.coverage {
            None => (now.clone(), vec![SpaceMode::Delta; self.covered.len()]),
            Some(coverage) => {
                // A space is covered only by a server that sees all that has been seen: of what the
                // cursor alone has seen, this server could not show the space's rows.
                let (target, joins) = match now.contains(coverage) {
                    // A standby's snapshot names subtransactions as open that the cursor knows nothing of.
                    true => (now.union(coverage), SpaceMode::Whole),
                    false => (now.clone(), SpaceMode::Skip),
                };
                (target, self.covered.iter().map(|&covered| if covered { SpaceMode::Delta } else { joins }).collect())
            }
        };
        // The hashes that are in no space of the scope are found when the cursor is made.
        self.walk = Some(WalkState { target, last: Position::START, spaces, left: Vec::new() });
    }

    /// The next rows of the walk: `room` of them, or fewer where there are no more.
    fn read<S: Source>(&self, room: usize, source: &mut S) -> Result<Vec<(Position, S::Row)>, S::Error> {
        let Some(active) = &self.walk else { return Ok(Vec::new()) };
        let delta = Plan::new(self.coverage.as_ref(), &active.target);
        let whole = Plan::new(None, &active.target);
        let mut scans = Vec::new();
        let mut add = |part, plan| scans.extend(StreamScan::of(part, plan, active.last));
        add(Stream::Own, &delta);
        let mut filter =
            Filter { excluded_from_own: Vec::new(), after: self.after, from_beginning: self.coverage.is_none() };
        for (index, mode) in active.spaces.iter().enumerate() {
            match mode {
                SpaceMode::Delta if delta.is_empty() => {}
                SpaceMode::Delta => add(Stream::Space { index, with_own: false }, &delta),
                SpaceMode::Whole => {
                    add(Stream::Space { index, with_own: true }, &whole);
                    filter.excluded_from_own.push(index);
                }
                SpaceMode::Skip => {}
            }
        }
        let mut found = merge_scans(scans, 1 + active.spaces.len(), room, &filter, source)?;
        found.truncate(room);
        Ok(found)
    }

    /// Whether a row of the walk has been read.
    fn is_under_way(&self) -> bool {
        self.walk.as_ref().is_some_and(|active| active.last != Position::START)
    }

    /// Whether the reader will have seen all that `now` sees at the end of the walk.
    fn leads_to(&self, now: &LocalCoverage) -> bool {
        self.walk
            .as_ref()
            .is_some_and(|active| active.target.contains(now) && !active.spaces.contains(&SpaceMode::Skip))
    }

    /// Ends the walk; true if the reader has then seen all that `now` sees.
    fn finish(&mut self, now: &LocalCoverage) -> bool {
        let Some(active) = self.walk.take() else { return true };
        self.covered = active.spaces.iter().map(|&space| space != SpaceMode::Skip).collect();
        self.hashes.clear();
        self.after = None;
        let at_target = active.target.contains(now);
        let coverage = match self.coverage.take() {
            Some(coverage) => coverage.union(&active.target),
            None => active.target,
        };
        // A space that was joined in the middle of the walk is read in one more, if this server can.
        let joins = self.covered.contains(&false) && now.contains(&coverage);
        self.coverage = Some(coverage);
        at_target && !joins
    }

    fn cursor(&self, server: &Server, request: &Request<'_>) -> Cursor {
        let mut cursor = Cursor {
            reader: 0,
            coverage: self.coverage.as_ref().map(|local| local.coverage.clone()),
            spaces: Vec::new(),
            purges: self.purges,
            walk: self.walk.as_ref().map(|active| Walk {
                target: active.target.coverage.clone(),
                last: active.last,
                joined: Vec::new(),
                left: Vec::new(),
                table: 0,
                after: self.after,
            }),
        };
        // Every state named here came from `server` or is shared with it.
        let Some(secret) = cursor.key().and_then(|epoch| server.secret(epoch)) else { return Cursor::default() };
        let scope = match &self.scope {
            Some((key, hashes)) if key == secret => Cow::Borrowed(hashes),
            _ => Cow::Owned(scope_hashes(secret, request)),
        };
        let hashes = |chosen: &dyn Fn(usize) -> bool| {
            let spaces = scope.iter().enumerate().filter(|(i, _)| chosen(*i));
            let mut hashes: Vec<u64> = spaces.map(|(_, &hash)| hash).collect();
            hashes.sort_unstable();
            hashes.dedup();
            hashes
        };
        cursor.reader = secret.reader(request.user, request.app);
        cursor.spaces = hashes(&|i| self.covered[i]);
        if let (Some(walk), Some(active)) = (&mut cursor.walk, &self.walk) {
            walk.table = secret.table(request.table);
            walk.joined = hashes(&|i| active.spaces[i] != SpaceMode::Skip && !self.covered[i]);
            // Spaces that have been left meanwhile stay in the cursor, so that going back to where
            // the walk began brings nothing twice; they are marked, so that its end does not cover them.
            if !self.hashes.is_empty() {
                let current = std::mem::replace(&mut cursor.spaces, self.hashes.clone());
                walk.left = active.left.clone();
                walk.left.extend(self.hashes.iter().filter(|hash| current.binary_search(hash).is_err()));
                walk.left.sort_unstable();
                walk.left.dedup();
            }
        }
        self.cut(&mut cursor, request);
        cursor
    }

    /// Leaves out the open transactions that the cursor has no room for.
    fn cut(&self, cursor: &mut Cursor, request: &Request<'_>) {
        // By the scope and not by what the cursor covers of it: of two cursors for the same scope the later one is
        // not cut earlier.
        let room = request.room.unwrap_or_else(|| codec::room_for_open(request.spaces.len()));
        let needed = |local: &LocalCoverage| {
            local.coverage.snapshot.open().partition_point(|&xact| xact < local.must_name_below())
        };
        if let (Some(coverage), Some(local)) = (&mut cursor.coverage, &self.coverage) {
            let fitting = codec::fitting(coverage.snapshot.open(), room, self.walk.is_some());
            coverage.snapshot = coverage.snapshot.cut(fitting.max(needed(local)));
        }
        if let (Some(walk), Some(active)) = (&mut cursor.walk, &self.walk) {
            // At least all that were open below the last row, however many: otherwise the end of the walk
            // would be the state that it began from.
            let snapshot = &walk.target.snapshot;
            let passed = match walk.target.epoch.number == walk.last.epoch {
                true => snapshot.open().partition_point(|&xact| xact <= walk.last.xact),
                false => 0,
            };
            let known = cursor.coverage.as_ref().map_or(&[][..], |coverage| coverage.snapshot.open());
            let fitting = codec::fitting_target(snapshot.open(), known, room);
            walk.target.snapshot = snapshot.cut(fitting.max(needed(&active.target)).max(passed));
            // What the walk began from stays seen at its end: of spaces that it reads from the beginning,
            // nothing comes after that.
            if let (Some(coverage), Some(local)) = (&cursor.coverage, &self.coverage) {
                if local.coverage.order() == active.target.coverage.order() && active.target.contains(local) {
                    walk.target.snapshot = walk.target.snapshot.union(&coverage.snapshot);
                }
            }
        }
    }
}
