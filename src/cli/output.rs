//! Results on standard output: tables for people, `schema`-tagged JSON for machines, names for xargs.
//! A reader that goes away (`| head`) is no error.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement};
use serde_json::{Value, json};

use super::GlobalFlags;
use super::error::CliError;
use super::human::{one_line, rfc3339};
use crate::protocol::time::Timestamp;

pub use super::human::plural;

/// How results look (`-o`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people; may change at any time.
    #[default]
    Table,
    /// One object with a versioned schema.
    Json,
    /// One item per line.
    Jsonl,
    /// Names or numbers only, one per line.
    Name,
}

/// Rows for people: ASCII, no borders, two spaces between columns, nothing at line ends.
#[derive(Debug, Clone, Default)]
pub struct Table {
    headers: Vec<&'static str>,
    right: Vec<usize>,
    is_bare: bool,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these headers, in upper case.
    pub fn new(headers: &[&'static str]) -> Self {
        Self { headers: headers.to_vec(), ..Self::default() }
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

    /// One more row; missing cells are empty.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let mut cells: Vec<String> = cells.into_iter().map(|cell| one_line(&cell.into())).collect();
        cells.resize(self.headers.len(), String::new());
        self.rows.push(cells);
    }

    /// The text, each line with a line feed.
    pub fn render(&self, with_headers: bool) -> String {
        let with_headers = with_headers && !self.is_bare;
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if with_headers {
            table.set_header(&self.headers);
        }
        table.add_rows(&self.rows);
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if self.right.contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let is_empty = self.rows.is_empty() && !with_headers;
        let lines = table.lines().filter(|_| !is_empty);
        lines.map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

/// A list in all formats.
#[derive(Debug, Clone)]
pub struct List {
    /// Its versioned name, such as `rekindle.engine-list/1`.
    pub schema: &'static str,
    /// The time it was taken, from the database where one was asked.
    pub now: Timestamp,
    /// For JSON: fields are only added within a version; unknown is `null`, never missing.
    pub items: Vec<Value>,
    /// For `-o name`, in the order of `items`.
    pub names: Vec<String>,
    /// For people.
    pub table: Table,
    /// For people, below the table.
    pub footer: Option<String>,
}

impl List {
    /// The text in a format.
    pub fn render(&self, format: Format, with_headers: bool) -> String {
        match format {
            Format::Table => {
                let footer = self.footer.as_ref().map(|line| format!("{line}\n")).unwrap_or_default();
                self.table.render(with_headers) + &footer
            }
            Format::Json => document(self.schema, self.now, &[("items", json!(self.items))]),
            Format::Jsonl => self.items.iter().map(|item| format!("{item}\n")).collect(),
            Format::Name => self.names.iter().map(|name| format!("{name}\n")).collect(),
        }
    }

    /// Prints it as the flags say.
    pub fn print(&self, flags: &GlobalFlags) -> Result<(), CliError> {
        print(&self.render(flags.output, !flags.no_headers))
    }
}

/// A JSON document: `schema` and `now` first, then these fields in their order.
pub fn document(schema: &str, now: Timestamp, fields: &[(&str, Value)]) -> String {
    let head = [("schema", json!(schema)), ("now", json!(rfc3339(now)))];
    let lines = head.iter().chain(fields).map(|(key, value)| {
        let text = serde_json::to_string_pretty(value).unwrap_or_else(|_| "null".to_owned());
        format!("  {}: {}", json!(key), text.replace('\n', "\n  "))
    });
    format!("{{\n{}\n}}\n", lines.collect::<Vec<_>>().join(",\n"))
}

/// The fields as one object on one line, for `-o jsonl`.
pub fn line(fields: &[(&str, Value)]) -> String {
    let object: serde_json::Map<String, Value> = fields.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    format!("{}\n", Value::Object(object))
}

/// Whether everything was written, or the reader went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    All,
    ReaderGone,
}

fn write_text(out: &mut impl Write, text: &str) -> io::Result<Written> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Written::All),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Written::ReaderGone),
        Err(error) => Err(error),
    }
}

/// Prints a result. If the reader is gone, nobody wants the rest: the program ends quietly with 0.
pub fn print(text: &str) -> Result<(), CliError> {
    match write_text(&mut io::stdout().lock(), text) {
        Ok(Written::All) => Ok(()),
        Ok(Written::ReaderGone) => std::process::exit(0),
        Err(error) => Err(CliError::file("write to", "standard output".as_ref(), &error)),
    }
}

/// Prints to standard error; if even that is gone, there is nobody left to tell.
pub fn print_error(text: &str) {
    write_text(&mut io::stderr().lock(), text).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> List {
        let mut table = Table::new(&["ENGINE", "STATE", "RUN", "NOTE"]).right(2);
        table.row(["app1", "active", "4", ""]);
        table.row(["application-2", "draining", "12", "alice 13:56:\nkernel update"]);
        List {
            schema: "rekindle.engine-list/1",
            now: Timestamp::from_us(1_795_179_731_000_000),
            items: vec![json!({"engine": "app1", "note": null}), json!({"engine": "application-2"})],
            names: vec!["app1".to_owned(), "application-2".to_owned()],
            table,
            footer: Some("2 engines".to_owned()),
        }
    }

    #[test]
    fn tables_have_two_spaces_between_columns_and_none_at_the_end() {
        assert_eq!(
            list().render(Format::Table, true),
            "ENGINE         STATE     RUN  NOTE\n\
             app1           active      4\n\
             application-2  draining   12  alice 13:56: kernel update\n\
             2 engines\n"
        );
        assert!(list().render(Format::Table, false).starts_with("app1"));
        assert_eq!(Table::new(&["A", "B"]).render(true), "A  B\n");
        assert_eq!(Table::new(&["A"]).render(false), "");
    }

    #[test]
    fn json_names_its_schema_and_time_first() {
        let text = list().render(Format::Json, true);
        assert!(text.starts_with("{\n  \"schema\": \"rekindle.engine-list/1\",\n  \"now\": \"2026-11-20T13:02:11Z\",\n  \"items\": [\n    {\n"));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["items"][0]["note"], Value::Null);
        assert_eq!(value["items"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn jsonl_and_names_have_one_item_a_line() {
        assert_eq!(list().render(Format::Jsonl, true).lines().count(), 2);
        assert_eq!(list().render(Format::Name, true), "app1\napplication-2\n");
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        struct Gone(io::ErrorKind);
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert_eq!(write_text(&mut Gone(io::ErrorKind::BrokenPipe), "x").unwrap(), Written::ReaderGone);
        assert!(write_text(&mut Gone(io::ErrorKind::StorageFull), "x").is_err());
        assert_eq!(write_text(&mut Vec::new(), "x").unwrap(), Written::All);
    }
}
