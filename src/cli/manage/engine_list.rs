//! `rekindle engine list` (`service list`).

use std::collections::BTreeMap;

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::{age, shorten};
use crate::cli::output::{Cell, List, Table, plural};
use crate::cli::session::{Access, Session};
use crate::cli::{GlobalFlags, load_config};
use crate::health::snapshot::EngineState;
use crate::health::view::{newest_lives, state};
use crate::protocol::time::Timestamp;
use crate::store::EngineRow;

use super::shared::engine_json::{item, note};

/// All engines with their state, newest life of each
#[derive(clap::Args, Debug, Clone, Default)]
#[command(
    before_help = "Examples:\n  rekindle engine list\n  rekindle engine list -o json | jq '.items[] | select(.alive)'"
)]
pub struct EngineListArgs {
    /// Former lives too
    #[arg(long)]
    pub all: bool,
    /// Only engines in this state (starting, active, paused, draining, drained, stuck, starved, late, fenced, stopped)
    #[arg(short, long, value_name = "STATE", value_parser = parse_state)]
    pub state: Vec<EngineState>,
}

fn parse_state(word: &str) -> Result<EngineState, String> {
    EngineState::from_word(word).ok_or_else(|| {
        let words: Vec<&str> = EngineState::ALL.iter().map(|state| state.word()).collect();
        format!("the states are {}", words.join(", "))
    })
}

/// Prints the list.
pub fn run(args: &EngineListArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let session = Session::open(flags, &load_config(flags)?, Access::Current)?;
    let all = args.all;
    let (now, rows) =
        session.read("listing engines", move |store| if all { store.engines() } else { store.newest_engines() })?;
    list(args, now, &rows, flags.utc).print(flags)?;
    Ok(Exit::Ok)
}

fn list(args: &EngineListArgs, now: Timestamp, rows: &[EngineRow], in_utc: bool) -> List {
    let mut shown: Vec<&EngineRow> = if args.all { rows.iter().collect() } else { newest_lives(rows) };
    shown.retain(|row| args.state.is_empty() || args.state.contains(&state(row, now)));
    if args.all {
        shown.sort_by(|a, b| a.name.cmp(&b.name).then(b.registered_at.cmp(&a.registered_at)));
    }
    let mut table = Table::new(&[
        "ENGINE",
        "STATE",
        "+WANTED",
        "BEAT",
        "+LEASE",
        "RUN/SLOTS",
        "+KINDS",
        "+PROTO",
        "VERSION",
        "+RELEASE",
        "+UP",
        "+HOST",
        "+PID",
        "NOTE",
    ]);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &shown {
        let state = state(row, now);
        *counts.entry(state.word()).or_default() += 1;
        table.row(cells(row, state, now, in_utc));
    }
    List {
        items: shown.iter().map(|row| item(row, now)).collect(),
        names: shown.iter().map(|row| row.name.to_string()).collect(),
        table,
        footer: Some(footer(shown.len(), &counts)),
        ..List::new("rekindle.engine-list/1", now)
    }
}

fn cells(row: &EngineRow, state: EngineState, now: Timestamp, in_utc: bool) -> [Cell; 14] {
    let beat = now.since(row.last_beat_at);
    let lease = row.timing.lease().saturating_sub(beat);
    let lease = if row.ended_at.is_none() { Cell::span(age(lease), lease) } else { Cell::default() };
    let up = row.ended_at.unwrap_or(now).since(row.registered_at);
    let kinds = row.kinds.join(",");
    [
        row.name.to_string().into(),
        state.word().into(),
        row.wanted.wanted.word().into(),
        Cell::span(age(beat), beat),
        lease,
        Cell::number(format!("{}/{}", row.running, row.slots), f64::from(row.running)),
        Cell::short(shorten(&kinds, 30), kinds),
        format!("{}-{}", row.protocol.0, row.protocol.1).into(),
        row.version.as_str().into(),
        row.release.as_str().into(),
        Cell::span(age(up), up),
        row.host.as_str().into(),
        Cell::count(row.pid.into()),
        note(row, now, in_utc).into(),
    ]
}

fn footer(count: usize, counts: &BTreeMap<&str, usize>) -> String {
    // In the order of a life, not of the alphabet.
    let parts: Vec<String> = EngineState::ALL
        .iter()
        .filter_map(|state| counts.get(state.word()).map(|count| format!("{count} {state}")))
        .collect();
    let parts = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    format!("{}{parts}", plural(count, "engine"))
}
