//! The guard with real engines: shell scripts that say what an engine says. Each guard runs in a
//! forked process of its own, because it reaps every child and blocks signals.

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::spawn::exit_now;
use super::*;
use crate::clock::{Clock, SystemClock};
use crate::protocol::timing::{Profile, Spans, Timing};

const LIMIT: Duration = Duration::from_secs(30);

/// The incarnation that every script registers.
const INCARNATION: &str = "00000000000000ab";

pub(super) fn wait_until(mut condition: impl FnMut() -> bool) -> bool {
    let end = SystemClock.lease_now().after(LIMIT);
    while !condition() {
        if SystemClock.lease_now() >= end {
            return false;
        }
        SystemClock.pause(Duration::from_millis(5));
    }
    true
}

/// Living processes that were started with `MARK=mark`, except this one.
pub(super) fn marked(mark: &str) -> Vec<i32> {
    leftovers::find_marked("MARK", mark).unwrap().into_iter().map(|proc| proc.pid).collect()
}

/// Runs `body` in a forked process that inherits nothing but the standard descriptors.
pub(crate) fn in_child(body: impl FnOnce() -> i32) -> Pid {
    // SAFETY: glibc makes its allocator usable in the child; the body takes no lock of this process.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            // SAFETY: nothing in this child uses a descriptor of the parent.
            unsafe { nix::libc::close_range(3, u32::MAX, 0) };
            let result = catch_unwind(AssertUnwindSafe(body));
            exit_now(result.unwrap_or_else(|panic| {
                let text = panic.downcast::<String>().map_or_else(|_| "panicked".to_owned(), |t| *t);
                let _ = writeln!(std::io::stderr(), "in the child: {text}");
                101
            }))
        }
    }
}

/// Runs a test's body in a forked process that is a subreaper, as a task's main process is.
pub(crate) fn as_subreaper(body: impl FnOnce()) {
    let child = in_child(|| {
        set_child_subreaper(true).unwrap();
        body();
        0
    });
    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
}

/// With a q and deadlines that a busy test host keeps.
fn patient() -> Timing {
    let spans = Profile::Fast.spans();
    Timing::new(Spans { query_ms: 3_000, lease_ms: 8_000, kill_ms: 1_000, takeover_ms: 9_400, ..spans }).unwrap()
}

/// A guard in its own process, with the engine that `script` plays.
struct Guard {
    pid: Pid,
    dir: PathBuf,
    mark: String,
    tmp: Arc<tempfile::TempDir>,
}

/// What scripts may call; `far` and `soon` are deadlines.
const PRELUDE: &str = "say() { printf '%s' \"$*\" >&$REKINDLE_GUARD_FD; }; cd $D;";

const PROVER: &str = "echo \"$@\" >> $D/proof";

impl Guard {
    fn start(means: MeansChoice, script: &str) -> Self {
        Self::start_with(means, &format!("say registered $I; {script}"), PROVER)
    }

    fn start_with(means: MeansChoice, script: &str, prover: &str) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), means, script, prover)
    }

    fn start_in(tmp: Arc<tempfile::TempDir>, means: MeansChoice, script: &str, prover: &str) -> Self {
        let dir = tmp.path().to_owned();
        let mark = format!("guard-{}", dir.display());
        let soon = SystemClock.lease_now().after(Duration::from_secs(2)).as_ns();
        let words = |script: &str| {
            let setting = [
                format!("MARK={mark}"),
                format!("D={}", dir.display()),
                format!("I={INCARNATION}"),
                format!("soon={soon}"),
                format!("far={}", soon + 600_000_000_000),
            ];
            let all = ["env".to_owned()].into_iter().chain(setting);
            all.chain(["sh", "-c", script, "prover"].map(str::to_owned)).map(Into::into).collect()
        };
        let (engine, prover) = (words(&format!("{PRELUDE} {script}")), words(prover));
        let state = dir.join("state");
        let pid = in_child(|| {
            let state = take_state_dir(&state).unwrap();
            run(GuardOptions { engine, prover, state, means, timing: patient() })
        });
        Self { pid, dir, mark, tmp }
    }

    /// Waits for its end and checks that nothing is left.
    fn end(self) -> Ended {
        let status = waitpid(self.pid, None).unwrap();
        assert_eq!(marked(&self.mark), Vec::<i32>::new(), "something is left");
        let proof = fs::read_to_string(self.dir.join("proof")).ok();
        match status {
            WaitStatus::Exited(_, code) => Ended { code, proof },
            other => panic!("{other:?}"),
        }
    }

    /// The number that a script wrote into a file.
    fn pid_in(&self, file: &str) -> i32 {
        let read = || fs::read_to_string(self.dir.join(file)).ok()?.trim().parse().ok();
        assert!(wait_until(|| read().is_some()), "no {file}");
        read().unwrap()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A test that failed must not leave its guard behind.
        if let Ok(WaitStatus::StillAlive) = waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
            kill_below(self.pid.as_raw(), Root::Included, &[], LIMIT);
            let _ = waitpid(self.pid, None);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Ended {
    code: i32,
    proof: Option<String>,
}

fn proved(code: i32) -> Ended {
    Ended { code, proof: Some(format!("{INCARNATION} guard\n")) }
}

fn unproved(code: i32) -> Ended {
    Ended { code, proof: None }
}

const TREE: MeansChoice = MeansChoice::Only(Means::ProcessTree);

/// Each means that this host allows; what it does not is printed.
fn on_every_means(check: impl Fn(MeansChoice)) {
    for (means, result) in available_means() {
        match result {
            Ok(()) => check(MeansChoice::Only(means)),
            Err(reason) => println!("skipped {means}: {reason}"),
        }
    }
}

#[test]
fn a_killed_engine_leaves_nothing_behind_and_its_death_is_proved() {
    on_every_means(|means| {
        let script = "say renew $far; (setsid sleep 60 &) ; trap '' TERM; setsid sh -c 'sleep 60 & sleep 60' & \
                      sh -c 'kill -STOP $$' & sleep 0.2; echo $$ > ready; sleep 60";
        let guard = Guard::start(means, script);
        guard.pid_in("ready");
        // Found from outside: in a PID namespace the number it knows itself by is another.
        let engine = tree::below(guard.pid.as_raw(), &[]).unwrap()[0];
        kill(Pid::from_raw(engine.pid), Signal::SIGKILL).unwrap();
        assert_eq!(guard.end(), proved(1), "{means:?}");
    });
}

#[test]
fn a_frozen_engine_is_killed_at_its_deadline() {
    on_every_means(|means| {
        // The first process of a PID namespace cannot stop itself.
        let guard = Guard::start(means, "say renew $soon; setsid sleep 60 & echo 1 > ready; wait");
        guard.pid_in("ready");
        let engine = tree::below(guard.pid.as_raw(), &[]).unwrap()[0];
        kill(Pid::from_raw(engine.pid), Signal::SIGSTOP).unwrap();
        assert_eq!(guard.end(), proved(1), "{means:?}");
    });
}

#[test]
fn an_engine_that_renews_in_time_lives_on() {
    let script = "for more in 1 2 3; do say renew $((soon + more * 1000000000)); sleep 1; done; say goodbye 0";
    assert_eq!(Guard::start(TREE, script).end(), unproved(0));
}

#[test]
fn all_clear_suspends_the_deadline_until_the_next_renewal() {
    let script = "say renew $soon; say all-clear; sleep 2.5; touch lived; say renew $soon; sleep 60";
    let guard = Guard::start(TREE, script);
    let lived = guard.dir.join("lived");
    assert!(wait_until(|| lived.exists()));
    assert_eq!(guard.end(), proved(1));
}

#[test]
fn after_a_goodbye_nothing_is_proved_and_stragglers_are_killed() {
    assert_eq!(Guard::start(TREE, "say renew $far; setsid sleep 60 & say goodbye 5; exit 9").end(), unproved(5));
}

#[test]
fn an_engine_that_says_goodbye_and_stays_is_killed() {
    assert_eq!(Guard::start(TREE, "say renew $far; say goodbye 0; sleep 60").end(), unproved(0));
}

#[test]
fn deliberate_exit_codes_are_passed_on_and_others_are_deaths() {
    assert_eq!(Guard::start(TREE, "exit 78").end(), proved(78));
    assert_eq!(Guard::start(TREE, "exit 0").end(), proved(1));
    assert_eq!(Guard::start(TREE, "exit 101").end(), proved(1));
}

#[test]
fn an_engine_that_never_registered_is_not_proved() {
    let end = |script: &str| Guard::start_with(TREE, script, "touch $D/proof").end();
    assert_eq!(end("exit 0"), unproved(0));
    assert_eq!(end("exit 69"), unproved(69));
    assert_eq!(end("kill -9 $$"), unproved(1));
}

#[test]
fn continue_tasks_of_a_frozen_engine_are_spared_and_awaited_before_the_proof() {
    on_every_means(|means| {
        if means == MeansChoice::Only(Means::PidNamespace) {
            return;
        }
        let script = "sh -c 'sleep 61 & wait' & kept=$!; sleep 60 & say continue $kept; echo $kept > kept; \
                      say renew $soon; kill -STOP $$";
        let guard = Guard::start(means, script);
        let kept = guard.pid_in("kept");
        assert!(wait_until(|| marked(&guard.mark).len() == 2), "{:?}", marked(&guard.mark));
        assert!(marked(&guard.mark).contains(&kept));
        assert!(!guard.dir.join("proof").exists());
        kill(Pid::from_raw(kept), Signal::SIGTERM).unwrap();
        assert_eq!(guard.end(), proved(1), "{means:?}");
    });
}

#[test]
fn a_stop_signal_ends_the_waiting_for_continue_tasks() {
    let guard = Guard::start(TREE, "sleep 60 & say continue $!; echo $! > kept; say renew $soon; kill -STOP $$");
    guard.pid_in("kept");
    assert!(wait_until(|| marked(&guard.mark).len() == 1));
    kill(guard.pid, Signal::SIGTERM).unwrap();
    assert_eq!(guard.end(), proved(1));
}

#[test]
fn signals_are_passed_on_to_the_engine() {
    let script = "trap 'echo usr1 >> got; echo 1 > usr1' USR1; trap 'echo term >> got; say goodbye 0; exit' TERM; \
                  echo 1 > ready; while :; do sleep 0.05; done";
    let guard = Guard::start(TREE, script);
    guard.pid_in("ready");
    kill(guard.pid, Signal::SIGUSR1).unwrap();
    guard.pid_in("usr1");
    kill(guard.pid, Signal::SIGTERM).unwrap();
    let got = guard.dir.join("got");
    assert!(wait_until(|| fs::read_to_string(&got).is_ok_and(|t| t == "usr1\nterm\n")));
    assert_eq!(guard.end(), unproved(0));
}

#[test]
fn orphans_are_reaped_while_the_engine_lives() {
    let guard = Guard::start(TREE, "(true & true & true &) ; sleep 0.2; echo 1 > ready; sleep 60");
    guard.pid_in("ready");
    assert!(wait_until(|| tree::below(guard.pid.as_raw(), &[]).unwrap().iter().all(tree::Proc::is_alive)));
    kill(Pid::from_raw(tree::below(guard.pid.as_raw(), &[]).unwrap()[0].pid), Signal::SIGKILL).unwrap();
    assert_eq!(guard.end(), proved(1));
}

#[test]
fn a_prover_that_hangs_is_killed_after_q() {
    let guard = Guard::start_with(TREE, "say registered $I; exit 1", "trap '' TERM; setsid sleep 60 & sleep 60");
    let begun = SystemClock.lease_now();
    assert_eq!(guard.end(), unproved(1));
    assert!(SystemClock.lease_now().since(begun) < Duration::from_secs(20));
}

#[test]
fn the_lock_is_free_only_when_guard_and_engine_are_dead() {
    let guard = Guard::start(TREE, "echo $$ > engine; exec sleep 60");
    let engine = guard.pid_in("engine");
    let state = guard.dir.join("state");
    assert!(matches!(take_state_dir(&state), Err(StateDirError::Locked { .. })), "its guard lives");
    kill(guard.pid, Signal::SIGKILL).unwrap();
    waitpid(guard.pid, None).unwrap();
    let lock = std::fs::File::open(state.join("lock")).unwrap();
    #[expect(deprecated, reason = "as in leftovers.rs")]
    let try_lock = || nix::fcntl::flock(lock.as_raw_fd(), nix::fcntl::FlockArg::LockExclusiveNonblock);
    assert!(try_lock().is_err(), "the engine still holds it");
    kill(Pid::from_raw(engine), Signal::SIGKILL).unwrap();
    assert!(wait_until(|| try_lock().is_ok()));
}

/// Twice, because the file is read and written again in between.
#[test]
fn a_frozen_engine_whose_guard_is_dead_does_not_keep_its_state_directory() {
    const WAITS: &str = "echo $$ > engine; exec sleep 60";
    let mut guard = Guard::start(TREE, WAITS);
    for _ in 0..2 {
        let engine = guard.pid_in("engine");
        kill(Pid::from_raw(engine), Signal::SIGSTOP).unwrap();
        kill(guard.pid, Signal::SIGKILL).unwrap();
        waitpid(guard.pid, None).unwrap();
        // Who only looks into the file is no holder of it.
        let lock = fs::File::open(guard.dir.join("state/lock")).unwrap();
        let mut bystander = std::process::Command::new("sleep").arg("60").stdin(lock).spawn().unwrap();
        fs::remove_file(guard.dir.join("engine")).unwrap();
        guard = Guard::start_in(Arc::clone(&guard.tmp), TREE, WAITS, PROVER);
        guard.pid_in("engine");
        assert!(tree::read(engine).is_none_or(|proc| !proc.is_alive()), "the engine has stopped everything by now");
        assert!(bystander.try_wait().unwrap().is_none(), "a bystander was killed");
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    }
    kill(guard.pid, Signal::SIGTERM).unwrap();
    guard.end();
}

#[test]
fn what_is_left_in_a_former_control_group_is_killed_at_the_next_start() {
    if let (_, Err(reason)) = &available_means()[0] {
        println!("skipped: {reason}");
        return;
    }
    // As an engine does, the script keeps the lock from its task.
    let script = "eval \"env -i setsid sh -c 'echo \\$\\$ > left; exec sleep 60' $REKINDLE_LOCK_FD>&- &\"; \
                  echo $$ > engine; exec sleep 60";
    let guard = Guard::start(MeansChoice::Only(Means::Cgroup), script);
    let (left, engine) = (guard.pid_in("left"), guard.pid_in("engine"));
    kill(guard.pid, Signal::SIGKILL).unwrap();
    waitpid(guard.pid, None).unwrap();
    kill(Pid::from_raw(engine), Signal::SIGKILL).unwrap();
    let state = guard.dir.join("state");
    assert!(tree::read(left).unwrap().is_alive());
    assert!(wait_until(|| take_state_dir(&state).is_ok()));
    assert!(tree::read(left).is_none_or(|p| !p.is_alive()));
}

#[test]
fn the_engine_takes_link_and_lock_from_the_environment_once() {
    as_subreaper(|| {
        let tmp = tempfile::tempdir().unwrap();
        let state = take_state_dir(tmp.path()).unwrap();
        let (port, theirs) = link::Port::pair().unwrap();
        let lock = nix::unistd::dup(state.lock()).unwrap();
        let number = |fd: &dyn std::os::fd::AsRawFd| fd.as_raw_fd().to_string();
        // SAFETY: this process was forked with one thread.
        unsafe {
            std::env::set_var(GUARD_FD_ENV, number(&theirs));
            std::env::set_var(LOCK_FD_ENV, number(&lock));
        }
        // They are taken over by number, as after an exec.
        std::mem::forget((theirs, lock));
        let link = GuardLink::from_env().unwrap().unwrap();
        assert!(GuardLink::from_env().unwrap().is_none());
        port.tick(SystemClock.lease_now());
        assert_eq!(link.wait_tick(LIMIT), GuardState::Alive);
        let mine = inherited_state_dir(tmp.path()).unwrap().unwrap();
        assert_eq!(mine.id(), state.id());
        assert!(inherited_state_dir(tmp.path()).unwrap().is_none());
        drop(state);
        assert!(is_taken(tmp.path()), "the guard's end alone does not free the lock");
        drop(mine);
        assert!(!is_taken(tmp.path()));
    });
}

fn is_taken(path: &Path) -> bool {
    matches!(take_state_dir(path), Err(StateDirError::Locked { .. }))
}
