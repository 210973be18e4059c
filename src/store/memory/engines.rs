//! The life of an engine in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::state::{CLUSTER_ID, EngineEntry, State, WishEntry};
use crate::planted::{Bug, planted};
use crate::protocol::engine::{EngineState, Mode, Proof, Wanted};
use crate::protocol::ids::{EngineName, Incarnation};
use crate::protocol::last_beat::{KnownLife, LastBeat, LifeRow};
use crate::protocol::liveness::{PeerBeat, SweepKind};
use crate::protocol::task::{TaskState, Wish};
use crate::protocol::time::Timestamp;
use crate::store::api::StoreResult;
use crate::store::error::{Cause, StoreError};
use crate::store::types::*;

impl State {
    pub(super) fn register(&mut self, r: &Registration, now: Timestamp) -> StoreResult<RegisterOutcome> {
        if self.engines.contains_key(&r.incarnation) {
            let source = Cause("this incarnation was registered before".into());
            return Err(StoreError::Broken { step: "register", source });
        }
        let cluster = self.meta.cluster.get_or_insert_with(|| r.cluster.clone());
        if *cluster != r.cluster {
            let text = format!("this database belongs to the cluster {cluster:?}, not to {:?}", r.cluster);
            return Err(StoreError::Refused(text));
        }
        if let Some(former) = &r.former {
            self.fence(&former.fence(&r.name), now);
            if former.is_over() {
                self.acknowledge_fence(former.incarnation);
            }
        }
        if let Some(namesake) = self.live_namesake(&r.name, now) {
            return Ok(RegisterOutcome::NameTaken(namesake));
        }
        self.engines.insert(r.incarnation, EngineEntry::new(r, now));
        let is_lost = r.last_beat.as_ref().is_some_and(|last| self.is_lost(last)) && !planted(Bug::LossUnseen);
        let mut adopted = Vec::new();
        if let Some(former) = &r.former {
            for held in &former.adopt {
                if self.adopt(former.incarnation, r.incarnation, held) {
                    adopted.push(*held);
                }
            }
            if self.is_recorded() && !is_lost && former.is_over() {
                self.take_over(former.incarnation, usize::MAX, now)?;
            }
        }
        Ok(RegisterOutcome::Registered { adopted, meta: self.meta(now), is_lost })
    }

    pub(super) fn is_lost(&self, last: &LastBeat) -> bool {
        let row = self.engines.get(&last.incarnation).map_or(LifeRow::Missing, |e| LifeRow::Beat(e.beat));
        last.is_lost(&KnownLife {
            cluster_id: CLUSTER_ID.into(),
            raised_epoch: self.meta.raised_epoch,
            forgotten_at: self.meta.lives_forgotten_at,
            row,
        })
    }

    fn live_namesake(&self, name: &EngineName, now: Timestamp) -> Option<Namesake> {
        let live = self.engines.values().find(|e| e.state == EngineState::Live && e.said.name == *name)?;
        Some(Namesake {
            incarnation: live.said.incarnation,
            host: live.said.host.clone(),
            boot_id: live.said.boot_id.clone(),
            pid: live.said.pid,
            state_id: live.said.state_id.clone(),
            stand: live.said.stand,
            last_beat_age: now.since(live.last_beat_at),
            beat: live.beat,
            takeover_after: live.said.timing.takeover_after(),
        })
    }

    fn adopt(&mut self, from: Incarnation, to: Incarnation, held: &Held) -> bool {
        let task = self.tasks.get_mut(&held.task);
        let Some(task) = task.filter(|task| task.held(held.task) == Some(*held) && task.owner == Some(from)) else {
            return false;
        };
        task.owner = Some(to);
        for name in &task.resources {
            if let Some(resource) = self.resources.get_mut(name).filter(|r| r.owner == Some((held.task, from))) {
                resource.owner = Some((held.task, to));
            }
        }
        true
    }

    pub(super) fn beat(&mut self, b: &Beat, now: Timestamp) -> BeatOutcome {
        let id = if planted(Bug::BeatByName) { self.namesake_of(b.incarnation) } else { b.incarnation };
        let engine = self.engines.get_mut(&id).filter(|e| e.state == EngineState::Live);
        let Some(engine) = engine else { return BeatOutcome::Gone };
        engine.beat += 1;
        (engine.last_beat_at, engine.mode, engine.running) = (now, b.mode, b.running);
        let beat = engine.beat;
        let wish = self.wishes.get(&engine.said.name).filter(|wish| wish.is_on(now));
        let (wanted, wanted_deadline) = wish.map_or((Wanted::Run, None), |wish| (wish.wanted, wish.deadline));
        let mine = self.tasks.iter().filter(|(_, task)| task.owner == Some(b.incarnation) && task.wish != Wish::None);
        let wishes = mine.map(|(id, task)| (*id, task.token, task.wish)).collect();
        BeatOutcome::Accepted(BeatAnswer { beat, wanted, wanted_deadline, wishes, meta: self.meta(now) })
    }

    /// Who has the name of this incarnation now.
    fn namesake_of(&self, id: Incarnation) -> Incarnation {
        let name = self.engines.get(&id).map(|e| &e.said.name);
        let mut live = self.engines.values().filter(|e| e.state == EngineState::Live);
        live.find(|e| Some(&e.said.name) == name).map_or(id, |e| e.said.incarnation)
    }

    pub(super) fn sweep(&self, kind: SweepKind, now: Timestamp) -> SweepView {
        let live = || self.engines.values().filter(|e| e.state == EngineState::Live);
        let peer = |e: &EngineEntry| {
            let recent = e.said.timing.recent();
            let is_recent = now.since(e.last_beat_at) <= recent && e.last_beat_at.since(now) <= recent;
            PeerBeat { incarnation: e.said.incarnation, beat: e.beat, timing: e.said.timing, is_recent }
        };
        let waiting = self.tasks.values().filter(|task| task.state == TaskState::Waiting);
        let ended = self.engines.values().filter(|e| e.state != EngineState::Live && !e.closed);
        SweepView {
            meta: self.meta(now),
            live_count: live().count(),
            peers: live().map(peer).filter(|peer| kind == SweepKind::Full || !peer.is_recent).collect(),
            ended: ended.map(EngineEntry::ended_peer).collect(),
            unreadable: Vec::new(),
            next_due: waiting.filter_map(|task| task.due_at).min(),
            orphan_scan_at: self.meta.orphan_scan_at,
            takeover_max: live().map(|e| e.said.timing.takeover_after()).max().unwrap_or_default(),
        }
    }

    pub(super) fn fence(&mut self, fence: &Fence, now: Timestamp) -> bool {
        let engine = self.engines.get_mut(&fence.incarnation).filter(|e| e.state == EngineState::Live);
        let Some(engine) = engine.filter(|e| fence.beat.is_none_or(|beat| beat == e.beat || planted(Bug::FenceBlind)))
        else {
            return false;
        };
        let is_there =
            |place: &LifePlace| place.boot_id == engine.said.boot_id && place.state_ids.contains(&engine.said.state_id);
        if !fence.place.as_ref().is_none_or(is_there) {
            return false;
        }
        engine.state = EngineState::Fenced;
        (engine.proof, engine.ended_by, engine.ended_at) = (Some(fence.proof), Some(fence.by.clone()), Some(now));
        true
    }

    fn acknowledge_fence(&mut self, incarnation: Incarnation) {
        let fenced = self.engines.get_mut(&incarnation).filter(|e| e.state == EngineState::Fenced);
        if let Some(engine) = fenced {
            engine.acknowledged = true;
        }
    }

    pub(super) fn stop(&mut self, incarnation: Incarnation, now: Timestamp) -> bool {
        let live = self.engines.get_mut(&incarnation).filter(|e| e.state == EngineState::Live);
        let Some(engine) = live else {
            self.acknowledge_fence(incarnation);
            return false;
        };
        (engine.state, engine.mode, engine.running) = (EngineState::Stopped, Mode::Drained, 0);
        (engine.acknowledged, engine.ended_at) = (true, Some(now));
        engine.ended_by = Some(engine.said.name.to_string());
        let name = engine.said.name.clone();
        // A wish to stop is fulfilled now: the next start of this name runs.
        self.wishes.retain(|of, wish| *of != name || wish.wanted != Wanted::Stop);
        true
    }

    pub(super) fn close(&mut self, incarnation: Incarnation, now: Timestamp) -> bool {
        if self.owners().contains(&incarnation) && !planted(Bug::ClosedAfterSkip) {
            return false;
        }
        match self.engines.get_mut(&incarnation) {
            Some(engine) if engine.state == EngineState::Live => false,
            Some(engine) => {
                engine.closed = true;
                let counts = std::mem::take(&mut engine.uncounted);
                self.add_hours(&counts, now);
                true
            }
            None => true,
        }
    }

    pub(super) fn owners(&self) -> BTreeSet<Incarnation> {
        let of_tasks = self.tasks.values().filter_map(|task| task.owner);
        of_tasks.chain(self.resources.values().filter_map(|r| r.owner).map(|(_, owner)| owner)).collect()
    }

    pub(super) fn find_orphans(&mut self, every: Duration, now: Timestamp) -> Option<Vec<Incarnation>> {
        let last = self.meta.orphan_scan_at;
        if now.since(last) < every && last.since(now) <= every {
            return None;
        }
        self.meta.orphan_scan_at = now;
        let is_listed = |owner: &Incarnation| self.engines.get(owner).is_some_and(|e| !e.closed);
        Some(self.owners().into_iter().filter(|owner| !is_listed(owner)).collect())
    }

    pub(super) fn set_wanted(&mut self, wish: &Wish4Engine, now: Timestamp) -> Option<Wanted> {
        self.engines.values().find(|e| e.said.name == wish.name)?;
        let had = self.wishes.get(&wish.name).filter(|had| had.is_on(now)).map_or(Wanted::Run, |had| had.wanted);
        let entry = WishEntry {
            wanted: wish.wanted,
            reason: wish.reason.clone(),
            by: wish.by.clone(),
            at: now,
            until: wish.lasts.map(|span| now.after(span)),
            deadline: wish.deadline.map(|span| now.after(span)),
        };
        self.wishes.insert(wish.name.clone(), entry);
        Some(had)
    }
}

impl WishEntry {
    /// A wish that has run out counts as `run`.
    pub(super) fn is_on(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

impl EngineEntry {
    fn new(said: &Registration, now: Timestamp) -> Self {
        Self {
            said: said.clone(),
            state: EngineState::Live,
            mode: Mode::Starting,
            beat: 0,
            last_beat_at: now,
            running: 0,
            refused: 0,
            acknowledged: false,
            closed: false,
            registered_at: now,
            ended_at: None,
            proof: None,
            ended_by: None,
            taken_over: 0,
            uncounted: BTreeMap::new(),
        }
    }

    fn ended_peer(&self) -> EndedPeer {
        EndedPeer {
            incarnation: self.said.incarnation,
            name: self.said.name.clone(),
            state: self.state,
            proof: self.proof.unwrap_or(Proof::Expiry),
            dead_after: self.said.timing.dead_after(),
            acknowledged: self.acknowledged,
        }
    }
}
