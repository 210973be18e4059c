//! Rows for people and for awk: which columns are shown, in which order the rows stand, and how a cell
//! reads in each.
//!
//! A cell knows its value beside its text: ages sort by their length and not by their letters, and `-o tsv`
//! prints seconds, whole texts and RFC 3339 times where a table shortens them for the eye.

use std::cmp::Ordering;
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement};

use super::error::CliError;
use super::human::{harmless, one_line, rfc3339, seconds};
use crate::config::guess;
use crate::protocol::time::Timestamp;

/// One cell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cell {
    text: String,
    raw: Option<String>,
    key: Option<f64>,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, ..Self::default() }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<&String> for Cell {
    fn from(text: &String) -> Self {
        text.clone().into()
    }
}

impl Cell {
    /// A text that sorts by a number, such as `2/6`.
    pub fn number(text: impl Into<String>, key: f64) -> Self {
        Self { text: text.into(), raw: None, key: Some(key) }
    }

    /// A number that people see with a sign, such as `#12`.
    pub fn id(text: impl Into<String>, id: i64) -> Self {
        Self { text: text.into(), raw: Some(id.to_string()), key: Some(id as f64) }
    }

    /// A count.
    pub fn count(count: u64) -> Self {
        Self::number(count.to_string(), count as f64)
    }

    /// A span; seconds for programs.
    pub fn span(text: impl Into<String>, span: Duration) -> Self {
        Self { text: text.into(), raw: Some(seconds(span).to_string()), key: Some(span.as_secs_f64()) }
    }

    /// A time; RFC 3339 for programs.
    pub fn time(text: impl Into<String>, time: Timestamp) -> Self {
        Self { text: text.into(), raw: rfc3339(time), key: Some(time.as_us() as f64) }
    }

    /// A text that is shortened for people.
    pub fn short(text: impl Into<String>, whole: impl Into<String>) -> Self {
        Self { text: text.into(), raw: Some(whole.into()), key: None }
    }

    /// Its value, also where it is only a text that reads as a number.
    fn value(&self) -> Option<f64> {
        self.key.or_else(|| self.text.parse().ok())
    }

    fn order(&self, other: &Self) -> Ordering {
        match (self.value(), other.value()) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            // What has no value stands behind what has one.
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => self.text.is_empty().cmp(&other.text.is_empty()).then(self.text.cmp(&other.text)),
        }
    }

    fn tsv(&self) -> String {
        let text = self.raw.as_ref().unwrap_or(&self.text);
        escape(text)
    }
}

/// A value of a tab-separated line: tabs, line ends and backslashes are written as `\t`, `\n`, `\r`, `\\`, other
/// control characters as `\u{1b}`, because they would drive a terminal.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            c if harmless(c) != c => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// ASCII, no borders, two spaces between columns, nothing at line ends.
#[derive(Debug, Clone, Default)]
pub struct Table {
    headers: Vec<&'static str>,
    wide: Vec<bool>,
    right: Vec<usize>,
    is_bare: bool,
    rows: Vec<Vec<Cell>>,
    /// The columns that were asked for; `None`: those of the format.
    chosen: Option<Vec<usize>>,
}

impl Table {
    /// With these headers, in upper case; one that begins with `+` is for `-o wide` and `-o tsv`.
    pub fn new(headers: &[&'static str]) -> Self {
        Self {
            wide: headers.iter().map(|name| name.starts_with('+')).collect(),
            headers: headers.iter().map(|name| name.trim_start_matches('+')).collect(),
            ..Self::default()
        }
    }

    /// Numbers of this column end below each other.
    #[must_use]
    pub fn right(mut self, column: usize) -> Self {
        self.right.push(column);
        self
    }

    /// Never with a first line, where the cells speak for themselves.
    #[must_use]
    pub fn without_headers(mut self) -> Self {
        self.is_bare = true;
        self
    }

    /// Whether it is text in lines, and no table.
    pub fn is_text(&self) -> bool {
        self.headers.iter().all(|name| name.is_empty())
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// One more row; missing cells are empty.
    pub fn row<T: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let mut cells: Vec<Cell> = cells.into_iter().map(Into::into).collect();
        cells.resize(self.headers.len(), Cell::default());
        self.rows.push(cells);
    }

    /// Adds a text to the first cell of each row.
    pub fn mark(&mut self, text: &str) {
        self.rows.iter_mut().filter_map(|row| row.first_mut()).for_each(|cell| cell.text.push_str(text));
    }

    /// Shows these columns, in this order.
    pub fn choose(&mut self, names: &[String]) -> Result<(), CliError> {
        self.chosen = Some(names.iter().map(|name| self.find(name)).collect::<Result<_, _>>()?);
        Ok(())
    }

    fn find(&self, name: &str) -> Result<usize, CliError> {
        let found = self.headers.iter().position(|header| !header.is_empty() && header.eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            if self.is_text() {
                return CliError::usage("this output has no columns");
            }
            let known: Vec<String> = self.headers.iter().map(|header| header.to_lowercase()).collect();
            let hint = guess::hint(name, known.iter().map(String::as_str));
            CliError::usage(format!("there is no column {name:?}{hint}"))
                .cause(format!("columns: {}", known.join(", ")))
        })
    }

    /// The order of the rows by a column: `col`, `-col` or `col:desc`. Rows that are alike keep their order.
    pub fn order(&self, by: &str) -> Result<Vec<usize>, CliError> {
        let (name, is_down) = match (by.strip_prefix('-'), by.split_once(':')) {
            (Some(name), _) => (name, true),
            (None, Some((name, "desc"))) => (name, true),
            (None, Some((name, "asc"))) => (name, false),
            (None, Some((_, word))) => {
                return Err(CliError::usage(format!("rows are sorted asc or desc, not {word:?}")));
            }
            (None, None) => (by, false),
        };
        let column = self.find(name)?;
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.sort_by(|a, b| {
            let order = self.rows[*a][column].order(&self.rows[*b][column]);
            if is_down { order.reverse() } else { order }
        });
        Ok(order)
    }

    /// Puts the rows into this order.
    pub fn arrange(&mut self, order: &[usize]) {
        self.rows = order.iter().map(|at| self.rows[*at].clone()).collect();
    }

    fn visible(&self, is_wide: bool) -> Vec<usize> {
        let fits = |at: &usize| is_wide || !self.wide[*at];
        self.chosen.clone().unwrap_or_else(|| (0..self.headers.len()).filter(fits).collect())
    }

    /// The text, each line with a line feed.
    pub fn render(&self, with_headers: bool) -> String {
        self.render_as(with_headers, false)
    }

    /// The same, with the columns that are for `-o wide`.
    pub fn render_as(&self, with_headers: bool, is_wide: bool) -> String {
        let with_headers = with_headers && !self.is_bare;
        let visible = self.visible(is_wide);
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if with_headers {
            table.set_header(visible.iter().map(|at| self.headers[*at]));
        }
        for row in &self.rows {
            table.add_row(visible.iter().map(|at| one_line(&row[*at].text)));
        }
        for (column, at) in table.column_iter_mut().zip(&visible) {
            column.set_padding((0, 2));
            if self.right.contains(at) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let is_empty = self.rows.is_empty() && !with_headers;
        let lines = table.lines().filter(|_| !is_empty);
        lines.map(|line| format!("{}\n", line.trim_end())).collect()
    }

    /// Tab-separated, all columns in an order that stays.
    pub fn tsv(&self, with_headers: bool) -> String {
        let visible = self.visible(true);
        let mut text = String::new();
        if with_headers {
            let names: Vec<&str> = visible.iter().map(|at| self.headers[*at]).collect();
            text.push_str(&format!("{}\n", names.join("\t")));
        }
        for row in &self.rows {
            let cells: Vec<String> = visible.iter().map(|at| row[*at].tsv()).collect();
            text.push_str(&format!("{}\n", cells.join("\t")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "AGE", "+HOST", "NOTE"]);
        let row = |name: &str, secs, host: &str, note: &str| {
            let age = Cell::span(super::super::human::age(Duration::from_secs(secs)), Duration::from_secs(secs));
            [name.into(), age, host.into(), note.into()]
        };
        table.row(row("b", 250, "h1", "two\nlines\tand \\"));
        table.row(row("a", 62, "h2", ""));
        table.row(row("c", 7_200, "h3", "z"));
        table
    }

    fn first(table: &Table, by: &str) -> Vec<usize> {
        table.order(by).unwrap()
    }

    #[test]
    fn no_value_breaks_its_line_or_drives_a_terminal() {
        assert_eq!(escape("a\tb\nc\r\\d\u{1b}[1m é"), "a\\tb\\nc\\r\\\\d\\u{1b}[1m é");
    }

    #[test]
    fn rows_sort_by_value_and_not_by_text() {
        let t = table();
        assert_eq!(
            (first(&t, "age"), first(&t, "-AGE"), first(&t, "age:desc")),
            (vec![1, 0, 2], vec![2, 0, 1], vec![2, 0, 1])
        );
        assert_eq!((first(&t, "name"), first(&t, "note")), (vec![1, 0, 2], vec![0, 2, 1]));
        assert!(t.order("age:up").unwrap_err().what.contains("asc or desc"));
    }

    #[test]
    fn wide_has_more_columns_and_tsv_has_all_of_them() {
        let t = table();
        assert_eq!(t.render(true).lines().next(), Some("NAME  AGE    NOTE"));
        assert_eq!(t.render_as(true, true).lines().next(), Some("NAME  AGE    HOST  NOTE"));
        assert_eq!(t.tsv(false).lines().next(), Some("b\t250\th1\ttwo\\nlines\\tand \\\\"));
        assert_eq!(t.tsv(true).lines().next(), Some("NAME\tAGE\tHOST\tNOTE"));
    }

    #[test]
    fn columns_are_chosen_in_their_order_and_a_wrong_name_gets_the_list() {
        let mut t = table();
        t.choose(&["host".to_owned(), "NAME".to_owned()]).unwrap();
        assert_eq!(t.render(true), "HOST  NAME\nh1    b\nh2    a\nh3    c\n");
        let error = t.choose(&["hots".to_owned()]).unwrap_err();
        assert_eq!(error.what, "there is no column \"hots\"; did you mean host?");
        assert_eq!(error.cause.as_deref(), Some("columns: name, age, host, note"));
        let error = Table::new(&[""]).choose(&["x".to_owned()]).unwrap_err();
        assert_eq!(error.what, "this output has no columns");
    }
}
