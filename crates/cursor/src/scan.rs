//! Reads the parts of the log that a walk wants, each in order, and puts them together in order: what is asked of the
//! log, and how little.
//!
//! Each part is read in ranges ([`crate::plan`]). Most of those of transactions that have ended since are empty, and
//! there may be many, in many parts: a probe asks where the next rows of the part are, whoever's they are, and leaves
//! only the ranges in which it saw one.

use crate::Position;
use crate::plan::{Plan, Range};

/// A part of the log that can be read in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The reader's own rows.
    Own,
    /// The rows of a space.
    Space {
        /// Its place in [`crate::page::Request::spaces`].
        index: usize,
        /// Whether the reader's own rows in it are wanted too.
        with_own: bool,
    },
}

/// A range of a part to read.
#[derive(Clone, Copy, Debug)]
pub struct Fetch {
    /// Of which part.
    pub stream: Stream,
    /// Which of its rows.
    pub range: Range,
    /// At most so many rows.
    pub limit: usize,
    /// Only to learn where the next row of the user or space is: the filter does not count, nor whose
    /// rows the part wants.
    pub probe: bool,
}

/// What all fetches of a walk leave out.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Places in [`crate::page::Request::spaces`] whose rows [`Stream::Own`] leaves out.
    pub excluded_from_own: Vec<usize>,
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
/// A probe asks for this many rows at first, and for no more than this.
const PROBE: (usize, usize) = (8, 64);
/// A round has not many more fetches than this; the stretches behind it wait for the next.
const MOST_FETCHES: usize = 20_000;
/// A probe pays if it passes over a range for each so many rows: reading on in an index costs less than a descent.
const ROWS_A_DESCENT: usize = 4;

/// Some ranges of a part, as far as they have been read in this call.
pub struct StreamScan<'a> {
    stream: Stream,
    plan: &'a Plan<'a>,
    /// Those that are read next.
    next: Vec<Range>,
    /// Those behind them.
    rest: &'a [Range],
    /// How many rows the probe asks for that looks through `rest`. Most of its ranges are empty, and where the next rows
    /// of the part are tells which. Without a probe (0) they are read one after the other.
    probe: usize,
    /// How many ranges of `rest` are read without knowing whether they are empty.
    width: usize,
    /// How many rows of each range are asked for.
    limit: usize,
}

impl<'a> StreamScan<'a> {
    /// What a walk reads of a part after `last`.
    pub fn of(stream: Stream, plan: &'a Plan<'a>, last: Position) -> impl Iterator<Item = StreamScan<'a>> {
        let finished = plan.late.iter().map(|ranges| (ranges.as_slice(), if ranges.len() > 1 { PROBE.0 } else { 0 }));
        let all = finished.chain([(plan.newer.as_slice(), 0)]);
        all.map(move |(ranges, probe)| {
            let rest = after(ranges, last.next());
            let mut scan = StreamScan { stream, plan, next: Vec::new(), rest, probe, width: 1, limit: 0 };
            // The walk may stand within the first one.
            if let Some(first) = rest.first().and_then(|range| range.since(last.next())) {
                if probe == 0 || first != rest[0] {
                    scan.next.push(first);
                    scan.rest = &rest[1..];
                }
            }
            scan
        })
    }

    /// What the next round reads, as far as it does not begin after `bound`.
    fn fetches(&mut self, share: usize, room: usize, bound: Position) -> Vec<Fetch> {
        self.limit = self.limit.max(share).min(room.max(LEAST_DOUBLED));
        let (stream, limit) = (self.stream, self.limit);
        let near = |range: &&Range| range.from <= bound;
        let mut fetches: Vec<Fetch> =
            self.next.iter().take_while(near).map(|&range| Fetch { stream, range, limit, probe: false }).collect();
        if self.probe > 0 && fetches.len() == self.next.len() {
            if let (Some(first), Some(last)) = (self.rest.first().filter(near), self.rest.last()) {
                let range = Range { from: first.from, to: last.to };
                fetches.push(Fetch { stream, range, limit: self.probe, probe: true });
            }
        }
        fetches
    }

    /// Goes on after the rows of these fetches, and tells which of them are new.
    fn advance<R>(&mut self, fetches: &[Fetch], rows: Vec<Vec<(Position, R)>>, found: &mut Vec<(Position, R)>) {
        let mut done = 0;
        for (fetch, rows) in fetches.iter().zip(rows) {
            let full = rows.len() == fetch.limit;
            if fetch.probe {
                self.next.clear();
                self.follow(rows.into_iter().map(|(position, _)| position).collect(), full);
                return;
            }
            let last = rows.last().map(|(position, _)| *position);
            found.extend(rows.into_iter().filter(|(position, _)| self.plan.includes(*position)));
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

    /// Of the ranges that a probe has looked through only those are left in which it saw a row.
    fn follow(&mut self, seen: Vec<Position>, full: bool) {
        let end = if full { seen.last().map_or(Position::END, |last| last.next()) } else { Position::END };
        let passed = self.rest.partition_point(|range| Position::new(range.from.epoch, range.to, 0) <= end);
        let mut hit: Vec<Range> = Vec::new();
        for position in &seen {
            let range = after(self.rest, *position).first().filter(|range| range.from <= *position);
            hit.extend(range.filter(|range| hit.last() != Some(range)));
        }
        // The last one may go on behind what the probe has seen; it is read in full all the same.
        self.rest = &self.rest[passed.max(hit.last().map_or(0, |last| index_of(self.rest, last) + 1))..];
        self.next = hit;
        if passed * ROWS_A_DESCENT >= seen.len() {
            (self.probe, self.width) = ((2 * self.probe).min(PROBE.1), 1);
        } else {
            // Rows everywhere: reading some ranges unseen costs less.
            self.take(self.width);
            (self.probe, self.width) = (PROBE.0, 2 * self.width);
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
pub fn merge_scans<S: Source>(
    mut scans: Vec<StreamScan<'_>>,
    streams: usize,
    room: usize,
    filter: &Filter,
    source: &mut S,
) -> Result<Vec<(Position, S::Row)>, S::Error> {
    // The rows of a page come from all parts alike, unless they do not: a little more than an equal
    // share each is enough for most.
    let share = match streams {
        0 | 1 => room,
        streams => room.div_ceil(streams).saturating_mul(5).div_ceil(4).saturating_add(2).min(room),
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
        for scan in &mut scans {
            let of_scan = match fetches.len() < MOST_FETCHES {
                true => scan.fetches(share, room, bound),
                false => Vec::new(),
            };
            groups.push(fetches.len()..fetches.len() + of_scan.len());
            fetches.extend(of_scan);
        }
        if fetches.is_empty() {
            found.sort_unstable_by_key(|(position, _)| *position);
            return Ok(found);
        }
        let mut rows: Vec<Vec<(Position, S::Row)>> = fetches.iter().map(|_| Vec::new()).collect();
        source.fetch(&fetches, filter, &mut |fetch, position, row| rows[fetch].push((position, row)))?;
        let mut rows = rows.into_iter();
        for (scan, group) in scans.iter_mut().zip(groups) {
            if !group.is_empty() {
                let of_scan = rows.by_ref().take(group.len()).collect();
                scan.advance(&fetches[group], of_scan, &mut found);
            }
        }
    }
}
