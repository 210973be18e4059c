//! Killing everything below a process, so that nothing gets away: not by `setsid`, not by a double
//! fork, not by ignoring SIGTERM, not by being stopped, not by forking faster than it is looked up.
//!
//! What is killed is found by parentage alone. That is complete below a *child subreaper*: whatever a
//! descendant does, orphans become the subreaper's children. So the root is stopped first and killed
//! last (dead, it would no longer hold its orphans together; running, it might start new ones).
//!
//! Below it each round first stops everything, until a round shows no new face, and kills only then:
//! a stopped process does not fork and keeps its place in the limit on processes, so a fork bomb
//! starves, whereas a killed one makes room for the next. Nothing here sends SIGTERM: asking is the
//! caller's part.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::tree::{self, Delivery, Proc};
use crate::clock::{Clock, SystemClock};
use crate::protocol::time::LeaseInstant;

/// Rounds of stopping before killing starts anyway.
const STOP_ROUNDS_MAX: usize = 32;

/// Pauses between rounds grow from the first to the second.
const PAUSE_MIN: Duration = Duration::from_micros(200);
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// The root gets this long to die, even when what was below it took all of the limit.
const ROOT_LIMIT: Duration = Duration::from_millis(200);

/// Whether the process at the top dies too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// It is killed last, with its process group if it leads one.
    Included,
    /// It is left alone.
    Excluded,
}

/// What killing came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KillReport {
    /// How many processes were killed.
    pub killed: usize,
    /// What was still alive at the limit (in the kernel, uninterruptibly), or could not be looked up.
    pub left: Vec<i32>,
    /// Those of them that this process may not kill: they run as another user.
    pub refused: Vec<i32>,
}

impl KillReport {
    /// Whether nothing is left.
    pub fn is_clean(&self) -> bool {
        self.left.is_empty()
    }

    /// Who may not be killed and why, to be put behind a sentence; nothing where nobody is.
    pub fn refusal(&self) -> String {
        match &self.refused[..] {
            [] => String::new(),
            pids => format!("; not permitted to kill process {pids:?}: they run as another user (setuid programs?)"),
        }
    }
}

/// Kills what descends from `root`, and `root` itself if it is included, and returns when nothing is
/// left or `limit` has passed. `spare` and what descends from those are left alone.
///
/// `root` must not have been reaped yet, so that its number is still its own; dead and not reaped is
/// well: then its process group is killed. Killed children of the calling process are reaped, except
/// `root`, whose status belongs to whoever started it.
pub fn kill_below(root: i32, include: Root, spare: &[i32], limit: Duration) -> KillReport {
    hunt(root, tree::read(root).filter(|_| include == Root::Included), spare, limit)
}

fn hunt(root: i32, top: Option<Proc>, spare: &[i32], limit: Duration) -> KillReport {
    let mut hunt = Hunt::new(root, spare, limit);
    if let Some(top) = top.filter(Proc::is_alive) {
        tree::signal(&top, Signal::SIGSTOP);
    }
    hunt.clear();
    if let Some(top) = top {
        hunt.finish_root(&top);
    }
    hunt.reap();
    hunt.report
}

/// [`kill_below`] for a task's main process and everything of its attempt.
pub fn kill_tree(root: &Proc, limit: Duration) -> KillReport {
    kill_tree_sparing(root, &[], limit)
}

/// The same for a process that was found a while ago: if its number is another's by now, nothing is done.
pub(super) fn kill_tree_sparing(root: &Proc, spare: &[i32], limit: Duration) -> KillReport {
    match tree::read(root.pid) {
        Some(now) if now.start_ticks == root.start_ticks => hunt(root.pid, Some(now), spare, limit),
        _ => KillReport::default(),
    }
}

/// Kills and reaps the children of the calling process that are not in `known`: what a task left
/// behind whose main process ended by itself. The caller keeps others from spawning meanwhile, or a
/// child that was started after `known` was listed is killed with them.
pub fn kill_strays(known: &[i32], limit: Duration) -> KillReport {
    kill_below(own_pid(), Root::Excluded, known, limit)
}

pub(super) fn own_pid() -> i32 {
    nix::unistd::getpid().as_raw()
}

/// A child of ours cannot be another process before we reap it, and with one that forks and exits in
/// a loop every microsecond counts: so it is stopped without a second look.
fn stop(proc: &Proc) {
    if proc.ppid == own_pid() {
        let _ = kill(Pid::from_raw(proc.pid), Signal::SIGSTOP);
    } else {
        tree::signal(proc, Signal::SIGSTOP);
    }
}

fn is_still_alive(proc: &Proc) -> bool {
    tree::read(proc.pid).is_some_and(|now| now.start_ticks == proc.start_ticks && now.is_alive())
}

/// One killing with its limit and its count.
struct Hunt<'a> {
    root: i32,
    spare: &'a [i32],
    end: LeaseInstant,
    pause: Duration,
    /// Killed and not known to be reaped: number and start.
    killed: HashSet<(i32, u64)>,
    report: KillReport,
}

impl<'a> Hunt<'a> {
    fn new(root: i32, spare: &'a [i32], limit: Duration) -> Self {
        let end = SystemClock.lease_now().after(limit);
        Self { root, spare, end, pause: PAUSE_MIN, killed: HashSet::new(), report: KillReport::default() }
    }

    /// Rounds until two listings in a row were empty. One is not enough: without the kernel's lists of
    /// children a listing takes milliseconds, and a process may be born behind its back.
    fn clear(&mut self) {
        let mut empty_count = 0;
        while empty_count < 2 {
            match self.stop_all() {
                Ok(found) if found.is_empty() => {
                    self.report.left.clear();
                    self.report.refused.clear();
                    empty_count += 1;
                    continue;
                }
                Ok(found) => self.kill(found),
                // A process that cannot be listed is not dead: the root stands for what may be left.
                Err(e) => {
                    log::warn!("could not list what is below process {}: {e}", self.root);
                    self.report.left = vec![self.root];
                }
            }
            empty_count = 0;
            self.reap();
            if !self.pause() {
                return;
            }
        }
    }

    /// Stops everything that is found until nothing new turns up; returns the last listing.
    fn stop_all(&self) -> io::Result<Vec<Proc>> {
        let mut found = self.list()?;
        for _ in 0..STOP_ROUNDS_MAX {
            if found.is_empty() {
                break;
            }
            found.iter().filter(|p| p.state != b'T').for_each(stop);
            let again = self.list()?;
            let known: HashSet<i32> = found.iter().map(|p| p.pid).collect();
            let is_settled = again.iter().all(|p| known.contains(&p.pid));
            found = again;
            if is_settled {
                break;
            }
        }
        Ok(found)
    }

    /// What is alive below the root and not spared.
    fn list(&self) -> io::Result<Vec<Proc>> {
        let mut found = tree::below(self.root, self.spare)?;
        found.retain(Proc::is_alive);
        Ok(found)
    }

    fn kill(&mut self, found: Vec<Proc>) {
        self.report.left = found.iter().map(|p| p.pid).collect();
        self.report.refused.clear();
        for proc in found {
            match tree::signal(&proc, Signal::SIGKILL) {
                // The same one may turn up in several rounds until the kernel is done with it.
                Delivery::Delivered if self.killed.insert((proc.pid, proc.start_ticks)) => self.report.killed += 1,
                Delivery::Refused => self.report.refused.push(proc.pid),
                _ => {}
            }
        }
    }

    /// Reaps those killed that have become our children, and forgets those that are gone.
    fn reap(&mut self) {
        self.killed.retain(|(pid, start_ticks)| match tree::read(*pid) {
            Some(now) if now.start_ticks == *start_ticks => {
                let is_reaped = now.ppid == own_pid()
                    && !matches!(waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive));
                !is_reaped
            }
            _ => false,
        });
    }

    fn finish_root(&mut self, top: &Proc) {
        // The group covers what left the tree earlier, when the root was no subreaper. Not where it
        // holds something spared, and never our own.
        let group = Pid::from_raw(top.pid);
        let is_itself = tree::read(top.pid).is_some_and(|now| now.start_ticks == top.start_ticks);
        let is_leader = is_itself && top.pgid == top.pid && group != nix::unistd::getpgrp();
        if is_leader && !self.spare.iter().any(|pid| tree::read(*pid).is_some_and(|p| p.pgid == top.pid)) {
            let _ = killpg(group, Signal::SIGKILL);
        }
        if top.is_alive() {
            match tree::signal(top, Signal::SIGKILL) {
                Delivery::Delivered => self.report.killed += 1,
                Delivery::Refused => self.report.refused.push(top.pid),
                Delivery::Gone => {}
            }
            // The limit may be used up by now, and a kill is not instant.
            self.end = self.end.max(SystemClock.lease_now().after(ROOT_LIMIT));
            while is_still_alive(top) {
                if !self.pause() {
                    self.report.left.push(top.pid);
                    return;
                }
            }
        }
    }

    /// Waits a little; false once the limit has passed.
    fn pause(&mut self) -> bool {
        if SystemClock.lease_now() >= self.end {
            return false;
        }
        SystemClock.pause(self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::guard::tests::{as_subreaper, marked, wait_until};

    const LIMIT: Duration = Duration::from_secs(20);

    fn sh(script: &str, mark: &str) -> Child {
        Command::new("sh").args(["-c", script]).env("MARK", mark).spawn().unwrap()
    }

    /// Starts `script` as a task would be started, waits for `count` processes, kills them.
    fn kill_script(name: &str, script: &str, count: usize) {
        as_subreaper(|| {
            let mark = format!("{name}-{}", own_pid());
            let mut child = sh(script, &mark);
            assert!(wait_until(|| marked(&mark).len() >= count), "{name} did not start");
            let report = kill_below(own_pid(), Root::Excluded, &[], LIMIT);
            assert!(report.is_clean() && report.killed >= count, "{name}: {report:?}");
            assert!(wait_until(|| marked(&mark).is_empty()), "{name}: something is left");
            let _ = child.wait();
        });
    }

    #[test]
    fn processes_that_left_session_and_group_are_killed() {
        kill_script("setsid", "setsid sleep 60 & setsid sh -c 'setsid sleep 60 & wait' & wait", 4);
    }

    #[test]
    fn a_double_fork_is_killed() {
        kill_script("double", "(setsid sleep 60 & exit) ; (( sleep 60 & ) & ) ; exec sleep 60", 3);
    }

    #[test]
    fn processes_that_ignore_signals_or_are_stopped_are_killed() {
        kill_script("deaf", "trap '' TERM INT HUP; sh -c 'kill -STOP $$; sleep 60' & sleep 60 & wait", 3);
    }

    #[test]
    fn a_process_that_starts_new_ones_for_ever_is_killed() {
        kill_script("loop", "while :; do setsid sleep 60 & sleep 0.01; done", 8);
    }

    #[test]
    fn a_process_that_forks_and_exits_in_a_loop_is_killed() {
        kill_script("hop", "hop() { ( hop ) & exit 0; }; setsid sleep 60 & hop", 1);
    }

    #[test]
    fn spared_processes_and_their_children_live_on() {
        as_subreaper(|| {
            let mark = format!("spare-{}", own_pid());
            let mut kept = sh("sleep 60 & wait", &mark);
            let mut other = sh("sleep 60 & wait", &mark);
            assert!(wait_until(|| marked(&mark).len() == 4));
            let report = kill_strays(&[kept.id() as i32], LIMIT);
            assert_eq!((report.killed, report.is_clean()), (2, true));
            assert!(wait_until(|| marked(&mark).len() == 2));
            assert!(kept.try_wait().unwrap().is_none());
            let kept_proc = tree::read(kept.id() as i32).unwrap();
            assert_eq!(kill_tree(&kept_proc, LIMIT).killed, 2);
            assert!(marked(&mark).is_empty());
            kept.wait().unwrap();
            let _ = other.wait();
        });
    }

    #[test]
    fn the_group_of_a_task_that_ended_by_itself_is_killed() {
        use std::os::unix::process::CommandExt;
        let mark = format!("group-{}", own_pid());
        let mut child =
            Command::new("sh").args(["-c", "sleep 60 & exit 0"]).env("MARK", &mark).process_group(0).spawn().unwrap();
        let pid = child.id() as i32;
        assert!(wait_until(|| tree::read(pid).is_some_and(|p| !p.is_alive()) && marked(&mark).len() == 1));
        assert!(kill_below(pid, Root::Included, &[], LIMIT).is_clean());
        assert!(wait_until(|| marked(&mark).is_empty()));
        child.wait().unwrap();
    }

    #[test]
    fn a_task_that_restarts_what_is_killed_dies_with_everything() {
        use std::os::unix::process::CommandExt;
        let mark = format!("task-{}", own_pid());
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do setsid sleep 60 & setsid sh -c 'sleep 60 & exit' & sleep 0.02; done"]);
        command.env("MARK", &mark).process_group(0);
        // SAFETY: one system call, as the command handler makes it for every task.
        unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_child_subreaper(true)?)) };
        let mut child = command.spawn().unwrap();
        assert!(wait_until(|| marked(&mark).len() > 10));
        let report = kill_tree(&tree::read(child.id() as i32).unwrap(), LIMIT);
        assert!(report.is_clean() && report.killed > 10, "{report:?}");
        assert_eq!(marked(&mark), Vec::<i32>::new());
        child.wait().unwrap();
    }

    #[test]
    fn a_reaped_root_is_not_mistaken_for_its_successor() {
        let mut child = sh("exit 0", "x");
        let proc = tree::read(child.id() as i32).unwrap();
        child.wait().unwrap();
        assert_eq!(kill_tree(&proc, LIMIT), KillReport::default());
    }
}
