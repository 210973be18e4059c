//! Asking the same of many tasks: selected, counted, consented to, done in batches, and told.
//!
//! One batch is one transaction with its row of history. Between batches others come to their turn, and
//! `--rate` keeps a retry of 100,000 tasks from becoming the next outage. What a batch did stays when a later
//! one fails; the error says how far it came, and the same command goes on where it ended, because what is
//! done already does not fit its selection any more.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::progress::Progress;
use super::rate::{Rate, parse_rate};
use super::which::Which;
use crate::cli::codes;
use crate::cli::consent;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::plural;
use crate::cli::output::{List, Table};
use crate::cli::session::{Access, Session};
use crate::cli::{GlobalFlags, load_config, who};
use crate::clock::{Clock, SystemClock};
use crate::protocol::ids::TaskId;
use crate::protocol::task::TaskState;
use crate::store::{Selected, TaskVerb, VerbOutcome};

/// Flags of the verbs that change tasks.
#[derive(clap::Args, Debug, Clone)]
#[command(about = None, long_about = None)]
pub struct BulkArgs {
    /// Which.
    #[command(flatten)]
    pub which: Which,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Not faster than this, such as 20/s or 100/m
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub rate: Option<Rate>,
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

/// Tasks of one transaction: enough to make its commit cheap, few enough for milliseconds.
const BATCH: usize = 500;
/// Results of more tasks than this are only counted.
const TOLD_MAX: usize = 20;

type Outcomes = Vec<(TaskId, VerbOutcome)>;

/// Selects, asks for consent, does it, tells.
pub fn run(args: &BulkArgs, deed: Deed, flags: &GlobalFlags) -> Result<Exit, CliError> {
    args.which.must_say(deed.word)?;
    let named = args.which.named()?;
    let loaded = load_config(flags)?;
    // One task is done within --timeout; many take as long as they take, each batch within its own time.
    let is_one = args.which.ids.len() == 1 && named.as_ref().is_some_and(|ids| ids.len() == 1);
    let session = match is_one {
        true => Session::open(flags, &loaded, Access::Current)?,
        false => Session::open_patient(flags, &loaded)?,
    };
    let found = if is_one && !args.dry_run && flags.expect.is_none() {
        Vec::new()
    } else {
        args.which.find(&session, named.as_deref(), deed.states)?
    };
    let ids: Vec<TaskId> = named.clone().unwrap_or_else(|| found.iter().map(|task| task.id).collect());
    consent::expected(flags, ids.len(), "task")?;
    if args.dry_run {
        return tell(&foresee(&ids, &found, deed), deed, flags, true);
    }
    if named.is_none() && ids.len() > 1 {
        let again = format!("rekindle task {} ... --dry-run", deed.word);
        consent::bulk(flags, &format!("{} {}", deed.word, counted(&found)), ids.len(), &again)?;
    }
    let outcomes = act(&session, &ids, deed, args.rate, flags)?;
    if deed.verb == TaskVerb::Retry {
        session.wake();
    }
    tell(&outcomes, deed, flags, false)
}

/// `971 tasks (930 failed invoice-mail, 41 failed report)`.
fn counted(found: &[Selected]) -> String {
    let mut counts: BTreeMap<(TaskState, &str), usize> = BTreeMap::new();
    for task in found {
        *counts.entry((task.state, task.kind.as_str())).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let shown: Vec<String> =
        counts.iter().take(5).map(|((state, kind), count)| format!("{count} {state} {kind}")).collect();
    let more = if counts.len() > shown.len() { ", ..." } else { "" };
    format!("{} ({}{more})", plural(found.len(), "task"), shown.join(", "))
}

/// What the real run would be told, from the states as they are now.
fn foresee(ids: &[TaskId], found: &[Selected], deed: Deed) -> Outcomes {
    let states: BTreeMap<TaskId, TaskState> = found.iter().map(|task| (task.id, task.state)).collect();
    let outcome = |id: &TaskId| states.get(id).map_or(VerbOutcome::NotFound, |state| deed.verb.on(*state));
    ids.iter().map(|id| (*id, outcome(id))).collect()
}

fn act(
    session: &Session,
    ids: &[TaskId],
    deed: Deed,
    rate: Option<Rate>,
    flags: &GlobalFlags,
) -> Result<Outcomes, CliError> {
    let mut outcomes = Vec::with_capacity(ids.len());
    let mut change = who::change(&format!("task {}", deed.word), flags);
    let began = SystemClock.lease_now();
    let spent = || SystemClock.lease_now().since(began);
    let mut progress = Progress::new(ids.len(), "task", flags);
    for batch in ids.chunks(rate.map_or(BATCH, |rate| rate.batch(BATCH))) {
        let early = rate.map_or(Duration::ZERO, |rate| rate.due(outcomes.len()).saturating_sub(spent()));
        let left = flags.timeout.map(|limit| limit.saturating_sub(spent()));
        if left.is_some_and(|left| left <= early) {
            progress.end();
            let what = format!("{} of {} done when the time was over", outcomes.len(), plural(ids.len(), "task"));
            return Err(CliError::timeout(what)
                .effect("what was done stays; the rest was not touched")
                .next("the same command again"));
        }
        SystemClock.pause(early);
        let (sent, mine) = (batch.to_vec(), change.clone());
        change = change.next();
        let done = session.write(deed.word, move |store| store.task_verbs(&sent, deed.verb, &mine));
        let done = done.map_err(|error| {
            progress.end();
            match outcomes.len() {
                0 => error,
                done => error.effect(format!("{} done before that stay so", plural(done, "task"))),
            }
        })?;
        outcomes.extend(batch.iter().copied().zip(done));
        progress.at(outcomes.len());
    }
    progress.end();
    Ok(outcomes)
}

const fn is_bad(outcome: VerbOutcome) -> bool {
    matches!(outcome, VerbOutcome::WrongState(_) | VerbOutcome::NotFound)
}

fn tell(outcomes: &Outcomes, deed: Deed, flags: &GlobalFlags, is_dry: bool) -> Result<Exit, CliError> {
    // One task that cannot be helped is an error in words; of many, a part that failed.
    match outcomes.as_slice() {
        [(id, VerbOutcome::NotFound)] => return Err(CliError::no_task(id)),
        [(id, VerbOutcome::WrongState(state))] => {
            let what = format!("{id} is {state}, so {} means nothing", deed.word);
            return Err(CliError::refused(codes::TASK_STATE, what).next(format!("rekindle task show {}", id.as_i64())));
        }
        _ => {}
    }
    let bad = outcomes.iter().filter(|(_, outcome)| is_bad(*outcome)).count();
    let good = plural(outcomes.len() - bad, "task");
    let footer = match bad {
        0 => format!("{}: {good}", deed.word),
        bad => format!("{}: {good}, {bad} could not be", deed.word),
    };
    if !(flags.quiet && flags.output.is_for_people() && bad == 0) {
        let list = list(outcomes, deed, footer);
        if is_dry { list.dry_run() } else { list }.print(flags)?;
    }
    Ok(if bad == 0 { Exit::Ok } else { Exit::Failed })
}

fn list(outcomes: &[(TaskId, VerbOutcome)], deed: Deed, footer: String) -> List {
    let mut table = Table::new(&[""]).without_headers();
    let told = outcomes.iter().filter(|(_, outcome)| outcomes.len() <= TOLD_MAX || is_bad(*outcome));
    for (id, outcome) in told.take(TOLD_MAX) {
        table.row([line(*id, *outcome, deed)]);
    }
    let is_one = outcomes.len() == 1;
    List {
        items: outcomes.iter().map(|(id, outcome)| item(*id, *outcome)).collect(),
        names: outcomes.iter().filter(|(_, o)| !is_bad(*o)).map(|(id, _)| id.as_i64().to_string()).collect(),
        table,
        footer: (!is_one).then_some(footer),
        ..List::new(deed.schema, SystemClock.wall_now())
    }
}

fn line(id: TaskId, outcome: VerbOutcome, deed: Deed) -> String {
    match outcome {
        VerbOutcome::Applied(was) => format!("{id} {was} -> {}", deed.becomes),
        VerbOutcome::Asked => {
            format!("{id} runs: its engine stops it with its next heartbeat, unless it is done before that")
        }
        VerbOutcome::WrongState(state) => format!("{id} is {state}, so {} means nothing", deed.word),
        VerbOutcome::NotFound => format!("{id} not found"),
    }
}

fn item(id: TaskId, outcome: VerbOutcome) -> Value {
    let (word, state) = match outcome {
        VerbOutcome::Applied(was) => ("applied", Some(was)),
        VerbOutcome::Asked => ("asked", Some(TaskState::Running)),
        VerbOutcome::WrongState(state) => ("wrong-state", Some(state)),
        VerbOutcome::NotFound => ("not-found", None),
    };
    json!({"task": id, "outcome": word, "was": state})
}
