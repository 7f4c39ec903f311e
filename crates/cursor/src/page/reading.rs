//! Reading a walk: which rows belong to it, and in what order they come.

use super::{ReaderState, Request, SpaceMode, WalkState};
use crate::Position;
use crate::epoch::Server;
use crate::plan::Plan;
use crate::scan::{Filter, Source, Stream, StreamScan, merge_scans};

/// A walk, with what has to be read of each stream.
pub struct Reading<'a> {
    request: &'a Request<'a>,
    state: &'a ReaderState,
    walk: &'a WalkState,
    /// What is read of the streams that begin at the cursor.
    delta: Plan<'a>,
    /// What is read of the streams that begin at the beginning of the log.
    whole: Plan<'a>,
    /// Whether the server is a standby.
    is_standby: bool,
}

/// The properties of a row that decide whether it belongs to a walk, beside its position.
#[derive(Clone, Copy, Debug)]
pub struct RowOrigin<'a> {
    /// Whether the reader wrote the row.
    pub is_own: bool,
    /// The space of the row; `None` if it is private.
    pub space: Option<&'a [u8]>,
    /// When the row was written, in microseconds from 2000-01-01.
    pub created_at: i64,
}

/// The records that a reader cannot hold: whether they are deleted need not be told.
#[derive(Clone, Debug, Default)]
pub struct NotHeld {
    /// Whether the reader holds nothing. Its walk began at the beginning of the log.
    everything: bool,
    /// The spaces that the walk reads from their beginning.
    spaces: Vec<Box<[u8]>>,
}

impl NotHeld {
    /// Whether the reader cannot hold a record all of whose changes are in this space, or private (`None`). `has_own` is whether
    /// some of them are the reader's own: it may hold these from before it joined the space.
    pub fn contains(&self, space: Option<&[u8]>, has_own: bool) -> bool {
        self.everything || (!has_own && space.is_some_and(|space| self.spaces.iter().any(|id| **id == *space)))
    }
}

impl<'a> Reading<'a> {
    /// What is read in the walk of `state`. There is nothing to read without a walk.
    pub(super) fn new(server: &Server, request: &'a Request<'a>, state: &'a ReaderState) -> Option<Reading<'a>> {
        let walk = state.walk.as_ref()?;
        let delta = Plan::new(state.coverage.as_ref(), &walk.target);
        let whole = Plan::new(None, &walk.target);
        Some(Reading { request, state, walk, delta, whole, is_standby: server.in_recovery() })
    }

    /// Reads the next `room` rows. There are fewer only at the end of the walk.
    pub(super) fn read<S: Source>(&self, room: usize, source: &mut S) -> Result<Vec<(Position, S::Row)>, S::Error> {
        let mut scans = Vec::new();
        let mut add = |stream, plan| scans.extend(StreamScan::start(stream, plan, self.walk.last));
        add(Stream::Own, &self.delta);
        let mut filter = Filter {
            excluded_from_own: Vec::new(),
            created_after: self.state.created_after,
            from_beginning: self.is_from_beginning(),
        };
        for (index, mode) in self.walk.spaces.iter().enumerate() {
            match mode {
                SpaceMode::Delta if self.delta.is_empty() => {}
                SpaceMode::Delta => add(Stream::Space { index, with_own: false }, &self.delta),
                SpaceMode::Whole => {
                    add(Stream::Space { index, with_own: true }, &self.whole);
                    filter.excluded_from_own.push(index);
                }
                SpaceMode::Skip => {}
            }
        }
        let mut found = merge_scans(scans, 1 + self.walk.spaces.len(), room, &filter, source)?;
        found.truncate(room);
        Ok(found)
    }

    /// Whether the walk began at the beginning of the log.
    fn is_from_beginning(&self) -> bool {
        self.state.coverage.is_none()
    }

    /// The position of the last row that earlier pages of the walk have passed; `None` on its first page.
    pub fn resumed_at(&self) -> Option<Position> {
        Some(self.walk.resumed_at).filter(|&position| position != Position::START)
    }

    /// For each space of the scope, whether the walk reads it.
    pub fn reads_spaces(&self) -> impl Iterator<Item = bool> + '_ {
        self.walk.spaces.iter().map(|mode| *mode != SpaceMode::Skip)
    }

    /// Whether this call began the walk and has passed no row of it yet.
    pub fn is_new_walk(&self) -> bool {
        self.walk.last == Position::START
    }

    /// A position before all rows of the walk.
    pub fn begins_at(&self) -> Position {
        if self.walk.spaces.contains(&SpaceMode::Whole) {
            return Position::START;
        }
        let ranges = self.delta.late.iter().flatten().chain(&self.delta.newer);
        ranges.map(|range| range.from).min().unwrap_or(Position::START)
    }

    /// Whether earlier pages of the walk have passed this row. It is false for some rows that they have passed, where the base of
    /// the walk was cut: rows that the reader had before the walk look the same. It is false on a standby too: an earlier page may
    /// come from the primary, after a compaction that removed the row and that the standby has not replayed.
    pub fn has_passed(&self, position: Position, row: RowOrigin<'_>) -> bool {
        if self.is_standby
            || self.walk.base_is_cut
            || position > self.walk.resumed_at
            || self.state.created_after.is_some_and(|after| row.created_at <= after)
        {
            return false;
        }
        match row.space.and_then(|space| self.mode(space)) {
            Some(SpaceMode::Whole) => self.whole.includes(position),
            Some(SpaceMode::Delta) => self.delta.includes(position),
            // The own stream has the reader's own rows in all other spaces.
            Some(SpaceMode::Skip) | None => row.is_own && self.delta.includes(position),
        }
    }

    /// The records that the reader cannot hold.
    pub fn not_held(&self) -> NotHeld {
        if self.state.may_hold_records {
            return NotHeld::default();
        }
        if self.is_from_beginning() {
            return NotHeld { everything: true, spaces: Vec::new() };
        }
        let modes = self.request.spaces.iter().zip(&self.walk.spaces);
        let joined = modes.filter(|(_, mode)| **mode == SpaceMode::Whole).map(|(id, _)| Box::from(*id));
        NotHeld { everything: false, spaces: joined.collect() }
    }

    /// How the walk reads a space; `None` if it is not in the scope.
    fn mode(&self, space: &[u8]) -> Option<SpaceMode> {
        let index = self.request.spaces.iter().position(|id| *id == space)?;
        self.walk.spaces.get(index).copied()
    }
}
