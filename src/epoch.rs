//! Epochs: the current history of transaction ids of the server, and the epochs in which the log was written.
//!
//! Application roles have no privilege on the table of epochs, which holds the secrets of cursors.

use crate::error::Error;
use crate::pg::datum::{Datum, types::*};
use crate::pg::fmgr::{Answer, Args, sql_functions};
use crate::pg::snapshot::{self, Kind};
use crate::pg::spi::{self, Spi, Statement, statement};
use crate::pg::{heap, server};
use mana_sync_cursor::epoch::{Epoch, History, KnownEpoch, Server, WriteEpoch};
use mana_sync_cursor::hash::{self, Secret};
use mana_sync_cursor::id::{EpochNumber, Fingerprint, Lsn, SystemId, Timeline, TransactionId};
use std::cell::Cell;

sql_functions!(current_epoch, open_epoch, begin_epoch);

thread_local! {
    /// Caches the number of the epoch in which this backend writes; `None` if unknown. It is set once a row of the epoch is committed.
    ///
    /// The number stays valid, because a server that has begun to write stays on its history for as long as it runs. Every relcache
    /// invalidation empties the cache: a change of the definition of any table does so, and DROP EXTENSION does.
    static CURRENT: Cell<Option<EpochNumber>> = const { Cell::new(None) };

    /// Counts the rows that this backend has begun to insert into the log.
    static ROWS_BEGUN: Cell<u64> = const { Cell::new(0) };
}

/// Returns how many rows this backend has begun to insert into the log since it started. The default of the column `epoch` counts a row
/// before any trigger or constraint sees it.
pub fn rows_begun() -> u64 {
    ROWS_BEGUN.get()
}

static OPEN: Statement = statement!(sql "SELECT mana_sync.open_epoch()", []);

static INSERT: Statement = statement!("epoch/insert.sql", [INT4, INT8, BYTEA, INT8, OID, INT4, PG_LSN, XID8]);

/// Waits for the transactions that have written to the log. Until the current transaction ends, no other one can write
/// to the log or begin an epoch.
static LOCK: Statement = statement!(sql "LOCK TABLE mana_sync.sync_changes IN SHARE ROW EXCLUSIVE MODE", []);

/// The callback that empties the cache [`CURRENT`].
struct Forget;

impl heap::OnInvalidation for Forget {
    fn invalidated() {
        CURRENT.set(None);
    }
}

/// Registers the callback that empties the cache [`CURRENT`]. Called when the library is loaded.
pub fn register() {
    heap::on_invalidation::<Forget>();
}

/// `mana_sync.current_epoch() RETURNS int`
///
/// Returns the number of the epoch in which the server writes, and opens that epoch if it does not exist. The function is the default of
/// the column `epoch`.
fn current_epoch<'a>(_: &Args<'a>) -> Answer<'a> {
    ROWS_BEGUN.set(ROWS_BEGUN.get().wrapping_add(1));
    if let Some(number) = CURRENT.get() {
        return Ok(Some(int4(number)));
    }
    // This is asked before the epochs are read, because a standby may be promoted at any moment. A primary stays a
    // primary.
    let is_primary = !server::in_recovery();
    let (known, is_committed) = read_epochs()?;
    match known.write_epoch() {
        WriteEpoch::Current(number) => {
            if is_committed && is_primary {
                CURRENT.set(Some(number));
            }
            Ok(Some(int4(number)))
        }
        WriteEpoch::ToOpen(_) => spi::connect(|spi| {
            let number = spi.select(&OPEN, &[]).first().and_then(|row| row.int4(1));
            Ok(Some(Datum::from(number.ok_or(Error::Installation("open_epoch returned nothing"))?)))
        }),
    }
}

/// `mana_sync.open_epoch() RETURNS int`
///
/// Adds the epoch in which the server writes, if it is missing, and returns its number. Runs as the owner of the
/// extension.
fn open_epoch<'a>(_: &Args<'a>) -> Answer<'a> {
    let (known, _) = read_epochs()?;
    let epoch = known.write_epoch();
    if let WriteEpoch::ToOpen(number) = epoch {
        spi::connect(|spi| insert(spi, &known, number, &server_run()))?;
    }
    Ok(Some(int4(epoch.number())))
}

/// `mana_sync.begin_epoch() RETURNS int`
///
/// Begins a new epoch on the server's current history, and returns its number. It is for a server whose data directory was restored from a
/// copy: such a server cannot tell its history from an earlier one. No existing cursor covers anything that is written from now on. Runs as
/// the owner of the extension.
fn begin_epoch<'a>(_: &Args<'a>) -> Answer<'a> {
    spi::connect(|spi| {
        // A transaction that writes later waits for this lock. Then it processes the invalidation below and looks the epoch up again.
        spi.command(&LOCK);
        let (known, _) = read_epochs()?;
        let number = match known.write_epoch() {
            WriteEpoch::ToOpen(number) => number,
            WriteEpoch::Current(number) => known.number_after(number),
        };
        // Nobody else adds a row with this number, so this row need not be equal to another. The time is included
        // because the whole machine may have been put back from a copy, with its memory and its source of random
        // numbers. The clock is never put back.
        let random = server::random_bytes().ok_or(Error::Installation("the server has no random numbers"))?;
        let run = [server::now().to_be_bytes().as_slice(), &random].concat();
        insert(spi, &known, number, &run)?;
        heap::invalidate(c"epochs")?;
        Ok(Some(int4(number)))
    })
}

/// Adds a row for the epoch `number` on the server's current history. `run` tells the epoch apart from others with the same number and
/// history.
fn insert(spi: Spi<'_>, known: &Server, number: EpochNumber, run: &[u8]) -> Result<(), Error> {
    let history = known.history();
    let (fingerprint, secret) = hash::identity(server::cluster_nonce(), history.id, number, run);
    let timeline = server::timeline();
    spi.insert(
        &INSERT,
        &[
            Some(int4(number)),
            Some(Datum::from(fingerprint.0 as i64)),
            Some(spi.memory().varlena(&secret.0)),
            Some(Datum::from(history.system.0 as i64)),
            Some(Datum::from(pgrx::pg_sys::Oid::from(server::database()))),
            Some(Datum::from(timeline.0 as i32)),
            Some(Datum::from(server::switched_at(timeline)?.0)),
            Some(Datum::from(server::next_xact().0)),
        ],
    );
    Ok(())
}

/// The number of an epoch as an `int`.
fn int4(number: EpochNumber) -> Datum<'static> {
    Datum::from(number.0 as i32)
}

/// Identifies the run of the server: the time of its start, in microseconds, and the process id of its postmaster.
///
/// The fingerprint and the secret of an epoch depend on the run, and on the random bytes that initdb put into the control file, but not on
/// who opens the epoch. So if several writers open an epoch at the same time, they add equal rows, and none waits for another. If one of
/// these writers rolls back, the epoch still exists, and cursors that name it stay valid. Two servers that continue separately from one
/// point have epochs with different fingerprints.
fn server_run() -> Vec<u8> {
    let (started, postmaster) = server::start();
    [started.to_be_bytes().as_slice(), postmaster.to_be_bytes().as_slice()].concat()
}

/// Returns what the server knows now about epochs, and whether the epoch in which it writes has a committed row.
fn read_epochs() -> Result<(Server, bool), Error> {
    let (epochs, own) = snapshot::with(Kind::Latest, known_epochs)?;
    let known = Server::new(epochs.clone(), history()?, false, TransactionId::MAX, Lsn::INVALID);
    // An epoch may have several rows. One committed row is enough.
    let is_committed = epochs.iter().zip(&own).any(|(epoch, &own)| known.is_current(epoch) && !own);
    Ok((known, is_committed))
}

/// Returns each row of `mana_sync.epochs` that the active snapshot sees, and for each row whether the current transaction added it.
pub fn known_epochs() -> Result<(Vec<KnownEpoch>, Vec<bool>), Error> {
    const NULL: Error = Error::Installation("a column of mana_sync.epochs is NULL");
    let mut epochs = Vec::new();
    let mut own = Vec::new();
    heap::scan(c"epochs", |row, is_own| {
        let column = |place| row.datum(place).ok_or(NULL);
        let secret = row.bytea(3).ok_or(NULL)?;
        let (system, database) = (SystemId(column(4)?.uint8()), column(5)?.oid());
        let (timeline, switched_at) = (Timeline(column(6)?.int4() as u32), Lsn(column(7)?.uint8()));
        epochs.push(KnownEpoch {
            epoch: Epoch {
                number: EpochNumber(column(1)?.int4() as u32),
                fingerprint: Fingerprint(column(2)?.uint8() & hash::MAX),
            },
            secret: Secret(
                secret.try_into().map_err(|_| Error::Installation("a secret in mana_sync.epochs has no 16 bytes"))?,
            ),
            system,
            history: hash::history_id(system, database, timeline, switched_at),
            began_at: switched_at,
            next_xact: TransactionId(column(8)?.uint8()),
            opened_at: column(9)?.int8(),
        });
        own.push(is_own);
        Ok(())
    })?;
    Ok((epochs, own))
}

/// Returns the current history of the server.
pub fn history() -> Result<History, Error> {
    let (timeline, system) = (server::timeline(), server::system_identifier());
    let began_at = server::switched_at(timeline)?;
    let id = hash::history_id(system, server::database(), timeline, began_at);
    Ok(History { system, timeline, id, began_at })
}
