//! Every error that the extension raises by itself, with its SQLSTATE, DETAIL and HINT.

use crate::pg::xact::SqlState;
use mana_sync_cursor::codec::DecodeError;
use mana_sync_cursor::page::Resync;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;

/// The maximum number of bytes of a text that is a key of an index. A B-tree entry may take a third of a page. Four such texts fit into it,
/// even if they cannot be compressed.
pub const MOST_KEY_BYTES: usize = 512;

/// An error that ends a call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An argument that must have a value is NULL or empty.
    #[error("{0} must not be NULL or empty")]
    Empty(&'static str),
    /// An argument that must have a value is NULL.
    #[error("{0} must not be NULL")]
    Null(&'static str),
    /// An interval is negative.
    #[error("{0} must be an interval of 0 or more")]
    Negative(&'static str),
    /// The compaction does not exist or is finished.
    #[error("run is not a compaction that is under way")]
    NoRun,
    /// Maintenance was called in a transaction that keeps one snapshot.
    #[error("maintenance runs at isolation level READ COMMITTED only")]
    FixedSnapshot,
    /// Maintenance did not find rows that it had read: a superuser changed the log meanwhile.
    #[error("rows of the log have changed meanwhile")]
    RowsChanged,
    /// Maintenance would overlook rows, because row security hides them from the owner.
    #[error("the owner of mana_sync.sync_changes is subject to its row-level security")]
    HiddenRows,
    /// The argument `user_id` is empty. (NULL would stand for the user of the scope.)
    #[error("user_id must not be empty")]
    EmptyUser,
    /// The op is not insert, update or delete.
    #[error("op must be insert, update or delete")]
    Op,
    /// A text that is a key of an index is longer than [`MOST_KEY_BYTES`].
    #[error("{0} must have at most {MOST_KEY_BYTES} bytes")]
    TooLong(&'static str),
    /// A value of a change is out of bounds: the change could not be sent to every reader.
    #[error("{what} {fault}")]
    OutOfBounds {
        /// The argument or column, for example `data`.
        what: &'static str,
        /// The end of the message, for example `has a number of …`.
        fault: String,
    },
    /// A changeset is malformed or out of bounds.
    #[error("{path} {fault}")]
    Changeset {
        /// The place in the changeset, for example `changes[3].op`.
        path: String,
        /// The end of the message, for example `must be …`.
        fault: String,
    },
    /// A changeset or a change has a greater schema version than `mana_sync.max_schema_version`.
    #[error("{path} is newer than this log supports: at most {greatest}")]
    NewerSchema {
        /// The place in the changeset, for example `changes[3].schemaVersion`.
        path: String,
        /// The greatest version that is accepted.
        greatest: i32,
    },
    /// The user may not write into the space that a change of a changeset names.
    #[error("changes[{index}]: {error}")]
    Change {
        /// The place of the change in the changeset, from 0.
        index: usize,
        /// The reason.
        error: Box<Error>,
    },
    /// The `eventId` of a change, at this place in the changeset, is the id of another change.
    #[error("changes[{0}].eventId is the id of another change")]
    Taken(usize),
    /// The change at this place in the changeset was recorded before under its `eventId`, with other content.
    #[error("changes[{0}].eventId was recorded with other content")]
    Changed(usize),
    /// An argument that is a size is less than 1.
    #[error("{0} must be at least 1")]
    Size(&'static str),
    /// A space id has a comma. The scope keeps its spaces in a comma-separated setting, so one id would become two.
    #[error("a space id must not contain a comma")]
    Comma,
    /// The argument `since` begins like a cursor, but cannot be read as one.
    #[error("since is not a cursor that can be read: {0}")]
    Cursor(#[from] DecodeError),
    /// The argument `user_id` is NULL, and there is no scope that names a user.
    #[error("no user: user_id is NULL and there is no scope")]
    NoScope,
    /// A call names another user than the scope.
    #[error("user_id is not the user of the scope")]
    OtherUser,
    /// The user is not a member of the space.
    #[error("the user is not a member of the space")]
    NotMember,
    /// The memberships of the user are not known, and `mana_sync.strict_spaces` is on.
    #[error("the user's memberships are not known")]
    UnknownMemberships,
    /// The cursor names transactions that this server has not begun yet.
    #[error("resync required: the cursor is from this server's future")]
    Future,
    /// A subscription writes into the log of this server.
    #[error("the log is replicated into by a subscription")]
    Subscriber,
    /// The cursor does not cover deletes that were purged.
    #[error("resync required: deletes that the cursor has not seen were purged")]
    Purged,
    /// Deletes that the cursor does not cover were purged while the call recorded changes.
    #[error("a purge has made the cursor too old meanwhile")]
    PurgedMeanwhile,
    /// The history file of a timeline is missing, so that the server cannot tell its history. The SQLSTATE is not 55000, because a client
    /// that gets 55000 begins again.
    #[error("the history file of timeline {0} is missing")]
    NoHistoryFile(u32),
    /// The database objects of the extension are not those that this library was built for.
    #[error("the installation of mana_sync is damaged: {0}")]
    Installation(&'static str),
    /// The trigger function `note_change` was not called by the trigger of the log.
    #[error("mana_sync.note_change is a trigger function of mana_sync.sync_changes")]
    NoTrigger,
    /// A function of the aggregate was not called by an aggregation.
    #[error("aggregate function called in non-aggregate context")]
    NoAggregate,
    /// A function that returns a set was called where no set of rows is accepted.
    #[error("set-valued function called in context that cannot accept a set")]
    NoSet,
}

impl From<Resync> for Error {
    fn from(why: Resync) -> Error {
        match why {
            Resync::Future => Error::Future,
            Resync::Purged => Error::Purged,
        }
    }
}

impl Error {
    /// The SQLSTATE of the error.
    pub fn sql_state(&self) -> SqlState {
        SqlState::from_raw(self.code_detail_hint().0 as i32)
    }

    /// The SQLSTATE, DETAIL and HINT.
    fn code_detail_hint(&self) -> (PgSqlErrorCode, String, Option<&'static str>) {
        use PgSqlErrorCode::*;
        match self {
            Error::Empty(argument)
            | Error::Null(argument)
            | Error::TooLong(argument)
            | Error::Negative(argument)
            | Error::Size(argument) => (ERRCODE_INVALID_PARAMETER_VALUE, format!("Argument: {argument}."), None),
            Error::OutOfBounds { what, .. } => (
                ERRCODE_INVALID_PARAMETER_VALUE,
                format!("Argument: {what}. Whatever is recorded must fit into the answers to all its readers."),
                None,
            ),
            Error::EmptyUser => (ERRCODE_INVALID_PARAMETER_VALUE, "Argument: user_id.".into(), None),
            Error::Op => (ERRCODE_INVALID_PARAMETER_VALUE, "Argument: op.".into(), None),
            Error::Changeset { path, .. } | Error::NewerSchema { path, .. } => (
                ERRCODE_INVALID_PARAMETER_VALUE,
                format!("Argument: changeset. At {path}; changes are counted from 0. Nothing of it was recorded."),
                None,
            ),
            Error::Change { index, .. } => (
                ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("Argument: changeset. At changes[{index}].spaceId. Nothing of it was recorded."),
                None,
            ),
            Error::Taken(_) => (
                ERRCODE_UNIQUE_VIOLATION,
                "Argument: changeset. A change that is sent again has the same app, table, id and op, and the same user. Nothing of it was recorded."
                    .into(),
                Some("Give each change an eventId of its own (a UUID of version 4 or 7)."),
            ),
            Error::Changed(_) => (
                ERRCODE_UNIQUE_VIOLATION,
                "Argument: changeset. What an eventId was recorded with stays. Nothing of the changeset was recorded.".into(),
                Some("Give a change that was edited after it had been sent a new eventId."),
            ),
            Error::Comma => (
                ERRCODE_INVALID_PARAMETER_VALUE,
                "Argument: space_ids. The scope keeps its spaces in a comma-separated setting.".into(),
                None,
            ),
            Error::Cursor(_) => (
                ERRCODE_INVALID_PARAMETER_VALUE,
                "Argument: since. It begins like a cursor.".into(),
                Some("Pass a cursor as it was returned, a timestamp of RFC 3339, or NULL for the beginning."),
            ),
            Error::NoScope => (
                ERRCODE_INSUFFICIENT_PRIVILEGE,
                "Argument: user_id.".into(),
                Some("Pass user_id, or call mana_sync.with_scope(user_id) earlier in the transaction."),
            ),
            Error::OtherUser => (
                ERRCODE_INSUFFICIENT_PRIVILEGE,
                "Argument: user_id. The scope of this transaction is another user's.".into(),
                Some("mana_sync.with_scope replaces the scope."),
            ),
            Error::NotMember => (
                ERRCODE_INSUFFICIENT_PRIVILEGE,
                "Argument: space_id. It is not among the spaces of the call, or of the scope.".into(),
                None,
            ),
            Error::UnknownMemberships => (
                ERRCODE_INSUFFICIENT_PRIVILEGE,
                "Argument: space_id. mana_sync.strict_spaces is on, and neither the call nor the scope has spaces."
                    .into(),
                Some("Pass the user's spaces in space_ids."),
            ),
            Error::Future => (
                ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "Argument: since. It names transactions that this server has not begun: the server went back in time."
                    .into(),
                Some("Pull from the beginning, with since NULL."),
            ),
            Error::Subscriber => (
                ERRCODE_FEATURE_NOT_SUPPORTED,
                "Its rows are of transactions of another server: no snapshot of this one tells which of them have been seen."
                    .into(),
                Some("Pull from the publisher; after the switchover drop the subscription, and pull here."),
            ),
            Error::NoHistoryFile(timeline) => (
                ERRCODE_UNDEFINED_FILE,
                format!("Without {timeline:08X}.history in pg_wal this server cannot tell which history its log is on."),
                Some("Copy the file into pg_wal from another server of this history, or from the archive."),
            ),
            Error::NoRun => (ERRCODE_INVALID_PARAMETER_VALUE, "Argument: run.".into(), None),
            Error::FixedSnapshot => (
                ERRCODE_ACTIVE_SQL_TRANSACTION,
                "The transaction does not see what has been committed since it began.".into(),
                Some("SET TRANSACTION ISOLATION LEVEL READ COMMITTED"),
            ),
            Error::RowsChanged => {
                (ERRCODE_T_R_SERIALIZATION_FAILURE, "Nothing was changed by this call.".into(), Some("Call it again."))
            }
            Error::HiddenRows => (
                ERRCODE_INSUFFICIENT_PRIVILEGE,
                "Maintenance acts as the owner, and would overlook the rows that are hidden from it.".into(),
                Some("Let a superuser own the table, or give its owner BYPASSRLS."),
            ),
            Error::Purged => (
                ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "Argument: since. It is older than a purge: records that were deleted meanwhile are not told any more."
                    .into(),
                Some("Discard what was synced before, and pull from the beginning, with since NULL."),
            ),
            Error::PurgedMeanwhile => (
                ERRCODE_T_R_SERIALIZATION_FAILURE,
                "Argument: changeset. Nothing of it was recorded.".into(),
                Some("Try again: the answer will be that a resync is required."),
            ),
            Error::Installation(_) => {
                (ERRCODE_INTERNAL_ERROR, "The library does not find what its install script creates.".into(), None)
            }
            Error::NoTrigger => (ERRCODE_FEATURE_NOT_SUPPORTED, "It is not called by itself.".into(), None),
            Error::NoAggregate => (ERRCODE_FEATURE_NOT_SUPPORTED, "It is part of mana_sync.merge_changes.".into(), None),
            Error::NoSet => (ERRCODE_FEATURE_NOT_SUPPORTED, "Call it in FROM.".into(), None),
        }
    }
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> ErrorReport {
        let (code, detail, hint) = error.code_detail_hint();
        let report = ErrorReport::new(code, error.to_string(), "mana_sync").set_detail(detail);
        match hint {
            Some(hint) => report.set_hint(hint),
            None => report,
        }
    }
}
