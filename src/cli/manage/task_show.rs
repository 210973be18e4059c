//! `rekindle task show ID`.

use serde_json::{Value, json};

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::{age, one_line, shorten, took, when};
use crate::cli::output::{self, Table};
use crate::cli::session::{Access, Session};
use crate::cli::{Format, GlobalFlags, load_config};
use crate::config::Config;
use crate::protocol::ids::{TaskId, Token};
use crate::protocol::task::{TaskState, Wish};
use crate::protocol::time::Timestamp;
use crate::store::{AttemptRow, TaskRow};

use super::shared::ids::parse_id;
use super::shared::payload;
use super::shared::task_json::{attempt, item};

/// Everything about one task, with its attempts
///
/// Exit codes: 0, 4 no such task.
#[derive(clap::Args, Debug, Clone)]
#[command(before_help = "Examples:\n  rekindle task show 4812\n  rekindle task show 4812 --payload -o json")]
pub struct TaskShowArgs {
    /// Its number
    #[arg(value_name = "ID", value_parser = parse_id)]
    pub id: TaskId,
    /// Show the whole payload, also keys that its kind redacts
    #[arg(long)]
    pub payload: bool,
}

/// What is shown.
struct Shown {
    row: TaskRow,
    payload: Vec<u8>,
    attempts: Vec<AttemptRow>,
    now: Timestamp,
}

/// Prints it.
pub fn run(args: &TaskShowArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    let loaded = load_config(flags)?;
    let session = Session::open(flags, &loaded, Access::Current)?;
    let id = args.id;
    let found = session.read("reading the task", move |store| {
        let Some((row, payload)) = store.task(id)? else { return Ok(None) };
        let attempts = store.attempts(id)?;
        let now = store.meta()?.now;
        Ok(Some(Shown { row, payload, attempts, now }))
    })?;
    let shown = found.ok_or_else(|| CliError::no_task(id))?;
    output::print(&match flags.output {
        Format::Table | Format::Wide => shown.text(args.payload, flags, &loaded.config),
        Format::Json => output::document("rekindle.task/1", shown.now, &shown.fields(args.payload)),
        Format::Jsonl => output::line(&shown.fields(args.payload)),
        Format::Tsv => output::tsv_fields(&shown.fields(args.payload)),
        Format::Name => format!("{}\n", id.as_i64()),
    })?;
    Ok(Exit::Ok)
}

impl Shown {
    fn fields(&self, whole: bool) -> Vec<(&'static str, Value)> {
        let payload = whole.then(|| payload::json(&self.payload));
        let attempts: Vec<Value> = self.attempts.iter().map(|row| attempt(row, self.now)).collect();
        vec![("task", item(&self.row, self.now)), ("payload", json!(payload)), ("attempts", json!(attempts))]
    }

    fn text(&self, whole: bool, flags: &GlobalFlags, config: &Config) -> String {
        let mut text = self.facts(flags.utc, config).without_headers().render(false);
        if !self.attempts.is_empty() {
            text.push_str(&self.attempt_table(flags.utc).render(!flags.no_headers));
        }
        for next in self.next() {
            text.push_str(&format!("next: {}\n", flags.command(&next)));
        }
        if whole {
            text.push_str(&format!("payload:\n{}\n", payload::text(&self.payload)));
        }
        text
    }

    fn facts(&self, in_utc: bool, config: &Config) -> Table {
        let row = &self.row;
        let mut table = Table::new(&["", ""]);
        table.row([format!("Task {}", row.id), format!("{}   priority {}", row.kind, row.priority)]);
        table.row(["State".to_owned(), self.state_words(in_utc)]);
        if row.state == TaskState::Interrupted {
            let id = row.id.as_i64();
            let decide = format!(
                "it may have done its work (rerun = never): check that first, then `rekindle task retry {id}` or \
                 `rekindle task cancel {id}`"
            );
            table.row(["Decide".to_owned(), decide]);
        }
        if let Some(host) = row.not_on.as_ref().filter(|_| matches!(row.state, TaskState::Ready | TaskState::Waiting)) {
            let waits = format!("an engine on another host than {host}, where it could not run, that takes its kind");
            table.row(["Waits for".to_owned(), waits]);
        }
        if row.wish != Wish::None {
            table.row(["Asked".to_owned(), format!("{}; obeyed when this attempt ends, unless it is done", row.wish)]);
        }
        table.row([
            "Created",
            &format!("{} ({} ago)", when(row.created_at, in_utc), age(self.now.since(row.created_at))),
        ]);
        if !row.resources.is_empty() {
            let names: Vec<&str> = row.resources.iter().map(|name| name.as_str()).collect();
            table.row(["Resources", &names.join(", ")]);
        }
        let redact = config.kinds.get(&row.kind).map(|kind| kind.redact.as_slice());
        table.row(["Payload", &payload::summary(&self.payload, redact)]);
        if row.token != Token::ZERO {
            table.row(["Token", &format!("{}   writes that carry a smaller number are refused", row.token)]);
        }
        if row.failures + row.lost > 0 {
            table.row(["Failures", &format!("{}; engines lost under it: {}", row.failures, row.lost)]);
        }
        if let Some(value) = &row.value {
            table.row(["Result", &shorten(value, 200)]);
        }
        table
    }

    fn state_words(&self, in_utc: bool) -> String {
        let row = &self.row;
        let ago = |at: Timestamp| format!("since {} ({})", when(at, in_utc), age(self.now.since(at)));
        let error =
            row.error.as_deref().map(|error| format!(": {}", shorten(&one_line(error), 200))).unwrap_or_default();
        match (row.state, row.due_at, row.started_at, row.ended_at) {
            (TaskState::Waiting, Some(due), ..) => {
                format!("waiting for {} ({}){error}", when(due, in_utc), in_words(self.now, due))
            }
            (TaskState::Interrupted, _, _, Some(at)) => {
                format!("interrupted on {} {}{error}", row.engine.as_deref().unwrap_or("?"), ago(at))
            }
            (TaskState::Running, _, Some(at), _) => {
                format!("running on {} {}", row.engine.as_deref().unwrap_or("?"), ago(at))
            }
            (state, _, _, Some(at)) if state.is_end() => format!("{state} {}{error}", ago(at)),
            (state, ..) => format!("{state}{error}"),
        }
    }

    fn attempt_table(&self, in_utc: bool) -> Table {
        let mut table = Table::new(&["ATTEMPT", "ENGINE", "STARTED", "TOOK", "RESULT", "DETAIL"]);
        for row in &self.attempts {
            let took = took(row.ended_at.unwrap_or(self.now).since(row.started_at));
            let exit = row.exit_code.filter(|code| *code != 0).map(|code| format!("exit {code}"));
            let detail = match (exit, &row.detail) {
                (Some(exit), Some(detail)) if !detail.contains(&exit) => format!("{exit}: {detail}"),
                (exit, detail) => detail.clone().or(exit).unwrap_or_default(),
            };
            table.row([
                row.attempt.to_string(),
                row.engine.clone(),
                when(row.started_at, in_utc),
                took,
                row.result.map_or_else(|| "runs".to_owned(), |result| result.to_string()),
                shorten(&detail, 120),
            ]);
        }
        table
    }

    fn next(&self) -> Vec<String> {
        let id = self.row.id.as_i64();
        match self.row.state {
            TaskState::Failed | TaskState::Quarantined => {
                vec![format!("rekindle task log {id}"), format!("rekindle task retry {id}")]
            }
            TaskState::Interrupted => {
                ["log", "retry", "cancel"].map(|verb| format!("rekindle task {verb} {id}")).to_vec()
            }
            TaskState::Running => vec![format!("rekindle task wait {id}")],
            TaskState::Held => vec![format!("rekindle task retry {id}")],
            _ => Vec::new(),
        }
    }
}

fn in_words(now: Timestamp, due: Timestamp) -> String {
    if due > now { format!("in {}", age(due.since(now))) } else { "due".to_owned() }
}
