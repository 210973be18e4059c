//! `rekindle history`: who changed what, when and why. Attempts and takeovers are the engines' doing and
//! stand with their tasks.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::{duration_flag, plural, rfc3339, shorten, when};
use crate::cli::output::{Cell, List, Table};
use crate::cli::session::{Access, Session};
use crate::cli::{GlobalFlags, load_config};
use crate::protocol::time::Timestamp;
use crate::store::{HistoryEntry, HistoryFilter};

/// Who changed what, when and why, newest first
///
/// Exit codes: 0.
#[derive(clap::Args, Debug, Clone)]
#[command(
    before_help = "Examples:\n  rekindle history --since 2d\n  rekindle history --object app4\n  rekindle history --object 4812 --by alice"
)]
pub struct HistoryArgs {
    /// About this engine or task (a name, or a number such as 4812), or about schema or epoch
    #[arg(long, value_name = "OBJECT")]
    pub object: Option<String>,
    /// By this person: alice, or alice@host
    #[arg(long, value_name = "WHO")]
    pub by: Option<String>,
    /// Not older than this
    #[arg(long, value_name = "DURATION", value_parser = duration_flag)]
    pub since: Option<Duration>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

/// A reason longer than this is cut; `-o tsv` and `-o json` have all of it.
const REASON_MAX: usize = 60;

/// Prints the list.
pub fn run(args: &HistoryArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let session = Session::open(flags, &load_config(flags)?, Access::Current)?;
    let limit = args.limit as usize;
    // One more than is shown tells whether there are more.
    let (object, by) = (args.object.clone(), args.by.clone());
    let filter = HistoryFilter { object, by, since: args.since, limit: limit + 1 };
    let (now, mut entries) = session.read("reading the history", move |store| store.history(&filter))?;
    let is_cut = entries.len() > limit;
    entries.truncate(limit);
    list(&entries, now, is_cut, flags.utc).print(flags)?;
    if is_cut && !flags.output.is_for_people() {
        log::warn!("only the newest {limit} are listed; more: --limit");
    }
    Ok(Exit::Ok)
}

fn list(entries: &[HistoryEntry], now: Timestamp, is_cut: bool, in_utc: bool) -> List {
    let mut table =
        Table::new(&["WHEN", "WHO", "+PROGRAM", "+VERSION", "VERB", "OBJECT", "COUNT", "CHANGE", "UNTIL", "REASON"]);
    for entry in entries {
        table.row(cells(entry, in_utc));
    }
    let count = match entries.len() {
        1 => "1 change".to_owned(),
        many => plural(many, "change"),
    };
    let footer = if is_cut { format!("showing the newest {count}; there are more: --limit") } else { count };
    List {
        items: entries.iter().map(item).collect(),
        names: entries.iter().map(|entry| entry.object.clone()).collect(),
        table,
        footer: Some(footer),
        ..List::new("rekindle.history/1", now)
    }
}

fn cells(entry: &HistoryEntry, in_utc: bool) -> [Cell; 10] {
    let change = match (&entry.old, &entry.new) {
        (Some(old), Some(new)) => format!("{old} -> {new}"),
        (old, new) => old.clone().or_else(|| new.clone()).unwrap_or_default(),
    };
    let reason = entry.reason.as_deref().unwrap_or_default();
    [
        Cell::time(when(entry.at, in_utc), entry.at),
        entry.by.as_str().into(),
        entry.program.as_str().into(),
        entry.version.as_str().into(),
        entry.verb.as_str().into(),
        entry.object.as_str().into(),
        Cell::count(entry.count),
        Cell::short(shorten(&change, REASON_MAX), change.as_str()),
        entry.until.map_or_else(Cell::default, |until| Cell::time(when(until, in_utc), until)),
        Cell::short(shorten(reason, REASON_MAX), reason),
    ]
}

/// One item of `rekindle.history/1`.
fn item(entry: &HistoryEntry) -> Value {
    json!({
        "at": rfc3339(entry.at),
        "by": entry.by,
        "host": entry.host,
        "program": entry.program,
        "version": entry.version,
        "verb": entry.verb,
        "object": entry.object,
        "task_first": entry.tasks.map(|(first, _)| first),
        "task_last": entry.tasks.map(|(_, last)| last),
        "count": entry.count,
        "old": entry.old,
        "new": entry.new,
        "reason": entry.reason,
        "until": entry.until.and_then(rfc3339),
    })
}
