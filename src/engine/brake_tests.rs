//! The brake as the sweeper wires it: many peers that look dead at once are fenced late and one by one, in
//! the order of their incarnations; a single one is fenced after its T.

use std::sync::Arc;
use std::time::Duration;

use super::options::EngineOptions;
use super::run::{Role, build};
use super::shared::{Phase, Shared};
use super::sweeper::Sweeper;
use crate::clock::{Clock, ManualClock};
use crate::protocol::engine::{EngineState, Mode};
use crate::protocol::ids::{EngineName, Incarnation};
use crate::protocol::timing::{Profile, Timing};
use crate::store::{Beat, BeatOutcome, MemoryStore, RegisterOutcome, Registration, Store};

const STEP: Duration = Duration::from_millis(250);

fn registration(number: i64) -> Registration {
    Registration {
        incarnation: Incarnation::new(number),
        name: EngineName::new(format!("e{number}")).unwrap(),
        host: "h".into(),
        boot_id: "b".into(),
        pid: 1,
        state_id: format!("s{number}"),
        stand: None,
        version: "0".into(),
        protocol: (1, 1),
        release: "/".into(),
        kinds: Vec::new(),
        slots: 1,
        means: "none".into(),
        timing: Timing::of(Profile::Fast),
        former: None,
        last_beat: None,
        cluster: "rekindle".into(),
    }
}

pub(super) struct Watcher {
    pub(super) clock: ManualClock,
    pub(super) store: MemoryStore,
    pub(super) shared: Arc<Shared>,
    sweeper: Sweeper,
}

impl Watcher {
    /// Engine 0, live, with so many peers that beat once and then never again.
    pub(super) fn with_peers(count: i64) -> Self {
        let clock = ManualClock::new();
        let store = MemoryStore::new(Arc::new(clock.clone()));
        for number in 0..=count {
            assert!(matches!(store.register(&registration(number)), Ok(RegisterOutcome::Registered { .. })));
            assert!(matches!(beat(&store, number), BeatOutcome::Accepted(_)));
        }
        let mut options = EngineOptions::new(EngineName::new("e0").unwrap());
        options.timing = Timing::of(Profile::Fast);
        // It runs no commands: no thread that forks is wanted here.
        let mut shared = build(Arc::new(store.clone()), options, Role::Library, None).unwrap();
        shared.clock = Arc::new(clock.clone());
        let mut life = shared.life.lock();
        (life.incarnation, life.phase) = (Some(Incarnation::new(0)), Phase::Live);
        life.meta = store.meta().ok();
        drop(life);
        let shared = Arc::new(shared);
        Self { clock, store, sweeper: Sweeper::new(Arc::clone(&shared)), shared }
    }

    /// Beats and sweeps for so long; when who was fenced, in seconds since the peers' last beats.
    pub(super) fn watch(&mut self, span: Duration) -> Vec<(i64, f64)> {
        let (began, mut fenced) = (self.clock.lease_now(), Vec::new());
        while self.clock.lease_now().since(began) < span {
            self.clock.advance(STEP);
            let now = self.clock.lease_now();
            assert!(matches!(beat(&self.store, 0), BeatOutcome::Accepted(_)));
            self.shared.own_beats.0.send(now).unwrap();
            self.shared.life.lock().lease.accept(now);
            self.sweeper.step();
            let gone = self.store.engines().unwrap().1.into_iter().filter(|row| row.state == EngineState::Fenced);
            for row in gone {
                let id = row.incarnation.as_i64();
                if !fenced.iter().any(|(known, _)| *known == id) {
                    fenced.push((id, now.since(began).as_secs_f64()));
                }
            }
        }
        fenced
    }
}

pub(super) fn beat(store: &MemoryStore, number: i64) -> BeatOutcome {
    store.beat(&Beat { incarnation: Incarnation::new(number), mode: Mode::Active, running: 0 }).unwrap()
}

/// Seen at 0.75 s (past 1.25 h), T = 3.2 s: 2 T later the first, then one each 5 s.
#[test]
fn most_of_a_cluster_is_fenced_late_and_one_by_one() {
    let mut watcher = Watcher::with_peers(4);
    let fenced = watcher.watch(Duration::from_secs(40));
    let ids: Vec<i64> = fenced.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [1, 2, 3, 4]);
    for (rank, (id, at)) in fenced.iter().enumerate() {
        let due = 0.75 + 2.0 * 3.2 + 5.0 * rank as f64;
        assert!(*at >= due && *at <= due + 0.5, "{id} at {at}, due at {due}");
    }
}

#[test]
fn two_of_three_are_fenced_after_their_t() {
    let fenced = Watcher::with_peers(2).watch(Duration::from_secs(10));
    assert_eq!(fenced.len(), 2);
    assert!(fenced.iter().all(|(_, at)| (0.75 + 3.2..=0.75 + 3.2 + 0.5).contains(at)), "{fenced:?}");
}
