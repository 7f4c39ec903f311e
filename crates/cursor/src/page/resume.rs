//! Resuming from a cursor: what the cursor means to this server, for the scope of the request, and after the purges
//! since it was issued.

use super::{ReaderState, Request, SpaceMode, Start, Told, WalkState, scope_hashes};
use crate::cursor::{Cursor, Walk};
use crate::epoch::{Coverage, LocalCoverage, Resolution, Server};
use crate::id::KeyedHash;
use crate::resync::{Purges, Resync, has_every_purge};

/// The outcome of resuming.
pub(super) enum Resumption {
    /// The reader resumes with this state.
    Ready(Box<ReaderState>),
    /// This server is a standby that has not replayed enough to know the state.
    Wait,
    /// The reader has to begin again.
    Resync(Resync),
}

/// What a coverage of a cursor means to this server.
enum NamedCoverage {
    /// The cursor has no such coverage.
    Nothing,
    /// The server does not share the history of the coverage. The coverage counts for nothing.
    Foreign,
    /// The server shares the history of the coverage.
    Shared(LocalCoverage),
}

impl NamedCoverage {
    fn resolve(server: &Server, coverage: Option<&Coverage>) -> Result<NamedCoverage, Resumption> {
        let Some(coverage) = coverage else { return Ok(NamedCoverage::Nothing) };
        match server.resolve(coverage) {
            Resolution::Shared(local) => Ok(NamedCoverage::Shared(local)),
            Resolution::Foreign => Ok(NamedCoverage::Foreign),
            Resolution::NotReplayed => Err(Resumption::Wait),
            Resolution::Future => Err(Resumption::Resync(Resync::Future)),
        }
    }

    fn shared(self) -> Option<LocalCoverage> {
        match self {
            NamedCoverage::Shared(local) => Some(local),
            NamedCoverage::Nothing | NamedCoverage::Foreign => None,
        }
    }
}

impl ReaderState {
    /// Makes the state of a reader that resumes from `start`.
    pub(super) fn at(server: &Server, request: &Request<'_>, start: &Start, purges: &mut impl Purges) -> Resumption {
        match start {
            Start::Beginning(created_after) => {
                // A reader from before the first row holds nothing, and so no record whose delete was purged.
                let may_hold_records = created_after.is_some_and(|after| {
                    let mut first_rows = server.log_began_at().into_iter().chain(purges.purged_from());
                    first_rows.any(|first| first <= after)
                });
                let stale = may_hold_records && purges.purged_until() > *created_after;
                let beginning = ReaderState::beginning(request, purges);
                let state = ReaderState { created_after: *created_after, may_hold_records, stale, ..beginning };
                Resumption::Ready(Box::new(state))
            }
            Start::Cursor(cursor) => match ReaderState::resume(server, request, (**cursor).clone(), purges) {
                Ok(state) => Resumption::Ready(state),
                Err(resumption) => resumption,
            },
        }
    }

    fn beginning(request: &Request<'_>, purges: &mut impl Purges) -> ReaderState {
        ReaderState {
            coverage: None,
            cursor_spaces: Vec::new(),
            scope: None,
            covered: vec![false; request.spaces.len()],
            walk: None,
            created_after: None,
            may_hold_records: false,
            holds_foreign_rows: false,
            told: None,
            purges: purges.mark(),
            stale: false,
        }
    }

    fn resume(
        server: &Server,
        request: &Request<'_>,
        mut cursor: Cursor,
        purges: &mut impl Purges,
    ) -> Result<Box<ReaderState>, Resumption> {
        let coverage = NamedCoverage::resolve(server, cursor.coverage.as_ref())?;
        let is_foreign = matches!(coverage, NamedCoverage::Foreign);
        let target = cursor.walk.as_ref().filter(|_| !is_foreign).map(|walk| &walk.target);
        let target = NamedCoverage::resolve(server, target)?.shared();
        let Some(key) = cursor.key() else { return Ok(Box::new(ReaderState::beginning(request, purges))) };
        let secret = server.secret(key);
        // A cursor of another reader counts for nothing, not even as stale.
        if secret.is_some_and(|secret| cursor.reader != secret.reader(request.user, request.app)) {
            let beginning = ReaderState::beginning(request, purges);
            return Ok(Box::new(ReaderState { may_hold_records: true, holds_foreign_rows: true, ..beginning }));
        }
        let coverage = coverage.shared();
        let stale = !has_every_purge(&cursor, coverage.as_ref(), target.as_ref(), purges);
        let Some(secret) = secret.filter(|_| !is_foreign) else {
            let beginning = ReaderState::beginning(request, purges);
            return Ok(Box::new(ReaderState { stale, may_hold_records: true, holds_foreign_rows: true, ..beginning }));
        };
        let scope = scope_hashes(secret, request);
        let covered = |cursor: &Cursor| -> Vec<bool> {
            scope.iter().map(|hash| cursor.spaces.binary_search(hash).is_ok()).collect()
        };
        let mut covered_spaces = covered(&cursor);
        let told = match &cursor.walk {
            Some(walk) => Told::in_walk(&cursor.spaces, walk, &scope),
            None => Told { of_scope: covered_spaces.clone(), count: cursor.spaces.len() },
        };
        // The reader was given rows of a walk whose target this server does not share, or rows that were lost in a failover.
        let mut named = cursor.coverage.iter().chain(cursor.walk.iter().map(|walk| &walk.target));
        let holds_foreign_rows =
            (cursor.walk.is_some() && target.is_none()) || named.any(|coverage| server.may_lack_rows(coverage));
        // A reader that asks for another table, or for records in the place of changes, goes back to the start of the walk.
        let filter = secret.filter(request.table, request.excluded_client);
        let is_same_walk =
            |walk: &Walk| target.is_some() && walk.table == filter && walk.as_records == request.as_records;
        // The reader may hold what earlier pages of that walk have shown.
        let mut may_hold_records = coverage.is_none();
        if let Some(walk) = cursor.walk.take_if(|walk| !is_same_walk(walk)) {
            may_hold_records |= !walk.joined.is_empty() || walk.may_hold_records;
            // The reader may have dropped the spaces that were left during the walk.
            cursor.spaces.retain(|hash| walk.left.binary_search(hash).is_err());
            covered_spaces = covered(&cursor);
        }
        let mut state = ReaderState {
            coverage,
            cursor_spaces: cursor.spaces,
            scope: None,
            covered: covered_spaces,
            walk: None,
            created_after: None,
            may_hold_records,
            holds_foreign_rows,
            told: Some(told),
            purges: purges.mark(),
            stale,
        };
        if let (Some(walk), Some(target)) = (cursor.walk, target) {
            let mut present = scope.clone();
            present.sort_unstable();
            let mut left = walk.left;
            left.extend(state.cursor_spaces.iter().filter(|hash| present.binary_search(hash).is_err()));
            left.sort_unstable();
            left.dedup();
            let from_beginning = state.coverage.is_none();
            let spaces = scope.iter().zip(&state.covered).map(|(hash, &covered)| {
                if covered && left.binary_search(hash).is_err() {
                    SpaceMode::Delta
                } else if walk.joined.binary_search(hash).is_err() {
                    SpaceMode::Skip
                } else if from_beginning {
                    SpaceMode::Delta
                } else {
                    SpaceMode::Whole
                }
            });
            let (last, resumed_at, base_is_cut) = (walk.last, walk.last, walk.base_is_cut);
            state.walk = Some(WalkState { target, last, spaces: spaces.collect(), left, resumed_at, base_is_cut });
            state.created_after = walk.created_after;
            state.may_hold_records = walk.may_hold_records;
        }
        state.scope = Some((*secret, scope));
        Ok(Box::new(state))
    }
}

impl Told {
    /// Returns the spaces that the reader was told it is in when it got a cursor in the middle of a walk.
    fn in_walk(covered: &[KeyedHash], walk: &Walk, scope: &[KeyedHash]) -> Told {
        let is_kept = |hash: &KeyedHash| covered.binary_search(hash).is_ok() && walk.left.binary_search(hash).is_err();
        let is_joined = |hash: &KeyedHash| walk.joined.binary_search(hash).is_ok();
        let kept = covered.iter().filter(|hash| is_kept(hash)).count();
        let joined = walk.joined.iter().filter(|hash| !is_kept(hash)).count();
        Told { of_scope: scope.iter().map(|hash| is_kept(hash) || is_joined(hash)).collect(), count: kept + joined }
    }
}
