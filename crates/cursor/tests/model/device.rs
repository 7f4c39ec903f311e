//! Devices. A device is a reader with its cursor and the rows that it was given.

use crate::records::{Excuses, Held, Kept, RecordPage, WrongRecord};
use crate::server::{Event, Node, Row, State, Table};
use crate::wrong;
use mana_sync_cursor::Position;
use mana_sync_cursor::cursor::Cursor;
use mana_sync_cursor::epoch::Coverage;
use mana_sync_cursor::id::{Lsn, TransactionId};
use mana_sync_cursor::page::{Error, KnownSpaces, NextCursor, Reading, Request, Resync, Rows, Start, Taken, read_page};
use mana_sync_cursor::snapshot::Snapshot;
use std::collections::{BTreeMap, BTreeSet};

const APP: &[u8] = b"app";

/// The receiver of a page that ends after a fixed number of rows, whatever page size was requested. It stands for a page that ends because
/// of its bytes.
struct Room {
    rows: Vec<Row>,
    room: usize,
}

impl Rows<Row> for Room {
    fn take(&mut self, _: Position, row: Row, _: &Reading<'_>) -> Taken {
        if self.rows.len() == self.room {
            return Taken::Full;
        }
        self.rows.push(row);
        Taken::Shown
    }
}

/// The id of a space in requests.
pub fn space_id(space: usize) -> String {
    format!("space {space}")
}

/// The content of a page: changes, or records with the rows that the device sees of each record.
enum Shown {
    Changes(Vec<Row>),
    /// The first value has the records that the page shows, the second the deleted records that it does not show.
    Records(Vec<(usize, Vec<Row>)>, Vec<(usize, Vec<Row>)>),
}

impl Shown {
    fn count(&self) -> usize {
        match self {
            Shown::Changes(rows) => rows.len(),
            Shown::Records(records, _) => records.len(),
        }
    }

    fn into_rows(self) -> Vec<Row> {
        match self {
            Shown::Changes(rows) => rows,
            Shown::Records(records, _) => records.into_iter().flat_map(|(_, rows)| rows).collect(),
        }
    }
}

/// The state of a device that a rollback restores: its cursor, the spaces that it was told, and its records.
type Before = (Option<String>, BTreeSet<usize>, Option<Held>);

#[derive(Clone, Debug)]
pub struct Device {
    pub user: usize,
    pub spaces: BTreeSet<usize>,
    pub cursor: Option<String>,
    /// The rows that the device was given, each with the number of deliveries.
    pub delivered: BTreeMap<u32, u32>,
    /// The rows of the device's last pull or page, each with the number of deliveries.
    pub received: BTreeMap<u32, u32>,
    /// The spaces that the device joined after its first pull. Their rows may come again.
    pub rejoined: BTreeSet<usize>,
    /// The spaces that the device was told it is in.
    pub told: BTreeSet<usize>,
    /// The rows that the device may hold or lack: deletes that some server has purged, and the changes that they deleted. A reader of that
    /// server does not get them. A reader of a server that lost the purge in a failover gets them.
    pub excused: BTreeSet<u32>,
    /// The updates that a compaction has removed from some server.
    pub compacted: BTreeSet<u32>,
    /// The records that the device holds; `None` if it has never pulled records.
    pub records: Option<Held>,
    /// Whether the device now pulls records; otherwise it pulls changes.
    pub as_records: bool,
    /// The transaction that the device entered last, and the device's state before it. A client keeps what it got in its own transaction
    /// only if the transaction commits.
    before: Option<(u64, Before)>,
    /// The open transaction on the primary in which the device writes and reads; `None` if there is none.
    pub writes_in: Option<u64>,
    /// The number of bytes that the device's cursors have for open transactions; `None` for the number of the extension.
    pub room: Option<usize>,
    /// Whether some pages of the device end before they have the requested number of rows.
    pub ends_pages_early: bool,
}

impl Device {
    pub fn new(user: usize, spaces: BTreeSet<usize>) -> Device {
        Device {
            user,
            spaces,
            cursor: None,
            delivered: BTreeMap::new(),
            received: BTreeMap::new(),
            rejoined: BTreeSet::new(),
            told: BTreeSet::new(),
            excused: BTreeSet::new(),
            compacted: BTreeSet::new(),
            records: None,
            as_records: false,
            before: None,
            writes_in: None,
            room: None,
            ends_pages_early: false,
        }
    }

    /// Makes the device write and read in a transaction.
    pub fn enter(&mut self, xact: u64) {
        self.writes_in = Some(xact);
        self.before = Some((xact, (self.cursor.clone(), self.told.clone(), self.records.clone())));
    }

    /// Is told that the transaction `xact` has ended. If the device entered it last, and the transaction did not commit, a device with
    /// records forgets what it got in the transaction.
    pub fn end(&mut self, xact: u64, is_committed: bool) {
        let Some((_, before)) = self.before.take_if(|(before, _)| *before == xact) else { return };
        if !is_committed && self.records.is_some() {
            (self.cursor, self.told, self.records) = before;
        }
    }

    /// Makes the device pull records from now on. It keeps the changes that it has.
    pub fn pull_records(&mut self) {
        self.as_records = true;
        if self.records.is_none() {
            (self.cursor, self.records) = (None, Some(Held::new(Kept::Records)));
        }
    }

    /// Makes the device pull changes from now on, and merge them into records. If it has pulled records, it lacks changes, and so it begins
    /// again.
    pub fn pull_changes(&mut self) {
        if std::mem::take(&mut self.as_records) || self.records.is_none() {
            (self.cursor, self.records, self.before) = (None, None, None);
        }
        self.records.get_or_insert_with(|| Held::new(Kept::Changes));
    }

    /// Pulls one page. Returns whether there is more.
    pub fn page(&mut self, node: &Node, length: usize, in_recovery: bool, page_size: usize) -> Result<bool, String> {
        self.received.clear();
        self.next_page(node, length, in_recovery, page_size)
    }

    fn next_page(&mut self, node: &Node, length: usize, in_recovery: bool, page_size: usize) -> Result<bool, String> {
        let own = self.writes_in.filter(|_| !in_recovery);
        let state = node.state(length, in_recovery, own);
        let (xmax, open) = state.snapshot.clone();
        let scope = |row: &&&Row| row.user == self.user || row.space.is_some_and(|space| self.spaces.contains(&space));
        let start = match &self.cursor {
            None => Start::Beginning(None),
            Some(text) => Start::Cursor(Box::new(Cursor::from_text(text.as_bytes()).expect("its own cursor"))),
        };
        // The last `seq` of the reader's own transaction, among the visible rows in its scope and those that the cursor
        // covers. The cursor may cover more, because the device may have left a space since.
        let own_seq = |xact: TransactionId| {
            let rows = state.rows.iter().filter(|row| row.at.xact == xact).filter(scope);
            let named = match &start {
                Start::Cursor(cursor) => cursor.covered_seq(state.server.write_epoch().number(), xact),
                Start::Beginning(_) => 0,
            };
            rows.map(|row| row.at.seq).max().unwrap_or(0).max(named)
        };
        let own = own.map(TransactionId).map(|xact| (xact, own_seq(xact)));
        let open = open.into_iter().map(TransactionId).collect();
        let snapshot = Snapshot::new(TransactionId(xmax), open, own.into_iter().collect());
        let spaces: Vec<usize> = self.spaces.iter().copied().collect();
        let names: Vec<String> = spaces.iter().copied().map(space_id).collect();
        let ids: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        let user = format!("user {}", self.user);
        let request = Request {
            user: user.as_bytes(),
            app: APP,
            spaces: &ids,
            table: None,
            page_size,
            as_records: self.as_records,
            excluded_client: None,
            cursor_without_rows: true,
            room: self.room,
        };
        let mut table = Table { state: &state, user: self.user, spaces: &spaces, read: 0 };
        // About every third page ends before it has the requested number of rows.
        let room = match (length + page_size + self.delivered.len()) % 3 {
            0 if self.ends_pages_early => 1 + self.delivered.len() % 4,
            _ => page_size,
        };
        let (server, now) = (&state.server, (snapshot, Lsn(length as u64)));
        let mut rows = Room { rows: Vec::new(), room };
        let mut records = RecordPage::new(&state, self.user, &self.spaces, page_size.min(room));
        let page = match self.as_records {
            true => read_page(server, now, &request, start, &mut table, &mut &state, &mut records),
            false => read_page(server, now, &request, start, &mut table, &mut &state, &mut rows),
        };
        let shown = match self.as_records {
            true => Shown::Records(records.shown, records.not_shown),
            false => Shown::Changes(rows.rows),
        };
        let page = match page {
            Ok(page) => page,
            Err(Error::Resync(Resync::Purged)) => {
                if self.cursor.is_none() {
                    return Err(wrong("rows, as the device has no cursor", "an error: the cursor is purged"));
                }
                self.cursor = None;
                self.delivered.clear();
                self.records = self.records.as_ref().map(|records| Held::new(records.kept));
                return Ok(true);
            }
            Err(error) => return Err(wrong("a page", format!("{error:?}"))),
        };
        let room = page_size.min(room);
        let count = shown.count();
        // A page of records may end with a walk, before the next walk reads a space that this one has skipped.
        let is_short = if self.as_records { count == 0 } else { count != room };
        if count > page_size.min(room) || (page.more && is_short) {
            let expected =
                if page.more { format!("a page of {room} rows") } else { format!("at most {page_size} rows") };
            return Err(wrong(expected, format!("{count} rows")));
        }
        let is_issued = matches!(page.next, NextCursor::Issue(_));
        match page.next {
            NextCursor::Issue(cursor) => self.cursor = Some(cursor.to_text()),
            NextCursor::Unchanged if count == 0 => {}
            NextCursor::Unchanged => return Err(wrong("a new cursor with the rows", "the cursor unchanged")),
            NextCursor::NotWanted => return Err(wrong("a cursor", "no cursor")),
        }
        let is_in = page.is_in.iter().zip(&spaces).filter(|(is_in, _)| **is_in).map(|(_, space)| *space);
        let is_in: BTreeSet<usize> = is_in.collect();
        if page.known_spaces != KnownSpaces::Same {
            self.told = is_in.clone();
        }
        // What is not told now would not be told later: the next page knows the spaces of this page's cursor.
        if is_issued && self.told != is_in {
            return Err(wrong(format!("that the device is in {is_in:?}"), format!("that it is in {:?}", self.told)));
        }
        if is_issued && !is_in.is_subset(&self.spaces) {
            return Err(wrong(format!("at most the spaces {:?}", self.spaces), format!("the spaces {is_in:?}")));
        }
        if let Some(held) = &mut self.records {
            match &shown {
                Shown::Changes(rows) => rows.iter().for_each(|row| held.add(row.record, vec![row.clone()])),
                Shown::Records(records, not_shown) => {
                    records.iter().for_each(|(record, rows)| held.replace(*record, rows.clone()));
                    not_shown.iter().for_each(|(record, rows)| held.pass(*record, rows));
                }
            }
            let told = (page.known_spaces != KnownSpaces::Same).then_some(&is_in);
            if held.end_page(told, page.more) {
                self.cursor = None;
                return Ok(true);
            }
        }
        for row in shown.into_rows() {
            *self.delivered.entry(row.id).or_default() += 1;
            *self.received.entry(row.id).or_default() += 1;
        }
        Ok(page.more)
    }

    /// Pulls pages until the device is at rest.
    pub fn pull(&mut self, node: &Node, length: usize, in_recovery: bool, page_size: usize) -> Result<(), String> {
        self.received.clear();
        // Each page has new rows or begins a walk. A device that pulls records may have to pull from the beginning.
        let pages = (10 + 5 * length) * if self.records.is_some() { 2 } else { 1 };
        for _ in 0..pages {
            if !self.next_page(node, length, in_recovery, page_size)? {
                return Ok(());
            }
        }
        Err(wrong(format!("a pull of at most {pages} pages"), "a pull that does not end"))
    }

    /// Returns the rows that the device lacks although it has pulled from a server that shows everything that was written. A correct device
    /// lacks none.
    pub fn missing(&self, node: &Node, length: usize, in_recovery: bool) -> Vec<u32> {
        let state = node.state(length, in_recovery, self.writes_in.filter(|_| !in_recovery));
        let Some(ahead) = self.is_ahead(&state, in_recovery) else { return Vec::new() };
        let missing = state.rows.iter().filter(|row| {
            let shared = row
                .space
                .is_some_and(|space| self.spaces.contains(&space) && !(ahead && self.rejoined.contains(&space)));
            !self.delivered.contains_key(&row.id)
                && !self.excused.contains(&row.id)
                && (row.user == self.user || shared)
        });
        missing.map(|row| row.id).collect()
    }

    /// Whether the cursor covers rows that the server does not show; `None` if the server may not be able to show anything.
    fn is_ahead(&self, state: &State<'_>, in_recovery: bool) -> Option<bool> {
        // The cursor may cover rows that this server does not show: rows of the reader's own transaction that is
        // prepared now. Then the history of a joined space is not delivered yet.
        let cursor = self.cursor.as_ref().map(|text| Cursor::from_text(text.as_bytes()).expect("its own cursor"));
        let elsewhere =
            |seen: &Coverage| seen.snapshot.partial().iter().any(|(xact, _)| Some(xact.0) != self.writes_in);
        let ahead = cursor.as_ref().is_some_and(|cursor| cursor.coverage.as_ref().is_some_and(elsewhere));
        // A standby does not know whether it will replay an epoch. The epoch may have been rolled back, or lost with
        // its server.
        let named =
            cursor.iter().flat_map(|cursor| cursor.coverage.iter().chain(cursor.walk.iter().map(|walk| &walk.target)));
        if in_recovery && named.into_iter().any(|seen| state.server.secret(seen.epoch).is_none()) {
            return None;
        }
        // A walk whose target covers such rows does not go on either.
        if cursor.and_then(|cursor| cursor.walk).is_some_and(|walk| elsewhere(&walk.target)) {
            return None;
        }
        Some(ahead)
    }

    /// Returns a record that differs between the device and the server; `None` if there is none. Only a device that pulls records, and has
    /// pulled from a server that shows everything that was written, is checked.
    pub fn wrong_record(
        &self,
        node: &Node,
        length: usize,
        in_recovery: bool,
        has_failed_over: bool,
    ) -> Option<WrongRecord> {
        let held = self.records.as_ref()?;
        let state = node.state(length, in_recovery, self.writes_in.filter(|_| !in_recovery));
        if self.is_ahead(&state, in_recovery) != Some(false) {
            return None;
        }
        let is_committed = |id: u32| {
            let is_row = |e: &Event| matches!(e, Event::Row(row) if row.id == id && state.ended.get(&row.at.xact.0) == Some(&true));
            node.events[..length].iter().any(is_row)
        };
        let excuses = Excuses {
            removed: &|row| self.excused.contains(&row) || self.compacted.contains(&row),
            // A device may hold rows of a transaction of its own that was rolled back, and of a tail that was lost.
            lost: &|row| has_failed_over || !is_committed(row),
            skips_removed: has_failed_over,
        };
        held.wrong_record(&state, self.user, &self.spaces, &excuses)
    }
}
