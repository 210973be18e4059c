//! rekindle
pub mod cli;
pub mod clock;
pub mod config;
pub mod guard;
pub mod health;
pub mod protocol;
pub mod store;
