//! A network of its own for some processes, whose one link can be cut: nothing gets through, and nobody is told.
//!
//! Unlike a proxy it keeps no connection alive that its ends believe to be dead, so it shows what a server still counts.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};

/// See the module. It ends with the last process in it.
pub struct Island {
    namespace: File,
}

impl Island {
    /// `None` where this user may not make one.
    pub fn new() -> Option<Self> {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).ok()?;
            File::open("/proc/thread-self/ns/net").ok()
        };
        let island = Self { namespace: std::thread::spawn(make).join().unwrap()? };
        island.set_link(true);
        Some(island)
    }

    /// The command's process will live there.
    pub fn enter(&self, command: &mut Command) {
        let namespace = self.namespace.try_clone().unwrap();
        // SAFETY: one system call.
        unsafe { command.pre_exec(move || setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(Into::into)) };
    }

    /// Cuts the link, or mends it.
    pub fn set_link(&self, is_up: bool) {
        let namespace = self.namespace.try_clone().unwrap();
        let set = move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            // SAFETY: plain data, for which zeros are a value.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            request.ifr_name[0] = b'l' as libc::c_char;
            request.ifr_name[1] = b'o' as libc::c_char;
            request.ifr_ifru.ifru_flags = if is_up { libc::IFF_UP as libc::c_short } else { 0 };
            // SAFETY: a socket of this thread's namespace, and a request that outlives the call.
            let done = unsafe {
                let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
                let done = libc::ioctl(socket, libc::SIOCSIFFLAGS, &request);
                libc::close(socket);
                done
            };
            assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        };
        std::thread::spawn(set).join().unwrap();
    }
}
