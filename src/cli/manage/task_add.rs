//! `rekindle task add`: one task, or many in one transaction. Everything is checked before anything is
//! added.

use std::fs::File;
use std::io::{BufReader, stdin};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::{age, duration_flag, plural, seconds};
use crate::cli::output::{self, List, Table};
use crate::cli::session::{Access, Session};
use crate::cli::{Format, GlobalFlags, consent, load_config, who};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, guess};
use crate::protocol::engine::EngineState;
use crate::protocol::ids::{KindName, ResourceName, TaskId};
use crate::protocol::task::TaskState;
use crate::store::{NewTask, TaskState4Wait};

use super::shared::many::{Common, read, sorted};
use super::shared::payload::{self, refusal};
use super::shared::waiting::wait_from;

/// Add one task, or with --many one per JSON line: {"payload": ..., "resources": [...]}
///
/// Lines may also say "priority" and "delay". All of them are added, or none: at most 100000 lines and
/// 64 MiB in one transaction.
///
/// Exit codes: 0 added (with --wait: all done), 1 a task failed (--wait), 2 bad input, 5 --timeout is over (--wait).
#[derive(clap::Args, Debug, Clone)]
#[command(
    before_help = "Examples:\n  rekindle task add invoice-mail --payload '{\"invoice\": 99813}' --resource invoice-99813 --wait\n  \
jq -c '{payload: ., resources: [.customer]}' orders.json | rekindle task add order --many -"
)]
pub struct TaskAddArgs {
    /// What it does
    #[arg(value_name = "KIND")]
    pub kind: KindName,
    /// What to work on; - reads standard input, @FILE a file [default: empty]
    #[arg(short, long, value_name = "JSON", conflicts_with = "many", allow_hyphen_values = true)]
    pub payload: Option<String>,
    /// One task per JSON line of this file; - is standard input
    #[arg(long, value_name = "FILE")]
    pub many: Option<String>,
    /// Nothing else works on this meanwhile; may be repeated
    #[arg(short, long, value_name = "NAME")]
    pub resource: Vec<ResourceName>,
    /// Higher first
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub priority: i16,
    /// Not before this long from now
    #[arg(long, value_name = "DURATION", value_parser = duration_flag)]
    pub delay: Option<Duration>,
    /// Wait until it has ended
    #[arg(short, long)]
    pub wait: bool,
    /// Check everything, add nothing
    #[arg(short = 'n', long, conflicts_with = "wait")]
    pub dry_run: bool,
}

/// Adds, and waits if asked to.
pub fn run(args: &TaskAddArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let loaded = load_config(flags)?;
    let tasks = gather(args)?;
    if tasks.is_empty() {
        flags.say("added 0 tasks: there were no lines\n")?;
        return Ok(Exit::Ok);
    }
    consent::expected(flags, tasks.len(), "task")?;
    let facts: Vec<(TaskState, Option<Duration>)> = tasks.iter().map(|task| (state_of(task), task.delay)).collect();
    if args.dry_run {
        return rehearse(args, flags, &facts).map(|()| Exit::Ok);
    }
    let session = match args.wait {
        true => Session::open_patient(flags, &loaded)?,
        false => Session::open(flags, &loaded, Access::Current)?,
    };
    note_unknown_kind(&session, &args.kind, &loaded.config);
    note_text(args.payload.as_deref());
    let change = who::change("task add", flags);
    let ids = session.write("adding tasks", move |store| store.add_as(&tasks, &change))?;
    session.wake();
    // One document is what a program can read: with --wait it is the one about the end.
    if !(args.wait && flags.output == Format::Json) {
        report(args, flags, &ids, &facts)?;
    }
    if !args.wait {
        return Ok(Exit::Ok);
    }
    let told = |state| TaskState4Wait { state, attempt: 0, engine: None, error: None };
    let seen = ids.iter().zip(&facts).map(|(id, (state, _))| (*id, told(*state))).collect();
    wait_from(&session, &ids, seen, flags)
}

fn gather(args: &TaskAddArgs) -> Result<Vec<NewTask>, CliError> {
    let resources = sorted(args.resource.clone()).map_err(refusal)?;
    let (kind, priority, delay) = (args.kind.clone(), args.priority, args.delay);
    let Some(many) = &args.many else {
        let payload = args.payload.as_deref().map_or(Ok(Vec::new()), payload::read)?;
        return Ok(vec![NewTask { kind, payload, resources, priority, delay }]);
    };
    let common = Common { kind, priority, delay, resources };
    if many == "-" {
        return read(&mut stdin().lock(), "standard input", &common);
    }
    let path = many.strip_prefix('@').unwrap_or(many);
    let file = File::open(path).map_err(|error| payload::unreadable(path, &error))?;
    read(&mut BufReader::new(file), path, &common)
}

const fn state_of(task: &NewTask) -> TaskState {
    if task.delay.is_some() { TaskState::Waiting } else { TaskState::Ready }
}

/// Kinds of Rust handlers are known to engines only, so an unknown kind is no error; a slip of the
/// keyboard should still be seen.
fn note_unknown_kind(session: &Session, kind: &KindName, config: &Config) {
    if config.kinds.contains_key(kind) {
        return;
    }
    // Whatever goes wrong here goes wrong again, and louder, when the task is added.
    let Ok(Ok((_, engines))) = session.try_read("asking which kinds engines have", |store| store.newest_engines())
    else {
        return;
    };
    let live = engines.iter().filter(|engine| engine.state == EngineState::Live);
    let known: Vec<&str> = live.flat_map(|engine| engine.kinds.iter().map(String::as_str)).collect();
    if !known.contains(&kind.as_str()) {
        let hint = guess::hint(kind.as_str(), config.kinds.keys().map(|kind| kind.as_str()).chain(known));
        output::print_error(&format!(
            "note: kind {kind} is neither in this configuration nor known to a live engine: left for engines that know it{hint}\n"
        ));
    }
}

/// Whoever types a payload most often means JSON, and the shell takes quotes away. A file may hold anything.
fn note_text(typed: Option<&str>) {
    let Some(typed) = typed.filter(|typed| *typed != "-" && !typed.starts_with('@') && !typed.is_empty()) else {
        return;
    };
    if serde_json::from_str::<serde::de::IgnoredAny>(typed).is_err() {
        output::print_error("note: the payload is text, not JSON: the task reads it as it is\n");
    }
}

/// The real run's lines, without the numbers that only the database gives out.
fn rehearse(args: &TaskAddArgs, flags: &GlobalFlags, facts: &[(TaskState, Option<Duration>)]) -> Result<(), CliError> {
    let footer = match facts {
        [(state, None)] => format!("1 task added, {state}"),
        [(state, Some(delay))] => format!("1 task added, {state} for {}", age(*delay)),
        many => format!("added {}", plural(many.len(), "task")),
    };
    let list = List {
        items: facts.iter().map(|fact| item(args, None, fact)).collect(),
        footer: Some(footer),
        ..List::new("rekindle.task-add/1", SystemClock.wall_now())
    };
    if flags.quiet && flags.output.is_for_people() { Ok(()) } else { list.dry_run().print(flags) }
}

fn item(args: &TaskAddArgs, id: Option<TaskId>, (state, delay): &(TaskState, Option<Duration>)) -> Value {
    json!({"task": id, "kind": args.kind, "state": state, "delay_s": delay.map(seconds)})
}

fn report(
    args: &TaskAddArgs,
    flags: &GlobalFlags,
    ids: &[TaskId],
    facts: &[(TaskState, Option<Duration>)],
) -> Result<(), CliError> {
    let list = List {
        items: ids.iter().zip(facts).map(|(id, fact)| item(args, Some(*id), fact)).collect(),
        names: ids.iter().map(|id| id.as_i64().to_string()).collect(),
        table: Table::new(&[""]).without_headers(),
        footer: Some(words(ids, facts)),
        ..List::new("rekindle.task-add/1", SystemClock.wall_now())
    };
    if flags.quiet && flags.output.is_for_people() { Ok(()) } else { list.print(flags) }
}

fn words(ids: &[TaskId], facts: &[(TaskState, Option<Duration>)]) -> String {
    match (ids, facts) {
        ([id], [(state, None)]) => format!("{id} added, {state}"),
        ([id], [(state, Some(delay))]) => format!("{id} added, {state} for {}", age(*delay)),
        ([first, .., last], _) => format!("added {}: {first} to {last}", plural(ids.len(), "task")),
        _ => "added 0 tasks".to_owned(),
    }
}
