//! `rekindle engine resume`.

use crate::cli::GlobalFlags;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::protocol::engine::Wanted;

use super::shared::engine_wish::{Names, Wish, run as run_wish};

/// Take tasks again, after pause or drain
///
/// Exit codes: 0 requested, 4 no such engine.
#[derive(clap::Args, Debug, Clone)]
#[command(before_help = "Examples:\n  rekindle engine resume app4\n  rekindle engine resume --self")]
pub struct EngineResumeArgs {
    /// Which.
    #[command(flatten)]
    pub names: Names,
}

/// Asks for it.
pub fn run(args: &EngineResumeArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    run_wish(&args.names, Wish { wanted: Wanted::Run, lasts: None, deadline: None, wait: false }, flags)
}
