//! The scan of a walk: a k-way merge of ordered streams, which reads as little of the log as it can.
//!
//! A stream is the reader's own rows, or the rows of a space. Each stream is read in ranges ([`crate::plan`]). There
//! may be many ranges of late commits, in many streams, and most of them are empty. A probe asks where the next rows of
//! a stream are, regardless of the filter. Only the ranges in which the probe saw a row are read.

use crate::Position;
use crate::plan::{Plan, Range};

/// A stream of rows that can be read in order of position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The reader's own rows.
    Own,
    /// The rows of a space.
    Space {
        /// The place of the space in [`crate::page::Request::spaces`].
        index: usize,
        /// Whether the stream includes the reader's own rows.
        with_own: bool,
    },
}

/// A request for the rows of one range of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Fetch {
    /// The stream to read.
    pub stream: Stream,
    /// The range to read.
    pub range: Range,
    /// The greatest number of rows.
    pub limit: usize,
    /// Whether the fetch is a probe, which only asks for positions. A probe sees every row of the user or the space:
    /// neither the filter nor [`Stream::Space::with_own`] applies.
    pub probe: bool,
}

/// The filter of a walk. It applies to all fetches of the walk except probes.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// The spaces whose rows [`Stream::Own`] leaves out, as places in [`crate::page::Request::spaces`].
    pub excluded_from_own: Vec<usize>,
    /// The filter leaves out rows with `created_at` at or before this time, in microseconds from 2000-01-01.
    pub created_after: Option<i64>,
    /// Whether the walk started at the beginning of the log.
    pub from_beginning: bool,
}

/// The log, read with one snapshot.
pub trait Source {
    /// The type of a row.
    type Row;
    /// The reason why the log could not be read.
    type Error;

    /// Reads the rows of each fetch in order of position. Each row goes to `take` with the place of its fetch in
    /// `fetches`. A fetch that gives fewer rows than its limit has reached the end of its range.
    fn fetch(
        &mut self,
        fetches: &[Fetch],
        filter: &Filter,
        take: &mut dyn FnMut(usize, Position, Self::Row),
    ) -> Result<(), Self::Error>;
}

/// Doubling may raise the limit of a fetch up to this number of rows, even if the page is smaller. Rows that do not
/// belong to the walk may precede rows that do: for example, the rows of a batch that was open when the target was
/// fixed.
const LEAST_DOUBLED: usize = 64;
/// The limits of a probe: the number of rows that the first probe of a scan asks for, and the greatest number.
const PROBE: (usize, usize) = (8, 64);
/// The number of fetches in a round after which the round adds no fetches of further scans. Those scans wait for the
/// next round.
const MOST_FETCHES: usize = 20_000;
/// Descending an index once costs about as much as reading this number of further rows. So a probe pays off if it
/// passes at least one range for each such number of rows that it reads.
const ROWS_A_DESCENT: usize = 4;

/// The scan of some ranges of a stream, and how far this call has read them.
pub struct StreamScan<'a> {
    stream: Stream,
    plan: &'a Plan<'a>,
    /// The ranges that are read next.
    next: Vec<Range>,
    /// The ranges after `next`.
    rest: &'a [Range],
    /// The limit of the next probe of `rest`. If it is 0, there is no probe, and the ranges are read one after the
    /// other.
    probe: usize,
    /// How many ranges move from `rest` to `next` at once without a probe.
    width: usize,
    /// The limit of the next fetches.
    limit: usize,
}

impl<'a> StreamScan<'a> {
    /// Returns the scans that a walk makes of a stream, from the first row after `last`.
    pub fn start(stream: Stream, plan: &'a Plan<'a>, last: Position) -> impl Iterator<Item = StreamScan<'a>> {
        let finished = plan.late.iter().map(|ranges| (ranges.as_slice(), if ranges.len() > 1 { PROBE.0 } else { 0 }));
        let all = finished.chain([(plan.newer.as_slice(), 0)]);
        all.map(move |(ranges, probe)| {
            let rest = after(ranges, last.next());
            let mut scan = StreamScan { stream, plan, next: Vec::new(), rest, probe, width: 1, limit: 0 };
            // The walk may have stopped within the first range.
            if let Some(first) = rest.first().and_then(|range| range.since(last.next())) {
                if probe == 0 || first != rest[0] {
                    scan.next.push(first);
                    scan.rest = &rest[1..];
                }
            }
            scan
        })
    }

    /// Returns the fetches of this scan for the next round, without those that begin after `bound`. The limit of the
    /// first fetches is `share`; later fetches may have a greater limit.
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

    /// Takes the rows of the scan's own fetches, and moves past what they have read. Adds the rows that belong to the
    /// walk to `found`.
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
                // The range may have more rows. The ranges after it are read again.
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

    /// Drops the ranges of `rest` that a probe has passed without seeing a row in them. `positions` are the rows that
    /// the probe saw. `full` means that the probe stopped at its limit.
    fn follow(&mut self, positions: Vec<Position>, full: bool) {
        let end = if full { positions.last().map_or(Position::END, |last| last.next()) } else { Position::END };
        let passed = self.rest.partition_point(|range| range.end() <= end);
        let mut hit: Vec<Range> = Vec::new();
        for position in &positions {
            let range = after(self.rest, *position).first().filter(|range| range.from <= *position);
            hit.extend(range.filter(|range| hit.last() != Some(range)));
        }
        // The last range may have rows after those that the probe has seen. The whole range is read.
        self.rest = &self.rest[passed.max(hit.last().map_or(0, |last| index_of(self.rest, last) + 1))..];
        self.next = hit;
        if passed * ROWS_A_DESCENT >= positions.len() {
            (self.probe, self.width) = ((2 * self.probe).min(PROBE.1), 1);
        } else {
            // Most ranges have rows, so reading some ranges without a probe costs less.
            self.take(self.width);
            (self.probe, self.width) = (PROBE.0, 2 * self.width);
        }
    }

    /// Moves up to `count` ranges from `rest` to `next`.
    fn take(&mut self, count: usize) {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.next.extend_from_slice(taken);
        self.rest = rest;
    }
}

/// The ranges that end after `position`.
fn after(ranges: &[Range], position: Position) -> &[Range] {
    &ranges[ranges.partition_point(|range| range.end() <= position)..]
}

/// The place of a range among `ranges`.
fn index_of(ranges: &[Range], range: &Range) -> usize {
    ranges.partition_point(|other| other.from < range.from)
}

/// Reads the first `room` rows of all scans, in order of position. The result may have more rows. It has fewer only if
/// there are no more.
///
/// Each round makes one call to the source, which reads on in those scans that could still have a row among the first
/// `room`. A scan doubles its limit when a range had more rows.
pub fn merge_scans<S: Source>(
    mut scans: Vec<StreamScan<'_>>,
    streams: usize,
    room: usize,
    filter: &Filter,
    source: &mut S,
) -> Result<Vec<(Position, S::Row)>, S::Error> {
    // Most pages get about the same number of rows from each stream. So a little more than an equal share is usually
    // enough.
    let share = match streams {
        0 | 1 => room,
        streams => room.div_ceil(streams).saturating_mul(5).div_ceil(4).saturating_add(2).min(room),
    };
    let mut found: Vec<(Position, S::Row)> = Vec::new();
    loop {
        // The room-th smallest position so far. Rows after it are not among the first `room`.
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
