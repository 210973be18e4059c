//! Commands run for real: what they get, what their end means, how they are stopped, and that nothing
//! of them is left. No test sleeps for a fixed time; each waits for a condition.

mod contract;
mod leftovers;
mod starts;
mod stopping;
