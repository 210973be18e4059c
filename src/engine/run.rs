//! Starts an engine's loops, waits for its end, and ends it in the right order.

use std::fs::Permissions;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{bounded, unbounded};
use parking_lot::Mutex;

use super::ending::end;
use super::heartbeat::{Heartbeat, LifeError, Step};
use super::options::EngineOptions;
use super::remember::{KeptBeat, Memory};
use super::running::Running;
use super::scratch_root::ScratchLock;
use super::shared::{Life, Phase, Shared};
use super::stop::{Ending, Stop};
use super::tally::Tally;
use super::{dispatcher, finisher, guard_watch, host, over, sweeper, watcher, worker};
use crate::clock::{Clock, SystemClock};
use crate::config::place;
use crate::guard::{GuardLink, GuardTalk};
use crate::handlers::{CommandOptions, CommandRunner, Commands, Identity, Mode, Spawner, SpawnerOptions};
use crate::protocol::engine::Wanted;
use crate::protocol::ids::Epoch;
use crate::protocol::lease::Lease;
use crate::protocol::time::LeaseInstant;
use crate::store::Store;

/// An engine could not be started, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The host refused something.
    #[error("could not {0}")]
    Host(&'static str, #[source] std::io::Error),
    /// Its life ended.
    #[error(transparent)]
    Life(#[from] LifeError),
}

/// A running engine.
pub struct Engine {
    shared: Arc<Shared>,
    heartbeat: Option<JoinHandle<Result<(), LifeError>>>,
    loops: Vec<JoinHandle<()>>,
    last: Vec<JoinHandle<()>>,
}

/// Whether the engine owns its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The daemon: the process is a subreaper, and every child that it does not know is a straggler.
    Daemon,
    /// Inside somebody else's program.
    Library,
}

const STACK: usize = 256 << 10;

fn spawn(
    name: &str,
    shared: &Arc<Shared>,
    body: impl FnOnce(&Arc<Shared>) + Send + 'static,
) -> Result<JoinHandle<()>, EngineError> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(move || {
            // A loop that panics would leave an engine that beats for nothing, or holds tasks for ever.
            crate::turns::or_abort("a loop of the engine", || body(&shared));
        })
        .map_err(|e| EngineError::Host("start a thread", e))
}

impl Engine {
    /// Starts an engine inside this process, without a guard: a library user's.
    pub fn start(store: Arc<dyn Store>, options: EngineOptions) -> Result<Self, EngineError> {
        Self::start_as(store, options, Role::Library, None)
    }

    /// Starts an engine.
    pub fn start_as(
        store: Arc<dyn Store>,
        options: EngineOptions,
        role: Role,
        guard: Option<GuardLink>,
    ) -> Result<Self, EngineError> {
        let shared = Arc::new(build(store, options, role, guard)?);
        shared.pulses.begin(shared.clock.lease_now());
        let mut loops = vec![
            spawn("dispatcher", &shared, dispatcher::dispatch_loop)?,
            spawn("sweeper", &shared, sweeper::sweep_loop)?,
            spawn("finisher", &shared, finish_loop)?,
            spawn("watcher", &shared, watcher::watch_loop)?,
        ];
        if shared.options.kinds.values().any(super::options::Kind::is_handler) {
            for _ in 0..shared.options.slots.max(1) {
                // A handler's own code runs on this stack: the platform's default size, not ours.
                let shared = Arc::clone(&shared);
                let thread = std::thread::Builder::new().name("handler".into());
                let thread = thread.spawn(move || {
                    // A handler's own panic is its own; one around it would leave its task held for ever.
                    crate::turns::or_abort("a thread for handlers", || worker::handler_loop(&shared));
                });
                loops.push(thread.map_err(|e| EngineError::Host("start a thread", e))?);
            }
        }
        let last =
            vec![spawn("lease", &shared, over::lease_loop)?, spawn("guard-watch", &shared, guard_watch::guard_loop)?];
        let for_beat = Arc::clone(&shared);
        let heartbeat = std::thread::Builder::new()
            .name("heartbeat".into())
            .stack_size(STACK)
            .spawn(move || {
                let result = beat_loop(&for_beat);
                for_beat.heartbeat_over.store(true, Ordering::Release);
                for_beat.stop.nudge();
                result
            })
            .map_err(|e| EngineError::Host("start the heartbeat", e))?;
        Ok(Self { shared, heartbeat: Some(heartbeat), loops, last })
    }

    /// Asks for the end: finish what runs (at most `stop_deadline`), hand back the rest, say goodbye.
    /// Asked a second time, it hands back at once.
    pub fn stop(&self) {
        let ending = if self.shared.stop.ending() == Ending::No { Ending::Finish } else { Ending::HandBack };
        self.shared.stop.ask(ending);
        self.shared.wake_dispatcher();
    }

    /// Asks for the end and hands back at once.
    pub fn hand_back(&self) {
        self.shared.stop.ask(Ending::HandBack);
    }

    /// What the loops share, for those who look at a running engine.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Waits until the engine was asked to end (by [`Engine::stop`], an operator, or its life's end),
    /// and ends it.
    pub fn wait(mut self) -> Result<(), EngineError> {
        let heartbeat = self.heartbeat.take();
        let loops = std::mem::take(&mut self.loops);
        let shared = &self.shared;
        // The flag comes with a nudge; a panic sets none.
        let is_over = || shared.heartbeat_over.load(Ordering::Acquire);
        let beats = || !is_over() && heartbeat.as_ref().is_some_and(|t| !t.is_finished());
        let said = end(shared, &beats, |until| {
            for thread in loops {
                join_until(shared, thread, until);
            }
        });
        let result = match heartbeat.map(JoinHandle::join) {
            Some(Ok(result)) => result.map_err(EngineError::from),
            _ => Ok(()),
        };
        shared.keep_last_beat();
        self.last.drain(..).for_each(|thread| drop(thread.join()));
        if let Some(commands) = &self.shared.commands {
            commands.tidy();
        }
        if let Some(lock) = &self.shared.scratch_lock {
            lock.clear();
        }
        if result.is_ok() && said == Some(true) {
            self.shared.nothing_to_prove();
        }
        result
    }
}

pub(super) fn build(
    store: Arc<dyn Store>,
    mut options: EngineOptions,
    role: Role,
    guard: Option<GuardLink>,
) -> Result<Shared, EngineError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    if options.state_id.is_empty() {
        // Of each engine, not of its options: they may be cloned for several.
        options.state_id = crate::random::id();
    }
    let memory = match &options.state_dir {
        Some(dir) => Memory::read(dir).map_err(|e| EngineError::Host("read what was remembered", e))?,
        None => Memory::NOTHING,
    };
    if let Some(Err(error)) = options.state_dir.as_deref().map(|dir| super::dropped_file::write(dir, 0)) {
        log::warn!("could not forget what the former life dropped of its log: {error}");
    }
    let guard = guard.map(|link| Arc::new(link) as Arc<dyn GuardTalk>);
    let commands = commands(&options, role, &clock, guard.as_ref())?;
    let place = Place { clock, host: host::host_name(), boot_id: host::boot_id() };
    let (commands, scratch_lock) = commands.unzip();
    let commands = commands.map(|runner| Arc::new(runner) as Arc<dyn Commands>);
    let shared = share(store, options, place, memory, commands, guard);
    Ok(Shared { scratch_lock: scratch_lock.flatten(), ..shared })
}

/// Where an engine runs.
pub(crate) struct Place {
    /// Its clocks.
    pub(crate) clock: Arc<dyn Clock>,
    /// Host name.
    pub(crate) host: String,
    /// The kernel's boot id.
    pub(crate) boot_id: String,
}

/// What the loops of a new engine share.
pub(crate) fn share(
    store: Arc<dyn Store>,
    options: EngineOptions,
    place: Place,
    memory: Memory,
    commands: Option<Arc<dyn Commands>>,
    guard: Option<Arc<dyn GuardTalk>>,
) -> Shared {
    let life = Life {
        incarnation: None,
        phase: Phase::Out,
        lease: Lease::new(options.timing),
        wanted: Wanted::Run,
        wanted_deadline: None,
        meta: None,
        beat: 0,
    };
    Shared {
        store,
        clock: place.clock,
        host: place.host,
        boot_id: place.boot_id,
        running: Running::default(),
        appetite: super::appetite::Appetite::default(),
        pulses: super::pulse::Pulses::default(),
        stop: Stop::default(),
        told_at: std::sync::OnceLock::new(),
        abandoned: Arc::new(AtomicUsize::new(0)),
        commands,
        guard,
        reconcile: AtomicBool::new(false),
        raising: AtomicBool::new(false),
        passes_with_work: AtomicU64::new(0),
        ends_stuck: AtomicBool::new(false),
        unit: super::unit::Unit::default(),
        verified: Mutex::new(Epoch::new(0)),
        heartbeat_over: AtomicBool::new(false),
        doubted: Mutex::new(None),
        former: Mutex::new(None),
        known_epoch: Mutex::new(memory.epoch),
        last_beat: Mutex::new(memory.last_beat),
        kept_beat: Mutex::new(KeptBeat::default()),
        fork: Mutex::new(memory.fork),
        life: Mutex::new(life),
        own_beats: unbounded(),
        wake: bounded(1),
        reports: unbounded(),
        tally: Tally::default(),
        scratch_lock: None,
        jobs: unbounded(),
        options,
    }
}

fn commands(
    options: &EngineOptions,
    role: Role,
    clock: &Arc<dyn Clock>,
    guard: Option<&Arc<dyn GuardTalk>>,
) -> Result<Option<(CommandRunner, Option<ScratchLock>)>, EngineError> {
    if options.kinds.values().all(super::options::Kind::is_handler) {
        return Ok(None);
    }
    let mode = if role == Role::Daemon { Mode::Daemon } else { Mode::Library };
    let tell_continuing = guard.map(over::naming);
    let spawner = Spawner::start(SpawnerOptions { mode, clock: Arc::clone(clock), tell_continuing })
        .map_err(|e| EngineError::Host("start the spawner", e))?;
    let (scratch, lock) = scratch_root(options).map_err(|e| EngineError::Host("use the scratch directory", e))?;
    let identity = Identity { release: host::release(), state_id: options.state_id.clone() };
    let command_options = CommandOptions { scratch, identity };
    let runner = CommandRunner::new(Arc::new(spawner), command_options);
    runner.map(|runner| Some((runner, lock))).map_err(|e| EngineError::Host("clear the scratch directory", e))
}

/// A place of its own: what a killed life left there is nobody's any more, and other engines of this host have
/// theirs beside it. Whether it can be used is found out now, with a clear word: else every task would fail here,
/// one after the other.
fn scratch_root(options: &EngineOptions) -> std::io::Result<(PathBuf, Option<ScratchLock>)> {
    let named = |path: &Path, e: std::io::Error| std::io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let Some(dir) = &options.scratch_dir else {
        // In a directory that everybody writes in, a name that can be told before is a name that somebody else
        // may have put something at. So it is new, and must not be there yet.
        let path = std::env::temp_dir().join(format!("rekindle-{}", options.state_id));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        return made.map_err(|e| named(&path, e)).map(|()| (path, None));
    };
    let (name, lock) = super::scratch_root::take(dir, &options.state_id).map_err(|e| named(dir, e))?;
    let path = dir.join(name);
    std::fs::create_dir_all(&path).and_then(|()| place::try_out(&path)).map_err(|e| named(&path, e))?;
    let data = std::fs::symlink_metadata(&path).map_err(|e| named(&path, e))?;
    if !data.is_dir() || data.uid() != nix::unistd::geteuid().as_raw() {
        // What lies in it is what tasks work on.
        let text = format!("{} is a link, or belongs to somebody else; remove it", path.display());
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, text));
    }
    if options.kinds.values().any(|kind| kind.own_user().is_some()) {
        // Their users pass through it; nobody may list it.
        std::fs::set_permissions(dir, Permissions::from_mode(0o711)).map_err(|e| named(dir, e))?;
    }
    let barred = options.kinds.iter().find_map(|(name, kind)| {
        let user = kind.own_user()?;
        user.barred_at(&path).map(|at| format!("kind.{name}.user: {} may not enter {}", user.name, at.display()))
    });
    match barred {
        Some(text) => Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, text)),
        None => Ok((path, Some(lock))),
    }
}

/// Joins a loop that ends in time, and leaves one that does not: it ends with the process.
fn join_until(shared: &Shared, thread: JoinHandle<()>, until: LeaseInstant) {
    while !thread.is_finished() && shared.clock.lease_now() < until {
        shared.clock.pause(Duration::from_millis(5));
    }
    if thread.is_finished() {
        drop(thread.join());
    } else {
        log::error!("the {} loop does not end; leaving it", thread.thread().name().unwrap_or("?"));
    }
}

pub(crate) fn finish_loop(shared: &Arc<Shared>) {
    let mut finisher = finisher::Finisher::new(Arc::clone(shared));
    while finisher.step() {}
    shared.pulses.finisher.end();
}

pub(crate) fn beat_loop(shared: &Arc<Shared>) -> Result<(), LifeError> {
    let mut heartbeat = Heartbeat::new(Arc::clone(shared));
    loop {
        let seen = shared.stop.nudges();
        match heartbeat.step()? {
            Step::Ended => return Ok(()),
            Step::Next(due) => {
                let wait = due.since(shared.clock.lease_now());
                // A life that ends (or a stop) wants the next step sooner; it nudges.
                let phase = shared.life().phase;
                let piece = if phase == Phase::Live { wait.min(shared.look_again()) } else { wait };
                let (mut left, mut seen) = (wait, seen);
                while !left.is_zero() && !shared.stop.wait_nudged(Ending::All, piece.min(left), seen) {
                    let now_seen = shared.stop.nudges();
                    left = due.since(shared.clock.lease_now());
                    // A change that came before the phase was read does not show in it.
                    if shared.life().phase != phase || (now_seen != seen && phase != Phase::Live) {
                        break;
                    }
                    seen = now_seen;
                }
            }
        }
    }
}
