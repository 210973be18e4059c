//! The guard's loop: start the engine, wait for its end or its deadline, kill, have the death proved.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::heard::Heard;
use super::kill::{Root, kill_below, own_pid};
use super::leftovers::{LOCK_FD_ENV, StateDir};
use super::link::Notice;
use super::link::{GUARD_FD_ENV, Port, poll_timeout};
use super::means::{Cage, Means, MeansChoice};
use super::notify::Manager;
use super::proof;
use super::spawn::{Recipe, SpawnError, spawn};
use super::tree::{self, Proc};
use crate::clock::{Clock, SystemClock};
use crate::outlet::STDERR;
use crate::protocol::stand::KeptBy;
use crate::protocol::timing::Timing;

/// The variable that tells the engine what holds together all that it starts.
pub const KEPT_BY_ENV: &str = "REKINDLE_KEPT_BY";

/// What the process tree does not cover, for the log and for `rekindle doctor`.
pub const PARENTAGE: &str = "guard and engine killed at once leave no proof of their death here, because processes of \
     their tasks may get away: peers wait for T, and so does the next start; a control group or a PID namespace mends it";

/// Exit codes by which an engine says why it gave up (`ux.md` 4.9). Any other end is a death.
const DELIBERATE: [i32; 5] = [2, 3, 69, 77, 78];

/// The longest time between two ticks.
const TICK_MAX: Duration = Duration::from_secs(1);

/// How long one round of the sweep kills before signals and children are looked at again.
const SWEEP_SLICE: Duration = Duration::from_millis(200);

/// The sweep looks again this often while it waits for what it spares, or for what will not die.
const SWEEP_PAUSE_MAX: Duration = Duration::from_millis(100);

/// What the guard needs to know before it starts.
#[derive(Debug)]
pub struct GuardOptions {
    /// Program and arguments of the engine.
    pub engine: Vec<OsString>,
    /// Program and first arguments of the prover; the incarnation and `guard` are appended.
    pub prover: Vec<OsString>,
    /// Taken by this process; held until guard and engine are both dead.
    pub state: StateDir,
    /// How to kill.
    pub means: MeansChoice,
    /// L for the ticks, q for the prover, K for an engine that said goodbye.
    pub timing: Timing,
}

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("could not {0}")]
    Io(&'static str, #[source] io::Error),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
}

/// Guards one engine from its start to its death, and returns the code to exit with. To be called by a
/// process with one thread; it becomes the reaper of everything below it.
pub fn run(options: GuardOptions) -> i32 {
    match Watch::start(&options) {
        Ok(watch) => watch.watch(),
        Err(error) => {
            log::error!("the guard could not start its engine: {}", proof::chain(&error));
            1
        }
    }
}

/// Why watching ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The engine is dead and reaped.
    Exited(WaitStatus),
    /// Its deadline passed.
    Expired,
}

struct Watch<'a> {
    options: &'a GuardOptions,
    cage: Cage,
    signals: SignalFd,
    port: Port,
    manager: Manager,
    engine: Pid,
    heard: Heard,
    /// How the engine ended, once it was reaped.
    status: Option<WaitStatus>,
}

impl<'a> Watch<'a> {
    fn start(options: &'a GuardOptions) -> Result<Self, StartError> {
        let failed = |what| move |e: Errno| StartError::Io(what, e.into());
        set_child_subreaper(true).map_err(failed("become a subreaper"))?;
        let signals = take_over_signals().map_err(failed("take over the signals"))?;
        let cage = Cage::prepare(options.means, &options.state)
            .map_err(|e| StartError::Io("prepare the means of killing", e))?;
        log::info!("the guard (process {}) kills by {}", own_pid(), cage.means());
        if cage.means().keeps_by() == KeptBy::Parentage {
            log::warn!("{PARENTAGE}");
        }
        let manager = Manager::from_env();
        let (port, engine) = start_engine(options, &cage).inspect_err(|_| cage.remove())?;
        Ok(Self { options, cage, signals, port, manager, engine, heard: Heard::default(), status: None })
    }

    fn watch(mut self) -> i32 {
        let end = self.until_the_end();
        let spare = self.spared(end);
        self.kill_everything(end, spare);
        self.cage.remove();
        for incarnation in self.heard.to_prove() {
            proof::prove(&self.options.prover, incarnation, self.options.timing.query_timeout(), &self.signals);
        }
        self.exit_code()
    }

    /// Ticks, passes signals on and reaps until the engine is dead or its deadline has passed.
    fn until_the_end(&mut self) -> End {
        let tick_interval = (self.options.timing.lease() / 8).min(TICK_MAX);
        let mut next_tick = SystemClock.lease_now();
        loop {
            let now = SystemClock.lease_now();
            if now >= next_tick {
                self.port.tick(now);
                next_tick = now.after(tick_interval);
                STDERR.flush(Duration::ZERO);
            }
            // Never longer than a tick: poll's clock stops in suspend, the lease does not.
            let due = self.heard.deadline().map_or(next_tick, |d| d.min(next_tick));
            self.wait(due.since(now));
            self.pass_signals_on();
            // First the children, then the messages: what a dead engine said last, its goodbye, is
            // heard before its death is judged. And all messages before the deadline: a guard that
            // was itself held up for a while finds the renewals of that time waiting.
            self.reap();
            self.hear();
            if let Some(status) = self.status {
                return End::Exited(status);
            }
            if self.heard.deadline().is_some_and(|d| SystemClock.lease_now() >= d) {
                return End::Expired;
            }
        }
    }

    fn wait(&self, limit: Duration) {
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.port.fd().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        let _ = poll(&mut fds, poll_timeout(limit));
    }

    fn pass_signals_on(&self) {
        while let Some(signal) = next_signal(&self.signals) {
            if signal != Signal::SIGCHLD && self.status.is_none() {
                let _ = kill(self.engine, signal);
            }
        }
    }

    /// Reaps every child that has ended, orphans included; false when there is no child at all.
    fn reap(&mut self) -> bool {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return true,
                Ok(status) if status.pid() == Some(self.engine) => self.status = Some(status),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
    }

    fn hear(&mut self) {
        let kill_budget = self.options.timing.kill_budget();
        let (heard, manager) = (&mut self.heard, &self.manager);
        self.port.hear(|notice| {
            log::debug!("the engine says {notice:?}");
            let now = SystemClock.lease_now();
            if let Notice::Unit(watchdog_at, status) = &notice {
                manager.tell(now, *watchdog_at, status);
            }
            heard.hear(notice, now, kill_budget);
        });
    }

    /// Only a frozen engine's `continue` tasks are spared: nobody would take the result of a dead one's.
    /// In a PID namespace they cannot outlive its first process, the engine.
    fn spared(&self, end: End) -> Vec<Proc> {
        match end {
            End::Expired if self.heard.goodbye().is_none() && self.cage.means() != Means::PidNamespace => {
                self.heard.continuing().to_vec()
            }
            _ => Vec::new(),
        }
    }

    fn log_end(&self, end: End, spared: usize) {
        let engine = self.engine;
        match end {
            End::Exited(status) if self.heard.goodbye().is_some() => log::info!("the engine said goodbye: {status:?}"),
            End::Exited(_) if self.was_stopped_early() => log::info!("the engine was told to stop before it had begun"),
            End::Exited(status) => log::error!("the engine died, killing what it started: {status:?}"),
            End::Expired if self.heard.goodbye().is_some() => {
                log::error!("the engine (process {engine}) said goodbye and did not exit: killing it");
            }
            End::Expired => log::error!(
                "the engine (process {engine}) neither renewed its lease nor said that all is clear: killing it and \
                 what it started, sparing {spared} tasks that continue"
            ),
        }
    }

    /// Returns when no process is left below the guard: `waitpid` says so, which sees what /proc may
    /// miss. It takes as long as it takes; a death is not proved before.
    fn kill_everything(&mut self, end: End, mut spare: Vec<Proc>) {
        if self.status.is_none() {
            let _ = kill(self.engine, Signal::SIGKILL);
        }
        let (mut is_said, spared) = (false, spare.len());
        let mut pause = Duration::from_millis(1);
        let mut warn_at = SystemClock.lease_now().after(self.options.timing.kill_budget());
        loop {
            spare.retain(|p| tree::read(p.pid).is_some_and(|now| now.start_ticks == p.start_ticks && now.is_alive()));
            let pids: Vec<i32> = spare.iter().map(|p| p.pid).collect();
            let is_cage_clear = self.cage.kill(!spare.is_empty());
            let report = kill_below(own_pid(), Root::Excluded, &pids, SWEEP_SLICE);
            // Killing comes first, the log afterwards.
            if !std::mem::replace(&mut is_said, true) {
                self.log_end(end, spared);
            }
            if !self.reap() && is_cage_clear {
                return;
            }
            if SystemClock.lease_now() >= warn_at && spare.is_empty() {
                log::error!(
                    "still waiting for the death of process {:?}; until then no proof is written{}",
                    report.left,
                    report.refusal()
                );
                warn_at = SystemClock.lease_now().after(Duration::from_secs(10));
            }
            self.wait_for_signal(pause, &mut spare);
            pause = (pause * 2).min(SWEEP_PAUSE_MAX);
        }
    }

    /// A stop signal ends the waiting for `continue` tasks: then they are killed too.
    fn wait_for_signal(&self, limit: Duration, spare: &mut Vec<Proc>) {
        let mut fds = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, poll_timeout(limit));
        STDERR.flush(Duration::ZERO);
        while let Some(signal) = next_signal(&self.signals) {
            if matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT) && !spare.is_empty() {
                log::warn!("told to stop: killing the {} tasks that continue", spare.len());
                spare.clear();
            }
        }
    }

    /// A stop signal came before the engine had handlers for it, so it died of it. It was nobody yet.
    fn was_stopped_early(&self) -> bool {
        let is_stop = |signal| matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT);
        let is_registered = self.heard.to_prove().next().is_some();
        !is_registered && matches!(self.status, Some(WaitStatus::Signaled(_, signal, _)) if is_stop(signal))
    }

    fn exit_code(&self) -> i32 {
        let is_registered = self.heard.to_prove().next().is_some();
        match (self.heard.goodbye(), self.status) {
            (Some(code), _) => code,
            (None, Some(WaitStatus::Exited(_, code))) if DELIBERATE.contains(&code) => code,
            // It was only asked for its version, say.
            (None, Some(WaitStatus::Exited(_, 0))) if !is_registered => 0,
            (None, _) if self.was_stopped_early() => 0,
            _ => 1,
        }
    }
}

fn start_engine(options: &GuardOptions, cage: &Cage) -> Result<(Port, Pid), StartError> {
    let (port, engines_end) = Port::pair().map_err(|e| StartError::Io("make the link to the engine", e))?;
    let lock = options.state.lock();
    let number = |fd: &dyn AsRawFd| OsString::from(fd.as_raw_fd().to_string());
    let engine = spawn(&Recipe {
        argv: &options.engine,
        env: vec![
            (GUARD_FD_ENV, number(&engines_end)),
            (LOCK_FD_ENV, number(lock)),
            (KEPT_BY_ENV, cage.means().keeps_by().code().to_string().into()),
        ],
        inherit: vec![engines_end.as_fd(), lock.as_fd()],
        door: cage.door().map_err(|e| StartError::Io("open the control group", e))?,
        is_namespaced: cage.means() == Means::PidNamespace,
    })?;
    options
        .state
        .sign_engine(engine.as_raw())
        .map_err(|e| StartError::Io("sign the lock of the state directory", e))?;
    // The engine's end is closed here, or its closing there would go unnoticed.
    Ok((port, engine))
}

/// From now on signals are read, not delivered. The stop signals of a terminal are blocked and never
/// read: a stopped guard would be silent, and its engine would take it for dead.
fn take_over_signals() -> nix::Result<SignalFd> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // A parent may have left SIGCHLD ignored, and then the kernel would reap instead of us.
    // SAFETY: the default action runs no code of ours.
    unsafe { sigaction(Signal::SIGCHLD, &default) }?;
    let mut mask = SigSet::empty();
    let ours = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1];
    ours.into_iter().for_each(|s| mask.add(s));
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU].into_iter().for_each(|s| mask.add(s));
    mask.thread_block()?;
    Ok(signals)
}

pub(super) fn next_signal(signals: &SignalFd) -> Option<Signal> {
    let info = signals.read_signal().ok().flatten()?;
    Signal::try_from(info.ssi_signo as i32).ok()
}
