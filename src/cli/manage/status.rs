//! `rekindle status`: one screen. Problems come last, because eyes rest at the end of the output; they are
//! the same that `rekindle-check` judges.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::{age, one_line, rfc3339, seconds, when};
use crate::cli::output;
use crate::cli::session::{Access, Session};
use crate::cli::{Format, GlobalFlags, codes, load_config};
use crate::config::Loaded;
use crate::health::check::{Mode, Status};
use crate::health::gather::{Answers, Progress, ask, configured, connections};
use crate::health::problems::{Problem, problems};
use crate::health::snapshot::{ClusterSnapshot, DbView, EngineState, EngineView};
use crate::health::thresholds::{ProblemLimits, Thresholds};
use crate::health::view::{Surroundings, snapshot};
use crate::health::words::fine_span;
use crate::store::ServerInfo;

use super::shared::last_hour::LastHour;

/// Is everything fine? Engines, tasks, the last hour, and problems with the next command
///
/// Exit codes: 0; with --exit-code as rekindle-check: 0 fine, 1 warning, 2 critical; 69 database unreachable.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(before_help = "Examples:\n  rekindle status\n  rekindle status -o json | jq .problems")]
pub struct StatusArgs {
    /// Exit 1 for warnings and 2 for what is critical
    #[arg(long)]
    pub exit_code: bool,
}

/// More problems than this are only counted.
const PROBLEMS_MAX: usize = 10;

/// Prints it.
pub fn run(args: &StatusArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let loaded = load_config(flags)?;
    let limits = limits(&loaded)?;
    let session = Session::open(flags, &loaded, Access::Current)?;
    let answers = session.read("asking for the state of the cluster", |store| ask(store, &Progress::default()))?;
    let Answers { info, db, status, .. } = answers;
    let Some(status) = status else { return Err(CliError::schema_too_old("the database's schema does not fit")) };
    let utc_offset_s = if flags.utc { 0 } else { chrono::Local::now().offset().local_minus_utc() };
    let db = DbView { connections: connections(&info, &loaded), ..db };
    let snapshot = snapshot(&status, Surroundings { cluster: session.cluster().to_owned(), utc_offset_s, db });
    let found = problems(&snapshot, &limits);
    let last = LastHour::read(&session, snapshot.now);
    output::print(&match flags.output {
        Format::Table | Format::Wide => text(&snapshot, &info, &found, &last, flags),
        Format::Json => output::document("rekindle.status/1", snapshot.now, &fields(&snapshot, &info, &found, &last)),
        Format::Jsonl => output::line(&fields(&snapshot, &info, &found, &last)),
        Format::Tsv => output::tsv_fields(&fields(&snapshot, &info, &found, &last)),
        Format::Name => format!("{}\n", worst(&found).word()),
    })?;
    Ok(match (args.exit_code, worst(&found)) {
        (false, _) | (true, Status::Ok) => Exit::Ok,
        (true, Status::Warning) => Exit::Failed,
        (true, Status::Critical | Status::Unknown) => Exit::Usage,
    })
}

/// What `[check.overall]` says, so that the screen and the pager never disagree.
fn limits(loaded: &Loaded) -> Result<ProblemLimits, CliError> {
    let settings = configured(loaded, Mode::Overall);
    let limits = settings.and_then(|s| Thresholds::resolve(Mode::Overall, &s, None).map_err(|error| error.to_string()));
    limits.map(|thresholds| thresholds.problems).map_err(|text| {
        CliError::new(codes::CONFIG, Exit::Config, text).effect("nothing was changed").next("rekindle config check")
    })
}

fn worst(found: &[Problem]) -> Status {
    Status::worst(found.iter().map(|problem| problem.severity))
}

fn text(
    snapshot: &ClusterSnapshot,
    info: &ServerInfo,
    found: &[Problem],
    last: &LastHour,
    flags: &GlobalFlags,
) -> String {
    let db = &snapshot.db;
    let mut text = format!(
        "{}   {} at {}, schema {} ok, clock skew {}   {}\n\n",
        one_line(&snapshot.cluster),
        one_line(&info.product),
        one_line(&info.place),
        db.schema,
        fine_span(db.clock_skew),
        when(snapshot.now, flags.utc)
    );
    text.push_str(&format!("ENGINES   {}\n", engines_line(&snapshot.current_engines())));
    text.push_str(&format!("TASKS     {}\n", tasks_line(snapshot)));
    let normal = last.normal_failed.map_or_else(String::new, |normal| format!(" (normal {normal})"));
    text.push_str(&format!(
        "LAST 1h   {} done   {} failed{normal}   {} taken over   {} fenced\n",
        snapshot.done_1h, snapshot.failures_1h, snapshot.takeovers_1h, snapshot.fences_1h
    ));
    text.extend(last.line(flags.utc).map(|line| format!("HOURS     {line}\n")));
    if found.is_empty() {
        return text + "\nno problems\n";
    }
    text.push_str("\nPROBLEMS\n");
    for problem in found.iter().take(PROBLEMS_MAX) {
        text.push_str(&format!(
            "  {:<8}  {}\n            -> {}\n",
            problem.severity.word(),
            // Reasons and errors are what people and tasks wrote.
            one_line(&problem.text),
            one_line(&flags.command(&problem.next))
        ));
    }
    match found.len().saturating_sub(PROBLEMS_MAX) {
        0 => text,
        more => text + &flags.command(&format!("  and {more} more: rekindle status -o json\n")),
    }
}

fn engines_line(engines: &[&EngineView]) -> String {
    if engines.is_empty() {
        return "none known yet".to_owned();
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for engine in engines {
        *counts.entry(engine.state.word()).or_default() += 1;
    }
    let counted = EngineState::ALL.iter().filter_map(|state| Some(format!("{} {state}", counts.get(state.word())?)));
    let alive = engines.iter().filter(|engine| engine.is_alive);
    let (busy, slots) = alive.fold((0, 0), |(busy, slots), engine| (busy + engine.running, slots + engine.slots));
    let counted: Vec<String> = counted.collect();
    format!("{} known: {}   slots {busy} of {slots} busy", engines.len(), counted.join("  "))
}

fn tasks_line(snapshot: &ClusterSnapshot) -> String {
    let tasks = &snapshot.tasks;
    let oldest = |age_of: Option<std::time::Duration>| {
        age_of.map_or_else(String::new, |span| format!(" (oldest {})", age(span)))
    };
    let mut parts = vec![
        format!("{} ready{}", tasks.ready, oldest(snapshot.oldest_ready_age)),
        format!("{} waiting", tasks.waiting),
        format!("{} running{}", tasks.running, oldest(snapshot.oldest_running_age)),
    ];
    let rest = [
        (tasks.blocked, "blocked"),
        (tasks.failed, "failed"),
        (tasks.quarantined, "quarantined"),
        (tasks.interrupted, "interrupted"),
        (tasks.held, "held"),
    ];
    parts.extend(rest.iter().filter(|(count, _)| !count.is_zero()).map(|(count, word)| format!("{count} {word}")));
    parts.join("   ")
}

fn fields(
    snapshot: &ClusterSnapshot,
    info: &ServerInfo,
    found: &[Problem],
    last: &LastHour,
) -> Vec<(&'static str, Value)> {
    let tasks = &snapshot.tasks;
    let problem = |problem: &Problem| json!({"severity": problem.severity, "text": problem.text, "next": problem.next});
    let is_capped = [
        tasks.ready,
        tasks.waiting,
        tasks.blocked,
        tasks.running,
        tasks.failed,
        tasks.quarantined,
        tasks.interrupted,
        tasks.held,
    ]
    .iter()
    .any(|count| count.is_capped);
    vec![
        ("cluster", json!(snapshot.cluster)),
        ("status", json!(worst(found))),
        (
            "database",
            json!({
                "product": info.product,
                "place": info.place,
                "identity": info.identity,
                "schema": snapshot.db.schema,
                "read_only": info.read_only,
                "round_trip_s": snapshot.db.round_trip.as_secs_f64(),
                "clock_skew_s": snapshot.db.clock_skew.as_secs_f64(),
            }),
        ),
        ("engines", engine_items(snapshot)),
        (
            "tasks",
            json!({
                "ready": tasks.ready.count,
                "waiting": tasks.waiting.count,
                "blocked": tasks.blocked.count,
                "running": tasks.running.count,
                "failed": tasks.failed.count,
                "quarantined": tasks.quarantined.count,
                "interrupted": tasks.interrupted.count,
                "held": tasks.held.count,
                "is_capped": is_capped,
                "oldest_ready_s": snapshot.oldest_ready_age.map(seconds),
                "oldest_running_s": snapshot.oldest_running_age.map(seconds),
            }),
        ),
        (
            "last_hour",
            json!({
                "done": snapshot.done_1h,
                "failed": snapshot.failures_1h,
                "normal_failed": last.normal_failed,
                "taken_over": snapshot.takeovers_1h,
                "fenced": snapshot.fences_1h,
            }),
        ),
        ("hours", last.items()),
        ("problems", found.iter().map(problem).collect()),
    ]
}

fn engine_items(snapshot: &ClusterSnapshot) -> Value {
    let item = |engine: &&EngineView| {
        json!({
            "engine": engine.name,
            "incarnation": engine.incarnation.to_string(),
            "state": engine.state,
            "wanted": engine.wanted,
            "alive": engine.is_alive,
            "beat_age_s": seconds(engine.beat_age),
            "running": engine.running,
            "slots": engine.slots,
            "fenced_at": engine.fenced_at.and_then(rfc3339),
            "proof": engine.proof,
            "taken_over": engine.taken_over,
            "version": engine.version,
            "host": engine.host,
            "note": engine.note,
            "set_by": engine.set_by,
            "set_at": engine.set_at.and_then(rfc3339),
            "set_until": engine.set_until.and_then(rfc3339),
        })
    };
    snapshot.current_engines().iter().map(item).collect()
}
