//! Issuing a cursor: making it from the state of a reader, and cutting it to size.

use super::{ReaderState, Request, SpaceMode, scope_hashes};
use crate::codec;
use crate::cursor::{Cursor, Walk};
use crate::epoch::{LocalCoverage, Server};
use crate::id::KeyedHash;
use std::borrow::Cow;

impl ReaderState {
    /// Makes the cursor of this state.
    pub(super) fn cursor(&self, server: &Server, request: &Request<'_>) -> Cursor {
        let mut cursor = Cursor {
            reader: KeyedHash(0),
            coverage: self.coverage.as_ref().map(|local| local.coverage.clone()),
            spaces: Vec::new(),
            purges: self.purges,
            walk: self.walk.as_ref().map(|walk| Walk {
                target: walk.target.coverage.clone(),
                last: walk.last,
                joined: Vec::new(),
                left: Vec::new(),
                table: KeyedHash(0),
                created_after: self.created_after,
                as_records: request.as_records,
                may_hold_records: self.may_hold_records,
                base_is_cut: walk.base_is_cut,
            }),
        };
        // The server knows the epoch of every coverage here: it made the coverage, or shares its history.
        let Some(secret) = cursor.key().and_then(|epoch| server.secret(epoch)) else { return Cursor::default() };
        let scope = match &self.scope {
            Some((key, hashes)) if key == secret => Cow::Borrowed(hashes),
            _ => Cow::Owned(scope_hashes(secret, request)),
        };
        let hashes = |is_chosen: &dyn Fn(usize) -> bool| {
            let spaces = scope.iter().enumerate().filter(|(i, _)| is_chosen(*i));
            let mut hashes: Vec<KeyedHash> = spaces.map(|(_, &hash)| hash).collect();
            hashes.sort_unstable();
            hashes.dedup();
            hashes
        };
        cursor.reader = secret.reader(request.user, request.app);
        cursor.spaces = hashes(&|i| self.covered[i]);
        if let (Some(walk), Some(state)) = (&mut cursor.walk, &self.walk) {
            walk.table = secret.filter(request.table, request.excluded_client);
            walk.joined = hashes(&|i| state.spaces[i] != SpaceMode::Skip && !self.covered[i]);
            // A space that was left during the walk stays in the cursor, so that a reader which goes back to the start of
            // the walk gets nothing twice. It is also named as left, so that the end of the walk does not cover it.
            if !self.cursor_spaces.is_empty() {
                let current = std::mem::replace(&mut cursor.spaces, self.cursor_spaces.clone());
                walk.left = state.left.clone();
                walk.left.extend(self.cursor_spaces.iter().filter(|hash| current.binary_search(hash).is_err()));
                walk.left.sort_unstable();
                walk.left.dedup();
            }
        }
        self.cut(&mut cursor, request);
        if let (Some(walk), Some(cut), Some(local)) = (&mut cursor.walk, &cursor.coverage, &self.coverage) {
            let coverage = &local.coverage;
            walk.base_is_cut |= cut != coverage || coverage.snapshot.partial().len() > codec::MOST_PARTIAL;
        }
        cursor
    }

    /// Cuts the snapshots of the cursor before the first open transactions that the cursor has no room for
    /// ([`crate::snapshot::Snapshot::cut`]).
    fn cut(&self, cursor: &mut Cursor, request: &Request<'_>) {
        // The room depends on the scope, and not on how much of it the cursor covers. So of two cursors for the same scope
        // the later one is not cut earlier.
        let room = request.room.unwrap_or_else(|| codec::room_for_open(request.spaces.len()));
        let needed = |local: &LocalCoverage| {
            let bound = local.must_name_below();
            local.coverage.snapshot.open().partition_point(|&xact| xact < bound)
        };
        if let (Some(coverage), Some(local)) = (&mut cursor.coverage, &self.coverage) {
            let fitting = codec::fitting(coverage.snapshot.open(), room, self.walk.is_some());
            coverage.snapshot = coverage.snapshot.cut(fitting.max(needed(local)));
        }
        if let (Some(walk), Some(state)) = (&mut cursor.walk, &self.walk) {
            // The target has to name every transaction that was open below the last row, however many there are.
            // Otherwise the end of the walk would be the coverage that it began from.
            let snapshot = &walk.target.snapshot;
            let passed = match walk.target.epoch.number == walk.last.epoch {
                true => snapshot.open().partition_point(|&xact| xact <= walk.last.xact),
                false => 0,
            };
            let known = cursor.coverage.as_ref().map_or(&[][..], |coverage| coverage.snapshot.open());
            let fitting = codec::fitting_target(snapshot.open(), known, room);
            walk.target.snapshot = snapshot.cut(fitting.max(needed(&state.target)).max(passed));
            // The end of the walk has to cover all that its start covered: of a space that the walk reads from the
            // beginning, those rows do not come again.
            if let (Some(coverage), Some(local)) = (&cursor.coverage, &self.coverage) {
                if local.coverage.order() == state.target.coverage.order() && state.target.contains(local) {
                    walk.target.snapshot = walk.target.snapshot.union(&coverage.snapshot);
                }
            }
        }
    }
}
