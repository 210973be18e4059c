//! A thin layer between the shared SQL and diesel's connections.
//!
//! Decision: the statements of the protocol are plain SQL text, written once, with values bound through
//! diesel; only the words in which the backends differ come from a [`Dialect`]. Weighed against diesel's
//! query builder: its types for `FOR UPDATE SKIP LOCKED`, `RETURNING`, CTEs and upserts differ per
//! backend, so each hot statement would be written and compiled three times, and `MultiConnection`
//! cannot express them at all. Price: columns are read by position, so every `SELECT` names its columns
//! next to the code that reads them, and the conformance suite runs every statement on every backend.

use diesel::backend::Backend;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::{Error, QueryResult};
use diesel::sql_types::Untyped;

pub use super::dialect::{Dialect, Lists};

/// A value that is bound to a statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Bind {
    /// Any integer.
    Int(Option<i64>),
    /// Text.
    Text(Option<String>),
    /// Bytes.
    Bytes(Option<Vec<u8>>),
    /// An array of integers (see [`Lists`]).
    Ints(Vec<Option<i64>>),
    /// An array of texts (see [`Lists`]).
    Texts(Vec<Option<String>>),
}

impl Bind {
    /// About how many bytes it is on its way.
    pub fn size(&self) -> usize {
        const LENGTH: usize = 9;
        match self {
            Self::Int(_) => LENGTH,
            Self::Text(text) => LENGTH + text.as_ref().map_or(0, String::len),
            Self::Bytes(bytes) => LENGTH + bytes.as_ref().map_or(0, Vec::len),
            Self::Ints(list) => LENGTH * (1 + list.len()),
            Self::Texts(list) => list.iter().flatten().map(|text| LENGTH + text.len()).sum::<usize>() + LENGTH,
        }
    }
}

/// A value that came back.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// Any integer or boolean.
    Int(i64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// One row, read from left to right.
#[derive(Debug, Clone)]
pub struct Row {
    values: std::vec::IntoIter<Value>,
}

impl Row {
    /// From its values.
    pub fn new(values: Vec<Value>) -> Self {
        Self { values: values.into_iter() }
    }

    /// Of one integer.
    pub fn of_int(value: i64) -> Self {
        Self::new(vec![Value::Int(value)])
    }

    fn next(&mut self) -> Value {
        self.values.next().unwrap_or(Value::Null)
    }

    /// The next column as an integer; NULL is `None`.
    pub fn opt_int(&mut self) -> Option<i64> {
        match self.next() {
            Value::Int(n) => Some(n),
            Value::Text(t) => t.parse().ok(),
            Value::Bytes(b) => std::str::from_utf8(&b).ok()?.parse().ok(),
            Value::Null => None,
        }
    }

    /// The next column as an integer; NULL is 0.
    pub fn int(&mut self) -> i64 {
        self.opt_int().unwrap_or(0)
    }

    /// The next column as a small count.
    pub fn count(&mut self) -> u32 {
        u32::try_from(self.int()).unwrap_or(0)
    }

    /// The next column as a truth value.
    pub fn flag(&mut self) -> bool {
        self.int() != 0
    }

    /// The next column as text; NULL is `None`.
    pub fn opt_text(&mut self) -> Option<String> {
        match self.next() {
            Value::Text(t) => Some(t),
            Value::Int(n) => Some(n.to_string()),
            Value::Bytes(b) => Some(String::from_utf8_lossy(&b).into_owned()),
            Value::Null => None,
        }
    }

    /// The next column as text; NULL is empty.
    pub fn text(&mut self) -> String {
        self.opt_text().unwrap_or_default()
    }

    /// The next column as bytes; NULL is empty.
    pub fn bytes(&mut self) -> Vec<u8> {
        match self.next() {
            Value::Bytes(b) => b,
            Value::Text(t) => t.into_bytes(),
            _ => Vec::new(),
        }
    }
}

/// Marks a statement whose text varies with its values, and which is therefore not kept prepared. As a
/// comment in the text it also tells why a server's log is full of look-alikes.
const VARIES: &str = "/* list */";

/// Type of a column of a bound table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// Integers.
    Int,
    /// Texts.
    Text,
}

/// A statement being written: its text refers to `$1`, `$2`, … and its values lie beside it.
#[derive(Debug, Clone)]
pub struct Stmt {
    dialect: &'static Dialect,
    binds: Vec<Bind>,
}

impl Stmt {
    /// An empty one.
    pub fn new(dialect: &'static Dialect) -> Self {
        Self { dialect, binds: Vec::new() }
    }

    fn push(&mut self, bind: Bind) -> String {
        self.binds.push(bind);
        format!("${}", self.binds.len())
    }

    /// Binds an integer.
    pub fn int(&mut self, value: impl Into<i64>) -> String {
        self.push(Bind::Int(Some(value.into())))
    }

    /// Binds an integer or NULL.
    pub fn opt_int(&mut self, value: Option<i64>) -> String {
        self.push(Bind::Int(value))
    }

    /// Binds a text.
    pub fn text(&mut self, value: impl Into<String>) -> String {
        self.opt_text(Some(value.into()))
    }

    /// Binds a text or NULL. PostgreSQL cannot store U+0000, and SQLite's own functions stop at it: what a
    /// program printed must not make its end unwritable.
    pub fn opt_text(&mut self, value: Option<String>) -> String {
        self.push(Bind::Text(value.map(|text| if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text })))
    }

    /// Binds bytes.
    pub fn bytes(&mut self, value: Vec<u8>) -> String {
        self.push(Bind::Bytes(Some(value)))
    }

    /// `IN` a list of integers.
    pub fn in_ints(&mut self, list: impl IntoIterator<Item = i64>) -> String {
        let list: Vec<i64> = list.into_iter().collect();
        match self.dialect.lists {
            Lists::Arrays => {
                let at = self.push(Bind::Ints(list.into_iter().map(Some).collect()));
                format!("= ANY({at})")
            }
            Lists::Json => self.in_json(&list),
            Lists::Words => in_words(list.iter().map(i64::to_string)),
        }
    }

    /// `IN` a list of texts.
    pub fn in_texts<'a>(&mut self, list: impl IntoIterator<Item = &'a str>) -> String {
        let list: Vec<&str> = list.into_iter().collect();
        match self.dialect.lists {
            Lists::Arrays => {
                let at = self.push(Bind::Texts(list.into_iter().map(|t| Some(t.to_owned())).collect()));
                format!("= ANY({at})")
            }
            Lists::Json => self.in_json(&list),
            Lists::Words => in_words(list.into_iter().map(|text| self.text(text))),
        }
    }

    fn in_json<T: serde::Serialize>(&mut self, list: &[T]) -> String {
        let at = self.push(Bind::Text(Some(json(&list))));
        format!("IN (SELECT value FROM json_each({at}))")
    }

    /// `column` equal to the result of a `SELECT` of ids that is evaluated exactly once: with plain
    /// `IN` PostgreSQL may repeat a locking subquery and lock more rows than its LIMIT.
    pub fn one_of(&self, select: &str) -> String {
        if self.dialect.lists == Lists::Arrays { format!("= ANY(ARRAY({select}))") } else { format!("IN ({select})") }
    }

    /// A bound table `name(columns)` to be used in FROM.
    pub fn table(&mut self, name: &str, columns: &[(&str, ColumnType)], rows: &[Vec<Bind>]) -> String {
        if self.dialect.lists == Lists::Arrays {
            self.array_table(name, columns, rows)
        } else {
            self.json_table(name, columns, rows)
        }
    }

    fn array_table(&mut self, name: &str, columns: &[(&str, ColumnType)], rows: &[Vec<Bind>]) -> String {
        let mut arrays = Vec::new();
        for (at, (_, kind)) in columns.iter().enumerate() {
            let column = rows.iter().map(|row| &row[at]);
            let bind = match kind {
                ColumnType::Int => Bind::Ints(column.map(as_int).collect()),
                ColumnType::Text => Bind::Texts(column.map(as_text).collect()),
            };
            arrays.push(self.push(bind));
        }
        let names: Vec<_> = columns.iter().map(|(n, _)| *n).collect();
        format!("unnest({}) AS {name}({})", arrays.join(", "), names.join(", "))
    }

    fn json_table(&mut self, name: &str, columns: &[(&str, ColumnType)], rows: &[Vec<Bind>]) -> String {
        let cell = |bind: &Bind| match bind {
            Bind::Int(n) => serde_json::json!(n),
            other => serde_json::json!(as_text(other)),
        };
        let data: Vec<Vec<serde_json::Value>> = rows.iter().map(|row| row.iter().map(cell).collect()).collect();
        let at = self.push(Bind::Text(Some(json(&data))));
        if self.dialect.lists == Lists::Words {
            let word =
                |kind: &ColumnType| if *kind == ColumnType::Int { "BIGINT" } else { "LONGTEXT CHARACTER SET utf8mb4" };
            let columns: Vec<_> =
                columns.iter().enumerate().map(|(i, (n, kind))| format!("{n} {} PATH '$[{i}]'", word(kind))).collect();
            return format!("JSON_TABLE({at}, '$[*]' COLUMNS ({})) AS {name}", columns.join(", "));
        }
        let picks: Vec<_> =
            columns.iter().enumerate().map(|(i, (n, _))| format!("json_extract(value, '$[{i}]') AS {n}")).collect();
        format!("(SELECT {} FROM json_each({at})) AS {name}", picks.join(", "))
    }

    /// The finished statement.
    pub fn sql(self, text: impl Into<String>) -> Sql {
        Sql { text: text.into(), binds: self.binds }
    }
}

/// An empty list holds nothing, not even NULL.
fn in_words(words: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = words.collect();
    let list = if words.is_empty() { "NULL".to_owned() } else { words.join(", ") };
    format!("IN ({list}) {VARIES}")
}

fn as_int(bind: &Bind) -> Option<i64> {
    if let Bind::Int(n) = bind { *n } else { None }
}

fn as_text(bind: &Bind) -> Option<String> {
    if let Bind::Text(t) = bind { t.as_ref().map(|text| text.replace('\0', "\u{fffd}")) } else { None }
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("numbers and texts always serialise")
}

/// A finished statement.
#[derive(Debug, Clone)]
pub struct Sql {
    /// With `$1`, `$2`, ….
    pub text: String,
    /// Their values.
    pub binds: Vec<Bind>,
}

impl Query for Sql {
    type SqlType = Untyped;
}

impl QueryId for Sql {
    type QueryId = ();
    // The text is the identity; diesel then keeps prepared statements by text and bind types.
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Conn> diesel::RunQueryDsl<Conn> for Sql {}

/// How a backend takes one bind.
pub trait PushBind: Backend {
    /// Adds its placeholder and its value to the statement.
    fn push_bind<'b>(out: &mut AstPass<'_, 'b, Self>, bind: &'b Bind) -> QueryResult<()>;
}

impl<DB: PushBind> QueryFragment<DB> for Sql {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        if self.text.contains(VARIES) {
            out.unsafe_to_cache_prepared();
        }
        for (text, bind) in pieces(&self.text) {
            out.push_sql(text);
            if let Some(n) = bind {
                let bind = self.binds.get(n - 1).ok_or_else(|| Error::QueryBuilderError("a bind is missing".into()))?;
                DB::push_bind(&mut out, bind)?;
            }
        }
        Ok(())
    }
}

/// Text up to a `$n`, and n. A bind that stands twice in the text is bound twice, because not every
/// backend can name a bind by its number.
fn pieces(text: &str) -> impl Iterator<Item = (&str, Option<usize>)> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let now = rest?;
        let mark = now.match_indices('$').find(|(at, _)| now[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
        let Some((at, _)) = mark else {
            rest = None;
            return Some((now, None));
        };
        let digits = now[at + 1..].find(|c: char| !c.is_ascii_digit()).unwrap_or(now.len() - at - 1);
        let end = at + 1 + digits;
        rest = Some(&now[end..]);
        Some((&now[..at], now[at + 1..end].parse().ok()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    static JSON: Dialect = Dialect {
        now: "now",
        moment: "now",
        greatest: "max",
        least: "min",
        bad_kind: "0",
        skip_locked: "",
        for_update: "",
        lists: Lists::Json,
        has_writing_cte: false,
        has_returning: true,
        has_on_conflict: true,
        cross_join: "CROSS JOIN",
    };
    static WORDS: Dialect = Dialect { lists: Lists::Words, has_returning: false, has_on_conflict: false, ..JSON };

    #[test]
    fn placeholders_are_found_and_json_paths_are_left_alone() {
        let got: Vec<_> = pieces("a = $1 AND b = $12 AND json_extract(v, '$[0]')").collect();
        assert_eq!(got, [("a = ", Some(1)), (" AND b = ", Some(12)), (" AND json_extract(v, '$[0]')", None)]);
    }

    #[test]
    fn lists_take_one_bind_whatever_their_length() {
        let mut s = Stmt::new(&JSON);
        assert_eq!(s.in_ints([1, 2, 3]), "IN (SELECT value FROM json_each($1))");
        assert_eq!(s.in_texts(["a\"b"]), "IN (SELECT value FROM json_each($2))");
        let sql = s.sql("x");
        assert_eq!(sql.binds[1], Bind::Text(Some("[\"a\\\"b\"]".into())));
    }

    #[test]
    fn lists_in_words_take_their_texts_as_binds_and_mark_the_statement() {
        let mut s = Stmt::new(&WORDS);
        assert_eq!(s.in_ints([1, -2]), "IN (1, -2) /* list */");
        assert_eq!(s.in_ints([]), "IN (NULL) /* list */");
        assert_eq!(s.in_texts(["a'b", "c"]), "IN ($1, $2) /* list */");
        assert_eq!(s.sql("x").binds[0], Bind::Text(Some("a'b".into())));
    }
}
