//! What systemd hears of the unit, said by the guard.
//!
//! The guard is the unit's main process, and the shipped unit listens to nobody else (`NotifyAccess=main`). With
//! `all` every task could speak for it: the socket's path is no secret, a task is in the unit's control group, and
//! one that fed the watchdog would keep a frozen engine and a frozen guard alive, which is the one case that only
//! the watchdog covers. So the engine tells its guard over the link what is to be said, and until when the watchdog
//! may wait as a point in time: the span is taken when the message goes out, so that a guard that was held up, or
//! frozen and thawed, does not hand out time that has passed.
//!
//! Nothing here waits: a manager that does not read makes a message get lost, and the next beat brings another.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use sd_notify::NotifyState;

use crate::protocol::time::LeaseInstant;

/// The variable with the manager's socket.
pub(super) const SOCKET_ENV: &str = "NOTIFY_SOCKET";

/// The way to the manager of this unit.
#[derive(Debug)]
pub(super) struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
}

impl Manager {
    /// As the environment says; one that cannot be reached is said once, here.
    pub(super) fn from_env() -> Self {
        let Some(place) = std::env::var_os(SOCKET_ENV) else { return Self { socket: None } };
        match connect(&place) {
            Ok(socket) => Self { socket: Some(socket) },
            Err(error) => {
                log::warn!("could not reach the service manager at {}: {error}", place.display());
                Self { socket: None }
            }
        }
    }

    /// Up, with this status; the watchdog may wait until then.
    pub(super) fn tell(&self, now: LeaseInstant, watchdog_at: LeaseInstant, status: &str) {
        let Some((socket, place)) = &self.socket else { return };
        // Zero would switch the watchdog off.
        let left = u32::try_from(watchdog_at.since(now).as_micros()).unwrap_or(u32::MAX).max(1);
        let states = [NotifyState::Ready, NotifyState::WatchdogUsec(left), NotifyState::Watchdog];
        let mut text: String = states.iter().map(|state| format!("{state}\n")).collect();
        text += &format!("{}\n", NotifyState::Status(status));
        if let Err(error) = socket.send_to_addr(text.as_bytes(), place) {
            log::debug!("could not notify the service manager: {error}");
        }
    }
}

fn connect(place: &std::ffi::OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let bytes = place.as_encoded_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(place)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(ms: u64) -> LeaseInstant {
        LeaseInstant::from_ns(ms * 1_000_000)
    }

    #[test]
    fn the_span_counts_from_the_sending_and_is_never_zero() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let theirs = UnixDatagram::bind(&path).unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let manager = Manager { socket: Some(connect(path.as_os_str()).unwrap()) };
        let mut buffer = [0; 1_024];
        let mut heard = |now, until| {
            manager.tell(now, until, "active, 1/4 slots");
            let len = theirs.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..len]).into_owned()
        };
        let text = heard(at(1_000), at(9_500));
        assert_eq!(text, "READY=1\nWATCHDOG_USEC=8500000\nWATCHDOG=1\nSTATUS=active, 1/4 slots\n");
        assert!(heard(at(10_000), at(9_500)).contains("WATCHDOG_USEC=1\n"));
    }

    #[test]
    fn a_manager_that_does_not_read_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _theirs = UnixDatagram::bind(&path).unwrap();
        let manager = Manager { socket: Some(connect(path.as_os_str()).unwrap()) };
        // Far more than any queue of datagrams holds.
        for _ in 0..20_000 {
            manager.tell(at(0), at(9_000), "active");
        }
    }

    #[test]
    fn an_abstract_name_is_understood() {
        let name = format!("rekindle-notify-{}", std::process::id());
        let theirs = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let manager = Manager { socket: Some(connect(format!("@{name}").as_ref()).unwrap()) };
        manager.tell(at(0), at(1), "active");
        let mut buffer = [0; 1_024];
        assert!(theirs.recv(&mut buffer).unwrap() > 0);
    }
}
