//! `rekindle engine pause`.

use std::time::Duration;

use crate::cli::GlobalFlags;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::duration_flag;
use crate::protocol::engine::Wanted;

use super::shared::engine_wish::{Names, Wish, run as run_wish};

/// Take nothing new; what runs goes on, and so does the heartbeat
///
/// It belongs to the name: an engine that restarts stays paused.
///
/// An engine that is to drain or to stop is only paused instead with --yes: that ends the drain.
///
/// Exit codes: 0 requested, 3 it is to drain or stop, 4 no such engine.
#[derive(clap::Args, Debug, Clone)]
#[command(
    before_help = "Examples:\n  rekindle engine pause app5 --for 1h --reason \"disk full\"\n  rekindle engine pause --all --for 30m"
)]
pub struct EnginePauseArgs {
    /// Which.
    #[command(flatten)]
    pub names: Names,
    /// It ends by itself after this long
    #[arg(long = "for", value_name = "DURATION", value_parser = duration_flag)]
    pub lasts: Option<Duration>,
}

/// Asks for it.
pub fn run(args: &EnginePauseArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    run_wish(&args.names, Wish { wanted: Wanted::Pause, lasts: args.lasts, deadline: None, wait: false }, flags)
}
