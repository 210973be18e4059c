//! `rekindle task cancel`.

use crate::cli::GlobalFlags;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::protocol::task::TaskState;
use crate::store::TaskVerb;

use super::shared::verdict::{BulkArgs, Deed, run as run_deed};

/// Stop tasks for good; a running one is stopped by its engine within a heartbeat
///
/// A running task that ends before that is canceled all the same, whatever its end and whoever writes it; only one
/// that is done stays done.
///
/// A selection without -s means every task that has not ended; one of several tasks needs consent (--yes).
///
/// Exit codes: 0, 1 some could not be canceled, 3 refused (consent, or it has ended), 4 no such task.
#[derive(clap::Args, Debug, Clone)]
#[command(
    before_help = "Examples:\n  rekindle task cancel 4812\n  rekindle task cancel -k report -s ready --all --dry-run"
)]
pub struct TaskCancelArgs {
    /// Which.
    #[command(flatten)]
    pub bulk: BulkArgs,
}

const CANCEL: Deed = Deed {
    verb: TaskVerb::Cancel,
    word: "cancel",
    becomes: TaskState::Canceled,
    states: &[TaskState::Ready, TaskState::Waiting, TaskState::Blocked, TaskState::Running, TaskState::Held],
    schema: "rekindle.task-cancel/1",
};

/// Cancels them.
pub fn run(args: &TaskCancelArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    run_deed(&args.bulk, CANCEL, flags)
}
