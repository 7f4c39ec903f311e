//! Whom a transaction touches.

use super::feed;
use crate::error::{Error, MOST_KEY_BYTES};
use crate::function::{Args, sql_function, text_of};
use pgrx::{pg_guard, pg_sys};
use std::cell::RefCell;
use std::collections::HashSet;

sql_function!(mana_sync_note_change, pg_finfo_mana_sync_note_change, note_change);

/// Places of the columns in `mana_sync.sync_changes` (`sql/tables.sql`).
mod column {
    pub const USER: i32 = 6;
    pub const APP: i32 = 7;
    pub const TABLE: i32 = 8;
    pub const CLIENT: i32 = 11;
    pub const SPACE: i32 = 12;
}

/// A transaction that touches more than this wakes everybody.
const MOST_TOUCHES: usize = 500;

/// A user and a space (empty: none), and what was written by which client. A text that is too long is left empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Touch {
    /// Who wrote.
    pub user: Box<[u8]>,
    /// Into which space.
    pub space: Box<[u8]>,
    /// In which app.
    pub app: Box<[u8]>,
    /// In which table.
    pub table: Box<[u8]>,
    /// From which device.
    pub client: Box<[u8]>,
}

/// What the transaction has touched so far.
#[derive(Default)]
struct Pending {
    /// With the nesting level of the subtransaction that wrote.
    touches: Vec<(i32, Touch)>,
    known: HashSet<Touch>,
    /// Something that is not among the touches.
    more: bool,
    /// The touches as they go into the feed; made before the commit.
    bytes: Vec<u8>,
}

thread_local! {
    static PENDING: RefCell<Pending> = RefCell::default();
}

/// Called when the library is loaded.
pub fn register() {
    // SAFETY: the callbacks touch their arguments and the pending touches.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_subtransaction), std::ptr::null_mut());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_end(event: pg_sys::XactEvent::Type, _arg: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_COMMIT, XACT_EVENT_PARALLEL_PRE_COMMIT, XACT_EVENT_PRE_COMMIT};
    PENDING.with_borrow_mut(|pending| match event {
        // Errors are still possible here.
        XACT_EVENT_PRE_COMMIT => pending.write(),
        XACT_EVENT_PARALLEL_PRE_COMMIT => {}
        XACT_EVENT_COMMIT => {
            if pending.more || !pending.bytes.is_empty() {
                feed::add(&pending.bytes, pending.more);
                pending.clear();
            }
        }
        // An abort; a PREPARE, whose end is somebody else's.
        pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => {}
        _ => pending.clear(),
    });
}

#[pg_guard]
unsafe extern "C-unwind" fn at_subtransaction(
    event: pg_sys::SubXactEvent::Type,
    _own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut std::ffi::c_void,
) {
    PENDING.with_borrow_mut(|pending| {
        if pending.touches.is_empty() {
            return;
        }
        // SAFETY: a plain read of the transaction's state.
        let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
        match event {
            pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => {
                pending.touches.iter_mut().for_each(|(of, _)| *of = (*of).min(level - 1));
            }
            pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => {
                pending.touches.retain(|(of, _)| *of < level);
                pending.known = pending.touches.iter().map(|(_, touch)| touch.clone()).collect();
            }
            _ => {}
        }
    });
}

/// `mana_sync.note_change() RETURNS trigger`: before each row that is inserted into the log.
fn note_change(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    // SAFETY: the context is NULL or a node, of the trigger if it is one; a row trigger has a tuple. Anybody may make a
    // trigger of this function on a table of his own, with other columns: those are not read.
    unsafe {
        let trigger = (*args.fcinfo()).context.cast::<pg_sys::TriggerData>();
        if trigger.is_null() || (*trigger).type_ != pg_sys::NodeTag::T_TriggerData {
            return Err(Error::NoTrigger);
        }
        const BEFORE_INSERT_ROW: u32 =
            pg_sys::TRIGGER_EVENT_INSERT | pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_BEFORE;
        const EVENT: u32 = pg_sys::TRIGGER_EVENT_OPMASK | pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_TIMINGMASK;
        let relation = (*(*trigger).tg_relation).rd_rel;
        if (*trigger).tg_event & EVENT != BEFORE_INSERT_ROW
            || pgrx::name_data_to_str(&(*relation).relname) != "sync_changes"
            || (*relation).relnamespace != pg_sys::get_namespace_oid(c"mana_sync".as_ptr(), true)
        {
            return Err(Error::NoTrigger);
        }
        let tuple = (*trigger).tg_trigtuple;
        if feed::is_there() {
            let columns = (*(*trigger).tg_relation).rd_att;
            let text = |place| {
                let mut null = false;
                let value = pg_sys::heap_getattr(tuple, place, columns, &mut null);
                if null { &[][..] } else { text_of(value) }
            };
            PENDING.with_borrow_mut(|pending| {
                pending.add(
                    text(column::USER),
                    text(column::SPACE),
                    text(column::APP),
                    text(column::TABLE),
                    text(column::CLIENT),
                );
            });
        }
        Ok(Some(pg_sys::Datum::from(tuple)))
    }
}

impl Pending {
    fn add(&mut self, user: &[u8], space: &[u8], app: &[u8], table: &[u8], client: &[u8]) {
        // Most rows touch what the one before did.
        let same = self.touches.last().is_some_and(|(_, last)| {
            (&*last.user, &*last.space, &*last.app, &*last.table, &*last.client) == (user, space, app, table, client)
        });
        if same || self.more {
            return;
        }
        if self.touches.len() == MOST_TOUCHES || user.len() > MOST_KEY_BYTES || space.len() > MOST_KEY_BYTES {
            self.more = true;
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
            // SAFETY: a plain read of the transaction's state.
            self.touches.push((unsafe { pg_sys::GetCurrentTransactionNestLevel() }, touch));
        }
    }

    /// Makes the bytes for the feed.
    fn write(&mut self) {
        self.bytes.clear();
        for (_, touch) in &self.touches {
            for text in [&touch.user, &touch.space, &touch.app, &touch.table, &touch.client] {
                self.bytes.extend_from_slice(&(text.len() as u16).to_ne_bytes());
                self.bytes.extend_from_slice(text);
            }
        }
    }

    fn clear(&mut self) {
        self.touches.clear();
        self.known.clear();
        self.more = false;
        self.bytes.clear();
    }
}

/// Reads what [`Pending::write`] wrote.
pub fn read(mut bytes: &[u8]) -> Vec<Touch> {
    let mut text = || {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (text, rest) = rest.split_at_checked(usize::from(u16::from_ne_bytes(*length)))?;
        bytes = rest;
        Some(text.into())
    };
    std::iter::from_fn(|| Some(Touch { user: text()?, space: text()?, app: text()?, table: text()?, client: text()? }))
        .collect()
}
