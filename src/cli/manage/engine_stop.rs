//! `rekindle engine stop`.

use std::time::Duration;

use crate::cli::GlobalFlags;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::duration_flag;
use crate::protocol::engine::Wanted;

use super::shared::engine_wish::{Names, Wish, run as run_wish};

/// Drain, then end the process with exit 0, so that systemd does not start it again
///
/// Exit codes: 0 requested (with --wait: stopped, also where --deadline was over), 4 no such engine, 5 --timeout was over.
#[derive(clap::Args, Debug, Clone)]
#[command(
    before_help = "Examples:\n  rekindle engine stop app4 --wait\n  rekindle engine stop app4 --deadline 10m --wait"
)]
pub struct EngineStopArgs {
    /// Which.
    #[command(flatten)]
    pub names: Names,
    /// Watch until it has stopped; without --timeout for as long as it takes
    #[arg(short, long)]
    pub wait: bool,
    /// Kill and hand back what still runs after this long
    #[arg(long, value_name = "DURATION", value_parser = duration_flag)]
    pub deadline: Option<Duration>,
}

/// Asks for it, and watches.
pub fn run(args: &EngineStopArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let wish = Wish { wanted: Wanted::Stop, lasts: None, deadline: args.deadline, wait: args.wait };
    run_wish(&args.names, wish, flags)
}
