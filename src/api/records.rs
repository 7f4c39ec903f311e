//! `mana_sync.records`: the current state of records; `mana_sync.record_history`: the history of a record.

use crate::bounds::key;
use crate::call::Call;
use crate::error::Error;
use crate::pg::datum::{Datum, types::*};
use crate::pg::fmgr::{Answer, Args, sql_functions};
use crate::pg::jsonb::Node;
use crate::pg::memory::{Memory, with_scratch};
use crate::pg::spi::{Spi, Statement, statement};
use crate::pg::tuplestore::ResultSet;
use crate::row::{Column, LogRow};
use crate::scope::Scope;
use mana_sync_merge::change::{Op, Stamp};
use mana_sync_merge::history::{Effect, Event, sort_with_old_values};

sql_functions!(records, record_history);

static ALL: Statement = statement!("records/all.sql", [TEXT, TEXT, TEXT, TEXT_ARRAY, BOOL]);

static ONE: Statement = statement!("records/one.sql", [TEXT, TEXT, TEXT, TEXT_ARRAY, BOOL, TEXT]);

static HISTORY: Statement = statement!("records/history.sql", [TEXT, TEXT, TEXT, TEXT_ARRAY, TEXT]);

/// The number of columns that `records` returns.
const RECORD_COLUMNS: usize = 7;

/// `mana_sync.records(user_id, app_id, table_name, record_id, include_deleted, space_ids)`
///
/// Returns the current state of records, merged from the changes that the user sees. Errors: 22023 for an empty user or app; 42501 without
/// a user or for another one than the scope's.
fn records<'a>(args: &Args<'a>) -> Answer<'a> {
    let result = ResultSet::new(args, RECORD_COLUMNS)?;
    let app = key(args.text(1), "app_id")?;
    let table = args.text(2).filter(|table| !table.is_empty());
    let record = args.text(3).filter(|record| !record.is_empty());
    let include_deleted = args.datum(4).unwrap_or(Datum::from(false));
    Call::READ.in_scope(args.memory(), args.text(0), args.texts(5), |spi, scope| {
        let memory = spi.memory();
        let mut values = vec![
            Some(memory.text(scope.user)),
            Some(memory.text(app)),
            table.map(|table| memory.text(table)),
            Some(spaces(spi, scope)),
            Some(include_deleted),
        ];
        values.extend(record.map(|record| Some(memory.text(record))));
        spi.for_each(if record.is_some() { &ONE } else { &ALL }, &values, |row| {
            result.add(&row);
            Ok(true)
        })?;
        Ok(None)
    })
}

/// The spaces of a scope as a `text[]`.
fn spaces<'s>(spi: Spi<'s>, scope: &Scope<'_>) -> Datum<'s> {
    let memory = spi.memory();
    memory.array(TEXT, scope.spaces.iter().map(|id| memory.text(id)))
}

/// The number of columns that `record_history` returns.
const HISTORY_COLUMNS: usize = 12;

/// The events of a record, in PostgreSQL's memory. If a history is too large, PostgreSQL raises an error, while a failed allocation in Rust
/// would end the process.
type Events<'s> = allocator_api2::vec::Vec<Event<'s, Node<'s>, LogRow<'s>>, Memory<'s>>;

/// `mana_sync.record_history(app_id, table_name, record_id, user_id, space_ids)`
///
/// Returns a row for each field that a change wrote, for each delete, and for each insert without fields, in the order of their times.
/// Errors: those of `records`; 22023 for an empty table or record id.
fn record_history<'a>(args: &Args<'a>) -> Answer<'a> {
    let result = ResultSet::new(args, HISTORY_COLUMNS)?;
    let app = key(args.text(0), "app_id")?;
    let table = key(args.text(1), "table_name")?;
    let record = key(args.text(2), "record_id")?;
    Call::READ.in_scope(args.memory(), args.text(3), args.texts(4), |spi, scope| {
        let memory = spi.memory();
        let values = [
            Some(memory.text(scope.user)),
            Some(memory.text(app)),
            Some(memory.text(table)),
            Some(spaces(spi, scope)),
            Some(memory.text(record)),
        ];
        let mut events = Events::new_in(memory);
        for row in spi.read(&HISTORY, &values).iter() {
            add_events(LogRow::of_table(row), &mut events)?;
        }
        sort_with_old_values(&mut events);
        for event in events {
            let (field, value) = match event.effect {
                Effect::Write { field, value } => (Some(field), Some(value)),
                Effect::Insert | Effect::Delete => (None, None),
            };
            let row = event.change;
            with_scratch(|memory| {
                let jsonb = |value: Option<Node<'_>>| value.map(|value| value.to_jsonb(memory).datum());
                result.add_values(&[
                    Some(Datum::from(event.stamp.time.micros())),
                    row.datum(Column::Op),
                    field.map(|field| memory.text(field)),
                    jsonb(event.old_value),
                    jsonb(value),
                    row.datum(Column::UserId),
                    row.datum(Column::ClientId),
                    row.datum(Column::Actor),
                    row.datum(Column::SpaceId),
                    row.datum(Column::CreatedAt),
                    row.datum(Column::Id),
                    row.datum(Column::Origin),
                ]);
            });
        }
        Ok(None)
    })
}

/// Adds the events of a change to `events`.
fn add_events<'s>(row: LogRow<'s>, events: &mut Events<'s>) -> Result<(), Error> {
    let change = row.change()?;
    let event = |stamp: Stamp, effect| Event { stamp, effect, old_value: None, change: row };
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
