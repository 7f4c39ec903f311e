//! Devices: readers, each with its cursor and the rows that it was given.

use crate::server::{Node, Row, Table};
use crate::wrong;
use mana_sync_cursor::Position;
use mana_sync_cursor::cursor::Cursor;
use mana_sync_cursor::epoch::Coverage;
use mana_sync_cursor::id::{Lsn, TransactionId};
use mana_sync_cursor::page::{Error, KnownSpaces, NextCursor, Request, Resync, Rows, Start, Taken, read_page};
use mana_sync_cursor::snapshot::Snapshot;
use std::collections::{BTreeMap, BTreeSet};

const APP: &[u8] = b"app";

/// A page with room for a number of rows that does not depend on the requested page size. It stands for a page that
/// ends because of its bytes.
struct Room {
    rows: Vec<Row>,
    room: usize,
}

impl Rows<Row> for Room {
    fn take(&mut self, _: Position, row: Row) -> Taken {
        if self.rows.len() == self.room {
            return Taken::Full;
        }
        self.rows.push(row);
        Taken::Shown
    }
}

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
    /// The spaces that the device was told of.
    pub told: BTreeSet<usize>,
    /// Rows that the device may hold or lack: deletes that some server has purged, and the changes that they deleted. A
    /// reader of that server does not get them. A reader of a server that lost the purge in a failover gets them.
    pub excused: BTreeSet<u32>,
    /// The open transaction on the primary in which the device writes and reads.
    pub writes_in: Option<u64>,
    /// The room of the device's cursors for open transactions, if it is not the room that the extension gives.
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
            writes_in: None,
            room: None,
            ends_pages_early: false,
        }
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
        let names: Vec<String> = spaces.iter().map(|space| format!("space {space}")).collect();
        let ids: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        let user = format!("user {}", self.user);
        let request = Request {
            user: user.as_bytes(),
            app: APP,
            spaces: &ids,
            table: None,
            page_size,
            as_records: false,
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
        let mut rows = Room { rows: Vec::new(), room };
        let page = read_page(
            &state.server,
            (snapshot, Lsn(length as u64)),
            &request,
            start,
            &mut table,
            &mut &state,
            &mut rows,
        );
        let (page, rows) = match page {
            Ok(page) => (page, rows.rows),
            Err(Error::Resync(Resync::Purged)) => {
                if self.cursor.is_none() {
                    return Err(wrong("rows, as the device has no cursor", "an error: the cursor is purged"));
                }
                self.cursor = None;
                self.delivered.clear();
                return Ok(true);
            }
            Err(error) => return Err(wrong("a page", format!("{error:?}"))),
        };
        let room = page_size.min(room);
        if rows.len() > page_size || (page.more && rows.len() != room) {
            let expected =
                if page.more { format!("a page of {room} rows") } else { format!("at most {page_size} rows") };
            return Err(wrong(expected, format!("{} rows", rows.len())));
        }
        assert!(rows.windows(2).all(|pair| pair[0].at < pair[1].at) || rows.len() > 1, "order");
        let mut is_issued = false;
        match page.next {
            NextCursor::Issue(cursor) => {
                self.cursor = Some(cursor.to_text());
                is_issued = true;
            }
            NextCursor::Unchanged if rows.is_empty() => {}
            NextCursor::Unchanged => return Err(wrong("a new cursor with the rows", "the cursor unchanged")),
            NextCursor::NotWanted => return Err(wrong("a cursor", "no cursor")),
        }
        if page.known_spaces != KnownSpaces::Same {
            let is_in = page.is_in;
            self.told = spaces.iter().zip(is_in).filter(|(_, is_in)| *is_in).map(|(space, _)| *space).collect();
        }
        // What is not told now would not be told later: the next page knows the spaces of this page's cursor.
        if is_issued && !self.told.is_subset(&self.spaces) {
            return Err(wrong(
                format!("that the device is in {:?}", self.spaces),
                format!("that it is in {:?}", self.told),
            ));
        }
        for row in rows {
            *self.delivered.entry(row.id).or_default() += 1;
            *self.received.entry(row.id).or_default() += 1;
        }
        Ok(page.more)
    }

    /// Pulls pages until the device is at rest.
    pub fn pull(&mut self, node: &Node, length: usize, in_recovery: bool, page_size: usize) -> Result<(), String> {
        self.received.clear();
        // Each page has new rows or begins a walk.
        let pages = 10 + 5 * length;
        for _ in 0..pages {
            if !self.next_page(node, length, in_recovery, page_size)? {
                return Ok(());
            }
        }
        Err(wrong(format!("a pull of at most {pages} pages"), "a pull that does not end"))
    }

    /// The rows that the device lacks, if it has pulled from a server that shows everything that was written. There
    /// must be none.
    pub fn missing(&self, node: &Node, length: usize, in_recovery: bool) -> Vec<u32> {
        let state = node.state(length, in_recovery, self.writes_in.filter(|_| !in_recovery));
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
            return Vec::new();
        }
        // A walk whose target covers such rows does not go on either.
        if cursor.and_then(|cursor| cursor.walk).is_some_and(|walk| elsewhere(&walk.target)) {
            return Vec::new();
        }
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
}
