//! A standard error that nobody reads: a pipe that is full from the start. Nobody may wait for it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::libc::O_NONBLOCK;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use rekindle::protocol::engine::{EngineState, Proof};
use rekindle::protocol::task::{AttemptResult, TaskState};

use super::rig::{Rig, SOON, signal, uptime, wait_or};

/// A full pipe, with both of its ends held open.
struct Clogged {
    path: PathBuf,
    ends: File,
}

impl Clogged {
    fn new(rig: &Rig) -> Self {
        let path = rig.path("clogged");
        nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        let mut ends = File::options().read(true).write(true).custom_flags(O_NONBLOCK).open(&path).unwrap();
        while ends.write(&[b'.'; 4_096]).is_ok() {}
        while ends.write(b".").is_ok() {}
        Self { path, ends }
    }

    /// Reads what has come since the last time.
    fn read(&mut self) -> String {
        let mut bytes = Vec::new();
        let mut piece = [0; 65_536];
        while let Ok(count) = self.ends.read(&mut piece) {
            bytes.extend(&piece[..count]);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

pub fn nobody_reads_the_log_and_the_work_goes_on(rig: &Rig) {
    let mut log = Clogged::new(rig);
    let a = rig.engine("a").env("REKINDLE_LOG", "trace").stderr(&log.path).start();
    let (life, proper) = (rig.life("a").incarnation, a.proper());
    let noted = || std::fs::read_to_string(rig.path("state-a/log-dropped")).unwrap_or_default();
    let mut last = None;
    wait_or(
        Duration::from_secs(60),
        || {
            // Each makes the engine say how it stands.
            (0..200).for_each(|_| signal(proper, Signal::SIGUSR1));
            let task = rig.add("true");
            rig.wait_state(task, TaskState::Done, SOON);
            last = Some(task);
            !noted().is_empty()
        },
        || "nothing was dropped".into(),
    );
    assert_eq!(rig.life("a").incarnation, life, "it lost its lease");
    assert_eq!(rig.results(last.unwrap()), [AttemptResult::Done]);
    assert!(noted().trim().parse::<u64>().unwrap() > 0);
    let mut text = String::new();
    wait_or(
        SOON,
        || {
            text += &log.read();
            let words = ["lines of this log were dropped here: standard error took none", r#""role":"guard""#];
            words.iter().all(|word| text.contains(word))
        },
        || "the gap is not told".into(),
    );
    a.stop();
}

/// The review's experiment: the guard logged before it killed.
pub fn nobody_reads_the_log_and_a_frozen_engine_is_killed_in_time(rig: &Rig) {
    let log = Clogged::new(rig);
    let a = rig.engine("a").stderr(&log.path).start();
    let task = rig.add("if first; then escape; forever; fi; ticks 2");
    rig.wait_starts(task, 1, SOON);
    let b = rig.engine("b").start();
    let stopped_at = uptime();
    signal(a.proper(), Signal::SIGSTOP);
    rig.wait_starts(task, 2, SOON);
    let took = rig.said(task, "START")[1].at - stopped_at;
    assert!(took <= 2.5 + 0.5 + 1.0, "the takeover took {took:.2}s");
    assert_eq!((a.wait(SOON), rig.life("a").proof), (1, Some(Proof::Guard)));
    rig.wait_state(task, TaskState::Done, SOON);
    rig.assert_no_overlap();
    b.stop();
}

pub fn nobody_reads_the_log_and_a_killed_engine_leaves_nothing(rig: &Rig) {
    let log = Clogged::new(rig);
    let a = rig.engine("a").stderr(&log.path).start();
    let task = rig.add("if first; then escape; forever; fi; ticks 2");
    rig.wait_starts(task, 1, SOON);
    wait_or(SOON, || rig.task_processes(task).len() >= 2, || "nothing escaped".into());
    signal(a.proper(), Signal::SIGKILL);
    wait_or(SOON, || rig.task_processes(task).is_empty(), || "the grandchild lives on".into());
    assert_eq!((a.wait(SOON), rig.life("a").proof), (1, Some(Proof::Guard)));
    // The same with the guard: then the engine kills, and says so to nobody.
    let a = rig.engine("a").stderr(&log.path).start();
    rig.wait_starts(task, 2, SOON);
    let proper = a.proper();
    a.signal(Signal::SIGKILL);
    let is_gone = || rekindle::guard::tree::read(proper).is_none_or(|proc| !proc.is_alive());
    wait_or(SOON, is_gone, || "the engine waits for its log".into());
    wait_or(SOON, || rig.task_processes(task).is_empty(), || "a task lives on".into());
}

pub fn nobody_reads_the_log_and_a_cut_ends_no_engine(rig: &Rig) {
    let log = Clogged::new(rig);
    let a = rig.engine("a").stderr(&log.path).start();
    let (life, guard) = (rig.life("a").incarnation, a.guard);
    let task = rig.add("if first; then forever; fi; ticks 2");
    rig.wait_starts(task, 1, SOON);
    let pid = rig.said(task, "START")[0].pid;
    let mut connection = rig.connection();
    connection.db().begin("hold the lock").unwrap();
    let is_gone = || rekindle::guard::tree::read(pid).is_none_or(|proc| !proc.is_alive());
    wait_or(SOON, is_gone, || "the task outlives its lease".into());
    connection.db().rollback();
    rig.wait_state(task, TaskState::Done, SOON);
    let now = rig.life("a");
    assert!(now.incarnation != life && now.state == EngineState::Live, "{now:?}");
    assert_eq!((a.guard, a.ended()), (guard, None));
    a.stop();
}

/// It waits for a task, and says each change of it.
pub fn nobody_reads_what_a_command_says_and_it_ends_in_time(rig: &Rig) {
    let log = Clogged::new(rig);
    let task = rig.add("ticks 1").as_i64().to_string();
    let to = || Stdio::from(File::options().write(true).open(&log.path).unwrap());
    let command = |timeout: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rekindle"));
        command.args(["-vv", "task", "wait", &task, "--timeout", timeout]).env_clear();
        command.env("REKINDLE_DATABASE_URL", rig.way().expose()).stdout(Stdio::null()).stderr(to());
        command.spawn().unwrap()
    };
    let code = |child: &mut std::process::Child| {
        let mut code = None;
        wait_or(
            SOON,
            || {
                code = child.try_wait().unwrap();
                code.is_some()
            },
            || "it waits for its reader".into(),
        );
        code.unwrap().code()
    };
    assert_eq!(code(&mut command("1s")), Some(5));
    let a = rig.engine("a").start();
    assert_eq!(code(&mut command("30s")), Some(0));
    a.stop();
}
