//! What this engine has claimed and not yet reported: the table that claims, workers, wishes and
//! reconciliation share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::handlers::AttemptControl;
use crate::protocol::ids::{Incarnation, Nonce, TaskId};
use crate::protocol::task::{OnLeaseLoss, Wish};
use crate::protocol::time::LeaseInstant;
use crate::store::{Claimed, Held};
use crate::turns;

/// One claimed task.
#[derive(Clone)]
pub struct Entry {
    /// As it was claimed.
    pub task: Arc<Claimed>,
    /// Whose claim it is; changes when a `continue` task is adopted.
    pub incarnation: Incarnation,
    /// What stops it; `None` before it is started.
    pub control: Option<Arc<AttemptControl>>,
    /// When it was started.
    pub began_at: Option<LeaseInstant>,
    /// What an operator asked for.
    pub wish: Wish,
    /// Whether it runs through a lost lease.
    pub on_lease_loss: OnLeaseLoss,
    /// It occupies a slot (a command).
    pub takes_slot: bool,
    /// It must run alone.
    pub is_alone: bool,
}

#[derive(Default)]
struct Table {
    entries: BTreeMap<TaskId, Entry>,
    in_flight: BTreeSet<Nonce>,
    /// Ended, with whether it ran alone.
    unreported: BTreeMap<Held, bool>,
    /// What entered while the database is asked what this engine owns; `None` at other times.
    entered: Option<BTreeSet<Held>>,
}

/// What an engine knew of at one moment.
#[derive(Debug, Default)]
pub struct Known {
    /// What it held, or had still to report.
    pub held: BTreeSet<Held>,
    nonces: BTreeSet<Nonce>,
}

impl Known {
    /// Whether this claim was among it.
    pub fn has(&self, held: &Held) -> bool {
        self.held.contains(held) || self.nonces.contains(&held.nonce)
    }
}

/// The table.
#[derive(Default)]
pub struct Running {
    table: Mutex<Table>,
    changed: Condvar,
}

impl Running {
    /// A claim is about to be sent under this nonce.
    pub fn expect(&self, nonce: Nonce) {
        self.table.lock().in_flight.insert(nonce);
    }

    /// The answer came (or the claim was given up): its tasks enter in the same moment as the nonce
    /// leaves, so that reconciliation never sees one without the other. False: the claim was forgotten
    /// meanwhile, and its answer must be too.
    pub fn settle(&self, nonce: Nonce, claimed: Vec<Entry>) -> bool {
        let mut table = self.table.lock();
        let is_known = table.in_flight.remove(&nonce);
        for entry in claimed.into_iter().filter(|_| is_known) {
            if let Some(entered) = &mut table.entered {
                entered.insert(entry.task.held);
            }
            table.entries.insert(entry.task.held.task, entry);
        }
        self.changed.notify_all();
        turns::changed();
        is_known
    }

    /// Forgets all claims that are under way: what they got may be of commits that a failover lost, and an
    /// answer that comes after the comparison would be compared with nothing.
    pub fn forget_in_flight(&self) {
        self.table.lock().in_flight.clear();
        self.changed.notify_all();
        turns::changed();
    }

    /// Takes out what was claimed but has not begun; how many. Whoever would begin it finds it gone.
    pub fn drop_unstarted(&self, which: impl Fn(&Held) -> bool) -> usize {
        let mut table = self.table.lock();
        let before = table.entries.len();
        table.entries.retain(|_, entry| entry.control.is_some() || !which(&entry.task.held));
        self.changed.notify_all();
        turns::changed();
        before - table.entries.len()
    }

    /// The attempt of this task begins. `None` if it was taken out meanwhile.
    pub fn begin(&self, held: &Held, control: &Arc<AttemptControl>, now: LeaseInstant) -> Option<Entry> {
        let mut table = self.table.lock();
        let entry = table.entries.get_mut(&held.task).filter(|entry| entry.task.held == *held)?;
        (entry.control, entry.began_at) = (Some(Arc::clone(control)), Some(now));
        Some(entry.clone())
    }

    /// The attempt ended: it leaves the table and waits for its report.
    pub fn end(&self, held: &Held) -> Option<Entry> {
        let mut table = self.table.lock();
        if table.entries.get(&held.task).is_none_or(|entry| entry.task.held != *held) {
            return None;
        }
        let entry = table.entries.remove(&held.task)?;
        table.unreported.insert(*held, entry.is_alone);
        self.changed.notify_all();
        turns::changed();
        Some(entry)
    }

    /// Its report was written, refused, or is not needed.
    pub fn reported<'a>(&self, held: impl IntoIterator<Item = &'a Held>) {
        let mut table = self.table.lock();
        for held in held {
            table.unreported.remove(held);
        }
        self.changed.notify_all();
        turns::changed();
    }

    /// The tasks that are claimed, or whose end is still to be written.
    pub fn tasks(&self) -> Vec<TaskId> {
        let table = self.table.lock();
        table.entries.keys().copied().chain(table.unreported.keys().map(|held| held.task)).collect()
    }

    /// A snapshot of what is claimed.
    pub fn entries(&self) -> Vec<Entry> {
        self.table.lock().entries.values().cloned().collect()
    }

    /// Does something with each entry.
    pub fn for_each(&self, mut each: impl FnMut(&mut Entry)) {
        self.table.lock().entries.values_mut().for_each(&mut each);
    }

    /// Counts entries.
    pub fn count(&self, which: impl Fn(&Entry) -> bool) -> usize {
        self.table.lock().entries.values().filter(|entry| which(entry)).count()
    }

    /// How many handler tasks are claimed and their ends not yet written.
    pub fn unwritten(&self) -> usize {
        let table = self.table.lock();
        table.entries.values().filter(|entry| !entry.takes_slot).count() + table.unreported.len()
    }

    /// Whether nothing is claimed, in flight or unreported.
    pub fn is_idle(&self) -> bool {
        let table = self.table.lock();
        table.entries.is_empty() && table.in_flight.is_empty() && table.unreported.is_empty()
    }

    /// Whether a task that must run alone is here. Also until its end is written: were the engine lost
    /// before that, a neighbour would be charged with it.
    pub fn has_alone(&self) -> bool {
        let table = self.table.lock();
        table.entries.values().any(|entry| entry.is_alone) || table.unreported.values().any(|is_alone| *is_alone)
    }

    /// How many ends wait to be written.
    pub fn unreported_count(&self) -> usize {
        self.table.lock().unreported.len()
    }

    /// Whether every report is written.
    pub fn is_reported(&self) -> bool {
        let table = self.table.lock();
        table.entries.is_empty() && table.unreported.is_empty()
    }

    /// What this engine knows now, before the database is asked what it owns; from here on it is remembered what
    /// enters, until [`Running::unknown`].
    pub fn known(&self) -> Known {
        let mut table = self.table.lock();
        table.entered = Some(BTreeSet::new());
        let held = table.entries.values().map(|entry| entry.task.held).chain(table.unreported.keys().copied());
        Known { held: held.collect(), nonces: table.in_flight.clone() }
    }

    /// What of the answer was never in this engine's hands. What ended since is only in `before`, what was claimed
    /// since only in the table, and what was claimed *and* ended since only in what entered: its attempt began, so
    /// it must not be handed back as one that never did.
    pub fn unknown(&self, before: &Known, owned: &[Held]) -> Vec<Held> {
        let mut table = self.table.lock();
        let entered = table.entered.take().unwrap_or_default();
        let is_here = |held: &Held| {
            table.in_flight.contains(&held.nonce)
                || table.unreported.contains_key(held)
                || table.entries.get(&held.task).is_some_and(|entry| entry.task.held == *held)
        };
        owned.iter().filter(|held| !before.has(held) && !entered.contains(held) && !is_here(held)).copied().collect()
    }

    fn holds_nothing(&self) -> bool {
        let table = self.table.lock();
        table.entries.is_empty() && table.in_flight.is_empty()
    }

    /// Waits until nothing is claimed and no claim is under way, at most `span`. True if nothing is.
    pub fn wait_empty(&self, span: std::time::Duration) -> bool {
        if let Some(is_empty) = turns::wait_until(span, || self.holds_nothing()) {
            return is_empty;
        }
        let mut table = self.table.lock();
        let holds = |table: &Table| !table.entries.is_empty() || !table.in_flight.is_empty();
        if holds(&table) {
            self.changed.wait_while_for(&mut table, |table| holds(table), span);
        }
        !holds(&table)
    }
}
