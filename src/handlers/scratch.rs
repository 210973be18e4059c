//! The private directories of attempts, and who takes them away.
//!
//! What a task wrote may be a hundred thousand files on a slow disk, and after a lost lease the engine has a
//! fraction of K to say "all clear". So an attempt that ended only gives its directory another name; a thread
//! that nobody waits for deletes it, together with what former lives left.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;

use super::handler::Attempt;
use crate::process::user::RunAs;

/// What is to be deleted begins with this.
const GONE: &str = ".gone-";

/// How long an engine that ends waits for its janitor; what is left then the next life deletes.
const TIDY_MAX: Duration = Duration::from_millis(200);

/// Where an engine's attempts work. Nobody else has this directory.
#[derive(Debug)]
pub(super) struct ScratchRoot {
    path: PathBuf,
    gone_count: AtomicU64,
    janitor: Mutex<Option<Janitor>>,
}

#[derive(Debug)]
struct Janitor {
    orders: Sender<PathBuf>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl ScratchRoot {
    /// Makes the directory if need be; what a former life left in it goes.
    pub(super) fn open(path: PathBuf) -> io::Result<Arc<Self>> {
        DirBuilder::new().recursive(true).mode(0o750).create(&path)?;
        let root = Self { path, gone_count: AtomicU64::new(0), janitor: Mutex::new(Janitor::start()) };
        for left in fs::read_dir(&root.path)?.flatten() {
            root.throw_away(&left.path());
        }
        Ok(Arc::new(root))
    }

    /// An empty directory for one attempt, which only its user may enter. No two attempts share a token, so what
    /// is found there was left by a life of this engine that was killed, and goes.
    pub(super) fn create(self: &Arc<Self>, attempt: &Attempt, user: Option<&RunAs>) -> io::Result<Scratch> {
        let path = self.path.join(format!("{}-{}", attempt.task.as_i64(), attempt.token.as_i64()));
        let make = || DirBuilder::new().mode(0o700).create(&path);
        match make() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.throw_away(&path);
                make()?;
            }
            // Somebody has cleaned up in the place where it lies.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o750).create(&self.path)?;
                make()?;
            }
            other => other?,
        }
        let scratch = Scratch { root: Arc::clone(self), path };
        if let Some(user) = user {
            // Others may pass through to what is theirs, and list nothing.
            fs::set_permissions(&self.path, Permissions::from_mode(0o711))?;
            chown(&scratch.path, Some(user.uid), Some(user.gid))?;
        }
        Ok(scratch)
    }

    /// Gives something another name at once, and has it deleted.
    fn throw_away(&self, path: &Path) {
        let gone = if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(GONE)) {
            path.to_owned()
        } else {
            let gone = self.free_name();
            match fs::rename(path, &gone) {
                Ok(()) => gone,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                // Something is mounted on it, say: it goes under the name that it has.
                Err(_) => path.to_owned(),
            }
        };
        match self.janitor.lock().as_ref() {
            Some(janitor) => drop(janitor.orders.send(gone)),
            None => delete(&gone),
        }
    }

    fn free_name(&self) -> PathBuf {
        loop {
            let gone = self.path.join(format!("{GONE}{}", self.gone_count.fetch_add(1, Ordering::Relaxed)));
            if gone.symlink_metadata().is_err() {
                return gone;
            }
        }
    }

    /// At the end: takes the directory itself away, if nothing is in it or the janitor is quick.
    pub(super) fn tidy(&self) {
        if let Some(Janitor { orders, ended }) = self.janitor.lock().take() {
            drop(orders);
            let _ = ended.recv_timeout(TIDY_MAX);
        }
        // Not empty is not tidy yet, and the next life's.
        let _ = fs::remove_dir(&self.path);
    }
}

impl Janitor {
    /// Without a thread for it everything is deleted at once.
    fn start() -> Option<Self> {
        let (orders, inbox) = unbounded::<PathBuf>();
        let (alive, ended) = bounded::<()>(0);
        let body = move || {
            inbox.iter().for_each(|path| delete(&path));
            drop(alive);
        };
        match std::thread::Builder::new().name("janitor".into()).stack_size(256 << 10).spawn(body) {
            Ok(_) => Some(Self { orders, ended }),
            Err(error) => {
                log::warn!("no thread deletes what tasks leave, so their ends wait for it: {error}");
                None
            }
        }
    }
}

fn delete(path: &Path) {
    let result = match fs::symlink_metadata(path) {
        Ok(data) if data.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("could not remove {}: {error}", path.display());
        }
        _ => {}
    }
}

/// The directory of one attempt; given away when dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    root: Arc<ScratchRoot>,
    path: PathBuf,
}

impl Scratch {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.root.throw_away(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers::testing::{attempt, wait_until};

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_end_does_not_wait_for_the_removal_of_what_the_task_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let root = ScratchRoot::open(dir.path().join("t")).unwrap();
        // A janitor that is busy: it gets its orders when this lets go.
        let (orders, inbox) = unbounded();
        let (_alive, ended) = bounded(0);
        let real = root.janitor.lock().replace(Janitor { orders, ended });
        let scratch = root.create(&attempt(""), None).unwrap();
        fs::write(scratch.path().join("file"), "x").unwrap();
        drop(scratch);
        assert_eq!(names(&root.path), [".gone-0"]);
        let again = root.create(&attempt(""), None).unwrap();
        assert_eq!(names(again.path()), Vec::<String>::new());
        drop(again);
        let gone: Vec<PathBuf> = inbox.try_iter().collect();
        assert_eq!(gone.len(), 2);
        *root.janitor.lock() = real;
        gone.iter().for_each(|path| root.throw_away(path));
        wait_until("the janitor", || names(&root.path).is_empty().then_some(()));
    }

    #[test]
    fn what_former_lives_left_goes_and_so_does_the_directory_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        fs::create_dir_all(path.join("4812-6/deep")).unwrap();
        fs::create_dir_all(path.join(".gone-0/deep")).unwrap();
        fs::write(path.join("file"), "").unwrap();
        let root = ScratchRoot::open(path.clone()).unwrap();
        let scratch = root.create(&attempt(""), None).unwrap();
        wait_until("the janitor", || (names(&path) == ["4812-6"]).then_some(()));
        assert_eq!(names(scratch.path()), Vec::<String>::new());
        drop(scratch);
        root.tidy();
        assert!(!path.exists());
    }
}
