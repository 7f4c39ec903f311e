//! Reads the parts of the log that a walk wants, each in order, and puts them together in order: what is asked of the
//! log, and how little.
//!
//! Each part is read in ranges ([`crate::plan`]). Most of those of transactions that have ended since are empty, and
//! there may be many, in many parts: a scout asks where the next rows of the part are, whoever's they are, and leaves
//! only the ranges in which it saw one.

use crate::Position;
use crate::plan::{Plan, Range};

/// A part of the log that can be read in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The reader's own rows.
    Own,
    /// The rows of a space.
    Space {
        /// Its place in [`crate::walk::Request::spaces`].
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
    /// Places in [`crate::walk::Request::spaces`] whose rows [`Part::Own`] leaves out.
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
pub struct Stretch<'a> {
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
    pub fn of(part: Part, plan: &'a Plan<'a>, last: Position) -> impl Iterator<Item = Stretch<'a>> {
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
pub fn merge<S: Source>(
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
