//! `rekindle task list`.

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::{age, shorten, when};
use crate::cli::output::{Cell, List, Table, plural};
use crate::cli::session::{Access, Session};
use crate::cli::{GlobalFlags, load_config};
use crate::config::Config;
use crate::protocol::time::Timestamp;
use crate::store::{TaskFilter, TaskRow};

use super::shared::ids::{IdArg, parse_arg, resolve};
use super::shared::select::Selector;
use super::shared::task_json::item;

/// Tasks, newest first; done and canceled ones only with -s
#[derive(clap::Args, Debug, Clone)]
#[command(before_help = "Examples:\n  rekindle task list -s failed -k invoice-mail\n  \
rekindle task list -s failed -o name | rekindle task retry -")]
pub struct TaskListArgs {
    #[command(flatten)]
    /// Which.
    pub selector: Selector,
    /// Only these numbers; - reads them from standard input
    #[arg(value_name = "ID", value_parser = parse_arg)]
    pub ids: Vec<IdArg>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

/// An error longer than this is cut; `task show` has all of it.
const ERROR_MAX: usize = 60;

/// Prints the list.
pub fn run(args: &TaskListArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let ids = resolve(&args.ids)?;
    let loaded = load_config(flags)?;
    let session = Session::open(flags, &loaded, Access::Current)?;
    let limit = args.limit as usize;
    // One more than is shown tells whether there are more.
    let filter = TaskFilter { limit: limit + 1, ids, ..args.selector.filter() };
    let (now, mut rows) = session.read("listing tasks", move |store| store.tasks(&filter))?;
    let is_cut = rows.len() > limit;
    rows.truncate(limit);
    list(&rows, now, is_cut, &loaded.config, flags.utc).print(flags)?;
    if is_cut && !flags.output.is_for_people() {
        log::warn!("only the newest {limit} are listed; more: --limit");
    }
    Ok(Exit::Ok)
}

fn list(rows: &[TaskRow], now: Timestamp, is_cut: bool, config: &Config, in_utc: bool) -> List {
    let mut table = Table::new(&[
        "ID",
        "KIND",
        "STATE",
        "+PRIORITY",
        "ATTEMPT",
        "AGE",
        "+STARTED",
        "+ENDED",
        "+DUE",
        "ENGINE",
        "+TOKEN",
        "RESOURCES",
        "ERROR",
    ]);
    for row in rows {
        table.row(cells(row, now, config, in_utc));
    }
    let count = plural(rows.len(), "task");
    let footer = if is_cut { format!("showing the newest {count}; there are more: --limit") } else { count };
    List {
        items: rows.iter().map(|row| item(row, now)).collect(),
        names: rows.iter().map(|row| row.id.as_i64().to_string()).collect(),
        table,
        footer: Some(footer),
        ..List::new("rekindle.task-list/1", now)
    }
}

fn cells(row: &TaskRow, now: Timestamp, config: &Config, in_utc: bool) -> [Cell; 13] {
    let time = |at: Option<Timestamp>| at.map_or_else(Cell::default, |at| Cell::time(when(at, in_utc), at));
    let added = now.since(row.created_at);
    let error = row.error.as_deref().unwrap_or_default();
    let names: Vec<&str> = row.resources.iter().map(|name| name.as_str()).collect();
    [
        Cell::id(row.id.to_string(), row.id.as_i64()),
        row.kind.as_str().into(),
        row.state.word().into(),
        Cell::number(row.priority.to_string(), f64::from(row.priority)),
        Cell::number(attempts(row, config), f64::from(row.attempt)),
        Cell::span(age(added), added),
        time(row.started_at),
        time(row.ended_at),
        time(row.due_at),
        row.engine.clone().unwrap_or_default().into(),
        row.token.to_string().into(),
        Cell::short(resources(row), names.join(",")),
        Cell::short(shorten(error, ERROR_MAX), error),
    ]
}

/// `2/6` where the kind is known here, else `2`.
fn attempts(row: &TaskRow, config: &Config) -> String {
    match config.kinds.get(&row.kind) {
        Some(kind) => format!("{}/{}", row.attempt, kind.retry.max.max(1)),
        None => row.attempt.to_string(),
    }
}

fn resources(row: &TaskRow) -> String {
    match row.resources.as_slice() {
        [] => String::new(),
        [only] => shorten(only.as_str(), 30),
        [first, rest @ ..] => format!("{} +{}", shorten(first.as_str(), 26), rest.len()),
    }
}
