//! Sees to it that no process of a task outlives its attempt (I8).
//!
//! While the main process lives, everything that it started is below it, daemonised or not, because
//! it is a subreaper. So a kill goes from the leaves to the main process. After its end its orphans
//! come to the next subreaper, which is the engine in [`Mode::Daemon`]. There each child that is not
//! the main process of a running attempt must be a straggler of an ended one, whichever it was.
//!
//! Numbers of processes are reused, so nothing is signalled by number alone: a main process is
//! unreaped as long as its supervisor works on it, and a straggler is our unreaped child (checked under
//! the gate's lock, where no new child can appear) or is compared by its start time.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use parking_lot::Mutex;

use super::exit::End;
use super::gate::Gate;
use super::spawner::Mode;
use crate::clock::Clock;
use crate::guard::tree::{self, Proc};
use crate::planted::{Bug, planted};

/// How long killing goes leaf by leaf before the main process is killed whatever is still below it.
/// Small against K/4 of the fastest profile (125 ms): a lost lease must not wait for a fork bomb.
const LEAVES_FIRST_MAX: Duration = Duration::from_millis(50);

/// How long the end of an attempt waits for stragglers that were killed. What is still there then hangs
/// in the kernel: it will not run another instruction of its own, and one dead disk must not keep
/// every attempt of the engine from ending.
const SWEEP_MAX: Duration = Duration::from_secs(10);

/// How often a torn snapshot is taken again.
const LOOKS_MAX: usize = 3;

const PAUSE_MIN: Duration = Duration::from_micros(500);
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// Signals the group of a main process whose supervisor has not reaped it. Where there is no group yet, it was
/// just forked and is alone: then it gets the signal itself, when it lets signals in before its exec.
pub(super) fn signal_group(main: i32, signal: Signal) {
    match killpg(Pid::from_raw(main), signal) {
        Ok(()) => {}
        Err(Errno::ESRCH) => signal_one(main, signal),
        Err(error) => log::warn!("could not send {signal} to process group {main}: {error}"),
    }
}

/// How `pid` ended, if it did. It stays unreaped, so its number and its group stay reserved.
pub(super) fn ended(pid: i32) -> Option<End> {
    // SAFETY: `info` is a valid buffer; the accessors are right for what waitid filled in.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        if libc::waitid(libc::P_PID, pid.cast_unsigned(), &raw mut info, flags) < 0 {
            return (Errno::last() == Errno::ECHILD).then_some(End::Unknown);
        }
        match (info.si_pid(), info.si_code) {
            (0, _) => None,
            (_, libc::CLD_EXITED) => Some(End::Exit(info.si_status())),
            _ => Some(End::Signal(info.si_status())),
        }
    }
}

/// Kills all descendants of a living main process, then its group and itself. Returns what was killed,
/// which takes a moment to die.
///
/// The main process is stopped first: it then starts nothing new, and its orphans still come to it.
pub(super) fn kill_tree(main: i32, clock: &dyn Clock) -> BTreeSet<Name> {
    let began = clock.lease_now();
    let mut killed = BTreeSet::new();
    signal_one(main, Signal::SIGSTOP);
    loop {
        let below = if planted(Bug::DirectChildOnly) { Vec::new() } else { descendants(main) };
        let count = killed.len();
        killed.extend(below.iter().filter(|p| tree::signal(p, Signal::SIGKILL).is_there()).map(name));
        // Nothing new was found, and all that was found has its signal: nobody is left who could fork.
        if killed.len() == count || clock.lease_now().since(began) >= LEAVES_FIRST_MAX {
            break;
        }
        clock.pause(PAUSE_MIN);
    }
    if !planted(Bug::DirectChildOnly) {
        signal_group(main, Signal::SIGKILL);
    }
    signal_one(main, Signal::SIGKILL);
    killed
}

/// What is below a main process. Where that cannot be read at present, its group and the sweep after its end do
/// without.
fn descendants(main: i32) -> Vec<Proc> {
    look().map_or_else(
        |error| {
            log::warn!("could not read /proc to kill what is below process {main}: {error}");
            Vec::new()
        },
        |all| tree::descendants(&all, main),
    )
}

/// For a main process whose supervisor has not reaped it.
fn signal_one(pid: i32, signal: Signal) {
    if let Err(error) = nix::sys::signal::kill(Pid::from_raw(pid), signal)
        && error != Errno::ESRCH
    {
        log::warn!("could not send {signal} to process {pid}: {error}");
    }
}

/// Sweeps up after ended attempts.
pub struct Strays {
    gate: Arc<Gate>,
    mode: Mode,
    clock: Arc<dyn Clock>,
    /// Sweeps that were asked for.
    asked: AtomicU64,
    state: Mutex<SweepState>,
}

#[derive(Default)]
struct SweepState {
    /// All sweeps up to this one are answered. One pass over /proc costs milliseconds; attempts that
    /// end together share it.
    answered: u64,
    /// Killed long ago and still there. They are reaped when they end, and waited for no more.
    given_up: BTreeSet<Name>,
}

/// A process for good: number and start.
pub(super) type Name = (i32, u64);

fn name(proc: &Proc) -> Name {
    (proc.pid, proc.start_ticks)
}

impl Strays {
    pub(super) fn new(gate: Arc<Gate>, mode: Mode, clock: Arc<dyn Clock>) -> Self {
        Self { gate, mode, clock, asked: AtomicU64::new(0), state: Mutex::default() }
    }

    /// Ends an attempt whose main process has ended but is not reaped: kills its group, reaps it, and
    /// returns when nothing is left of it, nor of what was `killed` before. False if something hangs in
    /// the kernel, or if nobody can say: a /proc that cannot be read is not one that shows nothing.
    pub(super) fn end_attempt(&self, main: i32, killed: &BTreeSet<Name>) -> bool {
        // Before the reaping: until then the group's number is surely ours.
        signal_group(main, Signal::SIGKILL);
        let group_is_gone = self.mode == Mode::Daemon || self.wait_for_group(main, killed);
        {
            let mut inside = self.gate.lock();
            reap(main);
            inside.forget(main);
        }
        group_is_gone && (self.mode == Mode::Library || self.sweep())
    }

    /// Kills every straggler of ended attempts and waits until they are gone. Only in [`Mode::Daemon`].
    pub fn sweep(&self) -> bool {
        let mine = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut state = self.state.lock();
        if state.answered >= mine {
            return true;
        }
        // Read before the pass looks: whoever asks later may have ended after the look.
        let upto = self.asked.load(Ordering::Acquire);
        let left = self.until_gone(|| {
            let mut found = self.pass()?;
            found.retain(|name| !state.given_up.contains(name));
            Ok(found)
        });
        match left {
            Ok(left) if left.is_empty() => {
                state.answered = upto;
                true
            }
            Ok(left) => {
                state.given_up.extend(left);
                false
            }
            Err(_) => false,
        }
    }

    /// Repeats a pass until it finds nothing. What is left after [`SWEEP_MAX`] is returned, or why nobody knows:
    /// descriptors that are used up may be free again a moment later, so a look that fails is taken again too.
    fn until_gone(&self, mut pass: impl FnMut() -> io::Result<BTreeSet<Name>>) -> io::Result<BTreeSet<Name>> {
        let began = self.clock.lease_now();
        let mut pause = PAUSE_MIN;
        loop {
            let left = pass();
            if left.as_ref().is_ok_and(BTreeSet::is_empty) {
                return left;
            }
            if self.clock.lease_now().since(began) >= SWEEP_MAX {
                match &left {
                    Ok(left) => {
                        let pids: Vec<i32> = left.iter().map(|name| name.0).collect();
                        log::error!("killed processes of ended attempts do not go away: {pids:?}");
                    }
                    Err(error) => log::error!("could not read /proc, so nobody knows what tasks left: {error}"),
                }
                return left;
            }
            self.clock.pause(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn wait_for_group(&self, pgid: i32, killed: &BTreeSet<Name>) -> bool {
        let left = self.until_gone(|| {
            let mut alive = look()?;
            alive.retain(|p| p.is_alive() && p.pid != pgid);
            if alive.iter().any(|p| p.pgid == pgid) {
                signal_group(pgid, Signal::SIGKILL);
            }
            Ok(alive.iter().filter(|p| p.pgid == pgid || killed.contains(&name(p))).map(name).collect())
        });
        left.is_ok_and(|left| left.is_empty())
    }

    /// Kills and reaps what is found now. The children that a straggler leaves become ours and are
    /// found by the next pass.
    fn pass(&self) -> io::Result<BTreeSet<Name>> {
        if has_no_children() {
            return Ok(BTreeSet::new());
        }
        let all = look()?;
        let strays = self.kill_strays(&all);
        let mut found: BTreeSet<Name> = strays.iter().map(name).collect();
        for stray in &strays {
            let below = tree::descendants(&all, stray.pid);
            found.extend(below.iter().filter(|p| tree::signal(p, Signal::SIGKILL).is_there()).map(name));
        }
        Ok(found)
    }

    /// The unknown children of this process, each killed or, if it was dead, reaped. Also those that
    /// were reaped are found: one may have died since the look, and then its child is ours by now
    /// although the look shows it elsewhere. Only a pass without any is clean.
    fn kill_strays(&self, all: &[Proc]) -> Vec<Proc> {
        let me = std::process::id().cast_signed();
        // The lock is taken after the look: a main process in the snapshot was forked before it, under
        // this lock, so it is known by now. The other way round a new one could look like a straggler.
        let inside = self.gate.lock();
        let strays: Vec<Proc> = all.iter().filter(|p| p.ppid == me && !inside.knows(p.pid)).copied().collect();
        strays.iter().for_each(kill_or_reap);
        strays
    }
}

/// All processes.
///
/// A snapshot takes milliseconds, and a process that dies meanwhile may be missing although its child
/// was seen below it: then the child would be found below nobody. Such a snapshot is taken again.
fn look() -> io::Result<Vec<Proc>> {
    for _ in 0..LOOKS_MAX {
        let all = tree::snapshot()?;
        if !is_torn(&all) {
            return Ok(all);
        }
    }
    // Where /proc hides the processes of other users, parents are missing for good.
    tree::snapshot()
}

fn is_torn(all: &[Proc]) -> bool {
    let pids: BTreeSet<i32> = all.iter().map(|p| p.pid).collect();
    all.iter().any(|p| p.ppid != 0 && !pids.contains(&p.ppid))
}

/// Reaps an unknown child if it is dead, and kills it otherwise.
///
/// The wait comes first: it tells for sure whether the number is still our child, also where the
/// snapshot shows a zombie whose other threads go on.
fn kill_or_reap(child: &Proc) {
    // SAFETY: no status is asked for.
    let waited = unsafe { libc::waitpid(child.pid, std::ptr::null_mut(), libc::WNOHANG) };
    if waited == 0 {
        signal_one(child.pid, Signal::SIGKILL);
    }
}

fn reap(main: i32) {
    // SAFETY: no status is asked for. It has ended, so this does not wait; if other code reaped it,
    // there is nothing left to do.
    unsafe { libc::waitpid(main, std::ptr::null_mut(), 0) };
}

/// Spares the pass over /proc where the engine runs only one task at a time.
fn has_no_children() -> bool {
    // SAFETY: `info` is a valid buffer.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        libc::waitid(libc::P_ALL, 0, &raw mut info, flags) < 0 && Errno::last() == Errno::ECHILD
    }
}
