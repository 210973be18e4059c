//! Asking the same of many tasks, one transaction each, and telling what came of it.

use serde_json::{Value, json};

use super::ids::{IdArg, resolve};
use super::select::Selector;
use crate::cli::codes;
use crate::cli::consent;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::plural;
use crate::cli::output::{List, Table};
use crate::cli::session::{Access, Session};
use crate::cli::{Format, GlobalFlags, load_config};
use crate::clock::{Clock, SystemClock};
use crate::protocol::ids::TaskId;
use crate::protocol::task::TaskState;
use crate::store::{TaskFilter, TaskVerb, VerbOutcome};

/// Flags of the verbs that change tasks.
#[derive(clap::Args, Debug, Clone)]
#[command(about = None, long_about = None)]
pub struct BulkArgs {
    /// Numbers; - reads them from standard input
    #[arg(value_name = "ID", value_parser = super::ids::parse_arg, conflicts_with_all = ["state", "kind", "resource", "engine", "all", "limit"])]
    pub ids: Vec<IdArg>,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Selectors.
    #[command(flatten)]
    pub selector: Selector,
    /// Everything that the verb makes sense for
    #[arg(long, help_heading = "Which tasks")]
    pub all: bool,
    /// At most so many, the newest
    #[arg(long, value_name = "N", help_heading = "Which tasks", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: Option<u32>,
}

/// What the two verbs differ in.
#[derive(Debug, Clone, Copy)]
pub struct Deed {
    /// What the store is asked.
    pub verb: TaskVerb,
    /// `retry`.
    pub word: &'static str,
    /// `ready`.
    pub becomes: TaskState,
    /// States that are meant where none is selected.
    pub states: &'static [TaskState],
    /// The schema of the JSON output.
    pub schema: &'static str,
}

/// Tasks of one selection; more are done by a second call.
const SELECT_MAX: usize = 100_000;
/// Results of more tasks than this are only counted.
const TOLD_MAX: usize = 20;

/// Selects, asks for consent, does it, tells.
pub fn run(args: &BulkArgs, deed: Deed, flags: &GlobalFlags) -> Result<Exit, CliError> {
    if args.ids.is_empty() && args.selector.is_empty() && !args.all {
        let what = format!(
            "which tasks? name them, select them (-s, -k, -e, --resource), or write --all to {} everything",
            deed.word
        );
        return Err(CliError::usage(what).next(format!("rekindle task {} --help", deed.word)));
    }
    let named = resolve(&args.ids)?;
    let loaded = load_config(flags)?;
    // One task is done within --timeout; many take as long as they take, each within its own time.
    let is_one = args.ids.len() == 1 && named.len() == 1;
    let session = match is_one {
        true => Session::open(flags, &loaded, Access::Current)?,
        false => Session::open_patient(flags, &loaded)?,
    };
    let ids = if args.ids.is_empty() { select(args, deed, &session)? } else { named };
    if args.dry_run {
        return dry_run(&ids, deed, flags);
    }
    if args.ids.is_empty() && ids.len() > 1 {
        consent::moderate(flags, &format!("{} {}", deed.word, plural(ids.len(), "task")))?;
    }
    let outcomes = act(&session, &ids, deed, flags)?;
    if deed.verb == TaskVerb::Retry {
        session.wake();
    }
    tell(&outcomes, deed, flags)
}

fn select(args: &BulkArgs, deed: Deed, session: &Session) -> Result<Vec<TaskId>, CliError> {
    let mut filter =
        TaskFilter { limit: args.limit.map_or(SELECT_MAX, |limit| limit as usize), ..args.selector.filter() };
    if filter.states.is_empty() {
        filter.states = deed.states.to_vec();
    }
    let (_, rows) = session.read("selecting tasks", move |store| store.tasks(&filter))?;
    // The oldest first, as they would have run.
    Ok(rows.iter().rev().map(|row| row.id).collect())
}

fn dry_run(ids: &[TaskId], deed: Deed, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let mut text = format!("would {} {}   (dry run)\n", deed.word, plural(ids.len(), "task"));
    for id in ids.iter().take(TOLD_MAX) {
        text.push_str(&format!("{id}\n"));
    }
    if ids.len() > TOLD_MAX {
        text.push_str(&format!("and {} more\n", ids.len() - TOLD_MAX));
    }
    match flags.output {
        Format::Table => flags.say(&text)?,
        _ => {
            let rows: Vec<_> = ids.iter().map(|id| (*id, None)).collect();
            list(&rows, deed, String::new()).print(flags)?;
        }
    }
    Ok(Exit::Ok)
}

type Outcomes = Vec<(TaskId, Option<VerbOutcome>)>;

fn act(session: &Session, ids: &[TaskId], deed: Deed, flags: &GlobalFlags) -> Result<Outcomes, CliError> {
    let mut outcomes = Vec::with_capacity(ids.len());
    let began = SystemClock.lease_now();
    for id in ids.iter().copied() {
        if flags.timeout.is_some_and(|limit| SystemClock.lease_now().since(began) >= limit) {
            let what = format!("{} of {} done when the time was over", outcomes.len(), plural(ids.len(), "task"));
            return Err(CliError::timeout(what)
                .effect("what was done stays; the rest was not touched")
                .next("the same command again"));
        }
        let outcome = session.write(deed.word, move |store| store.task_verb(id, deed.verb)).map_err(|error| {
            let done = outcomes.len();
            if done == 0 { error } else { error.effect(format!("{} done before that stay so", plural(done, "task"))) }
        })?;
        outcomes.push((id, Some(outcome)));
    }
    Ok(outcomes)
}

fn tell(outcomes: &Outcomes, deed: Deed, flags: &GlobalFlags) -> Result<Exit, CliError> {
    // One task that cannot be helped is an error in words; of many, a part that failed.
    match outcomes.as_slice() {
        [(id, Some(VerbOutcome::NotFound))] => return Err(CliError::no_task(id)),
        [(id, Some(VerbOutcome::WrongState(state)))] => {
            let what = format!("{id} is {state}, so {} means nothing", deed.word);
            return Err(CliError::refused(codes::TASK_STATE, what).next(format!("rekindle task show {}", id.as_i64())));
        }
        _ => {}
    }
    let good =
        outcomes.iter().filter(|(_, outcome)| matches!(outcome, Some(VerbOutcome::Applied(_) | VerbOutcome::Asked)));
    let good = good.count();
    let bad = outcomes.len() - good;
    let footer = match bad {
        0 => format!("{}: {}", deed.word, plural(good, "task")),
        bad => format!("{}: {}, {bad} could not be", deed.word, plural(good, "task")),
    };
    if !(flags.quiet && flags.output == Format::Table && bad == 0) {
        list(outcomes, deed, footer).print(flags)?;
    }
    Ok(if bad == 0 { Exit::Ok } else { Exit::Failed })
}

fn list(outcomes: &[(TaskId, Option<VerbOutcome>)], deed: Deed, footer: String) -> List {
    let mut table = Table::new(&[""]).without_headers();
    let is_bad =
        |outcome: &Option<VerbOutcome>| matches!(outcome, Some(VerbOutcome::WrongState(_) | VerbOutcome::NotFound));
    let told = outcomes.iter().filter(|(_, outcome)| outcomes.len() <= TOLD_MAX || is_bad(outcome));
    for (id, outcome) in told.take(TOLD_MAX) {
        table.row([line(*id, *outcome, deed)]);
    }
    let is_one = outcomes.len() == 1;
    List {
        schema: deed.schema,
        now: SystemClock.wall_now(),
        items: outcomes.iter().map(|(id, outcome)| item(*id, *outcome)).collect(),
        names: outcomes.iter().filter(|(_, outcome)| !is_bad(outcome)).map(|(id, _)| id.as_i64().to_string()).collect(),
        table,
        footer: (!is_one).then_some(footer),
    }
}

fn line(id: TaskId, outcome: Option<VerbOutcome>, deed: Deed) -> String {
    match outcome {
        None => id.to_string(),
        Some(VerbOutcome::Applied(was)) => format!("{id} {was} -> {}", deed.becomes),
        Some(VerbOutcome::Asked) => format!("{id} runs: its engine stops it with its next heartbeat"),
        Some(VerbOutcome::WrongState(state)) => format!("{id} is {state}, so {} means nothing", deed.word),
        Some(VerbOutcome::NotFound) => format!("{id} not found"),
    }
}

fn item(id: TaskId, outcome: Option<VerbOutcome>) -> Value {
    let (word, state) = match outcome {
        None => ("dry-run", None),
        Some(VerbOutcome::Applied(was)) => ("applied", Some(was)),
        Some(VerbOutcome::Asked) => ("asked", Some(TaskState::Running)),
        Some(VerbOutcome::WrongState(state)) => ("wrong-state", Some(state)),
        Some(VerbOutcome::NotFound) => ("not-found", None),
    };
    json!({"task": id, "outcome": word, "was": state})
}
