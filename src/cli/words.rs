//! The words that people meet on the screen, each in a sentence or two, for `rekindle explain WORD`.

/// States of tasks.
pub const TASK_STATES: &[(&str, &str)] = &[
    (
        "ready",
        "May run now: any live engine that takes its kind and has a free slot claims it. One that stays ready waits for such \
an engine (rekindle engine list -o wide shows what each takes).",
    ),
    (
        "waiting",
        "Waits until a time: added with --delay, or put back for its next try after a temporary failure. rekindle task show \
names the time.",
    ),
    (
        "blocked",
        "Stands in the line of a resource behind another task, which runs, waits or has failed there. rekindle resource show \
NAME shows the line.",
    ),
    ("running", "An engine has claimed it and runs an attempt. rekindle task show names the engine."),
    ("held", "An operator put it aside: it runs only after rekindle task retry."),
    ("done", "Ended well. Kept for retention.done."),
    (
        "failed",
        "Failed for good: it said so (exit 64 and the like), or its tries are used up. It waits for a person: rekindle task log, \
then retry or cancel.",
    ),
    (
        "interrupted",
        "Its engine was lost or stopped under it, and its kind says rerun = \"never\": it may have done its work. Look at \
that first, then rekindle task retry runs it again, or rekindle task cancel closes it. Bulk retries leave it out.",
    ),
    ("canceled", "A person called it off. Kept for retention.canceled."),
    (
        "quarantined",
        "Engines were lost under it as often as its max_lost allows, so it may be what kills them. It waits for a person: \
look at its attempts before rekindle task retry.",
    ),
];

/// States of engines.
pub const ENGINE_STATES: &[(&str, &str)] = &[
    ("starting", "Registered, and not yet taking tasks: its first heartbeat is not accepted yet."),
    ("active", "Beats and takes tasks."),
    ("paused", "Beats and takes nothing new, because somebody asked for it: rekindle engine resume ends it."),
    ("draining", "Takes nothing new and still runs what it has."),
    (
        "drained",
        "Was asked to drain, and nothing runs any more: its host may be touched. rekindle engine resume ends it, also after a \
restart.",
    ),
    (
        "stuck",
        "Cannot write how its tasks ended (a right taken away, a full disk), so it takes no others. rekindle doctor says why.",
    ),
    (
        "starved",
        "Takes fewer tasks than it has slots, because its host cannot start more: it lacks processes, memory or file \
descriptors. Tasks that were not started count as no failure. rekindle doctor names the limits.",
    ),
    (
        "late",
        "Has missed a heartbeat. It is fenced if the next ones do not come either; until then its tasks are left alone.",
    ),
    (
        "fenced",
        "Was declared dead, and its tasks were taken over. The engine comes back by itself as a new life, if it still runs.",
    ),
    ("stopped", "Said goodbye: nothing that it started runs any more."),
];

/// Other words.
pub const OTHERS: &[(&str, &str)] = &[
    (
        "beat",
        "A heartbeat: one write to the engine's row that the database accepted. Peers watch whether its counter goes on.",
    ),
    (
        "lease",
        "How long an engine may trust its last accepted beat (L). When it is over the engine kills what it runs; peers take \
over later, so that both never act at once.",
    ),
    (
        "life",
        "One run of an engine from its registration to its end, with a number that is never used again. A name has many lives, one after the other.",
    ),
    ("fence", "To declare an engine's life dead. Whatever it writes afterwards is refused."),
    (
        "proof",
        "How it is known that a fenced engine runs nothing any more: its guard saw to it (guard), its successor holds its lock \
(lock), systemd ended the unit (unit), it said so itself (self), an operator did (operator); or nothing but the time (expiry).",
    ),
    (
        "wish",
        "What a person asked of a running task: cancel, hold or requeue. Its engine hears of it with its next beat.",
    ),
    (
        "wanted",
        "What operators want of an engine's name: run, pause, drain or stop. It outlasts the engine's lives, but for stop.",
    ),
    (
        "token",
        "A number that grows with every claim of a task or resource. Results, and outside systems that check it, refuse a smaller one.",
    ),
    (
        "epoch",
        "The high part of every token. It is raised after a failover or a restore, so that new tokens outrank all old ones.",
    ),
    ("takeover", "Giving the tasks of a dead engine to the living ones, in their old place in line."),
    (
        "guard",
        "The parent process of an engine: it kills what a dead or frozen engine left running, and proves its death.",
    ),
    ("resource", "A named thing that at most one task at a time works on. Tasks that name it stand in its line."),
];

/// All of them, in groups.
pub const ALL: [(&str, &[(&str, &str)]); 3] =
    [("task state", TASK_STATES), ("engine state", ENGINE_STATES), ("word", OTHERS)];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::snapshot::EngineState;
    use crate::protocol::task::TaskState;

    #[test]
    fn every_state_is_explained_and_nothing_else() {
        let explained: Vec<&str> = TASK_STATES.iter().map(|(word, _)| *word).collect();
        let mut missing = TaskState::ALL.iter().filter(|state| !explained.contains(&state.word()));
        assert_eq!(missing.next(), None);
        let explained: Vec<&str> = ENGINE_STATES.iter().map(|(word, _)| *word).collect();
        let known: Vec<&str> = EngineState::ALL.iter().map(|state| state.word()).collect();
        assert_eq!(explained, known);
    }
}
