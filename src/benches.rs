//! Benchmarks of hot Rust code, in a backend: what a call costs beside its queries.
//!
//! `make bench-in-process` runs them, and compares with the last run. Where PostgreSQL may run as the caller, who is not
//! root, `cargo pgrx bench` does too. (Feature `pg_bench`: nothing of this is in a build without it.)

#[pgrx::pg_schema]
mod benches {
    use crate::api::{merge_changes, push};
    use crate::call::Call;
    use crate::error::Error;
    use crate::page::{self, ClientFilter, PageRow, TakeRows};
    use crate::pg::jsonb::{Jsonb, parse};
    use crate::pg::memory::{Memory, with_scratch};
    use crate::wire::changeset::Changeset;
    use crate::wire::response::Response;
    use mana_sync_cursor::Position;
    use mana_sync_cursor::cursor::Cursor;
    use mana_sync_cursor::epoch::{Coverage, Epoch, History, KnownEpoch, Server};
    use mana_sync_cursor::hash::{SECRET_LENGTH, Secret};
    use mana_sync_cursor::id::{
        EpochNumber, Fingerprint, HistoryId, KeyedHash, Lsn, PurgeMark, SystemId, Timeline, TransactionId,
    };
    use mana_sync_cursor::page::{Request, Rows, Start, read_page};
    use mana_sync_cursor::resync::Purges;
    use mana_sync_cursor::scan::{Fetch, Filter, Source, Stream};
    use mana_sync_cursor::snapshot::Snapshot;
    use mana_sync_merge::change::{Change, Op};
    use mana_sync_merge::time::Time;
    use pgrx::prelude::*;
    use pgrx_bench::{Bencher, black_box};
    use std::convert::Infallible;

    // ---- cursors ------------------------------------------------------------------------------------------

    const EPOCH: Epoch = Epoch { number: EpochNumber(3), fingerprint: Fingerprint(77) };
    const SECRET: Secret = Secret([7; SECRET_LENGTH]);
    const HERE: History = History { system: SystemId(1), timeline: Timeline(1), id: HistoryId(9) };
    const XMAX: u64 = 5_000_000_000;
    const LSN: Lsn = Lsn(0x12_3456_7890);
    const USER: &[u8] = b"0190b3f2-7c1e-7a55-9d0c-5b7f0f6e2a11";
    const MANY: usize = 1000;

    /// Ids as long as UUIDs.
    fn ids(count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|i| format!("0190b3f2-7c1e-7a55-9d0c-{i:012x}").into_bytes()).collect()
    }

    fn slices(ids: &[Vec<u8>]) -> Vec<&[u8]> {
        ids.iter().map(Vec::as_slice).collect()
    }

    /// At rest, for these spaces, with a few transactions open.
    fn cursor(spaces: &[Vec<u8>]) -> Cursor {
        let open = [XMAX - 1000, XMAX - 900, XMAX - 20].map(TransactionId).to_vec();
        let mut spaces: Vec<KeyedHash> = spaces.iter().map(|id| SECRET.space(id)).collect();
        spaces.sort_unstable();
        Cursor {
            reader: SECRET.reader(USER, b"app"),
            coverage: Some(Coverage {
                epoch: EPOCH,
                new_history: None,
                snapshot: Snapshot::new(TransactionId(XMAX), open, vec![]),
                lsn: LSN,
            }),
            spaces,
            purges: PurgeMark(0),
            walk: None,
        }
    }

    fn encode(b: &mut Bencher<'_>, spaces: usize) {
        let cursor = cursor(&ids(spaces));
        b.iter(move || black_box(&cursor).to_text());
    }

    fn decode(b: &mut Bencher<'_>, spaces: usize) {
        let text = cursor(&ids(spaces)).to_text();
        b.iter(move || Cursor::from_text(black_box(text.as_bytes())).expect("it is a cursor"));
    }

    #[pg_bench]
    fn cursor_to_text(b: &mut Bencher<'_>) {
        encode(b, 3);
    }

    #[pg_bench]
    fn cursor_to_text_1000_spaces(b: &mut Bencher<'_>) {
        encode(b, MANY);
    }

    #[pg_bench]
    fn cursor_from_text(b: &mut Bencher<'_>) {
        decode(b, 3);
    }

    #[pg_bench]
    fn cursor_from_text_1000_spaces(b: &mut Bencher<'_>) {
        decode(b, MANY);
    }

    // ---- pages --------------------------------------------------------------------------------------------

    fn server() -> Server {
        let known = KnownEpoch {
            epoch: EPOCH,
            secret: SECRET,
            system: HERE.system,
            history: HERE.id,
            next_xact: TransactionId(3),
            opened_at: 0,
        };
        Server::new(vec![known], HERE, false, TransactionId(XMAX + 100), Lsn::INVALID)
    }

    struct NoPurges;

    impl Purges for NoPurges {
        fn mark(&mut self) -> PurgeMark {
            PurgeMark(0)
        }

        fn any_after(&mut self, _: EpochNumber) -> bool {
            false
        }

        fn any_from(&mut self, _: EpochNumber, _: TransactionId) -> bool {
            false
        }

        fn contains(&mut self, _: EpochNumber, _: TransactionId) -> bool {
            false
        }

        fn purged_until(&mut self) -> Option<i64> {
            None
        }

        fn purged_from(&mut self) -> Option<i64> {
            None
        }
    }

    /// A log in which every part has a row in each of so many rounds, of a transaction of its own.
    struct Rounds {
        count: u64,
        parts: u64,
    }

    /// The transaction of the first row.
    const FIRST_XACT: u64 = 1000;

    impl Source for Rounds {
        type Row = u64;
        type Error = Infallible;

        fn fetch(
            &mut self,
            fetches: &[Fetch],
            _: &Filter,
            take: &mut dyn FnMut(usize, Position, u64),
        ) -> Result<(), Infallible> {
            for (place, fetch) in fetches.iter().enumerate() {
                let part = match fetch.stream {
                    Stream::Own => 0,
                    Stream::Space { index, .. } => 1 + index as u64,
                };
                let from = fetch.range.from.xact.0 + u64::from(fetch.range.from.seq > 1);
                let first = from.saturating_sub(FIRST_XACT + part).div_ceil(self.parts);
                let xacts = (first..self.count).map(|round| FIRST_XACT + round * self.parts + part);
                for xact in xacts.take_while(|&xact| xact < fetch.range.to.0).take(fetch.limit) {
                    take(place, Position::new(EPOCH.number.0, xact, 1), xact);
                }
            }
            Ok(())
        }
    }

    /// The comparison of a scope with a cursor hashes its spaces.
    #[pg_bench]
    fn hashes_of_1000_spaces(b: &mut Bencher<'_>) {
        let ids = ids(MANY);
        b.iter(move || black_box(&ids).iter().map(|id| SECRET.space(id)).collect::<Vec<KeyedHash>>());
    }

    /// A pull that has nothing new: the spaces of the scope are looked for in the cursor, and hashed for the next one.
    #[pg_bench]
    fn empty_page_1000_spaces(b: &mut Bencher<'_>) {
        let (ids, server) = (ids(MANY), server());
        let start = Start::Cursor(Box::new(cursor(&ids)));
        b.iter(move || {
            let spaces = slices(&ids);
            let request = Request {
                user: USER,
                app: b"app",
                spaces: &spaces,
                table: None,
                page_size: 500,
                cursor_without_rows: true,
                room: None,
            };
            let now = Snapshot::new(TransactionId(XMAX + 50), vec![TransactionId(XMAX - 20)], vec![]);
            let mut log = Rounds { count: 0, parts: 1 };
            let (request, start, mut rows) = (black_box(&request), start.clone(), Vec::new());
            read_page(&server, (now, Lsn(LSN.0 + 1)), request, start, &mut log, &mut NoPurges, &mut rows)
                .expect("a page")
        });
    }

    /// A page of 5,000 rows of a first sync, from 100 spaces and the reader's own.
    #[pg_bench]
    fn page_of_100_spaces(b: &mut Bencher<'_>) {
        let (ids, server) = (ids(100), server());
        b.iter(move || {
            let spaces = slices(&ids);
            let request = Request {
                user: USER,
                app: b"app",
                spaces: &spaces,
                table: None,
                page_size: 5000,
                cursor_without_rows: true,
                room: None,
            };
            let now = Snapshot::new(TransactionId(XMAX), vec![TransactionId(XMAX - 20)], vec![]);
            let mut log = Rounds { count: 1000, parts: 101 };
            let (request, start, mut rows) = (black_box(&request), Start::Beginning(None), Vec::new());
            let page = read_page(&server, (now, LSN), request, start, &mut log, &mut NoPurges, &mut rows);
            assert_eq!(rows.len(), 5000);
            page.expect("a page")
        });
    }

    // ---- the wire format ----------------------------------------------------------------------------------

    /// Times work in the server's memory, which is freed after each iteration.
    fn iter_in_memory(b: &mut Bencher<'_>, mut work: impl FnMut(Memory<'_>) + 'static) {
        b.iter(move || with_scratch(&mut work));
    }

    const DATA: &str = r#"{"title": "Milk", "done": false, "position": 17.5, "note": "from the \"Käserei\"",
        "tags": ["home", "shop"], "listId": "0190b3f2-7c1e-7a55-9d0c-5b7f0f6e2a11", "createdAt": "2026-01-01T12:34:56.789Z"}"#;

    /// 100 changes in one space: of each four an insert, two updates and a delete.
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

    /// A push reads a changeset.
    #[pg_bench]
    fn changeset_of_100_changes(b: &mut Bencher<'_>) {
        let changeset = changeset();
        iter_in_memory(b, move |memory| {
            let changeset = Changeset::parse(black_box(changeset).root(), memory);
            assert_eq!(changeset.expect("a changeset").changes.len(), 100);
        });
    }

    impl TakeRows for Vec<PageRow<'_>> {
        const NEEDS_SIZE: bool = false;
    }

    /// A pull writes a response. The rows are read from the log, so that they have the columns that they have there.
    #[pg_bench]
    fn response_of_100_changes(b: &mut Bencher<'_>) {
        let memory = parse("{}").memory();
        let mut copies: Vec<PageRow<'static>> = Vec::new();
        let read = Call::PLAIN.in_scope(memory, Some(USER), Some(vec![Some(b"home")]), |spi, scope| {
            let changeset = Changeset::parse(changeset().root(), memory)?;
            push::record(spi, scope, b"app", None, &changeset.changes)?;
            let request = Request {
                user: scope.user,
                app: b"app",
                spaces: &scope.spaces,
                table: None,
                page_size: 100,
                cursor_without_rows: true,
                room: None,
            };
            let (filter, start) = ((ClientFilter::Echo, None), Start::Beginning(None));
            page::read(spi, &request, filter, start, &mut Vec::new(), |rows, _| {
                copies.extend(rows.iter().map(|row| row.copy(memory)));
                Ok(())
            })?
            .map_err(Error::from)?;
            Ok(())
        });
        read.expect("the changes can be recorded and read");
        assert_eq!(copies.len(), 100);
        let cursor = cursor(&ids(1)).to_text();
        iter_in_memory(b, move |memory| {
            let mut response = Response::new(memory);
            black_box(&copies).iter().for_each(|row| assert!(response.take(*row)));
            black_box(response.finish(&cursor, false, false));
        });
    }

    // ---- records ------------------------------------------------------------------------------------------

    /// An insert and 20 updates of two fields, merged.
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
            let mut state = merge_changes::State::new(memory);
            for change in black_box(&changes) {
                state.apply(change, Some(b"home"), memory);
            }
            assert_eq!(state.0.fields().len(), 7);
        });
    }

    #[pg_bench]
    fn time_of_rfc_3339(b: &mut Bencher<'_>) {
        b.iter(|| Time::parse(black_box(b"2026-01-01T12:34:56.789Z")));
    }

    #[pg_bench]
    fn new_uuidv7(b: &mut Bencher<'_>) {
        iter_in_memory(b, |memory| {
            black_box(memory.uuid(&uuid::Uuid::now_v7()));
        });
    }
}
