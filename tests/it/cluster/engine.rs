//! A real `rekindle-engine`: its guard, the engine proper below it, its log and its end.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use rekindle::guard::tree;
use rekindle::protocol::engine::EngineState;

use super::rig::{Rig, SOON, signal, wait_or};
use crate::support::island::Island;
use crate::support::proxy::Proxy;

/// What makes a container, as far as an engine can tell.
pub const CONTAINER: [&str; 4] = ["unshare", "--pid", "--fork", "--mount-proc"];

/// Owns nothing on this host.
pub const NOBODY: u32 = 65534;

fn give_away(path: &Path) {
    std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| give_away(&entry.unwrap().path()));
    }
}

/// An engine before its start.
#[derive(Clone)]
pub struct EngineSpec<'r> {
    rig: &'r Rig,
    name: String,
    state: String,
    timing: String,
    slots: u32,
    means: &'static str,
    more: String,
    kinds: String,
    url: Option<String>,
    env: Vec<(String, String)>,
    group: Option<PathBuf>,
    urls: Vec<String>,
    beats: Option<String>,
    contained: bool,
    island: Option<&'r Island>,
    is_nobody: bool,
    stderr: Option<PathBuf>,
    program: Option<PathBuf>,
    descriptors: Option<(u64, u64)>,
}

impl<'r> EngineSpec<'r> {
    pub fn new(rig: &'r Rig, name: &str) -> Self {
        Self {
            rig,
            name: name.into(),
            state: format!("state-{name}"),
            timing: "\"fast\"".into(),
            slots: 4,
            means: "tree",
            more: String::new(),
            kinds: String::new(),
            url: None,
            env: Vec::new(),
            group: None,
            urls: Vec::new(),
            beats: None,
            contained: false,
            island: None,
            is_nobody: false,
            stderr: None,
            program: None,
            descriptors: None,
        }
    }

    pub fn state(mut self, dir: &str) -> Self {
        self.state = dir.into();
        self
    }

    pub fn timing(mut self, profile: &str) -> Self {
        self.timing = format!("{profile:?}");
        self
    }

    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    pub fn means(mut self, means: &'static str) -> Self {
        self.means = means;
        self
    }

    /// More lines of `[engine]`.
    pub fn with(mut self, line: &str) -> Self {
        let _ = writeln!(self.more, "{line}");
        self
    }

    /// A further kind that runs the probe.
    pub fn kind(mut self, name: &str, lines: &str) -> Self {
        let command = format!("command = [\"/bin/sh\", {:?}]", self.rig.path("probe.sh").display().to_string());
        let _ = writeln!(self.kinds, "[kind.{name}]\n{command}\n{lines}");
        self
    }

    pub fn url(mut self, url: &str) -> Self {
        self.url = Some(url.into());
        self
    }

    /// A variable of its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The control group it starts in.
    pub fn group(mut self, dir: &Path) -> Self {
        self.group = Some(dir.into());
        self
    }

    /// What systemd runs after the unit's end; its exit code and its log.
    pub fn prove_stopped(&self) -> (i32, String) {
        let (mut command, _) = self.command();
        let output =
            command.arg("--prove-stopped").env("SERVICE_RESULT", "signal").stderr(Stdio::piped()).output().unwrap();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// By way of a proxy.
    pub fn through(self, proxy: &Proxy) -> Self {
        let url = proxy.url(self.rig.way());
        self.url(&url)
    }

    /// Several places of one database, in this order.
    pub fn urls(mut self, urls: &[String]) -> Self {
        self.urls = urls.to_vec();
        self
    }

    /// Heartbeats by a way of their own.
    pub fn beats(mut self, url: &str) -> Self {
        self.beats = Some(url.into());
        self
    }

    /// As the first process of a PID namespace.
    pub fn contained(self) -> Self {
        Self { contained: true, ..self }
    }

    /// Not as root, whose tasks could read everything.
    pub fn unprivileged(self) -> Self {
        Self { is_nobody: nix::unistd::geteuid().is_root(), ..self }
    }

    /// In a network of its own.
    pub fn on(mut self, island: &'r Island) -> Self {
        self.island = Some(island);
        self
    }

    /// Another file of the program.
    pub fn program(mut self, path: &Path) -> Self {
        self.program = Some(path.into());
        self
    }

    /// Where its log goes instead of the file that [`Engine::log`] reads.
    pub fn stderr(mut self, to: &Path) -> Self {
        self.stderr = Some(to.into());
        self
    }

    /// With so many descriptors, soft and hard.
    pub fn descriptors(self, soft: u64, hard: u64) -> Self {
        Self { descriptors: Some((soft, hard)), ..self }
    }

    fn write(&self) -> PathBuf {
        let env: Vec<_> = self.rig.env().iter().map(|(name, value)| format!("{name} = {value:?}")).collect();
        let state = self.rig.path(&self.state);
        let text = format!(
            "cluster = \"it\"\n[engine]\nname = \"{}\"\ntiming = {}\nslots = {}\nkill = \"{}\"\npoll = \"200ms\"\n\
             state_dir = {state:?}\nscratch_dir = {:?}\n{}\n[log]\nlevel = \"debug\"\n\
             [defaults.kind]\ngrace = \"200ms\"\nrerun = \"always\"\nenv = {{ {} }}\n{}",
            self.name,
            self.timing,
            self.slots,
            self.means,
            state.join("t"),
            self.more,
            env.join(", "),
            self.clone().kind("sh", "").kinds,
        );
        let path = self.rig.path(&format!("{}.toml", self.state.replace('/', "-")));
        fs::write(&path, text).unwrap();
        path
    }

    fn command(&self) -> (Command, PathBuf) {
        let config = self.write();
        let log = config.with_extension("log");
        if self.is_nobody {
            give_away(&self.rig.path(""));
        }
        let out = File::options().create(true).append(true).open(&log).unwrap();
        let program = self.program.clone().unwrap_or_else(|| env!("CARGO_BIN_EXE_rekindle-engine").into());
        let mut command = Command::new(if self.contained { Path::new(CONTAINER[0]) } else { &program });
        if self.contained {
            command.args(&CONTAINER[1..]).arg(program);
        }
        let url = self.url.clone().unwrap_or_else(|| self.rig.way().expose());
        command.arg("--config").arg(&config).env_clear().envs(self.rig.env());
        command.env("PATH", std::env::var("PATH").unwrap());
        // Another client library in the place of the system's (scripts/newest-libpq).
        command.envs(std::env::var("LD_LIBRARY_PATH").map(|path| ("LD_LIBRARY_PATH", path)));
        command.envs(self.env.iter().cloned());
        if let Some((soft, hard)) = self.descriptors {
            use nix::sys::resource::{Resource, setrlimit};
            // SAFETY: one system call.
            unsafe { command.pre_exec(move || Ok(setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?)) };
        }
        if self.is_nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        self.island.into_iter().for_each(|island| island.enter(&mut command));
        if let Some(group) = &self.group {
            let door = File::options().write(true).open(group.join("cgroup.procs")).unwrap();
            // SAFETY: one system call.
            unsafe { command.pre_exec(move || (&door).write_all(b"0")) };
        }
        // A variable holds one URL, a file with a line for each of them any number.
        let urls = config.with_extension("urls");
        if self.urls.is_empty() {
            command.env("REKINDLE_DATABASE_URL", url);
        } else {
            fs::write(&urls, self.urls.join("\n")).unwrap();
            command.env("REKINDLE_DATABASE_URL_FILE", urls);
        }
        command.envs(self.beats.iter().map(|url| ("REKINDLE_DATABASE__BEAT_URL", url)));
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap());
        command.stderr(self.stderr.as_ref().map_or(out, |path| File::options().write(true).open(path).unwrap()));
        (command, log)
    }

    /// Starts it, and waits for nothing.
    pub fn launch(&self) -> Engine {
        let (mut command, log) = self.command();
        let child = command.spawn().unwrap();
        let mut guard = child.id() as i32;
        if self.contained {
            // The one that made the container waits for its first process, and passes no signals on.
            let maker = guard;
            let first = || tree::snapshot().unwrap().into_iter().find(|proc| proc.ppid == maker);
            wait_or(SOON, || first().is_some(), || "the container has no process".into());
            guard = first().unwrap().pid;
        }
        Engine { name: self.name.clone(), guard, log, child: RefCell::new(child) }
    }

    /// Starts it and waits until it beats.
    pub fn start(&self) -> Engine {
        let engine = self.launch();
        let is_it = |row: &rekindle::store::EngineRow| {
            row.state == EngineState::Live
                && row.beat > 0
                && engine.try_proper().is_some_and(|pid| {
                    // In a PID namespace of its own it knows itself by another number.
                    self.contained || self.means == "pidns" || row.pid == pid as u32
                })
        };
        wait_or(SOON, || self.rig.lives(&self.name).first().is_some_and(is_it), || engine.log());
        engine
    }
}

/// A running engine; it is killed with all it started when this is dropped.
pub struct Engine {
    pub name: String,
    /// Process id of its guard.
    pub guard: i32,
    pub log: PathBuf,
    child: RefCell<Child>,
}

impl Engine {
    /// Process id of the engine proper.
    pub fn proper(&self) -> i32 {
        let mut pid = None;
        wait_or(
            SOON,
            || {
                pid = self.try_proper();
                pid.is_some()
            },
            || format!("no engine proper:\n{}", self.log()),
        );
        pid.unwrap()
    }

    /// The same, if there is one now.
    pub fn try_proper(&self) -> Option<i32> {
        let is_it = |proc: &tree::Proc| {
            let cmdline = fs::read(format!("/proc/{}/cmdline", proc.pid)).unwrap_or_default();
            proc.ppid == self.guard && proc.is_alive() && cmdline.ends_with(b"--engine-proper\0")
        };
        tree::snapshot().unwrap().into_iter().find(is_it).map(|proc| proc.pid)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn signal(&self, what: Signal) {
        signal(self.guard, what);
    }

    /// Its exit code if it has ended; a signal's is negative.
    pub fn ended(&self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt as _;
        let status = self.child.borrow_mut().try_wait().unwrap()?;
        Some(status.code().unwrap_or_else(|| -status.signal().unwrap_or(0)))
    }

    /// Waits for its end.
    pub fn wait(&self, limit: Duration) -> i32 {
        let mut code = None;
        wait_or(
            limit,
            || {
                code = self.ended();
                code.is_some()
            },
            || format!("{} still runs:\n{}", self.name, self.log()),
        );
        code.unwrap()
    }

    /// Tells it to stop and waits for exit 0.
    pub fn stop(&self) {
        self.signal(Signal::SIGTERM);
        assert_eq!(self.wait(SOON), 0, "{}", self.log());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().filter(|line| !line.contains("\"level\":\"debug\"")).collect();
            let from = lines.len().saturating_sub(60);
            println!("---- log of {}\n{}", self.name, lines[from..].join("\n"));
        }
        // The engine first: with the guard gone it would kill its tasks in its own time.
        for pid in self.try_proper().into_iter().chain([self.guard]) {
            if self.ended().is_none() {
                signal(pid, Signal::SIGKILL);
            }
        }
        let _ = self.child.borrow_mut().wait();
    }
}
