//! A PostgreSQL server of one test's own, which may be stopped and frozen, and a pooler before it.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use rekindle::guard::tree;

use super::rig::{SOON, signal, wait_or};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/databases");

/// See the module.
pub struct Server {
    dir: tempfile::TempDir,
    url: String,
    pooler: String,
}

impl Server {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The server's own user must get through.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let out = Command::new(SCRIPT).args(["start", "--fast"]).arg(dir.path().join("db")).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let named = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        let url = named("REKINDLE_TEST_POSTGRES=");
        let url = url.unwrap_or_else(|| panic!("no server: {text}{}", String::from_utf8_lossy(&out.stderr)));
        Self { dir, url, pooler: named("REKINDLE_TEST_PGBOUNCER=").unwrap_or_default() }
    }

    /// The URL of the pooler before it.
    pub fn pooler(&self) -> &str {
        &self.pooler
    }

    /// Ends the pooler at once.
    pub fn stop_pooler(&self) {
        let pid = std::fs::read_to_string(self.dir.path().join("db/pgbouncer/pgbouncer.pid")).unwrap();
        let pid = pid.trim().parse().unwrap();
        signal(pid, Signal::SIGTERM);
        wait_or(SOON, || tree::read(pid).is_none_or(|proc| !proc.is_alive()), || "the pooler does not stop".into());
    }

    /// Starts it again, in its place.
    pub fn resume_pooler(&self) {
        let script = "cd /; PATH=$PATH:/usr/sbin; user=''; \
             [ \"$(id -u)\" != 0 ] || user='setpriv --reuid=postgres --regid=postgres --init-groups --'; \
             rm -f \"$1/pgbouncer.pid\"; exec $user pgbouncer -q -d \"$1/pgbouncer.ini\"";
        let dir = self.dir.path().join("db/pgbouncer");
        assert!(Command::new("sh").args(["-c", script, "sh"]).arg(dir).status().unwrap().success());
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("db/postgres/data")
    }

    fn postmaster(&self) -> Option<i32> {
        let text = std::fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        text.lines().next()?.parse().ok()
    }

    /// Postmaster and all its children.
    fn processes(&self) -> Vec<i32> {
        let Some(master) = self.postmaster() else { return Vec::new() };
        let children = tree::snapshot().unwrap().into_iter().filter(|proc| proc.ppid == master);
        std::iter::once(master).chain(children.map(|proc| proc.pid)).collect()
    }

    /// Ends it at once, as a crash would.
    pub fn stop(&self) {
        let master = self.postmaster().expect("the server runs");
        signal(master, Signal::SIGQUIT);
        wait_or(SOON, || tree::read(master).is_none_or(|proc| !proc.is_alive()), || "the server does not stop".into());
    }

    /// Starts it again, in its place.
    pub fn resume(&self) {
        let port = self.url.rsplit(':').next().unwrap().split('/').next().unwrap();
        let script = "cd /; bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1); user=''; \
             [ \"$(id -u)\" != 0 ] || user='setpriv --reuid=postgres --regid=postgres --init-groups --'; \
             exec $user env -i PATH=\"$PATH\" LC_ALL=C TZ=UTC \"$bin/pg_ctl\" start -s -w -t 60 -D \"$1\" -l \"$1.log\" -o \"-p $2\"";
        let log = self.dir.path().join("db/postgres/data.log");
        let status = Command::new("sh").args(["-c", script, "sh"]).arg(self.data()).arg(port).status().unwrap();
        assert!(status.success(), "{}", std::fs::read_to_string(log).unwrap_or_default());
    }

    /// Stops all its processes; until [`Server::thaw`] it answers nothing, and refuses nothing.
    pub fn freeze(&self) {
        // The postmaster first, or it would start further children.
        self.processes().into_iter().for_each(|pid| signal(pid, Signal::SIGSTOP));
        self.processes().into_iter().for_each(|pid| signal(pid, Signal::SIGSTOP));
    }

    pub fn thaw(&self) {
        self.processes().into_iter().for_each(|pid| signal(pid, Signal::SIGCONT));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.thaw();
        let _ = Command::new(SCRIPT).arg("stop").arg(self.dir.path().join("db")).status();
    }
}
