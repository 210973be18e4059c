//! rekindle
pub mod clock;
pub mod guard;
pub mod protocol;
