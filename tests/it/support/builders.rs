//! Engines, tasks, claims and ends with defaults: a test writes only what it is about.

use std::time::Duration;

use rekindle::protocol::engine::{Mode, Proof, Wanted};
use rekindle::protocol::ids::{EngineName, Incarnation, KindName, Nonce, ResourceName, TaskId};
use rekindle::protocol::stand::{KeptBy, Stand};
use rekindle::protocol::takeover::Next;
use rekindle::protocol::task::{AttemptResult, Policy, Reason, TaskState};
use rekindle::protocol::timing::{Profile, Timing};
use rekindle::store::*;

/// The kind of most tests.
pub const KIND: &str = "mail";

pub fn kind(name: &str) -> KindName {
    KindName::new(name).unwrap()
}

pub fn resource(name: &str) -> ResourceName {
    ResourceName::new(name).unwrap()
}

pub fn nonce() -> Nonce {
    Nonce::new(fastrand::i64(..))
}

pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// An engine about to register.
pub struct EngineBuilder(pub Registration);

pub fn engine(name: &str) -> EngineBuilder {
    EngineBuilder(Registration {
        incarnation: Incarnation::new(fastrand::i64(..)),
        name: EngineName::new(name).unwrap(),
        host: format!("host-of-{name}"),
        boot_id: "boot-1".into(),
        pid: 4_711,
        state_id: format!("state-of-{name}"),
        stand: Some(Stand {
            lock_device: u64::MAX,
            lock_inode: 7,
            pid_namespace: 4_026_531_836,
            start_ticks: 99,
            kept_by: KeptBy::Group,
        }),
        version: "0.1.0".into(),
        protocol: (1, 1),
        release: "/usr/lib/rekindle".into(),
        kinds: vec![kind(KIND)],
        slots: 4,
        means: "cgroup".into(),
        timing: Timing::of(Profile::Balanced),
        former: None,
        last_beat: None,
        cluster: "rekindle".into(),
    })
}

impl EngineBuilder {
    pub fn host(mut self, host: &str) -> Self {
        self.0.host = host.into();
        self
    }

    pub fn kinds(mut self, names: &[&str]) -> Self {
        self.0.kinds = names.iter().map(|name| KindName::from_stored((*name).into())).collect();
        self
    }

    pub fn timing(mut self, timing: Timing) -> Self {
        self.0.timing = timing;
        self
    }

    pub fn after(mut self, former: &Engine, proof: Proof, adopt: &[Held]) -> Self {
        self.0.former = Some(FormerLife { incarnation: former.incarnation, proof, adopt: adopt.to_vec() });
        self
    }

    pub fn register(&self, store: &dyn Store) -> RegisterOutcome {
        store.register(&self.0).unwrap()
    }

    /// Registers, which must succeed.
    pub fn on(self, rig: &super::databases::Rig) -> Engine {
        let outcome = self.register(&*rig.store);
        assert!(matches!(outcome, RegisterOutcome::Registered { .. }), "{outcome:?}");
        Engine { incarnation: self.0.incarnation, name: self.0.name, host: self.0.host }
    }
}

/// A registered engine.
#[derive(Clone)]
pub struct Engine {
    pub incarnation: Incarnation,
    pub name: EngineName,
    pub host: String,
}

impl Engine {
    pub fn beat(&self, store: &dyn Store) -> BeatOutcome {
        let beat = Beat { incarnation: self.incarnation, mode: Mode::Active, running: 1 };
        store.beat(&beat).unwrap()
    }

    /// A beat that must be accepted.
    pub fn accepted(&self, store: &dyn Store) -> BeatAnswer {
        match self.beat(store) {
            BeatOutcome::Accepted(answer) => answer,
            BeatOutcome::Gone => panic!("{} is gone", self.name),
        }
    }

    pub fn is_gone(&self, store: &dyn Store) -> bool {
        self.beat(store) == BeatOutcome::Gone
    }

    /// Ends it with a proof that counts as a loss.
    pub fn dies(&self, store: &dyn Store) {
        assert_eq!(self.fence(store, None, Proof::Guard), FenceOutcome::Won);
    }

    pub fn fence(&self, store: &dyn Store, beat: Option<i64>, proof: Proof) -> FenceOutcome {
        store.fence(&Fence { incarnation: self.incarnation, beat, proof, by: "a test".into(), place: None }).unwrap()
    }

    pub fn takeover(&self, store: &dyn Store) -> TakeoverReport {
        store.take_over(self.incarnation, "a test", 100).unwrap()
    }

    pub fn claim(&self) -> ClaimBuilder {
        ClaimBuilder(Claim {
            incarnation: self.incarnation,
            host: self.host.clone(),
            kind: kind(KIND),
            policy: Policy::default(),
            scope: ClaimScope::Plain,
            limit: 10,
            nonce: nonce(),
        })
    }

    pub fn finisher(&self) -> Finisher {
        Finisher { incarnation: self.incarnation, name: self.name.clone() }
    }

    pub fn finish(&self, store: &dyn Store, ends: &[Finish]) -> Vec<FinishOutcome> {
        until_free(|| store.finish(&self.finisher(), ends))
    }

    /// One end that must be written.
    pub fn ends(&self, store: &dyn Store, end: Finish) {
        assert_eq!(self.finish(store, &[end]), [FinishOutcome::Written]);
    }
}

pub struct ClaimBuilder(pub Claim);

impl ClaimBuilder {
    pub fn of(mut self, name: &str) -> Self {
        self.0.kind = kind(name);
        self
    }

    pub fn keyed(mut self) -> Self {
        self.0.scope = ClaimScope::Keyed;
        self
    }

    pub fn alone(mut self) -> Self {
        self.0.scope = ClaimScope::Alone;
        self
    }

    pub fn limit(mut self, limit: usize) -> Self {
        self.0.limit = limit;
        self
    }

    pub fn policy(mut self, policy: Policy) -> Self {
        self.0.policy = policy;
        self
    }

    pub fn run(&self, store: &dyn Store) -> Vec<Claimed> {
        until_free(|| store.claim(&self.0))
    }

    /// Exactly one task must be claimed.
    pub fn one(&self, store: &dyn Store) -> Claimed {
        let mut claimed = self.run(store);
        assert_eq!(claimed.len(), 1, "{claimed:?}");
        claimed.remove(0)
    }

    /// The numbers of what is claimed.
    pub fn ids(&self, store: &dyn Store) -> Vec<TaskId> {
        self.run(store).into_iter().map(|task| task.held.task).collect()
    }
}

/// A task about to be added.
#[derive(Clone)]
pub struct TaskBuilder(pub NewTask);

pub fn task() -> TaskBuilder {
    TaskBuilder(NewTask { kind: kind(KIND), payload: b"{}".to_vec(), resources: Vec::new(), priority: 0, delay: None })
}

/// A task that names these resources.
pub fn task_on(names: &[&str]) -> TaskBuilder {
    let mut task = task();
    task.0.resources = names.iter().map(|name| resource(name)).collect();
    task.0.resources.sort();
    task
}

impl TaskBuilder {
    pub fn of(mut self, name: &str) -> Self {
        self.0.kind = kind(name);
        self
    }

    pub fn priority(mut self, priority: i16) -> Self {
        self.0.priority = priority;
        self
    }

    pub fn delay(mut self, delay: Duration) -> Self {
        self.0.delay = Some(delay);
        self
    }

    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.0.payload = payload.to_vec();
        self
    }

    pub fn add(&self, store: &dyn Store) -> TaskId {
        store.add(std::slice::from_ref(&self.0), "a test").unwrap()[0]
    }

    pub fn try_add(&self, store: &dyn Store) -> StoreResult<Vec<TaskId>> {
        store.add(std::slice::from_ref(&self.0), "a test")
    }

    pub fn add_many(&self, store: &dyn Store, count: usize) -> Vec<TaskId> {
        store.add(&vec![self.0.clone(); count], "a test").unwrap()
    }
}

/// Well.
pub fn done(claimed: &Claimed) -> Finish {
    Finish {
        held: claimed.held,
        keyed: !claimed.resources.is_empty(),
        result: AttemptResult::Done,
        next: Next::Done,
        uses_budget: false,
        handed_back: Some(0),
        not_on: None,
        exit_code: Some(0),
        detail: None,
        value: None,
        output: Vec::new(),
        output_dropped: 0,
        unstarted: false,
    }
}

/// Permanently.
pub fn failed(claimed: &Claimed) -> Finish {
    let detail = Some("exit 1".to_owned());
    Finish { result: AttemptResult::Failed, next: Next::Failed, exit_code: Some(1), detail, ..done(claimed) }
}

/// Temporarily: again after this long.
pub fn retry(claimed: &Claimed, delay: Duration) -> Finish {
    let next = Next::Wait { delay, reason: Reason::Retry };
    Finish { result: AttemptResult::Tempfail, next, uses_budget: true, exit_code: Some(75), ..done(claimed) }
}

/// Given back.
pub fn handed_back(claimed: &Claimed) -> Finish {
    let next = Next::Ready(Reason::HandedBack);
    Finish { result: AttemptResult::HandedBack, next, handed_back: None, exit_code: None, ..done(claimed) }
}

pub fn state(store: &dyn Store, task: TaskId) -> Option<TaskState> {
    store.task(task).unwrap().map(|(row, _)| row.state)
}

pub fn row(store: &dyn Store, task: TaskId) -> TaskRow {
    store.task(task).unwrap().expect("the task is known").0
}

/// What operators want of a name.
pub fn wish(name: &str, wanted: Wanted) -> Wish4Engine {
    Wish4Engine {
        name: EngineName::new(name).unwrap(),
        wanted,
        reason: Some("a test".into()),
        by: "ops".into(),
        deadline: None,
        lasts: None,
    }
}

/// As an engine does, which comes again with its next pass: on a Galera cluster a crowd may keep a step from
/// being done for longer than the store repeats it. Nothing was written.
fn until_free<T>(mut step: impl FnMut() -> StoreResult<T>) -> T {
    let mut done = None;
    super::wait_until(Duration::from_secs(20), || match step() {
        Err(StoreError::Busy { .. }) => false,
        other => {
            done = Some(other.unwrap());
            true
        }
    });
    done.expect("it was waited for")
}
