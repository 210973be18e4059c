//! Runs one attempt of an external command, from its preparation to its last straggler.
//!
//! [`CommandRunner::run`] blocks its caller's thread for as long as the attempt takes. It returns only
//! when nothing of the attempt is left, so a result that is written down afterwards is never followed
//! by another act of the task (I8).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;

use super::child::Stage;
use super::control::{AttemptControl, StopKind};
use super::ended::Ended;
use super::environment::Identity;
use super::exit::{End, verdict};
use super::gate::Gate;
use super::handler::Attempt;
use super::prepare::{self, StartError};
use super::scratch::ScratchRoot;
use super::spawner::{Running, Spawner};
use super::spec::CommandSpec;
use super::streams::{Captured, Streams};
use super::watch::{Limits, Watch, Watched};
use crate::protocol::task::{AttemptResult, OnLeaseLoss};

/// What all commands of an engine share.
#[derive(Debug, Clone)]
pub struct CommandOptions {
    /// Where the private directories of attempts are made; nobody else's.
    pub scratch: PathBuf,
    /// What the engine adds to each environment.
    pub identity: Identity,
}

/// What an engine needs of those who run its commands.
pub trait Commands: Send + Sync {
    /// Runs one attempt to its end, and returns when nothing of it is left.
    fn run(&self, spec: &CommandSpec, attempt: &Attempt, control: &AttemptControl) -> Ended;
    /// What every start passes.
    fn gate(&self) -> &Gate;
    /// No attempt will come any more: takes away what is only for attempts.
    fn tidy(&self) {}
}

/// Runs commands. One per engine, shared by its worker threads.
pub struct CommandRunner {
    spawner: Arc<Spawner>,
    identity: Identity,
    scratch: Arc<ScratchRoot>,
}

/// What happened to one command.
struct Seen {
    end: End,
    stopped: Option<StopKind>,
    captured: Captured,
}

impl CommandRunner {
    /// Binds a spawner to where and who the engine is. What a former life left there is deleted.
    pub fn new(spawner: Arc<Spawner>, options: CommandOptions) -> io::Result<Self> {
        Ok(Self { spawner, identity: options.identity, scratch: ScratchRoot::open(options.scratch)? })
    }

    /// The spawner, whose gate the engine opens and closes.
    pub fn spawner(&self) -> &Spawner {
        &self.spawner
    }
}

impl Commands for CommandRunner {
    fn gate(&self) -> &Gate {
        self.spawner.gate()
    }

    fn tidy(&self) {
        self.scratch.tidy();
    }

    fn run(&self, spec: &CommandSpec, attempt: &Attempt, control: &AttemptControl) -> Ended {
        let now = self.spawner.clock().lease_now();
        if let Some(stop) = control.requested().filter(|stop| now >= stop.term_at) {
            return Ended::not_started(stop.kind.result(), &format!("not started: {}", stop.kind.word()));
        }
        match self.run_started(spec, attempt, control) {
            Ok(seen) => judge(spec, seen),
            Err(error) => {
                log::warn!("task {} was not started: {error}", attempt.task);
                error.ended()
            }
        }
    }
}

impl CommandRunner {
    fn run_started(&self, spec: &CommandSpec, attempt: &Attempt, control: &AttemptControl) -> Result<Seen, StartError> {
        let user = spec.run_as.as_ref();
        let scratch = self.scratch.create(attempt, user).map_err(StartError::host("make the private directory"))?;
        let (mut streams, ends) =
            Streams::open(Arc::clone(&attempt.payload), spec.output_keep).map_err(StartError::host("open pipes"))?;
        user.map_or(Ok(()), |user| Streams::give(&ends, user)).map_err(StartError::host("give the pipes away"))?;
        let timer = Watch::timer().map_err(StartError::host("make a timer"))?;
        let clock = self.spawner.clock();
        let deadline = spec.timeout.map(|span| clock.wall_now().after(span));
        let request = prepare::request(spec, attempt, &self.identity, scratch.path(), deadline, ends)?;
        let timeout_at = spec.timeout.map(|span| clock.lease_now().after(span));
        let running = self.spawner.spawn(request)?;
        let lease = (spec.on_lease_loss == OnLeaseLoss::Stop).then(|| &**self.spawner.gate());
        let limits = Limits { timeout_at, grace: spec.grace, lease };
        control.set_main_pid(Some(running.pid));
        let watched = Watch::new(&running, &mut streams, control, clock, limits, timer).until_end();
        self.end(&running, &watched, attempt);
        control.set_main_pid(None);
        Ok(Seen { end: watched.end, stopped: watched.stopped, captured: streams.finish() })
    }

    fn end(&self, running: &Running, watched: &Watched, attempt: &Attempt) {
        if !self.spawner.strays().end_attempt(running.pid, &watched.killed) {
            log::error!("processes of task {} were killed, and are not known to be gone", attempt.task);
        }
    }
}

/// Puts together what is written down.
fn judge(spec: &CommandSpec, Seen { end, stopped, captured }: Seen) -> Ended {
    let (exit_code, signal) = match end {
        End::Exit(code) => (Some(code), None),
        End::Signal(signal) => (None, Some(signal)),
        End::Unknown => (None, None),
    };
    let Captured { setup_failure, output, dropped, last_line } = captured;
    if let (Some((stage, errno)), None) = (setup_failure, stopped) {
        // The program never ran, so its exit code says nothing. Another host may have it.
        let detail = prepare::setup_failure(stage, errno, spec);
        if stage == Stage::Process || prepare::means_starved(Errno::from_raw(errno)) {
            return Ended::starved(&detail);
        }
        return Ended { elsewhere: true, ..Ended::not_started(AttemptResult::Failed, &detail) };
    }
    let verdict = verdict(end, stopped, &spec.exit_codes);
    let ended = Ended {
        started: setup_failure.is_none(),
        exit_code,
        signal,
        output,
        output_dropped: dropped,
        elsewhere: verdict.elsewhere,
        ..Ended::new(verdict.result)
    };
    match headline(end, stopped, spec) {
        Some(head) => ended.with_detail(&last_line.map_or(head.clone(), |line| format!("{head}: {line}"))),
        None => ended,
    }
}

/// How it ended in a few words; nothing for exit 0, which says enough.
fn headline(end: End, stopped: Option<StopKind>, spec: &CommandSpec) -> Option<String> {
    match (stopped, end) {
        (Some(StopKind::Timeout), _) => {
            Some(format!("timeout after {}", humantime::format_duration(spec.timeout.unwrap_or_default())))
        }
        (Some(kind), _) => Some(kind.word().to_owned()),
        (None, End::Exit(0)) => None,
        (None, End::Exit(code)) => Some(format!("exit {code}")),
        (None, End::Signal(signal)) => Some(match nix::sys::signal::Signal::try_from(signal) {
            Ok(known) => format!("killed by {known}"),
            Err(_) => format!("killed by signal {signal}"),
        }),
        (None, End::Unknown) => Some("ended, but other code of this process took its exit status".to_owned()),
    }
}
