//! What this program does about itself as a process: that its tasks cannot read it, and how much of the host
//! it may use.
//!
//! Tasks run as the engine's user unless their kind says otherwise, so the kernel would let them read the
//! memory and the environment of everything that user runs, the engine with its database password included.
//! [`hide()`] closes that door for each program of rekindle, first thing in its `main`.
//!
//! What a program changes about itself (no core files, more descriptors) its tasks do not inherit: [`limits`]
//! remembers how it was started, and who starts something gives that back.

pub mod descriptors;
mod fork;
mod hide;
pub mod limits;
pub mod oom;
pub mod place;
pub mod user;

pub use fork::BareFork;
pub use hide::{hide, hide_or_warn, show};
