//! Whom the kernel takes first when memory is short: a task rather than the engine that runs it, or the guard.
//!
//! The kernel picks the process with the largest score, and a child inherits its parent's. A task's own file
//! in /proc cannot be written between fork and exec, because a hidden engine's child is hidden too. So the
//! engine raises its own score around the fork and lowers it again: raising needs no right, and neither does
//! going back to where it was.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::sync::OnceLock;

use parking_lot::{Mutex, MutexGuard};

/// A task's score: it is taken before everything that has none of its own.
const OF_A_TASK: i32 = 300;

#[derive(Debug)]
struct Score {
    file: File,
    own: i32,
}

static SCORE: OnceLock<Mutex<Score>> = OnceLock::new();

/// Opens this process's own score. To be called before it hides itself, which closes the file to all but root.
pub(super) fn remember() -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open("/proc/self/oom_score_adj")?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let own = text.trim().parse().map_err(io::Error::other)?;
    SCORE.get_or_init(|| Mutex::new(Score { file, own }));
    Ok(())
}

/// As long as it lives, what is forked has a task's score.
pub struct Raised(MutexGuard<'static, Score>);

/// Raises the score until the answer is dropped; nothing where this process has not opened its own, or where
/// it is that high already.
pub fn raised() -> Option<Raised> {
    let mut score = SCORE.get()?.lock();
    if score.own >= OF_A_TASK {
        return None;
    }
    match score.set(OF_A_TASK) {
        Ok(()) => Some(Raised(score)),
        Err(error) => {
            log::debug!("tasks keep the engine's score for memory: {error}");
            None
        }
    }
}

impl Score {
    fn set(&mut self, score: i32) -> io::Result<()> {
        self.file.rewind()?;
        self.file.write_all(score.to_string().as_bytes())
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        let own = self.0.own;
        if let Err(error) = self.0.set(own) {
            log::error!("this process could not get its score for memory back: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::{WaitStatus, waitpid};

    use super::*;
    use crate::guard::tests::in_child;

    fn own_score() -> String {
        std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().to_owned()
    }

    #[test]
    fn what_is_forked_meanwhile_has_a_tasks_score_and_this_process_its_own_again() {
        let child = in_child(|| {
            let before = own_score();
            remember().unwrap();
            crate::process::hide().unwrap();
            let raised = raised().unwrap();
            let task = in_child(|| i32::from(own_score() != "300"));
            drop(raised);
            assert_eq!(waitpid(task, None).unwrap(), WaitStatus::Exited(task, 0));
            assert_eq!(own_score(), before);
            0
        });
        assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
    }
}
