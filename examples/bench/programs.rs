//! The real programs, started, killed and ended; only what is started here is ever killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rekindle::clock::{Clock, SystemClock};
use rekindle::protocol::engine::EngineState;
use rekindle::protocol::ids::Incarnation;
use rekindle::store::Store;

/// Bound of everything that is waited for here.
const LIMIT: Duration = Duration::from_secs(60);

/// Asks until there is an answer, at most a minute.
pub fn wait_for<T>(what: &str, pause: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let clock = SystemClock;
    let until = clock.lease_now().after(LIMIT);
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if clock.lease_now() >= until {
            bail!("waited {LIMIT:?} for {what}");
        }
        clock.pause(pause);
    }
}

/// How an engine is configured.
pub struct Setup<'a> {
    /// Where the programs are.
    pub programs: &'a Path,
    /// Its database.
    pub url: &'a str,
    /// Where its directories are made.
    pub dir: &'a Path,
    /// Its name.
    pub name: &'a str,
    /// `fast`, `balanced`, `tolerant`.
    pub timing: &'a str,
    /// The program of its one kind, and its arguments.
    pub command: &'a [String],
}

impl Setup<'_> {
    /// Writes the configuration file.
    pub fn write(&self) -> Result<PathBuf> {
        let home = self.dir.join(self.name);
        std::fs::create_dir_all(&home)?;
        let file = self.dir.join(format!("{}.toml", self.name));
        let quoted = |text: &str| format!("{text:?}");
        let command: Vec<String> = self.command.iter().map(|word| quoted(word)).collect();
        let kind = match self.command {
            [] => String::new(),
            _ => format!("[kind.mark]\ncommand = [{}]\ntimeout = \"5m\"\nrerun = \"always\"\n", command.join(", ")),
        };
        let text = format!(
            "[database]\nurl = {}\n[engine]\nname = {}\nslots = 1\ntiming = {}\nstate_dir = {}\nscratch_dir = {}\n\
             stop_deadline = \"1s\"\n{kind}",
            quoted(self.url),
            quoted(self.name),
            quoted(self.timing),
            quoted(&home.join("state").display().to_string()),
            quoted(&home.join("scratch").display().to_string())
        );
        std::fs::write(&file, text)?;
        Ok(file)
    }

    /// Starts `rekindle-engine`.
    pub fn start(&self) -> Result<EngineProgram> {
        let config = self.write()?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("engines.log"))?;
        let child = Command::new(self.programs.join("rekindle-engine"))
            .arg("--config")
            .arg(&config)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("could not start rekindle-engine")?;
        Ok(EngineProgram { guard: Some(child), name: self.name.to_owned() })
    }
}

/// A running `rekindle-engine`.
pub struct EngineProgram {
    guard: Option<Child>,
    name: String,
}

impl EngineProgram {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The guard's process.
    pub fn guard_pid(&self) -> Result<u32> {
        Ok(self.guard.as_ref().context("it has ended")?.id())
    }

    /// The engine proper, the guard's only child.
    pub fn engine_pid(&self) -> Result<u32> {
        let guard = self.guard_pid()?;
        let children = std::fs::read_to_string(format!("/proc/{guard}/task/{guard}/children"))?;
        Ok(children.split_whitespace().next().context("the guard has no child")?.parse()?)
    }

    /// Waits until it has a life with an accepted beat that is not `former`.
    pub fn wait_live(&self, store: &dyn Store, former: Option<Incarnation>) -> Result<Incarnation> {
        let what = format!("engine {} to be live", self.name);
        wait_for(&what, Duration::from_millis(10), || {
            let (_, engines) = store.engines()?;
            let is_it = engines.iter().find(|row| {
                row.name.as_str() == self.name
                    && row.state == EngineState::Live
                    && row.beat > 0
                    && Some(row.incarnation) != former
            });
            Ok(is_it.map(|row| row.incarnation))
        })
    }

    /// kill -9 of the engine proper; the guard proves its death. The lease clock just before.
    pub fn kill_engine(&mut self) -> Result<u64> {
        let engine = self.engine_pid()?;
        let at = SystemClock.lease_now().as_ns();
        kill_hard(engine)?;
        Ok(at)
    }

    /// kill -9 of guard and engine. The lease clock just before.
    pub fn kill_both(&mut self) -> Result<u64> {
        let (engine, guard) = (self.engine_pid()?, self.guard_pid()?);
        let at = SystemClock.lease_now().as_ns();
        kill_hard(guard)?;
        kill_hard(engine)?;
        Ok(at)
    }

    /// Waits for the end of the guard, which comes after the proof.
    pub fn wait_end(&mut self) -> Result<()> {
        if let Some(guard) = &mut self.guard {
            wait_for("the guard to end", Duration::from_millis(5), || Ok(guard.try_wait()?))?;
        }
        self.guard = None;
        Ok(())
    }
}

fn kill_hard(pid: u32) -> Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?)
}

impl Drop for EngineProgram {
    fn drop(&mut self) {
        let Ok(guard) = self.guard_pid() else { return };
        let engine = self.engine_pid();
        if let Ok(pid) = i32::try_from(guard) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let clock = SystemClock;
        let until = clock.lease_now().after(Duration::from_secs(10));
        while let Some(child) = &mut self.guard
            && clock.lease_now() < until
        {
            if matches!(child.try_wait(), Ok(Some(_))) {
                return;
            }
            clock.pause(Duration::from_millis(20));
        }
        // The guard first, or it would have the engine's death proved at leisure.
        let _ = kill_hard(guard);
        let _ = engine.map(kill_hard);
        let _ = self.guard.as_mut().map(Child::wait);
    }
}
