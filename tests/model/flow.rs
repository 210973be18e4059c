//! Claims, finishes, deaths, takeovers and a failover in every order, over the real steps of the memory store.
//!
//! There is no time: what may happen happens at any moment. What time decides is taken from the timed model: a
//! peer fences only engines whose processes are gone, and a raised epoch is settled only when every engine has
//! compared what it holds, or has nothing.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use rekindle::clock::ManualClock;
use rekindle::protocol::engine::Mode as Reported;
use rekindle::protocol::engine::{EngineState, Proof};
use rekindle::protocol::ids::{EngineName, Incarnation, KindName, Nonce, ResourceName, TaskId, Token};
use rekindle::protocol::takeover::Next;
use rekindle::protocol::task::{AttemptResult, Policy, Reason, TaskState};
use rekindle::protocol::timing::{Profile, Timing};
use rekindle::store::memory::State;
use rekindle::store::{
    Beat, Claim, ClaimScope, Fence, Finish, FinishOutcome, FinishState, Finisher, FormerLife, Held, MemoryStore,
    NewTask, RegisterOutcome, Registration, Store, TaskVerb,
};
use stateright::{Checker, Model, Property};

#[derive(Debug, Clone)]
struct Flow {
    engines: usize,
    tasks: usize,
    /// Lapses and crashes, answers that are lost, temporary failures, cancels, failovers.
    budget: [u8; 5],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Phase {
    Runs,
    /// Its end was sent; `true`: it is a temporary failure.
    Sent(bool),
    /// Nobody knows whether that was written.
    Unknown(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Mode {
    Up,
    /// Everything of it is dead; it has to come back as somebody new.
    Down,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Engine {
    life: u8,
    mode: Mode,
    holds: BTreeMap<TaskId, (Held, Phase)>,
    claims: u8,
    /// It compared what it holds after the last failover.
    verified: bool,
}

/// On its way to the database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Call {
    /// With whether it read its engine's row as live, once it did.
    Claim {
        engine: usize,
        life: u8,
        nonce: Nonce,
        opened: bool,
        waits: bool,
    },
    Finish {
        engine: usize,
        held: Held,
        retry: bool,
        waits: bool,
    },
}

#[derive(Clone)]
struct World {
    db: Arc<State>,
    replica: Arc<State>,
    engines: Vec<Engine>,
    calls: Vec<Call>,
    budget: [u8; 5],
    given: Token,
    identity: u8,
    bad: Option<String>,
    took_over: bool,
}

/// What of a database makes two of them differ.
fn key(s: &State) -> Vec<i64> {
    let mut key = vec![s.meta.epoch.as_i64(), s.meta.settled_epoch.as_i64(), i64::from(s.identity == s.meta.identity)];
    for (id, task) in s.tasks.iter().chain(&s.archive) {
        key.extend([id.as_i64(), task.state.code().into(), task.token.as_i64(), task.wish.code().into()]);
        key.extend([task.owner.map_or(-1, Incarnation::as_i64), task.nonce.map_or(-1, Nonce::as_i64)]);
        key.extend([task.attempt, task.lost, task.failures].map(i64::from));
    }
    key.extend(s.resources.values().flat_map(|r| [r.token.as_i64(), r.owner.map_or(-1, |(task, _)| task.as_i64())]));
    key.extend(s.engines.iter().flat_map(|(id, e)| [id.as_i64(), e.state.code().into(), e.closed.into()]));
    key.extend(s.attempts.values().flatten().map(|row| row.nonce.as_i64()));
    key
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        (&self.engines, &self.calls, self.budget, self.given, self.identity, &self.bad)
            == (&other.engines, &other.calls, other.budget, other.given, other.identity, &other.bad)
            && key(&self.db) == key(&other.db)
            && key(&self.replica) == key(&other.replica)
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.engines, &self.calls, self.budget, self.given, self.identity, &self.bad).hash(hasher);
        (key(&self.db), key(&self.replica)).hash(hasher);
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tasks: Vec<_> =
            self.db.tasks.iter().map(|(id, t)| (id, t.state.word(), t.token, t.owner, t.nonce)).collect();
        write!(f, "{tasks:?} {:?} {:?} {:?}", self.engines, self.calls, self.bad)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Act {
    SendClaim(usize),
    SendFinish(usize, TaskId, bool),
    /// The call reads whether its engine is live.
    Opens(usize),
    /// The call is done, and its answer comes.
    Done(usize),
    /// The call is done, its answer is lost.
    DoneUnheard(usize),
    /// The call is lost, if nobody waits for it.
    Lost(usize),
    /// Its caller waits no longer.
    GivesUp(usize),
    ReadsBack(usize, TaskId),
    /// Compares what it owns with what it knows.
    Reconciles(usize),
    Falls(usize),
    /// Fenced by a peer, after its fall.
    Fenced(usize),
    Returns(usize),
    TakesOver(Incarnation),
    FindsOrphans,
    Promotes,
    Cancels(TaskId),
    ReplicaFollows,
    FailsOver,
    Raises,
    Settles,
}

const fn incarnation(engine: usize, life: u8) -> Incarnation {
    Incarnation::new(100 * (engine as i64 + 1) + life as i64)
}

fn name(engine: usize) -> EngineName {
    EngineName::from_stored(format!("e{engine}"))
}

fn kind() -> KindName {
    KindName::from_stored("work".into())
}

fn store(state: &State) -> MemoryStore {
    let store = MemoryStore::new(Arc::new(ManualClock::new()));
    store.restore(state.clone());
    store
}

fn registration(engine: usize, life: u8) -> Registration {
    let former = (life > 0).then(|| incarnation(engine, life - 1));
    Registration {
        incarnation: incarnation(engine, life),
        name: name(engine),
        host: name(engine).to_string(),
        boot_id: String::new(),
        pid: 1,
        state_id: String::new(),
        stand: None,
        version: String::new(),
        protocol: (1, 1),
        release: String::new(),
        kinds: vec![kind()],
        slots: 9,
        means: String::new(),
        timing: Timing::of(Profile::Fast),
        former: former.map(|incarnation| FormerLife { incarnation, proof: Proof::Itself, adopt: Vec::new() }),
        last_beat: None,
        cluster: "model".into(),
    }
}

fn finish(held: Held, result: AttemptResult, next: Next, unstarted: bool) -> Finish {
    Finish {
        held,
        keyed: true,
        result,
        next,
        uses_budget: false,
        handed_back: (result != AttemptResult::HandedBack).then_some(0),
        not_on: None,
        exit_code: None,
        detail: None,
        value: None,
        output: Vec::new(),
        output_dropped: 0,
        unstarted,
    }
}

impl World {
    fn write<T>(&mut self, step: impl FnOnce(&MemoryStore) -> T) -> T {
        let store = store(&self.db);
        let out = step(&store);
        self.db = Arc::new(store.snapshot());
        out
    }

    fn spend(&mut self, which: usize) -> Option<()> {
        self.budget[which] = self.budget[which].checked_sub(1)?;
        Some(())
    }

    fn is_live(&self, id: Incarnation) -> bool {
        self.db.engines.get(&id).is_some_and(|e| e.state == EngineState::Live)
    }

    fn up(&self, e: usize) -> Option<Incarnation> {
        (self.engines[e].mode == Mode::Up).then(|| incarnation(e, self.engines[e].life))
    }

    /// A claim commits; what its transaction read of the engine's row was read earlier.
    fn claim(&mut self, e: usize, life: u8, nonce: Nonce, opened: bool) -> Vec<Held> {
        let id = incarnation(e, life);
        let claim = Claim {
            incarnation: id,
            host: name(e).to_string(),
            kind: kind(),
            policy: Policy { max_lost: 9, ..Policy::default() },
            scope: ClaimScope::Keyed,
            limit: 1,
            nonce,
        };
        let got = self.write(|s| {
            let was = s.edit(|s| {
                let engine = s.engines.get_mut(&id)?;
                let was = engine.state;
                engine.state = if opened { EngineState::Live } else { was };
                Some(was)
            });
            let got = s.claim(&claim).unwrap_or_default();
            s.edit(|s| {
                if let (Some(was), Some(engine)) = (was, s.engines.get_mut(&id)) {
                    engine.state = was;
                }
            });
            got
        });
        for claimed in &got {
            if claimed.held.token <= self.given {
                self.bad = Some(format!("I4: token {} was given out again", claimed.held.token));
            }
            self.given = claimed.held.token;
        }
        got.into_iter().map(|claimed| claimed.held).collect()
    }

    fn end(&mut self, e: usize, held: Held, retry: bool) {
        let stands = self
            .db
            .tasks
            .get(&held.task)
            .is_some_and(|t| t.state == TaskState::Running && t.token == held.token && t.nonce == Some(held.nonce));
        let end = match retry {
            true => finish(held, AttemptResult::Tempfail, Next::Ready(Reason::Retry), false),
            false => finish(held, AttemptResult::Done, Next::Done, false),
        };
        let who = Finisher { incarnation: incarnation(e, self.engines[e].life), name: name(e) };
        // A database whose identity is not known yet refuses what raises a token; it is sent again.
        let outcome = self.write(|s| s.finish(&who, &[end])).map_or(FinishOutcome::Refused, |all| all[0]);
        if outcome == FinishOutcome::Written && !stands {
            self.bad = Some(format!("I1: a result was accepted from token {}", held.token));
        }
    }

    /// I2 on the database, and I5: one process for the resource.
    fn judge(&mut self) {
        let running: Vec<_> = self.db.tasks.values().filter(|t| t.state == TaskState::Running).collect();
        let owners = self.db.resources.values().filter(|r| r.owner.is_some()).count();
        if running.len() > 1 || owners != running.len() {
            self.bad = Some(format!("I2: {} tasks run, {owners} resources are owned", running.len()));
        }
        let processes = self.engines.iter().flat_map(|e| e.holds.values()).filter(|(_, p)| *p == Phase::Runs).count();
        if processes > 1 {
            self.bad = Some("I5: two processes for one resource".into());
        }
    }

    fn waits(call: &Call) -> bool {
        matches!(call, Call::Claim { waits: true, .. } | Call::Finish { waits: true, .. })
    }

    fn drop_waiting(&mut self, e: usize) {
        for call in &mut self.calls {
            match call {
                Call::Claim { engine, waits, .. } | Call::Finish { engine, waits, .. } if *engine == e => {
                    *waits = false
                }
                _ => {}
            }
        }
    }

    fn arrive(&mut self, c: usize, is_heard: bool) -> Option<()> {
        let call = self.calls.remove(c);
        match call {
            Call::Claim { engine, life, nonce, opened, waits } => {
                if !opened {
                    return None;
                }
                let got = self.claim(engine, life, nonce, opened);
                if waits && is_heard {
                    let holds = got.into_iter().map(|held| (held.task, (held, Phase::Runs)));
                    self.engines[engine].holds.extend(holds);
                }
            }
            Call::Finish { engine, held, retry, waits } => {
                self.end(engine, held, retry);
                if waits && is_heard {
                    self.engines[engine].holds.remove(&held.task);
                } else if waits {
                    self.engines[engine].holds.insert(held.task, (held, Phase::Unknown(retry)));
                }
            }
        }
        Some(())
    }

    fn reconcile(&mut self, e: usize) -> Option<()> {
        let id = self.up(e).filter(|id| self.is_live(*id))?;
        let owned = store(&self.db).owned(id).ok()?;
        let in_flight = |held: &Held| {
            let same = |call: &Call| matches!(call, Call::Claim { nonce, waits: true, .. } if *nonce == held.nonce);
            self.calls.iter().any(same)
        };
        let holds = self.engines[e].holds.clone();
        let unknown: Vec<Held> = owned
            .iter()
            .filter(|held| holds.get(&held.task).is_none_or(|(mine, _)| mine != *held) && !in_flight(held))
            .copied()
            .collect();
        let who = Finisher { incarnation: id, name: name(e) };
        for held in unknown {
            let end = finish(held, AttemptResult::HandedBack, Next::Ready(Reason::HandedBack), true);
            let _ = self.write(|s| s.finish(&who, &[end]));
        }
        self.engines[e].holds.retain(|_, (held, phase)| *phase != Phase::Runs || owned.contains(held));
        self.engines[e].verified = true;
        Some(())
    }

    fn fail_over(&mut self) -> Option<()> {
        self.spend(4)?;
        self.identity += 1;
        let identity = format!("memory-{}", self.identity);
        let restored = store(&self.replica);
        restored.set_identity(&identity);
        self.db = Arc::new(restored.snapshot());
        self.replica = Arc::clone(&self.db);
        let lost = std::mem::take(&mut self.calls);
        for call in &lost {
            if let Call::Finish { engine, held, retry, waits: true } = call {
                self.engines[*engine].holds.insert(held.task, (*held, Phase::Unknown(*retry)));
            }
        }
        self.engines.iter_mut().for_each(|e| e.verified = false);
        Some(())
    }

    /// One event. `None`: it cannot happen now.
    #[expect(clippy::too_many_lines, reason = "one arm for each event")]
    fn act(&mut self, act: &Act) -> Option<()> {
        match act {
            Act::SendClaim(e) => {
                self.up(*e)?;
                let engine = &mut self.engines[*e];
                let is_free = engine.holds.is_empty();
                let asks =
                    self.calls.iter().any(|c| matches!(c, Call::Claim { engine, waits: true, .. } if engine == e));
                let is_ready = self.db.tasks.values().any(|task| task.state == TaskState::Ready);
                (is_free && is_ready && !asks && engine.claims < 6).then_some(())?;
                engine.claims += 1;
                let nonce =
                    Nonce::new(1_000 * (*e as i64 + 1) + i64::from(engine.life) * 100 + i64::from(engine.claims));
                let life = engine.life;
                self.calls.push(Call::Claim { engine: *e, life, nonce, opened: false, waits: true });
            }
            Act::SendFinish(e, task, retry) => {
                self.up(*e)?;
                let (held, phase) = *self.engines[*e].holds.get(task)?;
                (phase == Phase::Runs).then_some(())?;
                if *retry {
                    self.spend(2)?;
                }
                self.engines[*e].holds.insert(*task, (held, Phase::Sent(*retry)));
                self.calls.push(Call::Finish { engine: *e, held, retry: *retry, waits: true });
            }
            Act::Opens(c) => {
                let Call::Claim { engine, life, opened: false, .. } = self.calls[*c] else { return None };
                let is_live = self.is_live(incarnation(engine, life));
                let meta = &self.db.meta;
                let is_settled = self.db.identity == meta.identity && meta.settled_epoch >= meta.raised_epoch;
                if is_live && is_settled {
                    if let Call::Claim { opened, .. } = &mut self.calls[*c] {
                        *opened = true;
                    }
                } else {
                    // It finds that it may not, and its engine learns that it got nothing.
                    self.calls.remove(*c);
                    let engine = &mut self.engines[engine];
                    engine.claims -= u8::from(engine.life == life);
                }
            }
            Act::Done(c) => self.arrive(*c, true)?,
            Act::DoneUnheard(c) => {
                Self::waits(&self.calls[*c]).then_some(())?;
                self.spend(1)?;
                self.arrive(*c, false)?;
            }
            Act::Lost(c) => {
                (!Self::waits(&self.calls[*c])).then_some(())?;
                self.calls.remove(*c);
            }
            Act::GivesUp(c) => {
                Self::waits(&self.calls[*c]).then_some(())?;
                self.spend(1)?;
                match &mut self.calls[*c] {
                    Call::Claim { waits, .. } => *waits = false,
                    Call::Finish { engine, held, retry, waits } => {
                        *waits = false;
                        let (engine, held, retry) = (*engine, *held, *retry);
                        self.engines[engine].holds.insert(held.task, (held, Phase::Unknown(retry)));
                    }
                }
            }
            Act::ReadsBack(e, task) => {
                self.up(*e)?;
                let (held, Phase::Unknown(retry)) = *self.engines[*e].holds.get(task)? else { return None };
                match store(&self.db).read_finish(&held).ok()? {
                    FinishState::Open => {
                        self.engines[*e].holds.insert(*task, (held, Phase::Sent(retry)));
                        self.calls.push(Call::Finish { engine: *e, held, retry, waits: true });
                    }
                    FinishState::Written | FinishState::Refused => drop(self.engines[*e].holds.remove(task)),
                }
            }
            Act::Reconciles(e) => self.reconcile(*e)?,
            Act::Falls(e) => {
                let id = self.up(*e)?;
                // Fenced or forgotten by the database: that costs no budget, its next beat tells it.
                if self.is_live(id) {
                    self.spend(0)?;
                }
                self.drop_waiting(*e);
                let engine = &mut self.engines[*e];
                (engine.mode, engine.holds, engine.verified) = (Mode::Down, BTreeMap::new(), true);
            }
            Act::Fenced(e) => {
                // Of a former life nothing runs either, and a failover may have forgotten its end.
                let (now, is_down) = (self.engines[*e].life, self.engines[*e].mode == Mode::Down);
                let gone = (0..=now).filter(|life| *life < now || is_down).map(|life| incarnation(*e, life));
                let id = gone.into_iter().find(|id| self.is_live(*id))?;
                let fence = Fence { incarnation: id, beat: None, proof: Proof::Guard, by: "guard".into(), place: None };
                self.write(|s| s.fence(&fence)).ok()?;
            }
            Act::Returns(e) => {
                (self.engines[*e].mode == Mode::Down && self.engines[*e].life < 4).then_some(())?;
                let life = self.engines[*e].life + 1;
                let came = self.write(|s| s.register(&registration(*e, life))).ok()?;
                if !matches!(came, RegisterOutcome::Registered { .. }) {
                    return None;
                }
                let id = incarnation(*e, life);
                self.write(|s| s.beat(&Beat { incarnation: id, mode: Reported::Active, running: 0 })).ok()?;
                let engine = &mut self.engines[*e];
                (engine.life, engine.mode, engine.claims) = (life, Mode::Up, 0);
            }
            Act::TakesOver(owner) => {
                let before = self.db.tasks.values().filter(|t| t.owner == Some(*owner)).count();
                let report = self.write(|s| s.take_over(*owner, "peer", 9)).ok()?;
                self.took_over |= report.ready > 0;
                self.write(|s| s.close(*owner)).ok()?;
                let stays = self.db.tasks.values().filter(|t| t.owner == Some(*owner)).count();
                if before > 0 && stays == before {
                    return None;
                }
            }
            Act::FindsOrphans => {
                let found = self.write(|s| s.find_orphans(Duration::ZERO)).ok()??;
                for owner in found {
                    self.write(|s| s.take_over(owner, "peer", 9)).ok()?;
                }
            }
            Act::Promotes => {
                (self.write(|s| s.promote_due(9)).ok()? > 0).then_some(())?;
            }
            Act::Cancels(task) => {
                self.spend(3)?;
                self.write(|s| s.task_verb(*task, TaskVerb::Cancel)).ok()?;
            }
            Act::ReplicaFollows => {
                (self.budget[4] > 0).then_some(())?;
                self.replica = Arc::clone(&self.db);
            }
            Act::FailsOver => self.fail_over()?,
            Act::Raises => {
                (self.db.identity != self.db.meta.identity).then_some(())?;
                let epoch = self.db.meta.epoch;
                let next = rekindle::protocol::ids::Epoch::new(epoch.as_i64() + 1);
                self.write(|s| s.raise_epoch(epoch, next, "model")).ok()?;
            }
            Act::Settles => {
                (self.db.meta.settled_epoch < self.db.meta.raised_epoch).then_some(())?;
                self.engines.iter().all(|e| e.verified).then_some(())?;
                let epoch = self.db.meta.epoch;
                self.write(|s| s.settle_epoch(epoch)).ok()?;
            }
        }
        self.judge();
        Some(())
    }
}

impl Model for Flow {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        let first = store(&State::default());
        let resource = ResourceName::from_stored("r".into());
        let task = NewTask { kind: kind(), payload: Vec::new(), resources: vec![resource], priority: 0, delay: None };
        first.add(&vec![task; self.tasks], "model").unwrap();
        for e in 0..self.engines {
            first.register(&registration(e, 0)).unwrap();
        }
        let db = Arc::new(first.snapshot());
        let engine = Engine { life: 0, mode: Mode::Up, holds: BTreeMap::new(), claims: 0, verified: true };
        vec![World {
            replica: Arc::clone(&db),
            db,
            engines: vec![engine; self.engines],
            calls: Vec::new(),
            budget: self.budget,
            given: Token::ZERO,
            identity: 0,
            bad: None,
            took_over: false,
        }]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Act>) {
        if state.bad.is_some() {
            return;
        }
        for e in 0..self.engines {
            actions.extend([Act::SendClaim(e), Act::Reconciles(e), Act::Falls(e), Act::Fenced(e), Act::Returns(e)]);
            for task in state.engines[e].holds.keys() {
                actions.extend([Act::SendFinish(e, *task, false), Act::SendFinish(e, *task, true)]);
                actions.push(Act::ReadsBack(e, *task));
            }
        }
        for c in 0..state.calls.len() {
            actions.extend([Act::Opens(c), Act::Done(c), Act::DoneUnheard(c), Act::Lost(c), Act::GivesUp(c)]);
        }
        let ended = state.db.engines.iter().filter(|(_, e)| e.state != EngineState::Live && !e.closed);
        actions.extend(ended.map(|(id, _)| Act::TakesOver(*id)));
        actions.extend([Act::FindsOrphans, Act::Promotes, Act::ReplicaFollows, Act::FailsOver]);
        actions.extend([Act::Raises, Act::Settles]);
        if state.budget[3] > 0 {
            actions.extend(state.db.tasks.keys().map(|id| Act::Cancels(*id)));
        }
    }

    fn next_state(&self, last: &World, act: Act) -> Option<World> {
        let mut next = last.clone();
        next.act(&act)?;
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("I1, I2, I4 and I5", |_, s: &World| s.bad.is_none()),
            Property::sometimes("a takeover happens", |model: &Self, s: &World| s.took_over || model.budget[0] == 0),
            Property::sometimes("every task ends", |_, s: &World| s.db.tasks.is_empty()),
            Property::eventually("every task ends where no fault is left", |_, s: &World| s.db.tasks.is_empty()),
        ]
    }
}

fn explore(what: &str, model: Flow) {
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!("{what}: {} states", checker.unique_state_count());
    checker.assert_properties();
}

/// A model with these bounds; the larger ones for `scripts/soak --model`.
fn flow(engines: usize, tasks: usize, budget: [u8; 5]) -> Flow {
    Flow { engines, tasks, budget }
}

#[test]
fn one_resource_one_owner_whatever_is_lost() {
    if super::is_large() {
        explore("two tasks, lost answers, a death, a retry", flow(2, 2, [1, 1, 1, 0, 0]));
        explore("two tasks, a cancel", flow(2, 2, [1, 1, 0, 1, 0]));
    } else {
        explore("lost answers, one death", flow(2, 1, [1, 1, 0, 0, 0]));
        explore("two tasks and a cancel", flow(2, 2, [0, 1, 0, 1, 0]));
    }
}

#[test]
fn tokens_grow_across_a_failover_and_nothing_runs_twice() {
    if super::is_large() {
        explore("a failover, lost answers, a death", flow(2, 1, [1, 1, 0, 0, 1]));
        explore("a failover of three engines", flow(3, 1, [1, 0, 0, 0, 1]));
    } else {
        explore("a failover and a death", flow(2, 1, [1, 0, 0, 0, 1]));
        explore("a failover and lost answers", flow(2, 1, [0, 1, 0, 0, 1]));
    }
}
