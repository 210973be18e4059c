//! Engines as systemd runs them, without systemd: an invocation, a service's control group, a socket for
//! notifications, and the program of `ExecStopPost`.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::sockopt::PassCred;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt};
use rekindle::protocol::engine::{EngineState, Proof};
use rekindle::protocol::task::{AttemptResult, TaskState};
use rekindle::protocol::timing::{Profile, Timing};

use super::rig::{Rig, SOON, signal, uptime, wait_or};

const INVOCATION: &str = "0123456789abcdef0123456789abcdef";
const FIRST_HANGS_AND_ESCAPES: &str = "if first; then escape; forever; fi; ticks 2";

/// A service's control group, with the one below it that systemd gives control processes.
pub struct Service {
    pub dir: PathBuf,
}

impl Service {
    /// `None`, with the reason printed, where this host lets nobody make one.
    pub fn make(name: &str) -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let point = mounts.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2")).and_then(|l| l.split(' ').nth(1));
        let own = groups.lines().find_map(|line| line.strip_prefix("0::/"));
        let (Some(point), Some(own)) = (point, own) else {
            println!("skipped: no version 2 control groups are mounted");
            return None;
        };
        let dir = Path::new(point).join(own).join(format!("it-{name}.service"));
        match std::fs::create_dir(&dir).and_then(|()| std::fs::create_dir(dir.join(".control"))) {
            Ok(()) => Some(Self { dir }),
            Err(error) => {
                println!("skipped: {} cannot be made: {error}", dir.display());
                None
            }
        }
    }

    pub fn control(&self) -> PathBuf {
        self.dir.join(".control")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = std::fs::write(self.dir.join("cgroup.kill"), "1");
        let remove =
            || [self.control(), self.dir.clone()].iter().all(|d| std::fs::remove_dir(d).is_ok() || !d.exists());
        if !std::thread::panicking() {
            wait_or(SOON, remove, || "the control group stays".into());
        }
    }
}

/// Its T is too long for an expiry to be mistaken for the proof.
pub fn after_the_death_of_both_the_units_prover_kills_what_is_left_and_proves_it(rig: &Rig) {
    let Some(service) = Service::make(&rig.mark) else { return };
    let spec = rig.engine("a").timing("balanced").env("INVOCATION_ID", INVOCATION);
    let a = spec.clone().group(&service.dir).start();
    let task = rig.add(FIRST_HANGS_AND_ESCAPES);
    rig.wait_starts(task, 1, SOON);
    wait_or(SOON, || rig.task_processes(task).len() >= 2, || "nobody escaped".into());
    let b = rig.engine("b").start();
    let proper = a.proper();
    // The guard is stopped first, and dies last: it would kill what its engine left, and an engine whose guard
    // dies first kills its tasks itself (a stopped one too, because the kernel wakes an orphaned group).
    a.signal(Signal::SIGSTOP);
    signal(proper, Signal::SIGKILL);
    a.signal(Signal::SIGKILL);
    a.wait(SOON);

    let control = spec.group(&service.control());
    let (code, log) = control.clone().env("INVOCATION_ID", "ffffffffffffffffffffffffffffffff").prove_stopped();
    assert!(code == 0 && log.contains("nothing is proved"), "{code}: {log}");
    assert_eq!(rig.life("a").state, EngineState::Live, "a wrong invocation proves nothing");
    assert_ne!(rig.task_processes(task), Vec::<i32>::new(), "and kills nothing");

    // A task may write into the state directory, but not have another engine's life ended by that.
    let record = rig.path("state-a").join("unit");
    let (written, another) = (std::fs::read_to_string(&record).unwrap(), rig.life("b").incarnation);
    std::fs::write(&record, format!("{INVOCATION}\n{another}\n{}", written.split_once('\n').unwrap().1)).unwrap();

    let asked_at = uptime();
    let (code, log) = control.prove_stopped();
    assert_eq!(rig.life("b").state, EngineState::Live, "{log}");
    // The proof wakes the peer, and its attempt may run before the prover has exited.
    assert_eq!((code, rig.attempt_processes(task, 1)), (0, vec![]), "{log}");
    let row = rig.life("a");
    assert_eq!((row.state, row.proof, row.taken_over), (EngineState::Fenced, Some(Proof::Unit), 1), "{log}");
    rig.wait_starts(task, 2, SOON);
    let second = &rig.said(task, "START")[1];
    let left = rig.oracle().into_iter().rfind(|line| line.task == second.task && line.token < second.token).unwrap();
    assert!(left.at <= second.at, "{left:?} {second:?}");
    println!("takeover {:.2}s after the prover's start", second.at - asked_at);
    assert!(second.at - asked_at <= 2.0, "{} s\n{}", second.at - asked_at, b.log());
    rig.wait_state(task, TaskState::Done, SOON);
    assert_eq!(rig.results(task), [AttemptResult::Lost, AttemptResult::Done]);
    assert!(rig.details(task).contains("systemd ended its unit"), "{}", rig.details(task));

    let (code, log) = control_again(rig, &service);
    assert!(code == 0 && log.contains("nothing to prove"), "{code}: {log}");
    b.stop();
}

fn control_again(rig: &Rig, service: &Service) -> (i32, String) {
    rig.engine("a").timing("balanced").env("INVOCATION_ID", INVOCATION).group(&service.control()).prove_stopped()
}

/// In a login session "what is left" would be the person's shell; and while the engine lives, its lock is held.
pub fn outside_of_its_service_the_units_prover_refuses(rig: &Rig) {
    let spec = rig.engine("a").env("INVOCATION_ID", INVOCATION);
    let a = spec.start();
    let record = rig.path("state-a").join("unit");
    assert!(std::fs::read_to_string(&record).unwrap().starts_with(INVOCATION));
    let (code, log) = spec.prove_stopped();
    assert!(code == 75 && log.contains("in no control group of a systemd service"), "{code}: {log}");
    if let Some(service) = Service::make(&rig.mark) {
        let (code, log) = spec.clone().group(&service.dir).prove_stopped();
        assert!(code == 3 && log.contains("in use by another engine"), "{code}: {log}");
    }
    let (code, _) = rig.engine("a").prove_stopped();
    assert_eq!(code, 2, "without an invocation there is no unit");
    assert_eq!(rig.life("a").state, EngineState::Live);
    a.stop();
    assert!(!record.exists(), "after a goodbye nothing is left to prove");
}

/// The fields of all notifications that have come. The shipped unit listens to its main process only
/// (`NotifyAccess=main`), so each must be the guard's own.
fn heard(socket: &UnixDatagram, guard: i32) -> Vec<String> {
    let next = || {
        let mut buffer = [0; 4_096];
        let mut words = nix::cmsg_space!(UnixCredentials);
        let mut place = [std::io::IoSliceMut::new(&mut buffer)];
        let got = recvmsg::<()>(socket.as_raw_fd(), &mut place, Some(&mut words), MsgFlags::empty()).ok()?;
        let (len, who) = (got.bytes, got.cmsgs().unwrap().next());
        let Some(ControlMessageOwned::ScmCredentials(who)) = who else { panic!("nobody says who sent it: {who:?}") };
        assert_eq!(who.pid(), guard, "somebody else than the unit's main process spoke for it");
        Some(String::from_utf8_lossy(&buffer[..len]).into_owned())
    };
    std::iter::from_fn(next).collect()
}

fn patience(text: &str) -> Duration {
    let line = text.lines().find_map(|line| line.strip_prefix("WATCHDOG_USEC=")).expect("every message feeds");
    Duration::from_micros(line.parse().unwrap())
}

/// With a lease: at most until K/4 before everything has to be dead. Between L and "all clear": nothing. Without
/// one: fed although the database is away, because nothing runs.
pub fn systemd_is_told_how_long_it_may_wait(rig: &Rig) {
    let path = rig.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    setsockopt(&socket, PassCred, &true).unwrap();
    let a = rig.engine("a").env("NOTIFY_SOCKET", path.to_str().unwrap()).start();
    let timing = Timing::of(Profile::Fast);
    let limit = timing.dead_after() - timing.kill_budget() / 4;
    let mut leased = Vec::new();
    let is_leased = |text: &str| text.contains("STATUS=active");
    wait_or(
        SOON,
        || {
            leased.extend(heard(&socket, a.guard).into_iter().filter(|text| is_leased(text)));
            leased.len() >= 3
        },
        || a.log(),
    );
    for text in &leased {
        assert!(text.contains("READY=1") && text.contains("WATCHDOG=1"), "{text}");
        assert!(patience(text) <= limit && patience(text) >= limit - timing.query_timeout(), "{text}");
    }
    let mut connection = rig.connection();
    connection.db().begin("hold the lock").unwrap();
    let lost = || a.log().contains("no heartbeat was accepted");
    wait_or(SOON, lost, || a.log());
    let mut after = Vec::new();
    wait_or(
        SOON,
        || {
            after.extend(heard(&socket, a.guard));
            after.iter().filter(|text| text.contains("no lease")).count() >= 2
        },
        || a.log(),
    );
    connection.db().rollback();
    wait_or(SOON, || heard(&socket, a.guard).iter().any(|text| is_leased(text)), || a.log());
    a.stop();
}

pub fn the_shipped_unit_fits_the_default_timing(_: &Rig) {
    let unit = include_str!("../../../packaging/rekindle-engine.service");
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap();
    let timing = Timing::of(Profile::Balanced);
    let watchdog: u64 = value("WatchdogSec").trim_end_matches('s').parse().unwrap();
    assert!(Duration::from_secs(watchdog) <= timing.dead_after() - timing.query_timeout() * 2);
    assert_eq!((value("KillMode"), value("WatchdogSignal"), value("NotifyAccess")), ("mixed", "SIGKILL", "main"));
    assert!(value("ExecStopPost").ends_with("rekindle-engine --prove-stopped"));
    assert!(value("RestartPreventExitStatus").split(' ').any(|code| code == "78"));
}

/// What systemd itself says of the unit with the drop-in beside it. Skipped, and said so, where there is no systemd.
pub fn the_shipped_drop_in_closes_the_unit(_: &Rig) {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/rekindle-engine.service");
    let mut command = std::process::Command::new("systemd-analyze");
    let output = match command.args(["security", "--offline=true", "--no-pager", "--threshold=20"]).arg(&unit).output()
    {
        Ok(output) => output,
        Err(error) => return println!("skipped: no systemd-analyze: {error}"),
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    // Before release 250 it knows neither of the two options.
    if said.contains("unrecognized option") {
        return println!("skipped: this systemd-analyze is too old");
    }
    assert!(output.status.success() && said.contains("Overall exposure level"), "more than 2.0 is open:\n{said}");
}
