//! The plan of a walk: a few ranges of positions that contain all rows of the walk. Index scans read the ranges in
//! order.
//!
//! The ranges only limit what is read. Whether a row in a range belongs to the walk is decided by the base and the
//! target of the walk ([`Plan::includes`]).

use crate::Position;
use crate::epoch::{EpochRelation, LocalCoverage};
use crate::id::{EpochNumber, TransactionId};

/// A range of positions within one epoch. One index scan reads exactly the rows of the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first position.
    pub from: Position,
    /// The exclusive bound of the transaction ids.
    pub to: TransactionId,
}

impl Range {
    /// The part of the range from `position` on; `None` if no position of the range is left.
    pub fn since(self, position: Position) -> Option<Range> {
        let from = self.from.max(position);
        (from.epoch == self.from.epoch && from.xact < self.to).then_some(Range { from, ..self })
    }

    /// The exclusive end: all positions of the range are before it.
    pub fn end(self) -> Position {
        Position::before(self.from.epoch, self.to)
    }
}

/// The ranges that a walk from `base` to `target` reads of one stream of the log.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    base: Option<&'a LocalCoverage>,
    target: &'a LocalCoverage,
    /// The ranges of late commits: for each epoch, one range for each transaction that was open in `base` and may
    /// have ended since, ascending. Most of these ranges are empty.
    pub late: Vec<Vec<Range>>,
    /// The ranges of transactions that are newer than `base`, ascending.
    pub newer: Vec<Range>,
}

impl<'a> Plan<'a> {
    /// Plans a walk over the rows that `target` covers and `base` does not. If `base` is `None`, the walk begins at the
    /// beginning of the log.
    pub fn new(base: Option<&'a LocalCoverage>, target: &'a LocalCoverage) -> Plan<'a> {
        let mut plan = Plan { base, target, late: Vec::new(), newer: Vec::new() };
        for &epoch in &target.epochs {
            plan.add_epoch(epoch);
        }
        plan
    }

    fn add_epoch(&mut self, epoch: EpochNumber) {
        let end = match self.target.relation(epoch) {
            EpochRelation::Later => return,
            EpochRelation::Same => self.target.coverage.snapshot.end(),
            EpochRelation::Earlier(_) | EpochRelation::OtherSystem => TransactionId::MAX,
        };
        let first = TransactionId(0);
        let Some(base) = self.base.filter(|base| base.relation(epoch) != EpochRelation::Later) else {
            self.newer.push(Range { from: Position::before(epoch, first), to: end });
            return;
        };
        let snapshot = &base.coverage.snapshot;
        let (ids_end, mut newer) = match base.relation(epoch) {
            EpochRelation::Same => (TransactionId::MAX, snapshot.xmax()),
            EpochRelation::Earlier(earlier) => {
                (earlier.end, if earlier.same_history { snapshot.xmax() } else { TransactionId::MAX })
            }
            EpochRelation::Later | EpochRelation::OtherSystem => return,
        };
        let mut late: Vec<Range> = Vec::new();
        for xact in snapshot.in_progress().into_iter().filter(|&xact| xact < ids_end) {
            let covered = base.covered_seq(epoch, xact);
            let from = Position { epoch, xact, seq: covered.saturating_add(1) };
            if xact >= newer {
                // A partial transaction whose id is not below xmax: the own transaction of a REPEATABLE READ reader.
                self.add_newer(Range { from: Position::before(epoch, newer), to: xact.min(end) });
                self.add_newer(Range { from, to: xact.next().min(end) });
                newer = xact.next();
            } else if self.target.covered_seq(epoch, xact) > covered {
                match late.last_mut().filter(|range| range.to == xact && covered == 0) {
                    Some(adjacent) => adjacent.to = xact.next(),
                    None => late.push(Range { from, to: xact.next() }),
                }
            }
        }
        if !late.is_empty() {
            self.late.push(late);
        }
        self.add_newer(Range { from: Position::before(epoch, newer), to: end });
    }

    fn add_newer(&mut self, range: Range) {
        if range.from.xact < range.to {
            self.newer.push(range);
        }
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.late.is_empty() && self.newer.is_empty()
    }

    /// Whether a row belongs to the walk.
    pub fn includes(&self, position: Position) -> bool {
        self.target.covers(position) && !self.base.is_some_and(|base| base.covers(position))
    }
}
