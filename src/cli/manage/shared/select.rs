//! Which tasks a verb is about: the selectors that all task verbs share.

use std::time::Duration;

use crate::cli::human::duration_flag;
use crate::protocol::ids::{EngineName, KindName, ResourceName};
use crate::protocol::task::TaskState;
use crate::store::TaskFilter;

/// Selectors; several together narrow down.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(next_help_heading = "Which tasks", about = None, long_about = None)]
pub struct Selector {
    /// In this state (ready, waiting, blocked, running, held, failed, interrupted, quarantined, done, canceled); may be repeated
    #[arg(short, long, value_name = "STATE", value_parser = parse_state, value_delimiter = ',')]
    pub state: Vec<TaskState>,
    /// Of this kind; may be repeated
    #[arg(short, long, value_name = "KIND")]
    pub kind: Vec<KindName>,
    /// That name this resource
    #[arg(long, value_name = "NAME")]
    pub resource: Option<ResourceName>,
    /// That this engine runs, or ran last
    #[arg(short, long, value_name = "NAME")]
    pub engine: Option<EngineName>,
    /// That run on this host, or ran there last
    #[arg(long, value_name = "HOST", value_parser = not_empty)]
    pub host: Option<String>,
    /// Whose last error contains this, in small or large letters
    #[arg(long, value_name = "TEXT", value_parser = not_empty)]
    pub error_like: Option<String>,
    /// Added longer ago than this
    #[arg(long, value_name = "DURATION", value_parser = duration_flag)]
    pub older_than: Option<Duration>,
    /// Added within the last DURATION
    #[arg(long, value_name = "DURATION", value_parser = duration_flag)]
    pub newer_than: Option<Duration>,
}

/// The flags above, for verbs in which they exclude numbers.
pub const FLAGS: [&str; 8] = ["state", "kind", "resource", "engine", "host", "error_like", "older_than", "newer_than"];

fn parse_state(word: &str) -> Result<TaskState, String> {
    TaskState::from_word(word).ok_or_else(|| {
        let words: Vec<&str> = TaskState::ALL.iter().map(|state| state.word()).collect();
        let guess = crate::config::guess::hint(word, words.iter().copied());
        format!("the states are {}{guess}", words.join(", "))
    })
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("an empty text would select everything".to_owned()) } else { Ok(text.to_owned()) }
}

impl Selector {
    /// Whether anything was selected.
    pub fn is_empty(&self) -> bool {
        self.filter() == TaskFilter::default()
    }

    /// For the store, without a limit yet.
    pub fn filter(&self) -> TaskFilter {
        TaskFilter {
            states: self.state.clone(),
            kinds: self.kind.clone(),
            resource: self.resource.clone(),
            engine: self.engine.clone(),
            host: self.host.clone(),
            error_like: self.error_like.clone(),
            older_than: self.older_than,
            newer_than: self.newer_than,
            ..TaskFilter::default()
        }
    }
}
