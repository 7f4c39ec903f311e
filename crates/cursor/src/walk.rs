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
use crate::cursor::{Cursor, Walk};
use crate::history::{Seen, Server, Standing, View};
use crate::plan::{Plan, Range};
use crate::snapshot::Snapshot;
use crate::text;

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
    /// How many bytes the cursor has for the open transactions that it names; for tests. `None` is
    /// [`text::room_for_open`].
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

/// A part of the log that can be read in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The reader's own rows.
    Own,
    /// The rows of a space.
    Space {
        /// Its place in [`Request::spaces`].
        index: usize,
        /// Whether the reader's own rows in it are wanted too.
        with_own: bool,
    },
}

/// A range of a part to read.
#[derive(Clone, Copy, Debug)]
pub struct Fetch {
    /// Of which part.
    pub part: Part,
    /// Which of its rows.
    pub range: Range,
    /// At most so many rows.
    pub limit: usize,
    /// Only to learn where the next row of the user or space is: the filter does not count, nor whose
    /// rows the part wants.
    pub scout: bool,
}

/// What all fetches of a walk leave out.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Places in [`Request::spaces`] whose rows [`Part::Own`] leaves out.
    pub own_except: Vec<usize>,
    /// Rows with `created_at` not after this are left out.
    pub after: Option<i64>,
    /// Whether the walk started at the beginning of the log.
    pub from_beginning: bool,
}

/// The log as one snapshot sees it.
pub trait Source {
    /// A row.
    type Row;
    /// Why it could not be read.
    type Error;

    /// Reads each range in order of position and hands its rows to `take` with the place of the
    /// fetch in `fetches`. A range with fewer rows than its limit has no more.
    fn fetch(
        &mut self,
        fetches: &[Fetch],
        filter: &Filter,
        take: &mut dyn FnMut(usize, Position, Self::Row),
    ) -> Result<(), Self::Error>;
}

/// A page.
#[derive(Debug)]
pub struct Page<R> {
    /// The rows, in the order of the log.
    pub rows: Vec<R>,
    /// Where to go on; `None` means where the page began: this server cannot tell more for now.
    pub cursor: Option<Cursor>,
    /// Whether the page was filled, so that there may be more now.
    pub more: bool,
}

/// Why there is no page.
#[derive(Debug, PartialEq, Eq)]
pub enum Error<E> {
    /// The cursor is from this server's own future: the server went back in time.
    Future,
    /// The log could not be read.
    Source(E),
}

/// Reads the page of the log that follows `start`.
///
/// `now` is the snapshot that `source` reads with, and `lsn` a position in the write-ahead log that
/// was read after it. `server` was read no earlier, and `now` was taken on the history that `server` is on.
pub fn read_page<S: Source>(
    server: &Server,
    (now, lsn): (Snapshot, u64),
    request: &Request<'_>,
    start: Start,
    source: &mut S,
) -> Result<Page<S::Row>, Error<S::Error>> {
    let Some(now) = server.view(now, lsn) else {
        // No epoch: nothing in this log has been committed, or replayed by this standby. A cursor may
        // come from a transaction that is prepared.
        return match start {
            Start::Cursor(_) => Ok(unchanged()),
            Start::Beginning(_) => Ok(Page { rows: Vec::new(), cursor: Some(Cursor::default()), more: false }),
        };
    };
    let mut state = match start {
        Start::Beginning(after) => State { after, ..State::beginning(request) },
        Start::Cursor(cursor) => match State::resume(server, request, *cursor) {
            Resumed::At(state) => *state,
            Resumed::NotYet => return Ok(unchanged()),
            Resumed::Future => return Err(Error::Future),
        },
    };
    // The reader has seen a later epoch than this snapshot is of, or is in a walk to a state that
    // this server has not reached in full: it shows no rows, for it could not show all.
    if state.seen.as_ref().is_some_and(|seen| seen.seen.order() > now.seen.order())
        || state.walking.as_ref().is_some_and(|walking| !now.contains(&walking.target))
    {
        return Ok(unchanged());
    }
    let mut rows = Vec::new();
    loop {
        if state.walking.is_none() {
            state.start(&now);
        }
        let room = request.page_size.saturating_sub(rows.len());
        let last = state.read(room, source, &mut rows).map_err(Error::Source)?;
        if let Some(last) = last {
            // A full page: go on from its last row.
            if let Some(walking) = &mut state.walking {
                walking.last = last;
            }
            return Ok(Page { rows, cursor: Some(state.cursor(server, request)), more: true });
        }
        if state.finish(&now) {
            return Ok(Page { rows, cursor: Some(state.cursor(server, request)), more: false });
        }
    }
}

/// Whether a cursor is from this server's own future: the server went back in time.
pub fn is_from_future(server: &Server, cursor: &Cursor) -> bool {
    let states = cursor.seen.iter().chain(cursor.walk.iter().map(|walk| &walk.target));
    states.into_iter().any(|seen| server.standing(seen) == Standing::Future)
}

fn unchanged<R>() -> Page<R> {
    Page { rows: Vec::new(), cursor: None, more: false }
}

/// What a walk does with a space of the scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Membership {
    /// Covered by the cursor, or seen from the beginning together with everything else.
    Kept,
    /// Read from the beginning although the rest is not.
    Joined,
    /// Not in this walk; the next one brings it from the beginning.
    Later,
}

struct Walking {
    target: View,
    last: Position,
    /// For each space of the scope.
    spaces: Vec<Membership>,
    /// Hashes of spaces that the cursor covers, and that this walk does not read to its end.
    left: Vec<u64>,
}

struct State {
    seen: Option<View>,
    /// Hashes of the spaces that `seen` covers, where it came from a cursor.
    hashes: Vec<u64>,
    /// For each space of the scope, whether `seen` covers it.
    covered: Vec<bool>,
    walking: Option<Walking>,
    after: Option<i64>,
}

enum Resumed {
    At(Box<State>),
    NotYet,
    Future,
}

impl State {
    fn beginning(request: &Request<'_>) -> State {
        State { seen: None, hashes: Vec::new(), covered: vec![false; request.spaces.len()], walking: None, after: None }
    }

    fn resume(server: &Server, request: &Request<'_>, mut cursor: Cursor) -> Resumed {
        let beginning = || Resumed::At(Box::new(State::beginning(request)));
        let resolve = |seen: &Seen| match server.standing(seen) {
            Standing::Shared(view) => Ok(Some(view)),
            Standing::Foreign => Ok(None),
            Standing::NotYet => Err(Resumed::NotYet),
            Standing::Future => Err(Resumed::Future),
        };
        let seen = match cursor.seen.as_ref().map(&resolve).transpose() {
            Ok(Some(None)) => return beginning(),
            Ok(seen) => seen.flatten(),
            Err(resumed) => return resumed,
        };
        let target = match cursor.walk.as_ref().map(|walk| resolve(&walk.target)).transpose() {
            Ok(target) => target.flatten(),
            Err(resumed) => return resumed,
        };
        if target.is_none() {
            cursor.walk = None;
        }
        let Some(secret) = cursor.key().and_then(|epoch| server.secret(epoch)) else {
            return beginning();
        };
        if cursor.reader != secret.reader(request.user, request.app) {
            return beginning();
        }
        if cursor.walk.as_ref().is_some_and(|walk| walk.table != secret.table(request.table)) {
            cursor.walk = None;
        }
        let scope: Vec<u64> = request.spaces.iter().map(|id| secret.space(id)).collect();
        let covered: Vec<bool> = scope.iter().map(|hash| cursor.spaces.binary_search(hash).is_ok()).collect();
        let mut state = State { seen, hashes: cursor.spaces, covered, walking: None, after: None };
        if let (Some(walk), Some(target)) = (cursor.walk, target) {
            let mut present = scope.clone();
            present.sort_unstable();
            let mut left = walk.left;
            left.extend(state.hashes.iter().filter(|hash| present.binary_search(hash).is_err()));
            left.sort_unstable();
            left.dedup();
            let from_beginning = state.seen.is_none();
            let spaces = scope.iter().zip(&state.covered).map(|(hash, &covered)| {
                if covered && left.binary_search(hash).is_err() {
                    Membership::Kept
                } else if walk.joined.binary_search(hash).is_err() {
                    Membership::Later
                } else if from_beginning {
                    Membership::Kept
                } else {
                    Membership::Joined
                }
            });
            state.walking = Some(Walking { target, last: walk.last, spaces: spaces.collect(), left });
            state.after = walk.after;
        }
        Resumed::At(Box::new(state))
    }

    /// Begins the walk to `now`.
    fn start(&mut self, now: &View) {
        let (target, spaces) = match &self.seen {
            None => (now.clone(), vec![Membership::Kept; self.covered.len()]),
            Some(seen) => {
                // A space is covered only by a server that sees all that has been seen: of what the
                // cursor alone has seen, this server could not show the space's rows.
                let (target, joins) = match now.contains(seen) {
                    // A standby's snapshot names subtransactions as open that the cursor knows nothing of.
                    true => (now.union(seen), Membership::Joined),
                    false => (now.clone(), Membership::Later),
                };
                (target, self.covered.iter().map(|&covered| if covered { Membership::Kept } else { joins }).collect())
            }
        };
        // The hashes that are in no space of the scope are found when the cursor is made.
        self.walking = Some(Walking { target, last: Position::START, spaces, left: Vec::new() });
    }

    /// Reads rows of the walk until there are `room`, and returns the last one's position then.
    fn read<S: Source>(
        &self,
        room: usize,
        source: &mut S,
        rows: &mut Vec<S::Row>,
    ) -> Result<Option<Position>, S::Error> {
        let Some(walking) = &self.walking else { return Ok(None) };
        let delta = Plan::new(self.seen.as_ref(), &walking.target);
        let whole = Plan::new(None, &walking.target);
        let mut stretches = Vec::new();
        let mut add = |part, plan| stretches.extend(Stretch::of(part, plan, walking.last));
        add(Part::Own, &delta);
        let mut filter = Filter { own_except: Vec::new(), after: self.after, from_beginning: self.seen.is_none() };
        for (index, membership) in walking.spaces.iter().enumerate() {
            match membership {
                Membership::Kept => add(Part::Space { index, with_own: false }, &delta),
                Membership::Joined => {
                    add(Part::Space { index, with_own: true }, &whole);
                    filter.own_except.push(index);
                }
                Membership::Later => {}
            }
        }
        let mut found = merge(stretches, 1 + walking.spaces.len(), room, &filter, source)?;
        found.truncate(room);
        let last = found.last().map(|(position, _)| *position).filter(|_| found.len() == room);
        rows.extend(found.into_iter().map(|(_, row)| row));
        Ok(last)
    }

    /// Ends the walk; true if the reader has then seen all that `now` sees.
    fn finish(&mut self, now: &View) -> bool {
        let Some(walking) = self.walking.take() else { return true };
        self.covered = walking.spaces.iter().map(|&space| space != Membership::Later).collect();
        self.hashes.clear();
        self.after = None;
        let at_target = walking.target.contains(now);
        let seen = match self.seen.take() {
            Some(seen) => seen.union(&walking.target),
            None => walking.target,
        };
        // A space that was joined in the middle of the walk is read in one more, if this server can.
        let joins = self.covered.contains(&false) && now.contains(&seen);
        self.seen = Some(seen);
        at_target && !joins
    }

    fn cursor(&self, server: &Server, request: &Request<'_>) -> Cursor {
        let mut cursor = Cursor {
            reader: 0,
            seen: self.seen.as_ref().map(|view| view.seen.clone()),
            spaces: Vec::new(),
            walk: self.walking.as_ref().map(|walking| Walk {
                target: walking.target.seen.clone(),
                last: walking.last,
                joined: Vec::new(),
                left: Vec::new(),
                table: 0,
                after: self.after,
            }),
        };
        // Every state named here came from `server` or is shared with it.
        let Some(secret) = cursor.key().and_then(|epoch| server.secret(epoch)) else { return Cursor::default() };
        let hashes = |chosen: &dyn Fn(usize) -> bool| {
            let spaces = request.spaces.iter().enumerate().filter(|(i, _)| chosen(*i));
            let mut hashes: Vec<u64> = spaces.map(|(_, id)| secret.space(id)).collect();
            hashes.sort_unstable();
            hashes.dedup();
            hashes
        };
        cursor.reader = secret.reader(request.user, request.app);
        cursor.spaces = hashes(&|i| self.covered[i]);
        if let (Some(walk), Some(walking)) = (&mut cursor.walk, &self.walking) {
            walk.table = secret.table(request.table);
            walk.joined = hashes(&|i| walking.spaces[i] != Membership::Later && !self.covered[i]);
            // Spaces that have been left meanwhile stay in the cursor, so that going back to where
            // the walk began brings nothing twice; they are marked, so that its end does not cover them.
            if !self.hashes.is_empty() {
                let current = std::mem::replace(&mut cursor.spaces, self.hashes.clone());
                walk.left = walking.left.clone();
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
        let room = request.room.unwrap_or_else(|| text::room_for_open(request.spaces.len()));
        let needed = |view: &View| view.seen.snapshot.open().partition_point(|&xact| xact < view.named_below());
        if let (Some(seen), Some(view)) = (&mut cursor.seen, &self.seen) {
            let fitting = text::fitting(seen.snapshot.open(), room, self.walking.is_some());
            seen.snapshot = seen.snapshot.cut(fitting.max(needed(view)));
        }
        if let (Some(walk), Some(walking)) = (&mut cursor.walk, &self.walking) {
            // At least all that were open below the last row, however many: otherwise the end of the walk
            // would be the state that it began from.
            let snapshot = &walk.target.snapshot;
            let passed = match walk.target.epoch.number == walk.last.epoch {
                true => snapshot.open().partition_point(|&xact| xact <= walk.last.xact),
                false => 0,
            };
            let known = cursor.seen.as_ref().map_or(&[][..], |seen| seen.snapshot.open());
            let fitting = text::fitting_target(snapshot.open(), known, room);
            walk.target.snapshot = snapshot.cut(fitting.max(needed(&walking.target)).max(passed));
            // What the walk began from stays seen at its end: of spaces that it reads from the beginning,
            // nothing comes after that.
            if let (Some(seen), Some(view)) = (&cursor.seen, &self.seen) {
                if view.seen.order() == walking.target.seen.order() && walking.target.contains(view) {
                    walk.target.snapshot = walk.target.snapshot.union(&seen.snapshot);
                }
            }
        }
    }
}

/// However small the page: rows that the walk does not want may lie before those that it wants (of a
/// batch that was open when its target was fixed).
const LEAST_DOUBLED: usize = 64;
/// A scout asks for this many rows at first, and for no more than this.
const SCOUT: (usize, usize) = (8, 64);
/// A round has not many more fetches than this; the stretches behind it wait for the next.
const MOST_FETCHES: usize = 20_000;
/// A scout pays if it passes over a range for each so many rows: reading on in an index costs less than a descent.
const ROWS_A_DESCENT: usize = 4;

/// Some ranges of a part, as far as they have been read in this call.
struct Stretch<'a> {
    part: Part,
    plan: &'a Plan<'a>,
    /// Those that are read next.
    next: Vec<Range>,
    /// Those behind them.
    rest: &'a [Range],
    /// How many rows the scout asks for that looks through `rest`. Most of its ranges are empty, and where the next rows
    /// of the part are tells which. Without a scout (0) they are read one after the other.
    scout: usize,
    /// How many ranges of `rest` are read without knowing whether they are empty.
    width: usize,
    /// How many rows of each range are asked for.
    limit: usize,
}

impl<'a> Stretch<'a> {
    /// What a walk reads of a part after `last`.
    fn of(part: Part, plan: &'a Plan<'a>, last: Position) -> impl Iterator<Item = Stretch<'a>> {
        let finished =
            plan.finished.iter().map(|ranges| (ranges.as_slice(), if ranges.len() > 1 { SCOUT.0 } else { 0 }));
        let all = finished.chain([(plan.younger.as_slice(), 0)]);
        all.map(move |(ranges, scout)| {
            let rest = after(ranges, last.next());
            let mut stretch = Stretch { part, plan, next: Vec::new(), rest, scout, width: 1, limit: 0 };
            // The walk may stand within the first one.
            if let Some(first) = rest.first().and_then(|range| range.since(last.next())) {
                if scout == 0 || first != rest[0] {
                    stretch.next.push(first);
                    stretch.rest = &rest[1..];
                }
            }
            stretch
        })
    }

    /// What the next round reads, as far as it does not begin after `bound`.
    fn fetches(&mut self, share: usize, room: usize, bound: Position) -> Vec<Fetch> {
        self.limit = self.limit.max(share).min(room.max(LEAST_DOUBLED));
        let (part, limit) = (self.part, self.limit);
        let near = |range: &&Range| range.from <= bound;
        let mut fetches: Vec<Fetch> =
            self.next.iter().take_while(near).map(|&range| Fetch { part, range, limit, scout: false }).collect();
        if self.scout > 0 && fetches.len() == self.next.len() {
            if let (Some(first), Some(last)) = (self.rest.first().filter(near), self.rest.last()) {
                let range = Range { from: first.from, to: last.to };
                fetches.push(Fetch { part, range, limit: self.scout, scout: true });
            }
        }
        fetches
    }

    /// Goes on after the rows of these fetches, and tells which of them are new.
    fn advance<R>(&mut self, fetches: &[Fetch], rows: Vec<Vec<(Position, R)>>, found: &mut Vec<(Position, R)>) {
        let mut done = 0;
        for (fetch, rows) in fetches.iter().zip(rows) {
            let full = rows.len() == fetch.limit;
            if fetch.scout {
                self.next.clear();
                self.follow(rows.into_iter().map(|(position, _)| position).collect(), full);
                return;
            }
            let last = rows.last().map(|(position, _)| *position);
            found.extend(rows.into_iter().filter(|(position, _)| self.plan.wants(*position)));
            if let Some(last) = last.filter(|_| full) {
                // There may be more here. What was read behind it is read again.
                self.next.drain(..done);
                self.next[0].from = last.next();
                self.limit = self.limit.saturating_mul(2);
                return;
            }
            done += 1;
        }
        self.next.drain(..done);
        if self.next.is_empty() {
            self.take(self.width);
            self.width *= 2;
        }
    }

    /// Of the ranges that a scout has looked through only those are left in which it saw a row.
    fn follow(&mut self, seen: Vec<Position>, full: bool) {
        let end = if full { seen.last().map_or(Position::END, |last| last.next()) } else { Position::END };
        let passed = self.rest.partition_point(|range| Position::new(range.from.epoch, range.to, 0) <= end);
        let mut hit: Vec<Range> = Vec::new();
        for position in &seen {
            let range = after(self.rest, *position).first().filter(|range| range.from <= *position);
            hit.extend(range.filter(|range| hit.last() != Some(range)));
        }
        // The last one may go on behind what the scout has seen; it is read in full all the same.
        self.rest = &self.rest[passed.max(hit.last().map_or(0, |last| index_of(self.rest, last) + 1))..];
        self.next = hit;
        if passed * ROWS_A_DESCENT >= seen.len() {
            (self.scout, self.width) = ((2 * self.scout).min(SCOUT.1), 1);
        } else {
            // Rows everywhere: reading some ranges unseen costs less.
            self.take(self.width);
            (self.scout, self.width) = (SCOUT.0, 2 * self.width);
        }
    }

    /// Moves ranges from the rest to those that are read next.
    fn take(&mut self, count: usize) {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.next.extend_from_slice(taken);
        self.rest = rest;
    }
}

/// The ranges that end after a position.
fn after(ranges: &[Range], position: Position) -> &[Range] {
    &ranges[ranges.partition_point(|range| Position::new(range.from.epoch, range.to, 0) <= position)..]
}

/// Where a range is among others.
fn index_of(ranges: &[Range], range: &Range) -> usize {
    ranges.partition_point(|other| other.from < range.from)
}

/// The first `room` rows of all stretches in order, or more, or all there are.
///
/// Each round reads on, in one call, in those stretches that could still have a row among the first
/// `room`. A stretch reads twice as many rows of a range when there were more.
fn merge<S: Source>(
    mut stretches: Vec<Stretch<'_>>,
    parts: usize,
    room: usize,
    filter: &Filter,
    source: &mut S,
) -> Result<Vec<(Position, S::Row)>, S::Error> {
    // The rows of a page come from all parts alike, unless they do not: a little more than an equal
    // share each is enough for most.
    let share = match parts {
        0 | 1 => room,
        parts => room.div_ceil(parts).saturating_mul(5).div_ceil(4).saturating_add(2).min(room),
    };
    let mut found: Vec<(Position, S::Row)> = Vec::new();
    loop {
        // The room-th smallest position so far: what lies after it is not in the first `room`.
        let bound = match found.len() >= room {
            true => found.select_nth_unstable_by_key(room - 1, |(position, _)| *position).1.0,
            false => Position::END,
        };
        let mut fetches = Vec::new();
        let mut groups = Vec::new();
        for stretch in &mut stretches {
            let of_stretch = match fetches.len() < MOST_FETCHES {
                true => stretch.fetches(share, room, bound),
                false => Vec::new(),
            };
            groups.push(fetches.len()..fetches.len() + of_stretch.len());
            fetches.extend(of_stretch);
        }
        if fetches.is_empty() {
            found.sort_unstable_by_key(|(position, _)| *position);
            return Ok(found);
        }
        let mut rows: Vec<Vec<(Position, S::Row)>> = fetches.iter().map(|_| Vec::new()).collect();
        source.fetch(&fetches, filter, &mut |fetch, position, row| rows[fetch].push((position, row)))?;
        let mut rows = rows.into_iter();
        for (stretch, group) in stretches.iter_mut().zip(groups) {
            if !group.is_empty() {
                let of_stretch = rows.by_ref().take(group.len()).collect();
                stretch.advance(&fetches[group], of_stretch, &mut found);
            }
        }
    }
}
