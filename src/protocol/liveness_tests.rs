//! Both sides of every boundary of the detector, with a clock that is turned by hand.

use super::*;
use crate::protocol::timing::Profile;

const T: u64 = 12_500;

struct Rig {
    observer: Observer,
    now: LeaseInstant,
}

fn rig() -> Rig {
    let mut rig =
        Rig { observer: Observer::new(&Timing::of(Profile::Balanced)), now: LeaseInstant::from_ns(1_000_000_000_000) };
    rig.observer.own_beat(rig.now);
    rig
}

fn peer(id: i64, beat: i64, is_recent: bool) -> PeerBeat {
    PeerBeat { incarnation: Incarnation::new(id), beat, timing: Timing::of(Profile::Balanced), is_recent }
}

impl Rig {
    /// Time passes while the observer itself beats every second.
    fn pass(&mut self, ms: u64) {
        let end = self.now.after(Duration::from_millis(ms));
        while self.now < end {
            let step = Duration::from_secs(1).min(end.since(self.now));
            self.now = self.now.after(step);
            self.observer.own_beat(self.now);
        }
    }
    fn sweep(&mut self, kind: SweepKind, peers: &[PeerBeat]) {
        self.observer.observe(self.now, kind, peers);
    }
    fn late(&mut self, peers: &[PeerBeat]) {
        self.sweep(SweepKind::Filtered, peers);
    }
    fn due(&mut self, live: usize) -> Vec<i64> {
        self.observer.due(self.now, live).iter().map(|d| d.incarnation.as_i64()).collect()
    }
}

#[test]
fn a_beat_that_stood_still_for_exactly_t_is_due_and_not_before() {
    let mut r = rig();
    r.late(&[peer(7, 3, false)]);
    r.pass(T - 1);
    r.late(&[peer(7, 3, false)]);
    assert!(r.due(2).is_empty());
    r.pass(1);
    assert_eq!(r.due(2), [7]);
}

#[test]
fn late_engine_that_beats_again_is_not_fenced() {
    let mut r = rig();
    r.late(&[peer(7, 3, false)]);
    r.pass(T - 1);
    r.late(&[peer(7, 4, false)]);
    r.pass(1);
    assert!(r.due(2).is_empty(), "the timer started again with beat 4");
    r.pass(T - 1);
    assert_eq!(r.due(2), [7]);
}

#[test]
fn engine_that_is_recent_again_is_forgotten() {
    let mut r = rig();
    r.late(&[peer(7, 3, false)]);
    r.pass(5_000);
    r.late(&[]);
    r.pass(T);
    assert!(r.due(2).is_empty());
}

#[test]
fn own_lapse_of_more_than_half_a_lease_restarts_all_timers() {
    let mut r = rig();
    r.late(&[peer(7, 3, false)]);
    r.pass(T - 6_000);
    r.now = r.now.after(Duration::from_millis(5_000));
    r.observer.own_beat(r.now);
    assert_eq!(r.observer.suspect_count(), 1, "exactly L/2 is no lapse");
    r.now = r.now.after(Duration::from_millis(5_001));
    r.observer.own_beat(r.now);
    assert_eq!(r.observer.suspect_count(), 0);
}

#[test]
fn observer_that_was_frozen_fences_nobody_when_it_thaws() {
    let mut r = rig();
    r.late(&[peer(7, 3, false)]);
    r.now = r.now.after(Duration::from_secs(600));
    assert!(r.due(2).is_empty(), "its own last accepted beat is ten minutes old");
    assert_eq!(r.observer.suspect_count(), 0);
}

#[test]
fn observer_without_an_accepted_beat_fences_nobody() {
    let mut observer = Observer::new(&Timing::of(Profile::Fast));
    let now = LeaseInstant::from_ns(1_000);
    observer.observe(now, SweepKind::Filtered, &[peer(1, 1, false)]);
    assert!(observer.due(now.after(Duration::from_secs(99)), 2).is_empty());
}

#[test]
fn dead_engine_that_looks_recent_is_found_by_two_full_sweeps() {
    let mut r = rig();
    r.sweep(SweepKind::Full, &[peer(7, 3, true)]);
    assert_eq!(r.observer.suspect_count(), 0, "once is not enough: it may just have beaten");
    r.pass(10_000);
    r.sweep(SweepKind::Full, &[peer(7, 3, true)]);
    assert_eq!(r.observer.suspect_count(), 1);
    r.pass(5_000);
    r.late(&[]);
    r.pass(T - 5_000);
    assert_eq!(r.due(2), [7], "filtered sweeps that do not list it say nothing about it");
}

#[test]
fn live_engine_that_looks_recent_is_never_suspected() {
    let mut r = rig();
    for beat in 0..10 {
        r.sweep(SweepKind::Full, &[peer(7, beat, true)]);
        r.pass(10_000);
    }
    assert_eq!(r.observer.suspect_count(), 0);
}

#[test]
fn brake_spreads_the_fences_of_a_majority() {
    let mut r = rig();
    let all = [peer(1, 1, false), peer(2, 1, false), peer(3, 1, false)];
    r.late(&all);
    r.pass(T);
    assert!(r.due(5).is_empty(), "three of five look dead");
    r.pass(T);
    assert_eq!(r.due(5), [1]);
    r.pass(4_999);
    assert_eq!(r.due(5), [1]);
    r.pass(1);
    assert_eq!(r.due(5), [1, 2]);
    r.pass(5_000);
    assert_eq!(r.due(5), [1, 2, 3], "never a permanent stop");
}

#[test]
fn half_of_the_cluster_is_no_reason_to_brake() {
    let mut r = rig();
    r.late(&[peer(1, 1, false), peer(2, 1, false), peer(3, 1, false)]);
    r.pass(T);
    assert_eq!(r.due(6), [1, 2, 3], "three of six are not more than half");
}

#[test]
fn fence_of_the_first_suspect_does_not_bring_the_others_forward() {
    let mut r = rig();
    r.late(&[peer(1, 1, false), peer(2, 1, false), peer(3, 1, false)]);
    r.pass(T);
    assert!(r.due(5).is_empty());
    r.pass(T);
    assert_eq!(r.due(5), [1]);
    r.observer.fence_sent(Incarnation::new(1));
    assert!(r.due(4).is_empty(), "two suspects of four would not brake, but these two are braked");
    r.pass(5_000);
    assert_eq!(r.due(4), [2]);
}

#[test]
fn brake_needs_three_suspects() {
    let mut r = rig();
    r.late(&[peer(1, 1, false), peer(2, 1, false)]);
    r.pass(T);
    assert_eq!(r.due(3), [1, 2]);
}

#[test]
fn many_suspects_share_a_minute() {
    assert_eq!(brake_step(3), Duration::from_secs(5));
    assert_eq!(brake_step(60), Duration::from_secs(1));
}

#[test]
fn peers_are_judged_by_the_values_of_their_own_row() {
    let mut r = rig();
    let fast = PeerBeat { timing: Timing::of(Profile::Fast), ..peer(7, 3, false) };
    r.late(&[fast, peer(8, 1, false)]);
    r.pass(3_199);
    assert!(r.due(3).is_empty());
    r.pass(1);
    assert_eq!(r.due(3), [7]);
}

#[test]
fn a_sent_fence_starts_the_timer_again() {
    let mut r = rig();
    r.late(&[peer(7, 3, false)]);
    r.pass(T);
    r.observer.fence_sent(Incarnation::new(7));
    assert!(r.due(2).is_empty());
}
