//! Devices: readers with a cursor and what they were given.

use crate::server::{Node, Row, Table};
use mana_sync_cursor::cursor::Cursor;
use mana_sync_cursor::epoch::Coverage;
use mana_sync_cursor::id::{Lsn, TransactionId};
use mana_sync_cursor::page::{Error, NextCursor, Request, Resync, Rows, Start, read_page};
use mana_sync_cursor::snapshot::Snapshot;
use std::collections::{BTreeMap, BTreeSet};

const APP: &[u8] = b"app";

/// A page with room for some rows, whose number does not depend on the page size that was asked for: as pages end by their bytes.
struct Room {
    rows: Vec<Row>,
    room: usize,
}

impl Rows<Row> for Room {
    fn take(&mut self, row: Row) -> bool {
        let fits = self.rows.len() < self.room;
        if fits {
            self.rows.push(row);
        }
        fits
    }
}

#[derive(Clone, Debug)]
pub struct Device {
    pub user: usize,
    pub spaces: BTreeSet<usize>,
    pub cursor: Option<String>,
    pub delivered: BTreeMap<u32, u32>,
    /// Spaces it has joined after it had begun: their rows may come again.
    pub rejoined: BTreeSet<usize>,
    /// Deletes and what they deleted, that some server has purged: a reader from there does not have them, and one that
    /// has lost the purge in a failover does.
    pub excused: BTreeSet<u32>,
    /// Its own open transaction on the first primary.
    pub writes_in: Option<u64>,
    /// Room that its cursors have for open transactions, where it is not what the extension gives.
    pub room: Option<usize>,
    /// Whether some of its pages end before they have the rows that were asked for.
    pub ends_pages_early: bool,
}

impl Device {
    /// One page; true if it was filled.
    pub fn page(&mut self, node: &Node, length: usize, in_recovery: bool, page_size: usize) -> bool {
        let own = self.writes_in.filter(|_| !in_recovery);
        let state = node.state(length, in_recovery, own);
        let (xmax, open) = state.snapshot.clone();
        let scope = |row: &&&Row| row.user == self.user || row.space.is_some_and(|space| self.spaces.contains(&space));
        let start = match &self.cursor {
            None => Start::Beginning(None),
            Some(text) => Start::Cursor(Box::new(Cursor::from_text(text.as_bytes()).expect("its own cursor"))),
        };
        // What the reader's own transaction has written, and what its cursor names of it (a space may have
        // been left since).
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
            cursor_without_rows: true,
            room: self.room,
        };
        let mut table = Table { state: &state, user: self.user, spaces: &spaces, read: 0 };
        // Every third page or so ends before it has the rows that were asked for.
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
                assert!(self.cursor.is_some(), "from the beginning");
                self.cursor = None;
                self.delivered.clear();
                return true;
            }
            Err(error) => panic!("{error:?}"),
        };
        assert!(rows.len() <= page_size);
        assert!(!page.more || rows.len() == page_size.min(room));
        assert!(rows.windows(2).all(|pair| pair[0].at < pair[1].at) || rows.len() > 1, "order");
        match page.next {
            NextCursor::Issue(cursor) => self.cursor = Some(cursor.to_text()),
            NextCursor::Unchanged => assert!(rows.is_empty()),
            NextCursor::NotWanted => panic!("a cursor was wanted"),
        }
        for row in rows {
            *self.delivered.entry(row.id).or_default() += 1;
        }
        page.more
    }

    pub fn pull(&mut self, node: &Node, length: usize, in_recovery: bool, page_size: usize) {
        // Each page has rows that the one before had not, or begins a walk.
        for _ in 0..10 + 5 * length {
            if !self.page(node, length, in_recovery, page_size) {
                return;
            }
        }
        panic!("a pull does not end: {self:?}");
    }

    /// A pull from a server that shows all there is: nothing may wait.
    pub fn pull_all(&mut self, node: &Node, length: usize, in_recovery: bool, page_size: usize) {
        self.pull(node, length, in_recovery, page_size);
        let state = node.state(length, in_recovery, self.writes_in.filter(|_| !in_recovery));
        // A space that was joined waits where the cursor has seen rows that this server does not show: of
        // the reader's transaction that is prepared now.
        let cursor = self.cursor.as_ref().map(|text| Cursor::from_text(text.as_bytes()).expect("its own cursor"));
        let elsewhere =
            |seen: &Coverage| seen.snapshot.partial().iter().any(|(xact, _)| Some(xact.0) != self.writes_in);
        let ahead = cursor.as_ref().is_some_and(|cursor| cursor.coverage.as_ref().is_some_and(elsewhere));
        // A standby cannot tell an epoch that it will replay from one that was rolled back, or lost with its server.
        let named =
            cursor.iter().flat_map(|cursor| cursor.coverage.iter().chain(cursor.walk.iter().map(|walk| &walk.target)));
        if in_recovery && named.into_iter().any(|seen| state.server.secret(seen.epoch).is_none()) {
            return;
        }
        // So does a walk whose target has such rows.
        if cursor.and_then(|cursor| cursor.walk).is_some_and(|walk| elsewhere(&walk.target)) {
            return;
        }
        for row in &state.rows {
            let shared = row
                .space
                .is_some_and(|space| self.spaces.contains(&space) && !(ahead && self.rejoined.contains(&space)));
            assert!(
                self.delivered.contains_key(&row.id)
                    || self.excused.contains(&row.id)
                    || (row.user != self.user && !shared),
                "{row:?} waits for {:?}: {self:?}",
                state.snapshot
            );
        }
    }
}
