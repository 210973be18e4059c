//! Where settings come from: a tree of values, each with its origin, out of a TOML file, the
//! environment or flags; and how a stronger tree is laid over a weaker one.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

/// Who set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody.
    Default,
    /// A line of a file.
    File {
        /// Which file.
        path: Arc<Path>,
        /// Which line, from 1; 0 is the file as a whole.
        line: usize,
    },
    /// A variable of the environment.
    Env(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl Origin {
    /// A file as a whole.
    pub(super) fn file(path: &Path) -> Self {
        Self::File { path: path.into(), line: 0 }
    }

    /// The file, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File { path, .. } => Some(path),
            _ => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.pad("default"),
            Self::File { path, line: 0 } => f.pad(&path.display().to_string()),
            Self::File { path, line } => f.pad(&format!("{}:{line}", path.display())),
            Self::Env(name) => f.pad(&format!("env {name}")),
            Self::Flag(name) => f.pad(&format!("flag {name}")),
        }
    }
}

/// Something that is wrong, or only doubtful, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// What.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.text)
    }
}

/// A value and who set it. Not `Debug`: it may be a secret.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) item: Item,
    pub(super) origin: Origin,
}

#[derive(Clone)]
pub(super) enum Item {
    /// A string of a file.
    Text(String),
    /// Text of a variable or flag, whose type is what the reader expects.
    Raw(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    List(Vec<Node>),
    Table(Tree),
    /// What no setting can be.
    Datetime,
}

pub(super) type Tree = BTreeMap<String, Node>;

impl Item {
    /// Its type, for messages, which never show the value of an unknown thing.
    pub(super) const fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Raw(_) => "text",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Datetime => "a date",
        }
    }
}

/// Reads a TOML text. All of its syntax errors are reported; they say where, and never quote the line,
/// which may hold a password.
pub(super) fn parse_toml(path: &Path, text: &str) -> Result<Tree, Vec<Problem>> {
    let file = File { path: path.into(), text };
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(file.tree(table.get_ref()));
    }
    let problem = |error: &toml::de::Error| Problem {
        origin: file.origin(error.span().map_or(0, |span| span.start)),
        text: format!("not TOML: {}", error.message().replace('\n', "; ")),
    };
    Err(errors.iter().map(problem).collect())
}

struct File<'a> {
    path: Arc<Path>,
    text: &'a str,
}

impl File<'_> {
    fn origin(&self, offset: usize) -> Origin {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        Origin::File { path: self.path.clone(), line: 1 + before.iter().filter(|b| **b == b'\n').count() }
    }

    fn tree(&self, table: &DeTable<'_>) -> Tree {
        let node = |(key, value): (&toml::Spanned<std::borrow::Cow<'_, str>>, &toml::Spanned<DeValue<'_>>)| {
            // The key's line is where people look, also where the value spans several.
            let origin = self.origin(key.span().start);
            (key.get_ref().to_string(), Node { item: self.item(value.get_ref()), origin })
        };
        table.iter().map(node).collect()
    }

    fn item(&self, value: &DeValue<'_>) -> Item {
        match value {
            DeValue::String(text) => Item::Text(text.to_string()),
            DeValue::Integer(number) => {
                // Beyond 64 bits nothing is a setting; the reader's range says so.
                Item::Integer(i64::from_str_radix(number.as_str(), number.radix()).unwrap_or(i64::MAX))
            }
            DeValue::Float(number) => Item::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(value) => Item::Boolean(*value),
            DeValue::Datetime(_) => Item::Datetime,
            DeValue::Array(list) => {
                let node = |v: &toml::Spanned<DeValue<'_>>| Node {
                    item: self.item(v.get_ref()),
                    origin: self.origin(v.span().start),
                };
                Item::List(list.iter().map(node).collect())
            }
            DeValue::Table(table) => Item::Table(self.tree(table)),
        }
    }
}

/// Puts a raw value at a path of keys, making the tables between.
pub(super) fn insert(tree: &mut Tree, path: &[String], node: Node) {
    let Some((first, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        tree.insert(first.clone(), node);
        return;
    }
    let below = tree.entry(first.clone()).or_insert_with(|| table_node(node.origin.clone()));
    split_timing(first, below);
    if !matches!(below.item, Item::Table(_)) {
        *below = table_node(node.origin.clone());
    }
    if let Item::Table(table) = &mut below.item {
        insert(table, rest, node);
    }
}

fn table_node(origin: Origin) -> Node {
    Node { item: Item::Table(Tree::new()), origin }
}

/// `timing = "fast"` is short for `timing.profile`, so that `timing.h` of another source adds to it.
pub(super) fn split_timing(key: &str, node: &mut Node) {
    if key == "timing" && matches!(node.item, Item::Text(_) | Item::Raw(_)) {
        let profile = node.clone();
        node.item = Item::Table(Tree::from([("profile".to_owned(), profile)]));
    }
}

/// Whether everyone on this host can read a file.
pub(super) fn is_world_readable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|data| data.permissions().mode() & 0o004 != 0)
}

/// The value at a path, if there is one.
pub(super) fn find<'a>(tree: &'a Tree, path: &[&str]) -> Option<&'a Node> {
    let (first, rest) = path.split_first()?;
    let node = tree.get(*first)?;
    match &node.item {
        _ if rest.is_empty() => Some(node),
        Item::Table(table) => find(table, rest),
        _ => None,
    }
}

/// Lays `upper` over `lower`: tables are merged, everything else is replaced.
pub(super) fn merge(lower: &mut Tree, upper: Tree) {
    // A URL of a stronger source is another database: the heartbeat's own way to the weaker one's must
    // not survive it, or an engine would beat in one database and work in another.
    if find(&upper, &["database", "url"]).is_some()
        && let Some(Node { item: Item::Table(database), .. }) = lower.get_mut("database")
    {
        database.remove("beat_url");
    }
    merge_tables(lower, upper);
}

fn merge_tables(lower: &mut Tree, upper: Tree) {
    for (key, node) in upper {
        match (lower.get_mut(&key), node) {
            (Some(below), Node { item: Item::Table(above), origin }) => {
                split_timing(&key, below);
                match &mut below.item {
                    Item::Table(table) => merge_tables(table, above),
                    _ => *below = Node { item: Item::Table(above), origin },
                }
            }
            (_, node) => drop(lower.insert(key, node)),
        }
    }
}

/// The `*.toml` files of a directory in name order; none if there is no such directory.
pub(super) fn toml_files(dir: &Path) -> Result<Vec<PathBuf>, std::io::Error> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut files = entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    files.retain(|path| path.extension().is_some_and(|e| e == "toml") && !hidden(path));
    files.sort();
    Ok(files)
}
