//! Where loops block, start threads and die.
//!
//! In an engine these are the operating system's doing. In the simulator one thread plays all loops of all
//! engines: what would block gives its turn back instead, and a seed decides who goes on and when. The loops
//! themselves, and everything they decide, are the same code in both.
//!
//! Without the feature `sim` (and outside unit tests) [`player`] is a constant `None`, and all of this is gone.

use std::io;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

/// What became of a database call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Called {
    /// It was done, and its answer came.
    Answered,
    /// It never left this host.
    Refused,
    /// No answer: it may have been done, or may still be.
    Lost,
}

/// A database call or the body of a thread.
pub type Job = Box<dyn FnOnce() + Send>;

/// Who plays the loops.
pub trait Player {
    /// Gives the turn back for at most `span`, or until something [`Player::changed`]; what is left of it.
    fn wait(&self, span: Duration) -> Duration;
    /// Has a database call done, at some time or never, and waits for its answer.
    fn call(&self, step: &'static str, timeout: Duration, job: Job) -> Called;
    /// Begins another loop of the same process.
    fn spawn(&self, name: &'static str, body: Job);
    /// Something that a loop of this process may wait for has changed.
    fn changed(&self);
    /// The process ends here.
    fn die(&self, why: &str) -> !;
    /// A result of this engine was called refused.
    fn refused(&self, task: i64, nonce: i64);
}

#[cfg(any(test, feature = "sim"))]
mod played {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::Player;

    thread_local! {
        static PLAYER: RefCell<Option<Rc<dyn Player>>> = const { RefCell::new(None) };
    }

    /// Who plays on this thread, if anybody does.
    pub fn player() -> Option<Rc<dyn Player>> {
        PLAYER.with_borrow(Clone::clone)
    }

    /// From now on `player` plays on this thread.
    pub fn set_player(player: Option<Rc<dyn Player>>) {
        PLAYER.with_borrow_mut(|slot| *slot = player);
    }
}
#[cfg(any(test, feature = "sim"))]
pub use played::{player, set_player};

/// Nobody plays: the loops are threads.
#[cfg(not(any(test, feature = "sim")))]
#[inline(always)]
pub const fn player() -> Option<&'static dyn Player> {
    None
}

/// Waits as a condition variable would, if the loops are played. `None`: they are threads.
pub fn wait_until(span: Duration, holds: impl Fn() -> bool) -> Option<bool> {
    let player = player()?;
    let mut left = span;
    while !holds() && !left.is_zero() {
        left = player.wait(left);
    }
    Some(holds())
}

/// [`Receiver::recv_timeout`].
pub fn receive<T>(inbox: &Receiver<T>, span: Duration) -> Result<T, RecvTimeoutError> {
    match wait_until(span, || !inbox.is_empty()) {
        Some(_) => inbox.try_recv().map_err(|_| RecvTimeoutError::Timeout),
        None => inbox.recv_timeout(span),
    }
}

/// Starts a thread that nobody joins.
pub fn spawn(name: &'static str, stack: usize, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    if let Some(player) = player() {
        player.spawn(name, Box::new(body));
        return Ok(());
    }
    std::thread::Builder::new().name(name.into()).stack_size(stack).spawn(body).map(drop)
}

/// Something that a loop may wait for has changed. Threads see it by other means.
pub fn changed() {
    if let Some(player) = player() {
        player.changed();
    }
}

/// Does something that must not end by a panic: with a thread gone that others rely on, the process would go on
/// for nothing. So it ends, and whoever watches it starts it again.
pub fn or_abort(what: &str, body: impl FnOnce()) {
    if player().is_some() {
        // A process that dies in the play is taken off its stacks by unwinding them: no panic, and not to be caught.
        return body();
    }
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err() {
        log::error!("{what} panicked: the process ends");
        log::logger().flush();
        abort(what);
    }
}

/// Ends the process.
pub fn abort(why: &str) -> ! {
    if let Some(player) = player() {
        player.die(why);
    }
    // What was said last tells why.
    log::logger().flush();
    std::process::abort();
}
