//! All integration tests in one program, so that they link once.

#![expect(clippy::unwrap_used, reason = "a test that fails says so by a panic")]

mod conformance;
mod support;
