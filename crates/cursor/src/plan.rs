//! Where in the log the rows of a walk can be: a few ranges of positions, read by index scans in
//! order. The ranges only save work; which row belongs to the walk is decided by the two views.

use crate::Position;
use crate::history::View;
use std::cmp::Ordering;

/// A range of positions, from inclusive to exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first position.
    pub from: Position,
    /// The first position after it.
    pub to: Position,
}

/// What a walk from `base` to `target` reads of one part of the log (the reader's own rows, or a space).
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    base: Option<&'a View>,
    target: &'a View,
    ranges: Vec<Range>,
}

impl<'a> Plan<'a> {
    /// The rows that `target` sees and `base` does not.
    ///
    /// One range for each transaction that `base` has open and that went on since, and one for all
    /// that is younger than `base`.
    pub fn new(base: Option<&'a View>, target: &'a View) -> Plan<'a> {
        let end = end_of(target);
        let mut ranges = Vec::new();
        let mut add = |from: Position, to: Position| {
            let to = to.min(end);
            if from < to {
                ranges.push(Range { from, to });
            }
        };
        match base {
            None => add(Position::START, end),
            Some(view) => {
                let number = view.seen.epoch.number;
                let written = view.seen.unwritten.is_none();
                for &epoch in view.kin.iter().chain(written.then_some(&number)) {
                    for xact in view.seen.snapshot.unfinished() {
                        let seen = view.horizon(epoch, xact);
                        if target.horizon(epoch, xact) > seen {
                            add(
                                Position::new(epoch, xact, seen.saturating_add(1)),
                                Position::new(epoch, xact.saturating_add(1), 0),
                            );
                        }
                    }
                }
                for &epoch in &view.twins {
                    add(
                        Position::new(epoch, view.seen.snapshot.xmax(), 0),
                        Position::new(epoch.saturating_add(1), 0, 0),
                    );
                }
                add(end_of_finished(view), end);
            }
        }
        // A partly seen transaction may lie within the last range (REPEATABLE READ).
        ranges.sort_by_key(|range| range.from);
        ranges.dedup_by(|later, earlier| match later.from.cmp(&earlier.to) {
            Ordering::Less => {
                earlier.to = earlier.to.max(later.to);
                true
            }
            _ => false,
        });
        Plan { base, target, ranges }
    }

    /// Whether a row belongs to the walk.
    pub fn wants(&self, position: Position) -> bool {
        self.target.sees(position) && !self.base.is_some_and(|base| base.sees(position))
    }

    /// The first position at or after `position` where rows of the walk can be.
    pub fn seek(&self, position: Position) -> Option<Position> {
        let at = self.ranges.partition_point(|range| range.to <= position);
        Some(position.max(self.ranges.get(at)?.from))
    }

    /// Whether `position` is in the last range: the one that is read from end to end.
    pub fn in_last(&self, position: Position) -> bool {
        self.ranges.last().is_some_and(|range| range.from <= position)
    }

    /// Where the last range ends.
    pub fn end(&self) -> Position {
        self.ranges.last().map_or(Position::START, |range| range.to)
    }
}

/// From here on nothing is seen.
fn end_of(view: &View) -> Position {
    let number = view.seen.epoch.number;
    match view.seen.unwritten {
        None => Position::new(number, view.seen.snapshot.end(), 0),
        Some(_) => Position::new(number.saturating_add(1), 0, 0),
    }
}

/// From here on nothing has finished.
fn end_of_finished(view: &View) -> Position {
    let number = view.seen.epoch.number;
    match view.seen.unwritten {
        None => Position::new(number, view.seen.snapshot.xmax(), 0),
        Some(_) => Position::new(number.saturating_add(1), 0, 0),
    }
}
