//! Epochs: which history of transaction ids a snapshot speaks of, and what a server knows of it.
//!
//! Transaction ids order the log only within one uninterrupted history. After a failover that lost
//! a tail, a recovery to a point in time or a restore, the same ids are given out again. So each
//! history that the log is written on has an epoch, with a number that rows carry and a random
//! fingerprint that tells apart two histories which chose the same number.

use crate::Position;
use crate::keyed::Secret;
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
pub struct Unwritten {
    /// Its timeline.
    pub timeline: u32,
    /// Its identity, see [`crate::keyed::history`].
    pub history: u64,
}

/// A set of rows of the whole log.
///
/// Seen are the rows of `epoch` that `snapshot` sees, and all rows of earlier epochs but those of
/// transactions that `snapshot` names as unfinished (prepared transactions outlive a failover).
/// Where `unwritten` is set, `epoch` is the last that was written, all its rows are of the earlier
/// kind, and `snapshot` is one of the history that `unwritten` names. It tells which transactions were
/// unfinished, and nothing of an epoch that is opened on that history later: two servers may go on
/// separately from the same point.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// The latest epoch that has been seen.
    pub epoch: Epoch,
    /// Set when `snapshot` is of a history after `epoch` that has no epoch yet.
    pub unwritten: Option<Unwritten>,
    /// What has been seen of the latest history.
    pub snapshot: Snapshot,
    /// A position of that history's write-ahead log (LSN): a server that has replayed so far sees all that
    /// had finished.
    pub lsn: u64,
}

impl Seen {
    /// Age among the states of one log: epochs, and after each the history that follows it.
    pub fn order(&self) -> u64 {
        2 * u64::from(self.epoch.number) + u64::from(self.unwritten.is_some())
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
    /// Identity of the history, see [`crate::keyed::history`].
    pub history: u64,
    /// A transaction id that had not been given out when the epoch was opened: rows of earlier epochs of the
    /// same system have smaller ids.
    pub next_xact: u64,
    /// When the transaction began that opened it, in microseconds from 2000-01-01: nothing was written in it before.
    pub began: i64,
}

/// The history that a server is on now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Here {
    /// System identifier of the cluster.
    pub system: u64,
    /// Timeline that the server writes or replays.
    pub timeline: u32,
    /// Identity of the history, see [`crate::keyed::history`].
    pub history: u64,
}

/// What a server knows when it answers a pull.
#[derive(Clone, Debug)]
pub struct Server {
    epochs: Vec<KnownEpoch>,
    here: Here,
    in_recovery: bool,
    next_xact: u64,
    replayed: u64,
}

/// A [`Seen`] that this server can compare with its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The set.
    pub seen: Seen,
    /// Epochs whose ids come from the same system as the snapshot's, and whose rows are of the earlier kind.
    pub kin: Vec<Kin>,
    /// Numbers of all epochs that the server knows, ascending.
    pub epochs: Vec<u32>,
    /// A transaction id that had not been given out when the snapshot's epoch was opened.
    opened_at: u64,
    /// On a standby: all that was in its write-ahead log up to here is seen (LSN).
    replayed: u64,
}

/// An earlier epoch, to a snapshot of the same system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kin {
    /// Its number.
    pub number: u32,
    /// Its rows have smaller transaction ids.
    pub end: u64,
    /// Whether it was opened on the snapshot's own history (by writers that were first at the same time):
    /// then the snapshot tells all about its rows.
    pub twin: bool,
}

/// What a snapshot tells of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// None of its rows is seen.
    Later,
    /// It is the one that the snapshot is of.
    Own,
    /// All of its rows are seen, but those of transactions that the snapshot of the same system says it of.
    Earlier(Option<Kin>),
}

/// What a state that a cursor names is to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Of a history that the server shares.
    Shared(View),
    /// Of a history that the server does not share: it counts for nothing.
    Foreign,
    /// Of a history that this standby may not have replayed yet.
    NotYet,
    /// Of this server's own future.
    Future,
}

impl Server {
    /// A server that sees `epochs` (every row of `mana_sync.epochs`, in any order) and is on the history
    /// `here`, as a standby or not; `next_xact` is the next transaction id, read after the snapshot, and
    /// `replayed` what a standby had replayed before it (LSN); 0 where that is not known.
    pub fn new(epochs: Vec<KnownEpoch>, here: Here, in_recovery: bool, next_xact: u64, replayed: u64) -> Server {
        Server { epochs, here, in_recovery, next_xact, replayed }
    }

    /// When the log began: nothing was written in it before.
    pub(crate) fn began(&self) -> Option<i64> {
        self.epochs.iter().map(|known| known.began).min()
    }

    /// The history that it is on.
    pub fn here(&self) -> Here {
        self.here
    }

    /// Whether it is a standby.
    pub fn in_recovery(&self) -> bool {
        self.in_recovery
    }

    /// Whether the row of the epoch that this server writes in is `known`.
    pub fn is_current(&self, known: &KnownEpoch) -> bool {
        self.current().is_some_and(|current| current.epoch.number == known.epoch.number)
            && known.history == self.here.history
    }

    /// The epoch that this server writes in: the latest, if that is of its own history.
    fn current(&self) -> Option<&KnownEpoch> {
        let latest = self.latest()?.number;
        self.epochs
            .iter()
            .filter(|known| known.epoch.number == latest && known.history == self.here.history)
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
        number.saturating_add(self.here.timeline)
    }

    /// What a snapshot of this server has seen of the log; `None` while there is no epoch, and so no row.
    /// `lsn` was read after the snapshot.
    pub fn view(&self, snapshot: Snapshot, lsn: u64) -> Option<View> {
        let seen = match self.current() {
            Some(known) => Seen { epoch: known.epoch, unwritten: None, snapshot, lsn },
            None => {
                let unwritten = Some(Unwritten { timeline: self.here.timeline, history: self.here.history });
                Seen { epoch: self.latest()?, unwritten, snapshot, lsn }
            }
        };
        let replayed = if self.in_recovery { self.replayed } else { 0 };
        Some(View { replayed, ..self.resolve(seen) })
    }

    /// The secret of an epoch that this server knows.
    pub fn secret(&self, epoch: Epoch) -> Option<&Secret> {
        self.known(epoch).map(|known| &known.secret)
    }

    fn known(&self, epoch: Epoch) -> Option<&KnownEpoch> {
        self.epochs.iter().find(|known| known.epoch == epoch)
    }

    /// What a state from a cursor is to this server.
    pub fn standing(&self, seen: &Seen) -> Standing {
        if self.known(seen.epoch).is_none() {
            let latest = self.latest().map_or(0, |epoch| epoch.number);
            return match self.in_recovery && seen.epoch.number > latest {
                true => Standing::NotYet,
                false => Standing::Foreign,
            };
        }
        let of_here = match seen.unwritten {
            None => self.current().is_some_and(|known| known.epoch.number == seen.epoch.number),
            Some(unwritten) if unwritten.history == self.here.history => true,
            // Somebody has written on that history since, and then it was this server's. (An epoch of it from before may be
            // here because the log was carried on from there to the cursor's epoch, and back.)
            Some(unwritten) if self.has_written_on(unwritten.history, seen.epoch.number) => false,
            Some(unwritten) if self.in_recovery && unwritten.timeline > self.here.timeline => {
                return Standing::NotYet;
            }
            Some(_) => return Standing::Foreign,
        };
        // Of a history without an epoch the snapshot says nothing that could be wrong: of two servers that go on from the same
        // point one may have given out more ids.
        if of_here && seen.unwritten.is_none() && !self.in_recovery && seen.snapshot.end() > self.next_xact {
            return Standing::Future;
        }
        Standing::Shared(self.resolve(seen.clone()))
    }

    /// Whether there is an epoch of a history after the epoch of a number.
    fn has_written_on(&self, history: u64, number: u32) -> bool {
        self.epochs.iter().any(|known| known.history == history && known.epoch.number > number)
    }

    fn resolve(&self, seen: Seen) -> View {
        let of = |history: u64| self.epochs.iter().find(|known| known.history == history);
        let (system, history) = match seen.unwritten {
            Some(unwritten) if unwritten.history == self.here.history => (Some(self.here.system), None),
            Some(unwritten) => (of(unwritten.history).map(|known| known.system), None),
            None => match self.known(seen.epoch) {
                Some(known) => (Some(known.system), Some(known.history)),
                None => (None, None),
            },
        };
        let mut epochs: Vec<u32> = self.epochs.iter().map(|known| known.epoch.number).collect();
        epochs.sort_unstable();
        epochs.dedup();
        let earlier =
            |number: u32| number < seen.epoch.number || (number == seen.epoch.number && seen.unwritten.is_some());
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
            Kin {
                number,
                end: later.map(|known| known.next_xact).min().unwrap_or(u64::MAX),
                twin: of_system(number).any(|known| Some(known.history) == history),
            }
        });
        let kin = kin.collect();
        let opened = self.epochs.iter().filter(|known| known.epoch.number == seen.epoch.number);
        let opened_at = opened.map(|known| known.next_xact).min().unwrap_or(u64::MAX);
        View { seen, kin, epochs, opened_at, replayed: 0 }
    }
}

impl View {
    /// What the snapshot tells of an epoch.
    pub fn of(&self, epoch: u32) -> Of {
        let latest = self.seen.epoch.number;
        if epoch > latest {
            Of::Later
        } else if epoch == latest && self.seen.unwritten.is_none() {
            Of::Own
        } else {
            Of::Earlier(self.kin.iter().find(|kin| kin.number == epoch).copied())
        }
    }

    /// The rows of a transaction are seen up to this `seq`.
    pub fn horizon(&self, epoch: u32, xact: u64) -> i64 {
        match self.of(epoch) {
            Of::Later => 0,
            Of::Own | Of::Earlier(Some(Kin { twin: true, .. })) => self.seen.snapshot.horizon(xact),
            Of::Earlier(Some(_)) => self.seen.snapshot.horizon_of_earlier(xact),
            Of::Earlier(None) => ALL,
        }
    }

    /// Transactions below this may have written to an earlier epoch, of which all that the snapshot does not
    /// name have finished: it has to name them.
    pub fn named_below(&self) -> u64 {
        match self.seen.unwritten.is_some() || self.kin.iter().any(|kin| kin.twin) {
            true => u64::MAX,
            // An earlier epoch may become known later, with the prepared transaction that opened it.
            false => self.opened_at,
        }
    }

    /// Whether a row is seen.
    pub fn sees(&self, position: Position) -> bool {
        position.seq <= self.horizon(position.epoch, position.xact)
    }

    /// Whether all that `other` has seen is seen here; both are of the same server.
    ///
    /// An earlier state of the log is contained in a later one. What it has seen of a transaction
    /// that this one has open was seen on a history that this server does not share, and does not count.
    ///
    /// The snapshots of a standby name subtransactions as open, which those of its primary do not: there the
    /// position in the write-ahead log decides too.
    pub fn contains(&self, other: &View) -> bool {
        match other.seen.order().cmp(&self.seen.order()) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => {
                let (ours, theirs) = (&self.seen.snapshot, &other.seen.snapshot);
                match self.replayed > 0 && self.replayed >= other.seen.lsn {
                    // All that had finished; what its reader's own transactions wrote is not here before they end.
                    true => theirs.partial().iter().all(|&(xact, seq)| seq <= ours.horizon(xact)),
                    false => ours.contains(theirs),
                }
            }
            std::cmp::Ordering::Greater => false,
        }
    }

    /// What either has seen; both are of the same server.
    pub fn union(&self, other: &View) -> View {
        match other.seen.order().cmp(&self.seen.order()) {
            std::cmp::Ordering::Less => self.clone(),
            std::cmp::Ordering::Greater => other.clone(),
            std::cmp::Ordering::Equal => {
                let mut union = self.clone();
                union.seen.snapshot = self.seen.snapshot.union(&other.seen.snapshot);
                union.seen.lsn = self.seen.lsn.max(other.seen.lsn);
                union
            }
        }
    }
}
