//! What the host gives an engine and its tasks: descriptors, users, and places to write.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::libc;
use nix::sys::resource::Resource;
use rekindle::clock::{Clock, SystemClock};
use rekindle::process::user::missing_rights;
use rekindle::protocol::engine::Mode;
use rekindle::protocol::task::{AttemptResult, TaskState};

use super::rig::{Rig, SOON, wait_or};
use crate::support::proxy::Weather;

/// A busy host starts dozens of shells.
const BUSY: Duration = Duration::from_secs(60);

/// The limit on descriptors of another process.
fn descriptors_of(pid: i32, new: Option<libc::rlimit>) -> libc::rlimit {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both point to limits, or to none.
    assert_eq!(unsafe { libc::prlimit(pid, Resource::RLIMIT_NOFILE as _, new, &raw mut old) }, 0);
    old
}

fn limit_descriptors(pid: i32, most: u64) {
    let now = descriptors_of(pid, None);
    descriptors_of(pid, Some(libc::rlimit { rlim_cur: most, ..now }));
}

pub fn what_the_host_cannot_start_costs_no_task_an_attempt(rig: &Rig) {
    let a = rig.engine("a").slots(64).kind("once", "retry = { max = 1 }\n").start();
    let proper = a.proper();
    let open = fs::read_dir(format!("/proc/{proper}/fd")).unwrap().count() as u64;
    // Room for two or three commands beside what the engine itself needs.
    limit_descriptors(proper, open + 40);
    let tasks: Vec<_> = (0..24).map(|_| rig.add_to("once", "ticks 10", &[])).collect();
    wait_or(SOON, || rig.life("a").mode == Mode::Starved, || a.log());
    assert!(a.log().contains("this host could not start a command"), "{}", a.log());
    limit_descriptors(proper, open + 1_000);
    for task in &tasks {
        rig.wait_state(*task, TaskState::Done, BUSY);
        assert_eq!(rig.results(*task), [AttemptResult::Done], "{}", rig.details(*task));
        assert_eq!(rig.task(*task).attempt, 1);
    }
    a.stop();
}

pub fn an_engine_takes_all_descriptors_and_no_more_slots_than_fit(rig: &Rig) {
    let mut spec = rig.engine("a").slots(64);
    spec = spec.descriptors(100, 240);
    let a = spec.start();
    let limit = descriptors_of(a.proper(), None);
    assert_eq!((limit.rlim_cur, limit.rlim_max), (240, 240));
    // (240 - 64) / 11
    assert_eq!(rig.life("a").slots, 16, "{}", a.log());
    let task =
        rig.add("[ $(ulimit -Sn) = 100 ] && [ $(ulimit -Hn) = 240 ] && [ $(cat /proc/self/oom_score_adj) = 300 ]");
    rig.wait_state(task, TaskState::Done, SOON);
    a.stop();
    let none = rig.engine("b").descriptors(70, 70).launch();
    assert_eq!(none.wait(SOON), 78, "{}", none.log());
    assert!(none.log().contains("not enough to run a single command"), "{}", none.log());
}

/// Lets everybody in who knows the way.
fn open_ways(rig: &Rig) {
    fs::create_dir_all(rig.path("state-a")).unwrap();
    for (name, mode) in [("", 0o711), ("state-a", 0o711), ("oracle", 0o666)] {
        fs::set_permissions(rig.path(name), Permissions::from_mode(mode)).unwrap();
    }
}

pub fn a_kind_with_a_user_runs_as_that_user(rig: &Rig) {
    if !missing_rights().is_empty() {
        return println!("skipped: this test cannot become somebody else");
    }
    open_ways(rig);
    let a = rig.engine("a").kind("other", "user = \"nobody\"\n").start();
    let body = "[ $(id -un) = nobody ] && cd \"$REKINDLE_DIR\" && touch file && [ $(stat -c %U file) = nobody ]";
    let task = rig.add_to("other", body, &[]);
    rig.wait_state(task, TaskState::Done, SOON);
    // One that ends with its engine is killed as any other is.
    let endless = rig.add_to("other", "deaf; if first; then forever; fi", &[]);
    rig.wait_starts(endless, 1, SOON);
    let pid = rig.last_line(endless).unwrap().pid;
    super::rig::signal(a.proper(), nix::sys::signal::Signal::SIGKILL);
    assert_eq!(a.wait(SOON), 1);
    assert!(rekindle::guard::tree::read(pid).is_none_or(|proc| !proc.is_alive()));
    // Nobody but its user may pass into a directory that is closed.
    fs::set_permissions(rig.path("state-a"), Permissions::from_mode(0o700)).unwrap();
    let closed = rig.engine("a").kind("other", "user = \"nobody\"\n").launch();
    assert_eq!(closed.wait(SOON), 78, "{}", closed.log());
    let log = closed.log();
    assert!(log.contains("kind.other.user: nobody may not enter") && log.contains("state-a"), "{log}");
}

pub fn an_engine_that_may_not_become_a_kinds_user_exits_78_and_names_the_key(rig: &Rig) {
    let a = rig.engine("a").unprivileged().kind("other", "user = \"daemon\"\n").launch();
    assert_eq!(a.wait(SOON), 78);
    let log = a.log();
    assert!(log.contains("state-a.toml:") && log.contains("kind.other.user: an engine that runs as "), "{log}");
    assert!(log.contains("CAP_SETUID") && log.contains("config check"), "{log}");
    let b = rig.engine("b").kind("other", "user = \"no-such-user\"\n").launch();
    assert_eq!(b.wait(SOON), 78);
    assert!(b.log().contains("kind.other.user: there is no user no-such-user on this host"), "{}", b.log());
}

pub fn what_a_task_wrote_delays_no_all_clear(rig: &Rig) {
    let proxy = rig.proxy();
    let a = rig.engine("a").through(&proxy).start();
    let (guard, proper) = (a.guard, a.proper());
    let body = "cd \"$REKINDLE_DIR\"; for i in $(seq 60000); do : > $i; done; say FULL; if first; then forever; fi";
    let task = rig.add(body);
    wait_or(BUSY, || !rig.said(task, "FULL").is_empty(), || a.log());
    proxy.set(Weather::blackhole());
    SystemClock.pause(Duration::from_secs(5));
    proxy.heal();
    wait_or(SOON, || rig.lives("a").len() == 2, || a.log());
    assert_eq!((a.guard, a.try_proper()), (guard, Some(proper)), "{}", a.log());
    assert!(a.log().contains("all clear") && !a.log().contains("killing it"), "{}", a.log());
    rig.wait_state(task, TaskState::Done, BUSY);
    a.stop();
}
