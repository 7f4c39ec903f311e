//! Compares the changes that a reader was given with those that it should have. Plain SQL, without the extension's
//! functions, computes those that it should have. Every test uses this comparison, also for the losses of the timestamp
//! cursor.

use std::collections::{HashMap, HashSet};
use std::fmt;

use postgres::Client;
use uuid::Uuid;

/// The changes that a reader was given, each with the number of deliveries.
#[derive(Clone, Default)]
pub struct Delivered(HashMap<Uuid, u32>);

impl Delivered {
    /// Notes a delivery of a change.
    pub fn add(&mut self, id: Uuid) {
        *self.0.entry(id).or_default() += 1;
    }

    /// Whether the change was delivered at least once.
    pub fn contains(&self, id: &Uuid) -> bool {
        self.0.contains_key(id)
    }

    /// The number of different changes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was delivered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares what was delivered with what should have been delivered.
    pub fn compare(&self, allowed: &HashSet<Uuid>) -> Difference {
        Difference {
            expected: allowed.len(),
            lost: allowed.iter().filter(|id| !self.contains(id)).copied().collect(),
            repeated: self.0.values().map(|&times| times as usize - 1).sum(),
            foreign: self.0.keys().filter(|id| !allowed.contains(id)).copied().collect(),
        }
    }
}

/// The outcome of [`Delivered::compare`]. The outcomes of several readers can be added up.
#[derive(Clone, Default)]
pub struct Difference {
    /// The number of changes that the reader should have.
    pub expected: usize,
    /// The changes that the reader should have and was never given.
    pub lost: Vec<Uuid>,
    /// The number of repeated deliveries: all deliveries of a change except the first.
    pub repeated: usize,
    /// The changes that the reader was given and should not have: changes of another scope, or changes that are not in
    /// the log.
    pub foreign: Vec<Uuid>,
}

impl Difference {
    /// Adds another reader's outcome.
    pub fn add(&mut self, other: Difference) {
        self.expected += other.expected;
        self.lost.extend(other.lost);
        self.repeated += other.repeated;
        self.foreign.extend(other.foreign);
    }

    /// The lost changes in percent of the expected changes.
    pub fn loss_percent(&self) -> f64 {
        self.lost.len() as f64 * 100.0 / self.expected.max(1) as f64
    }

    /// Panics unless the reader was given every expected change and no other.
    pub fn assert_complete(&self, who: &str) {
        assert!(
            self.lost.is_empty() && self.foreign.is_empty(),
            "{who}: {self}; lost: {:?}; foreign: {:?}",
            self.lost,
            self.foreign
        );
    }

    /// Panics unless the reader was given every expected change exactly once, and no other.
    pub fn assert_exact(&self, who: &str) {
        self.assert_complete(who);
        assert_eq!(self.repeated, 0, "{who}: {self}");
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} expected, {} lost, {} repeated", self.expected, self.lost.len(), self.repeated)?;
        if self.foreign.is_empty() { Ok(()) } else { write!(f, ", {} foreign", self.foreign.len()) }
    }
}

/// Reads the ids of the changes that a scope may see. The client is a superuser, to whom row security does not apply.
pub fn allowed(superuser: &mut Client, user: &str, app: &str, spaces: &[String]) -> HashSet<Uuid> {
    let sql = "SELECT id FROM mana_sync.sync_changes WHERE app_id = $1 AND (user_id = $2 OR space_id = ANY ($3))";
    let rows = superuser.query(sql, &[&app, &user, &spaces]).expect("the log is readable");
    rows.iter().map(|row| row.get(0)).collect()
}
