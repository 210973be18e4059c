//! Results on standard output: tables for people, `schema`-tagged JSON for machines, names for xargs.
//! A reader that goes away (`| head`) is no error.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::GlobalFlags;
use super::error::CliError;
use super::human::{harmless, rfc3339};
use super::table::escape;
use crate::health::words::armor;
use crate::outlet::STDERR;
use crate::protocol::time::Timestamp;

pub use super::human::plural;
pub use super::table::{Cell, Table};

/// How results look (`-o`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people; may change at any time.
    #[default]
    Table,
    /// The same with more columns.
    Wide,
    /// Tab-separated with stable columns.
    Tsv,
    /// One object with a versioned schema.
    Json,
    /// One item per line.
    Jsonl,
    /// Names or numbers only, one per line.
    Name,
}

impl Format {
    /// Whether it is prose and tables, and `--quiet` may leave it out.
    pub const fn is_for_people(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
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
    /// Nothing of it was done.
    pub is_dry: bool,
}

/// Behind every line of what was only rehearsed.
pub const DRY: &str = "   (dry run)";

impl List {
    /// An empty one.
    pub fn new(schema: &'static str, now: Timestamp) -> Self {
        let (items, names, table) = (Vec::new(), Vec::new(), Table::new(&[""]).without_headers());
        Self { schema, now, items, names, table, footer: None, is_dry: false }
    }

    /// The same lines as of the real run, each marked as a rehearsal; JSON says `"dry_run": true`.
    #[must_use]
    pub fn dry_run(mut self) -> Self {
        self.is_dry = true;
        self.table.mark(DRY);
        self.footer = self.footer.map(|line| line + DRY);
        for item in &mut self.items {
            if let Value::Object(item) = item {
                item.insert("dry_run".to_owned(), json!(true));
            }
        }
        self
    }

    /// In the order and with the columns that were asked for.
    fn arranged(&self, flags: &GlobalFlags) -> Result<Self, CliError> {
        let mut list = self.clone();
        if !flags.columns.is_empty() {
            if !(flags.output.is_for_people() || flags.output == Format::Tsv) {
                return Err(CliError::usage("--columns is for -o table, wide and tsv"));
            }
            list.table.choose(&flags.columns)?;
        }
        if let Some(by) = &flags.sort {
            let order = list.table.order(by)?;
            list.table.arrange(&order);
            // Where the table has the rows of the items, both have one order.
            if list.items.len() == order.len() && list.names.len() == order.len() {
                list.items = order.iter().map(|at| self.items[*at].clone()).collect();
                list.names = order.iter().map(|at| self.names[*at].clone()).collect();
            }
        }
        Ok(list)
    }

    /// The text in a format.
    pub fn render(&self, format: Format, with_headers: bool) -> String {
        match format {
            Format::Table | Format::Wide => {
                let footer = self.footer.as_ref().map(|line| format!("{line}\n")).unwrap_or_default();
                self.table.render_as(with_headers, format == Format::Wide) + &footer
            }
            Format::Tsv if self.table.is_text() => tsv_items(&self.items, with_headers),
            Format::Tsv => self.table.tsv(with_headers),
            Format::Json if self.is_dry => {
                document(self.schema, self.now, &[("dry_run", json!(true)), ("items", json!(self.items))])
            }
            Format::Json => document(self.schema, self.now, &[("items", json!(self.items))]),
            Format::Jsonl => self.items.iter().map(|item| armor(format!("{item}\n"))).collect(),
            Format::Name => self.names.iter().map(|name| format!("{}\n", one_name(name))).collect(),
        }
    }

    /// Prints it as the flags say.
    pub fn print(&self, flags: &GlobalFlags) -> Result<(), CliError> {
        print(&self.arranged(flags)?.render(flags.output, !flags.no_headers))
    }
}

/// A JSON document: `schema` and `now` first, then these fields in their order.
pub fn document(schema: &str, now: Timestamp, fields: &[(&str, Value)]) -> String {
    let head = [("schema", json!(schema)), ("now", json!(rfc3339(now)))];
    let lines = head.iter().chain(fields).map(|(key, value)| {
        let text = serde_json::to_string_pretty(value).unwrap_or_else(|_| "null".to_owned());
        format!("  {}: {}", json!(key), text.replace('\n', "\n  "))
    });
    armor(format!("{{\n{}\n}}\n", lines.collect::<Vec<_>>().join(",\n")))
}

/// For xargs: one name a line, also one that somebody wrote with a line end in it by way of SQL. Names that were
/// made here hold no such characters, and stay as they are.
fn one_name(name: &str) -> std::borrow::Cow<'_, str> {
    let is_plain = !name.chars().any(|c| harmless(c) != c);
    if is_plain { name.into() } else { escape(name).into() }
}

/// Items as lines, with their fields in the order of the alphabet.
fn tsv_items(items: &[Value], with_headers: bool) -> String {
    let mut text = String::new();
    for (row, item) in items.iter().filter_map(Value::as_object).enumerate() {
        if row == 0 && with_headers {
            let names: Vec<String> = item.keys().map(|key| key.to_uppercase()).collect();
            text.push_str(&format!("{}\n", names.join("\t")));
        }
        let cells: Vec<String> = item.values().map(tsv_value).collect();
        text.push_str(&format!("{}\n", cells.join("\t")));
    }
    text
}

fn tsv_value(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => escape(text),
        other => escape(&other.to_string()),
    }
}

/// The fields of one thing for `-o tsv`: one line each, its name and its value.
pub fn tsv_fields(fields: &[(&str, Value)]) -> String {
    fields.iter().map(|(key, value)| format!("{key}\t{}\n", tsv_value(value))).collect()
}

/// The fields as one object on one line, for `-o jsonl`.
pub fn line(fields: &[(&str, Value)]) -> String {
    let object: serde_json::Map<String, Value> = fields.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    armor(format!("{}\n", Value::Object(object)))
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

/// Whether this program has changed something, so that an error on its way out does not look as if it had not.
static HAS_CHANGED: AtomicBool = AtomicBool::new(false);

/// Something was changed: the database has committed it.
pub fn note_change() {
    HAS_CHANGED.store(true, Ordering::Relaxed);
}

/// Prints a result. If the reader is gone, nobody wants the rest: the program ends quietly with 0.
pub fn print(text: &str) -> Result<(), CliError> {
    match write_text(&mut io::stdout().lock(), text) {
        Ok(Written::All) => Ok(()),
        Ok(Written::ReaderGone) => std::process::exit(0),
        Err(error) => Err(unprinted(&error, HAS_CHANGED.load(Ordering::Relaxed))),
    }
}

fn unprinted(error: &io::Error, has_changed: bool) -> CliError {
    let error = CliError::file("write to", "standard output".as_ref(), error);
    match has_changed {
        true => error
            .effect("the change was made, only this report of it is missing: do not simply repeat it")
            .next("rekindle history --limit 5"),
        false => error.effect("nothing was changed"),
    }
}

/// Prints to standard error; nobody waits there for a reader that does not read.
pub fn print_error(text: &str) {
    // Without a thread the line is written when the program ends.
    STDERR.start().unwrap_or(());
    STDERR.say_in_order(text.as_bytes());
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
            is_dry: false,
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
    fn a_rehearsal_says_so_in_every_line_and_in_json() {
        let text = list().dry_run().render(Format::Table, false);
        assert!(text.contains("app1   (dry run)") && text.ends_with("2 engines   (dry run)\n"), "{text}");
        let json: Value = serde_json::from_str(&list().dry_run().render(Format::Json, true)).unwrap();
        assert_eq!((&json["dry_run"], &json["items"][0]["dry_run"]), (&json!(true), &json!(true)));
    }

    #[test]
    fn sorted_lists_keep_rows_items_and_names_together() {
        let flags = GlobalFlags { sort: Some("-run".to_owned()), ..GlobalFlags::default() };
        let sorted = list().arranged(&flags).unwrap();
        assert_eq!(sorted.names, ["application-2", "app1"]);
        assert_eq!(sorted.items[0]["engine"], "application-2");
        let flags = GlobalFlags { columns: vec!["run".to_owned()], output: Format::Json, ..GlobalFlags::default() };
        assert!(list().arranged(&flags).unwrap_err().what.contains("-o table, wide and tsv"));
    }

    #[test]
    fn text_without_columns_is_tab_separated_by_its_fields() {
        let mut list = List { items: vec![json!({"b": "x\ty", "a": null, "c": [1]})], ..List::new("x/1", list().now) };
        list.table.row(["words"]);
        assert_eq!(list.render(Format::Tsv, true), "A\tB\tC\n\tx\\ty\t[1]\n");
        assert_eq!(tsv_fields(&[("a", json!("b\nc"))]), "a\tb\\nc\n");
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
