//! PostgreSQL behind a pooler that gives each transaction another session (pgbouncer in transaction mode and
//! its kin): how it is recognised, and what is different there.
//!
//! What a session keeps does not hold there: a setting would leak to other clients and not come back to us, a
//! prepared statement would be missing or another's, LISTEN would listen for somebody else, and a session's
//! lock would stay with a stranger. So every step is one transaction that brings its timeouts along
//! (`SET LOCAL`, in the same message as BEGIN), no statement is prepared by name, migrations lock for their
//! transaction, and who waits for work polls. That costs a step that is a single statement two more trips.
//!
//! Decision: it is recognised, not configured. A key that says so would be forgotten, and the errors that
//! follow would blame prepared statements. Each connection asks its server at the start to set a variable that
//! means nothing; only a session that was made for this very connection can have it. pgbouncer refuses the
//! wish (`unsupported startup parameter`), others ignore it; in both cases the variable is missing. A pooler in
//! session mode may be taken for one in transaction mode, which costs the two trips and nothing else. Price:
//! where a pooler refuses, the first connection of a process is made twice.
//!
//! A step whose COMMIT was not answered is as unknown as without a pooler. When a client goes away in a
//! transaction, the pooler closes the server's connection, which rolls back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::pool::Settings;

/// The variable that means nothing.
const MARK: &str = "rekindle.direct";

/// Whether a place was found to be a pooler. Clones of a place share what was learnt.
#[derive(Debug, Clone, Default)]
pub struct Pooler(Arc<AtomicBool>);

impl Pooler {
    /// Whether it was found so.
    pub fn is_known(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Remembers it; a pooler that is taken away later leaves us slower, not wrong.
    pub fn learn(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The URL with the wish to set the mark; what it sets already stays.
pub fn marked(url: &str) -> String {
    let wish = format!("-c%20{}%3D1", MARK);
    let mut at = url.find('?').map_or(url.len(), |at| at + 1);
    for parameter in url[at..].split('&') {
        if parameter.starts_with("options=") {
            let (before, after) = url.split_at(at + parameter.len());
            return format!("{before}%20{wish}{after}");
        }
        at += parameter.len() + 1;
    }
    format!("{url}{}options={wish}", if url.contains('?') { '&' } else { '?' })
}

/// Fails where the mark is missing.
pub fn show_mark() -> String {
    format!("SHOW {MARK}")
}

/// Whether connecting failed because somebody does not pass the wish on.
pub fn refuses_mark(error: &str) -> bool {
    error.contains("startup parameter")
}

/// Whether setting the session up failed because the mark is missing, in whatever language.
pub fn misses_mark(error: &str) -> bool {
    error.contains(MARK)
}

/// Begins a transaction that is ended for us if we fall silent, whatever server session it is given.
pub fn begin(settings: &Settings) -> String {
    let (statement, idle) = (settings.statement_timeout.as_millis(), settings.idle_timeout.as_millis());
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = {statement}; SET LOCAL lock_timeout = {statement}; \
         SET LOCAL idle_in_transaction_session_timeout = {idle}; SET LOCAL synchronous_commit = on"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wish_goes_along_with_what_the_url_sets() {
        let wish = "-c%20rekindle.direct%3D1";
        assert_eq!(marked("postgres://h/d"), format!("postgres://h/d?options={wish}"));
        assert_eq!(marked("postgres://h/d?a=1"), format!("postgres://h/d?a=1&options={wish}"));
        let with = marked("postgres://h/d?a=1&options=-c%20x%3D1&b=2");
        assert_eq!(with, format!("postgres://h/d?a=1&options=-c%20x%3D1%20{wish}&b=2"));
    }

    #[test]
    fn what_a_place_is_was_learnt_for_all_its_clones() {
        let pooler = Pooler::default();
        pooler.clone().learn();
        assert!(pooler.is_known() && !Pooler::default().is_known());
    }
}
