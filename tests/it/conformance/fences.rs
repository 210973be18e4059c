//! Sweeps, fences, closing, late claims.

use rekindle::protocol::engine::{EngineState, Proof};
use rekindle::protocol::liveness::{PeerBeat, SweepKind};
use rekindle::protocol::task::TaskState;
use rekindle::protocol::timing::{Profile, Timing};
use rekindle::store::*;

use crate::support::builders::*;
use crate::support::databases::Rig;

pub fn a_filtered_sweep_lists_the_late_and_a_full_one_all_with_their_own_timing(rig: &Rig) {
    let (store, fast) = (&*rig.store, Timing::of(Profile::Fast));
    let (a, b) = (engine("a").timing(fast).on(rig), engine("b").timing(Timing::of(Profile::Tolerant)).on(rig));
    a.accepted(store);
    // Later than 1.25 h of the fast profile, not than that of the tolerant one.
    rig.pass(secs(3));
    let view = store.sweep(SweepKind::Filtered).unwrap();
    assert_eq!(view.peers, [PeerBeat { incarnation: a.incarnation, beat: 1, timing: fast, is_recent: false }]);
    assert_eq!((view.live_count, view.takeover_max, view.next_due), (2, secs(46), None));
    assert!(view.ended.is_empty() && view.meta.identity_matches);
    let mut full = store.sweep(SweepKind::Full).unwrap().peers;
    full.sort_by_key(|peer| peer.beat);
    let flags: Vec<_> = full.iter().map(|peer| (peer.incarnation, peer.beat, peer.is_recent)).collect();
    assert_eq!(flags, [(b.incarnation, 0, true), (a.incarnation, 1, false)]);
}

pub fn a_beat_from_the_future_is_late_too(rig: &Rig) {
    let a = engine("a").on(rig);
    rig.store.sweep(SweepKind::Filtered).unwrap();
    rig.un_pass(secs(3_600));
    let view = rig.store.sweep(SweepKind::Filtered).unwrap();
    assert_eq!(view.peers.iter().map(|peer| peer.incarnation).collect::<Vec<_>>(), [a.incarnation]);
}

pub fn the_longest_timing_does_not_overflow_the_filter(rig: &Rig) {
    let hour = 3_600_000;
    let spans = rekindle::protocol::timing::Spans {
        heartbeat_ms: hour / 2,
        query_ms: hour / 5,
        lease_ms: hour,
        kill_ms: 10,
        takeover_ms: hour,
        sweep_ms: hour,
    };
    // T must be larger than L + K, which the ceiling of an hour leaves room for only below an hour.
    let spans = rekindle::protocol::timing::Spans { lease_ms: hour / 100 * 98 - 20, ..spans };
    engine("a").timing(Timing::new(spans).unwrap()).on(rig);
    assert_eq!(rig.store.sweep(SweepKind::Filtered).unwrap().peers, []);
}

pub fn a_sweep_says_when_the_next_waiting_task_is_due(rig: &Rig) {
    task().delay(secs(90)).add(&*rig.store);
    task().delay(secs(30)).add(&*rig.store);
    let view = rig.store.sweep(SweepKind::Filtered).unwrap();
    let left = view.next_due.unwrap().since(view.meta.now);
    assert!(left > secs(20) && left <= secs(30), "{left:?}");
    assert_eq!((view.live_count, view.takeover_max), (0, secs(0)));
}

pub fn a_fence_with_the_right_beat_wins_once(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    a.accepted(store);
    assert_eq!(a.fence(store, Some(1), Proof::Expiry), FenceOutcome::Won);
    assert_eq!(a.fence(store, Some(1), Proof::Expiry), FenceOutcome::Missed);
    let ended = store.sweep(SweepKind::Filtered).unwrap().ended;
    let wanted = EndedPeer {
        incarnation: a.incarnation,
        name: a.name.clone(),
        state: EngineState::Fenced,
        proof: Proof::Expiry,
        dead_after: secs(12),
        acknowledged: false,
    };
    assert_eq!(ended, std::slice::from_ref(&wanted));
    // Its goodbye comes too late to be a stop, but says that nothing of it runs any more.
    assert!(!store.stop(a.incarnation).unwrap());
    let ended = store.sweep(SweepKind::Filtered).unwrap().ended;
    assert_eq!(ended, [EndedPeer { acknowledged: true, ..wanted }]);
}

pub fn a_fence_with_a_stale_beat_misses(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    a.accepted(store);
    a.accepted(store);
    assert_eq!(a.fence(store, Some(1), Proof::Expiry), FenceOutcome::Missed);
    assert_eq!(a.accepted(store).beat, 3);
}

pub fn a_fence_with_a_proof_needs_no_beat(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    a.accepted(store);
    assert_eq!(a.fence(store, None, Proof::Unit), FenceOutcome::Won);
    assert_eq!(store.engines().unwrap().1[0].proof, Some(Proof::Unit));
    assert_eq!(store.engines().unwrap().1[0].ended_by.as_deref(), Some("a test"));
}

pub fn of_many_fences_at_once_one_wins(rig: &Rig) {
    let a = engine("a").on(rig);
    let stores: Vec<_> = (0..4).map(|_| rig.another()).collect();
    let start = std::sync::Barrier::new(stores.len());
    let won = std::thread::scope(|scope| {
        let (a, start) = (&a, &start);
        let run = |store: std::sync::Arc<dyn Store>| {
            scope.spawn(move || {
                start.wait();
                a.fence(&*store, Some(0), Proof::Expiry)
            })
        };
        let threads: Vec<_> = stores.into_iter().map(run).collect();
        threads.into_iter().filter(|_| true).map(|t| t.join().unwrap()).filter(|o| *o == FenceOutcome::Won).count()
    });
    assert_eq!(won, 1);
}

pub fn a_fenced_incarnation_never_lives_again(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    a.dies(store);
    let builder = EngineBuilder(Registration { incarnation: a.incarnation, ..engine("b").0 });
    assert!(store.register(&builder.0).is_err(), "its number is never given again");
    assert!(!store.stop(a.incarnation).unwrap());
    assert!(a.is_gone(store));
    assert_eq!(store.engines().unwrap().1[0].state, EngineState::Fenced);
    assert!(store.close(a.incarnation).unwrap());
    assert!(store.register(&builder.0).is_err(), "not even after it was closed");
    assert_eq!(store.sweep(SweepKind::Full).unwrap().live_count, 0);
}

pub fn an_engine_is_closed_only_when_it_owns_nothing(rig: &Rig) {
    let (store, a) = (&*rig.store, engine("a").on(rig));
    task_on(&["r"]).add(store);
    a.claim().keyed().one(store);
    a.dies(store);
    assert!(!store.close(a.incarnation).unwrap());
    a.takeover(store);
    assert!(store.close(a.incarnation).unwrap());
    assert!(store.close(a.incarnation).unwrap(), "it is closed");
    assert!(store.sweep(SweepKind::Full).unwrap().ended.is_empty());
    let row = store.engines().unwrap().1.remove(0);
    assert_eq!((row.state, row.proof, row.taken_over), (EngineState::Fenced, Some(Proof::Guard), 1));
}

pub fn the_search_for_orphans_is_given_to_one_caller(rig: &Rig) {
    let store = &*rig.store;
    assert_eq!(store.find_orphans(secs(60)).unwrap(), Some(vec![]));
    assert_eq!(rig.another().find_orphans(secs(60)).unwrap(), None);
    rig.pass(secs(61));
    assert_eq!(rig.another().find_orphans(secs(60)).unwrap(), Some(vec![]));
    // A clock that was stepped back does not stop the search for as long.
    rig.un_pass(secs(3_600));
    assert_eq!(store.find_orphans(secs(60)).unwrap(), Some(vec![]));
}

pub fn a_claim_that_commits_after_its_engine_was_closed_is_found(rig: &Rig) {
    let (store, a, b) = (&*rig.store, engine("a").on(rig), engine("b").on(rig));
    let (id, other) = (task().add(store), task().add(store));
    a.dies(store);
    assert!(store.close(a.incarnation).unwrap());
    rig.late_claim(id, a.incarnation, nonce());
    assert_eq!(b.claim().one(store).held.task, other);
    assert_eq!(store.find_orphans(secs(60)).unwrap(), Some(vec![a.incarnation]));
    assert_eq!(a.takeover(store).ready, 1);
    let task = row(store, id);
    assert_eq!((task.state, task.lost), (TaskState::Ready, 1));
    rig.pass(secs(61));
    assert_eq!(store.find_orphans(secs(60)).unwrap(), Some(vec![]), "what a live engine owns is no orphan");
}
