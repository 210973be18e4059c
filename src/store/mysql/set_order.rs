//! Finds an UPDATE whose meaning hangs on the order of its assignments.
//!
//! PostgreSQL and SQLite read the old row in every expression; MariaDB and MySQL read what the assignments
//! further left have written. The shared statements must mean the same everywhere, so none of their
//! expressions may read a column that another assignment further left changes. Asked of every statement
//! where assertions are on, hence of all that the tests run.

/// The column that is read after it was changed.
pub fn depends(text: &str) -> Option<String> {
    let set = text.strip_prefix("UPDATE ")?.split_once(" SET ")?.1;
    let mut changed: Vec<&str> = Vec::new();
    for assignment in assignments(set) {
        let (column, value) = assignment.split_once('=')?;
        if let Some(read) = outer_words(value).into_iter().find(|word| changed.contains(&word.as_str())) {
            return Some(read);
        }
        changed.push(column.trim());
    }
    None
}

/// Up to the WHERE that belongs to the UPDATE, cut at the commas outside of brackets.
fn assignments(set: &str) -> Vec<&str> {
    let (mut depth, mut from, mut out) = (0_i32, 0, Vec::new());
    for (at, c) in set.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                out.push(&set[from..at]);
                from = at + 1;
            }
            _ if depth == 0 && set[at..].starts_with(" WHERE ") => {
                out.push(&set[from..at]);
                return out;
            }
            _ => {}
        }
    }
    out.push(&set[from..]);
    out
}

/// Words outside of subqueries: those have tables of their own, and may use the same names.
fn outer_words(value: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let (mut brackets, mut quoted) = (Vec::new(), false);
    for (at, c) in value.char_indices() {
        match c {
            '\'' => quoted = !quoted,
            _ if quoted => {}
            '(' => brackets.push(value[at + 1..].trim_start().starts_with("SELECT ")),
            ')' => drop(brackets.pop()),
            _ if brackets.contains(&true) => {}
            _ if c.is_ascii_alphanumeric() || c == '_' => out.last_mut().expect("it is never empty").push(c),
            _ => out.push(String::new()),
        }
        if matches!(c, '(' | ')') {
            out.push(String::new());
        }
    }
    out.retain(|word| !word.is_empty());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_that_reads_a_changed_column_is_found() {
        assert_eq!(depends("UPDATE t SET a = 1, b = a + 1 WHERE id = 2").as_deref(), Some("a"));
        assert_eq!(
            depends("UPDATE t SET owner = NULL, token = GREATEST(token, COALESCE(owner, 0))"),
            Some("owner".into())
        );
    }

    #[test]
    fn its_own_column_and_those_of_a_subquery_may_be_read() {
        for text in [
            "UPDATE t SET a = a + 1, b = GREATEST(b, 3) WHERE a = 1 AND b = 2",
            "UPDATE t SET epoch = 2, token = GREATEST(token, (SELECT epoch * 4 FROM meta WHERE one = 1)) + 1 WHERE id = 1",
            "UPDATE t SET a = 'b, c', b = 'a'",
            "DELETE FROM t WHERE a = 1",
        ] {
            assert_eq!(depends(text), None, "{text}");
        }
    }
}
