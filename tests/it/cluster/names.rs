//! Names and state directories: who may be whom.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use rekindle::protocol::engine::{EngineState, Proof};
use rekindle::protocol::task::{AttemptResult, TaskState};

use super::engine::Engine;
use super::rig::{Rig, SOON, signal, wait_or};
use super::units::Service;

fn kill_both(engine: &Engine) {
    let proper = engine.proper();
    engine.signal(Signal::SIGKILL);
    signal(proper, Signal::SIGKILL);
    engine.wait(SOON);
    // It holds the state directory's lock until it is wholly gone.
    let is_gone = || rekindle::guard::tree::read(proper).is_none_or(|proc| !proc.is_alive());
    wait_or(SOON, is_gone, || engine.log());
}

fn kill_both_engine_first(engine: &Engine) {
    let proper = engine.proper();
    signal(proper, Signal::SIGKILL);
    let is_gone = || rekindle::guard::tree::read(proper).is_none_or(|proc| !proc.is_alive());
    wait_or(SOON, is_gone, || engine.log());
    engine.signal(Signal::SIGKILL);
    engine.wait(SOON);
}

fn copy(rig: &Rig, from: &str, to: &str) {
    assert!(Command::new("cp").arg("-a").arg(rig.path(from)).arg(rig.path(to)).status().unwrap().success());
}

pub fn a_second_engine_of_a_live_name_exits_3_and_disturbs_nobody(rig: &Rig) {
    let a = rig.engine("a").start();
    let task = rig.add("ticks 60");
    rig.wait_starts(task, 1, SOON);
    copy(rig, "state-a", "state-copy");
    // The same state directory, another one, and a copy of the first.
    for state in ["state-a", "state-other", "state-copy"] {
        let second = rig.engine("a").state(state).launch();
        assert_eq!(second.wait(SOON), 3, "{}", second.log());
        let said = if state == "state-a" { "in use by another engine" } else { "is taken by a live engine" };
        assert!(second.log().contains(said), "{}", second.log());
    }
    assert_eq!(rig.lives("a").len(), 1);
    rig.wait_state(task, TaskState::Done, SOON);
    assert_eq!(rig.results(task), [AttemptResult::Done]);
    a.stop();
}

/// A whole cluster that lost its power, or a host whose disk is new: nobody is left who could fence the rows
/// that still look live, so the namesake itself watches for T.
pub fn without_its_state_directory_a_dead_name_is_free_after_its_t(rig: &Rig) {
    let a = rig.engine("a").start();
    let task = rig.add("if first; then forever; fi; ticks 2");
    rig.wait_starts(task, 1, SOON);
    kill_both(&a);
    let former = rig.life("a").incarnation;
    let other = rig.engine("a").state("state-other").start();
    rig.wait_state(task, TaskState::Done, SOON);
    let row = rig.lives("a").into_iter().find(|row| row.incarnation == former).unwrap();
    assert_eq!((row.state, row.proof), (EngineState::Fenced, Some(Proof::Expiry)), "{}", other.log());
    other.stop();
}

/// A control group holds together what the former life started, and the start has cleared it: also of processes
/// that have no mark of it.
pub fn after_the_death_of_both_the_same_state_directory_registers_at_once(rig: &Rig) {
    let Some(service) = Service::make(&rig.mark) else { return };
    let spec = rig.engine("a").means("cgroup").group(&service.dir);
    let a = spec.start();
    let task = rig.add(&format!("if first; then {ESCAPE_UNMARKED} escape; forever; fi; ticks 2"));
    rig.wait_starts(task, 1, SOON);
    wait_or(SOON, || rig.task_processes(task).len() >= 2, || "nothing escaped".into());
    let unmarked = unmarked(rig);
    kill_both(&a);
    let former = rig.life("a");
    assert_eq!(former.state, EngineState::Live);
    let again = spec.start();
    let row = rig.lives("a").into_iter().find(|row| row.incarnation == former.incarnation).unwrap();
    assert_eq!((row.state, row.proof), (EngineState::Fenced, Some(Proof::Lock)), "{}", again.log());
    let stood = row.ended_at.unwrap().since(row.last_beat_at);
    assert!(stood < Duration::from_secs(3), "it waited for T: {stood:?}\n{}", again.log());
    assert!(!is_alive(unmarked), "the control group was not cleared");
    rig.wait_state(task, TaskState::Done, SOON);
    assert_eq!(rig.results(task), [AttemptResult::Lost, AttemptResult::Done]);
    again.stop();
}

/// A grandchild whose environment was cleared is nobody's once guard and engine are dead: it cannot be known that
/// nothing runs any more, so there is no proof.
pub fn after_the_death_of_both_there_is_no_proof_where_something_may_have_got_away(rig: &Rig) {
    let a = rig.engine("a").start();
    assert!(a.log().contains("guard and engine killed at once leave no proof"), "{}", a.log());
    let task = rig.add(&format!("if first; then {ESCAPE_UNMARKED} forever; fi; ticks 2"));
    rig.wait_starts(task, 1, SOON);
    let unmarked = unmarked(rig);
    // Stopped first: a guard would kill what its engine left, and an engine whose guard dies first kills its tasks.
    a.signal(Signal::SIGSTOP);
    kill_both_engine_first(&a);
    let former = rig.life("a").incarnation;
    let again = rig.engine("a").start();
    let row = rig.lives("a").into_iter().find(|row| row.incarnation == former).unwrap();
    assert_eq!(row.proof, Some(Proof::Expiry), "{}", again.log());
    assert!(is_alive(unmarked), "this is what makes the difference");
    signal(unmarked, Signal::SIGKILL);
    rig.wait_state(task, TaskState::Done, SOON);
    again.stop();
}

/// Leaves its session, its parents and its environment.
const ESCAPE_UNMARKED: &str = "env -i setsid /bin/sh -c 'echo $$ > '$PROBE.unmarked'; exec sleep 60' &";

fn unmarked(rig: &Rig) -> i32 {
    let read = || std::fs::read_to_string(rig.path("probe.sh.unmarked")).ok()?.trim().parse().ok();
    wait_or(SOON, || read().is_some(), || "nothing escaped".into());
    read().unwrap()
}

fn is_alive(pid: i32) -> bool {
    rekindle::guard::tree::read(pid).is_some_and(|proc| proc.is_alive())
}

/// A file system of its own for a state directory; unmounted when dropped.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn new(rig: &Rig, name: &str) -> Option<Self> {
        let path = rig.path(name);
        std::fs::create_dir(&path).unwrap();
        let none: Option<&str> = None;
        match nix::mount::mount(Some("it"), &path, Some("tmpfs"), nix::mount::MsFlags::empty(), none) {
            Ok(()) => Some(Self(path)),
            Err(error) => {
                println!("skipped: no tmpfs can be mounted here: {error}");
                None
            }
        }
    }

    /// The inode of the lock, made before anything else.
    fn lock(&self) -> u64 {
        std::fs::create_dir_all(self.0.join("s")).unwrap();
        let lock = std::fs::File::options().create(true).append(true).open(self.0.join("s/lock")).unwrap();
        std::os::unix::fs::MetadataExt::ino(&lock.metadata().unwrap())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Container images and two tmpfs number alike. The copy is recognised in the same PID namespace, where it could
/// kill the tasks of the original, and in one of its own, from where it could only fence it.
pub fn a_copy_with_equal_inodes_disturbs_nobody(rig: &Rig) {
    let Some((one, two)) = Mounted::new(rig, "fs-1").zip(Mounted::new(rig, "fs-2")) else { return };
    assert_eq!(one.lock(), two.lock(), "this host numbers files of two tmpfs differently");
    let a = rig.engine("a").state("fs-1/s").start();
    let task = rig.add("ticks 100");
    rig.wait_starts(task, 1, SOON);
    for file in ["id", "epoch", "lock"] {
        let _ = std::fs::copy(one.0.join("s").join(file), two.0.join("s").join(file));
    }
    let copy = rig.engine("a").state("fs-2/s");
    for second in [copy.launch(), copy.clone().contained().launch()] {
        assert_eq!(second.wait(SOON), 3, "{}", second.log());
        assert!(second.log().contains("is taken by a live engine"), "{}", second.log());
    }
    assert_eq!(rig.lives("a").len(), 1, "{}", a.log());
    rig.wait_state(task, TaskState::Done, SOON);
    assert_eq!((rig.results(task), rig.task(task).attempt), (vec![AttemptResult::Done], 1));
    a.stop();
}
