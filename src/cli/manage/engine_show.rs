//! `rekindle engine show NAME`.

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::{age, took, when};
use crate::cli::output::{self, Table};
use crate::cli::session::{Access, Session};
use crate::cli::{Format, GlobalFlags, load_config};
use crate::config::units::show_duration;
use crate::health::view::{newest_lives, state};
use crate::protocol::engine::EngineState;
use crate::protocol::ids::EngineName;
use crate::protocol::task::TaskState;
use crate::protocol::time::Timestamp;
use crate::store::{EngineRow, TaskFilter, TaskRow};

use super::shared::engine_json::{item, note};
use super::shared::task_json;

/// Everything about one engine: state, timing, what it runs, former lives
///
/// Exit codes: 0, 4 no such engine.
#[derive(clap::Args, Debug, Clone)]
#[command(before_help = "Examples:\n  rekindle engine show app1\n  rekindle engine show app1 -o json")]
pub struct EngineShowArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    pub name: EngineName,
}

/// Running tasks that are listed.
const TASKS_MAX: usize = 20;

/// Prints it.
pub fn run(args: &EngineShowArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let session = Session::open(flags, &load_config(flags)?, Access::Current)?;
    let (now, rows) = session.read("listing engines", |store| store.engines())?;
    let newest = newest_lives(&rows);
    let Some(row) = newest.iter().find(|row| row.name == args.name) else {
        return Err(CliError::no_engine(args.name.as_str(), newest.iter().map(|row| row.name.as_str())));
    };
    let filter = TaskFilter {
        states: vec![TaskState::Running],
        engine: Some(args.name.clone()),
        limit: TASKS_MAX,
        ..TaskFilter::default()
    };
    let (_, tasks) = session.read("listing its tasks", move |store| store.tasks(&filter))?;
    let lives: Vec<&EngineRow> = rows.iter().filter(|other| other.name == args.name).collect();
    output::print(&render(row, &lives, &tasks, now, flags))?;
    Ok(Exit::Ok)
}

fn render(row: &EngineRow, lives: &[&EngineRow], tasks: &[TaskRow], now: Timestamp, flags: &GlobalFlags) -> String {
    let former: Vec<_> = lives.iter().filter(|life| life.incarnation != row.incarnation).collect();
    let fields = || {
        [
            ("engine", item(row, now)),
            ("tasks", tasks.iter().map(|task| task_json::item(task, now)).collect()),
            ("former", former.iter().map(|life| item(life, now)).collect()),
        ]
    };
    match flags.output {
        Format::Json => output::document("rekindle.engine/1", now, &fields()),
        Format::Jsonl => output::line(&fields()),
        Format::Tsv => output::tsv_fields(&fields()),
        Format::Name => format!("{}\n", row.name),
        Format::Table | Format::Wide => {
            let mut text = facts(row, now, flags.utc).without_headers().render(false);
            if !tasks.is_empty() {
                text.push_str(&running(tasks, now).render(!flags.no_headers));
            }
            if !former.is_empty() {
                text.push_str(&former_lives(&former, now, flags.utc).render(!flags.no_headers));
            }
            text
        }
    }
}

fn facts(row: &EngineRow, now: Timestamp, in_utc: bool) -> Table {
    let since = |at: Timestamp| format!("{} ({} ago)", when(at, in_utc), age(now.since(at)));
    let timing = &row.timing;
    // Exactly: 12.5s is not 12s.
    let ms = show_duration;
    let mut table = Table::new(&["", ""]);
    let note = note(row, now, in_utc);
    let state = state(row, now).to_string();
    table.row(["Engine", row.name.as_str()]);
    table.row(["State", &if note.is_empty() { state } else { format!("{state}: {note}") }]);
    table.row(["Wanted", row.wanted.wanted.word()]);
    if let Some(deadline) = row.wanted.deadline {
        table.row(["Deadline", &when(deadline, in_utc)]);
    }
    table.row(["Last beat", &format!("{} ago (beat {})", took(now.since(row.last_beat_at)), row.beat)]);
    if row.state == EngineState::Live {
        let left = timing.lease().saturating_sub(now.since(row.last_beat_at));
        table.row(["Lease", &format!("{} left of {}", took(left), took(timing.lease()))]);
    }
    table.row(["Running", &format!("{} of {} slots", row.running, row.slots)]);
    table.row(["Refused", &format!("{} results that came too late", row.refused)]);
    table.row(["Kinds", &row.kinds.join(", ")]);
    table.row(["Host", &format!("{}, pid {}, boot {}", row.host, row.pid, row.boot_id)]);
    table.row(["Version", &format!("{}, protocol {}-{}", row.version, row.protocol.0, row.protocol.1)]);
    table.row(["Release", row.release.as_str()]);
    table.row(["Kills by", row.means.as_str()]);
    table.row([
        "Timing",
        &format!(
            "h {}, q {}, L {}, K {}, T {}, S {}",
            ms(timing.heartbeat_interval()),
            ms(timing.query_timeout()),
            ms(timing.lease()),
            ms(timing.kill_budget()),
            ms(timing.takeover_after()),
            ms(timing.sweep_interval())
        ),
    ]);
    table.row(["Registered", &since(row.registered_at)]);
    if let Some(at) = row.ended_at {
        table.row(["Ended", &since(at)]);
    }
    table.row(["Incarnation", &row.incarnation.to_string()]);
    table
}

fn running(tasks: &[TaskRow], now: Timestamp) -> Table {
    let mut table = Table::new(&["TASK", "KIND", "ATTEMPT", "RUNS"]);
    for task in tasks {
        let runs = task.started_at.map_or_else(|| "-".to_owned(), |at| age(now.since(at)));
        table.row([task.id.to_string(), task.kind.to_string(), task.attempt.to_string(), runs]);
    }
    table
}

fn former_lives(former: &[&&EngineRow], now: Timestamp, in_utc: bool) -> Table {
    let mut table = Table::new(&["FORMER LIFE", "STATE", "REGISTERED", "ENDED", "NOTE"]);
    for life in former.iter().take(TASKS_MAX) {
        table.row([
            life.incarnation.to_string(),
            life.state.to_string(),
            when(life.registered_at, in_utc),
            life.ended_at.map_or_else(|| "-".to_owned(), |at| when(at, in_utc)),
            note(life, now, in_utc),
        ]);
    }
    table
}
