//! What `rekindle status` lists under PROBLEMS, and what the mode `overall` judges: one list, so that
//! the screen and the pager never disagree.
//!
//! Not a problem: engines that stopped, drain or are drained (someone is at work on that host).

use super::check::Status;
use super::limits::Limits;
use super::snapshot::{Capped, ClusterSnapshot, EngineState, EngineView, StuckGroup, Wanted};
use super::thresholds::ProblemLimits;
use super::words::{capped, clean, cut, fine_span, shell_word, since, span};
use crate::protocol::ids::Epoch;
use crate::protocol::task::TaskState;

/// Error texts in a sentence are cut here; the command after `next:` shows them whole.
const EXAMPLE_MAX: usize = 100;

/// One thing that a person should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How much it matters.
    pub severity: Status,
    /// What is wrong.
    pub text: String,
    /// The one command to type next.
    pub next: String,
}

impl Problem {
    fn new(severity: Status, text: impl Into<String>, next: impl Into<String>) -> Self {
        Self { severity, text: text.into(), next: next.into() }
    }
}

/// All problems of a cluster, the worst first.
pub fn problems(snapshot: &ClusterSnapshot, limits: &ProblemLimits) -> Vec<Problem> {
    let engines = snapshot.current_engines();
    let mut all = Vec::new();
    all.extend(schema_problem(snapshot));
    all.extend(read_only_problem(snapshot));
    all.extend(epoch_problem(snapshot));
    all.extend(connections_problem(snapshot, &engines));
    all.extend(idle_problem(snapshot, &engines));
    all.extend(engine_problems(snapshot, &engines, limits));
    for state in [TaskState::Quarantined, TaskState::Interrupted, TaskState::Failed, TaskState::Held] {
        all.extend(stuck_problems(snapshot, state, limits));
    }
    all.extend(latency_problem(snapshot, limits));
    all.extend(clock_problem(snapshot, limits));
    all.extend(set_back_problem(snapshot));
    all.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
    all
}

fn schema_problem(snapshot: &ClusterSnapshot) -> Option<Problem> {
    let text = || format!("database schema does not fit: {}", snapshot.db.schema);
    (!snapshot.db.is_schema_ok).then(|| Problem::new(Status::Critical, text(), "rekindle db status"))
}

fn read_only_problem(snapshot: &ClusterSnapshot) -> Option<Problem> {
    let text = "the database takes no writes: no engine can beat, claim or finish";
    snapshot.db.is_read_only.then(|| Problem::new(Status::Critical, text.to_owned(), "rekindle doctor"))
}

/// When none is left, a failover ends all claims for good.
pub(super) fn epoch_problem(snapshot: &ClusterSnapshot) -> Option<Problem> {
    let epoch = snapshot.db.epoch;
    let text = format!("{} of {} epochs are used: less than a tenth is left", epoch.as_i64(), Epoch::MAX);
    epoch.is_scarce().then(|| Problem::new(Status::Warning, text, "rekindle doctor"))
}

/// Engines that cannot all connect at once look like ones that are cut off.
fn connections_problem(snapshot: &ClusterSnapshot, engines: &[&EngineView]) -> Option<Problem> {
    let connections = snapshot.db.connections?;
    let count = engines.iter().filter(|engine| engine.is_alive).count();
    let (need, is_there) = connections.need(count);
    let text = format!("{count} engines may take {need} connections, the server has {}", connections.limit);
    (!is_there).then(|| Problem::new(Status::Warning, text, "rekindle doctor"))
}

/// Whether an engine takes tasks, as far as anyone can know; a late one may, if it should.
pub(super) fn takes_tasks(engine: &EngineView) -> bool {
    match engine.state {
        EngineState::Active | EngineState::Starved => true,
        EngineState::Late => engine.is_alive && engine.wanted == Wanted::Run,
        _ => false,
    }
}

/// Work is there, or was, and nobody does it.
fn idle_problem(snapshot: &ClusterSnapshot, engines: &[&EngineView]) -> Option<Problem> {
    let ready = snapshot.tasks.ready;
    let died = |engine: &&EngineView| matches!(engine.state, EngineState::Fenced | EngineState::Late);
    let is_any_fenced = engines.iter().any(died);
    let (severity, text) = if engines.iter().any(|engine| takes_tasks(engine)) {
        return None;
    } else if !ready.is_zero() {
        (Status::Critical, format!("no engine is active for {}", capped(ready, "ready task")))
    } else if engines.iter().any(|engine| engine.is_alive) {
        return None;
    } else if snapshot.tasks.has_work() {
        (Status::Critical, "no engine is alive while tasks are unfinished".to_owned())
    } else if is_any_fenced {
        (Status::Critical, "no engine is alive".to_owned())
    } else {
        // Nobody was ever here, or all said goodbye and left nothing to do. That may be meant, so nobody is
        // called at night; but it is not fine, for what is added now would wait.
        (Status::Warning, "no engine is alive: a task that is added now would not run".to_owned())
    };
    Some(Problem::new(severity, text, "rekindle engine list"))
}

fn engine_problems(snapshot: &ClusterSnapshot, engines: &[&EngineView], limits: &ProblemLimits) -> Vec<Problem> {
    let count = |state| engines.iter().filter(|engine| engine.state == state).count();
    let mut all = Vec::new();
    for state in [EngineState::Fenced, EngineState::Late, EngineState::Stuck, EngineState::Starved, EngineState::Paused]
    {
        let severity = limits.engines.status(count(state) as f64);
        let is_problem = |engine: &&&EngineView| engine.state == state && severity != Status::Ok;
        for engine in engines.iter().filter(is_problem) {
            let next = match state {
                // The cause lies in the database: rights, space, or a fault that its own log tells.
                EngineState::Stuck => "rekindle doctor".to_owned(),
                EngineState::Paused => format!("rekindle engine resume {}", shell_word(&engine.name)),
                _ => format!("rekindle engine show {}", shell_word(&engine.name)),
            };
            let text = format!("engine {} is {}", engine.name, state_words(engine, snapshot));
            all.push(Problem::new(severity, text, next));
        }
    }
    all
}

/// `fenced since 13:58 (4m10s) by app1 (expiry), its 3 tasks were taken over`, and so on.
pub(super) fn state_words(engine: &EngineView, snapshot: &ClusterSnapshot) -> String {
    match engine.state {
        EngineState::Fenced => fenced_words(engine, snapshot),
        EngineState::Late => {
            let (age, interval) = (span(engine.beat_age), span(engine.heartbeat_interval));
            format!("late: last beat {age} ago (interval {interval})")
        }
        EngineState::Paused => paused_words(engine, snapshot),
        EngineState::Stuck => "stuck: it cannot write how its tasks ended, and takes no new ones".to_owned(),
        EngineState::Starved => {
            "starved: its host could not start a command (out of descriptors, processes, memory or \
                                 space, its log says which), so it takes fewer tasks"
                .to_owned()
        }
        EngineState::Stopped => format!("stopped, last beat {} ago", span(engine.beat_age)),
        _ => engine.state.word().to_owned(),
    }
}

fn fenced_words(engine: &EngineView, snapshot: &ClusterSnapshot) -> String {
    let mut words = "fenced".to_owned();
    if let Some(at) = engine.fenced_at {
        words += &format!(" since {}", since(at, snapshot.now, snapshot.utc_offset_s));
    }
    if let Some(by) = &engine.fenced_by {
        words += &format!(" by {by}");
    }
    if let Some(proof) = &engine.proof {
        words += &format!(" ({proof})");
    }
    match engine.taken_over {
        0 => words,
        1 => words + ", its 1 task was taken over",
        count => words + &format!(", its {count} tasks were taken over"),
    }
}

fn paused_words(engine: &EngineView, snapshot: &ClusterSnapshot) -> String {
    let mut words = "paused".to_owned();
    if let Some(at) = engine.set_at {
        words += &format!(" since {}", since(at, snapshot.now, snapshot.utc_offset_s));
    }
    if let Some(by) = &engine.set_by {
        words += &format!(" by {by}");
    }
    if let Some(note) = &engine.note {
        words += &format!(": \"{}\"", cut(&clean(note), EXAMPLE_MAX));
    }
    match engine.set_until {
        Some(until) => words + &format!(" (ends in {})", span(until.since(snapshot.now))),
        None => words + " (no end set)",
    }
}

fn stuck_problems(snapshot: &ClusterSnapshot, state: TaskState, limits: &ProblemLimits) -> Vec<Problem> {
    let limits = match state {
        TaskState::Quarantined => &limits.quarantined,
        TaskState::Failed => &limits.failed,
        TaskState::Interrupted => &limits.interrupted,
        _ => &limits.held,
    };
    let total = snapshot.tasks.stuck(state);
    let (severity, Some(limit)) = limits.judge(total.judged()) else {
        return Vec::new();
    };
    // "More than none" needs no explanation, a limit that someone set does.
    let is_any = limit.typed == "0";
    let limit = format!("limit {}", limit.typed);
    let groups: Vec<_> = snapshot.stuck.iter().filter(|group| group.state == state).collect();
    if groups.is_empty() {
        let limit = if is_any { String::new() } else { format!(" ({limit})") };
        let text = match state {
            TaskState::Interrupted => decision_words(total),
            _ => capped(total, &format!("{state} task")),
        } + &limit;
        return vec![Problem::new(severity, text, stuck_command(state, None))];
    }
    let of = if is_any { String::new() } else { format!(" ({total} in all, {limit})") };
    let problem = |group: &&StuckGroup| {
        let text = format!(
            "kind {}: {}{of}{}",
            group.kind,
            capped(group.count, &format!("{state} task")),
            example_words(group)
        );
        Problem::new(severity, text, stuck_command(state, Some(&group.kind)))
    };
    groups.iter().map(problem).collect()
}

/// `1 task needs a decision: it was interrupted and may have done its work`.
fn decision_words(total: Capped) -> String {
    match total.count {
        1 => "1 task needs a decision: it was interrupted and may have done its work".to_owned(),
        _ => format!("{} need a decision: they were interrupted and may have done their work", capped(total, "task")),
    }
}

fn example_words(group: &StuckGroup) -> String {
    let newest = format!(", newest {} ago", span(group.newest_age));
    match &group.example {
        Some(example) => format!("{newest}, for example: {}", cut(&clean(example), EXAMPLE_MAX)),
        None => newest,
    }
}

/// The command that shows stuck tasks.
pub(super) fn stuck_command(state: TaskState, kind: Option<&str>) -> String {
    let kind = kind.map_or_else(String::new, |kind| format!(" -k {}", shell_word(kind)));
    format!("rekindle task list{kind} -s {state}")
}

/// `oldest ready report waits 12m05s (limit 5m)`; `None` if nothing is ready.
pub(super) fn latency_words(snapshot: &ClusterSnapshot, limits: &Limits) -> Option<String> {
    let age = snapshot.oldest_ready_age?;
    let limit = limits.broken(age.as_secs_f64()).map_or_else(String::new, |limit| format!(" ({limit})"));
    let what = snapshot.kind.as_deref().unwrap_or("task");
    Some(format!("oldest ready {what} waits {}{limit}", span(age)))
}

/// The command that says why the oldest ready task waits.
pub(super) fn latency_command(snapshot: &ClusterSnapshot) -> String {
    match (snapshot.oldest_ready_id, &snapshot.kind) {
        (Some(id), _) => format!("rekindle task show {}", id.as_i64()),
        (None, Some(kind)) => format!("rekindle task list -s ready -k {}", shell_word(kind)),
        (None, None) => "rekindle task list -s ready".to_owned(),
    }
}

fn latency_problem(snapshot: &ClusterSnapshot, limits: &ProblemLimits) -> Option<Problem> {
    let severity = limits.oldest_ready.status(snapshot.oldest_ready_age?.as_secs_f64());
    let text = latency_words(snapshot, &limits.oldest_ready)?;
    (severity != Status::Ok).then(|| Problem::new(severity, text, latency_command(snapshot)))
}

fn clock_problem(snapshot: &ClusterSnapshot, limits: &ProblemLimits) -> Option<Problem> {
    let skew = snapshot.db.clock_skew;
    let (severity, Some(limit)) = limits.clock_skew.judge(skew.as_secs_f64()) else {
        return None;
    };
    let text = format!("clocks of this host and the database differ by {} (limit {})", fine_span(skew), limit.typed);
    Some(Problem::new(severity, text, "rekindle doctor"))
}

fn set_back_problem(snapshot: &ClusterSnapshot) -> Option<Problem> {
    let text = |behind| {
        format!("the database's clock was set back: delayed and retried tasks come up to {} late", span(behind))
    };
    snapshot.db.clock_set_back.map(|behind| Problem::new(Status::Warning, text(behind), "rekindle doctor"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::health::fixture::{NOW, engine, snapshot, stuck};
    use crate::health::snapshot::{Capped, ConnectionsView};
    use crate::protocol::ids::TaskId;

    fn lines(snapshot: &ClusterSnapshot) -> Vec<String> {
        let line = |p: Problem| format!("{} {} -> {}", p.severity.word(), p.text, p.next);
        problems(snapshot, &ProblemLimits::default()).into_iter().map(line).collect()
    }

    #[test]
    fn a_healthy_cluster_has_none() {
        assert_eq!(lines(&snapshot()), Vec::<String>::new());
    }

    #[test]
    fn engines_that_are_fenced_late_or_paused_are_named_with_the_reason() {
        let mut s = snapshot();
        s.engines =
            vec![engine("app1"), engine("app3").fenced(250), engine("app4").late(6), engine("app5").paused(10_931)];
        let want = [
            "WARNING engine app3 is fenced since 13:58 (4m10s) by app1 (expiry), its 3 tasks were taken over \
             -> rekindle engine show app3",
            "WARNING engine app4 is late: last beat 6s ago (interval 2s) -> rekindle engine show app4",
            "WARNING engine app5 is paused since 11:00 (3h02m) by bob: \"disk full\" (no end set) \
             -> rekindle engine resume app5",
        ];
        assert_eq!(lines(&s), want);
        s.engines[3].set_until = Some(NOW.after(Duration::from_secs(3_600)));
        assert!(lines(&s)[2].contains("\"disk full\" (ends in 1h) ->"));
    }

    #[test]
    fn an_engine_that_beats_but_cannot_write_ends_is_a_problem() {
        let mut s = snapshot();
        s.engines[1].state = EngineState::Stuck;
        let want = ["WARNING engine app2 is stuck: it cannot write how its tasks ended, and takes no new ones \
             -> rekindle doctor"];
        assert_eq!(lines(&s), want);
        for engine in &mut s.engines {
            engine.state = EngineState::Stuck;
        }
        assert_eq!(lines(&s)[0], "CRITICAL no engine is active for 128 ready tasks -> rekindle engine list");
    }

    #[test]
    fn an_engine_whose_host_cannot_start_what_its_slots_allow_is_a_problem() {
        let mut s = snapshot();
        s.engines[1].state = EngineState::Starved;
        let want =
            ["WARNING engine app2 is starved: its host could not start a command (out of descriptors, processes, \
             memory or space, its log says which), so it takes fewer tasks -> rekindle engine show app2"];
        assert_eq!(lines(&s), want);
    }

    #[test]
    fn stopped_draining_and_drained_engines_are_no_problem() {
        let mut s = snapshot();
        for (at, state) in [EngineState::Stopped, EngineState::Draining, EngineState::Drained].into_iter().enumerate() {
            s.engines[at].state = state;
            s.engines[at].is_alive = state != EngineState::Stopped;
        }
        assert!(lines(&s).is_empty());
    }

    #[test]
    fn ready_tasks_that_nobody_takes_are_critical() {
        let mut s = snapshot();
        s.engines = vec![engine("app1").paused(60)];
        let line = "CRITICAL no engine is active for 128 ready tasks -> rekindle engine list";
        assert_eq!(lines(&s)[0], line);
        s.engines = vec![engine("app1").late(3)];
        assert!(!lines(&s).iter().any(|l| l.starts_with("CRITICAL")), "a late engine may still work");
        s.engines[0].wanted = Wanted::Drain;
        assert_eq!(lines(&s)[0], line, "a late engine that should drain takes nothing");
        s.tasks.ready = Capped::default();
        s.oldest_ready_age = None;
        s.engines = Vec::new();
        assert_eq!(lines(&s), ["CRITICAL no engine is alive while tasks are unfinished -> rekindle engine list"]);
        s.tasks = crate::health::snapshot::TaskCounts::default();
        let nobody = ["WARNING no engine is alive: a task that is added now would not run -> rekindle engine list"];
        assert_eq!(lines(&s), nobody, "a new cluster");
        s.engines = vec![engine("app1")];
        s.engines[0].state = EngineState::Stopped;
        s.engines[0].is_alive = false;
        assert_eq!(lines(&s), nobody, "all have stopped");
        s.engines = vec![engine("app1").fenced(5)];
        assert_eq!(lines(&s)[0], "CRITICAL no engine is alive -> rekindle engine list");
    }

    #[test]
    fn stuck_tasks_are_grouped_by_kind_and_quarantine_comes_first() {
        let mut s = snapshot();
        s.tasks.failed = Capped::new(972);
        s.tasks.quarantined = Capped::new(1);
        s.tasks.held = Capped::new(2);
        s.stuck = vec![
            stuck(TaskState::Failed, "invoice-mail", 971, "exit 75: smtp:\nconnection refused"),
            stuck(TaskState::Failed, "odd kind", 1, "x"),
            stuck(TaskState::Quarantined, "report", 1, "killed 3 engines"),
        ];
        let want = [
            "CRITICAL kind report: 1 quarantined task, newest 2m ago, for example: killed 3 engines \
             -> rekindle task list -k report -s quarantined",
            "WARNING kind invoice-mail: 971 failed tasks, newest 2m ago, for example: exit 75: smtp: connection refused \
             -> rekindle task list -k invoice-mail -s failed",
            "WARNING kind odd kind: 1 failed task, newest 2m ago, for example: x \
             -> rekindle task list -k 'odd kind' -s failed",
            "WARNING 2 held tasks -> rekindle task list -s held",
        ];
        assert_eq!(lines(&s), want);
    }

    #[test]
    fn a_database_that_takes_no_writes_is_critical() {
        let mut s = snapshot();
        s.db.is_read_only = true;
        let want = ["CRITICAL the database takes no writes: no engine can beat, claim or finish -> rekindle doctor"];
        assert_eq!(lines(&s), want);
    }

    #[test]
    fn the_last_tenth_of_the_epochs_is_a_warning() {
        let mut s = snapshot();
        s.db.epoch = Epoch::new(Epoch::SCARCE);
        assert_eq!(lines(&s), Vec::<String>::new());
        s.db.epoch = Epoch::new(Epoch::SCARCE + 1);
        let want = ["WARNING 7549741 of 8388607 epochs are used: less than a tenth is left -> rekindle doctor"];
        assert_eq!(lines(&s), want);
    }

    #[test]
    fn a_server_with_too_few_connections_for_all_engines_is_a_warning() {
        let mut s = snapshot();
        let engines = s.current_engines().iter().filter(|engine| engine.is_alive).count() as u32;
        let limit = |limit| Some(ConnectionsView { limit, open: 3, per_engine: 6 });
        s.db.connections = limit(engines * 6);
        assert_eq!(lines(&s), Vec::<String>::new());
        s.db.connections = limit(engines * 6 - 1);
        let (need, there) = (engines * 6, engines * 6 - 1);
        let text = format!("{engines} engines may take {need} connections, the server has {there}");
        assert_eq!(lines(&s), [format!("WARNING {text} -> rekindle doctor")]);
    }

    #[test]
    fn old_ready_tasks_wrong_clocks_and_wrong_schemas_are_problems() {
        let mut s = snapshot();
        s.oldest_ready_age = Some(Duration::from_secs(725));
        s.oldest_ready_id = Some(TaskId::new(5_120));
        s.db.clock_skew = Duration::from_millis(2_001);
        s.db.is_schema_ok = false;
        s.db.schema = "6, this program needs 7".to_owned();
        let want = [
            "CRITICAL database schema does not fit: 6, this program needs 7 -> rekindle db status",
            "WARNING oldest ready task waits 12m05s (limit 5m) -> rekindle task show 5120",
            "WARNING clocks of this host and the database differ by 2.001s (limit 2s) -> rekindle doctor",
        ];
        assert_eq!(lines(&s), want);
        s.db.clock_skew = Duration::from_secs(2);
        assert_eq!(lines(&s).len(), 2);
        s = snapshot();
        s.db.clock_set_back = Some(Duration::from_secs(7_200));
        let want = ["WARNING the database's clock was set back: delayed and retried tasks come up to 2h late \
             -> rekindle doctor"];
        assert_eq!(lines(&s), want);
    }
}
