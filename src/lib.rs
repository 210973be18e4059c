//! rekindle
pub mod clock;
pub mod guard;
pub mod handlers;
pub mod protocol;
