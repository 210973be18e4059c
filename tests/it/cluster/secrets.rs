//! What a task can find out about the engine that runs it.

use nix::sys::signal::Signal;
use rekindle::guard::tree;
use rekindle::protocol::task::TaskState;

use super::engine::EngineSpec;
use super::rig::{Rig, SOON, signal};

/// Counts the bytes it gets; `$1` is a process.
const SPY: &str = "spy() { for file in environ mem maps auxv; do \
    if head -c 1 /proc/$1/$file > stolen 2> why; then echo \"$file of $2\" >> \"$ORACLE.spy\"; fi; done; \
    ls /proc/$1/fd > stolen 2> why && echo \"fd of $2\" >> \"$ORACLE.spy\"; \
    ls /proc/$1/cwd/ > stolen 2> why && echo \"cwd of $2\" >> \"$ORACLE.spy\"; }";

pub fn a_task_reads_nothing_of_its_engine_and_guard(rig: &Rig) {
    spy(rig, rig.engine("a").unprivileged());
}

/// Where the engine is process 1: its guard cannot even be named.
pub fn in_a_pid_namespace_of_a_user_it_reads_nothing_either(rig: &Rig) {
    let unable = std::process::Command::new("setpriv")
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "unshare",
            "--user",
            "--pid",
            "--fork",
            "true",
        ])
        .output();
    match unable {
        Ok(out) if out.status.success() => spy(rig, rig.engine("a").means("pidns").unprivileged()),
        other => println!("skipped: no user namespace can be made here ({other:?})"),
    }
}

fn spy(rig: &Rig, engine: EngineSpec<'_>) {
    let a = engine.start();
    let spied = rig.path("oracle.spy");
    // The test would find nothing if the script could not find anything.
    let script = format!(
        "{SPY}; spy $$ itself; spy $PPID engine; \
         spy $(cut -d' ' -f4 /proc/$PPID/stat) guard; echo done >> \"$ORACLE.spy\""
    );
    let task = rig.add(&script);
    rig.wait_state(task, TaskState::Done, SOON);
    let seen = std::fs::read_to_string(spied).unwrap();
    let mut seen: Vec<_> = seen.lines().collect();
    seen.retain(|line| *line != "mem of itself");
    assert_eq!(
        seen,
        ["environ of itself", "maps of itself", "auxv of itself", "fd of itself", "cwd of itself", "done"]
    );
    a.stop();
}

/// What an engine has open is hidden from the one that follows it, so it must be known by something else.
pub fn a_frozen_engine_without_its_guard_is_found_by_the_next_start_of_its_user(rig: &Rig) {
    let a = rig.engine("a").unprivileged().start();
    let frozen = a.proper();
    signal(frozen, Signal::SIGSTOP);
    a.signal(Signal::SIGKILL);
    a.wait(SOON);
    let next = rig.engine("a").unprivileged().start();
    assert!(tree::read(frozen).is_none_or(|proc| !proc.is_alive()), "{}", next.log());
    next.stop();
}
