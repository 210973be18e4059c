//! The tasks that a verb is about: numbers, numbers from standard input, or selectors. A verb with neither
//! is wrong usage, never "everything".

use super::ids::{IdArg, resolve};
use super::select::Selector;
use crate::cli::error::CliError;
use crate::cli::session::Session;
use crate::protocol::ids::TaskId;
use crate::protocol::task::TaskState;
use crate::store::{Selected, TaskFilter};

/// Numbers or selectors.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(about = None, long_about = None)]
pub struct Which {
    /// Numbers; - reads them from standard input
    #[arg(value_name = "ID", value_parser = super::ids::parse_arg, conflicts_with_all = super::select::FLAGS)]
    #[arg(conflicts_with_all = ["all", "limit"])]
    pub ids: Vec<IdArg>,
    /// Selectors.
    #[command(flatten)]
    pub selector: Selector,
    /// Everything that the verb makes sense for
    #[arg(long, help_heading = "Which tasks")]
    pub all: bool,
    /// At most so many, the newest
    #[arg(long, value_name = "N", help_heading = "Which tasks", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: Option<u32>,
}

/// Tasks of one selection; more are done by a second call.
pub const SELECT_MAX: usize = 1_000_000;
/// Tasks of one question to the database.
const PAGE: usize = 10_000;

impl Which {
    /// Refuses a verb that says nothing about its tasks.
    pub fn must_say(&self, word: &str) -> Result<(), CliError> {
        if !self.ids.is_empty() || !self.selector.is_empty() || self.all {
            return Ok(());
        }
        let what = format!(
            "which tasks? name them, select them (-s, -k, -e, --resource, --error-like, ...), or write --all to {word} everything"
        );
        Err(CliError::usage(what).next(format!("rekindle task {word} --help")))
    }

    /// The numbers that are named; `None` where tasks are selected.
    pub fn named(&self) -> Result<Option<Vec<TaskId>>, CliError> {
        if self.ids.is_empty() { Ok(None) } else { resolve(&self.ids).map(Some) }
    }

    /// The tasks, the oldest first, as they would have run. Of those that are named, the ones that are
    /// known. `states` are meant where none is selected.
    pub fn find(
        &self,
        session: &Session,
        named: Option<&[TaskId]>,
        states: &[TaskState],
    ) -> Result<Vec<Selected>, CliError> {
        let mut found = Vec::new();
        if let Some(named) = named {
            for ids in named.chunks(PAGE) {
                let filter = TaskFilter { ids: ids.to_vec(), limit: ids.len(), ..TaskFilter::default() };
                found.extend(session.read("looking for the tasks", move |store| store.select(&filter))?);
            }
            return Ok(found);
        }
        let most = self.limit.map_or(SELECT_MAX, |limit| limit as usize);
        let mut filter = self.selector.filter();
        if filter.states.is_empty() {
            filter.states = states.to_vec();
        }
        // Page by page from the newest: what is added meanwhile is not selected.
        while found.len() < most {
            let limit = PAGE.min(most - found.len());
            let page = TaskFilter { limit, ..filter.clone() };
            let page = session.read("selecting tasks", move |store| store.select(&page))?;
            filter.before = page.last().map(|task| task.id);
            let is_last = page.len() < limit;
            found.extend(page);
            if is_last {
                break;
            }
        }
        found.reverse();
        Ok(found)
    }
}
