//! What a call opens before its queries and closes after them.
//!
//! A call opens the scope, the settings of the planner, the SPI connection and the snapshot, in this order. If the call succeeds, it closes
//! them in reverse order. If there is an error, it closes nothing: PostgreSQL does so when it rolls back the transaction or subtransaction.

use crate::error::Error;
use crate::pg::guc;
use crate::pg::memory::Memory;
use crate::pg::snapshot::{self, Kind};
use crate::pg::spi::{self, Spi};
use crate::scope::Scope;
use std::ffi::CStr;

/// The choice of what a call opens before its queries.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Whether all statements of the call are planned with [`INDEX_SCANS`].
    index_scans: bool,
    /// The snapshot that all reading statements of the call use; `None` if each statement uses its own.
    snapshot: Option<Kind>,
}

/// Settings of the planner for statements that read the log.
///
/// A backend plans a statement at its first run, perhaps while the table is small or has no statistics, and keeps the plan. So these
/// settings make the plan an index scan in any case, in the order of the index where the query needs an order. Just-in-time compilation is
/// off, because it takes longer than these statements do.
const INDEX_SCANS: [(&CStr, &[u8]); 5] = [
    (c"enable_seqscan", b"off"),
    (c"enable_bitmapscan", b"off"),
    (c"enable_sort", b"off"),
    (c"enable_indexscan", b"on"),
    (c"jit", b"off"),
];

impl Call {
    /// A call whose statements need only a connection.
    pub const PLAIN: Call = Call { index_scans: false, snapshot: None };
    /// A call whose statements read the log, with the snapshot of the calling query or with one that the call takes itself.
    pub const INDEX_SCANS: Call = Call { index_scans: true, snapshot: None };
    /// A call whose statements all read the log with the transaction's snapshot.
    pub const READ: Call = Call { index_scans: true, snapshot: Some(Kind::Transaction) };

    /// Runs `body` in the scope of a user and the user's spaces (see [`Scope::enter`]). Errors: those of the scope, and of `body`.
    pub fn in_scope<'a, T>(
        self,
        memory: Memory<'a>,
        user: Option<&'a [u8]>,
        spaces: Option<Vec<Option<&'a [u8]>>>,
        body: impl FnOnce(Spi<'_>, &Scope<'a>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (scope, level) = Scope::enter(memory, user, spaces)?;
        let result = self.run(|spi| body(spi, &scope))?;
        level.into_iter().for_each(guc::close_level);
        Ok(result)
    }

    /// Runs `body` without a change of scope: in the scope of the caller, or as the owner of the extension.
    pub fn run<T, E>(self, body: impl FnOnce(Spi<'_>) -> Result<T, E>) -> Result<T, E> {
        let run = || {
            spi::connect(|spi| match self.snapshot {
                Some(kind) => snapshot::with(kind, || body(spi)),
                None => body(spi),
            })
        };
        if self.index_scans { with_index_scans(run) } else { run() }
    }
}

/// Runs `body` with the planner set to [`INDEX_SCANS`], for a part of a call.
pub fn with_index_scans<T, E>(body: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    guc::with_level(|| {
        for (name, value) in INDEX_SCANS {
            guc::set_on_level(name, value);
        }
        body()
    })
}
