//! Benchmarks of hot Rust code that needs a backend: they measure what a call costs without its queries. Code that needs no backend has its
//! benchmarks in its crate (`crates/cursor/benches`, `crates/merge/benches`).
//!
//! `make bench-in-process` runs these benchmarks, and compares them with the last run. If PostgreSQL may run as the caller, who must not be
//! root, `cargo pgrx bench` runs them too. (They are compiled only with the feature `pg_bench`.)

#[pgrx::pg_schema]
mod benches {
    use crate::api::push;
    use crate::call::Call;
    use crate::error::Error;
    use crate::merged::State;
    use crate::page::{self, ClientFilter, PageRow, TakeRows};
    use crate::pg::heap::Descriptor;
    use crate::pg::jsonb::{Jsonb, parse};
    use crate::pg::memory::{Memory, with_scratch};
    use crate::pg::spi::SlotRow;
    use crate::wire::changeset::Changeset;
    use crate::wire::response::{End, Response};
    use mana_sync_cursor::Position;
    use mana_sync_cursor::page::{NextCursor, Request, Start};
    use mana_sync_merge::change::{Change, Op};
    use mana_sync_merge::time::Time;
    use pgrx::prelude::*;
    use pgrx_bench::{Bencher, black_box};

    const USER: &[u8] = b"0190b3f2-7c1e-7a55-9d0c-5b7f0f6e2a11";

    // ---- the wire format ----------------------------------------------------------------------------------

    /// Times `work`, which gets memory of the server that is freed after each iteration.
    fn iter_in_memory(b: &mut Bencher<'_>, mut work: impl FnMut(Memory<'_>) + 'static) {
        b.iter(move || with_scratch(&mut work));
    }

    const DATA: &str = r#"{"title": "Milk", "done": false, "position": 17.5, "note": "from the \"Käserei\"",
        "tags": ["home", "shop"], "listId": "0190b3f2-7c1e-7a55-9d0c-5b7f0f6e2a11", "createdAt": "2026-01-01T12:34:56.789Z"}"#;

    /// A changeset of 100 changes in one space: a quarter are inserts, half are updates, and a quarter are deletes.
    fn changeset() -> Jsonb<'static> {
        let change = |i: usize| {
            let what = match i % 4 {
                0 => format!(r#""op": "insert", "data": {DATA}"#),
                3 => r#""op": "delete", "deletedAt": "2026-01-01T12:34:59.789Z""#.into(),
                _ => r#""op": "update", "fields": {"done": {"value": true, "at": "2026-01-01T12:34:57.123Z"},
                        "title": {"value": "Oat milk", "at": "2026-01-01T12:34:58.456Z"}}"#
                    .into(),
            };
            format!(
                r#"{{"eventId": "0190b3f2-7c1e-7a55-9d0c-{i:012x}", "table": "items", "id": "item {i}",
                    "spaceId": "home", {what}}}"#
            )
        };
        let changes: Vec<String> = (0..100).map(change).collect();
        parse(&format!(r#"{{"clientId": "phone", "changes": [{}]}}"#, changes.join(", ")))
    }

    /// Parses the changeset of a push.
    #[pg_bench]
    fn changeset_of_100_changes(b: &mut Bencher<'_>) {
        let changeset = changeset();
        iter_in_memory(b, move |memory| {
            let changeset = Changeset::parse(black_box(changeset).root(), memory);
            assert_eq!(changeset.expect("a changeset").changes.len(), 100);
        });
    }

    impl<'s> TakeRows<'s> for Vec<PageRow<'s>> {
        type Row = PageRow<'s>;

        fn row(slot: &SlotRow<'_, 's>, descriptor: &mut Option<Descriptor<'s>>) -> PageRow<'s> {
            PageRow::of_change(slot, descriptor)
        }
    }

    /// Writes the response of a pull. The rows come from a query of the log, so that they have the columns of the log.
    #[pg_bench]
    fn response_of_100_changes(b: &mut Bencher<'_>) {
        let memory = parse("{}").memory();
        let mut copies: Vec<PageRow<'static>> = Vec::new();
        let mut cursor = String::new();
        let read = Call::PLAIN.in_scope(memory, Some(USER), Some(vec![Some(b"home")]), |spi, scope| {
            let changeset = Changeset::parse(changeset().root(), memory)?;
            push::record(spi, scope, b"app", None, &changeset)?;
            let request = Request {
                user: scope.user,
                app: b"app",
                spaces: &scope.spaces,
                table: None,
                page_size: 100,
                as_records: false,
                excluded_client: None,
                cursor_without_rows: true,
                room: None,
            };
            let (filter, start) = ((ClientFilter::Echo, None), Start::Beginning(None));
            page::read(spi, &request, filter, start, &mut Vec::new(), |rows, page| {
                if let NextCursor::Issue(next) = &page.next {
                    cursor = next.to_text();
                }
                copies.extend(rows.iter().map(|row| row.copy(memory)));
                Ok(())
            })?
            .map_err(Error::from)?;
            Ok(())
        });
        read.expect("the changes can be recorded and read");
        assert_eq!(copies.len(), 100);
        assert!(!cursor.is_empty());
        iter_in_memory(b, move |memory| {
            let mut response = Response::of_changes(memory);
            black_box(&copies).iter().for_each(|row| assert!(response.add_change(Position::START, row)));
            black_box(response.finish(&End {
                synced_until: &cursor,
                more: false,
                spaces: None,
                rejected: None,
                begin_again: false,
                resync_required: false,
            }));
        });
    }

    // ---- records ------------------------------------------------------------------------------------------

    /// Merges an insert and 20 updates of two fields.
    #[pg_bench]
    fn record_of_21_changes(b: &mut Bencher<'_>) {
        let created_at = Time::parse(b"2026-01-01T12:35:00Z").expect("a time");
        let change = |i: usize| {
            let (op, data, times) = match i {
                0 => (Op::Insert, DATA.into(), "{}".into()),
                _ => {
                    let at = format!("2026-01-01T12:34:58.{i:03}Z");
                    let data = format!(r#"{{"title": "Milk {i}", "position": {i}}}"#);
                    (Op::Update, data, format!(r#"{{"title": "{at}", "position": "{at}"}}"#))
                }
            };
            let position = Position::new(1, 1000 + i as u64, i as i64);
            let [data, field_timestamps] = [data, times].map(|text: String| parse(&text).object());
            Change { op, position, created_at, data, field_timestamps }
        };
        let changes: Vec<_> = (0..21).map(change).collect();
        iter_in_memory(b, move |memory| {
            let mut state = State::new(memory);
            for change in black_box(&changes) {
                state.apply(change, Some(b"home"), memory);
            }
            assert_eq!(state.0.fields().len(), 7);
        });
    }

    #[pg_bench]
    fn new_uuidv7(b: &mut Bencher<'_>) {
        iter_in_memory(b, |memory| {
            black_box(memory.uuid(&uuid::Uuid::now_v7()));
        });
    }
}
