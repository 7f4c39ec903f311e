//! Epochs: which history of transaction ids a snapshot speaks of, and what a server knows of it.
//!
//! Transaction ids order the log only within one uninterrupted history. After a failover that lost
//! a tail, a recovery to a point in time or a restore, the same ids are given out again. So each
//! history that the log is written on has an epoch, with a number that rows carry and a random
//! fingerprint that tells apart two histories which chose the same number.

use crate::Position;
use crate::hash::Secret;
use crate::snapshot::{ALL, Snapshot};

/// An epoch as a cursor names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch {
    /// From 1, greater for a later epoch; rows carry it.
    pub number: u32,
    /// Random, 48 bits.
    pub fingerprint: u64,
}

/// A history that nobody has written on yet when the cursor was issued: it has no epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NewHistory {
    /// Its timeline.
    pub timeline: u32,
    /// Its identity, see [`crate::hash::history`].
    pub history: u64,
}

/// A set of rows of the whole log.
///
/// Coverage are the rows of `epoch` that `snapshot` sees, and all rows of earlier epochs but those of
/// transactions that `snapshot` names as unfinished (prepared transactions outlive a failover).
/// Where `new_history` is set, `epoch` is the last that was written, all its rows are of the earlier
/// kind, and `snapshot` is one of the history that `new_history` names. It tells which transactions were
/// unfinished, and nothing of an epoch that is opened on that history later: two servers may go on
/// separately from the same point.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Coverage {
    /// The latest epoch that has been seen.
    pub epoch: Epoch,
    /// Set when `snapshot` is of a history after `epoch` that has no epoch yet.
    pub new_history: Option<NewHistory>,
    /// What has been seen of the latest history.
    pub snapshot: Snapshot,
    /// A position of that history's write-ahead log (LSN): a server that has replayed so far sees all that
    /// had finished.
    pub lsn: u64,
}

impl Coverage {
    /// Age among the states of one log: epochs, and after each the history that follows it.
    pub fn order(&self) -> u64 {
        2 * u64::from(self.epoch.number) + u64::from(self.new_history.is_some())
    }
}

/// A row of `mana_sync.epochs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownEpoch {
    /// Number and fingerprint.
    pub epoch: Epoch,
    /// Keys the hashes of cursors that name this fingerprint.
    pub secret: Secret,
    /// System identifier of the cluster.
    pub system: u64,
    /// Identity of the history, see [`crate::hash::history`].
    pub history: u64,
    /// A transaction id that had not been given out when the epoch was opened: rows of earlier epochs of the
    /// same system have smaller ids.
    pub next_xact: u64,
    /// When the transaction began that opened it, in microseconds from 2000-01-01: nothing was written in it before.
    pub opened_at: i64,
}

/// The history that a server is on now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// System identifier of the cluster.
    pub system: u64,
    /// Timeline that the server writes or replays.
    pub timeline: u32,
    /// Identity of the history, see [`crate::hash::history`].
    pub id: u64,
}

/// What a server knows when it answers a pull.
#[derive(Clone, Debug)]
pub struct Server {
    epochs: Vec<KnownEpoch>,
    history: History,
    in_recovery: bool,
    next_xact: u64,
    replayed: u64,
}

/// A [`Coverage`] that this server can compare with its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalCoverage {
    /// The set.
    pub coverage: Coverage,
    /// Epochs whose ids come from the same system as the snapshot's, and whose rows are of the earlier kind.
    pub earlier: Vec<EarlierEpoch>,
    /// Numbers of all epochs that the server knows, ascending.
    pub epochs: Vec<u32>,
    /// A transaction id that had not been given out when the snapshot's epoch was opened.
    first_xact: u64,
    /// On a standby: all that was in its write-ahead log up to here is seen (LSN).
    replayed: u64,
}

/// An earlier epoch, to a snapshot of the same system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlierEpoch {
    /// Its number.
    pub number: u32,
    /// Its rows have smaller transaction ids.
    pub end: u64,
    /// Whether it was opened on the snapshot's own history (by writers that were first at the same time):
    /// then the snapshot tells all about its rows.
    pub same_history: bool,
}

/// What a snapshot tells of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochRelation {
    /// None of its rows is seen.
    Later,
    /// It is the one that the snapshot is of.
    Same,
    /// All of its rows are seen, but those of transactions that the snapshot of the same system says it of.
    Earlier(Option<EarlierEpoch>),
}

/// What a state that a cursor names is to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Of a history that the server shares.
    Shared(LocalCoverage),
    /// Of a history that the server does not share: it counts for nothing.
    Foreign,
    /// Of a history that this standby may not have replayed yet.
    NotReplayed,
    /// Of this server's own future.
    Future,
}

impl Server {
    /// A server that sees `epochs` (every row of `mana_sync.epochs`, in any order) and is on the history
    /// `here`, as a standby or not; `next_xact` is the next transaction id, read after the snapshot, and
    /// `replayed` what a standby had replayed before it (LSN); 0 where that is not known.
    pub fn new(epochs: Vec<KnownEpoch>, history: History, in_recovery: bool, next_xact: u64, replayed: u64) -> Server {
        Server { epochs, history, in_recovery, next_xact, replayed }
    }

    /// When the log began: nothing was written in it before.
    pub(crate) fn began(&self) -> Option<i64> {
        self.epochs.iter().map(|known| known.opened_at).min()
    }

    /// The history that it is on.
    pub fn history(&self) -> History {
        self.history
    }

    /// Whether it is a standby.
    pub fn in_recovery(&self) -> bool {
        self.in_recovery
    }

    /// Whether the row of the epoch that this server writes in is `known`.
    pub fn is_current(&self, known: &KnownEpoch) -> bool {
        self.current().is_some_and(|current| current.epoch.number == known.epoch.number)
            && known.history == self.history.id
    }

    /// The epoch that this server writes in: the latest, if that is of its own history.
    fn current(&self) -> Option<&KnownEpoch> {
        let latest = self.latest()?.number;
        self.epochs
            .iter()
            .filter(|known| known.epoch.number == latest && known.history == self.history.id)
            .min_by_key(|known| known.epoch)
    }

    /// The latest epoch; where it has several fingerprints, the least.
    fn latest(&self) -> Option<Epoch> {
        let number = self.epochs.iter().map(|known| known.epoch.number).max()?;
        let latest = self.epochs.iter().filter(|known| known.epoch.number == number);
        latest.map(|known| known.epoch).min()
    }

    /// The number of the epoch that a row written on this server belongs to, and whether a writer
    /// has to add it first.
    ///
    /// A new epoch's number is the latest one's plus the timeline. An epoch of an earlier timeline may
    /// become visible only later, with a prepared transaction that opened it and outlived the failover:
    /// by this rule it has a smaller number.
    pub fn writes_in(&self) -> (u32, bool) {
        match self.current() {
            Some(known) => (known.epoch.number, false),
            None => (self.number_after(self.latest().map_or(0, |epoch| epoch.number)), true),
        }
    }

    /// The number of an epoch that is opened after another one.
    pub fn number_after(&self, number: u32) -> u32 {
        number.saturating_add(self.history.timeline)
    }

    /// What a snapshot of this server has seen of the log; `None` while there is no epoch, and so no row.
    /// `lsn` was read after the snapshot.
    pub fn local_coverage(&self, snapshot: Snapshot, lsn: u64) -> Option<LocalCoverage> {
        let coverage = match self.current() {
            Some(known) => Coverage { epoch: known.epoch, new_history: None, snapshot, lsn },
            None => {
                let new_history = Some(NewHistory { timeline: self.history.timeline, history: self.history.id });
                Coverage { epoch: self.latest()?, new_history, snapshot, lsn }
            }
        };
        let replayed = if self.in_recovery { self.replayed } else { 0 };
        Some(LocalCoverage { replayed, ..self.localize(coverage) })
    }

    /// The secret of an epoch that this server knows.
    pub fn secret(&self, epoch: Epoch) -> Option<&Secret> {
        self.known(epoch).map(|known| &known.secret)
    }

    fn known(&self, epoch: Epoch) -> Option<&KnownEpoch> {
        self.epochs.iter().find(|known| known.epoch == epoch)
    }

    /// What a state from a cursor is to this server.
    pub fn resolve(&self, coverage: &Coverage) -> Resolution {
        if self.known(coverage.epoch).is_none() {
            let latest = self.latest().map_or(0, |epoch| epoch.number);
            return match self.in_recovery && coverage.epoch.number > latest {
                true => Resolution::NotReplayed,
                false => Resolution::Foreign,
            };
        }
        let of_here = match coverage.new_history {
            None => self.current().is_some_and(|known| known.epoch.number == coverage.epoch.number),
            Some(new_history) if new_history.history == self.history.id => true,
            // Somebody has written on that history since, and then it was this server's. (An epoch of it from before may be
            // here because the log was carried on from there to the cursor's epoch, and back.)
            Some(new_history) if self.has_written_on(new_history.history, coverage.epoch.number) => false,
            Some(new_history) if self.in_recovery && new_history.timeline > self.history.timeline => {
                return Resolution::NotReplayed;
            }
            Some(_) => return Resolution::Foreign,
        };
        // Of a history without an epoch the snapshot says nothing that could be wrong: of two servers that go on from the same
        // point one may have given out more ids.
        if of_here && coverage.new_history.is_none() && !self.in_recovery && coverage.snapshot.end() > self.next_xact {
            return Resolution::Future;
        }
        Resolution::Shared(self.localize(coverage.clone()))
    }

    /// Whether there is an epoch of a history after the epoch of a number.
    fn has_written_on(&self, history: u64, number: u32) -> bool {
        self.epochs.iter().any(|known| known.history == history && known.epoch.number > number)
    }

    fn localize(&self, coverage: Coverage) -> LocalCoverage {
        let of = |history: u64| self.epochs.iter().find(|known| known.history == history);
        let (system, history) = match coverage.new_history {
            Some(new_history) if new_history.history == self.history.id => (Some(self.history.system), None),
            Some(new_history) => (of(new_history.history).map(|known| known.system), None),
            None => match self.known(coverage.epoch) {
                Some(known) => (Some(known.system), Some(known.history)),
                None => (None, None),
            },
        };
        let mut epochs: Vec<u32> = self.epochs.iter().map(|known| known.epoch.number).collect();
        epochs.sort_unstable();
        epochs.dedup();
        let earlier = |number: u32| {
            number < coverage.epoch.number || (number == coverage.epoch.number && coverage.new_history.is_some())
        };
        let of_system = |number: u32| {
            self.epochs.iter().filter(move |known| known.epoch.number == number && Some(known.system) == system)
        };
        let kin = epochs.iter().copied().filter(|&number| earlier(number) && of_system(number).next().is_some());
        let kin = kin.map(|number| {
            let later = self.epochs.iter().filter(|known| {
                known.epoch.number > number
                    && Some(known.system) == system
                    && of_system(number).all(|epoch| epoch.history != known.history)
            });
            EarlierEpoch {
                number,
                end: later.map(|known| known.next_xact).min().unwrap_or(u64::MAX),
                same_history: of_system(number).any(|known| Some(known.history) == history),
            }
        });
        let earlier = kin.collect();
        let opened = self.epochs.iter().filter(|known| known.epoch.number == coverage.epoch.number);
        let first_xact = opened.map(|known| known.next_xact).min().unwrap_or(u64::MAX);
        LocalCoverage { coverage, earlier, epochs, first_xact, replayed: 0 }
    }
}

impl LocalCoverage {
    /// What the snapshot tells of an epoch.
    pub fn relation(&self, epoch: u32) -> EpochRelation {
        let latest = self.coverage.epoch.number;
        if epoch > latest {
            EpochRelation::Later
        } else if epoch == latest && self.coverage.new_history.is_none() {
            EpochRelation::Same
        } else {
            EpochRelation::Earlier(self.earlier.iter().find(|earlier| earlier.number == epoch).copied())
        }
    }

    /// The rows of a transaction are seen up to this `seq`.
    pub fn covered_seq(&self, epoch: u32, xact: u64) -> i64 {
        match self.relation(epoch) {
            EpochRelation::Later => 0,
            EpochRelation::Same | EpochRelation::Earlier(Some(EarlierEpoch { same_history: true, .. })) => {
                self.coverage.snapshot.covered_seq(xact)
            }
            EpochRelation::Earlier(Some(_)) => self.coverage.snapshot.covered_seq_of_earlier(xact),
            EpochRelation::Earlier(None) => ALL,
        }
    }

    /// Transactions below this may have written to an earlier epoch, of which all that the snapshot does not
    /// name have finished: it has to name them.
    pub fn must_name_below(&self) -> u64 {
        match self.coverage.new_history.is_some() || self.earlier.iter().any(|earlier| earlier.same_history) {
            true => u64::MAX,
            // An earlier epoch may become known later, with the prepared transaction that opened it.
            false => self.first_xact,
        }
    }

    /// Whether a row is seen.
    pub fn covers(&self, position: Position) -> bool {
        position.seq <= self.covered_seq(position.epoch, position.xact)
    }

    /// Whether all that `other` has seen is seen here; both are of the same server.
    ///
    /// An earlier state of the log is contained in a later one. What it has seen of a transaction
    /// that this one has open was seen on a history that this server does not share, and does not count.
    ///
    /// The snapshots of a standby name subtransactions as open, which those of its primary do not: there the
    /// position in the write-ahead log decides too.
    pub fn contains(&self, other: &LocalCoverage) -> bool {
        match other.coverage.order().cmp(&self.coverage.order()) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => {
                let (ours, theirs) = (&self.coverage.snapshot, &other.coverage.snapshot);
                match self.replayed > 0 && self.replayed >= other.coverage.lsn {
                    // All that had finished; what its reader's own transactions wrote is not here before they end.
                    true => theirs.partial().iter().all(|&(xact, seq)| seq <= ours.covered_seq(xact)),
                    false => ours.contains(theirs),
                }
            }
            std::cmp::Ordering::Greater => false,
        }
    }

    /// What either has seen; both are of the same server.
    pub fn union(&self, other: &LocalCoverage) -> LocalCoverage {
        match other.coverage.order().cmp(&self.coverage.order()) {
            std::cmp::Ordering::Less => self.clone(),
            std::cmp::Ordering::Greater => other.clone(),
            std::cmp::Ordering::Equal => {
                let mut union = self.clone();
                union.coverage.snapshot = self.coverage.snapshot.union(&other.coverage.snapshot);
                union.coverage.lsn = self.coverage.lsn.max(other.coverage.lsn);
                union
            }
        }
    }
}
