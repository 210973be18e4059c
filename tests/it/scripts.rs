//! The scripts that people are told to run as root must believe nothing that somebody else put into a directory which
//! everybody may write.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};

use nix::unistd::{Gid, Uid, chown};

const NOBODY: u32 = 65_534;

/// A process that a planted directory names: it sits in `/`, as most daemons do.
struct Victim(Child);

impl Victim {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").current_dir("/").spawn().unwrap())
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What somebody makes in the hope that root sweeps it: a marker of a run that is gone, and a server whose number is
/// the victim's and whose data lies in `/`.
fn plant(dir: &Path, victim: u32, marker: impl FnOnce(&Path)) {
    let server = dir.join("mariadb");
    std::fs::create_dir_all(&server).unwrap();
    std::fs::write(server.join("pid"), victim.to_string()).unwrap();
    symlink("/", server.join("data")).unwrap();
    marker(&dir.join("rekindle-databases"));
}

/// Runs `scripts/databases run -- true` without any server: what it sweeps is all it does.
fn sweep(tmp: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/databases");
    let mut command = Command::new("bash");
    command.arg(script).args(["run", "--", "true"]).env("TMPDIR", tmp).env("REKINDLE_DATABASES", " ");
    let output = command.process_group(0).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_directory_of_somebody_else_makes_the_sweep_kill_nobody_and_remove_nothing() {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: only root can make files of somebody else");
    }
    let tmp = tempfile::tempdir().unwrap();
    std::fs::set_permissions(tmp.path(), PermissionsExt::from_mode(0o1777)).unwrap();
    let mut victim = Victim::start();
    let give = |path: &Path| chown(path, Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY))).unwrap();

    // A marker that is a link to a file of root's.
    let linked = tmp.path().join("rekindle-db.linked");
    plant(&linked, victim.0.id(), |marker| symlink("/etc/hostname", marker).unwrap());
    give(&linked);
    // A directory that is a link to one of root's.
    let ours = tmp.path().join("of-root");
    plant(&ours, victim.0.id(), |marker| std::fs::write(marker, "1 1\n").unwrap());
    symlink(&ours, tmp.path().join("rekindle-db.link")).unwrap();
    // A directory of somebody else with a marker of root's own, brought there by a hard link.
    let hard = tmp.path().join("rekindle-db.hard");
    plant(&hard, victim.0.id(), |marker| std::fs::hard_link(ours.join("rekindle-databases"), marker).unwrap());
    give(&hard);

    sweep(tmp.path());
    assert!(victim.lives(), "the sweep killed a process that a planted file named");
    for dir in [&linked, &ours, &hard] {
        assert!(dir.join("mariadb/pid").exists(), "{} was swept", dir.display());
    }
}

/// And a directory that root left itself: what the server's user wrote in there is that user's word, so a signal goes
/// out with that user's rights.
#[test]
fn a_servers_own_file_makes_root_signal_no_process_of_another_user() {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: who is not root signals nobody else");
    }
    let tmp = tempfile::tempdir().unwrap();
    std::fs::set_permissions(tmp.path(), PermissionsExt::from_mode(0o1777)).unwrap();
    let mut victim = Victim::start();
    let left = tmp.path().join("rekindle-db.left");
    plant(&left, victim.0.id(), |marker| std::fs::write(marker, "1 1\n").unwrap());
    sweep(tmp.path());
    assert!(victim.lives(), "the number in a server's file was signalled as root");
    assert!(!left.exists(), "what a run of ours left is removed");
}
