//! Reads typed settings out of a tree, remembers each value with its origin, and collects every problem
//! instead of stopping at the first.

use std::time::Duration;

use serde_json::Value;

use super::guess::hint;
use super::setting::Setting;
use super::source::{Item, Node, Origin, Problem, Tree};
use super::units::show_duration;

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
