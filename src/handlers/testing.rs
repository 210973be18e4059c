//! What the tests of this room share.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::child::SpawnRequest;
use super::command::{CommandOptions, CommandRunner, Commands};
use super::control::AttemptControl;
use super::ended::Ended;
use super::environment::Identity;
use super::gate::{Dies, Lease};
use super::handler::Attempt;
use super::spawner::{Mode, Spawner, SpawnerOptions};
use super::spec::CommandSpec;
use super::streams::Streams;
use crate::clock::{Clock, SystemClock};
use crate::protocol::ids::{EngineName, KindName, TaskId, Token};
use crate::protocol::task::Reason;

pub(super) fn attempt(payload: &str) -> Attempt {
    Attempt {
        task: TaskId::new(4812),
        kind: KindName::new("invoice-mail").unwrap(),
        queue: "mail".to_owned(),
        resources: vec![],
        attempt: 1,
        attempts_max: 6,
        reason: Reason::First,
        token: Token::new(6),
        payload: payload.as_bytes().into(),
        engine: EngineName::new("app1").unwrap(),
        cluster: "billing".to_owned(),
    }
}

pub(super) struct Bench {
    pub(super) runner: CommandRunner,
    pub(super) dir: tempfile::TempDir,
}

pub(super) fn bench() -> Bench {
    bench_in(Mode::Library)
}

pub(super) fn bench_in(mode: Mode) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let spawner = Spawner::start(SpawnerOptions { mode, clock: Arc::new(SystemClock), tell_continuing: None }).unwrap();
    spawner.open_gate(Lease::FOREVER);
    let identity = Identity { release: "/opt/r".to_owned(), state_id: "s1".to_owned() };
    let options = CommandOptions { scratch: dir.path().join("t"), identity };
    Bench { runner: CommandRunner::new(Arc::new(spawner), options).unwrap(), dir }
}

/// What a spawner needs to start a program that gets and says nothing.
pub(super) fn request(program: &str) -> SpawnRequest {
    let (_, ends) = Streams::open(Arc::from([]), 0).unwrap();
    let text = |text: &str| std::ffi::CString::new(text).unwrap();
    SpawnRequest {
        program: text(program),
        argv: vec![text(program)],
        env: vec![],
        cwd: text("/"),
        stdio: ends.stdio,
        setup: ends.setup,
        umask: 0o027,
        nice: None,
        run_as: None,
        new_privileges: false,
        dies: Dies::WithEngine,
    }
}

impl Bench {
    pub(super) fn run(&self, spec: &CommandSpec, payload: &str) -> Ended {
        self.runner.run(spec, &attempt(payload), &AttemptControl::new().unwrap())
    }
}

/// A kind that runs a shell script.
pub(super) fn shell(script: &str) -> CommandSpec {
    CommandSpec {
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        timeout: Some(Duration::from_secs(60)),
        ..CommandSpec::default()
    }
}

pub(super) fn text(ended: &Ended) -> String {
    String::from_utf8_lossy(&ended.output).into_owned()
}

pub(super) const INSIDE: &str = "REKINDLE_TEST_INSIDE";

/// This test binary once more, with only one test (its path below `handlers::tests::`).
pub(super) fn again(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([&format!("handlers::tests::{test}"), "--exact", "--nocapture"]).env(INSIDE, test);
    // Stands for everything in an engine's environment that a task must not have.
    command.env("DATABASE_URL", "postgres://engine:secret@db/rekindle").stdin(Stdio::null());
    command
}

/// Runs the rest of a test in a process of its own. True inside of it.
pub(super) fn is_inside(test: &str) -> bool {
    if std::env::var(INSIDE).is_ok_and(|name| name == test) {
        return true;
    }
    let output = again(test).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");
    false
}

/// Waits for a condition, and fails loudly if it does not come.
pub(super) fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let clock = SystemClock;
    let began = clock.lease_now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(clock.lease_now().since(began) < Duration::from_secs(30), "waited too long for {what}");
        clock.pause(Duration::from_millis(2));
    }
}
