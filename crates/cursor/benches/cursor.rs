//! Benchmarks of cursors and pages, without a server: `cargo bench -p mana_sync_cursor`. A name after `--` selects
//! benchmarks.
//!
//! The benchmarks that need a backend are in the extension (`src/benches.rs`).

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use mana_sync_cursor::Position;
use mana_sync_cursor::cursor::Cursor;
use mana_sync_cursor::epoch::{Coverage, Epoch, History, KnownEpoch, Server};
use mana_sync_cursor::hash::{SECRET_LENGTH, Secret};
use mana_sync_cursor::id::{
    EpochNumber, Fingerprint, HistoryId, KeyedHash, Lsn, PurgeMark, SystemId, Timeline, TransactionId,
};
use mana_sync_cursor::page::{Request, Start, read_page};
use mana_sync_cursor::resync::Purges;
use mana_sync_cursor::scan::{Fetch, Filter, Source, Stream};
use mana_sync_cursor::snapshot::Snapshot;
use std::convert::Infallible;

fn main() {
    divan::main();
}

const EPOCH: Epoch = Epoch { number: EpochNumber(3), fingerprint: Fingerprint(77) };
const SECRET: Secret = Secret([7; SECRET_LENGTH]);
const HERE: History = History { system: SystemId(1), timeline: Timeline(1), id: HistoryId(9), began_at: Lsn::INVALID };
const XMAX: u64 = 5_000_000_000;
const LSN: Lsn = Lsn(0x12_3456_7890);
const USER: &[u8] = b"0190b3f2-7c1e-7a55-9d0c-5b7f0f6e2a11";
const MANY: usize = 1000;

/// Makes ids that are as long as UUIDs.
fn ids(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|i| format!("0190b3f2-7c1e-7a55-9d0c-{i:012x}").into_bytes()).collect()
}

fn slices(ids: &[Vec<u8>]) -> Vec<&[u8]> {
    ids.iter().map(Vec::as_slice).collect()
}

/// Makes a cursor at rest that covers these spaces and names a few open transactions.
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

/// Encodes a cursor. The bytes per second are those of the text.
#[divan::bench(args = [3, MANY])]
fn cursor_to_text(bencher: Bencher<'_, '_>, spaces: usize) {
    let cursor = cursor(&ids(spaces));
    let bencher = bencher.counter(BytesCount::of_str(&cursor.to_text()));
    bencher.bench_local(|| black_box(&cursor).to_text());
}

#[divan::bench(args = [3, MANY])]
fn cursor_from_text(bencher: Bencher<'_, '_>, spaces: usize) {
    let text = cursor(&ids(spaces)).to_text();
    let bencher = bencher.counter(BytesCount::of_str(&text));
    bencher.bench_local(|| Cursor::from_text(black_box(text.as_bytes())).expect("it is a cursor"));
}

fn server() -> Server {
    let known = KnownEpoch {
        epoch: EPOCH,
        secret: SECRET,
        system: HERE.system,
        history: HERE.id,
        began_at: HERE.began_at,
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

/// A log with `parts` streams. It has `count` rounds; in each round, each stream gets one row, from a transaction of
/// its own.
struct Rounds {
    count: u64,
    parts: u64,
}

/// The id of the transaction of the first row.
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

/// Makes a request for a page with these spaces.
fn request<'a>(spaces: &'a [&'a [u8]], page_size: usize) -> Request<'a> {
    Request {
        user: USER,
        app: b"app",
        spaces,
        table: None,
        page_size,
        as_records: false,
        excluded_client: None,
        cursor_without_rows: true,
        room: None,
    }
}

/// Hashes the spaces of a scope, as a pull does to compare them with the spaces of the cursor.
#[divan::bench]
fn hashes_of_1000_spaces(bencher: Bencher<'_, '_>) {
    let ids = ids(MANY);
    bencher.bench_local(|| black_box(&ids).iter().map(|id| SECRET.space(id)).collect::<Vec<KeyedHash>>());
}

/// Makes a page that finds nothing new. It looks for the spaces of the scope in the cursor, and hashes them for the
/// next cursor.
#[divan::bench]
fn empty_page_1000_spaces(bencher: Bencher<'_, '_>) {
    let (ids, server) = (ids(MANY), server());
    let start = Start::Cursor(Box::new(cursor(&ids)));
    bencher.bench_local(|| {
        let spaces = slices(&ids);
        let request = request(&spaces, 500);
        let now = Snapshot::new(TransactionId(XMAX + 50), vec![TransactionId(XMAX - 20)], vec![]);
        let mut log = Rounds { count: 0, parts: 1 };
        let (request, start, mut rows) = (black_box(&request), start.clone(), Vec::new());
        read_page(&server, (now, Lsn(LSN.0 + 1)), request, start, &mut log, &mut NoPurges, &mut rows).expect("a page")
    });
}

/// Reads a page of 5,000 rows of a first sync, from 100 spaces and the reader's own rows.
#[divan::bench]
fn page_of_100_spaces(bencher: Bencher<'_, '_>) {
    let (ids, server) = (ids(100), server());
    bencher.bench_local(|| {
        let spaces = slices(&ids);
        let request = request(&spaces, 5000);
        let now = Snapshot::new(TransactionId(XMAX), vec![TransactionId(XMAX - 20)], vec![]);
        let mut log = Rounds { count: 1000, parts: 101 };
        let (request, start, mut rows) = (black_box(&request), Start::Beginning(None), Vec::new());
        let page = read_page(&server, (now, LSN), request, start, &mut log, &mut NoPurges, &mut rows);
        assert_eq!(rows.len(), 5000);
        page.expect("a page")
    });
}
