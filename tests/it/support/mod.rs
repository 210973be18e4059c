//! What tests share: fresh databases, builders with defaults, waiting without sleeping blindly.

pub mod builders;
pub mod databases;
pub mod mariadb;
pub mod postgres;
pub mod schema;

use std::time::Duration;

use rekindle::clock::{Clock, SystemClock};

/// Waits until `condition` holds; panics after `limit`.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) {
    let until = SystemClock.lease_now().after(limit);
    while !condition() {
        assert!(SystemClock.lease_now() < until, "it did not happen within {limit:?}");
        SystemClock.pause(Duration::from_millis(10));
    }
}
