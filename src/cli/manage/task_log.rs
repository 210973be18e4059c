//! `rekindle task log ID`.

use std::io::IsTerminal;

use serde_json::json;

use crate::cli::codes;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::output;
use crate::cli::session::{Access, Session};
use crate::cli::{Format, GlobalFlags, load_config};
use crate::clock::{Clock, SystemClock};
use crate::config::units::show_size;
use crate::protocol::ids::TaskId;

use super::shared::ids::parse_id;
use super::shared::payload::printable;

/// What an attempt printed: the last bytes that were kept, of the last attempt that printed something
///
/// Exit codes: 0, 4 no such task.
#[derive(clap::Args, Debug, Clone)]
#[command(before_help = "Examples:\n  rekindle task log 4812\n  rekindle task log 4812 --attempt 2")]
pub struct TaskLogArgs {
    /// Its number
    #[arg(value_name = "ID", value_parser = parse_id)]
    pub id: TaskId,
    /// Which attempt, from 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub attempt: Option<u32>,
}

/// Prints it.
pub fn run(args: &TaskLogArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let session = Session::open(flags, &load_config(flags)?, Access::Current)?;
    let (id, attempt) = (args.id, args.attempt);
    let (is_known, made, row) = session.read("reading output", move |store| {
        let row = store.output(id, attempt)?;
        let task = store.task(id)?.map(|(task, _)| task);
        Ok((row.is_some() || task.is_some(), task.map(|task| task.attempt), row))
    })?;
    if !is_known {
        return Err(CliError::no_task(id));
    }
    if let (Some(attempt), Some(made), true) = (attempt, made, row.is_none())
        && !(1..=made).contains(&attempt)
    {
        let what = format!("{id} has no attempt {attempt}; there were {made}");
        return Err(
            CliError::new(codes::NO_TASK, Exit::NotFound, what).next(format!("rekindle task show {}", id.as_i64()))
        );
    }
    let text = row.as_ref().map(|row| String::from_utf8_lossy(&row.output).into_owned());
    if let Some(row) = row.as_ref().filter(|row| row.dropped > 0) {
        log::warn!("{} before this were not kept", show_size(row.dropped));
    }
    if row.is_none() {
        log::warn!(
            "no output is kept of {}",
            attempt.map_or_else(|| id.to_string(), |n| format!("attempt {n} of {id}"))
        );
    }
    let fields = [
        ("task", json!(id)),
        ("attempt", json!(row.as_ref().map(|row| row.attempt))),
        ("dropped_bytes", json!(row.as_ref().map(|row| row.dropped))),
        ("output", json!(text)),
    ];
    let text = text.unwrap_or_default();
    output::print(&match flags.output {
        Format::Json => output::document("rekindle.task-log/1", SystemClock.wall_now(), &fields),
        Format::Jsonl => output::line(&fields),
        Format::Tsv => output::tsv_fields(&fields),
        // A task's output must not drive the terminal; into a file it goes as it is.
        _ if std::io::stdout().is_terminal() => {
            // The prompt begins a line of its own.
            let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            printable(&text) + end
        }
        _ => text,
    })?;
    Ok(Exit::Ok)
}
