//! rekindle
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod engine;
pub mod guard;
pub mod handlers;
pub mod health;
pub mod protocol;
pub mod store;
