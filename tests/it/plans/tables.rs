//! Tables that are as large as a backlog, and what the database knows of them.

use rekindle::store::db::Db;
use rekindle::store::sql::Sql;

/// What the database believes of its tables. What lies in them then is another thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// Nobody has looked.
    Never,
    /// Somebody looked when all tasks were ready.
    AllReady,
    /// When all ran.
    AllRunning,
    /// When there was none.
    Empty,
    /// When all were ready and the archive was large.
    Archived,
}

impl Looked {
    pub const ALL: [Self; 5] = [Self::Never, Self::AllReady, Self::AllRunning, Self::Empty, Self::Archived];
}

/// Tasks, of which each other one names a resource.
pub const TASKS: usize = 100_000;

const RESOURCES: usize = 30_000;

const ARCHIVED: usize = 300_000;

const ATTEMPTS: usize = 20_000;

/// How a backend says what is needed here.
pub struct Words {
    /// A table `s(n)` of the numbers up to `{n}`.
    pub series: &'static str,
    /// The text of `n`.
    pub text: &'static str,
    /// Lets the database look.
    pub analyse: &'static [&'static str],
    /// Keeps it from looking by itself.
    pub leave_alone: &'static [&'static str],
}

pub const TABLES: [&str; 6] = ["task", "task_resource", "resource", "task_archive", "attempt", "engine"];

/// Fills the tables so that this is what the database knows.
pub fn fill(db: &mut dyn Db, words: &Words, looked: Looked) {
    for text in words.leave_alone {
        say(db, text);
    }
    match looked {
        Looked::Never => add(db, words),
        Looked::AllReady => {
            add(db, words);
            analyse(db, words);
        }
        Looked::AllRunning => {
            add(db, words);
            set_state(db, "state = 3, owner = 77, nonce = id, claimed_at = id");
            analyse(db, words);
            set_state(db, "state = 0, owner = NULL, nonce = NULL");
        }
        Looked::Empty => {
            analyse(db, words);
            add(db, words);
        }
        Looked::Archived => {
            add(db, words);
            archive(db, words, ARCHIVED);
            analyse(db, words);
        }
    }
}

fn add(db: &mut dyn Db, words: &Words) {
    let (tasks, text) = (series(words, TASKS), words.text);
    say(
        db,
        &format!(
            "INSERT INTO task (id, kind, state, keyed, priority, created_at, payload) \
             SELECT n, 'mail', 0, n % 2, 0, 1700000000000000 + n, 'p' FROM {tasks}"
        ),
    );
    let name = text.replace("{n}", &format!("n % {RESOURCES}"));
    say(
        db,
        &format!(
            "INSERT INTO task_resource (task, resource, in_line) SELECT n, {name}, 1 FROM {tasks} WHERE n % 2 = 1"
        ),
    );
    for table in [
        "attempt (task, attempt, engine, incarnation, token, nonce, started_at, ended_at, result)",
        "attempt_output (task, attempt, dropped, output)",
    ] {
        let values = if table.starts_with("attempt_output") { "n, 1, 0, 'o'" } else { "n, 1, 'e', 7, 1, 0, n, n, 6" };
        let attempts = series(words, ATTEMPTS);
        say(db, &format!("INSERT INTO {table} SELECT {values} FROM {attempts}"));
    }
    archive(db, words, ATTEMPTS);
    let resources = series(words, RESOURCES);
    say(db, &format!("INSERT INTO resource (name) SELECT {name} FROM {resources}"));
}

fn archive(db: &mut dyn Db, words: &Words, count: usize) {
    let old = series(words, count);
    say(
        db,
        &format!(
            "INSERT INTO task_archive (id, kind, state, priority, reason, attempt, failures, lost, result, token, ended_at, \
             created_at, payload) SELECT n + 1000000 + {count}, 'mail', 7, 0, 0, 1, 0, 0, 0, 1, n, n, 'p' FROM {old}"
        ),
    );
}

fn set_state(db: &mut dyn Db, set: &str) {
    say(db, &format!("UPDATE task SET {set}"));
}

fn series(words: &Words, n: usize) -> String {
    words.series.replace("{n}", &n.to_string())
}

fn analyse(db: &mut dyn Db, words: &Words) {
    for text in words.analyse {
        // MariaDB answers with rows.
        db.query("a test", &sql(text)).unwrap_or_else(|e| panic!("{text}: {e:?}"));
    }
}

fn say(db: &mut dyn Db, text: &str) {
    db.execute("a test", &sql(text)).unwrap_or_else(|e| panic!("{text}: {e:?}"));
}

fn sql(text: &str) -> Sql {
    Sql { text: text.to_owned(), binds: Vec::new() }
}
