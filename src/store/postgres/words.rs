//! What a server is set to that changes what its words mean: its language and its encoding.
//!
//! diesel hides the SQLSTATE of most errors, so they are sorted by their text (`super::classify`), and a server may
//! be set to translate it (`lc_messages`). Then a deadlock looked like a broken statement: it was not repeated, and
//! after some tries a task's output was dropped for it. So the session asks for plain English. Not every user may:
//! only a superuser, and from PostgreSQL 15 on whoever was granted it. Where that is refused the server stays
//! [`Words::Foreign`], and an error that nobody can read counts as one that passes: it is tried again, within the
//! bounds of a deadlock, and reported as busy. That is the safe side, because whatever a statement came to inside
//! of a transaction, nothing of it was applied. Rights, missing tables and read-only servers are asked of the
//! catalog, whatever the language; `rekindle doctor` names the one line that mends it.
//!
//! A database that is not UTF-8 is turned away: it cannot keep every name and text, some of them would fail as they
//! are written, and a task's end among them, long after it ran
//! (`hostile::a_database_that_is_not_utf8_is_refused_before_anything_is_written`).
//!
//! Asked once for each place and process, because each costs a trip, and because what is refused stands in the
//! server's log.

use diesel::connection::SimpleConnection;

use super::Postgres;
use crate::store::api::StoreResult;
use crate::store::db::Db;
use crate::store::error::StoreError;
use crate::store::language::Words;
use crate::store::pool::Settings;
use crate::store::sql::{Row, Sql};

/// For a session; behind a pooler it does not last, so each transaction says it (`LOCAL`).
const ASK: &str = "SET lc_messages = 'C'";
const ASK_LOCAL: &str = "; SET LOCAL lc_messages = 'C'";

/// Looks once, and sets every new connection up accordingly.
pub(super) fn settle(db: &mut Postgres, settings: &Settings) -> StoreResult<()> {
    let words = match settings.words.get() {
        Some(words) => words,
        None => {
            let words = look(db, settings)?;
            settings.words.learn(words);
            words
        }
    };
    db.words = words;
    match (words, &mut db.pooled) {
        (Words::Asked, Some(begin)) => begin.push_str(ASK_LOCAL),
        // What a superuser may now, he may not be allowed later: then the next look tells.
        (Words::Asked, None) if db.connection.batch_execute(ASK).is_err() => db.words = Words::Foreign,
        _ => {}
    }
    Ok(())
}

fn look(db: &mut Postgres, settings: &Settings) -> StoreResult<Words> {
    let text = "SELECT current_setting('server_encoding'), current_setting('lc_messages')".to_owned();
    let mut rows = db.query("look at the server", &Sql { text, binds: Vec::new() })?;
    let mut row = rows.pop().unwrap_or_else(|| Row::new(Vec::new()));
    let (encoding, language) = (row.text(), row.text());
    if encoding != "UTF8" {
        return Err(StoreError::Refused(format!(
            "the database at {} is encoded in {encoding}, which cannot keep every text: make one with \
             CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
            settings.place()
        )));
    }
    if is_english(&language) {
        return Ok(Words::English);
    }
    let may_ask = match &db.pooled {
        None => db.connection.batch_execute(ASK).is_ok(),
        Some(begin) => {
            let text = format!("{begin}{ASK_LOCAL}");
            let done = db.connection.batch_execute(&text).is_ok();
            db.rollback();
            done
        }
    };
    Ok(if may_ask { Words::Asked } else { Words::Foreign })
}

/// An empty one is taken from the server's environment, and may be any.
pub(super) fn is_english(lc_messages: &str) -> bool {
    let language = lc_messages.split(['.', '@']).next().unwrap_or_default();
    matches!(language, "C" | "POSIX") || language.split('_').next().is_some_and(|l| l == "en" || l == "English")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_this_program_reads_is_english() {
        for yes in ["C", "POSIX", "C.UTF-8", "en_US.UTF-8", "en_GB", "en_DK.utf8@euro", "English_United States.1252"] {
            assert!(is_english(yes), "{yes}");
        }
        for no in ["", "de_DE.UTF-8", "ca_ES", "fr", "enm_XX", "ja_JP.eucJP", "Chinese_China.936"] {
            assert!(!is_english(no), "{no}");
        }
    }
}
