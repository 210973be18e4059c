//! `rekindle task retry`.

use crate::cli::GlobalFlags;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::protocol::task::TaskState;
use crate::store::TaskVerb;

use super::shared::verdict::{BulkArgs, Deed, run as run_deed};

/// Run tasks again: ready at once, history kept, the retry budget starts again
///
/// For failed, quarantined, waiting, held and canceled tasks. A selection without -s means failed and
/// quarantined ones; one of several tasks needs consent (--yes).
///
/// Interrupted tasks (rerun = "never") may have done their work: they are taken only by number or with -s interrupted.
///
/// Exit codes: 0, 1 some could not be retried, 3 refused (consent, or a state it means nothing for), 4 no such task.
#[derive(clap::Args, Debug, Clone)]
#[command(
    before_help = "Examples:\n  rekindle task retry 4812\n  rekindle task retry -s failed -k invoice-mail --limit 100 --yes"
)]
pub struct TaskRetryArgs {
    /// Which.
    #[command(flatten)]
    pub bulk: BulkArgs,
}

const RETRY: Deed = Deed {
    verb: TaskVerb::Retry,
    word: "retry",
    becomes: TaskState::Ready,
    states: &[TaskState::Failed, TaskState::Quarantined],
    schema: "rekindle.task-retry/1",
};

/// Makes them ready.
pub fn run(args: &TaskRetryArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    run_deed(&args.bulk, RETRY, flags)
}
