//! Database calls that can be abandoned.
//!
//! A call against a frozen server may hang for ever, whatever the driver's timeouts say. So no loop of
//! the engine calls the database itself: it hands the call to its *lane*, a thread that does nothing
//! else, and waits for the answer until the call's own deadline. Past it the lane is abandoned with its
//! thread and its connection, and the next call gets a new one. The late answer is dropped; whatever it
//! did in the database is either harmless (a beat) or made harmless (a claim: its nonce is forgotten, and
//! what it got is handed back).
//!
//! At [`ABANDONED_MAX`] abandoned threads no call is tried any more until one of them returns: a server
//! that stays frozen exhausts nothing, and one that thaws is noticed by the first thread that returns.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::store::error::{Cause, StoreError};
use crate::store::{Store, StoreResult};
use crate::turns::{self, Called};

/// See the module.
pub const ABANDONED_MAX: usize = 16;

/// A lane's thread holds a driver's buffers on its stack, nothing deep.
const STACK: usize = 512 << 10;

type Job = Box<dyn FnOnce() + Send>;

/// Where calls go; one per loop.
pub struct Lane {
    name: &'static str,
    store: Arc<dyn Store>,
    abandoned: Arc<AtomicUsize>,
    jobs: Option<Sender<Job>>,
}

impl Lane {
    /// A lane of an engine; `abandoned` is counted over all its lanes.
    pub fn new(name: &'static str, store: Arc<dyn Store>, abandoned: Arc<AtomicUsize>) -> Self {
        Self { name, store, abandoned, jobs: None }
    }

    /// Calls the store and waits for the answer until `timeout`. A call that is abandoned has an unknown
    /// outcome.
    pub fn call<T, F>(&mut self, step: &'static str, timeout: Duration, body: F) -> StoreResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Store) -> StoreResult<T> + Send + 'static,
    {
        if let Some(player) = turns::player() {
            return play(&self.store, step, timeout, body, |job| player.call(step, timeout, job));
        }
        if self.abandoned.load(Ordering::Acquire) >= ABANDONED_MAX {
            return Err(unreachable(format!("{ABANDONED_MAX} calls hang; no further one is tried until one returns")));
        }
        let jobs = match &self.jobs {
            Some(jobs) => jobs.clone(),
            None => self.open()?,
        };
        let (reply, answer) = bounded(1);
        let store = Arc::clone(&self.store);
        let job: Job = Box::new(move || {
            // The receiver may be gone: then nobody waits for this answer any more.
            let _ = reply.send(body(&*store));
        });
        if jobs.send(job).is_err() {
            self.jobs = None;
            return Err(unreachable("the thread for database calls ended".into()));
        }
        match answer.recv_timeout(timeout) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => {
                self.abandon();
                let source = Cause(format!("no answer within {timeout:?}"));
                Err(StoreError::Unknown { step, source })
            }
            Err(RecvTimeoutError::Disconnected) => {
                self.jobs = None;
                Err(StoreError::Broken { step, source: Cause("the call panicked".into()) })
            }
        }
    }

    fn open(&mut self) -> StoreResult<Sender<Job>> {
        let (sender, receiver) = bounded::<Job>(1);
        let started = std::thread::Builder::new()
            .name(format!("{}-db", self.name))
            .stack_size(STACK)
            .spawn(move || serve(&receiver));
        match started {
            Ok(_) => {
                self.jobs = Some(sender.clone());
                Ok(sender)
            }
            Err(error) => Err(unreachable(format!("no thread for the call: {error}"))),
        }
    }

    /// The thread ends when its call returns, because its channel is closed then; until that it counts.
    fn abandon(&mut self) {
        let Some(jobs) = self.jobs.take() else { return };
        let count = Arc::clone(&self.abandoned);
        count.fetch_add(1, Ordering::AcqRel);
        // Queued behind the call that hangs: it runs when the thread comes back.
        let back: Job = Box::new(move || {
            count.fetch_sub(1, Ordering::AcqRel);
        });
        if jobs.send(back).is_err() {
            self.abandoned.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// The same call where the loops are played.
fn play<T, F>(
    store: &Arc<dyn Store>,
    step: &'static str,
    timeout: Duration,
    body: F,
    call: impl FnOnce(turns::Job) -> Called,
) -> StoreResult<T>
where
    T: Send + 'static,
    F: FnOnce(&dyn Store) -> StoreResult<T> + Send + 'static,
{
    let (reply, answer) = bounded(1);
    let store = Arc::clone(store);
    let called = call(Box::new(move || {
        // Nobody may wait for this answer any more.
        let _ = reply.send(body(&*store));
    }));
    let lost = || Err(StoreError::Unknown { step, source: Cause(format!("no answer within {timeout:?}")) });
    match called {
        Called::Answered => answer.try_recv().unwrap_or_else(|_| lost()),
        Called::Refused => Err(unreachable("the connection was refused".into())),
        Called::Lost => lost(),
    }
}

fn serve(jobs: &Receiver<Job>) {
    for job in jobs {
        job();
    }
}

fn unreachable(text: String) -> StoreError {
    StoreError::Unreachable { place: "the database".into(), source: Cause(text) }
}
