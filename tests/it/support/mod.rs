//! What tests share: fresh databases, builders with defaults, waiting without sleeping blindly.

pub mod builders;
pub mod databases;
pub mod hostile;
pub mod island;
pub mod login;
pub mod mariadb;
pub mod postgres;
pub mod proxy;
pub mod schema;

use std::time::Duration;

use rekindle::clock::{Clock, SystemClock};

/// Waits until `condition` holds; panics after `limit`.
pub fn wait_until(limit: Duration, condition: impl FnMut() -> bool) {
    wait_or(limit, condition, || "it did not happen".into());
}

/// Waits until `condition` holds; panics with `what` after `limit`.
pub fn wait_or(limit: Duration, mut condition: impl FnMut() -> bool, what: impl Fn() -> String) {
    let until = SystemClock.lease_now().after(limit);
    while !condition() {
        assert!(SystemClock.lease_now() < until, "not within {limit:?}: {}", what());
        SystemClock.pause(Duration::from_millis(10));
    }
}
