//! Which transactions of one history of transaction ids have been seen.
//!
//! This is PostgreSQL's snapshot (`xmin` left out, ids 64 bits wide) with one thing more: of the
//! reader's own transaction, which is in progress, the rows up to a `seq` count as seen.

/// A set of rows, described by their transactions: all of every transaction that had finished, and
/// the first rows of some that had not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// No transaction from here on had finished.
    xmax: u64,
    /// Transactions below `xmax` that had not finished, ascending.
    open: Vec<u64>,
    /// Unfinished transactions (below `xmax` or not) of which the rows up to a `seq` are seen, ascending.
    partial: Vec<(u64, i64)>,
}

/// The `seq` of a finished transaction up to which its rows are seen: all.
pub const ALL: i64 = i64::MAX;

impl Snapshot {
    /// A snapshot in which everything below `xmax` has finished but `open`; of the transactions in
    /// `partial`, which have not finished either, the rows up to the given `seq` are seen.
    pub fn new(xmax: u64, mut open: Vec<u64>, mut partial: Vec<(u64, i64)>) -> Snapshot {
        partial.sort_unstable();
        open.extend(partial.iter().map(|&(xact, _)| xact));
        open.retain(|&xact| xact < xmax);
        open.sort_unstable();
        open.dedup();
        partial.retain(|&(_, seq)| seq > 0);
        Snapshot { xmax, open, partial }
    }

    /// No transaction from this id on had finished.
    pub fn xmax(&self) -> u64 {
        self.xmax
    }

    /// Transactions below `xmax` that had not finished, ascending.
    pub fn open(&self) -> &[u64] {
        &self.open
    }

    /// Unfinished transactions of which some rows are seen, with the last such `seq`.
    pub fn partial(&self) -> &[(u64, i64)] {
        &self.partial
    }

    /// The greatest id that this snapshot names, and one more.
    pub fn end(&self) -> u64 {
        self.xmax.max(self.partial.last().map_or(0, |&(xact, _)| xact.saturating_add(1)))
    }

    /// Ids that the snapshot names as unfinished, ascending.
    pub fn in_progress(&self) -> Vec<u64> {
        let mut ids = self.open.clone();
        ids.extend(self.partial.iter().map(|&(xact, _)| xact).filter(|&xact| xact >= self.xmax));
        ids
    }

    /// The rows of `xact` are seen up to this `seq`: [`ALL`], none (0), or those of a partly seen one.
    pub fn covered_seq(&self, xact: u64) -> i64 {
        if xact < self.xmax && self.open.binary_search(&xact).is_err() {
            return ALL;
        }
        match self.partial.binary_search_by_key(&xact, |&(x, _)| x) {
            Ok(at) => self.partial[at].1,
            Err(_) => 0,
        }
    }

    /// The same for an id of an earlier epoch: all had finished, whatever `xmax` says, but those that the
    /// snapshot names as unfinished.
    pub fn covered_seq_of_earlier(&self, xact: u64) -> i64 {
        match self.open.binary_search(&xact) {
            Err(_) if self.partial.binary_search_by_key(&xact, |&(x, _)| x).is_err() => ALL,
            _ => self.covered_seq(xact),
        }
    }

    /// Whether a row is seen.
    pub fn covers(&self, xact: u64, seq: i64) -> bool {
        seq <= self.covered_seq(xact)
    }

    /// What either has seen.
    pub fn union(&self, other: &Snapshot) -> Snapshot {
        let finished = |xact: u64| self.covered_seq(xact) == ALL || other.covered_seq(xact) == ALL;
        let mut open: Vec<u64> = self.open.iter().chain(&other.open).copied().filter(|&x| !finished(x)).collect();
        open.sort_unstable();
        open.dedup();
        let mut partial: Vec<(u64, i64)> = self
            .partial
            .iter()
            .chain(&other.partial)
            .filter(|&&(xact, _)| !finished(xact))
            .map(|&(xact, _)| (xact, self.covered_seq(xact).max(other.covered_seq(xact))))
            .collect();
        partial.sort_unstable();
        partial.dedup();
        Snapshot { xmax: self.xmax.max(other.xmax), open, partial }
    }

    /// Whether all that `other` has seen is seen here.
    pub fn contains(&self, other: &Snapshot) -> bool {
        // Between the two xmax nothing is finished here; it must all be open there.
        let between = other.open.len() - other.open.partition_point(|&xact| xact < self.xmax);
        other.xmax.saturating_sub(self.xmax) == between as u64
            && self.open.iter().all(|&xact| other.covered_seq(xact) <= self.covered_seq(xact))
            && other.partial.iter().all(|&(xact, seq)| seq <= self.covered_seq(xact))
    }

    /// A smaller set that names only the first `keep` open transactions: everything from the next one on
    /// counts as unseen. A reader that resumes from it gets rows twice, and misses none; but those that may
    /// have written to an earlier epoch have to be named ([`crate::epoch::LocalCoverage::must_name_below`]).
    pub fn cut(&self, keep: usize) -> Snapshot {
        match self.open.get(keep) {
            None => self.clone(),
            Some(&xmax) => Snapshot { xmax, open: self.open[..keep].to_vec(), partial: self.partial.clone() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// The same set, spelled out: the horizon of each id below 24.
    type Plain = BTreeMap<u64, i64>;

    fn plain(snapshot: &Snapshot) -> Plain {
        (0..24).map(|xact| (xact, snapshot.covered_seq(xact))).collect()
    }

    fn snapshots() -> impl Strategy<Value = Snapshot> {
        (0u64..20, prop::collection::vec(0u64..20, 0..8), prop::collection::vec((0u64..22, 0i64..4), 0..3)).prop_map(
            |(xmax, open, partial)| {
                let partial: Vec<_> = partial.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect();
                Snapshot::new(xmax, open, partial)
            },
        )
    }

    proptest! {
        #[test]
        fn union_is_the_greater_of_the_horizons(a in snapshots(), b in snapshots()) {
            let (pa, pb) = (plain(&a), plain(&b));
            let expected: Plain = pa.iter().map(|(xact, &seq)| (*xact, seq.max(pb[xact]))).collect();
            prop_assert_eq!(plain(&a.union(&b)), expected);
        }

        #[test]
        fn contains_is_a_horizon_nowhere_less(a in snapshots(), b in snapshots()) {
            let (pa, pb) = (plain(&a), plain(&b));
            prop_assert_eq!(a.contains(&b), pb.iter().all(|(xact, seq)| *seq <= pa[xact]));
        }

        #[test]
        fn a_snapshot_that_was_cut_claims_no_more(a in snapshots(), keep in 0usize..4) {
            let cut = a.cut(keep);
            prop_assert!(a.contains(&cut));
            prop_assert!(cut.open().len() <= keep);
        }
    }

    #[test]
    fn a_partly_seen_transaction_beyond_xmax_leaves_the_ids_between_unseen() {
        // REPEATABLE READ: the snapshot is older than the reader's own transaction id.
        let snapshot = Snapshot::new(10, vec![7], vec![(15, 3)]);
        assert!(snapshot.covers(15, 3) && !snapshot.covers(15, 4));
        assert!(!snapshot.covers(12, 1) && !snapshot.covers(7, 1) && snapshot.covers(9, 1));
        assert_eq!(snapshot.end(), 16);
    }
}
