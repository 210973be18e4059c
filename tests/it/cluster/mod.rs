//! The real programs: killed, stopped, cut off and set back, on SQLite and PostgreSQL. Each case asserts
//! on the database's history, on the oracle that its tasks write, and that no process is left.

mod engine;
mod kills;
mod lines;
mod poison;
mod rig;
mod server;

macro_rules! run_all {
    ($on:path: $($room:ident: $($case:ident)+;)+) => {
        $($(#[test]
        fn $case() {
            $on(super::$room::$case);
        })+)+
    };
}

/// Cases for every database.
macro_rules! cases {
    ($on:path) => {
        run_all! {
            $on:
            kills:
                a_killed_engine_is_proved_dead_and_its_task_runs_elsewhere_within_a_second
                the_same_with_the_process_tree
                the_same_with_a_pid_namespace
                an_engine_whose_guard_is_killed_kills_its_tasks_and_dies
                after_the_death_of_both_tasks_die_and_a_peer_fences_by_expiry
                a_frozen_engine_is_killed_by_its_guard_before_a_successor_starts
                a_late_finish_of_an_engine_that_was_frozen_with_its_guard_is_refused_and_counted
                an_engine_that_is_frozen_for_less_than_its_lease_goes_on;
            lines:
                two_engines_never_own_a_resource_at_once_and_keep_its_order;
            poison:
                a_poison_task_is_quarantined_after_three_engines_and_its_neighbours_never;
        }
    };
}

mod sqlite {
    cases!(super::rig::on_sqlite);
}

mod postgres {
    cases!(super::rig::on_postgres);
}
