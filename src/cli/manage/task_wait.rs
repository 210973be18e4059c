//! `rekindle task wait`.

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::session::Session;
use crate::cli::{GlobalFlags, load_config};

use super::shared::ids::{IdArg, parse_arg, resolve};
use super::shared::waiting::wait;

/// Wait until tasks have ended; without --timeout for as long as it takes
///
/// Exit codes: 0 all done, 1 some failed or were canceled, 4 no such task, 5 --timeout is over.
#[derive(clap::Args, Debug, Clone)]
#[command(before_help = "Examples:\n  rekindle task wait 4812 --timeout 10m\n  \
rekindle task add report --many - -o name < lines | rekindle task wait -")]
pub struct TaskWaitArgs {
    /// Numbers; - reads them from standard input
    #[arg(value_name = "ID", required = true, value_parser = parse_arg)]
    pub ids: Vec<IdArg>,
}

/// Waits.
pub fn run(args: &TaskWaitArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let ids = resolve(&args.ids)?;
    let session = Session::open_patient(flags, &load_config(flags)?)?;
    wait(&session, &ids, flags)
}
