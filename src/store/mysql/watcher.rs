//! Tells of new tasks, and of those that are ready again, where the server cannot.
//!
//! A thread of its own asks for the newest numbers, because the asking may hang against a frozen server while
//! whoever waits for the watcher must not. It ends with the watcher; one that hangs ends when its call does.
//!
//! It rings by a byte in a pipe: a byte for each change that nobody has taken yet, so there is one at most, and an
//! end of file when the thread is over.

use std::io::{PipeReader, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use super::MysqlDb;
use crate::store::api::{StoreResult, Watcher};
use crate::store::db::Db;
use crate::store::error::{Cause, StoreError};

/// Three times a second where nothing happens: an idle engine shall send at most eight statements a second, with all
/// it does, and what a dead one left shall run elsewhere within 0.3 s of its proof, half of the time.
const POLL: Duration = Duration::from_millis(320);

/// After a change: where one task was added, the next one often follows. Doubles with each look that finds nothing.
const LIVELY_POLL: Duration = Duration::from_millis(40);

const STACK: usize = 256 << 10;

#[derive(Default)]
struct Seen {
    changed: AtomicBool,
    failed: Mutex<Option<StoreError>>,
}

struct Poller {
    seen: Arc<Seen>,
    bell: PipeReader,
    // Dropped with the watcher: the thread sees it and ends.
    _stop: Sender<()>,
}

/// Starts the thread.
pub fn start(mut db: MysqlDb) -> StoreResult<Box<dyn Watcher>> {
    let seen = Arc::new(Seen::default());
    let (stop, stopped) = bounded::<()>(0);
    let refused = |error: std::io::Error| StoreError::Unreachable {
        place: "the database".into(),
        source: Cause(format!("no thread or pipe: {error}")),
    };
    let (bell, mut rope) = std::io::pipe().map_err(refused)?;
    let theirs = Arc::clone(&seen);
    // Before anybody can add what he then waits for.
    let mut last = newest(&mut db)?;
    let body = move || {
        let mut pause = POLL;
        while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            match newest(&mut db) {
                Ok(now) if now == last => pause = (pause * 2).min(POLL),
                Ok(now) => {
                    (last, pause) = (now, LIVELY_POLL);
                    if !theirs.changed.swap(true, Ordering::AcqRel) && rope.write_all(b"!").is_err() {
                        return;
                    }
                }
                Err(error) => {
                    *theirs.failed.lock() = Some(error);
                    return;
                }
            }
        }
    };
    std::thread::Builder::new().name("watcher-db".into()).stack_size(STACK).spawn(body).map_err(refused)?;
    Ok(Box::new(Poller { seen, bell, _stop: stop }))
}

/// The newest task, and the newest end of an attempt that was not the good last one: a takeover and a
/// hand-back write one when they make a task ready again. Both are read off the end of an index.
fn newest(db: &mut dyn Db) -> StoreResult<(i64, i64)> {
    let sql = db.stmt().sql("SELECT (SELECT max(id) FROM task), (SELECT max(ended_at) FROM attempt)");
    Ok(db.first("look for new tasks", &sql)?.map_or((0, 0), |mut row| (row.int(), row.int())))
}

impl Watcher for Poller {
    fn has_changed(&mut self) -> StoreResult<bool> {
        if let Some(error) = self.seen.failed.lock().take() {
            return Err(error);
        }
        let has_changed = self.seen.changed.swap(false, Ordering::AcqRel);
        if has_changed {
            // Its byte is there, or will be in a moment.
            let _ = self.bell.read(&mut [0]);
        }
        Ok(has_changed)
    }

    fn bell(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bell.as_fd())
    }
}
