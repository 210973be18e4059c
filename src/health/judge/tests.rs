//! Exact lines of every mode, and what must hold for any snapshot.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::health::fixture::{engine, snapshot, stuck};
use crate::health::perf::tests::strict_perfdata;
use crate::health::render::plugin_text;
use crate::health::snapshot::{Capped, EngineView, TaskCounts};
use crate::health::thresholds::{EngineRef, Normal, Settings};
use crate::protocol::ids::TaskId;

fn thresholds(mode: Mode, warning: &str, critical: &str, normal: Option<f64>) -> Thresholds {
    let spec = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
    let settings =
        Settings { warning: spec(warning), critical: spec(critical), normal: normal.map(Normal::Number), min: None };
    Thresholds::resolve(mode, &settings, Some(EngineRef::Named("app1".to_owned()))).unwrap()
}

fn shown(mode: Mode, snapshot: &ClusterSnapshot, thresholds: &Thresholds) -> String {
    plugin_text(&judge(mode, snapshot, thresholds), false)
}

fn by_default(mode: Mode, snapshot: &ClusterSnapshot) -> String {
    shown(mode, snapshot, &thresholds(mode, "", "", None))
}

#[test]
fn overall_of_a_healthy_cluster() {
    assert_eq!(
        by_default(Mode::Overall, &snapshot()),
        "REKINDLE OK - 5 engines alive, 128 ready (oldest 42s), 36 failures/h | engines_alive=5;;;0 \
         engines_dead=0;0;;0 engines_late=0;0;;0 engines_paused=0;0;;0 ready=128;;;0 oldest_ready=42s;300;1800;0 \
         failed=0;0;;0 quarantined=0;;0;0 interrupted=0;0;;0 held=0;0;;0 done_1h=2514;;;0 failures_1h=36;;;0 takeovers_1h=0;;;0 \
         running=17;;;0;20 clock_skew=0.02s;2;;0\n"
    );
}

#[test]
fn overall_lists_problems_worst_first_and_says_what_to_type() {
    let mut s = snapshot();
    s.engines[2] = engine("app3").fenced(250);
    let one = by_default(Mode::Overall, &s);
    assert!(one.starts_with(
        "REKINDLE WARNING - engine app3 is fenced since 13:58 (4m10s) by app1 (expiry), \
         its 3 tasks were taken over | engines_alive=4;;;0 engines_dead=1;0;;0 "
    ));
    assert!(one.ends_with(" clock_skew=0.02s;2;;0\nnext: rekindle engine show app3\n"), "{one}");
    s.oldest_ready_age = Some(Duration::from_secs(1_801));
    let two = by_default(Mode::Overall, &s);
    assert!(two.starts_with("REKINDLE CRITICAL - 2 problems, first: oldest ready task waits 30m01s (limit 30m) | "));
    assert!(two.ends_with(
        "\n[CRITICAL] oldest ready task waits 30m01s (limit 30m)\n\
         [WARNING] engine app3 is fenced since 13:58 (4m10s) by app1 (expiry), its 3 tasks were taken over\n\
         next: rekindle task list -s ready\n"
    ));
}

#[test]
fn overall_with_a_normal_number_lives_with_failed_tasks() {
    let mut s = snapshot();
    s.tasks.failed = Capped::new(510);
    assert!(by_default(Mode::Overall, &s).starts_with("REKINDLE WARNING - 510 failed tasks | "));
    let used_to_it = thresholds(Mode::Overall, "", "", Some(500.0));
    let line = shown(Mode::Overall, &s, &used_to_it);
    let head = "REKINDLE OK - 5 engines alive, 128 ready (oldest 42s), 36 failures/h, 510 failed (normal 500) | ";
    assert!(line.starts_with(head), "{line}");
    assert!(line.contains(" failed=510;750;1000;0 "));
    let floor = Settings { min: Some(600), ..Settings::default() };
    let above_floor = Thresholds::resolve(Mode::Overall, &floor, None).unwrap();
    assert_eq!(judge(Mode::Overall, &s, &above_floor).status, Status::Ok);
    s.tasks.failed = Capped::new(600);
    let line = shown(Mode::Overall, &s, &above_floor);
    assert!(line.starts_with("REKINDLE WARNING - 600 failed tasks (limit --min 600) | "), "{line}");
    assert!(line.contains(" failed=600;599;;0 "));
    s.tasks.failed = Capped::new(1_001);
    let line = shown(Mode::Overall, &s, &used_to_it);
    assert!(line.starts_with("REKINDLE CRITICAL - 1001 failed tasks (limit 2x) | "), "{line}");
}

#[test]
fn engines_alive_dead_and_late() {
    let mut s = snapshot();
    let perf = "engines_dead=0;0;;0 engines_late=0;0;;0 engines_stuck=0;0;;0 takeovers_1h=0;;;0\n";
    let fine = format!("REKINDLE ENGINES OK - 5 of 5 engines alive | engines_alive=5;2:;1:;0 {perf}");
    assert_eq!(by_default(Mode::Engines, &s), fine);
    s.engines[2] = engine("app3").fenced(250);
    s.takeovers_1h = 3;
    assert_eq!(
        shown(Mode::Engines, &s, &thresholds(Mode::Engines, "4:", "2:", None)),
        "REKINDLE ENGINES WARNING - 4 of 5 engines alive; app3 fenced since 13:58 (4m10s) by app1 (expiry), \
         its 3 tasks were taken over | engines_alive=4;4:;2:;0 engines_dead=1;0;;0 engines_late=0;0;;0 \
         engines_stuck=0;0;;0 takeovers_1h=3;;;0\nnext: rekindle engine show app3\n"
    );
    s.engines = vec![engine("app1").late(6), engine("app3").fenced(250)];
    assert_eq!(
        by_default(Mode::Engines, &s),
        "REKINDLE ENGINES WARNING - 1 of 2 engines alive (limit 2:); app3 fenced since 13:58 (4m10s) by app1 (expiry), \
         its 3 tasks were taken over; app1 late: last beat 6s ago (interval 2s) | engines_alive=1;2:;1:;0 \
         engines_dead=1;0;;0 engines_late=1;0;;0 engines_stuck=0;0;;0 takeovers_1h=3;;;0\n\
         [WARNING] app3 fenced since 13:58 (4m10s) by app1 (expiry), its 3 tasks were taken over\n\
         [WARNING] app1 late: last beat 6s ago (interval 2s)\nnext: rekindle engine list\n"
    );
    s.engines = Vec::new();
    assert!(
        by_default(Mode::Engines, &s).starts_with("REKINDLE ENGINES CRITICAL - 0 of 0 engines alive (limit 1:) | ")
    );
}

#[test]
fn one_engine_is_judged_by_its_own_row() {
    let mut s = snapshot();
    s.engines[0].beat_age = Duration::from_millis(2_100);
    assert_eq!(
        by_default(Mode::Engine, &s),
        "REKINDLE ENGINE OK - app1 active, beat 2.1s ago, lease 7.9s, 4 of 4 slots busy | \
         beat_age=2.1s;4;10;0 running=4;;;0;4\n"
    );
    s.engines[0] = engine("app1").late(6);
    assert_eq!(
        by_default(Mode::Engine, &s),
        "REKINDLE ENGINE WARNING - app1 late, beat 6s ago (limit 4s), lease 4s, 4 of 4 slots busy | \
         beat_age=6s;4;10;0 running=4;;;0;4\nnext: rekindle engine show app1\n"
    );
    s.engines[0] = engine("app1").late(11);
    let line = by_default(Mode::Engine, &s);
    let head = "REKINDLE ENGINE CRITICAL - app1 late, beat 11s ago (limit 10s), lease over for 1s, ";
    assert!(line.starts_with(head), "{line}");
    let lenient = shown(Mode::Engine, &s, &thresholds(Mode::Engine, "20s", "1m", None));
    assert!(lenient.starts_with("REKINDLE ENGINE WARNING - app1 late, beat 11s ago, lease over for 1s, "), "{lenient}");
    s.engines[0] = engine("app1").fenced(250);
    assert!(by_default(Mode::Engine, &s).starts_with("REKINDLE ENGINE CRITICAL - app1 fenced since 13:58 (4m10s)"));
    s.engines[0] = engine("app1").paused(60);
    let paused = "REKINDLE ENGINE OK - app1 paused, beat 1.1s ago, lease 8.9s, 0 of 4 slots busy | ";
    assert!(by_default(Mode::Engine, &s).starts_with(paused), "a paused engine beats");
}

#[test]
fn a_missing_engine_is_critical_with_a_guess() {
    let mut s = snapshot();
    s.engines.remove(0);
    assert_eq!(
        by_default(Mode::Engine, &s),
        "REKINDLE ENGINE CRITICAL - no engine is called app1; did you mean app5?\nnext: rekindle engine list\n"
    );
    let mut local = thresholds(Mode::Engine, "", "", None);
    local.engine = Some(EngineRef::Local { host: "web-9".to_owned() });
    let line = shown(Mode::Engine, &s, &local);
    assert!(line.starts_with("REKINDLE ENGINE CRITICAL - no engine is registered for this host (web-9)\n"));
    local.engine = None;
    assert_eq!(judge(Mode::Engine, &s, &local).status, Status::Unknown);
}

#[test]
fn several_engines_of_a_host_speak_through_the_worst() {
    let mut s = snapshot();
    s.engines = vec![engine("a"), EngineView { host: "a.example.net".to_owned(), ..engine("b").late(6) }];
    let mut local = thresholds(Mode::Engine, "", "", None);
    local.engine = Some(EngineRef::Local { host: "a.example.net".to_owned() });
    assert_eq!(
        shown(Mode::Engine, &s, &local),
        "REKINDLE ENGINE WARNING - 2 engines on this host: b late, beat 6s ago (limit 4s), lease 4s, 4 of 4 slots busy | \
         beat_age_a=1.1s;4;10;0 running_a=4;;;0;4 beat_age_b=6s;4;10;0 running_b=4;;;0;4\n\
         [WARNING] b late, beat 6s ago (limit 4s), lease 4s, 4 of 4 slots busy\n\
         [OK] a active, beat 1.1s ago, lease 8.9s, 4 of 4 slots busy\nnext: rekindle engine show b\n"
    );
    s.engines[1].state = EngineState::Active;
    s.engines[1].beat_age = Duration::ZERO;
    assert!(shown(Mode::Engine, &s, &local).starts_with("REKINDLE ENGINE OK - 2 engines on this host beat | "));
}

#[test]
fn latency_names_the_task_that_waits() {
    let mut s = snapshot();
    s.kind = Some("report".to_owned());
    s.tasks.ready = Capped::new(31);
    s.oldest_ready_age = Some(Duration::from_secs(725));
    s.oldest_ready_id = Some(TaskId::new(5_120));
    assert_eq!(
        by_default(Mode::Latency, &s),
        "REKINDLE LATENCY WARNING - oldest ready report waits 12m05s (limit 5m); 31 ready | \
         oldest_ready=725s;300;1800;0 ready=31;;;0\n[WARNING] limits: warning 5m, critical 30m\n\
         [OK] 5 of 5 engines take tasks, 20 of 20 slots busy\nnext: rekindle task show 5120\n"
    );
    s.engines = vec![engine("app1").paused(60)];
    assert!(by_default(Mode::Latency, &s).contains("; 31 ready, no engine is active | "));
    s.oldest_ready_age = None;
    s.tasks.ready = Capped::default();
    let idle = "REKINDLE LATENCY OK - no report is ready | oldest_ready=0s;300;1800;0 ready=0;;;0\n";
    assert_eq!(by_default(Mode::Latency, &s), idle);
}

#[test]
fn normally_500_failed_and_now_1000() {
    let mut s = snapshot();
    s.tasks.failed = Capped::new(1_012);
    s.failures_1h = 514;
    s.stuck = vec![
        stuck(TaskState::Failed, "invoice-mail", 971, "exit 75: smtp: connection | refused"),
        stuck(TaskState::Failed, "thumbnail", 41, "exit 1"),
    ];
    assert_eq!(
        shown(Mode::Failed, &s, &thresholds(Mode::Failed, "1.5x", "2x", Some(498.0))),
        "REKINDLE FAILED CRITICAL - 1012 failed tasks, normal 498 (2.0x, limit 2x); 514 failures in 1h, \
         971 of them: invoice-mail: exit 75: smtp: connection / refused | failed=1012;747;996;0 failed_normal=498;;;0\n\
         [WARNING] invoice-mail 971, newest 2m ago\n[OK] thumbnail 41, newest 2m ago\n\
         next: rekindle task list -k invoice-mail -s failed\n"
    );
    assert!(
        shown(Mode::Failed, &s, &thresholds(Mode::Failed, "1000", "2000", None))
            .starts_with("REKINDLE FAILED WARNING - 1012 failed tasks (limit 1000); 514 failures in 1h, ")
    );
    s.tasks.failed = Capped::new(200_000);
    let line = shown(Mode::Failed, &s, &thresholds(Mode::Failed, "1", "100000", None));
    assert!(line.starts_with("REKINDLE FAILED CRITICAL - 100000+ failed tasks (limit 100000); "), "{line}");
    assert!(line.ends_with("next: rekindle task list -s failed\n"));
}

#[test]
fn few_failed_tasks_are_fine() {
    let mut s = snapshot();
    s.tasks.failed = Capped::new(12);
    assert_eq!(
        shown(Mode::Failed, &s, &thresholds(Mode::Failed, "", "", Some(3.0))),
        "REKINDLE FAILED OK - 12 failed tasks, normal 3 (4.0x, below --min 50); 36 failures in 1h | failed=12;49;49;0 failed_normal=3;;;0\n"
    );
}

#[test]
fn the_database_answers_in_time_with_the_right_schema_and_clock() {
    let mut s = snapshot();
    assert_eq!(
        by_default(Mode::Db, &s),
        "REKINDLE DB OK - PostgreSQL 16 answers in 0.012s, schema 7 ok, clock skew 0.02s | \
         db_roundtrip=0.012s;0.5;2;0 clock_skew=0.02s;2;;0\n"
    );
    s.db.is_read_only = true;
    let line = by_default(Mode::Db, &s);
    assert!(
        line.starts_with("REKINDLE DB CRITICAL - PostgreSQL 16 answers in 0.012s, but takes no writes, "),
        "{line}"
    );
    assert!(line.ends_with("next: rekindle doctor\n"), "{line}");
    let line = by_default(Mode::Overall, &s);
    assert!(line.starts_with("REKINDLE CRITICAL - the database takes no writes: "), "{line}");
    s.db.is_read_only = false;
    s.db.round_trip = Duration::from_millis(600);
    s.db.clock_skew = Duration::from_secs(3);
    assert_eq!(
        by_default(Mode::Db, &s),
        "REKINDLE DB WARNING - PostgreSQL 16 answers in 0.6s (limit 0.5s), schema 7 ok, clock skew 3s (limit 2s) | \
         db_roundtrip=0.6s;0.5;2;0 clock_skew=3s;2;;0\nnext: rekindle doctor\n"
    );
    s.db.is_schema_ok = false;
    s.db.schema = "6, this program needs 7".to_owned();
    let line = by_default(Mode::Db, &s);
    assert!(line.starts_with("REKINDLE DB CRITICAL - ") && line.ends_with("next: rekindle db status\n"), "{line}");
    assert!(line.contains(", schema does not fit: 6, this program needs 7, "));
}

fn any_engine() -> impl Strategy<Value = EngineView> {
    (0usize..6, 0usize..8, 0u64..60, 0u32..9).prop_map(|(name, state, age, running)| {
        let state = EngineState::ALL[state];
        let view = engine(&format!("app{name}"));
        let view = if state == EngineState::Fenced { view.fenced(age) } else { view };
        let is_alive = !matches!(state, EngineState::Fenced | EngineState::Stopped);
        EngineView { state, is_alive, beat_age: Duration::from_secs(age), running, ..view }
    })
}

fn any_snapshot() -> impl Strategy<Value = ClusterSnapshot> {
    let counts = prop::array::uniform8(prop_oneof![Just(0u64), 0..2_000u64, 99_990..100_010u64]);
    let free_text = r#"(\PC|[|'"\n\r;=\x00-\x1f]){0,80}"#;
    let ages = (prop::option::of(0u64..4_000), 0u64..5_000, 0u64..5_000);
    (prop::collection::vec(any_engine(), 0..8), counts, free_text, free_text, ages, any::<bool>()).prop_map(
        |(engines, n, kind, error, (oldest, trip, skew), is_schema_ok)| {
            let mut s = snapshot();
            let [ready, waiting, blocked, running, held, failed, quarantined, interrupted] = n.map(Capped::new);
            s.tasks = TaskCounts { ready, waiting, blocked, running, held, failed, quarantined, interrupted };
            s.stuck = vec![stuck(TaskState::Failed, &kind, n[5], &error), stuck(TaskState::Held, &error, n[4], &kind)];
            s.oldest_ready_age = oldest.map(Duration::from_secs);
            s.db.round_trip = Duration::from_millis(trip);
            s.db.clock_skew = Duration::from_millis(skew);
            s.db.is_schema_ok = is_schema_ok;
            s.db.schema = error;
            s.kind = (n[0] % 2 == 0).then_some(kind);
            s.engines = engines;
            s
        },
    )
}

/// The status that a graph would derive from the values and thresholds of a result.
fn status_of_perf(result: &CheckResult) -> Status {
    Status::worst(result.perf.iter().map(|perf| match perf.ranges() {
        (_, Some(critical)) if critical.is_alert(perf.value()) => Status::Critical,
        (Some(warning), _) if warning.is_alert(perf.value()) => Status::Warning,
        _ => Status::Ok,
    }))
}

proptest! {
    #[test]
    fn word_thresholds_and_next_command_agree_whatever_the_snapshot_holds(s in any_snapshot(), normal in 1u32..3_000) {
        for mode in [Mode::Overall, Mode::Engines, Mode::Engine, Mode::Latency, Mode::Failed, Mode::Db] {
            let result = judge(mode, &s, &thresholds(mode, "", "", Some(normal.into())));
            let by_perf = status_of_perf(&result);
            prop_assert!(by_perf <= result.status, "{:?} {:?} but {:?}", mode, result.status, by_perf);
            if matches!(mode, Mode::Engines | Mode::Latency | Mode::Failed) {
                prop_assert_eq!(by_perf, result.status);
            }
            prop_assert_eq!(result.next.is_some(), result.status != Status::Ok);
            let text = plugin_text(&result, true);
            let first = text.lines().next().unwrap_or_default();
            let head = format!("{} {} - ", mode.title(), result.status.word());
            prop_assert!(first.starts_with(&head), "{}", first);
            if let Some((_, perf)) = first.split_once(" | ") {
                strict_perfdata(perf).map_err(TestCaseError::fail)?;
            }
            prop_assert_eq!(text.matches('|').count(), usize::from(!result.perf.is_empty()));
        }
    }
}

#[test]
fn a_number_that_is_not_alerted_for_its_smallness_says_so() {
    let mut s = snapshot();
    s.tasks.failed = Capped::new(5);
    let line = shown(Mode::Failed, &s, &thresholds(Mode::Failed, "1.5x", "2x", Some(1.0)));
    assert!(line.starts_with("REKINDLE FAILED OK - 5 failed tasks, normal 1 (5.0x, below --min 50); "), "{line}");
}
