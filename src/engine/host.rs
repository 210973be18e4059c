//! What an engine says about the host and process it runs in.

use std::time::Duration;

use super::shared::Shared;

/// The kernel's boot id; empty where there is none.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |t| t.trim().to_owned())
}

/// Host name.
pub fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".into(), |name| name.to_string_lossy().into_owned())
}

/// Where the program runs from, links resolved.
pub fn release() -> String {
    let path = std::env::current_exe().and_then(|path| path.canonicalize());
    path.ok().and_then(|path| path.parent().map(|dir| dir.display().to_string())).unwrap_or_else(|| "?".into())
}

/// Tells systemd what `systemctl status` shows, and feeds its watchdog: only accepted beats do.
pub fn notify_systemd(shared: &Shared) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let running = shared.running.count(|entry| entry.takes_slot);
    let lease = shared.options.timing.lease();
    let status = format!("{}, {running}/{} slots, lease {}", shared.mode(), shared.options.slots, seconds(lease));
    let states =
        [sd_notify::NotifyState::Ready, sd_notify::NotifyState::Watchdog, sd_notify::NotifyState::Status(&status)];
    if let Err(error) = sd_notify::notify(&states) {
        log::debug!("could not notify systemd: {error}");
    }
}

/// Only the watchdog: the engine lives, and has nothing to show.
pub fn feed_watchdog() {
    if std::env::var_os("NOTIFY_SOCKET").is_some()
        && let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Watchdog])
    {
        log::debug!("could not notify systemd: {error}");
    }
}

fn seconds(span: Duration) -> String {
    format!("{}s", span.as_secs_f64())
}
