//! The types that a setting can have: how each is taken from what somebody wrote, what is said if it does
//! not fit, and how `config show` prints it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::guess::hint;
use super::settings::{Keep, KindFilter};
use super::source::{Item, Node, Origin};
use super::units::{parse_duration, show_duration};
use crate::protocol::ids::{EngineName, KindName};

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

impl Setting for bool {
    fn take(node: &Node) -> Result<Self, String> {
        match &node.item {
            Item::Boolean(value) => Ok(*value),
            Item::Raw(text) => text.trim().parse().map_err(|_| format!("must be true or false, it is {text:?}")),
            other => Err(format!("must be true or false, it is {}", other.type_name())),
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
