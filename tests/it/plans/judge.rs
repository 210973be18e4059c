//! Whether a plan goes by the index that a statement has.

use rekindle::store::sql::Row;
use serde_json::Value;

/// Tables that grow with the backlog, the resources or the history, by their names and by the names that our
/// statements give them.
const LARGE: [&str; 12] =
    ["task", "task_resource", "resource", "task_archive", "attempt", "attempt_output", "t", "tr", "r", "w", "a", "o"];

/// First columns of the indexes of large tables.
const LEADING: [(&str, &str); 20] = [
    ("task_pkey", "id"),
    ("task_ready", "kind"),
    ("task_alone", "kind"),
    ("task_barred", "id"),
    ("task_due", "due_at"),
    ("task_owner", "owner"),
    ("task_wish", "owner"),
    ("task_blocked", "id"),
    ("task_aside", "state"),
    ("task_unique", "unique_key"),
    ("task_resource_pkey", "task"),
    ("task_resource_line", "resource"),
    ("resource_pkey", "name"),
    ("resource_owner", "owner"),
    ("task_archive_pkey", "id"),
    ("task_archive_ended", "ended_at"),
    ("attempt_pkey", "task"),
    ("attempt_ended", "ended_at"),
    ("attempt_output_pkey", "task"),
    ("PRIMARY", "id"),
];

/// What is wrong with a plan of PostgreSQL: tables and indexes that are read as a whole.
pub fn postgres(rows: Vec<Row>) -> Vec<String> {
    let text: String = rows.into_iter().map(|mut row| row.text()).collect();
    let plan: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    let mut wrong = Vec::new();
    node(&plan[0]["Plan"], &mut wrong);
    wrong
}

fn node(at: &Value, wrong: &mut Vec<String>) {
    let word = |key: &str| at[key].as_str().unwrap_or_default();
    match word("Node Type") {
        "Seq Scan" if LARGE.contains(&word("Relation Name")) => wrong.push(word("Relation Name").to_owned()),
        "Index Scan" | "Index Only Scan" | "Bitmap Index Scan" => {
            let (index, cond) = (word("Index Name"), word("Index Cond"));
            let leading = LEADING.iter().find(|(name, _)| *name == index).map(|(_, column)| *column);
            // A condition on another column alone reads the index from its beginning to its end.
            if leading.is_some_and(|column| !mentions(cond, column)) {
                wrong.push(index.to_owned());
            }
        }
        "Nested Loop" if at["Plans"][1]["Node Type"] == "Function Scan" => wrong.push("a list, row by row".into()),
        "Hash Join" | "Merge Join" => wrong.push(word("Node Type").to_owned()),
        _ => {}
    }
    for below in at["Plans"].as_array().into_iter().flatten() {
        node(below, wrong);
    }
}

fn mentions(cond: &str, column: &str) -> bool {
    cond.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == column)
}

/// A table of so many rows is read as soon as a thousand keys are looked up.
const SMALL: i64 = 20_000;

/// Of MariaDB. A range that is read for more than this is not what the statement is about.
const RANGE_MAX: i64 = 5_000;

pub fn mariadb(rows: Vec<Row>) -> Vec<String> {
    let mut wrong = Vec::new();
    for mut row in rows {
        let values: Vec<String> = (0..8).map(|_| row.text()).collect();
        let (table, how, key) = (values[2].as_str(), values[3].as_str(), &values[5]);
        let (count, extra) = (row.int(), row.text());
        // The target of an INSERT is named as if it were read.
        if !LARGE.contains(&table) || values[1] == "INSERT" {
            continue;
        }
        match how {
            "ALL" if count > SMALL => wrong.push(table.to_owned()),
            "index" => wrong.push(format!("{table} by {key}")),
            // An index that has the order stops at the limit.
            _ if count > RANGE_MAX && (extra.contains("filesort") || extra.contains("temporary")) => {
                wrong.push(format!("{table} by {key}, sorted"));
            }
            _ => {}
        }
        if extra.contains("join buffer") {
            wrong.push(format!("{table} by a join buffer"));
        }
    }
    wrong
}

/// Of SQLite.
pub fn sqlite(rows: Vec<Row>) -> Vec<String> {
    let mut wrong = Vec::new();
    for mut row in rows {
        let detail = {
            for _ in 0..3 {
                row.int();
            }
            row.text()
        };
        let words: Vec<&str> = detail.split(' ').collect();
        match words[..] {
            ["SCAN", table] if LARGE.contains(&table) => wrong.push(table.to_owned()),
            ["SCAN", table, .., index] if LARGE.contains(&table) => wrong.push(index.to_owned()),
            _ if detail.contains("AUTOMATIC") => wrong.push(detail.clone()),
            _ => {}
        }
    }
    wrong
}
