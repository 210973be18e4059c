//! Reads typed settings out of a tree, remembers each value with its origin, and collects every problem
//! instead of stopping at the first.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::guess::hint;
use super::settings::{Keep, KindFilter};
use super::source::{Item, Node, Origin, Problem, Tree};
use super::units::{parse_duration, show_duration};
use crate::protocol::ids::{EngineName, KindName};

/// A setting as `config show` prints it; secrets are masked in it already.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// Its dotted name.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// Who set it.
    pub origin: Origin,
}

/// A type that settings can have.
pub(super) trait Setting: Sized {
    /// From a node; the error says what is expected.
    fn take(node: &Node) -> Result<Self, String>;
    /// For `config show`.
    fn show(&self) -> Value;
}

/// A setting that is one word out of a few.
pub trait Word: Copy + PartialEq + 'static {
    /// The words with what they mean.
    const WORDS: &'static [(&'static str, Self)];
}

/// Collects what was read and what was wrong.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    pub(super) shown: Vec<Shown>,
}

/// One table while it is read.
#[derive(Clone)]
pub(super) struct Section {
    /// Its dotted name with a dot behind, empty at the top.
    prefix: String,
    /// The section whose values stand in for missing ones, likewise.
    beneath: Option<String>,
    /// Who wrote it.
    pub(super) origin: Origin,
    /// What is written there.
    pub(super) tree: Tree,
}

/// Keys that a section has.
pub(super) struct Keys {
    /// Those of this version.
    pub(super) known: &'static [&'static str],
    /// Those that later versions will have.
    pub(super) later: &'static [&'static str],
}

impl Section {
    /// The top.
    pub(super) fn top(tree: Tree) -> Self {
        Self { prefix: String::new(), beneath: None, origin: Origin::Default, tree }
    }

    /// Values of `other` stand in for what is not written here.
    pub(super) fn beneath(mut self, other: &str) -> Self {
        self.beneath = Some(format!("{other}."));
        self
    }

    /// Whether somebody wrote this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.tree.contains_key(key)
    }

    /// Who wrote this key, or the section if nobody did.
    pub(super) fn origin_of(&self, key: &str) -> Origin {
        self.tree.get(key).map_or_else(|| self.origin.clone(), |node| node.origin.clone())
    }

    /// The dotted name of a key.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

impl Reader {
    /// Notes what is wrong.
    pub(super) fn problem(&mut self, origin: Origin, text: String) {
        self.problems.push(Problem { origin, text });
    }

    /// Notes what is doubtful.
    pub(super) fn warn(&mut self, origin: Origin, text: String) {
        self.warnings.push(Problem { origin, text });
    }

    /// Refuses every key of a section that is not known.
    pub(super) fn check_keys(&mut self, section: &Section, keys: &Keys) {
        for (key, node) in &section.tree {
            let name = section.name(key);
            if keys.later.contains(&key.as_str()) {
                self.problem(node.origin.clone(), format!("{name} is not supported by this version"));
            } else if !keys.known.contains(&key.as_str()) {
                let guess = hint(key, keys.known.iter().copied());
                self.problem(node.origin.clone(), format!("unknown key {name}{guess}"));
            }
        }
    }

    /// The table below `key`, empty where nobody wrote it; any keys.
    pub(super) fn open_map(&mut self, parent: &Section, key: &str) -> Section {
        let name = parent.name(key);
        let tree = match parent.tree.get(key).map(|node| &node.item) {
            None => Tree::new(),
            Some(Item::Table(tree)) => tree.clone(),
            Some(other) => {
                self.problem(parent.origin_of(key), format!("{name} must be a table, it is {}", other.type_name()));
                Tree::new()
            }
        };
        let beneath = parent.beneath.as_ref().map(|other| format!("{other}{key}."));
        Section { prefix: format!("{name}."), beneath, origin: parent.origin_of(key), tree }
    }

    /// The table below `key`, with these keys only.
    pub(super) fn open(&mut self, parent: &Section, key: &str, keys: &Keys) -> Section {
        let section = self.open_map(parent, key);
        self.check_keys(&section, keys);
        section
    }

    /// A setting, or its default where nobody wrote it or it is wrong (then noted).
    pub(super) fn read<T: Setting>(&mut self, section: &Section, key: &str, default: T) -> T {
        self.read_as(section, key, default, T::take, T::show)
    }

    /// A setting whose text or range is its own.
    pub(super) fn read_as<T>(
        &mut self,
        section: &Section,
        key: &str,
        default: T,
        take: impl Fn(&Node) -> Result<T, String>,
        show: impl Fn(&T) -> Value,
    ) -> T {
        let mut origin = self.fallback_origin(section, key);
        let mut value = default;
        if let Some(node) = section.tree.get(key) {
            origin = node.origin.clone();
            match take(node) {
                Ok(read) => value = read,
                Err(text) => self.problem(origin.clone(), format!("{}: {text}", section.name(key))),
            }
        }
        self.shown.push(Shown { key: section.name(key), value: show(&value), origin });
        value
    }

    /// A whole number within a range.
    pub(super) fn read_number(&mut self, section: &Section, key: &str, default: i64, range: (i64, i64)) -> i64 {
        let take = |node: &Node| {
            let number = i64::take(node)?;
            let fits = (range.0..=range.1).contains(&number);
            if fits { Ok(number) } else { Err(format!("must be between {} and {}", range.0, range.1)) }
        };
        self.read_as(section, key, default, take, i64::show)
    }

    /// A duration within a range.
    pub(super) fn read_span(
        &mut self,
        s: &Section,
        key: &str,
        default: Duration,
        range: (Duration, Duration),
    ) -> Duration {
        let take = |node: &Node| {
            let span = Duration::take(node)?;
            let (low, high) = (show_duration(range.0), show_duration(range.1));
            if (range.0..=range.1).contains(&span) {
                Ok(span)
            } else {
                Err(format!("must be between {low} and {high}"))
            }
        };
        self.read_as(s, key, default, take, Duration::show)
    }

    fn fallback_origin(&self, section: &Section, key: &str) -> Origin {
        let Some(beneath) = &section.beneath else { return Origin::Default };
        let name = format!("{beneath}{key}");
        self.shown.iter().find(|shown| shown.key == name).map_or(Origin::Default, |shown| shown.origin.clone())
    }
}

/// Text of a file, variable or flag.
pub(super) fn text_of(node: &Node) -> Result<&str, String> {
    match &node.item {
        Item::Text(text) | Item::Raw(text) => Ok(text),
        other => Err(format!("must be text in quotes, it is {}", other.type_name())),
    }
}

/// A file's path, which must not depend on where a program was started.
pub(super) fn absolute(node: &Node) -> Result<PathBuf, String> {
    let path = Path::new(text_of(node)?);
    match node.origin {
        _ if path.is_absolute() => Ok(path.to_owned()),
        Origin::Flag(_) => std::path::absolute(path).map_err(|error| format!("no absolute path: {error}")),
        _ => Err("must be an absolute path".to_owned()),
    }
}

impl Setting for String {
    fn take(node: &Node) -> Result<Self, String> {
        let text = text_of(node)?;
        if text.chars().any(char::is_control) {
            return Err("must not contain control characters".to_owned());
        }
        if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
    }
    fn show(&self) -> Value {
        json!(self)
    }
}

impl Setting for i64 {
    fn take(node: &Node) -> Result<Self, String> {
        match &node.item {
            Item::Integer(number) => Ok(*number),
            Item::Raw(text) => text.trim().parse().map_err(|_| format!("must be a whole number, it is {text:?}")),
            other => Err(format!("must be a whole number, it is {}", other.type_name())),
        }
    }
    fn show(&self) -> Value {
        json!(self)
    }
}

impl Setting for f64 {
    fn take(node: &Node) -> Result<Self, String> {
        let number = match &node.item {
            Item::Integer(number) => *number as Self,
            Item::Float(number) => *number,
            Item::Raw(text) => text.trim().parse().map_err(|_| format!("must be a number, it is {text:?}"))?,
            other => return Err(format!("must be a number, it is {}", other.type_name())),
        };
        if number.is_finite() { Ok(number) } else { Err("must be a finite number".to_owned()) }
    }
    fn show(&self) -> Value {
        json!(self)
    }
}

impl Setting for Duration {
    fn take(node: &Node) -> Result<Self, String> {
        match &node.item {
            Item::Text(text) | Item::Raw(text) => parse_duration(text),
            Item::Integer(number) => Err(format!("a bare number is refused: did you mean \"{number}s\"?")),
            Item::Float(number) => Err(format!("a bare number is refused: did you mean \"{number}s\"?")),
            other => Err(format!("must be a duration such as \"30s\", it is {}", other.type_name())),
        }
    }
    fn show(&self) -> Value {
        json!(show_duration(*self))
    }
}

impl Setting for PathBuf {
    fn take(node: &Node) -> Result<Self, String> {
        absolute(node)
    }
    fn show(&self) -> Value {
        json!(self.display().to_string())
    }
}

impl Setting for Vec<String> {
    fn take(node: &Node) -> Result<Self, String> {
        match &node.item {
            Item::List(nodes) => nodes.iter().map(|node| text_of(node).map(str::to_owned)).collect(),
            Item::Raw(text) if text.trim_start().starts_with('[') => {
                serde_json::from_str(text).map_err(|_| "must be a list such as [\"a\", \"b\"]".to_owned())
            }
            Item::Raw(text) => Ok(text.split(',').map(|part| part.trim().to_owned()).collect()),
            other => Err(format!("must be a list such as [\"a\", \"b\"], it is {}", other.type_name())),
        }
    }
    fn show(&self) -> Value {
        json!(self)
    }
}

impl<T: Setting> Setting for Option<T> {
    fn take(node: &Node) -> Result<Self, String> {
        T::take(node).map(Some)
    }
    fn show(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::show)
    }
}

impl<T: Word> Setting for T {
    fn take(node: &Node) -> Result<Self, String> {
        let text = text_of(node)?;
        let words = || T::WORDS.iter().map(|(word, _)| *word);
        let found = T::WORDS.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        let list = words().collect::<Vec<_>>().join(", ");
        found.ok_or_else(|| format!("{text:?} is none of {list}{}", hint(text, words())))
    }
    fn show(&self) -> Value {
        json!(T::WORDS.iter().find(|(_, value)| value == self).map(|(word, _)| *word))
    }
}

impl Setting for Keep {
    fn take(node: &Node) -> Result<Self, String> {
        match &node.item {
            Item::Text(text) | Item::Raw(text) if text == "keep" => Ok(Self::Forever),
            _ => Duration::take(node).map(Self::For).map_err(|text| format!("{text} (or \"keep\")")),
        }
    }
    fn show(&self) -> Value {
        match self {
            Self::Forever => json!("keep"),
            Self::For(span) => span.show(),
        }
    }
}

impl Setting for EngineName {
    fn take(node: &Node) -> Result<Self, String> {
        Self::new(text_of(node)?).map_err(|error| error.to_string())
    }
    fn show(&self) -> Value {
        json!(self)
    }
}

impl Setting for KindFilter {
    fn take(node: &Node) -> Result<Self, String> {
        let names = Vec::<String>::take(node)?;
        if names.is_empty() {
            return Err("must name a kind, or be [\"*\"] for all".to_owned());
        }
        if names.iter().any(|name| name == "*") {
            return if names.len() == 1 { Ok(Self::All) } else { Err("\"*\" must stand alone".to_owned()) };
        }
        let kinds: Result<_, _> = names.into_iter().map(KindName::new).collect();
        kinds.map(Self::Only).map_err(|error| error.to_string())
    }
    fn show(&self) -> Value {
        match self {
            Self::All => json!(["*"]),
            Self::Only(kinds) => json!(kinds),
        }
    }
}
