//! `rekindle engine clean` (`service clean`): forgets lives that are over. Never needed for takeover.

use std::time::Duration;

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::{age, duration_flag};
use crate::cli::output::{List, Table};
use crate::cli::session::{Access, Session};
use crate::cli::{GlobalFlags, codes, consent, load_config, who};
use crate::health::view::newest_lives;
use crate::protocol::engine::EngineState;
use crate::protocol::ids::EngineName;
use crate::protocol::time::Timestamp;
use crate::store::EngineRow;

use super::shared::engine_json::item;

/// Forget engines that are fenced or stopped and own no task any more; never needed for takeover
///
/// Exit codes: 0, 3 refused (no consent, or the engine is alive or still owns tasks), 4 no such engine.
#[derive(clap::Args, Debug, Clone)]
#[command(
    before_help = "Examples:\n  rekindle engine clean --dry-run\n  rekindle engine clean --older-than 1h --yes --quiet"
)]
pub struct EngineCleanArgs {
    /// Only these
    #[arg(value_name = "NAME")]
    pub names: Vec<EngineName>,
    /// Only what ended longer ago
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration_flag)]
    pub older_than: Duration,
    /// Only say what would be forgotten
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Forgets them.
pub fn run(args: &EngineCleanArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let session = Session::open(flags, &load_config(flags)?, Access::Current)?;
    let (now, rows) = session.read("listing engines", |store| store.engines())?;
    check_names(args, &rows)?;
    let found = candidates(&session, args, now, &rows)?;
    if let Some(busy) = args.names.iter().find(|name| is_busy(name, &rows, &found, now, args.older_than)) {
        let what = format!("{busy} has ended but its tasks are not taken over yet; try again in a moment");
        return Err(CliError::refused(codes::ENGINE_BUSY, what).next(format!("rekindle engine show {busy}")));
    }
    consent::expected(flags, found.len(), "life")?;
    if args.dry_run || found.is_empty() {
        return tell(&found, now, args, flags, args.dry_run);
    }
    consent::moderate(flags, &format!("forget {}", lives(&found, now)))?;
    let (older_than, names, lives) = (args.older_than, args.names.clone(), found);
    let change = who::change("engine clean", flags);
    let gone = session.write("forgetting engines", move |store| {
        // Where no engine is left to do it: a life that owns nothing is closed first.
        for life in &lives {
            store.close(life.incarnation)?;
        }
        store.forget_engines_as(older_than, &names, &change)
    })?;
    tell(&gone, now, args, flags, false)
}

/// Lives that ended long enough ago and own no task.
fn candidates(
    session: &Session,
    args: &EngineCleanArgs,
    now: Timestamp,
    rows: &[EngineRow],
) -> Result<Vec<EngineRow>, CliError> {
    let is_named = |row: &&EngineRow| args.names.is_empty() || args.names.contains(&row.name);
    let over: Vec<EngineRow> =
        rows.iter().filter(is_named).filter(|row| is_over(row, now, args.older_than)).cloned().collect();
    session.read("looking for engines to forget", move |store| {
        let mut found = Vec::new();
        for row in over {
            if store.owned(row.incarnation)?.is_empty() {
                found.push(row);
            }
        }
        Ok(found)
    })
}

fn is_over(row: &EngineRow, now: Timestamp, older_than: Duration) -> bool {
    row.state != EngineState::Live && row.ended_at.is_some_and(|at| now.since(at) >= older_than)
}

fn check_names(args: &EngineCleanArgs, rows: &[EngineRow]) -> Result<(), CliError> {
    let newest = newest_lives(rows);
    for name in &args.names {
        match newest.iter().find(|row| row.name == *name) {
            None => return Err(CliError::no_engine(name.as_str(), newest.iter().map(|row| row.name.as_str()))),
            Some(row) if row.state == EngineState::Live => {
                return Err(CliError::refused(
                    codes::ENGINE_BUSY,
                    format!("engine {name} is alive, so it is not forgotten"),
                )
                .next(format!("rekindle engine stop {name} --wait")));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Ended long enough ago, and yet not among what can be forgotten: it still owns something.
fn is_busy(name: &EngineName, rows: &[EngineRow], found: &[EngineRow], now: Timestamp, older_than: Duration) -> bool {
    let mut over = rows.iter().filter(|row| row.name == *name && is_over(row, now, older_than));
    over.any(|row| !found.iter().any(|gone| gone.incarnation == row.incarnation))
}

/// `app3 (fenced 4m10s ago), app4 (stopped 2d ago)`.
fn lives(rows: &[EngineRow], now: Timestamp) -> String {
    let show = |row: &EngineRow| {
        let ended = row.ended_at.map_or_else(String::new, |at| format!(" {} ago", age(now.since(at))));
        format!("{} ({}{ended})", row.name, row.state)
    };
    let shown: Vec<String> = rows.iter().take(10).map(show).collect();
    let more = if rows.len() > shown.len() { format!(" and {} more", rows.len() - shown.len()) } else { String::new() };
    shown.join(", ") + &more
}

fn tell(
    rows: &[EngineRow],
    now: Timestamp,
    args: &EngineCleanArgs,
    flags: &GlobalFlags,
    is_dry: bool,
) -> Result<Exit, CliError> {
    let count = if rows.len() == 1 { "1 life".to_owned() } else { format!("{} lives", rows.len()) };
    let footer = match (rows.is_empty(), is_dry) {
        (true, _) => format!("nothing to forget: no engine ended more than {} ago", age(args.older_than)),
        (false, true) => format!("would forget {count} of engines: {}", lives(rows, now)),
        (false, false) => format!("forgot {count} of engines: {}", lives(rows, now)),
    };
    if flags.quiet && flags.output.is_for_people() {
        return Ok(Exit::Ok);
    }
    let list = List {
        items: rows.iter().map(|row| item(row, now)).collect(),
        names: rows.iter().map(|row| row.name.to_string()).collect(),
        table: Table::new(&[""]).without_headers(),
        footer: Some(footer),
        ..List::new("rekindle.engine-clean/1", now)
    };
    if is_dry { list.dry_run() } else { list }.print(flags)?;
    Ok(Exit::Ok)
}
