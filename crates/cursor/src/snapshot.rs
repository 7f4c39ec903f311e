//! Snapshots: which transactions of one history of transaction ids a reader has been given.
//!
//! A snapshot is a PostgreSQL snapshot without `xmin` and with 64-bit ids. It has one addition: a transaction in
//! progress may be partial, which means that its rows up to a `seq` are covered. A reader that pulls inside its own
//! transaction needs this.

use crate::id::TransactionId;

/// A set of rows, described by their transactions: all rows of each transaction that had ended, and the
/// first rows of each partial transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Snapshot {
    xmax: TransactionId,
    open: Vec<TransactionId>,
    partial: Vec<(TransactionId, i64)>,
}

/// The covered `seq` of a transaction that had ended: all its rows are covered.
pub const ALL: i64 = i64::MAX;

impl Snapshot {
    /// Makes a snapshot in which every transaction below `xmax` has ended, except those in `open` and `partial`. Each
    /// transaction in `partial` is in progress, and its rows up to the `seq` beside it are covered.
    pub fn new(xmax: TransactionId, mut open: Vec<TransactionId>, mut partial: Vec<(TransactionId, i64)>) -> Snapshot {
        partial.sort_unstable();
        open.extend(partial.iter().map(|&(xact, _)| xact));
        open.retain(|&xact| xact < xmax);
        open.sort_unstable();
        open.dedup();
        partial.retain(|&(_, seq)| seq > 0);
        Snapshot { xmax, open, partial }
    }

    /// The bound of the snapshot. No transaction with this id or a greater one had ended.
    pub fn xmax(&self) -> TransactionId {
        self.xmax
    }

    /// The open transactions: those below `xmax` that were in progress, ascending.
    pub fn open(&self) -> &[TransactionId] {
        &self.open
    }

    /// The partial transactions, each with its last covered `seq`, in ascending order of their ids. An id may be below
    /// `xmax` or not.
    pub fn partial(&self) -> &[(TransactionId, i64)] {
        &self.partial
    }

    /// The id after the greatest one that the snapshot names.
    pub fn end(&self) -> TransactionId {
        self.xmax.max(self.partial.last().map_or(TransactionId(0), |&(xact, _)| xact.next()))
    }

    /// All transactions that the snapshot names as in progress, ascending: the open ones, and the partial ones whose
    /// ids are not below `xmax`.
    pub fn in_progress(&self) -> Vec<TransactionId> {
        let mut ids = self.open.clone();
        ids.extend(self.partial.iter().map(|&(xact, _)| xact).filter(|&xact| xact >= self.xmax));
        ids
    }

    /// The `seq` up to which the rows of a transaction are covered: [`ALL`] if the transaction had ended, its `seq` in
    /// [`Snapshot::partial`] if it is partial, and otherwise 0.
    pub fn covered_seq(&self, xact: TransactionId) -> i64 {
        if xact < self.xmax && self.open.binary_search(&xact).is_err() {
            return ALL;
        }
        match self.partial.binary_search_by_key(&xact, |&(x, _)| x) {
            Ok(at) => self.partial[at].1,
            Err(_) => 0,
        }
    }

    /// The `seq` up to which the rows of a transaction are covered if they belong to an earlier epoch. In an earlier
    /// epoch, each transaction that the snapshot does not name as in progress has ended, whether its id is below `xmax`
    /// or not.
    pub fn covered_seq_of_earlier(&self, xact: TransactionId) -> i64 {
        match self.open.binary_search(&xact) {
            Err(_) if self.partial.binary_search_by_key(&xact, |&(x, _)| x).is_err() => ALL,
            _ => self.covered_seq(xact),
        }
    }

    /// Whether a row is covered.
    pub fn covers(&self, xact: TransactionId, seq: i64) -> bool {
        seq <= self.covered_seq(xact)
    }

    /// The rows that either snapshot covers.
    pub fn union(&self, other: &Snapshot) -> Snapshot {
        let ended = |xact: TransactionId| self.covered_seq(xact) == ALL || other.covered_seq(xact) == ALL;
        let mut open: Vec<TransactionId> =
            self.open.iter().chain(&other.open).copied().filter(|&x| !ended(x)).collect();
        open.sort_unstable();
        open.dedup();
        let mut partial: Vec<(TransactionId, i64)> = self
            .partial
            .iter()
            .chain(&other.partial)
            .filter(|&&(xact, _)| !ended(xact))
            .map(|&(xact, _)| (xact, self.covered_seq(xact).max(other.covered_seq(xact))))
            .collect();
        partial.sort_unstable();
        partial.dedup();
        Snapshot { xmax: self.xmax.max(other.xmax), open, partial }
    }

    /// Whether every row that `other` covers is covered here.
    pub fn contains(&self, other: &Snapshot) -> bool {
        // No transaction from `self.xmax` to `other.xmax` has ended in `self`, so all of them must be open in `other`.
        let between = other.open.len() - other.open.partition_point(|&xact| xact < self.xmax);
        other.xmax.0.saturating_sub(self.xmax.0) == between as u64
            && self.open.iter().all(|&xact| other.covered_seq(xact) <= self.covered_seq(xact))
            && other.partial.iter().all(|&(xact, seq)| seq <= self.covered_seq(xact))
    }

    /// Returns a smaller snapshot that names only the first `keep` open transactions. The next open transaction becomes
    /// the `xmax` of the smaller snapshot.
    ///
    /// A reader that resumes from the smaller snapshot gets some rows again and misses none. This holds only if the
    /// smaller snapshot still names each transaction that may have written to an earlier epoch
    /// ([`crate::epoch::LocalCoverage::must_name_below`]).
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

    /// The covered seq of each transaction id below 24.
    type Plain = BTreeMap<u64, i64>;

    fn snapshot(xmax: u64, open: Vec<u64>, partial: Vec<(u64, i64)>) -> Snapshot {
        let open = open.into_iter().map(TransactionId).collect();
        Snapshot::new(TransactionId(xmax), open, partial.into_iter().map(|(xact, seq)| (xact.into(), seq)).collect())
    }

    fn plain(snapshot: &Snapshot) -> Plain {
        (0..24).map(|xact| (xact, snapshot.covered_seq(TransactionId(xact)))).collect()
    }

    fn snapshots() -> impl Strategy<Value = Snapshot> {
        (0u64..20, prop::collection::vec(0u64..20, 0..8), prop::collection::vec((0u64..22, 0i64..4), 0..3)).prop_map(
            |(xmax, open, partial)| {
                let partial: Vec<_> = partial.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect();
                snapshot(xmax, open, partial)
            },
        )
    }

    proptest! {
        #[test]
        fn union_covers_what_either_covers(a in snapshots(), b in snapshots()) {
            let (pa, pb) = (plain(&a), plain(&b));
            let expected: Plain = pa.iter().map(|(xact, &seq)| (*xact, seq.max(pb[xact]))).collect();
            prop_assert_eq!(plain(&a.union(&b)), expected);
        }

        #[test]
        fn contains_is_a_covered_seq_nowhere_less(a in snapshots(), b in snapshots()) {
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
    fn a_partial_transaction_beyond_xmax_leaves_the_ids_between_uncovered() {
        // In REPEATABLE READ the snapshot is older than the reader's own transaction id.
        let snapshot = snapshot(10, vec![7], vec![(15, 3)]);
        let covers = |xact, seq| snapshot.covers(TransactionId(xact), seq);
        assert!(covers(15, 3) && !covers(15, 4));
        assert!(!covers(12, 1) && !covers(7, 1) && covers(9, 1));
        assert_eq!(snapshot.end(), TransactionId(16));
    }
}
