//! Starts that fail, and what a task is started as: in processes of their own, because some of these tests end
//! or limit theirs.

use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::clock::{Clock, SystemClock};
use crate::handlers::testing::{again, attempt, bench, bench_in, is_inside, shell, text};
use crate::handlers::{AttemptControl, Commands, Lease, Mode, Spawner, SpawnerOptions};
use crate::protocol::task::AttemptResult;
use crate::protocol::time::{LeaseInstant, Timestamp};

/// Panics where the spawner reads it.
struct Broken;

impl Clock for Broken {
    fn lease_now(&self) -> LeaseInstant {
        panic!("a clock without hands")
    }
    fn wall_now(&self) -> Timestamp {
        SystemClock.wall_now()
    }
    fn pause(&self, span: std::time::Duration) {
        SystemClock.pause(span);
    }
}

#[test]
fn a_panic_of_the_thread_that_forks_ends_the_process() {
    const TEST: &str = "starts::a_panic_of_the_thread_that_forks_ends_the_process";
    if std::env::var(crate::handlers::testing::INSIDE).is_ok() {
        let options = SpawnerOptions { mode: Mode::Library, clock: Arc::new(Broken), tell_continuing: None };
        let spawner = Spawner::start(options).unwrap();
        spawner.open_gate(Lease::FOREVER);
        let request = crate::handlers::testing::request("/bin/true");
        println!("started: {:?}", spawner.spawn(request));
        return;
    }
    let output = again(TEST).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.signal(), Some(nix::libc::SIGABRT), "{said}");
}

#[test]
fn a_start_without_descriptors_is_no_failure_of_the_task() {
    if !is_inside("starts::a_start_without_descriptors_is_no_failure_of_the_task") {
        return;
    }
    let bench = bench();
    let control = AttemptControl::new().unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    // Enough for some of the pipes.
    setrlimit(Resource::RLIMIT_NOFILE, open + 4, hard).unwrap();
    let ended = bench.runner.run(&shell("exit 0"), &attempt(""), &control);
    assert_eq!((ended.result, ended.started, ended.starved), (AttemptResult::HandedBack, false, true), "{ended:?}");
    assert!(ended.detail.unwrap().contains("Too many open files"));
    setrlimit(Resource::RLIMIT_NOFILE, open + 100, hard).unwrap();
    assert_eq!(bench.runner.run(&shell("exit 0"), &attempt(""), &control).result, AttemptResult::Done);
}

#[test]
fn what_cannot_be_looked_for_is_not_called_gone() {
    if !is_inside("starts::what_cannot_be_looked_for_is_not_called_gone") {
        return;
    }
    let bench = bench_in(Mode::Daemon);
    let mut stray = std::process::Command::new("sleep").arg("300").spawn().unwrap();
    let strays = bench.runner.spawner().strays();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    std::thread::scope(|scope| {
        // All descriptors are used up: /proc cannot be read.
        setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
        let sweep = scope.spawn(|| strays.sweep());
        SystemClock.pause(std::time::Duration::from_millis(50));
        assert!(!sweep.is_finished(), "it answers only when it could look");
        assert!(stray.try_wait().unwrap().is_none());
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        assert!(sweep.join().unwrap());
    });
    assert!(crate::guard::tree::read(stray.id() as i32).is_none_or(|proc| !proc.is_alive()));
}

#[test]
fn a_task_has_no_terminal_of_its_engine() {
    // Field 7 of the file is the terminal; none is 0.
    let output = text(&bench().run(&shell("cut -d' ' -f7 /proc/$$/stat"), ""));
    assert_eq!(output, "0\n");
}
