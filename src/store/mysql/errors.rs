//! What an error means for the caller. Sorted by its text, which is English because the session asks for it:
//! diesel shows neither number nor state.

use diesel::result::{DatabaseErrorKind, Error};

use crate::store::error::{Cause, SchemaProblem, StoreError};
use crate::store::pool::Settings;

/// The session is gone: what was under way may or may not have been done.
const LOST: [&str; 12] = [
    "Lost connection",
    "gone away",
    "Connection was killed",
    "Server shutdown in progress",
    "shutdown in progress",
    "Broken pipe",
    "disconnected by the server because of inactivity",
    "Got an error reading communication packets",
    "Got timeout reading communication packets",
    "Malformed communication packet",
    "Commands out of sync",
    "Packets out of order",
];
/// A node of Galera that left its cluster: it has done nothing, and another one will.
const APART: [&str; 1] = ["WSREP has not yet prepared node"];
const BUSY: [&str; 9] = [
    "Deadlock found",
    "WSREP detected deadlock",
    "Lock wait timeout exceeded",
    "max_statement_time exceeded",
    "maximum statement execution time exceeded",
    "Query execution was interrupted",
    "Record has changed since last read",
    "max_prepared_stmt_count",
    "try restarting transaction",
];
const READ_ONLY: [&str; 3] = ["read-only", "read only", "read_only"];
const FORBIDDEN: [&str; 2] = ["command denied to user", "Access denied"];
const FULL: [&str; 4] = ["Disk full", "is full", "No space left on device", "Got error 28"];

/// Sorts what a statement came to.
pub fn classify(step: &'static str, place: &str, error: &Error) -> StoreError {
    let text = error.to_string();
    let source = Cause(one_line(&text));
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    match error {
        Error::DatabaseError(DatabaseErrorKind::SerializationFailure, _) => StoreError::Busy { step, source },
        _ if has(&BUSY) => StoreError::Busy { step, source },
        Error::DatabaseError(DatabaseErrorKind::ClosedConnection, _) => StoreError::Unknown { step, source },
        _ if has(&LOST) => StoreError::Unknown { step, source },
        Error::BrokenTransactionManager => StoreError::Unreachable { place: place.to_owned(), source },
        _ if has(&APART) => StoreError::Unreachable { place: place.to_owned(), source },
        Error::DatabaseError(DatabaseErrorKind::ReadOnlyTransaction, _) => StoreError::ReadOnly { step, source },
        _ if has(&READ_ONLY) => StoreError::ReadOnly { step, source },
        _ if has(&FORBIDDEN) => StoreError::Forbidden { step, source },
        _ if has(&FULL) => StoreError::Full { step, source },
        _ if text.contains("Table '") && text.contains("doesn't exist") => StoreError::Schema(SchemaProblem::Missing),
        _ if has(&["BINLOG_FORMAT = STATEMENT"]) => StoreError::Refused(
            "the server logs statements, which tear rows that are passed over: set binlog_format = ROW or MIXED".into(),
        ),
        _ => StoreError::Broken { step, source },
    }
}

/// Sorts why connecting failed.
pub fn sort_connect(settings: &Settings, text: &str) -> StoreError {
    let source = Cause(settings.redact(&one_line(text)));
    // The client's own words name the host or the socket that was asked, which may hold any.
    let has = |parts: &[&str]| !text.contains("Can't connect to") && parts.iter().any(|part| text.contains(part));
    if has(&["Unknown database"]) {
        return StoreError::Refused(format!("there is no such database at {}: {source}", settings.place()));
    }
    if has(&["Access denied", "is not allowed to connect", "is blocked", "Plugin ", "plugin "]) {
        return StoreError::Denied { place: settings.place(), source };
    }
    StoreError::Unreachable { place: settings.place(), source }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(text: &str) -> StoreError {
        classify("a test", "there", &Error::DatabaseError(DatabaseErrorKind::Unknown, Box::new(text.to_owned())))
    }

    #[test]
    fn errors_are_sorted_by_their_text() {
        for text in ["Lost connection to server during query", "Server has gone away", "Connection was killed"] {
            assert!(matches!(sorted(text), StoreError::Unknown { .. }), "{text}");
        }
        for text in [
            "Lock wait timeout exceeded; try restarting transaction",
            "Deadlock found when trying to get lock; try restarting transaction",
            "Query execution was interrupted (max_statement_time exceeded)",
        ] {
            assert!(matches!(sorted(text), StoreError::Busy { .. }), "{text}");
        }
        for text in [
            "The MariaDB server is running with the --read-only option so it cannot execute this statement",
            "Table 't' is read only",
        ] {
            assert!(matches!(sorted(text), StoreError::ReadOnly { .. }), "{text}");
        }
        let forbidden = "UPDATE command denied to user 'u'@'h' for table 'task'";
        assert!(matches!(sorted(forbidden), StoreError::Forbidden { .. }));
        for text in ["The table 'task' is full", "Disk full (/tmp/x); waiting for someone to free some space"] {
            assert!(matches!(sorted(text), StoreError::Full { .. }), "{text}");
        }
        assert!(matches!(sorted("Table 'd.meta' doesn't exist"), StoreError::Schema(SchemaProblem::Missing)));
        let apart = "WSREP has not yet prepared node for application use";
        assert!(matches!(sorted(apart), StoreError::Unreachable { .. }));
        assert!(matches!(sorted("You have an error in your SQL syntax"), StoreError::Broken { .. }));
    }

    #[test]
    fn a_refused_login_is_told_from_a_server_that_is_away() {
        let url = crate::config::DatabaseUrl::parse("mysql://u:geheim@h/d").unwrap();
        let sort = |text| sort_connect(&Settings::new(url.clone()), text);
        assert!(matches!(sort("Access denied for user 'u'@'h' (using password: YES)"), StoreError::Denied { .. }));
        assert!(matches!(sort("Unknown database 'd'"), StoreError::Refused(_)));
        assert!(matches!(sort("Can't connect to server on 'h' (111)"), StoreError::Unreachable { .. }));
        let socket = "Can't connect to local server through socket '/Access denied/plugin s' (2)";
        assert!(matches!(sort(socket), StoreError::Unreachable { .. }));
        assert!(matches!(sort("Too many connections"), StoreError::Unreachable { .. }));
    }
}
