//! `rekindle demo`: three real engines on a SQLite file; one is killed with its proof of death, one
//! together with its guard; a line per event, and a verdict.
//!
//! It asserts what it shows: every task done, both takeovers in time, nothing left running.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::{CliError, Exit, GlobalFlags, codes};
use crate::clock::{Clock, SystemClock};
use crate::config::DatabaseUrl;
use crate::guard::tree;
use crate::protocol::engine::EngineState;
use crate::protocol::ids::{EngineName, KindName, TaskId};
use crate::protocol::task::{AttemptResult, TaskState};
use crate::protocol::time::{LeaseInstant, Timestamp};
use crate::store::{NewTask, Settings, Store, StoreError, TaskFilter, open};

/// Shows three engines, kills two of them, and checks that all work is done.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where the demo keeps its files [default: a new directory below the temporary one]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

const TASKS: usize = 60;
const ENGINES: [&str; 3] = ["a", "b", "c"];
/// Promised: kill -9 of an engine to its tasks being ready for others.
const PROVED_LIMIT: Duration = Duration::from_secs(1);
/// Promised: the same without a proof of death, fast profile.
const EXPIRED_LIMIT: Duration = Duration::from_secs(5);
/// Everything has to be done by then.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs it.
pub fn run(args: &DemoArgs, _: &GlobalFlags) -> Result<Exit, CliError> {
    let mut demo = Demo::set_up(args)?;
    let shown = demo.show();
    demo.tear_down();
    shown
}

struct Engine {
    name: &'static str,
    guard: Child,
}

/// What followed a lost attempt.
struct Next {
    engine: String,
    ready_at: Timestamp,
    started_at: Timestamp,
}

struct Demo {
    dir: PathBuf,
    store: Arc<dyn Store>,
    began: LeaseInstant,
    engines: Vec<Engine>,
}

/// A directory that nobody else may enter, and that was not there before: in the temporary directory somebody
/// may have put something at a name that can be told.
fn new_dir(wanted: Option<&Path>) -> Result<PathBuf, CliError> {
    use std::os::unix::fs::DirBuilderExt;
    let io =
        |dir: &Path, e: &std::io::Error| failed(format!("could not write to {}", dir.display())).cause(e.to_string());
    if let Some(above) = wanted.and_then(Path::parent) {
        fs::create_dir_all(above).map_err(|e| io(above, &e))?;
    }
    loop {
        let drawn = || std::env::temp_dir().join(format!("rekindle-demo.{:06x}", fastrand::u32(..1 << 24)));
        let dir = wanted.map_or_else(drawn, Path::to_owned);
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return Ok(dir),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && wanted.is_none() => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                let text = format!("{} exists already", dir.display());
                return Err(CliError::refused(codes::DEMO_FAILED, text).next("choose another --dir"));
            }
            Err(e) => return Err(io(&dir, &e)),
        }
    }
}

fn failed(what: impl Into<String>) -> CliError {
    CliError::new(codes::DEMO_FAILED, Exit::Failed, what)
}

fn store_failed(error: &StoreError) -> CliError {
    failed("the demo's database failed").cause(error.chain())
}

impl Demo {
    fn set_up(args: &DemoArgs) -> Result<Self, CliError> {
        let dir = new_dir(args.dir.as_deref())?;
        let io = |e: std::io::Error| failed(format!("could not write to {}", dir.display())).cause(e.to_string());
        fs::create_dir(dir.join("done")).map_err(io)?;
        fs::write(dir.join("rekindle.toml"), config(&dir)).map_err(io)?;
        let settings = Settings { create: true, ..Settings::new(DatabaseUrl::sqlite(dir.join("rekindle.db"))) };
        let store = open(vec![settings.clone()], vec![settings], 2).map_err(|e| store_failed(&e))?;
        store.migrate().map_err(|e| store_failed(&e))?;
        Ok(Self { dir, store, began: SystemClock.lease_now(), engines: Vec::new() })
    }

    fn say(&self, what: &str, detail: &str) {
        let at = SystemClock.lease_now().since(self.began).as_secs();
        line(&format!(" {:02}:{:02}  {what:<20}  {detail}\n", at / 60, at % 60));
    }

    fn show(&mut self) -> Result<Exit, CliError> {
        line(&format!("demo: SQLite in {}, three engines a b c, {TASKS} tasks of about 0.7s\n", self.dir.display()));
        self.start_engines()?;
        self.until("three engines to be active", |demo| Ok(demo.active()? == ENGINES.len()))?;
        self.add_tasks()?;
        self.say("a b c active", &self.counts()?);
        self.until("some tasks to be done", |demo| Ok(demo.count(TaskState::Done)? >= 10))?;
        self.say("a b c active", &self.counts()?);
        let proved = self.kill("b", false)?;
        let shown = self.show_takeover("b", proved, PROVED_LIMIT)?;
        // A task that is lost twice runs alone from then on: right, but not what this show is about.
        self.until("some more tasks to be done", |demo| Ok(demo.count(TaskState::Done)? >= TASKS / 2))?;
        self.say("a c active", &self.counts()?);
        let expired = self.kill("c", true)?;
        let shown = [shown, self.show_takeover("c", expired, EXPIRED_LIMIT)?];
        self.until("all tasks to be done", |demo| Ok(demo.count(TaskState::Done)? >= TASKS))?;
        self.verdict(&shown)
    }

    fn start_engines(&mut self) -> Result<(), CliError> {
        let program = engine_program()?;
        for name in ENGINES {
            let log = fs::File::create(self.dir.join(format!("{name}.log")))
                .map_err(|e| failed("could not write a log").cause(e.to_string()))?;
            let guard = Command::new(&program)
                .arg("--config")
                .arg(self.dir.join("rekindle.toml"))
                .args(["--name", name, "--state-dir"])
                .arg(self.dir.join(name))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .map_err(|e| failed(format!("could not start {}", program.display())).cause(e.to_string()))?;
            self.engines.push(Engine { name, guard });
        }
        Ok(())
    }

    fn add_tasks(&self) -> Result<(), CliError> {
        let kind = KindName::new("work").map_err(|e| failed("could not name the kind").cause(e.to_string()))?;
        let task = |n: usize| NewTask {
            kind: kind.clone(),
            payload: format!("{{\"n\":{n}}}").into_bytes(),
            resources: Vec::new(),
            priority: 0,
            delay: None,
        };
        let tasks: Vec<NewTask> = (0..TASKS).map(task).collect();
        self.store.add(&tasks, "demo").map(|_| ()).map_err(|e| store_failed(&e))
    }

    // ---- looking -------------------------------------------------------------------------------------

    fn until(&self, what: &str, done: impl Fn(&Self) -> Result<bool, CliError>) -> Result<(), CliError> {
        while !done(self)? {
            if SystemClock.lease_now().since(self.began) > LIMIT {
                return Err(failed(format!("gave up waiting for {what}"))
                    .next(format!("look into the logs in {}", self.dir.display())));
            }
            SystemClock.pause(Duration::from_millis(20));
        }
        Ok(())
    }

    fn active(&self) -> Result<usize, CliError> {
        let (_, engines) = self.store.engines().map_err(|e| store_failed(&e))?;
        Ok(engines.iter().filter(|e| e.state == EngineState::Live && e.beat > 0).count())
    }

    fn count(&self, state: TaskState) -> Result<usize, CliError> {
        let filter = TaskFilter { states: vec![state], limit: TASKS, ..TaskFilter::default() };
        self.store.tasks(&filter).map(|(_, tasks)| tasks.len()).map_err(|e| store_failed(&e))
    }

    fn counts(&self) -> Result<String, CliError> {
        let of = |state| self.count(state);
        Ok(format!(
            "{} ready   {} running   {} done",
            of(TaskState::Ready)?,
            of(TaskState::Running)?,
            of(TaskState::Done)?
        ))
    }

    fn running_on(&self, name: &str) -> Result<Vec<TaskId>, CliError> {
        let engine = EngineName::new(name).map_err(|e| failed("could not name an engine").cause(e.to_string()))?;
        let filter =
            TaskFilter { states: vec![TaskState::Running], engine: Some(engine), limit: 10, ..TaskFilter::default() };
        let (_, tasks) = self.store.tasks(&filter).map_err(|e| store_failed(&e))?;
        Ok(tasks.iter().map(|task| task.id).collect())
    }

    // ---- killing ---------------------------------------------------------------------------------------

    /// Kills an engine while it runs something; with its guard, if that is asked for. When, and what it had.
    fn kill(&mut self, name: &'static str, with_guard: bool) -> Result<(Timestamp, Vec<TaskId>), CliError> {
        self.until("an engine to run something", |demo| Ok(!demo.running_on(name)?.is_empty()))?;
        let guard = self.engines.iter().find(|e| e.name == name).map(|e| e.guard.id()).unwrap_or_default();
        let guard = i32::try_from(guard).unwrap_or_default();
        let all = tree::snapshot().map_err(|e| failed("could not read /proc").cause(e.to_string()))?;
        let engine = all.iter().find(|p| p.ppid == guard).map(|p| p.pid);
        let Some(engine) = engine else { return Err(failed(format!("engine {name} has died by itself"))) };
        let at = SystemClock.wall_now();
        if with_guard {
            let _ = kill(Pid::from_raw(guard), Signal::SIGKILL);
        }
        let _ = kill(Pid::from_raw(engine), Signal::SIGKILL);
        // Asked after the kill: nothing of it changes any more but by a peer.
        let had = self.lost_by(name)?;
        let what = if with_guard { format!("kill -9 {name} and guard") } else { format!("kill -9 {name}") };
        self.say(&what, &format!("{name} had {}", list(&had)));
        Ok((at, had))
    }

    /// What an engine runs or lost.
    fn lost_by(&self, name: &str) -> Result<Vec<TaskId>, CliError> {
        let mut had = self.running_on(name)?;
        for (task, attempts) in self.lost_attempts()? {
            if attempts.iter().any(|(engine, _)| engine == name) && !had.contains(&task) {
                had.push(task);
            }
        }
        had.sort_unstable();
        Ok(had)
    }

    fn lost_attempts(&self) -> Result<BTreeMap<TaskId, Vec<(String, Timestamp)>>, CliError> {
        let filter = TaskFilter { states: TaskState::ALL.to_vec(), limit: TASKS, ..TaskFilter::default() };
        let (_, tasks) = self.store.tasks(&filter).map_err(|e| store_failed(&e))?;
        let mut lost = BTreeMap::new();
        for task in tasks.iter().filter(|task| task.lost > 0) {
            let attempts = self.store.attempts(task.id).map_err(|e| store_failed(&e))?;
            let of = attempts.iter().filter(|a| a.result == Some(AttemptResult::Lost));
            lost.insert(task.id, of.map(|a| (a.engine.clone(), a.ended_at.unwrap_or_default())).collect());
        }
        Ok(lost)
    }

    /// Waits for the next attempts of what a killed engine had. False if its tasks were ready too late;
    /// when an attempt begins depends on free slots too, and the living have their hands full.
    fn show_takeover(
        &self,
        name: &str,
        (at, had): (Timestamp, Vec<TaskId>),
        limit: Duration,
    ) -> Result<bool, CliError> {
        let (mut worst, mut started) = (Duration::ZERO, Duration::ZERO);
        let mut by = Vec::new();
        for task in had {
            let next = self.next_attempt(task, name)?;
            worst = worst.max(next.ready_at.since(at));
            started = started.max(next.started_at.since(at));
            by.push(format!("{task} by {}", next.engine));
        }
        let (_, engines) = self.store.engines().map_err(|e| store_failed(&e))?;
        let proof = engines.iter().find(|e| e.name.as_str() == name).and_then(|e| e.proof);
        let how = proof.map_or("?".to_owned(), |proof| match proof {
            crate::protocol::engine::Proof::Guard => "its guard proved its death".into(),
            crate::protocol::engine::Proof::Expiry => "no proof this time: its beat stood still for T = 3.2s".into(),
            other => format!("proof: {other}"),
        });
        let in_time = worst <= limit;
        let verdict = if in_time { "" } else { " (too late)" };
        let detail = format!(
            "{how}; taken over after {:.1}s{verdict}: {} (started after {:.1}s, when a slot was free)",
            worst.as_secs_f64(),
            by.join(", "),
            started.as_secs_f64()
        );
        self.say(&format!("{name} is fenced"), &detail);
        Ok(in_time && !by.is_empty())
    }

    fn next_attempt(&self, task: TaskId, lost_by: &str) -> Result<Next, CliError> {
        loop {
            let attempts = self.store.attempts(task).map_err(|e| store_failed(&e))?;
            let lost = attempts.iter().position(|a| a.engine == lost_by && a.result == Some(AttemptResult::Lost));
            if let Some((lost, next)) = lost.and_then(|at| Some((attempts.get(at)?, attempts.get(at + 1)?))) {
                return Ok(Next {
                    engine: next.engine.clone(),
                    ready_at: lost.ended_at.unwrap_or_default(),
                    started_at: next.started_at,
                });
            }
            self.until("a takeover", |demo| {
                Ok(demo.store.attempts(task).map_err(|e| store_failed(&e))?.len() > attempts.len())
            })?;
        }
    }

    // ---- the end ---------------------------------------------------------------------------------------

    fn verdict(&mut self, in_time: &[bool]) -> Result<Exit, CliError> {
        let taken = self.lost_attempts()?.len();
        let written = fs::read_dir(self.dir.join("done")).map(Iterator::count).unwrap_or_default();
        self.say(
            &format!("all {TASKS} done"),
            &format!("{taken} of them in a second attempt, {} lost", TASKS - written),
        );
        let stopped = self.stop_engines();
        if written != TASKS {
            return Err(failed(format!("{} of {TASKS} results are missing", TASKS - written)));
        }
        if in_time.contains(&false) {
            return Err(failed("a takeover took longer than promised").cause("see above; a busy host can do that"));
        }
        if !stopped {
            return Err(failed("something of the demo still runs"));
        }
        line(&format!(
            "held: every task done, both takeovers in time, nothing left running\n\
             keep looking: REKINDLE_CONFIG={0}/rekindle.toml rekindle status      then: rm -r {0}\n",
            self.dir.display()
        ));
        Ok(Exit::Ok)
    }

    /// Stops what still runs; true if nothing is left.
    fn stop_engines(&mut self) -> bool {
        for engine in &self.engines {
            let _ = kill(Pid::from_raw(i32::try_from(engine.guard.id()).unwrap_or_default()), Signal::SIGTERM);
        }
        let until = SystemClock.lease_now().after(Duration::from_secs(5));
        loop {
            let all_ended = self.engines.iter_mut().all(|e| matches!(e.guard.try_wait(), Ok(Some(_))));
            if all_ended && self.leftovers().is_empty() {
                self.engines.clear();
                return true;
            }
            if SystemClock.lease_now() >= until {
                return false;
            }
            SystemClock.pause(Duration::from_millis(20));
        }
    }

    /// Processes that were started for this demo: its directory stands in their arguments or environment.
    fn leftovers(&self) -> Vec<i32> {
        let mark = self.dir.display().to_string();
        let me = i32::try_from(std::process::id()).unwrap_or_default();
        let holds = |path: String| {
            fs::read(path).is_ok_and(|bytes| bytes.windows(mark.len()).any(|part| part == mark.as_bytes()))
        };
        let all = tree::snapshot().unwrap_or_default();
        let ours = |pid: i32| holds(format!("/proc/{pid}/cmdline")) || holds(format!("/proc/{pid}/environ"));
        all.iter()
            .filter(|p| p.is_alive() && p.pid != me && p.ppid != 0)
            .map(|p| p.pid)
            .filter(|pid| ours(*pid))
            .collect()
    }

    fn tear_down(&mut self) {
        if self.engines.is_empty() || self.stop_engines() {
            return;
        }
        for engine in &mut self.engines {
            let _ = engine.guard.kill();
            let _ = engine.guard.wait();
        }
    }
}

/// A reader that has gone (`rekindle demo | head`) does not stop the demo from cleaning up.
fn line(text: &str) {
    if crate::cli::output::print(text).is_err() {
        log::debug!("nobody reads the demo's output");
    }
}

fn list(tasks: &[TaskId]) -> String {
    let words: Vec<String> = tasks.iter().map(ToString::to_string).collect();
    words.join(" and ")
}

fn config(dir: &Path) -> String {
    format!(
        "# Made by `rekindle demo`.\n[database]\nurl = \"sqlite:{0}/rekindle.db\"\n\n[engine]\ntiming = \"fast\"\nslots = 2\n\
         state_dir = \"{0}/state\"\nscratch_dir = \"{0}/scratch\"\n\n[kind.work]\n\
         command = [\"/bin/sh\", \"-c\", \"sleep 0.7; cat > {0}/done/$REKINDLE_TASK.new && mv {0}/done/$REKINDLE_TASK.new {0}/done/$REKINDLE_TASK\"]\n\
         rerun = \"always\"\n",
        dir.display()
    )
}

/// The daemon lies beside this program.
fn engine_program() -> Result<PathBuf, CliError> {
    let here =
        std::env::current_exe().map_err(|e| failed("could not find this program's file").cause(e.to_string()))?;
    let program = here.with_file_name("rekindle-engine");
    if program.exists() {
        return Ok(program);
    }
    Err(failed(format!("{} is not there", program.display())).next("cargo build --release builds all three programs"))
}
