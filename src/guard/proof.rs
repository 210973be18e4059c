//! Starting the prover: the short-lived program that writes a proof of death into the database.
//!
//! Its own process, because the guard has no database connection: nothing in the guard can hang on a
//! network. It may fail, and nothing is lost but time: peers then fence after T.

use std::error::Error;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::kill::{Root, kill_below};
use super::link::wait_readable;
use super::spawn::{Recipe, spawn, with_arguments};
use super::watch::next_signal;
use crate::clock::{Clock, SystemClock};
use crate::protocol::ids::Incarnation;

/// How long a killed prover may take to die; it is only tidiness, nothing waits for the answer.
const KILL_LIMIT: Duration = Duration::from_secs(2);

/// Has the death of `incarnation` proved within `limit`. Nothing it started may be left by now.
pub(super) fn prove(prover: &[OsString], incarnation: Incarnation, limit: Duration, signals: &SignalFd) {
    let argv = with_arguments(prover, &[&incarnation.to_string(), "guard"]);
    let recipe = Recipe { argv: &argv, env: vec![], inherit: vec![], door: None, is_namespaced: false };
    match spawn(&recipe) {
        Err(error) => log::error!("the death of {incarnation} was not proved: {}", chain(&error)),
        Ok(child) => match wait_for(child, limit, signals) {
            Some(WaitStatus::Exited(_, 0)) => log::info!("the death of {incarnation} is proved"),
            Some(status) => log::error!("the death of {incarnation} was not proved; peers wait for T: {status:?}"),
            None => log::error!("the prover of {incarnation} took longer than {limit:?}; peers wait for T"),
        },
    }
}

fn wait_for(child: Pid, limit: Duration, signals: &SignalFd) -> Option<WaitStatus> {
    let end = SystemClock.lease_now().after(limit);
    loop {
        // Drained before the look at the child: its SIGCHLD may have come long ago, but never after.
        while next_signal(signals).is_some() {}
        match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {}
            Ok(status) => return Some(status),
            Err(_) => return None,
        }
        let left = end.since(SystemClock.lease_now());
        if left.is_zero() {
            kill_below(child.as_raw(), Root::Included, &[], KILL_LIMIT);
            let _ = waitpid(child, Some(WaitPidFlag::WNOHANG));
            return None;
        }
        wait_readable(&signals.as_fd(), left);
    }
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
