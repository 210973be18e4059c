//! `rekindle doctor`: looks at everything that tends to be wrong on a host, and says how to mend it.
//! Changes nothing, but for a file that it makes and removes where an engine would write.

mod places;
mod tasks;

use std::time::Duration;

use serde_json::json;

use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::human::plural;
use crate::cli::output::{List, Table};
use crate::cli::session::{Access, Session, WHICH_DATABASE};
use crate::cli::{GlobalFlags, output};
use crate::clock::{Clock, SystemClock};
use crate::config::{Host, KillMeans, Loaded, command_problems, load, unknown_users};
use crate::guard::{Means, PARENTAGE, available_means};
use crate::health::gather::{Answers, Progress, ask, connections};
use crate::health::snapshot::ConnectionsView;
use crate::health::words::fine_span;
use crate::protocol::engine::EngineState;
use crate::protocol::ids::Epoch;
use crate::store::{BadRow, GRANT, Meta, ServerInfo, StatusView, StoreError, StoreResult};

use places::{dir_lines, file_lines};
use tasks::task_lines;

/// Check configuration, database, clock and files, and print how to mend what is wrong
///
/// Exit codes: 0 nothing is wrong (warnings included), 1 something is.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(
    before_help = "Examples:\n  rekindle doctor\n  rekindle doctor -o json | jq '.items[] | select(.verdict != \"ok\")'"
)]
pub struct DoctorArgs {}

/// How one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but look at it.
    Warn,
    /// It does not work.
    Fail,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One line of the doctor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// How it is.
    pub verdict: Verdict,
    /// What was looked at.
    pub subject: &'static str,
    /// What was found.
    pub text: String,
    /// How to mend it.
    pub fix: Option<String>,
}

impl Line {
    /// As it should be.
    pub fn ok(subject: &'static str, text: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, subject, text: text.into(), fix: None }
    }

    /// It works, but look at it.
    pub fn warn(subject: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, subject, text: text.into(), fix: Some(fix.into()) }
    }

    /// It does not work.
    pub fn fail(subject: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, subject, text: text.into(), fix: Some(fix.into()) }
    }
}

/// A clock that is off by more than this is worth a warning; it decides nothing.
const SKEW_MAX: Duration = Duration::from_secs(2);
/// A round trip longer than this eats into the heartbeat's timeout.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(500);

/// Looks at everything.
pub fn run(_args: &DoctorArgs, flags: &GlobalFlags) -> Result<Exit, CliError> {
    // First: a trial of a PID namespace shows this process to others of its user for a moment, and a password
    // that was not read yet is not seen.
    let means = available_means();
    let mut lines = Vec::new();
    match load(&flags.load_options(Host::here())) {
        Err(errors) => {
            let fix = "mend it, then: rekindle config check";
            lines.extend(errors.problems.iter().map(|problem| Line::fail("config", problem.to_string(), fix)));
        }
        Ok(loaded) => {
            lines.extend(config_lines(&loaded));
            // Files before the database: opening it as root gives up root's rights.
            lines.extend(task_lines(&loaded));
            lines.extend(dir_lines(&loaded.config));
            lines.extend(file_lines(&loaded.config));
            lines.extend(database_lines(flags, &loaded));
            lines.extend(means_lines(means, loaded.config.engine.kill));
        }
    }
    print(&lines, flags)?;
    let is_bad = lines.iter().any(|line| line.verdict == Verdict::Fail);
    Ok(if is_bad { Exit::Failed } else { Exit::Ok })
}

/// Which means of killing the guard of an engine would have here: as this user, on this host. One that is
/// missing is no fault as long as the process tree works; the line says what it would cover.
fn means_lines(means: Vec<(Means, Result<(), String>)>, choice: KillMeans) -> Vec<Line> {
    let chosen = |means: Means| match means {
        Means::Cgroup => "a control group of its own, chosen by itself",
        Means::PidNamespace => {
            "a PID namespace, on request (engine.kill = \"pidns\"): covers guard and engine killed together"
        }
        Means::ProcessTree => "the process tree: death signals, groups and a subreaper",
    };
    let line = |(means, found): (Means, Result<(), String>)| match found {
        Ok(()) => Line::ok("kill", format!("the guard can use {}", chosen(means))),
        Err(why) => Line::ok("kill", format!("the guard cannot use {}: {why}", chosen(means))),
    };
    // The default takes a control group where it can; without one nothing holds a task's processes together.
    let has_group = means.iter().any(|(means, found)| *means == Means::Cgroup && found.is_ok());
    let uncovered = match choice {
        KillMeans::Auto | KillMeans::Cgroup => !has_group,
        KillMeans::Pidns => false,
        KillMeans::Tree => true,
    };
    let fix = "Delegate=yes in the unit (the shipped one has it), a container, or engine.kill = \"pidns\"";
    let warning = uncovered.then(|| Line::warn("proof", PARENTAGE, fix));
    means.into_iter().map(line).chain(warning).collect()
}

fn config_lines(loaded: &Loaded) -> Vec<Line> {
    let mut lines = Vec::new();
    let text = format!("{}; {} configured", loaded.files_in_words(), output::plural(loaded.config.kinds.len(), "kind"));
    lines.push(match (loaded.files.is_empty(), loaded.has_default_database()) {
        (true, true) => Line::warn("config", text, WHICH_DATABASE),
        _ => Line::ok("config", text),
    });
    let warnings = loaded.warnings.iter();
    lines.extend(warnings.map(|warning| Line::warn("config", warning.to_string(), "rekindle config show --origin")));
    let mut commands = command_problems(loaded);
    commands.extend(unknown_users(loaded));
    let fix = "install it, or correct the path; tasks of this kind fail on this host until then";
    lines.extend(commands.iter().map(|problem| Line::fail("command", problem.to_string(), fix)));
    if commands.is_empty() && !loaded.config.kinds.is_empty() {
        lines.push(Line::ok("command", "every kind's command can be run"));
    }
    lines
}

fn database_lines(flags: &GlobalFlags, loaded: &Loaded) -> Vec<Line> {
    let from_error = |error: CliError| {
        let cause = error.cause.as_deref().map_or_else(String::new, |cause| format!(": {cause}"));
        let fix = error.next.first().cloned().unwrap_or_else(|| format!("rekindle explain {}", error.code));
        vec![Line::fail("database", format!("{} [{}]{cause}", error.what, error.code), fix)]
    };
    let session = match Session::open(flags, loaded, Access::AnySchema) {
        Ok(session) => session,
        Err(error) => return from_error(error),
    };
    let asked = session.read("asking the database", |store| {
        let answers = ask(store, &Progress::default())?;
        let meta = if answers.status.is_some() { Some(store.meta()?) } else { None };
        // A server that takes no writes says so for every right; that has a line of its own.
        let rights = match meta.is_some() && !answers.info.read_only {
            true => Some(store.check_rights()),
            false => None,
        };
        let bad = if meta.is_some() { store.bad_rows()? } else { Vec::new() };
        Ok((answers, meta, rights, bad))
    });
    match asked {
        Ok((answers, meta, rights, bad)) => {
            let mut lines = answer_lines(&answers, meta.as_ref(), loaded);
            lines.extend(rights.map(rights_line));
            lines.extend(row_lines(&bad, meta.is_some()));
            lines
        }
        Err(error) => from_error(error),
    }
}

/// An engine without one of them would not start.
fn rights_line(rights: StoreResult<()>) -> Line {
    match rights {
        Ok(()) => Line::ok("rights", "the database user may do all that an engine does"),
        Err(StoreError::Rights { missing, .. }) => {
            Line::fail("rights", format!("an engine would not start: the database user lacks {missing}"), GRANT)
        }
        Err(error) => {
            Line::warn("rights", format!("could not be checked: {}", error.chain()), "run it again: rekindle doctor")
        }
    }
}

/// Rows that another program wrote: engines leave them alone, so a person has to.
fn row_lines(bad: &[BadRow], is_asked: bool) -> Vec<Line> {
    if bad.is_empty() && is_asked {
        return vec![Line::ok("rows", "none that engines would have to leave alone")];
    }
    bad.iter().map(|bad| Line::warn("rows", format!("{}: {}", bad.row, bad.why), bad.fix.as_str())).collect()
}

/// Engines of another cluster are refused by the database.
fn cluster_line(meta: &Meta, loaded: &Loaded) -> Option<Line> {
    let (recorded, configured) = (meta.cluster.as_ref()?, &loaded.config.cluster);
    let text = format!("this database belongs to {recorded:?}, the configuration says {configured:?}");
    let fix = "an engine would not start; look at both: rekindle config show --origin";
    (recorded != configured).then(|| Line::fail("cluster", text, fix))
}

/// What all live engines may take, if they are set like this one, and one more that starts.
fn connections_line(found: &ConnectionsView, status: Option<&StatusView>) -> Line {
    let live = status.map_or(0, |status| status.engines.iter().filter(|row| row.state == EngineState::Live).count());
    let (need, is_there) = found.need(live.max(1));
    let text = format!(
        "{} may take {need} of {} ({} each), {} are open now",
        plural(live.max(1), "engine"),
        found.limit,
        found.per_engine,
        found.open
    );
    match is_there && found.open < found.limit {
        true => Line::ok("connections", text),
        false => Line::warn(
            "connections",
            text,
            "raise max_connections on the server, lower database.max_connections, or put a pooler between",
        ),
    }
}

/// What the database says of itself and its epoch.
fn meta_lines(info: &ServerInfo, meta: &Meta, loaded: &Loaded) -> Vec<Line> {
    let mut lines = Vec::new();
    lines.extend(cluster_line(meta, loaded));
    lines.extend(meta.clock_set_back().map(|behind| {
        let text = format!("the database's clock is {} behind what engines have seen of it", fine_span(behind));
        let fix = "set the clock of its host right; rekindle task retry ID brings a task forward that waits for a time";
        Line::warn("clock", text, fix)
    }));
    lines.push(match meta.identity_matches {
        true => Line::ok("identity", info.identity.clone()),
        false => Line::warn(
            "identity",
            format!("{} is not the database that was recorded: a failover, a copy or a restore", info.identity),
            "nothing if engines run: they raise the epoch by themselves; else make sure that this is the right database",
        ),
    });
    if meta.epoch.is_scarce() {
        let text = format!("{} of {} are used: less than a tenth is left", meta.epoch.as_i64(), Epoch::MAX);
        lines.push(Line::warn(
            "epoch",
            text,
            "find out who raises it: rekindle history --object epoch, and the engines' logs",
        ));
    }
    if meta.settled_epoch < meta.raised_epoch {
        let text = format!("epoch {} was raised and is not settled: no claims yet", meta.epoch.as_i64());
        lines.push(Line::warn(
            "epoch",
            text,
            "wait for the takeover time of a live engine (12.5s with balanced timing)",
        ));
    }
    lines
}

fn answer_lines(answers: &Answers, meta: Option<&Meta>, loaded: &Loaded) -> Vec<Line> {
    let Answers { info, db, schema, .. } = answers;
    let mut lines = vec![Line::ok("database", format!("{} at {} answers", info.product, info.place))];
    lines.push(match (db.is_schema_ok, schema.unknown.is_empty()) {
        (true, _) => Line::ok("schema", db.schema.clone()),
        (false, true) if loaded.has_default_database() => Line::fail("schema", db.schema.clone(), WHICH_DATABASE),
        (false, true) => Line::fail("schema", db.schema.clone(), "rekindle db migrate"),
        (false, false) => Line::fail("schema", db.schema.clone(), "upgrade rekindle on this host"),
    });
    if db.is_schema_ok {
        lines.push(match db.round_trip {
            slow if slow > ROUND_TRIP_MAX => Line::warn(
                "round trip",
                fine_span(slow),
                "look at the database's load and at the network; heartbeats wait as long",
            ),
            fast => Line::ok("round trip", fine_span(fast)),
        });
        lines.push(match db.clock_skew {
            skew if skew > SKEW_MAX => Line::warn(
                "clock",
                format!("this host and the database differ by {}", fine_span(skew)),
                "timedatectl; nothing depends on it but the times people see",
            ),
            skew => Line::ok("clock", format!("skew {}", fine_span(skew))),
        });
    }
    lines.extend(connections(info, loaded).map(|found| connections_line(&found, answers.status.as_ref())));
    lines.extend(meta.into_iter().flat_map(|meta| meta_lines(info, meta, loaded)));
    if info.durability_problems.is_empty() {
        lines.push(Line::ok("durability", "no setting found that could lose commits"));
    }
    let fix = "set it right on the server: a lost commit can run a task twice";
    lines.extend(info.durability_problems.iter().map(|problem| Line::fail("durability", problem.clone(), fix)));
    lines.push(match (info.nobody_writes, info.read_only) {
        (true, _) => Line::fail(
            "writable",
            "the server takes nobody's writes: a standby, or set to read-only",
            "end its read-only mode, or name the server that writes: rekindle config show --origin database",
        ),
        (false, true) => Line::warn(
            "writable",
            "the database refuses writes from here",
            "fine for monitoring; engines need a role and a server that write",
        ),
        (false, false) => Line::ok("writable", "yes"),
    });
    lines
}

fn print(lines: &[Line], flags: &GlobalFlags) -> Result<(), CliError> {
    let mut table = Table::new(&["", "", ""]).without_headers();
    for line in lines {
        table.row([line.verdict.word(), line.subject, &line.text]);
        if let Some(fix) = &line.fix {
            table.row(["", "", &format!("-> {}", flags.command(fix))]);
        }
    }
    let fix = |line: &Line| line.fix.as_deref().map(|fix| flags.command(fix));
    let item = |line: &Line| json!({"verdict": line.verdict.word(), "subject": line.subject, "text": line.text, "fix": fix(line)});
    List {
        items: lines.iter().map(item).collect(),
        names: lines.iter().filter(|line| line.verdict != Verdict::Ok).map(|line| line.subject.to_owned()).collect(),
        table,
        footer: None,
        ..List::new("rekindle.doctor/1", SystemClock.wall_now())
    }
    .print(flags)
}
