//! What can go wrong between an engine and its database, sorted by what the caller does next.

use thiserror::Error;

/// A step of the store that could not be done. Nothing was written, except for `Unknown`.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database could not be reached, or the connection broke before anything was sent.
    #[error("cannot reach the database at {place}")]
    Unreachable {
        /// Where, without password.
        place: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The connection broke while a statement was under way: it may or may not have been applied.
    #[error("the outcome of {step} is unknown")]
    Unknown {
        /// What was under way.
        step: &'static str,
        /// Why.
        #[source]
        source: Cause,
    },
    /// A lock, a deadlock or a serialization failure that did not go away: try again later.
    #[error("the database is busy ({step})")]
    Busy {
        /// What was tried.
        step: &'static str,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The schema is not the one this program needs.
    #[error("the schema of the database is {0}")]
    Schema(SchemaProblem),
    /// The server knows the place but does not let this user in: password, role, `pg_hba.conf`.
    #[error("the database at {place} does not let us in")]
    Denied {
        /// Where, without password.
        place: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The user was let in, but lacks rights that an engine needs; asked for before one registers.
    #[error("the database user may not do all that an engine does: it lacks {missing}")]
    Rights {
        /// Such as `DELETE on task, UPDATE on resource`.
        missing: String,
        /// The server's words for the first of them.
        #[source]
        source: Cause,
    },
    /// A right is missing, of the user or of a file.
    #[error("the database does not permit it ({step})")]
    Forbidden {
        /// What was tried.
        step: &'static str,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The database takes no writes: a standby, or one that was set so. That may end without anybody's help here.
    #[error("the database refuses to write ({step})")]
    ReadOnly {
        /// What was tried.
        step: &'static str,
        /// Why.
        #[source]
        source: Cause,
    },
    /// No space is left.
    #[error("the database's disk is full ({step})")]
    Full {
        /// What was tried.
        step: &'static str,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The database at this place is not the one the engine knew, or may not be used.
    #[error("{0}")]
    Refused(String),
    /// Everything else: a broken statement, corrupt data. Loud, and not repeated.
    #[error("the database refused {step}")]
    Broken {
        /// What was tried.
        step: &'static str,
        /// Why.
        #[source]
        source: Cause,
    },
}

/// What mends [`StoreError::Rights`].
pub const GRANT: &str =
    "on the server: GRANT SELECT, INSERT, UPDATE, DELETE on all tables of this database to the user of the engine";

/// How the schema does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SchemaProblem {
    /// Nothing there yet.
    #[error("missing: no migration was run")]
    Missing,
    /// Migrations are pending.
    #[error("older than this program: {0} pending")]
    Older(String),
    /// A later program has migrated it.
    #[error("newer than this program: {0} is not known here")]
    Newer(String),
}

/// The driver's words.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Cause(pub String);

impl StoreError {
    /// Whether the same step may succeed a little later without anybody's help.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Unknown { .. } | Self::Busy { .. })
    }

    /// The message and all its causes in one line.
    pub fn chain(&self) -> String {
        use std::error::Error as _;
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}
