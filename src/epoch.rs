//! Which history of transaction ids the server is on, and the epochs that the log was written in.
//!
//! Application roles have no privilege on the table of epochs, which holds the secrets of cursors.

use crate::error::Error;
use crate::function::{Args, sql_function};
use crate::snapshot::Pushed;
use crate::statement::{Spi, Statement};
use crate::table;
use mana_sync_cursor::epoch::{Epoch, History, KnownEpoch, Server, WriteEpoch};
use mana_sync_cursor::hash::{self, Secret};
use mana_sync_cursor::id::{EpochNumber, Fingerprint, Lsn, SystemId, Timeline, TransactionId};
use pgrx::pg_sys;
use std::cell::Cell;

sql_function!(mana_sync_current_epoch, pg_finfo_mana_sync_current_epoch, current_epoch);
sql_function!(mana_sync_open_epoch, pg_finfo_mana_sync_open_epoch, open_epoch);
sql_function!(mana_sync_begin_epoch, pg_finfo_mana_sync_begin_epoch, begin_epoch);

thread_local! {
    /// The epoch that this backend writes in, once it is committed. A server that has begun to write
    /// stays on its history for as long as it runs; a change of the table empties the cache.
    static CURRENT: Cell<Option<u32>> = const { Cell::new(None) };
    /// Where a timeline began.
    static SWITCHED_AT: Cell<Option<(u32, u64)>> = const { Cell::new(None) };
}

static OPEN: Statement = Statement::new(c"SELECT mana_sync.open_epoch()", &[]);

static ADD: Statement = Statement::new(
    c"INSERT INTO mana_sync.epochs (number, fingerprint, secret, system_identifier, database, timeline, switched_at,
                                    next_xact)
      VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    &[
        pg_sys::INT4OID,
        pg_sys::INT8OID,
        pg_sys::BYTEAOID,
        pg_sys::INT8OID,
        pg_sys::OIDOID,
        pg_sys::INT4OID,
        pg_sys::PG_LSNOID,
        pg_sys::XID8OID,
    ],
);

/// Waits for the transactions that have written to the log, and lets no other write or begin an epoch until this one ends.
static LOCK: Statement = Statement::new(c"LOCK TABLE mana_sync.sync_changes IN SHARE ROW EXCLUSIVE MODE", &[]);

/// Called when the library is loaded.
pub fn register() {
    /// A definition changed: of any relation, or of one. DROP EXTENSION is such a change.
    unsafe extern "C-unwind" fn forget(_: pg_sys::Datum, _: pg_sys::Oid) {
        CURRENT.set(None);
    }
    // SAFETY: the callback touches nothing but the cell.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(forget), pg_sys::Datum::from(0usize)) };
}

/// `mana_sync.current_epoch() RETURNS int`
fn current_epoch(_: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let number = match CURRENT.get() {
        Some(number) => number,
        None => {
            // SAFETY: a plain read of the server's state. Before it is asked what is written in: a standby may be promoted at
            // any moment, and stays a primary then.
            let is_primary = !unsafe { pg_sys::RecoveryInProgress() };
            let (server, settled) = look_up()?;
            match server.write_epoch() {
                WriteEpoch::Current(EpochNumber(number)) => {
                    if settled && is_primary {
                        CURRENT.set(Some(number));
                    }
                    number
                }
                WriteEpoch::ToOpen(_) => {
                    let spi = Spi::connect();
                    let row = spi.select(&OPEN, &[]).iter().next();
                    let number = row.and_then(|row| row.column(1)).map(|datum| datum.value() as u32);
                    spi.finish();
                    number.ok_or(Error::Installation("open_epoch returned nothing"))?
                }
            }
        }
    };
    Ok(Some(pg_sys::Datum::from(number as i32)))
}

/// `mana_sync.open_epoch() RETURNS int`; runs as the owner of the extension.
fn open_epoch(_: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let (server, _) = look_up()?;
    let write_epoch = server.write_epoch();
    if let WriteEpoch::ToOpen(number) = write_epoch {
        let spi = Spi::connect();
        add(&spi, &server, number, run().as_slice())?;
        spi.finish();
    }
    Ok(Some(pg_sys::Datum::from(write_epoch.number().0 as i32)))
}

/// `mana_sync.begin_epoch() RETURNS int`; runs as the owner of the extension.
///
/// Begins a new epoch on the history that the server is on, as after one that it cannot tell from the one before: a
/// copy of the data directory that was put back. No cursor from before has seen anything that is written from now on.
fn begin_epoch(_: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let spi = Spi::connect();
    // Who writes afterwards looks the epoch up again: it has waited for this lock, and then takes note of what was
    // invalidated meanwhile.
    spi.run(&LOCK, &[], pg_sys::SPI_OK_UTILITY);
    let (server, _) = look_up()?;
    let number = match server.write_epoch() {
        WriteEpoch::ToOpen(number) => number,
        WriteEpoch::Current(number) => server.number_after(number),
    };
    // Nobody else adds a row of this number: it need not be equal to any. The machine may have been put back as a whole, with its
    // memory and its source of random numbers, but not its clock.
    let mut run = [0; 24];
    // SAFETY: plain calls of the server; the buffer has the length that is told.
    let is_random = unsafe {
        run[..8].copy_from_slice(&pg_sys::GetCurrentTimestamp().to_be_bytes());
        pg_sys::pg_strong_random(run[8..].as_mut_ptr().cast(), 16)
    };
    if !is_random {
        return Err(Error::Installation("the server has no random numbers"));
    }
    add(&spi, &server, number, &run)?;
    spi.finish();
    // SAFETY: the relation is there: a row was added to it.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(table::oid_of(c"epochs")?) };
    Ok(Some(pg_sys::Datum::from(number.0 as i32)))
}

/// Adds the epoch of a number on the server's history; `run` makes it different from others of the same.
fn add(spi: &Spi, server: &Server, number: EpochNumber, run: &[u8]) -> Result<(), Error> {
    // SAFETY: the nonce has this many bytes and is there as long as the server's shared memory.
    let nonce = unsafe { &*pg_sys::GetMockAuthenticationNonce().cast::<[u8; pg_sys::MOCK_AUTH_NONCE_LEN as usize]>() };
    let (fingerprint, secret) = hash::identity(nonce, server.history().id, number, run);
    let timeline = timeline();
    spi.insert(
        &ADD,
        &[
            Some(pg_sys::Datum::from(number.0 as i32)),
            Some(pg_sys::Datum::from(fingerprint.0 as i64)),
            // A bytea and a text have the same form.
            Some(crate::function::text_datum(&secret.0)),
            Some(pg_sys::Datum::from(server.history().system.0 as i64)),
            // SAFETY: a plain variable of the backend.
            Some(pg_sys::Datum::from(unsafe { pg_sys::MyDatabaseId })),
            Some(pg_sys::Datum::from(timeline as i32)),
            Some(pg_sys::Datum::from(switched_at(timeline)? as i64)),
            // SAFETY: a plain read of the server's state.
            Some(pg_sys::Datum::from(unsafe { pg_sys::ReadNextFullTransactionId().value })),
        ],
    );
    Ok(())
}

/// What the fingerprint and the secret of an epoch that is opened now depend on, besides the random numbers that initdb put
/// into the control file.
///
/// The start of the server, to the microsecond, and not who asks. So all writers that are first at the same time add equal
/// rows, none waits for another, and one that is rolled back takes nothing with it that a cursor has named; while two
/// servers that go on separately from one point have different fingerprints.
fn run() -> Vec<u8> {
    // SAFETY: plain variables of the server.
    let (started, postmaster) = unsafe { (pg_sys::PgStartTime, pg_sys::PostmasterPid) };
    [started.to_be_bytes().as_slice(), postmaster.to_be_bytes().as_slice()].concat()
}

/// What the server knows now, and whether the row of the epoch that it writes in is committed.
fn look_up() -> Result<(Server, bool), Error> {
    let fresh = Pushed::latest();
    let (epochs, own) = epochs()?;
    fresh.pop();
    let server = Server::new(epochs.clone(), here()?, false, TransactionId::MAX, Lsn::INVALID);
    // Of several rows for one epoch, any that is committed will do.
    let settled = epochs.iter().zip(&own).any(|(known, &own)| server.is_current(known) && !own);
    Ok((server, settled))
}

/// Every epoch that the active snapshot sees, and whether the current transaction added it.
pub fn epochs() -> Result<(Vec<KnownEpoch>, Vec<bool>), Error> {
    let mut epochs = Vec::new();
    let mut own = Vec::new();
    table::scan(c"epochs", |row| {
        // SAFETY: the column is a bytea, which has the form of a text.
        let secret = unsafe { crate::function::text_of(row.column(3)?) };
        let system = SystemId(row.column(4)?.value() as u64);
        let (database, timeline, switched_at) = (
            row.column(5)?.value() as u32,
            Timeline(row.column(6)?.value() as u32),
            Lsn(row.column(7)?.value() as u64),
        );
        epochs.push(KnownEpoch {
            epoch: Epoch {
                number: EpochNumber(row.column(1)?.value() as u32),
                fingerprint: Fingerprint(row.column(2)?.value() as u64 & hash::MAX),
            },
            secret: Secret(
                secret.try_into().map_err(|_| Error::Installation("a secret in mana_sync.epochs has no 16 bytes"))?,
            ),
            system,
            history: hash::history_id(system, database, timeline, switched_at),
            next_xact: TransactionId(row.column(8)?.value() as u64),
            opened_at: row.column(9)?.value() as i64,
        });
        own.push(row.is_own());
        Ok(())
    })?;
    Ok((epochs, own))
}

/// The history that the server is on.
pub fn here() -> Result<History, Error> {
    let timeline = timeline();
    // SAFETY: plain reads of the backend's and the server's state.
    let (system, database) = unsafe { (SystemId(pg_sys::GetSystemIdentifier()), u32::from(pg_sys::MyDatabaseId)) };
    let (switched_at, timeline) = (Lsn(switched_at(timeline)?), Timeline(timeline));
    Ok(History { system, timeline, id: hash::history_id(system, database, timeline, switched_at) })
}

/// The timeline that the server writes, or replays. Not that of the control file, which keeps the old
/// one for a while after a promotion.
fn timeline() -> u32 {
    // SAFETY: plain reads of the server's state.
    unsafe {
        if pg_sys::RecoveryInProgress() {
            let mut timeline = 0;
            pg_sys::GetXLogReplayRecPtr(&mut timeline);
            return timeline;
        }
        // RecoveryInProgress, above, has set it in versions before 15.
        #[cfg(any(feature = "pg13", feature = "pg14"))]
        return pg_sys::ThisTimeLineID;
        #[cfg(not(any(feature = "pg13", feature = "pg14")))]
        return pg_sys::GetWALInsertionTimeLine();
    }
}

/// An entry of a timeline's history: access/timeline.h, which pgrx does not bind.
#[repr(C)]
struct TimeLineHistoryEntry {
    timeline: u32,
    begin: u64,
    end: u64,
}

unsafe extern "C-unwind" {
    /// The entries of a timeline, its own first.
    fn readTimeLineHistory(timeline: u32) -> *mut pg_sys::List;
}

/// Where a timeline left its parent; 0 for the first.
fn switched_at(timeline: u32) -> Result<u64, Error> {
    if timeline <= 1 {
        return Ok(0);
    }
    if let Some((_, position)) = SWITCHED_AT.get().filter(|(known, _)| *known == timeline) {
        return Ok(position);
    }
    // SAFETY: the function has this form in PostgreSQL 13 to 18; it returns at least the timeline's own
    // entry, or raises an error, which the guard carries over the Rust frames.
    let position = unsafe {
        let entries = pg_sys::ffi::pg_guard_ffi_boundary(|| readTimeLineHistory(timeline));
        (*pg_sys::list_nth(entries, 0).cast::<TimeLineHistoryEntry>()).begin
    };
    // It makes an entry up where the file is not there. With that, this would look like another history.
    if position == 0 {
        return Err(Error::NoHistoryFile(timeline));
    }
    SWITCHED_AT.set(Some((timeline, position)));
    Ok(position)
}
