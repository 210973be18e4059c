//! rekindle
pub mod cli;
pub mod clock;
pub mod config;
pub mod guard;
pub mod protocol;
