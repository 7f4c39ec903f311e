//! Where in the log the rows of a walk can be: a few ranges of positions, read by index scans in
//! order. The ranges only save work; which row belongs to the walk is decided by the two views.

use crate::Position;
use crate::history::{Of, View};

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
    base: Option<&'a View>,
    target: &'a View,
    /// For each epoch, one for each transaction that `base` has open and that went on since, ascending.
    /// Most are empty.
    pub finished: Vec<Vec<Range>>,
    /// What is younger than `base`, ascending.
    pub younger: Vec<Range>,
}

impl<'a> Plan<'a> {
    /// The rows that `target` sees and `base` does not.
    pub fn new(base: Option<&'a View>, target: &'a View) -> Plan<'a> {
        let mut plan = Plan { base, target, finished: Vec::new(), younger: Vec::new() };
        for &epoch in &target.epochs {
            plan.add_epoch(epoch);
        }
        plan
    }

    fn add_epoch(&mut self, epoch: u32) {
        let end = match self.target.of(epoch) {
            Of::Later => return,
            Of::Own => self.target.seen.snapshot.end(),
            Of::Earlier(_) => u64::MAX,
        };
        let Some(base) = self.base.filter(|base| base.of(epoch) != Of::Later) else {
            self.younger.push(Range { from: Position::new(epoch, 0, 0), to: end });
            return;
        };
        let snapshot = &base.seen.snapshot;
        let (ids_end, mut younger) = match base.of(epoch) {
            Of::Own => (u64::MAX, snapshot.xmax()),
            Of::Earlier(Some(kin)) => (kin.end, if kin.twin { snapshot.xmax() } else { u64::MAX }),
            Of::Later | Of::Earlier(None) => return,
        };
        let mut finished: Vec<Range> = Vec::new();
        for xact in snapshot.unfinished().into_iter().filter(|&xact| xact < ids_end) {
            let seen = base.horizon(epoch, xact);
            let from = Position::new(epoch, xact, seen.saturating_add(1));
            if xact >= younger {
                // Partly seen, and younger than all that has finished (REPEATABLE READ).
                self.add_younger(Range { from: Position::new(epoch, younger, 0), to: xact.min(end) });
                self.add_younger(Range { from, to: xact.saturating_add(1).min(end) });
                younger = xact.saturating_add(1);
            } else if self.target.horizon(epoch, xact) > seen {
                match finished.last_mut().filter(|range| range.to == xact && seen == 0) {
                    Some(adjacent) => adjacent.to = xact.saturating_add(1),
                    None => finished.push(Range { from, to: xact.saturating_add(1) }),
                }
            }
        }
        if !finished.is_empty() {
            self.finished.push(finished);
        }
        self.add_younger(Range { from: Position::new(epoch, younger, 0), to: end });
    }

    fn add_younger(&mut self, range: Range) {
        if range.from.xact < range.to {
            self.younger.push(range);
        }
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.finished.is_empty() && self.younger.is_empty()
    }

    /// Whether a row belongs to the walk.
    pub fn wants(&self, position: Position) -> bool {
        self.target.sees(position) && !self.base.is_some_and(|base| base.sees(position))
    }
}
