//! Which tasks a verb is about: the selectors that all task verbs share.

use crate::protocol::ids::{EngineName, KindName, ResourceName};
use crate::protocol::task::TaskState;
use crate::store::TaskFilter;

/// Selectors; several together narrow down.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(next_help_heading = "Which tasks", about = None, long_about = None)]
pub struct Selector {
    /// In this state; may be repeated
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
}

fn parse_state(word: &str) -> Result<TaskState, String> {
    TaskState::from_word(word).ok_or_else(|| {
        let words: Vec<&str> = TaskState::ALL.iter().map(|state| state.word()).collect();
        let guess = crate::config::guess::hint(word, words.iter().copied());
        format!("the states are {}{guess}", words.join(", "))
    })
}

impl Selector {
    /// Whether anything was selected.
    pub fn is_empty(&self) -> bool {
        self.state.is_empty() && self.kind.is_empty() && self.resource.is_none() && self.engine.is_none()
    }

    /// For the store, without a limit yet.
    pub fn filter(&self) -> TaskFilter {
        TaskFilter {
            states: self.state.clone(),
            kinds: self.kind.clone(),
            resource: self.resource.clone(),
            engine: self.engine.clone(),
            limit: 0,
        }
    }
}
