//! Whether a row of the engine table is a former life of the very engine that looks at it, which is then dead, or
//! that of a copy of its machine, which may be alive.
//!
//! Who asks holds the lock of its state directory and has killed what a former life left there. So a former life
//! that held *this* lock is dead, guard and engine both. Copies have the random id of the directory and, on one
//! kernel, the boot id too. What a copy does not have is device *and* inode of the lock file: two file systems may
//! number alike (two tmpfs, a snapshot), but a device is one of them at a time.
//!
//! Dead is not enough. What the former life started may run on, unless something held it together that is known to
//! be empty: a control group, which the start has cleared, or a PID namespace, whose first process was the guard
//! or the engine and which is gone with it. Parentage holds nothing together once guard and engine are dead. Where
//! it cannot be known there is no proof, and the row is watched for its T like any other.

/// What held together all that an engine started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptBy {
    /// Parentage: orphans go to whoever the kernel gives them.
    Parentage = 0,
    /// A control group of its own.
    Group = 1,
    /// A PID namespace that dies with its guard or with itself.
    Namespace = 2,
}

impl KeptBy {
    /// As it is stored.
    pub const fn code(self) -> i64 {
        self as i64
    }

    /// From the stored number.
    pub const fn from_code(code: i64) -> Option<Self> {
        match code {
            0 => Some(Self::Parentage),
            1 => Some(Self::Group),
            2 => Some(Self::Namespace),
            _ => None,
        }
    }
}

/// Where exactly an engine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stand {
    /// Device of the lock file of its state directory.
    pub lock_device: u64,
    /// Inode of the same.
    pub lock_inode: u64,
    /// Inode of its PID namespace.
    pub pid_namespace: u64,
    /// When its process started, in clock ticks since boot.
    pub start_ticks: u64,
    /// What holds together all that it starts.
    pub kept_by: KeptBy,
}

impl Stand {
    /// Whether whoever stands `here`, holds the lock and has killed what was left, knows that nothing of the life
    /// that stood in `self` can still run. Both are of one state id and one boot. `lives` looks its process up by
    /// number and start, which means something only within one PID namespace.
    pub fn is_over(&self, here: &Self, lives: impl FnOnce() -> bool) -> bool {
        let is_same_lock = (self.lock_device, self.lock_inode) == (here.lock_device, here.lock_inode);
        let is_known = self.pid_namespace != 0 && here.pid_namespace != 0;
        let is_same_namespace = self.pid_namespace == here.pid_namespace;
        is_same_lock
            && is_known
            && match self.kept_by {
                KeptBy::Parentage => false,
                KeptBy::Group => is_same_namespace && !lives(),
                // Another namespace is gone with its first process, which held the lock.
                KeptBy::Namespace => !is_same_namespace || !lives(),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Stand =
        Stand { lock_device: 7, lock_inode: 100, pid_namespace: 40, start_ticks: 5, kept_by: KeptBy::Group };

    #[test]
    fn only_the_same_lock_of_a_dead_life_that_left_nothing_is_a_proof() {
        let dead = || false;
        for (former, is_over, why) in [
            (HERE, true, "the control group was cleared"),
            (Stand { lock_inode: 101, ..HERE }, false, "a copied directory"),
            (Stand { lock_device: 8, ..HERE }, false, "a snapshot, or another tmpfs, that numbers alike"),
            (Stand { pid_namespace: 41, ..HERE }, false, "its processes cannot be looked up from here"),
            (Stand { pid_namespace: 0, ..HERE }, false, "nothing is known"),
            (Stand { kept_by: KeptBy::Parentage, ..HERE }, false, "a grandchild may have got away"),
            (Stand { kept_by: KeptBy::Namespace, ..HERE }, true, "a namespace whose number came again"),
            (Stand { kept_by: KeptBy::Namespace, pid_namespace: 41, ..HERE }, true, "a container that ended"),
            (Stand { kept_by: KeptBy::Namespace, pid_namespace: 0, ..HERE }, false, "nothing is known"),
        ] {
            assert_eq!(former.is_over(&HERE, dead), is_over, "{why}");
        }
    }

    #[test]
    fn a_life_whose_process_lives_is_not_over() {
        for kept_by in [KeptBy::Parentage, KeptBy::Group, KeptBy::Namespace] {
            assert!(!Stand { kept_by, ..HERE }.is_over(&HERE, || true));
            assert_eq!(KeptBy::from_code(kept_by.code()), Some(kept_by));
        }
        assert_eq!(KeptBy::from_code(3), None);
    }
}
