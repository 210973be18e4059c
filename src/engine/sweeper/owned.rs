//! What the database says this engine owns, against what it knows itself.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::Sweeper;
use crate::planted::{Bug, planted};
use crate::protocol::ids::Incarnation;
use crate::protocol::takeover::Next;
use crate::protocol::task::{AttemptResult, Reason};
use crate::store::{Finish, Finisher, Held, StoreResult};

impl Sweeper {
    /// Compares what the database says this engine owns with what it knows: hands back what it does not
    /// know, and kills what is not its own any more.
    pub(super) fn reconcile(&mut self) -> StoreResult<()> {
        let Some(incarnation) = self.shared.live() else { return Ok(()) };
        self.shared.reconcile.store(false, Ordering::Release);
        let raised = self.shared.life().meta.map(|meta| meta.raised_epoch);
        let is_raised = raised.is_some_and(|raised| raised > *self.shared.verified.lock());
        if is_raised && !planted(Bug::ClaimUnverified) {
            self.shared.running.forget_in_flight();
        }
        let before = self.shared.running.known();
        let owned = self.call("read what is owned", move |store| store.owned(incarnation));
        let unknown = self.shared.running.unknown(&before, owned.as_deref().unwrap_or_default());
        let owned = owned?;
        self.drop_foreign(&before.held, &owned.iter().copied().collect());
        if let Some(raised) = raised {
            let mut verified = self.shared.verified.lock();
            *verified = raised.max(*verified);
        }
        // Last: what this engine does not hold cannot run here, so the lease need not wait for it.
        if !unknown.is_empty() {
            log::warn!("handing back {} claims that this engine does not know (their answer was lost)", unknown.len());
            self.hand_back(incarnation, &unknown)?;
        }
        self.free_strays(incarnation)
    }

    /// Resources of tasks that somebody deleted: only this engine knows when nothing of such a task runs any more.
    fn free_strays(&mut self, incarnation: Incarnation) -> StoreResult<()> {
        let keep = self.shared.running.tasks();
        let freed = self.call("free stray resources", move |store| store.free_strays(incarnation, &keep))?;
        if freed > 0 {
            log::warn!("freed {freed} resources of tasks that are gone: somebody deleted the rows of running tasks");
            self.shared.wake_dispatcher();
        }
        Ok(())
    }

    fn hand_back(&mut self, incarnation: Incarnation, held: &[Held]) -> StoreResult<()> {
        let who = Finisher { incarnation, name: self.shared.options.name.clone() };
        let ends: Vec<Finish> = held.iter().map(|held| unstarted(*held)).collect();
        self.call("hand back", move |store| store.finish(&who, &ends))?;
        self.shared.wake_dispatcher();
        Ok(())
    }

    /// What was held before the read and is not in it has a raised token (requeued, or lost by a
    /// failover): its result would be refused, so it is stopped, or does not begin.
    fn drop_foreign(&self, before: &BTreeSet<Held>, owned: &BTreeSet<Held>) {
        let is_foreign = |held: &Held| before.contains(held) && !owned.contains(held);
        let dropped = self.shared.running.drop_unstarted(is_foreign);
        if dropped > 0 {
            log::warn!("{dropped} claimed tasks are not this engine's any more: they do not begin");
        }
        let now = self.shared.clock.lease_now();
        let kill_at = now.after(self.shared.options.timing.kill_budget() / 4);
        self.shared.running.for_each(|entry| {
            let held = &entry.task.held;
            if is_foreign(held) {
                log::warn!("task {} is not this engine's any more: stopping it", held.task);
                if let Some(control) = &entry.control {
                    control.stop(crate::handlers::StopKind::LeaseLost, now, kill_at);
                }
            }
        });
    }
}

fn unstarted(held: Held) -> Finish {
    Finish {
        held,
        // The longer path: nobody here knows whether it names resources.
        keyed: true,
        result: AttemptResult::HandedBack,
        next: Next::Ready(Reason::HandedBack),
        uses_budget: false,
        handed_back: None,
        not_on: None,
        exit_code: None,
        detail: Some("its claim's answer was lost".into()),
        value: None,
        output: Vec::new(),
        output_dropped: 0,
        unstarted: true,
    }
}
