//! `rekindle task wait`.

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::session::Session;
use crate::cli::{GlobalFlags, load_config};
use crate::protocol::ids::TaskId;
use crate::protocol::task::TaskState;

use super::shared::waiting::wait;
use super::shared::which::Which;

/// Wait until tasks have ended; without --timeout for as long as it takes
///
/// A selection without -s means tasks that have not ended. It is made once: what is added later is not waited for.
///
/// Exit codes: 0 all done, 1 some failed or were canceled, 4 no such task, 5 --timeout is over.
#[derive(clap::Args, Debug, Clone)]
#[command(before_help = "Examples:\n  rekindle task wait 4812 --timeout 10m\n  \
rekindle task add report --many - -o name < lines | rekindle task wait -")]
pub struct TaskWaitArgs {
    /// Which.
    #[command(flatten)]
    pub which: Which,
}

const OPEN: &[TaskState] = &[TaskState::Ready, TaskState::Waiting, TaskState::Blocked, TaskState::Running];

/// Waits.
pub fn run(args: &TaskWaitArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    args.which.must_say("wait")?;
    let named = args.which.named()?;
    let session = Session::open_patient(flags, &load_config(flags)?)?;
    let ids: Vec<TaskId> = match named {
        Some(ids) => ids,
        None => args.which.find(&session, None, OPEN)?.iter().map(|task| task.id).collect(),
    };
    wait(&session, &ids, flags)
}
