//! What records look like now: `records`, and how they came to it: `record_history`.

use crate::error::Error;
use crate::function::{Args, TEXT, array_datum, sql_function, text_datum};
use crate::jsonb::Raw;
use crate::log::key;
use crate::memory::Context;
use crate::merge::change_of;
use crate::read::plan_index_scans;
use crate::result::ResultSet;
use crate::scope::Scope;
use crate::settings::close_level;
use crate::snapshot::Pushed;
use crate::statement::{Row, Spi, Statement, include_sql};
use mana_sync_merge::change::{Op, Stamp};
use mana_sync_merge::history::{Effect, Event, sort_with_old_values};
use pgrx::pg_sys;

sql_function!(mana_sync_records, pg_finfo_mana_sync_records, records);
sql_function!(mana_sync_record_history, pg_finfo_mana_sync_record_history, record_history);

static ALL: Statement = Statement::new(
    const { include_sql!("records/all.sql") },
    &[pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::TEXTARRAYOID, pg_sys::BOOLOID],
);

static ONE: Statement = Statement::new(
    const { include_sql!("records/one.sql") },
    &[pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::TEXTARRAYOID, pg_sys::BOOLOID, pg_sys::TEXTOID],
);

static HISTORY: Statement = Statement::new(
    const { include_sql!("records/history.sql") },
    &[pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::TEXTARRAYOID, pg_sys::TEXTOID],
);

/// Columns of `records`.
const RECORD_COLUMNS: usize = 7;

/// `mana_sync.records(user_id, app_id, table_name, record_id, include_deleted, space_ids)`
///
/// Merges the changes that the user sees, record by record. Errors: 22023 for an empty user or app; 42501 without a user or
/// for another one than the scope's.
fn records(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let result = ResultSet::new(args, RECORD_COLUMNS)?;
    let app = key(args.text(1), "app_id")?;
    let table = args.text(2).filter(|table| !table.is_empty());
    let record = args.text(3).filter(|record| !record.is_empty());
    let include_deleted = args.datum(4).unwrap_or(pg_sys::Datum::from(false));
    let scope = Scope::enter(args.text(0), args.texts(5))?;
    let level = plan_index_scans();
    let spi = Spi::connect();
    let pushed = Pushed::transaction();
    let mut values = vec![
        Some(text_datum(scope.user)),
        Some(text_datum(app)),
        table.map(text_datum),
        Some(spaces(&scope)),
        Some(include_deleted),
    ];
    values.extend(record.map(|record| Some(text_datum(record))));
    spi.for_each(if record.is_some() { &ONE } else { &ALL }, &values, |row| {
        result.add(&row);
        Ok(true)
    })?;
    pushed.pop();
    spi.finish();
    close_level(level);
    scope.leave();
    Ok(None)
}

/// The spaces of a scope as a `text[]`.
fn spaces(scope: &Scope<'_>) -> pg_sys::Datum {
    array_datum(scope.spaces.iter().map(|id| text_datum(id)).collect(), &TEXT)
}

/// Columns of `record_history`.
const HISTORY_COLUMNS: usize = 11;

type Events<'a> = allocator_api2::vec::Vec<Event<'a, Raw<'a>, Told>, Context>;

/// What of a change its events tell: a row of `records/history.sql`.
#[derive(Clone, Copy)]
struct Told {
    row: Row,
    recorded_at: pg_sys::Datum,
}

impl Told {
    /// A column from `user_id` on.
    fn column(&self, place: i32) -> Option<pg_sys::Datum> {
        self.row.column(8 + place)
    }
}

/// `mana_sync.record_history(app_id, table_name, record_id, user_id, space_ids)`
///
/// A row for each field that a change wrote, and for each delete, in the order of their times. Errors as for `records`; 22023
/// for an empty table or record id.
fn record_history(args: &Args) -> Result<Option<pg_sys::Datum>, Error> {
    let result = ResultSet::new(args, HISTORY_COLUMNS)?;
    let app = key(args.text(0), "app_id")?;
    let table = key(args.text(1), "table_name")?;
    let record = key(args.text(2), "record_id")?;
    let scope = Scope::enter(args.text(3), args.texts(4))?;
    let level = plan_index_scans();
    let spi = Spi::connect();
    let pushed = Pushed::transaction();
    let values = [
        Some(text_datum(scope.user)),
        Some(text_datum(app)),
        Some(text_datum(table)),
        Some(spaces(&scope)),
        Some(text_datum(record)),
    ];
    // In memory of the server: what grows with the data must end in an error, and not in the end of the process.
    let mut events = Events::new_in(Context::current());
    for row in spi.read(&HISTORY, &values).iter() {
        events_of(row, &mut events)?;
    }
    sort_with_old_values(&mut events);
    for event in events {
        let (name, value) = match event.effect {
            Effect::Write { field, value } => (Some(field), Some(value)),
            Effect::Delete | Effect::Insert => (None, None),
        };
        result.add_values(&[
            Some(pg_sys::Datum::from(event.stamp.time.micros())),
            event.change.row.column(1),
            name.map(text_datum),
            event.old_value.map(Raw::datum),
            value.map(Raw::datum),
            event.change.column(0),
            event.change.column(1),
            event.change.column(2),
            event.change.column(3),
            Some(event.change.recorded_at),
            event.change.column(4),
        ]);
    }
    pushed.pop();
    spi.finish();
    close_level(level);
    scope.leave();
    Ok(None)
}

/// The events of a change.
fn events_of(row: Row, events: &mut Events<'_>) -> Result<(), Error> {
    // SAFETY: the statement has these columns first, and its rows live until the connection is finished.
    let change = unsafe { change_of(&row, 1)? };
    let told = Told { row, recorded_at: pg_sys::Datum::from(change.created_at.micros()) };
    let event = |stamp: Stamp, effect| Event { stamp, effect, old_value: None, change: told };
    let before = events.len();
    events.extend(
        change.writes().map(|write| event(write.stamp, Effect::Write { field: write.name, value: write.value })),
    );
    match change.op {
        Op::Delete => events.push(event(change.stamp(), Effect::Delete)),
        Op::Insert if events.len() == before => events.push(event(change.stamp(), Effect::Insert)),
        Op::Insert | Op::Update => {}
    }
    Ok(())
}
