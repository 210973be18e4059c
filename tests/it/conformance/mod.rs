//! One suite for every store: each case is a function, run against each backend over a database of its
//! own. A backend is skipped only where its server is not named, and the skip is printed.

mod audit;
mod claims;
mod engines;
mod fences;
mod finishes;
mod forgetting;
mod lines;
mod model;
mod pooler;
mod races;
mod rows;
mod schema;
mod takeover;
mod tasks;
mod texts;

/// The cases, as tests of one backend.
macro_rules! run_all {
    ($on:path: $($room:ident: $($case:ident)+;)+) => {
        $($(#[test]
        fn $case() {
            $on(super::$room::$case);
        })+)+
    };
}

/// Cases that every store passes.
macro_rules! store_cases {
    ($on:path) => {
        run_all! {
            $on:
            audit:
                each_change_by_a_person_has_its_entry
                a_running_task_is_asked_to_stop_and_the_history_says_no_more
                what_was_not_changed_has_no_entry
                forgotten_engines_are_named_in_the_history
                a_command_in_batches_is_one_entry_that_each_of_its_tasks_finds
                the_same_transaction_cannot_be_written_twice
                the_history_is_asked_by_person_and_time
                a_batch_tells_each_task_what_one_alone_would_be_told
                a_batch_cancels_every_task_that_is_not_over
                a_batch_wakes_the_lines_that_it_leaves
                a_database_that_moved_takes_no_batch_of_cancels
                what_engines_count_adds_up_and_keeps_the_longest
                engines_that_make_the_same_row_at_once_lose_no_count
                a_takeover_counts_what_was_lost
                what_a_dead_engine_had_not_told_is_counted_once
                hours_are_forgotten_when_they_are_old
                the_wait_is_known_of_tasks_that_waited_for_an_engine_only;
            engines:
                a_live_namesake_is_refused_and_described
                a_former_life_ends_with_its_proof_in_the_registering_transaction
                adopted_tasks_keep_running_and_the_others_are_handed_back
                accepted_beats_count_up_by_one
                late_beat_of_a_fenced_incarnation_is_gone
                beat_of_a_stopped_incarnation_is_gone
                what_operators_want_arrives_with_the_beat
                a_wish_that_has_run_out_counts_as_run
                what_is_wanted_belongs_to_the_name_and_outlives_the_life
                wishes_on_running_tasks_arrive_with_the_beat_of_their_owner
                the_epoch_is_raised_by_compare_and_set_and_arrives_with_the_beat
                a_database_that_moved_is_seen_with_the_next_beat_and_recorded_by_a_raise
                engines_read_what_was_registered
                a_registration_says_whether_remembered_beats_are_lost
                a_clock_that_was_set_back_is_noted_once_and_arrives_with_the_beat
                a_former_life_that_a_copy_may_still_run_is_fenced_and_left_alone
                a_life_that_lost_beats_hands_nothing_back_before_the_epoch_is_raised
                live_and_owning_engines_are_not_forgotten;
            fences:
                a_filtered_sweep_lists_the_late_and_a_full_one_all_with_their_own_timing
                a_beat_from_the_future_is_late_too
                the_longest_timing_does_not_overflow_the_filter
                a_sweep_says_when_the_next_waiting_task_is_due
                a_fence_with_the_right_beat_wins_once
                a_fence_with_a_stale_beat_misses
                a_fence_with_a_proof_needs_no_beat
                of_many_fences_at_once_one_wins
                a_fenced_incarnation_never_lives_again
                an_engine_is_closed_only_when_it_owns_nothing
                the_search_for_orphans_is_given_to_one_caller
                a_claim_that_commits_after_its_engine_was_closed_is_found;
            forgetting:
                a_resource_that_was_forgotten_and_made_again_has_a_larger_token
                a_few_idle_resources_are_not_worth_an_epoch
                nothing_is_forgotten_while_an_epoch_is_being_settled
                the_last_tenth_of_the_epochs_is_not_used_to_forget;
            takeover:
                tasks_of_a_live_engine_are_left_alone
                orphans_become_ready_in_their_old_place_with_a_raised_token
                the_lost_attempt_is_written_with_its_evidence
                the_third_lost_engine_quarantines_the_task
                an_incarnation_is_charged_once_per_task
                rerun_never_interrupts_and_raises_the_token
                a_wish_to_cancel_is_obeyed_at_takeover
                a_wish_is_obeyed_by_whoever_ends_the_life_of_the_owner
                what_a_stopped_engine_left_counts_as_handed_back
                a_takeover_goes_on_in_batches
                several_sweepers_take_each_task_once
                a_takeover_wakes_the_line;
            claims:
                tasks_are_claimed_by_priority_then_number_up_to_the_limit
                a_claim_says_what_it_is_about
                only_the_kind_that_was_asked_for_is_claimed
                a_probe_says_which_kinds_have_work
                a_task_barred_from_a_host_is_claimed_on_another
                a_task_barred_from_the_only_host_has_failed
                another_host_is_one_that_takes_this_very_kind
                a_host_that_takes_nothing_is_no_other_host
                a_task_that_cost_two_engines_runs_alone
                an_alone_claim_takes_one_task_and_no_innocent_ones
                a_fenced_incarnation_claims_nothing
                nothing_is_claimed_before_a_raised_epoch_is_settled
                nothing_is_claimed_from_a_database_that_moved
                nothing_that_raises_a_token_is_written_to_a_database_that_moved
                tokens_of_a_task_only_grow
                tokens_of_a_resource_only_grow;
            finishes:
                a_wrong_token_or_nonce_is_refused_and_changes_nothing
                a_done_task_moves_to_the_archive_with_its_payload
                a_batch_of_ends_has_an_outcome_for_each_in_its_order
                a_retry_waits_and_is_promoted_when_due
                promotion_keeps_to_its_limit_and_to_the_order_of_due_times
                a_failed_task_keeps_its_row_and_its_reason
                canceled_and_held_ends_are_kept_apart
                an_accepted_wish_is_obeyed_however_its_owner_ends_the_attempt
                a_batch_of_ends_obeys_the_wish_of_each
                hand_backs_in_a_row_are_counted_as_the_end_says
                what_never_started_is_handed_back_free
                ends_of_a_running_batch_are_read_back_by_nonce
                a_hand_back_at_or_after_its_engines_end_reads_back_as_written
                refused_results_are_counted_also_after_the_row_is_closed
                the_last_output_is_read_and_an_earlier_one_by_its_number;
            lines:
                one_task_at_a_time_in_the_order_of_the_line
                those_behind_are_blocked_and_the_head_is_woken
                different_resources_run_side_by_side
                a_priority_does_not_overtake_within_a_line
                a_task_takes_all_its_resources_or_none
                a_batch_ends_with_its_resources_free_and_their_lines_awake
                a_claim_of_several_resources_takes_the_largest_token_plus_one
                a_retry_keeps_its_place
                with_on_retry_pass_those_behind_go_first
                a_failure_lets_the_line_go_on_unless_the_kind_says_block
                a_line_that_stands_goes_on_with_a_retry
                held_and_canceled_ends_wake_the_next
                canceling_a_blocked_task_or_a_waiting_head_wakes_the_next
                a_blocked_task_of_two_lines_is_woken_by_the_last_one
                a_delayed_task_joins_the_line_when_it_is_due
                a_lost_wake_up_is_found_by_the_slow_sweep;
            races:
                two_engines_never_own_one_resource_and_its_order_is_kept
                of_namesakes_that_register_at_once_one_gets_the_name
                batches_of_verbs_beside_claims_neither_deadlock_nor_lose_a_task
                canceling_heads_while_claiming_loses_no_wake_up
                overlapping_resources_in_any_order_neither_deadlock_nor_overlap
                four_engines_claim_two_thousand_tasks_each_once
                a_late_finish_races_the_takeover_and_one_of_them_wins
                adding_while_claiming_loses_nobody_in_line;
            tasks:
                many_tasks_are_added_in_order
                tasks_are_added_all_or_none
                retry_fits_waiting_failed_quarantined_and_held_tasks
                cancel_fits_every_task_that_is_not_over
                an_interrupted_task_is_told_apart_from_failed_ones
                verbs_on_unknown_and_done_tasks_change_nothing
                a_canceled_task_is_redriven_under_its_number
                tasks_are_listed_newest_first_by_state_kind_resource_and_engine
                states_of_many_tasks_are_read_at_once
                status_counts_what_is_there
                lost_attempts_of_the_last_hour_are_counted
                every_fence_of_the_last_hour_is_counted
                resources_in_use_or_named_are_listed
                attempts_are_listed_in_order_with_the_running_and_the_last_one;
            texts:
                payloads_come_back_byte_for_byte
                resource_names_may_hold_quotes_and_any_script
                names_that_differ_in_case_or_accent_are_different
                what_a_program_printed_never_makes_its_end_unwritable
                a_failing_step_leaves_nothing_half_done
                a_server_describes_itself;
        }
    };
}

/// Of those that number tasks without gaps, as memory does. A Galera cluster leaves out the numbers of other nodes.
macro_rules! model_cases {
    ($on:path) => {
        run_all! {
            $on:
            model:
                random_histories_read_the_same_as_in_memory;
        }
    };
}

/// Of those that tell a watcher of changes. Behind a pooler nobody does.
macro_rules! watcher_cases {
    ($on:path) => {
        run_all! {
            $on:
            texts:
                a_watcher_sees_what_others_add
                a_watcher_sees_what_a_takeover_made_ready;
        }
    };
}

/// Of watchers that ring.
macro_rules! bell_cases {
    ($on:path) => {
        run_all! {
            $on:
            texts:
                a_watcher_rings_for_what_others_add_and_then_is_quiet;
        }
    };
}

/// Cases in which other programs write, too.
macro_rules! rows_cases {
    ($on:path) => {
        run_all! {
            $on:
            rows:
                what_another_program_may_leave_out_has_a_default
                rows_that_no_engine_would_write_are_refused
                a_row_at_the_end_of_its_numbers_stops_nobody_else
                a_running_task_that_nobody_owns_is_taken_over
                a_resource_whose_task_was_deleted_is_freed_when_its_engine_says_so
                a_line_whose_head_was_deleted_goes_on
                a_row_of_an_engine_that_cannot_be_read_ends_no_sweep
                one_claim_brings_no_more_than_its_bytes
                no_row_poisons_the_mean_of_its_hour
                a_crash_loop_leaves_few_lives_and_status_reads_one
                random_rows_stop_nothing_but_themselves;
        }
    };
}

/// Cases of databases that have a schema; they begin with an empty one.
macro_rules! schema_cases {
    ($on:path) => {
        run_all! {
            $on:
            schema:
                an_empty_database_says_that_everything_is_pending
                migrating_twice_finds_nothing_to_do
                eight_engines_that_migrate_at_once_all_succeed
                a_database_that_is_newer_is_refused
                an_older_database_is_refused_until_it_is_migrated
                a_lost_meta_row_is_made_again_by_the_next_migration
                the_schema_goes_down_and_up_again
                every_column_of_every_table_can_be_selected
                a_database_refuses_timing_that_breaks_the_inequalities;
            rows:
                the_migration_mends_rows_or_sets_them_aside;
        }
    };
}

/// Of those that show everybody the lock of a migration. On Galera it is the node's own.
macro_rules! lock_cases {
    ($on:path) => {
        run_all! {
            $on:
            schema:
                a_migration_that_is_under_way_is_waited_for
                a_migration_that_takes_too_long_is_told_from_a_schema_that_is_older;
        }
    };
}

mod memory {
    store_cases!(crate::support::databases::on_memory);
    model_cases!(crate::support::databases::on_memory);
    watcher_cases!(crate::support::databases::on_memory);
}

mod sqlite {
    store_cases!(crate::support::databases::on_sqlite);
    model_cases!(crate::support::databases::on_sqlite);
    watcher_cases!(crate::support::databases::on_sqlite);
    bell_cases!(crate::support::databases::on_sqlite);
    rows_cases!(crate::support::databases::on_sqlite);
    schema_cases!(crate::support::databases::on_empty_sqlite);
    lock_cases!(crate::support::databases::on_empty_sqlite);
}

mod mariadb {
    store_cases!(crate::support::databases::on_mariadb);
    model_cases!(crate::support::databases::on_mariadb);
    watcher_cases!(crate::support::databases::on_mariadb);
    bell_cases!(crate::support::databases::on_mariadb);
    rows_cases!(crate::support::databases::on_mariadb);
    schema_cases!(crate::support::databases::on_empty_mariadb);
    lock_cases!(crate::support::databases::on_empty_mariadb);
}

mod postgres {
    store_cases!(crate::support::databases::on_postgres);
    model_cases!(crate::support::databases::on_postgres);
    watcher_cases!(crate::support::databases::on_postgres);
    bell_cases!(crate::support::databases::on_postgres);
    rows_cases!(crate::support::databases::on_postgres);
    schema_cases!(crate::support::databases::on_empty_postgres);
    lock_cases!(crate::support::databases::on_empty_postgres);
}

/// As a user without special rights, on a server that is set to everything that could be in the way.
mod postgres_hostile {
    store_cases!(crate::support::databases::on_hostile_postgres);
    model_cases!(crate::support::databases::on_hostile_postgres);
    watcher_cases!(crate::support::databases::on_hostile_postgres);
    bell_cases!(crate::support::databases::on_hostile_postgres);
    schema_cases!(crate::support::databases::on_empty_hostile_postgres);
    lock_cases!(crate::support::databases::on_empty_hostile_postgres);
}

/// The same on MariaDB.
mod mariadb_hostile {
    store_cases!(crate::support::databases::on_hostile_mariadb);
    model_cases!(crate::support::databases::on_hostile_mariadb);
    watcher_cases!(crate::support::databases::on_hostile_mariadb);
    bell_cases!(crate::support::databases::on_hostile_mariadb);
    schema_cases!(crate::support::databases::on_empty_hostile_mariadb);
    lock_cases!(crate::support::databases::on_empty_hostile_mariadb);
}

mod pgbouncer {
    store_cases!(crate::support::databases::on_pgbouncer);
    model_cases!(crate::support::databases::on_pgbouncer);
    schema_cases!(crate::support::databases::on_empty_pgbouncer);
    lock_cases!(crate::support::databases::on_empty_pgbouncer);
    run_all! {
        crate::support::databases::on_pgbouncer:
        pooler:
            it_says_that_it_is_behind_one
            nothing_is_left_in_the_sessions_of_the_pool;
    }
    // By way of the heartbeat's own URL.
    watcher_cases!(crate::support::databases::on_pgbouncer_beside);
}

/// Engines on two nodes of one cluster.
mod galera {
    store_cases!(crate::support::databases::on_galera);
    watcher_cases!(crate::support::databases::on_galera);
    bell_cases!(crate::support::databases::on_galera);
    schema_cases!(crate::support::databases::on_empty_galera);
}

/// What one database has, the others have under the same name.
#[test]
fn the_databases_have_the_same_migrations() {
    let names = |backend: &str| {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(backend);
        let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert!(!names("sqlite").is_empty());
    assert_eq!(names("sqlite"), names("postgres"));
    assert_eq!(names("sqlite"), names("mysql"));
}
