//! A call that may never return: made on a thread that is abandoned when the time is over.
//!
//! No client library keeps its promise against a server that is frozen in the wrong moment, so a program
//! that must end in time leaves the call alone and ends. Only for programs that end soon after: an
//! abandoned thread keeps its connection.

use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// The time is over; the call goes on or hangs.
    Late,
    /// The call ended without an answer: a panic, or no thread could be made.
    Died,
}

/// Calls `call` and waits for its answer for at most `limit`.
pub fn within<T: Send + 'static>(limit: Duration, call: impl FnOnce() -> T + Send + 'static) -> Result<T, NoAnswer> {
    let (answer, wait) = bounded(1);
    let body = move || {
        // Nobody listens any more if the time was over; then the answer has no use.
        answer.send(call()).unwrap_or(());
    };
    std::thread::Builder::new().name("ask".into()).spawn(body).map_err(|_| NoAnswer::Died)?;
    wait.recv_timeout(limit).map_err(|error| match error {
        RecvTimeoutError::Timeout => NoAnswer::Late,
        RecvTimeoutError::Disconnected => NoAnswer::Died,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};

    #[test]
    fn a_call_that_hangs_is_left_alone() {
        let clock = SystemClock;
        let began = clock.lease_now();
        let answer = within(Duration::from_millis(20), || SystemClock.pause(Duration::from_secs(5)));
        assert_eq!(answer, Err(NoAnswer::Late));
        assert!(clock.lease_now().since(began) < Duration::from_secs(3));
        assert_eq!(within(Duration::from_secs(5), || 7), Ok(7));
    }
}
