//! Epochs: which history of transaction ids a snapshot belongs to, and what a server knows about it.
//!
//! Transaction ids order the log only within one uninterrupted history. After a failover that loses a tail of the
//! write-ahead log, a recovery to a point in time or a restore, the server gives out the same ids again. Therefore each
//! history on which the log is written has an epoch. An epoch has a number, which rows carry, and a random fingerprint,
//! which tells apart two histories that chose the same number.

use crate::Position;
use crate::hash::Secret;
use crate::id::{EpochNumber, Fingerprint, HistoryId, Lsn, SystemId, Timeline, TransactionId};
use crate::snapshot::{ALL, Snapshot};
use std::cmp::Ordering;

/// An epoch as a cursor names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch {
    /// The number of the epoch.
    pub number: EpochNumber,
    /// The fingerprint of the epoch.
    pub fingerprint: Fingerprint,
}

/// A history that has no epoch, because nobody had written on it when the cursor was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NewHistory {
    /// The timeline of the history.
    pub timeline: Timeline,
    /// The identity of the history.
    pub history: HistoryId,
}

/// A set of rows of the whole log, as a cursor names it.
///
/// The set has the rows of `epoch` that `snapshot` sees. It also has all rows of earlier epochs, except those of transactions that
/// `snapshot` names as in progress. (A prepared transaction of an earlier epoch can still commit after a failover.)
///
/// If `new_history` is set, `epoch` is the last epoch that was written before `new_history` began. Then `epoch` counts as an earlier epoch,
/// and `snapshot` was taken on `new_history`. The snapshot tells which transactions were in progress. It tells nothing about an epoch that
/// is opened on `new_history` later, because two servers may continue from the same point independently.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Coverage {
    /// The latest epoch with covered rows.
    pub epoch: Epoch,
    /// The history of `snapshot`, if that history began after `epoch` and has no epoch yet. It is `None` if the
    /// snapshot was taken in `epoch`.
    pub new_history: Option<NewHistory>,
    /// The transactions whose rows are covered, in the history that `snapshot` was taken on.
    pub snapshot: Snapshot,
    /// A position in the write-ahead log of the history of `snapshot`. A server that has replayed up to here sees every transaction that
    /// `snapshot` sees as ended.
    pub lsn: Lsn,
}

impl Coverage {
    /// A number that orders the coverages of one log by age. A coverage with a `new_history` comes after those of its `epoch`, and before
    /// those of the next epoch.
    pub fn order(&self) -> u64 {
        2 * u64::from(self.epoch.number.0) + u64::from(self.new_history.is_some())
    }
}

/// A row of `mana_sync.epochs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownEpoch {
    /// The number and the fingerprint of the epoch.
    pub epoch: Epoch,
    /// The key of the hashes in cursors that name this fingerprint.
    pub secret: Secret,
    /// The system identifier of the cluster that opened the epoch.
    pub system: SystemId,
    /// The history on which the epoch was opened.
    pub history: HistoryId,
    /// The position in the write-ahead log at which the history of the epoch branched off from the history before it.
    pub began_at: Lsn,
    /// A transaction id that had not been given out when the epoch was opened. Rows of earlier epochs of the
    /// same system have smaller ids.
    pub next_xact: TransactionId,
    /// The time at which the transaction that opened the epoch began, in microseconds from 2000-01-01. No row of the epoch is older.
    pub opened_at: i64,
}

/// The current history of transaction ids of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// The system identifier of the cluster.
    pub system: SystemId,
    /// The timeline that the server writes or replays.
    pub timeline: Timeline,
    /// The identity of the history.
    pub id: HistoryId,
    /// The position in the write-ahead log at which the history branched off from the one before it.
    pub began_at: Lsn,
}

/// The epoch in which a server writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteEpoch {
    /// The epoch exists.
    Current(EpochNumber),
    /// The first writer has to open the epoch under this number.
    ToOpen(EpochNumber),
}

impl WriteEpoch {
    /// The number that rows carry, whether the epoch exists or not.
    pub fn number(self) -> EpochNumber {
        match self {
            WriteEpoch::Current(number) | WriteEpoch::ToOpen(number) => number,
        }
    }
}

/// What a server knows about epochs and its own history when it answers a pull.
#[derive(Clone, Debug)]
pub struct Server {
    epochs: Vec<KnownEpoch>,
    history: History,
    in_recovery: bool,
    next_xact: TransactionId,
    replayed: Lsn,
}

/// A [`Coverage`] that this server can compare with its own rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalCoverage {
    /// The coverage.
    pub coverage: Coverage,
    /// The epochs earlier than the epoch of the coverage, of the system on which its snapshot was taken.
    pub earlier: Vec<EarlierEpoch>,
    /// The numbers of all epochs that the server knows, ascending.
    pub epochs: Vec<EpochNumber>,
    /// A transaction id that had not been given out when the epoch of the snapshot was opened.
    first_xact: TransactionId,
    /// On a standby, the snapshot sees every transaction that ended before this position of the write-ahead
    /// log. The position is invalid on a primary.
    replayed: Lsn,
}

/// An epoch that is earlier than the epoch of a snapshot and belongs to the same system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlierEpoch {
    /// The number of the epoch.
    pub number: EpochNumber,
    /// The exclusive bound of the transaction ids of the epoch's rows.
    pub end: TransactionId,
    /// Whether the epoch was opened on the snapshot's own history. This happens if two writers open an epoch at the
    /// same time. Then the snapshot alone decides which rows of the epoch are covered.
    pub same_history: bool,
}

/// The relation of an epoch to the epoch of a snapshot. It decides which rows of the epoch are covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochRelation {
    /// The epoch is later. None of its rows is covered.
    Later,
    /// The snapshot was taken in the epoch. The rows that the snapshot sees are covered.
    Same,
    /// The epoch is earlier and of the same system. Its rows are covered, except those of transactions that the
    /// snapshot names as in progress.
    Earlier(EarlierEpoch),
    /// The epoch is earlier and of another system, whose transaction ids mean nothing here. All its rows are covered.
    OtherSystem,
}

/// What a coverage from a cursor means to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The server shares the history of the coverage.
    Shared(LocalCoverage),
    /// The server does not share the history. The coverage counts for nothing.
    Foreign,
    /// The server is a standby that may not have replayed the history yet.
    NotReplayed,
    /// The coverage is from this server's own future: the server went back in time.
    Future,
}

impl Server {
    /// Makes a server from all rows of `mana_sync.epochs`, in any order, and the current history of the server.
    ///
    /// `next_xact` is the next transaction id, read after the snapshot. `replayed` is the position that a standby had
    /// replayed before the snapshot was taken; [`Lsn::INVALID`] if that position is not known.
    pub fn new(
        epochs: Vec<KnownEpoch>,
        history: History,
        in_recovery: bool,
        next_xact: TransactionId,
        replayed: Lsn,
    ) -> Server {
        Server { epochs, history, in_recovery, next_xact, replayed }
    }

    /// The time when the log began, in microseconds from 2000-01-01; `None` if the log has no epoch. No row of the log is older.
    pub(crate) fn log_began_at(&self) -> Option<i64> {
        self.epochs.iter().map(|known| known.opened_at).min()
    }

    /// The current history of the server.
    pub fn history(&self) -> History {
        self.history
    }

    /// Whether the server is a standby.
    pub fn in_recovery(&self) -> bool {
        self.in_recovery
    }

    /// Whether `known` is a row of the epoch in which this server writes.
    pub fn is_current(&self, known: &KnownEpoch) -> bool {
        self.current().is_some_and(|current| current.epoch.number == known.epoch.number)
            && known.history == self.history.id
    }

    /// The epoch in which this server writes: the latest epoch, if it was opened on this server's history.
    fn current(&self) -> Option<&KnownEpoch> {
        let latest = self.latest()?.number;
        self.epochs
            .iter()
            .filter(|known| known.epoch.number == latest && known.history == self.history.id)
            .min_by_key(|known| known.epoch)
    }

    /// The latest epoch: of the epochs with the greatest number, the one with the least fingerprint.
    fn latest(&self) -> Option<Epoch> {
        let number = self.epochs.iter().map(|known| known.epoch.number).max()?;
        let latest = self.epochs.iter().filter(|known| known.epoch.number == number);
        latest.map(|known| known.epoch).min()
    }

    fn latest_number(&self) -> EpochNumber {
        self.latest().map_or(EpochNumber(0), |epoch| epoch.number)
    }

    /// The epoch of a row that is written on this server.
    ///
    /// The number of a new epoch is the latest number that the server sees, plus the server's timeline. The reason is that a prepared
    /// transaction may open an epoch before a failover and commit after it. Until then, the promoted server does not see that epoch, and
    /// opens its own from the same latest number. The timeline of the promoted server is greater. So the epoch of the prepared transaction
    /// has the smaller number, and does not become the latest.
    pub fn write_epoch(&self) -> WriteEpoch {
        match self.current() {
            Some(known) => WriteEpoch::Current(known.epoch.number),
            None => WriteEpoch::ToOpen(self.number_after(self.latest_number())),
        }
    }

    /// The number of an epoch that this server opens after the epoch `number`.
    pub fn number_after(&self, number: EpochNumber) -> EpochNumber {
        EpochNumber(number.0.saturating_add(self.history.timeline.0))
    }

    /// The coverage of a snapshot of this server; `None` if the log has no epoch, and therefore no rows. `lsn` is a position that was read
    /// after the snapshot.
    pub fn local_coverage(&self, snapshot: Snapshot, lsn: Lsn) -> Option<LocalCoverage> {
        let coverage = match self.current() {
            Some(known) => Coverage { epoch: known.epoch, new_history: None, snapshot, lsn },
            None => {
                let new_history = Some(NewHistory { timeline: self.history.timeline, history: self.history.id });
                Coverage { epoch: self.latest()?, new_history, snapshot, lsn }
            }
        };
        let replayed = if self.in_recovery { self.replayed } else { Lsn::INVALID };
        Some(LocalCoverage { replayed, ..self.localize(coverage) })
    }

    /// The secret of an epoch, if this server knows the epoch.
    pub fn secret(&self, epoch: Epoch) -> Option<&Secret> {
        self.known(epoch).map(|known| &known.secret)
    }

    fn known(&self, epoch: Epoch) -> Option<&KnownEpoch> {
        self.epochs.iter().find(|known| known.epoch == epoch)
    }

    /// Decides what a coverage from a cursor means to this server.
    pub fn resolve(&self, coverage: &Coverage) -> Resolution {
        if self.known(coverage.epoch).is_none() {
            return match self.in_recovery && coverage.epoch.number > self.latest_number() {
                true => Resolution::NotReplayed,
                false => Resolution::Foreign,
            };
        }
        let is_local = match coverage.new_history {
            None => self.current().is_some_and(|known| known.epoch.number == coverage.epoch.number),
            Some(new) if new.history == self.history.id => true,
            // A writer has opened an epoch on that history since, and this server has that epoch. So the history is one
            // that this server continues. An epoch that was opened on that history before the cursor's epoch proves
            // nothing: the log may have gone from that history to the cursor's epoch, and back.
            Some(new) if self.has_epoch_after(new.history, coverage.epoch.number) => false,
            Some(new) if self.in_recovery && new.timeline > self.history.timeline => {
                return Resolution::NotReplayed;
            }
            Some(_) => return Resolution::Foreign,
        };
        // A history without an epoch has no rows, so no id in a snapshot of it can cover a wrong row. If two servers
        // continue from the same point, one of them may have given out more ids.
        if is_local && coverage.new_history.is_none() && !self.in_recovery && coverage.snapshot.end() > self.next_xact {
            return Resolution::Future;
        }
        Resolution::Shared(self.localize(coverage.clone()))
    }

    /// Whether this server may lack rows that `coverage` covers, although it shares the history of the coverage. That is the case if this
    /// server, or one that it continues, was promoted at a position in the write-ahead log before the position of the coverage.
    ///
    /// The result is also true if the coverage was taken after the point of promotion but covers no row that was written after that point,
    /// because the server cannot tell the two cases apart.
    pub fn may_lack_rows(&self, coverage: &Coverage) -> bool {
        let issuer = self.known(coverage.epoch);
        let taken_on = coverage.new_history.map(|new| new.history).or(issuer.map(|known| known.history));
        let later = self.epochs.iter().filter(|known| known.epoch.number > coverage.epoch.number);
        let histories = later.map(|known| (known.system, known.history, known.began_at));
        let current = (self.history.system, self.history.id, self.history.began_at);
        histories.chain([current]).any(|(system, history, began_at)| {
            issuer.is_some_and(|known| known.system == system) && Some(history) != taken_on && began_at < coverage.lsn
        })
    }

    /// Whether an epoch after `number` was opened on `history`.
    fn has_epoch_after(&self, history: HistoryId, number: EpochNumber) -> bool {
        self.epochs.iter().any(|known| known.history == history && known.epoch.number > number)
    }

    fn localize(&self, coverage: Coverage) -> LocalCoverage {
        let opened_on = |history: HistoryId| self.epochs.iter().find(|known| known.history == history);
        let (system, history) = match coverage.new_history {
            Some(new) if new.history == self.history.id => (Some(self.history.system), None),
            Some(new) => (opened_on(new.history).map(|known| known.system), None),
            None => match self.known(coverage.epoch) {
                Some(known) => (Some(known.system), Some(known.history)),
                None => (None, None),
            },
        };
        let mut epochs: Vec<EpochNumber> = self.epochs.iter().map(|known| known.epoch.number).collect();
        epochs.sort_unstable();
        epochs.dedup();
        let is_earlier = |number: EpochNumber| {
            number < coverage.epoch.number || (number == coverage.epoch.number && coverage.new_history.is_some())
        };
        let of_system = |number: EpochNumber| {
            self.epochs.iter().filter(move |known| known.epoch.number == number && Some(known.system) == system)
        };
        let earlier = epochs.iter().copied().filter(|&number| is_earlier(number) && of_system(number).next().is_some());
        let earlier = earlier.map(|number| {
            let later = self.epochs.iter().filter(|known| {
                known.epoch.number > number
                    && Some(known.system) == system
                    && of_system(number).all(|epoch| epoch.history != known.history)
            });
            EarlierEpoch {
                number,
                end: later.map(|known| known.next_xact).min().unwrap_or(TransactionId::MAX),
                same_history: of_system(number).any(|known| Some(known.history) == history),
            }
        });
        let earlier = earlier.collect();
        let opened = self.epochs.iter().filter(|known| known.epoch.number == coverage.epoch.number);
        let first_xact = opened.map(|known| known.next_xact).min().unwrap_or(TransactionId::MAX);
        LocalCoverage { coverage, earlier, epochs, first_xact, replayed: Lsn::INVALID }
    }
}

impl LocalCoverage {
    /// The relation of an epoch to the epoch of the snapshot.
    pub fn relation(&self, epoch: EpochNumber) -> EpochRelation {
        let latest = self.coverage.epoch.number;
        if epoch > latest {
            EpochRelation::Later
        } else if epoch == latest && self.coverage.new_history.is_none() {
            EpochRelation::Same
        } else {
            match self.earlier.iter().find(|earlier| earlier.number == epoch) {
                Some(earlier) => EpochRelation::Earlier(*earlier),
                None => EpochRelation::OtherSystem,
            }
        }
    }

    /// The `seq` up to which the rows of a transaction are covered. See [`Snapshot::covered_seq`].
    pub fn covered_seq(&self, epoch: EpochNumber, xact: TransactionId) -> i64 {
        match self.relation(epoch) {
            EpochRelation::Later => 0,
            EpochRelation::Same | EpochRelation::Earlier(EarlierEpoch { same_history: true, .. }) => {
                self.coverage.snapshot.covered_seq(xact)
            }
            EpochRelation::Earlier(_) => self.coverage.snapshot.covered_seq_of_earlier(xact),
            EpochRelation::OtherSystem => ALL,
        }
    }

    /// The exclusive bound below which a cursor has to name every open transaction.
    ///
    /// An open transaction below the bound may have written to an earlier epoch. There, each transaction that the snapshot does not name
    /// counts as ended. So if a cursor left out the transaction, its rows would count as covered.
    pub fn must_name_below(&self) -> TransactionId {
        match self.coverage.new_history.is_some() || self.earlier.iter().any(|earlier| earlier.same_history) {
            true => TransactionId::MAX,
            // An earlier epoch may become known later, when the prepared transaction that opened it commits.
            false => self.first_xact,
        }
    }

    /// Whether a row is covered.
    pub fn covers(&self, position: Position) -> bool {
        position.seq <= self.covered_seq(position.epoch, position.xact)
    }

    /// Whether this coverage covers all rows that `other` covers. Both coverages are of the same server.
    ///
    /// A coverage with a greater [`Coverage::order`] contains every coverage with a smaller one. The one with the smaller order may cover
    /// rows of a transaction that is open in the other. The reader got those rows on a history that this server does not share, so they do
    /// not count.
    ///
    /// The snapshot of a standby names open subtransactions, and the snapshot of its primary does not. So a standby also compares positions
    /// in the write-ahead log.
    pub fn contains(&self, other: &LocalCoverage) -> bool {
        match other.coverage.order().cmp(&self.coverage.order()) {
            Ordering::Less => true,
            Ordering::Equal => {
                let (ours, theirs) = (&self.coverage.snapshot, &other.coverage.snapshot);
                match self.replayed.is_valid() && self.replayed >= other.coverage.lsn {
                    // The standby has replayed the end of every transaction that `other` covers. Rows of the reader's
                    // own transaction arrive on a standby only when that transaction ends.
                    true => theirs.partial().iter().all(|&(xact, seq)| seq <= ours.covered_seq(xact)),
                    false => ours.contains(theirs),
                }
            }
            Ordering::Greater => false,
        }
    }

    /// The coverage of all rows that either of the two coverages covers. Both coverages are of the same server.
    pub fn union(&self, other: &LocalCoverage) -> LocalCoverage {
        match other.coverage.order().cmp(&self.coverage.order()) {
            Ordering::Less => self.clone(),
            Ordering::Greater => other.clone(),
            Ordering::Equal => {
                let mut union = self.clone();
                union.coverage.snapshot = self.coverage.snapshot.union(&other.coverage.snapshot);
                union.coverage.lsn = self.coverage.lsn.max(other.coverage.lsn);
                union
            }
        }
    }
}
