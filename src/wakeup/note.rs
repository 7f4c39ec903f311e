//! Remembers the users and spaces to which a transaction writes, until it commits.

use super::feed;
use crate::error::{Error, MOST_KEY_BYTES};
use crate::pg::fmgr::{Answer, Args, TriggerRow, sql_functions};
use crate::pg::xact::{self, Event, SubEvent, TransactionCallbacks};
use crate::row::{Column, LogRow};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::HashSet;

sql_functions!(note_change);

/// The greatest number of touches of a transaction. A transaction with more wakes everybody.
const MOST_TOUCHES: usize = 500;

/// A touch: the user and the space of a change, and which client wrote to which table of which app. An app, table or
/// client that is too long is left empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Touch {
    /// The author of the change.
    #[serde(with = "serde_bytes")]
    pub user: Box<[u8]>,
    /// The space of the change; empty for none.
    #[serde(with = "serde_bytes")]
    pub space: Box<[u8]>,
    /// The app of the record.
    #[serde(with = "serde_bytes")]
    pub app: Box<[u8]>,
    /// The table of the record.
    #[serde(with = "serde_bytes")]
    pub table: Box<[u8]>,
    /// The device that wrote.
    #[serde(with = "serde_bytes")]
    pub client: Box<[u8]>,
}

/// The touches of the current transaction so far.
#[derive(Default)]
struct TransactionTouches {
    /// Each touch with the nesting level of the subtransaction that wrote.
    touches: Vec<(i32, Touch)>,
    /// The touches of `touches` as a set, so that none is added twice.
    known: HashSet<Touch>,
    /// Whether something was touched that is not in `touches`.
    overflow: bool,
    /// The encoded touches, which go into the feed. They are encoded before the commit, while errors are still
    /// possible.
    encoded: Vec<u8>,
}

thread_local! {
    static TOUCHES: RefCell<TransactionTouches> = RefCell::default();
}

/// Registers the callbacks that handle the touches at the end of transactions and subtransactions.
pub fn register() {
    xact::register::<TransactionTouches>();
}

impl TransactionCallbacks for TransactionTouches {
    fn at_end(event: Event) {
        TOUCHES.with_borrow_mut(|touches| match event {
            Event::BeforeCommit => touches.encode(),
            Event::Commit => {
                if touches.overflow || !touches.encoded.is_empty() {
                    feed::add(&touches.encoded, touches.overflow);
                    touches.clear();
                }
            }
            Event::Abort => touches.clear(),
        });
    }

    fn at_subtransaction_end(event: SubEvent, level: i32) {
        TOUCHES.with_borrow_mut(|touches| {
            if touches.touches.is_empty() {
                return;
            }
            match event {
                SubEvent::Commit => touches.touches.iter_mut().for_each(|(of, _)| *of = (*of).min(level - 1)),
                SubEvent::Abort => {
                    touches.touches.retain(|(of, _)| *of < level);
                    touches.known = touches.touches.iter().map(|(_, touch)| touch.clone()).collect();
                }
            }
        });
    }
}

/// `mana_sync.note_change() RETURNS trigger`
///
/// Remembers the touch of a row that is inserted into the log. The trigger of the log calls it before each row. Errors:
/// 0A000 if something else calls it.
fn note_change<'a>(args: &Args<'a>) -> Answer<'a> {
    let trigger = TriggerRow::before_insert(args, "sync_changes").ok_or(Error::NoTrigger)?;
    if feed::is_there() {
        let row = LogRow::of_table(*trigger.row());
        let columns = [Column::UserId, Column::SpaceId, Column::AppId, Column::TableName, Column::ClientId];
        // The texts are detoasted before the touches are borrowed. If the backend is terminated during detoasting, the
        // callback of the abort borrows the touches.
        let texts = columns.map(|column| row.text(column).unwrap_or_default());
        TOUCHES.with_borrow_mut(|touches| touches.add(texts));
    }
    Ok(Some(trigger.unchanged()))
}

impl TransactionTouches {
    fn add(&mut self, [user, space, app, table, client]: [&[u8]; 5]) {
        // Most rows touch the same as the row before.
        let same = self.touches.last().is_some_and(|(_, last)| {
            (&*last.user, &*last.space, &*last.app, &*last.table, &*last.client) == (user, space, app, table, client)
        });
        if same || self.overflow {
            return;
        }
        if self.touches.len() == MOST_TOUCHES || user.len() > MOST_KEY_BYTES || space.len() > MOST_KEY_BYTES {
            self.overflow = true;
            return;
        }
        let short = |text: &[u8]| if text.len() > MOST_KEY_BYTES { Box::default() } else { text.into() };
        let touch = Touch {
            user: user.into(),
            space: space.into(),
            app: short(app),
            table: short(table),
            client: short(client),
        };
        if self.known.insert(touch.clone()) {
            self.touches.push((xact::nesting_level(), touch));
        }
    }

    /// Encodes the touches for the feed, one after the other.
    fn encode(&mut self) {
        let mut encoded = std::mem::take(&mut self.encoded);
        encoded.clear();
        for (_, touch) in &self.touches {
            // Encoding into a Vec cannot fail. If it did, everybody would be woken.
            match postcard::to_extend(touch, encoded) {
                Ok(more) => encoded = more,
                Err(_) => {
                    self.overflow = true;
                    return;
                }
            }
        }
        self.encoded = encoded;
    }

    fn clear(&mut self) {
        self.touches.clear();
        self.known.clear();
        self.overflow = false;
        self.encoded.clear();
    }
}

/// Decodes the touches that transactions have added to a feed.
pub fn decode(mut bytes: &[u8]) -> Vec<Touch> {
    std::iter::from_fn(|| {
        let (touch, rest) = postcard::take_from_bytes(bytes).ok()?;
        bytes = rest;
        Some(touch)
    })
    .collect()
}
