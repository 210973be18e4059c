//! The words in which the backends differ, and the few sentences made of them.

/// How a list of values gets into a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lists {
    /// As one array.
    Arrays,
    /// As one text of JSON.
    Json,
    /// Integers as words of the text, texts as one bind each: MariaDB reads a whole table where an UPDATE
    /// or DELETE takes its list from a subquery. Bound tables are JSON here too.
    Words,
}

/// The words in which the backends differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// The database's clock in microseconds.
    pub now: &'static str,
    /// The same as a value that is computed once for a statement: only up to such a one an index can be read.
    pub moment: &'static str,
    /// Larger of two values.
    pub greatest: &'static str,
    /// Smaller of two values.
    pub least: &'static str,
    /// Locks the rows of a `SELECT`, passing over those that others hold.
    pub skip_locked: &'static str,
    /// Locks the rows of a `SELECT`, waiting for those that others hold.
    pub for_update: &'static str,
    /// Whether the column `kind` holds what no kind can be called.
    pub bad_kind: &'static str,
    /// How lists are written.
    pub lists: Lists,
    /// Whether `WITH x AS (DELETE … RETURNING …) INSERT …` exists.
    pub has_writing_cte: bool,
    /// Whether a write gives rows back (`queries::change` does without).
    pub has_returning: bool,
    /// Whether `INSERT … ON CONFLICT` exists; elsewhere `ON DUPLICATE KEY UPDATE`.
    pub has_on_conflict: bool,
    /// Joins two tables in the order they are written in.
    pub cross_join: &'static str,
}

impl Dialect {
    /// Behind the name of a table: only by this index. MariaDB would rather read a small table as a whole, and
    /// waits then for every row that others hold. On PostgreSQL the session says so (`postgres.rs`), and SQLite looks
    /// a key up in any case.
    pub fn by(&self, index: &str) -> String {
        if self.lists == Lists::Words { format!("FORCE INDEX ({index})") } else { String::new() }
    }

    /// The beginning of a `DELETE` by the primary key: there, a hint stands only behind `USING`.
    pub fn delete_by_key(&self, table: &str) -> String {
        match self.lists {
            Lists::Words => format!("DELETE FROM {table} USING {table} {}", self.by("PRIMARY")),
            _ => format!("DELETE FROM {table}"),
        }
    }

    /// The end of an `INSERT INTO table` that leaves a row alone that is there. Not `INSERT IGNORE`, which
    /// hides other errors too. How many rows it says it touched differs: never read that.
    pub fn or_nothing(&self, table: &str, column: &str) -> String {
        match self.has_on_conflict {
            true => "ON CONFLICT DO NOTHING".into(),
            false => format!("ON DUPLICATE KEY UPDATE {column} = {table}.{column}"),
        }
    }

    /// The end of an `INSERT` that overwrites these columns of the row that has this key.
    pub fn or_update(&self, key: &str, columns: &[&str]) -> String {
        let list = |new: fn(&str) -> String| {
            columns.iter().map(|column| format!("{column} = {}", new(column))).collect::<Vec<_>>().join(", ")
        };
        match self.has_on_conflict {
            true => format!("ON CONFLICT ({key}) DO UPDATE SET {}", list(|column| format!("excluded.{column}"))),
            false => format!("ON DUPLICATE KEY UPDATE {}", list(|column| format!("VALUES({column})"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static ON_CONFLICT: Dialect = Dialect {
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
    static ON_DUPLICATE: Dialect = Dialect { has_on_conflict: false, ..ON_CONFLICT };

    #[test]
    fn an_index_is_named_only_where_the_planner_asks_for_it() {
        let words = Dialect { lists: Lists::Words, ..ON_DUPLICATE };
        assert_eq!(words.by("PRIMARY"), "FORCE INDEX (PRIMARY)");
        assert_eq!(words.delete_by_key("t"), "DELETE FROM t USING t FORCE INDEX (PRIMARY)");
        assert_eq!(
            (ON_CONFLICT.by("PRIMARY").as_str(), ON_CONFLICT.delete_by_key("t").as_str()),
            ("", "DELETE FROM t")
        );
    }

    #[test]
    fn what_an_insert_does_about_a_row_that_is_there() {
        assert_eq!(ON_CONFLICT.or_nothing("t", "a"), "ON CONFLICT DO NOTHING");
        assert_eq!(ON_DUPLICATE.or_nothing("t", "a"), "ON DUPLICATE KEY UPDATE a = t.a");
        assert_eq!(
            ON_CONFLICT.or_update("k", &["a", "b"]),
            "ON CONFLICT (k) DO UPDATE SET a = excluded.a, b = excluded.b"
        );
        assert_eq!(ON_DUPLICATE.or_update("k", &["a", "b"]), "ON DUPLICATE KEY UPDATE a = VALUES(a), b = VALUES(b)");
    }
}
