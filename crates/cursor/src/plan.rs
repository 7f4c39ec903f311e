//! Where in the log the rows of a walk can be: a few ranges of positions, read by index scans in
//! order. The ranges only save work; which row belongs to the walk is decided by the two views.

use crate::Position;
use crate::epoch::{EpochRelation, LocalCoverage};

/// Rows of one epoch. An index scan of it ends where the range ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first position.
    pub from: Position,
    /// Only rows of transactions below this.
    pub to: u64,
}

impl Range {
    /// The part of it from `position` on.
    pub fn since(self, position: Position) -> Option<Range> {
        let from = self.from.max(position);
        (from.epoch == self.from.epoch && from.xact < self.to).then_some(Range { from, ..self })
    }
}

/// What a walk from `base` to `target` reads of one part of the log (the reader's own rows, or a space).
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    base: Option<&'a LocalCoverage>,
    target: &'a LocalCoverage,
    /// For each epoch, one for each transaction that `base` has open and that went on since, ascending.
    /// Most are empty.
    pub late: Vec<Vec<Range>>,
    /// What is younger than `base`, ascending.
    pub newer: Vec<Range>,
}

impl<'a> Plan<'a> {
    /// The rows that `target` sees and `base` does not.
    pub fn new(base: Option<&'a LocalCoverage>, target: &'a LocalCoverage) -> Plan<'a> {
        let mut plan = Plan { base, target, late: Vec::new(), newer: Vec::new() };
        for &epoch in &target.epochs {
            plan.add_epoch(epoch);
        }
        plan
    }

    fn add_epoch(&mut self, epoch: u32) {
        let end = match self.target.relation(epoch) {
            EpochRelation::Later => return,
            EpochRelation::Same => self.target.coverage.snapshot.end(),
            EpochRelation::Earlier(_) => u64::MAX,
        };
        let Some(base) = self.base.filter(|base| base.relation(epoch) != EpochRelation::Later) else {
            self.newer.push(Range { from: Position::new(epoch, 0, 0), to: end });
            return;
        };
        let snapshot = &base.coverage.snapshot;
        let (ids_end, mut younger) = match base.relation(epoch) {
            EpochRelation::Same => (u64::MAX, snapshot.xmax()),
            EpochRelation::Earlier(Some(earlier)) => {
                (earlier.end, if earlier.same_history { snapshot.xmax() } else { u64::MAX })
            }
            EpochRelation::Later | EpochRelation::Earlier(None) => return,
        };
        let mut late: Vec<Range> = Vec::new();
        for xact in snapshot.in_progress().into_iter().filter(|&xact| xact < ids_end) {
            let covered = base.covered_seq(epoch, xact);
            let from = Position::new(epoch, xact, covered.saturating_add(1));
            if xact >= younger {
                // Partly seen, and younger than all that has finished (REPEATABLE READ).
                self.add_newer(Range { from: Position::new(epoch, younger, 0), to: xact.min(end) });
                self.add_newer(Range { from, to: xact.saturating_add(1).min(end) });
                younger = xact.saturating_add(1);
            } else if self.target.covered_seq(epoch, xact) > covered {
                match late.last_mut().filter(|range| range.to == xact && covered == 0) {
                    Some(adjacent) => adjacent.to = xact.saturating_add(1),
                    None => late.push(Range { from, to: xact.saturating_add(1) }),
                }
            }
        }
        if !late.is_empty() {
            self.late.push(late);
        }
        self.add_newer(Range { from: Position::new(epoch, younger, 0), to: end });
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
