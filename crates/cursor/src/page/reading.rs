//! Reading a walk: which rows belong to it, and in what order they come.

use super::{ReaderState, Request, SpaceMode, WalkState};
use crate::Position;
use crate::epoch::Server;
use crate::plan::Plan;
use crate::scan::{Filter, Source, Stream, StreamScan, merge_scans};

/// A walk of a reader, and the ranges that the walk has to read of each stream.
pub struct Reading<'a> {
    request: &'a Request<'a>,
    state: &'a ReaderState,
    walk: &'a WalkState,
    /// The ranges of the streams that begin at the cursor.
    delta: Plan<'a>,
    /// The ranges of the streams that begin at the beginning of the log.
    whole: Plan<'a>,
    /// Whether the server is a standby.
    is_standby: bool,
}

/// The properties of a row that decide, together with its position, whether the row belongs to a walk.
#[derive(Clone, Copy, Debug)]
pub struct RowOrigin<'a> {
    /// Whether the reader wrote the row.
    pub is_own: bool,
    /// The space of the row; `None` if it is private.
    pub space: Option<&'a [u8]>,
    /// When the row was written, in microseconds from 2000-01-01.
    pub created_at: i64,
}

/// Describes the records that a reader cannot hold. The reader need not be told if such a record is deleted.
#[derive(Clone, Debug, Default)]
pub struct NotHeld {
    /// Whether the reader holds no records at all, because its walk began at the beginning of the log.
    everything: bool,
    /// The ids of the spaces that joined: the walk reads them from the beginning of the log.
    spaces: Vec<Box<[u8]>>,
}

impl NotHeld {
    /// Whether the reader cannot hold a record. All changes of the record are in `space`, or all are private (`None`). `has_own` means that
    /// some of them are the reader's own: the reader may hold these from before it joined the space.
    pub fn contains(&self, space: Option<&[u8]>, has_own: bool) -> bool {
        self.everything || (!has_own && space.is_some_and(|space| self.spaces.iter().any(|id| **id == *space)))
    }
}

impl<'a> Reading<'a> {
    /// Plans what to read in the walk of `state`; `None` if `state` has no walk.
    pub(super) fn new(server: &Server, request: &'a Request<'a>, state: &'a ReaderState) -> Option<Reading<'a>> {
        let walk = state.walk.as_ref()?;
        let delta = Plan::new(state.coverage.as_ref(), &walk.target);
        let whole = Plan::new(None, &walk.target);
        Some(Reading { request, state, walk, delta, whole, is_standby: server.in_recovery() })
    }

    /// Reads the next `room` rows of the walk. Returns fewer rows only at the end of the walk.
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

    /// The position from which the walk reads: no row of the walk has a smaller one.
    pub fn begins_at(&self) -> Position {
        if self.walk.spaces.contains(&SpaceMode::Whole) {
            return Position::START;
        }
        let ranges = self.delta.late.iter().flatten().chain(&self.delta.newer);
        ranges.map(|range| range.from).min().unwrap_or(Position::START)
    }

    /// Whether earlier pages of the walk have certainly passed this row. Two cases are uncertain and give false:
    ///
    /// - The base of the walk was cut. Rows that the reader had before the walk then look like rows of the walk.
    /// - The server is a standby. An earlier page may come from the primary, after a compaction that removed the row and that the standby
    ///   has not replayed.
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

    /// Describes the records that the reader cannot hold.
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

    /// How the walk reads a space; `None` if the space is not in the scope.
    fn mode(&self, space: &[u8]) -> Option<SpaceMode> {
        let index = self.request.spaces.iter().position(|id| *id == space)?;
        self.walk.spaces.get(index).copied()
    }
}
