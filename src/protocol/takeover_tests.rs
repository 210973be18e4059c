//! Every rule about interrupted and ended attempts.

use super::*;

fn orphan() -> Orphan {
    Orphan { lost: 0, handed_back: 0, charged: None, policy: Policy::default(), wish: Wish::None }
}
fn dead(id: i64) -> OwnerEnd {
    OwnerEnd { incarnation: Incarnation::new(id), state: EngineState::Fenced, proof: Proof::Expiry }
}
fn with_proof(proof: Proof) -> OwnerEnd {
    OwnerEnd { proof, ..dead(1) }
}

#[test]
fn lost_engine_is_charged_and_the_task_runs_again() {
    for proof in [Proof::Expiry, Proof::Guard, Proof::Lock, Proof::Unit, Proof::Operator] {
        let plan = take_over(&orphan(), &with_proof(proof));
        assert_eq!((plan.result, plan.lost), (AttemptResult::Lost, 1), "{proof}");
        assert_eq!(plan.next, Next::Ready(Reason::Lost));
    }
}

#[test]
fn owner_that_ended_itself_costs_nothing() {
    let plan = take_over(&orphan(), &with_proof(Proof::Itself));
    assert_eq!((plan.result, plan.lost, plan.handed_back), (AttemptResult::HandedBack, 0, 1));
    assert_eq!(plan.next, Next::Ready(Reason::HandedBack));
    let stopped = OwnerEnd { state: EngineState::Stopped, ..dead(1) };
    let plan = take_over(&orphan(), &stopped);
    assert_eq!((plan.result, plan.lost, plan.handed_back), (AttemptResult::HandedBack, 0, 0));
}

#[test]
fn the_third_lost_engine_quarantines() {
    assert_eq!(take_over(&Orphan { lost: 1, ..orphan() }, &dead(1)).next, Next::Ready(Reason::Lost));
    assert_eq!(take_over(&Orphan { lost: 2, ..orphan() }, &dead(1)).next, Next::Quarantined);
}

#[test]
fn an_incarnation_is_charged_once_per_task() {
    let charged = Orphan { lost: 2, charged: Some(Incarnation::new(1)), ..orphan() };
    let plan = take_over(&charged, &dead(1));
    assert_eq!((plan.lost, plan.next), (2, Next::Ready(Reason::Lost)));
}

#[test]
fn eleven_self_fences_in_a_row_quarantine() {
    let at = |handed_back| take_over(&Orphan { handed_back, ..orphan() }, &with_proof(Proof::Itself)).next;
    assert_eq!(at(9), Next::Ready(Reason::HandedBack));
    assert_eq!(at(10), Next::Quarantined);
}

#[test]
fn rerun_never_sends_an_interrupted_task_to_a_human() {
    let policy = Policy { rerun: Rerun::Never, ..Policy::default() };
    assert_eq!(take_over(&Orphan { policy, ..orphan() }, &dead(1)).next, Next::Failed);
    assert_eq!(take_over(&Orphan { policy, ..orphan() }, &with_proof(Proof::Itself)).next, Next::Failed);
}

#[test]
fn wishes_are_obeyed_at_takeover() {
    for (wish, next) in
        [(Wish::Cancel, Next::Canceled), (Wish::Hold, Next::Held), (Wish::Requeue, Next::Ready(Reason::Requeued))]
    {
        assert_eq!(take_over(&Orphan { wish, ..orphan() }, &dead(1)).next, next);
    }
}

fn budget(failures: u32) -> Budget {
    Budget { retry: RetryPolicy { max: 3, jitter: 0.0, ..RetryPolicy::default() }, failures, roll: 0.5 }
}

#[test]
fn temporary_ends_retry_until_the_budget_is_used_up() {
    for result in [AttemptResult::Tempfail, AttemptResult::Timeout, AttemptResult::Crash] {
        let next = |failures| after_attempt(result, &Policy::default(), &budget(failures), &Request::default());
        assert!(matches!(next(0), Next::Wait { reason: Reason::Retry, .. }));
        assert!(matches!(next(1), Next::Wait { .. }));
        assert_eq!(next(2), Next::Failed);
        assert!(uses_budget(result, &Request::default()));
    }
}

#[test]
fn a_retry_that_the_task_asked_for_costs_nothing() {
    let request = Request { retry_after: Some(Duration::from_secs(9)), ..Request::default() };
    for result in [AttemptResult::Tempfail, AttemptResult::HandedBack] {
        for rerun in [Rerun::Always, Rerun::Never] {
            let policy = Policy { rerun, ..Policy::default() };
            let next = after_attempt(result, &policy, &budget(99), &request);
            assert_eq!(next, Next::Wait { delay: Duration::from_secs(9), reason: Reason::Retry });
            assert!(!uses_budget(result, &request));
        }
    }
}

#[test]
fn a_permanent_failure_is_tried_once_on_another_host_if_the_host_was_at_fault() {
    let fail = |request| after_attempt(AttemptResult::Failed, &Policy::default(), &budget(0), &request);
    assert_eq!(fail(Request::default()), Next::Failed);
    let elsewhere = Request { elsewhere: true, ..Request::default() };
    assert_eq!(fail(elsewhere), Next::Ready(Reason::Retry));
    assert_eq!(fail(Request { was_elsewhere: true, ..elsewhere }), Next::Failed);
}

#[test]
fn what_was_handed_back_runs_again_unless_its_kind_says_never() {
    let back = |rerun| {
        let policy = Policy { rerun, ..Policy::default() };
        after_attempt(AttemptResult::HandedBack, &policy, &budget(0), &Request::default())
    };
    assert_eq!(back(Rerun::Always), Next::Ready(Reason::HandedBack));
    assert_eq!(back(Rerun::Never), Next::Failed);
}

#[test]
fn a_task_that_stops_its_engines_waits_longer_each_time_and_is_set_aside() {
    let ready = || Next::Ready(Reason::HandedBack);
    let waits = |n| match after_stop(n, ready()) {
        Next::Wait { delay, reason: Reason::HandedBack } => delay.as_secs(),
        next => panic!("{next:?} after {n}"),
    };
    assert_eq!([0, 1, 2].map(|n| after_stop(n, ready())), [ready(), ready(), ready()]);
    assert_eq!([3, 4, 5, 6, 7, 8, 9, 10].map(waits), [5, 10, 20, 40, 80, 160, 300, 300]);
    assert_eq!([11, u32::MAX].map(|n| after_stop(n, ready())), [Next::Quarantined, Next::Quarantined]);
    assert_eq!(after_stop(11, Next::Failed), Next::Failed, "rerun = never: a person decides anyway");
}

#[test]
fn an_attempt_that_ran_for_a_minute_before_the_stop_ends_the_row() {
    assert_eq!((in_a_row(0, Duration::ZERO), in_a_row(4, SOON - Duration::from_nanos(1))), (1, 5));
    assert_eq!((in_a_row(10, SOON), in_a_row(10, SOON * 60)), (0, 0));
    assert_eq!(in_a_row(u32::MAX, Duration::ZERO), u32::MAX);
}

/// Hosts that are restarted one after the other, half a minute apart, again and again through a day, with a task of
/// three days among them: wherever it lands, it is never set aside, and never waits for long.
#[test]
fn a_fleet_that_is_restarted_twelve_times_in_a_day_sets_no_long_task_aside() {
    let rolls = |hosts: u64, seed: u64| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut row, mut host, mut began, mut most) = (0, rng.u64(0..hosts), 0, 0);
        for rollout in 0..36 {
            for turn in 0..hosts {
                let now = rollout * 7_200 + turn * 30;
                // The one that is restarted takes nothing; it runs there, or still waits.
                if host != turn || began > now {
                    continue;
                }
                row = in_a_row(row, Duration::from_secs(now - began));
                let delay = match after_stop(row, Next::Ready(Reason::HandedBack)) {
                    Next::Wait { delay, .. } => delay.as_secs(),
                    Next::Ready(_) => 0,
                    next => panic!("{next:?} of {hosts} hosts, seed {seed}"),
                };
                most = most.max(row);
                (began, host) = (now + delay, (turn + rng.u64(1..hosts)) % hosts);
            }
        }
        most
    };
    let most = (2..40).flat_map(|hosts| (0..50).map(move |seed| rolls(hosts, seed))).max();
    assert!(most <= Some(6), "{most:?} in a row");
}

/// What a wish must come to, said in other words than the rule's.
fn as_wished(wish: Wish, is_done: bool, has_killed_its_last: bool, otherwise: Next) -> Next {
    if wish == Wish::None || is_done {
        return otherwise;
    }
    match wish {
        Wish::Cancel => Next::Canceled,
        Wish::Hold => Next::Held,
        _ if has_killed_its_last => Next::Quarantined,
        _ => Next::Ready(Reason::Requeued),
    }
}

#[test]
fn every_end_that_its_owner_reports_obeys_every_wish_unless_the_work_is_done() {
    let spans = [None, Some(Duration::from_secs(9))];
    let bits = [false, true];
    let mut seen = 0;
    for result in AttemptResult::ALL.iter().copied() {
        for (rerun, failures) in [Rerun::Always, Rerun::Never].into_iter().flat_map(|r| [(r, 0), (r, 99)]) {
            for (retry_after, elsewhere, was_elsewhere) in
                spans.into_iter().flat_map(|s| bits.into_iter().flat_map(move |e| bits.map(|w| (s, e, w))))
            {
                let request = Request { retry_after, elsewhere, was_elsewhere };
                let policy = Policy { rerun, ..Policy::default() };
                let otherwise = after_attempt(result, &policy, &budget(failures), &request);
                for wish in Wish::ALL.iter().copied() {
                    let is_done = result == AttemptResult::Done;
                    let expected = as_wished(wish, is_done, false, otherwise.clone());
                    let what = format!("{result} {wish} {rerun:?} {failures} {request:?}");
                    assert_eq!(obeyed(wish, otherwise.clone()), expected, "{what}");
                    seen += 1;
                }
            }
        }
    }
    assert_eq!(seen, 9 * 4 * 8 * 4);
}

#[test]
fn every_takeover_obeys_every_wish_and_gives_no_killer_to_another_engine() {
    let ends = Proof::ALL.iter().map(|proof| with_proof(*proof));
    let ends: Vec<OwnerEnd> = ends.chain([OwnerEnd { state: EngineState::Stopped, ..dead(1) }]).collect();
    for (end, rerun) in ends.iter().flat_map(|end| [(end, Rerun::Always), (end, Rerun::Never)]) {
        for (lost, handed_back) in [(0, 0), (2, 0), (0, HAND_BACK_MAX)] {
            let policy = Policy { rerun, ..Policy::default() };
            let orphan = Orphan { lost, handed_back, policy, ..orphan() };
            let otherwise = take_over(&orphan, end).next;
            for wish in Wish::ALL.iter().copied() {
                let plan = take_over(&Orphan { wish, ..orphan }, end);
                let is_quarantine = otherwise == Next::Quarantined;
                let expected = as_wished(wish, false, is_quarantine, otherwise.clone());
                assert_eq!(plan.next, expected, "{wish} {end:?} {orphan:?}");
            }
        }
    }
}
