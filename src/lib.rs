//! rekindle
pub mod clock;
pub mod guard;
pub mod health;
pub mod protocol;
