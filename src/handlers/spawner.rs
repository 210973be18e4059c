//! The one thread that forks.
//!
//! `PR_SET_PDEATHSIG` follows the *thread* that forked, not the process: a task forked by a worker
//! thread would be killed when that thread ends. So one thread that lives as long as the engine does
//! all of it. When it ends, every task that it forked is killed by the kernel, except those that
//! continue without a lease.
//!
//! The thread holds the gate around the check of the lease and the fork, and registers the child
//! before it lets go (see [`Gate`]). Nothing under the lock can block on anything but memory.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

use super::child::{Image, SpawnRequest, Terminal};
use super::gate::{Dies, Gate, Lease, Refusal};
use super::reaper::Strays;
use crate::clock::Clock;
use crate::planted::{Bug, planted};
use crate::process::{BareFork, oom};
use crate::turns;

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The gate is closed: the engine is fenced or stops.
    #[error("the engine starts nothing now")]
    Closed,
    /// No accepted beat for L.
    #[error("the lease was over")]
    LeaseOver,
    /// The host gives no further process, or the like.
    #[error("could not fork")]
    Fork(#[source] io::Error),
    /// The spawning thread has ended.
    #[error("the spawning thread has ended")]
    Gone,
}

/// Whether this process is the parent of last resort of its tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// An engine: it becomes a subreaper, and every child that it does not know is a straggler, which
    /// is killed. A process that starts children by other means must admit them ([`Gate::lock`]).
    Daemon,
    /// A library in somebody else's process: only process groups and descendants are killed.
    Library,
}

/// How a spawner is started.
#[derive(Clone)]
pub struct SpawnerOptions {
    /// Whose child the stragglers become.
    pub mode: Mode,
    /// Reads lease time.
    pub clock: Arc<dyn Clock>,
    /// Is told all tasks that run on without a lease each time one more starts: the guard, which would kill
    /// one that it does not know with a frozen engine. Called under the gate's lock, so it must not block.
    pub tell_continuing: Option<TellContinuing>,
}

/// See [`SpawnerOptions::tell_continuing`].
pub type TellContinuing = Arc<dyn Fn(&[i32]) + Send + Sync>;

/// A process that was forked. It is unreaped as long as its supervisor has not reaped it, so its
/// number cannot be given to another.
#[derive(Debug)]
pub struct Running {
    /// Main process and group of the attempt.
    pub pid: i32,
    /// Readable when it ended; `None` on kernels before 5.3.
    pub pidfd: Option<OwnedFd>,
}

struct Order {
    request: SpawnRequest,
    reply: Sender<Result<Running, SpawnError>>,
}

/// Starts processes. Dropping it ends the thread and with it the tasks that still run.
pub struct Spawner {
    gate: Arc<Gate>,
    strays: Strays,
    clock: Arc<dyn Clock>,
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Spawner {
    /// Starts the thread. The gate is closed until [`Spawner::open_gate`].
    pub fn start(options: SpawnerOptions) -> io::Result<Self> {
        if options.mode == Mode::Daemon {
            nix::sys::prctl::set_child_subreaper(true)?;
        }
        let gate = Arc::new(Gate::default());
        // Unbuffered would do: a caller waits for its answer in any case.
        let (orders, inbox) = bounded::<Order>(64);
        let forking = Forking {
            gate: Arc::clone(&gate),
            options: options.clone(),
            bare: BareFork::find(),
            terminal: Terminal::here(),
        };
        let thread = std::thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            // Without it nothing can be started, and an engine would claim and hand back in a loop.
            turns::or_abort("the thread that starts commands", || forking.serve(&inbox));
        })?;
        let strays = Strays::new(Arc::clone(&gate), options.mode, Arc::clone(&options.clock));
        Ok(Self { gate, strays, clock: options.clock, orders: Some(orders), thread: Some(thread) })
    }

    /// Starts a process, unless the gate is closed or the lease over. Returns after the fork; whether
    /// the exec worked is told through the request's `setup` pipe.
    pub fn spawn(&self, request: SpawnRequest) -> Result<Running, SpawnError> {
        let (reply, answer) = bounded(1);
        let orders = self.orders.as_ref().ok_or(SpawnError::Gone)?;
        orders.send(Order { request, reply }).map_err(|_| SpawnError::Gone)?;
        answer.recv().map_err(|_| SpawnError::Gone)?
    }

    /// Lets spawns in, under this lease.
    pub fn open_gate(&self, lease: Lease) {
        self.gate.open(lease);
    }

    /// No spawn after this returns.
    pub fn close_gate(&self) {
        self.gate.close();
    }

    /// The gate itself: the heartbeat renews its lease after each accepted beat.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// What sweeps up after ended attempts.
    pub fn strays(&self) -> &Strays {
        &self.strays
    }

    /// The clock it judges leases by.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the spawning thread panicked");
        }
    }
}

/// What the thread needs.
struct Forking {
    gate: Arc<Gate>,
    options: SpawnerOptions,
    bare: BareFork,
    terminal: Terminal,
}

impl Forking {
    fn serve(&self, inbox: &Receiver<Order>) {
        // Every signal is blocked here, and so in each child until its handlers are gone. Otherwise a
        // SIGTERM to a task that was just forked would run the engine's handler in the child and, through
        // the shared pipe of that handler, stop the engine.
        if let Err(error) = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None) {
            log::error!("could not block signals in the spawning thread: {error}");
            return;
        }
        for Order { request, reply } in inbox {
            let outcome = match planted(Bug::DeathSignalOfWorker) {
                true => std::thread::scope(|scope| scope.spawn(|| self.fork(&request)).join())
                    .unwrap_or(Err(SpawnError::Gone)),
                false => self.fork(&request),
            };
            // The child's ends must be closed here before the supervisor can wait for their end.
            drop(request);
            if reply.send(outcome).is_err() {
                log::error!("nobody waits for a process that was just started");
            }
        }
    }

    fn fork(&self, request: &SpawnRequest) -> Result<Running, SpawnError> {
        let image = Image::new(request, self.terminal)
            .ok_or_else(|| SpawnError::Fork(io::Error::other("a standard descriptor is closed")))?;
        let pid = {
            let mut inside = self.gate.enter(&*self.options.clock).map_err(|refusal| match refusal {
                Refusal::Closed => SpawnError::Closed,
                Refusal::LeaseOver => SpawnError::LeaseOver,
            })?;
            let score = oom::raised().filter(|_| self.options.mode == Mode::Daemon);
            // SAFETY: all signals are blocked in this thread, and the child does nothing but `run`.
            let pid = unsafe { self.bare.fork() };
            if pid == 0 {
                // SAFETY: this is the child that was just forked.
                unsafe { image.run() }
            }
            if pid < 0 {
                return Err(SpawnError::Fork(io::Error::last_os_error()));
            }
            drop(score);
            inside.admit(pid, request.dies);
            // Here at the earliest: before the fork it has no number, and an engine that freezes between these
            // two lines loses an attempt that has not passed its exec.
            if let Some(tell) = self.options.tell_continuing.as_ref().filter(|_| request.dies == Dies::Alone) {
                tell(&inside.continuing());
            }
            pid
        };
        if self.terminal == Terminal::None {
            // The child does the same; whoever comes first, the group exists before anybody signals it. An
            // error means that it has passed its exec, and then it has done so itself. One that makes a session
            // must not lead a group before; until it does, it is signalled by its number.
            // SAFETY: plain numbers.
            unsafe { libc::setpgid(pid, pid) };
        }
        Ok(Running { pid, pidfd: pidfd_open(pid) })
    }
}

fn pidfd_open(pid: i32) -> Option<OwnedFd> {
    // SAFETY: plain numbers; a non-negative result is a descriptor that nobody else owns. It is
    // close-on-exec by definition, and `pid` is our unreaped child.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0, ptr::null::<u8>());
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as i32))
    }
}
