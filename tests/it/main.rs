//! All integration tests in one program, so that they link once.

mod cluster;
mod conformance;
mod support;
