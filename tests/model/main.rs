//! The exhaustive models: every order of events, within bounds, over the real decisions.
//!
//! [`timed`] asks whether anything an engine started can still run when a peer may fence it, and whether an
//! engine whose beats are accepted in time can be fenced: the real lease and the real observer, in every pattern
//! of beats, lost and late answers, freezes, deaths and reads. [`flow`] has no time: claims and finishes that
//! commit late or never, lost answers, takeovers, closed rows, a failover that loses commits, in every order,
//! over the steps of the real memory store.
//!
//! The test run explores small bounds; `scripts/soak --model` larger ones. States are printed.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod flow;
mod timed;

/// Whether the larger bounds are wanted.
fn is_large() -> bool {
    std::env::var_os("REKINDLE_MODEL").is_some_and(|size| size == "large")
}
