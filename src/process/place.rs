//! In which kernel and under which numbers this process runs: what a number of a process means anything in.

use std::os::unix::fs::MetadataExt;

/// The kernel's boot id; empty where there is none (a masked /proc). Empty is no boot: it proves nothing.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |t| t.trim().to_owned())
}

/// The inode that names this process's PID namespace as long as anything is in it; 0 where it cannot be read.
pub fn pid_namespace() -> u64 {
    std::fs::metadata("/proc/self/ns/pid").map_or(0, |meta| meta.ino())
}
