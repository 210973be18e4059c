//! All integration tests in one program, so that they link once.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod cli;
mod cluster;
mod conformance;
mod hostile;
mod mariadb;
mod plans;
mod planted;
mod postgres;
mod scripts;
mod support;
