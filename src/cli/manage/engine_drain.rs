//! `rekindle engine drain`.

use std::time::Duration;

use crate::cli::GlobalFlags;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::duration_flag;
use crate::protocol::engine::Wanted;

use super::shared::engine_wish::{Names, Wish, run as run_wish};

/// Take nothing new, and say when nothing runs any more; the engine keeps beating
///
/// Ctrl-C ends the watching, not the drain.
///
/// Exit codes: 0 requested (with --wait: drained, also where --deadline was over), 3 it is to stop and --yes is missing, 4 no such engine, 5 --timeout was over.
#[derive(clap::Args, Debug, Clone)]
#[command(before_help = "Examples:\n  rekindle engine drain app4 --wait --reason \"kernel update\"\n  \
rekindle engine drain --self --deadline 30m --wait && reboot")]
pub struct EngineDrainArgs {
    /// Which.
    #[command(flatten)]
    pub names: Names,
    /// Watch until nothing runs any more; without --timeout for as long as it takes
    #[arg(short, long)]
    pub wait: bool,
    /// Kill and hand back what still runs after this long
    #[arg(long, value_name = "DURATION", value_parser = duration_flag)]
    pub deadline: Option<Duration>,
    /// It ends by itself after this long
    #[arg(long = "for", value_name = "DURATION", value_parser = duration_flag)]
    pub lasts: Option<Duration>,
}

/// Asks for it, and watches.
pub fn run(args: &EngineDrainArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let wish = Wish { wanted: Wanted::Drain, lasts: args.lasts, deadline: args.deadline, wait: args.wait };
    run_wish(&args.names, wish, flags)
}
