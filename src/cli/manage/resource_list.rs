//! `rekindle resource list`.

use serde_json::{Value, json};

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::plural;
use crate::cli::output::{Cell, List, Table};
use crate::cli::session::{Access, Session};
use crate::cli::{GlobalFlags, load_config};
use crate::store::ResourceRow;

/// Resources in use, or that unfinished tasks name
#[derive(clap::Args, Debug, Clone)]
#[command(
    before_help = "Examples:\n  rekindle resource list\n  rekindle resource list -o jsonl | jq 'select(.line_count > 10)'"
)]
pub struct ResourceListArgs {
    /// At most so many, by name
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

/// A line is counted up to this.
pub(super) const LINE_CAP: u64 = 999;

/// One item of `rekindle.resource-list/1`.
pub(super) fn item(row: &ResourceRow) -> Value {
    json!({
        "resource": row.name,
        "task": row.owner_task,
        "engine": row.engine,
        "token": row.token,
        "line_count": row.line_count,
    })
}

/// Prints the list.
pub fn run(args: &ResourceListArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let session = Session::open(flags, &load_config(flags)?, Access::Current)?;
    let limit = args.limit as usize;
    let (now, mut rows) =
        session.read("listing resources", move |store| Ok((store.meta()?.now, store.resources(limit + 1)?)))?;
    let is_cut = rows.len() > limit;
    rows.truncate(limit);
    let mut table = Table::new(&["RESOURCE", "TASK", "ENGINE", "+TOKEN", "LINE"]);
    for row in &rows {
        table.row([
            row.name.as_str().into(),
            row.owner_task.map_or_else(|| "-".into(), |task| Cell::id(task.to_string(), task.as_i64())),
            row.engine.as_deref().unwrap_or("-").into(),
            row.token.to_string().into(),
            Cell::number(crate::cli::human::capped(row.line_count, LINE_CAP), row.line_count as f64),
        ]);
    }
    let count = plural(rows.len(), "resource");
    List {
        items: rows.iter().map(item).collect(),
        names: rows.iter().map(|row| row.name.to_string()).collect(),
        table,
        footer: Some(if is_cut { format!("showing {count}; there are more: --limit") } else { count }),
        ..List::new("rekindle.resource-list/1", now)
    }
    .print(flags)?;
    Ok(Exit::Ok)
}
