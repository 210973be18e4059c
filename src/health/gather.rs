//! Asks the store what the checks judge: the only file here that does something. Reads only, ends in
//! time whatever the database does, and never makes a SQLite file.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::args::Args;
use super::check::{CheckResult, Mode, Status};
use super::judge::judge;
use super::snapshot::{Capped, ClusterSnapshot, ConnectionsView, DbView, StuckGroup};
use super::thresholds::{LimitError, Settings, Thresholds};
use super::trouble::{db_error_result, timeout_result};
use super::view::{Surroundings, clock_skew, snapshot};
use super::words::{fine_span, place_flags, shell_word, with_flags};
use crate::clock::{Clock, SystemClock};
use crate::config::{CheckConfig, Host, LoadOptions, Loaded, Override, SAFE_FOR_SECRETS, guess, load};
use crate::protocol::ids::{Epoch, KindName};
use crate::protocol::task::TaskState;
use crate::store::patience::{NoAnswer, within};
use crate::store::places::{Visit, become_owner, places};
use crate::store::{SchemaStatus, ServerInfo, StatusView, Store, StoreError, StoreResult, TaskFilter, TaskRow};

/// What the asking thread is at, for the message when the time is over.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Mutex<String>>);

impl Progress {
    fn at(&self, stage: impl Into<String>) {
        *self.0.lock() = stage.into();
    }

    /// `counting tasks (connected in 0.1s)`.
    pub fn stage(&self) -> String {
        self.0.lock().clone()
    }
}

/// What a cluster's database says.
#[derive(Debug, Clone)]
pub struct Answers {
    /// How far its schema is.
    pub schema: SchemaStatus,
    /// What it is.
    pub info: ServerInfo,
    /// Round trip, clock and schema in words.
    pub db: DbView,
    /// The cluster; nothing where the schema does not fit.
    pub status: Option<StatusView>,
}

/// Asks everything, one question after the other.
pub fn ask(store: &dyn Store, progress: &Progress) -> StoreResult<Answers> {
    let clock = SystemClock;
    let began = clock.lease_now();
    progress.at("connecting");
    let schema = store.schema_status()?;
    let connected = format!("connected in {}", fine_span(clock.lease_now().since(began)));
    progress.at(format!("asking what the server is ({connected})"));
    let info = store.server_info()?;
    let mut db = DbView {
        round_trip: Duration::ZERO,
        is_schema_ok: schema.is_current(),
        is_read_only: info.nobody_writes,
        epoch: Epoch::new(0),
        schema: schema_words(&schema),
        clock_skew: Duration::ZERO,
        clock_set_back: None,
        backend: info.product.clone(),
        connections: None,
    };
    if !db.is_schema_ok {
        return Ok(Answers { schema, info, db, status: None });
    }
    progress.at(format!("measuring a round trip ({connected})"));
    let (sent, sent_at) = (clock.lease_now(), clock.wall_now());
    let meta = store.meta()?;
    db.epoch = meta.epoch;
    db.clock_set_back = meta.clock_set_back();
    db.round_trip = clock.lease_now().since(sent);
    db.clock_skew = clock_skew(sent_at, meta.now, sent_at.after(db.round_trip));
    progress.at(format!("counting tasks ({connected})"));
    let status = store.status()?;
    Ok(Answers { schema, info, db, status: Some(status) })
}

/// The server's connections beside what an engine takes: those of the pool, of the heartbeat and of the watcher.
pub fn connections(info: &ServerInfo, loaded: &Loaded) -> Option<ConnectionsView> {
    let per_engine = loaded.config.database.max_connections + 2;
    info.connections.map(|found| ConnectionsView { limit: found.limit, open: found.open, per_engine })
}

/// `20261121000000`, or what does not fit.
pub fn schema_words(schema: &SchemaStatus) -> String {
    let found = schema.found.as_deref().unwrap_or("none");
    match (schema.unknown.last(), schema.found.is_some()) {
        _ if schema.is_current() => found.to_owned(),
        (None, _) if schema.is_migrating => format!("{found}, and a migration is under way"),
        (Some(newest), _) => format!("{newest} is newer than this program, which knows {}", schema.wanted),
        (None, true) => format!("{found}, this program needs {}", schema.wanted),
        (None, false) => format!("no tables yet, this program needs {}", schema.wanted),
    }
}

/// What a mode's section of the configuration says. `overall` takes over what is normal from `failed`.
pub fn configured(loaded: &Loaded, mode: Mode) -> Result<Settings, String> {
    let section = |name: &str| loaded.config.check.get(name);
    let own = section(mode.word()).map_or(Ok(Settings::default()), |check| settings(mode.word(), check))?;
    match section(Mode::Failed.word()).filter(|_| mode == Mode::Overall) {
        Some(failed) => {
            let failed = settings(Mode::Failed.word(), failed)?;
            Ok(own.or(Settings { normal: failed.normal, min: failed.min, ..Settings::default() }))
        }
        None => Ok(own),
    }
}

fn settings(section: &str, check: &CheckConfig) -> Result<Settings, String> {
    fn read<T: std::str::FromStr>(section: &str, key: &str, text: Option<&String>) -> Result<Option<T>, String>
    where
        T::Err: std::fmt::Display,
    {
        text.map(|text| text.parse().map_err(|error| format!("check.{section}.{key}: {error}"))).transpose()
    }
    Ok(Settings {
        warning: read(section, "warning", check.warning.as_ref())?,
        critical: read(section, "critical", check.critical.as_ref())?,
        normal: read(section, "normal", check.normal.as_ref())?,
        min: read(section, "min", check.min.as_ref())?,
    })
}

/// Checks as the arguments say. Ends within their timeout.
pub fn check(args: &Args) -> CheckResult {
    let result = examine(args);
    let options = options(args, Host::here());
    let config = options.config.map(|path| format!("-c {}", shell_word(&path.display().to_string())));
    let flag = |flag: &str| options.overrides.iter().find(|one| one.flag == flag).map(|one| one.value.as_str());
    let file = flag("--database-url-file").map(|path| format!("--database-url-file {}", shell_word(path)));
    let flags = place_flags(config, flag("--database-url"), file);
    CheckResult { next: result.next.map(|next| with_flags(&next, &flags)), ..result }
}

fn examine(args: &Args) -> CheckResult {
    let began = SystemClock.lease_now();
    let unusable = |text: String| {
        CheckResult::new(args.mode, Status::Unknown, format!("configuration: {text}")).next("rekindle config check")
    };
    let host = Host::here();
    let host_name = host.name.clone();
    let options = options(args, host);
    if let Some(what) = options.secret_flag() {
        return CheckResult::new(args.mode, Status::Unknown, what).next(SAFE_FOR_SECRETS.join("; "));
    }
    let loaded = match load(&options) {
        Ok(loaded) => loaded,
        Err(errors) => {
            let first = errors.problems.first().map(ToString::to_string).unwrap_or_default();
            let more = errors.problems.len().saturating_sub(1);
            return unusable(if more > 0 { format!("{first} (and {more} more)") } else { first });
        }
    };
    let configured = match configured(&loaded, args.mode) {
        Ok(configured) => configured,
        Err(text) => return unusable(text),
    };
    let is_configured = configured != Settings::default();
    let thresholds = match args.thresholds(configured, &host_name) {
        Ok(thresholds) => thresholds,
        // What was typed is wrong, or missing: the next step is a flag.
        Err(error) if args.settings() != Settings::default() || !is_configured => {
            let next = match error {
                LimitError::NoLimit { mode } | LimitError::NoNormal { mode, .. } => {
                    format!("rekindle-check -m {mode} --normal N, or -w N -c N")
                }
                _ => "rekindle-check --help".to_owned(),
            };
            return CheckResult::new(args.mode, Status::Unknown, error.to_string()).next(next);
        }
        Err(error) => return unusable(error.to_string()),
    };
    let left = args.timeout.saturating_sub(SystemClock.lease_now().since(began));
    answer(args, &loaded, &thresholds, left)
}

fn options(args: &Args, host: Host) -> LoadOptions {
    let url = args.database_url.clone();
    let url = url.map(|value| Override { key: "database.url", value, flag: "--database-url" });
    let file = args.database_url_file.as_ref().map(|path| path.display().to_string());
    let file = file.map(|value| Override { key: "database.url_file", value, flag: "--database-url-file" });
    LoadOptions { config: args.config.clone(), overrides: url.into_iter().chain(file).collect(), host }
}

fn answer(args: &Args, loaded: &Loaded, thresholds: &Thresholds, left: Duration) -> CheckResult {
    become_owner(&loaded.config.database);
    let places = places(&loaded.config.database, Visit { application: "rekindle-check", limit: left, create: false });
    let progress = Progress::default();
    progress.at("connecting");
    let (seen, kind) = (progress.clone(), args.kind.clone());
    let asked = within(left, move || {
        let store = crate::store::open(places.clone(), places, 1)?;
        let answers = ask(&*store, &seen)?;
        let of_kind = match kind.filter(|_| answers.status.is_some()) {
            Some(kind) => Some(ask_kind(&*store, kind, &seen)?),
            None => None,
        };
        Ok((answers, of_kind))
    });
    match asked {
        Ok(Ok((answers, of_kind))) => judged(args.mode, loaded, thresholds, answers, of_kind),
        Ok(Err(error)) if loaded.has_default_database() && loaded.files.is_empty() => {
            nothing_said(args, loaded, &error)
        }
        Ok(Err(error)) => trouble(args, &error),
        Err(NoAnswer::Late) => timeout_result(args.mode, args.timeout, &progress.stage(), args.on_db_error),
        Err(NoAnswer::Died) => {
            let text = format!("the check itself failed while {}", progress.stage());
            CheckResult::new(args.mode, Status::Unknown, text).next("rekindle doctor")
        }
    }
}

/// Nobody has said which database to check: that its default cannot be asked says nothing about the cluster.
fn nothing_said(args: &Args, loaded: &Loaded, error: &StoreError) -> CheckResult {
    let cause = match error {
        StoreError::Unreachable { source, .. } => source.to_string(),
        other => other.chain(),
    };
    let text = format!("{}; the default database: {cause}", loaded.files_in_words());
    CheckResult::new(args.mode, Status::Unknown, text).next("rekindle-check --config FILE, or rekindle config init")
}

fn trouble(args: &Args, error: &StoreError) -> CheckResult {
    // The place is in front of the cause; the sentence around it already says "unreachable".
    let text = match error {
        StoreError::Unreachable { place, source } => format!("{place}: {source}"),
        other => other.chain(),
    };
    db_error_result(args.mode, &text, args.on_db_error)
}

fn judged(
    mode: Mode,
    loaded: &Loaded,
    thresholds: &Thresholds,
    answers: Answers,
    of_kind: Option<OfKind>,
) -> CheckResult {
    let utc_offset_s = chrono::Local::now().offset().local_minus_utc();
    let db = DbView { connections: connections(&answers.info, loaded), ..answers.db };
    let around = Surroundings { cluster: loaded.config.cluster.clone(), utc_offset_s, db };
    let Some(status) = answers.status else { return unfit(mode, &around.db.schema) };
    let mut snapshot = snapshot(&status, around);
    if let Some(of_kind) = of_kind {
        let configured = loaded.config.kinds.keys().map(|kind| kind.as_str());
        let known: Vec<&str> = status
            .engines
            .iter()
            .flat_map(|engine| engine.kinds.iter().map(String::as_str))
            .chain(configured)
            .collect();
        if !of_kind.has_tasks && !known.contains(&of_kind.kind.as_str()) {
            return unknown_kind(mode, &of_kind.kind, &known);
        }
        narrow(&mut snapshot, of_kind);
    }
    judge(mode, &snapshot, thresholds)
}

/// A check of a kind that is not there would be OK for ever: most likely its name is a slip.
fn unknown_kind(mode: Mode, kind: &str, known: &[&str]) -> CheckResult {
    let guess = guess::hint(kind, known.iter().copied());
    let text = format!("no engine, task or configuration knows a kind {kind}{guess}");
    CheckResult::new(mode, Status::Unknown, text).next("rekindle engine list --columns ENGINE,KINDS")
}

/// Nothing but the schema is known: that is an answer for `overall` and `db`, and none for the others.
/// Without values, because zeros would be lies in a graph.
fn unfit(mode: Mode, schema: &str) -> CheckResult {
    let is_answer = matches!(mode, Mode::Overall | Mode::Db);
    let status = if is_answer { Status::Critical } else { Status::Unknown };
    CheckResult::new(mode, status, format!("database schema does not fit: {schema}")).next("rekindle db status")
}

/// The tasks of one kind.
struct OfKind {
    kind: String,
    ready: Vec<TaskRow>,
    failed: Vec<TaskRow>,
    /// Whether there is any, also one that has ended.
    has_tasks: bool,
}

fn ask_kind(store: &dyn Store, kind: String, progress: &Progress) -> StoreResult<OfKind> {
    progress.at(format!("counting tasks of kind {kind}"));
    let name = KindName::new(kind.clone()).map_err(|error| StoreError::Refused(error.to_string()))?;
    let list = |state| {
        let limit = super::snapshot::COUNT_CAP as usize + 1;
        let filter = TaskFilter { states: vec![state], kinds: vec![name.clone()], limit, ..TaskFilter::default() };
        Ok(store.tasks(&filter)?.1)
    };
    let any =
        TaskFilter { states: TaskState::ALL.to_vec(), kinds: vec![name.clone()], limit: 1, ..TaskFilter::default() };
    let (ready, failed) = (list(TaskState::Ready)?, list(TaskState::Failed)?);
    let has_tasks = !ready.is_empty() || !failed.is_empty() || !store.tasks(&any)?.1.is_empty();
    Ok(OfKind { ready, failed, has_tasks, kind })
}

fn narrow(snapshot: &mut ClusterSnapshot, of: OfKind) {
    let now = snapshot.now;
    let oldest = of.ready.iter().min_by_key(|task| task.created_at);
    snapshot.oldest_ready_age = oldest.map(|task| now.since(task.created_at));
    snapshot.oldest_ready_id = oldest.map(|task| task.id);
    snapshot.tasks.ready = Capped::new(of.ready.len() as u64);
    snapshot.tasks.failed = Capped::new(of.failed.len() as u64);
    let newest = of.failed.iter().max_by_key(|task| task.ended_at);
    snapshot.stuck.retain(|group| group.state != TaskState::Failed);
    snapshot.stuck.extend(newest.map(|task| StuckGroup {
        state: TaskState::Failed,
        kind: of.kind.clone(),
        count: Capped::new(of.failed.len() as u64),
        newest_age: task.ended_at.map(|at| now.since(at)).unwrap_or_default(),
        example: task.error.clone(),
    }));
    snapshot.kind = Some(of.kind);
}
