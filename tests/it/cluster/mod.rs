//! The real programs: killed, stopped, cut off and set back, on SQLite and PostgreSQL. Each case asserts
//! on the database's history, on the oracle that its tasks write, and that no process is left.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as loudly as tests")]

mod chaos;
mod container;
mod copies;
mod cuts;
mod engine;
mod epochs;
mod host;
mod kills;
mod late;
mod lines;
mod logs;
mod names;
mod network;
mod outages;
mod places;
mod poison;
mod restores;
mod rig;
mod rights;
mod secrets;
pub mod server;
mod stops;
mod switch;
mod units;
mod unknown;

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
            epochs:
                an_operators_raise_of_the_epoch_holds_claims_until_it_is_settled;
            chaos:
                no_task_is_lost_and_none_runs_twice_at_once_under_random_faults;
            container:
                as_process_1_a_guard_reaps_every_orphan
                as_process_1_a_guard_obeys_the_signals_that_stop
                in_a_container_a_killed_engine_is_proved_dead_and_the_container_ends
                a_killed_container_takes_everything_along_and_its_name_comes_back_at_once;
            kills:
                a_killed_engine_is_proved_dead_and_its_task_runs_elsewhere_within_a_second
                the_same_with_the_process_tree
                the_same_with_a_pid_namespace
                the_same_with_a_control_group
                in_a_pid_namespace_everything_dies_with_guard_and_engine
                an_engine_whose_guard_is_killed_kills_its_tasks_and_dies
                after_the_death_of_both_tasks_die_and_a_peer_fences_by_expiry
                a_frozen_engine_is_killed_by_its_guard_before_a_successor_starts
                a_late_finish_of_an_engine_that_was_frozen_with_its_guard_is_refused_and_counted
                an_engine_whose_guard_is_frozen_kills_its_tasks_and_dies
                an_operators_fence_waits_until_the_engine_has_stopped_everything
                a_task_that_continues_is_named_to_the_guard_at_its_start
                an_engine_that_is_frozen_for_less_than_its_lease_goes_on;
            late:
                a_claim_that_commits_after_its_engine_was_closed_runs_again_by_itself
            a_running_task_that_was_deleted_by_hand_gives_its_resource_back;
            names:
                a_second_engine_of_a_live_name_exits_3_and_disturbs_nobody
                without_its_state_directory_a_dead_name_is_free_after_its_t
                after_the_death_of_both_the_same_state_directory_registers_at_once
                after_the_death_of_both_there_is_no_proof_where_something_may_have_got_away;
            places:
                a_schema_that_is_newer_is_refused_with_78
                an_engine_of_another_cluster_is_refused_with_78
                a_schema_that_becomes_newer_later_does_not_stop_who_works
                engines_that_start_together_set_an_empty_database_up
                what_is_no_database_is_refused_with_78;
            stops:
                a_cancel_is_obeyed_although_the_attempt_ends_by_itself_first
                stubborn_tasks_end_on_timeout_cancel_and_stop
                a_stopping_engine_lets_its_tasks_finish_and_its_peer_takes_the_rest
                an_engine_that_is_stopped_while_it_starts_exits_well
                a_second_signal_hands_back_at_once
                an_engine_that_ends_adds_what_it_did_to_the_hour
                what_still_runs_at_the_deadline_of_a_drain_is_handed_back
                drain_pause_and_stop_are_obeyed_with_the_next_beat;
            lines:
                two_engines_never_own_a_resource_at_once_and_keep_its_order;
            units:
                after_the_death_of_both_the_units_prover_kills_what_is_left_and_proves_it
                outside_of_its_service_the_units_prover_refuses;
            poison:
                a_task_that_stops_its_own_engine_waits_longer_each_time_and_is_set_aside
                a_poison_task_is_quarantined_after_three_engines_and_its_neighbours_never;
        }
    };
}

/// Cases in which a proxy stands before a server.
macro_rules! network_cases {
    ($on:path) => {
        run_all! {
            $on:
            network:
                a_cut_that_is_shorter_than_the_lease_allows_disturbs_nothing
                a_delay_below_q_disturbs_nothing
                a_delay_above_q_ends_the_life_and_its_tasks_in_time
                an_engine_in_a_black_hole_is_fenced_after_t_and_comes_back
                an_engine_whose_requests_are_lost_is_fenced_after_t_and_comes_back
                an_engine_whose_replies_are_lost_is_fenced_after_t_and_comes_back
                an_engine_whose_bytes_arrive_too_late_is_fenced_after_t_and_comes_back
                connections_that_are_reset_disturb_nothing
                connections_that_break_inside_of_a_frame_disturb_nothing
                flapping_networks_fence_nobody_whose_beats_arrive
                an_engine_starts_by_its_second_url_and_changes_over
                an_engine_starts_by_its_second_url_where_the_first_is_a_black_hole;
            unknown:
                a_claim_whose_answer_is_lost_runs_once
                an_end_whose_answer_is_lost_is_written_once
                a_failure_whose_answer_is_lost_uses_its_budget_once
                beats_whose_answers_are_lost_are_sent_again
                a_registration_whose_answer_is_lost_is_ended_by_the_next
                a_task_that_continues_goes_over_although_the_answer_is_lost
                a_fence_whose_answer_is_lost_is_finished_by_the_next_sweep
                a_takeover_whose_answer_is_lost_is_charged_once;
        }
    };
}

mod sqlite {
    cases!(super::rig::on_sqlite);
    run_all! {
        super::rig::on_sqlite:
        secrets:
            a_task_reads_nothing_of_its_engine_and_guard
            in_a_pid_namespace_of_a_user_it_reads_nothing_either
            a_frozen_engine_without_its_guard_is_found_by_the_next_start_of_its_user;
        names:
            a_copy_with_equal_inodes_disturbs_nobody;
        kills:
            a_release_that_was_removed_still_proves_the_death_of_its_engine;
        logs:
            nobody_reads_the_log_and_the_work_goes_on
            nobody_reads_the_log_and_a_frozen_engine_is_killed_in_time
            nobody_reads_the_log_and_a_killed_engine_leaves_nothing
            nobody_reads_the_log_and_a_cut_ends_no_engine
            nobody_reads_what_a_command_says_and_it_ends_in_time;
        host:
            what_the_host_cannot_start_costs_no_task_an_attempt
            an_engine_takes_all_descriptors_and_no_more_slots_than_fit
            a_kind_with_a_user_runs_as_that_user
            an_engine_that_may_not_become_a_kinds_user_exits_78_and_names_the_key;
        units:
            systemd_is_told_how_long_it_may_wait
            the_shipped_unit_fits_the_default_timing
            the_shipped_drop_in_closes_the_unit;
        copies:
            an_engine_whose_row_a_copy_beats_too_comes_back_as_another_life;
        restores:
            a_copy_that_is_put_back_in_place_during_a_long_outage_raises_the_epoch
            engines_that_were_started_again_notice_a_copy_that_was_put_back;
        outages:
            a_frozen_second_disturbs_nothing
            a_database_that_is_away_for_4_seconds_disturbs_no_balanced_engine
            a_long_freeze_kills_what_runs_and_the_work_goes_on_by_itself;
        places:
            a_state_directory_that_cannot_be_used_is_named
            what_is_kept_in_a_state_directory_must_be_what_it_should_be
            a_scratch_directory_that_cannot_be_used_is_named_before_the_first_task
            a_network_file_system_is_refused_with_78
            what_a_killed_life_left_in_its_scratch_is_cleared_by_the_next
            a_file_that_is_replaced_raises_the_epoch_and_work_goes_on
            a_file_that_is_deleted_stops_the_work_with_a_clear_error;
    }
}

mod postgres {
    cases!(super::rig::on_postgres);
    network_cases!(super::rig::on_postgres);
    run_all! {
        super::rig::on_postgres:
        copies:
            an_engine_whose_row_a_copy_beats_too_comes_back_as_another_life;
        rights:
            an_engine_whose_user_lacks_a_right_exits_77_and_names_it
            an_engine_that_loses_a_right_says_it_is_stuck_and_goes_on_with_it;
        host:
            what_a_task_wrote_delays_no_all_clear;
        places:
            a_login_that_is_refused_exits_77_with_a_next_step
            an_engine_waits_for_a_server_that_is_not_there_yet;
        outages:
            connections_that_are_ended_disturb_nothing;
    }
}

/// Those in which the database has a part; what only processes do is the same as above.
mod mariadb {
    network_cases!(super::rig::on_mariadb);
    run_all! {
        super::rig::on_mariadb:
        copies:
            an_engine_whose_row_a_copy_beats_too_comes_back_as_another_life;
        rights:
            an_engine_whose_user_lacks_a_right_exits_77_and_names_it
            an_engine_that_loses_a_right_says_it_is_stuck_and_goes_on_with_it;
        epochs:
            an_operators_raise_of_the_epoch_holds_claims_until_it_is_settled;
        chaos:
            no_task_is_lost_and_none_runs_twice_at_once_under_random_faults;
        kills:
            a_killed_engine_is_proved_dead_and_its_task_runs_elsewhere_within_a_second
            after_the_death_of_both_tasks_die_and_a_peer_fences_by_expiry
            a_late_finish_of_an_engine_that_was_frozen_with_its_guard_is_refused_and_counted
            an_operators_fence_waits_until_the_engine_has_stopped_everything;
        late:
            a_claim_that_commits_after_its_engine_was_closed_runs_again_by_itself
            a_running_task_that_was_deleted_by_hand_gives_its_resource_back;
        names:
            a_second_engine_of_a_live_name_exits_3_and_disturbs_nobody;
        places:
            a_login_that_is_refused_exits_77_with_a_next_step
            a_schema_that_is_newer_is_refused_with_78
            engines_that_start_together_set_an_empty_database_up;
        stops:
            a_cancel_is_obeyed_although_the_attempt_ends_by_itself_first
            an_engine_that_ends_adds_what_it_did_to_the_hour
            drain_pause_and_stop_are_obeyed_with_the_next_beat;
        lines:
            two_engines_never_own_a_resource_at_once_and_keep_its_order;
        poison:
            a_task_that_stops_its_own_engine_waits_longer_each_time_and_is_set_aside
            a_poison_task_is_quarantined_after_three_engines_and_its_neighbours_never;
        outages:
            connections_that_are_ended_disturb_nothing;
    }
}

mod own_mariadb {
    #[test]
    fn engines_follow_the_mariadb_that_takes_writes() {
        super::switch::on_replicated_mariadb(super::switch::engines_follow_the_mariadb_that_takes_writes);
    }
    #[test]
    fn cuts_of_the_network_take_no_more_connections_than_an_engine_may_have() {
        if crate::support::mariadb::server().is_some() {
            super::rig::on_island(super::server::MARIADB, super::cuts::cuts_of_the_network_take_no_more_connections);
        }
    }
    run_all! {
        super::rig::on_own_mariadb:
        places:
            a_server_that_is_set_for_people_at_a_prompt_is_used_like_any_other;
        restores:
            a_data_directory_that_is_put_back_under_a_stopped_server_raises_the_epoch;
        outages:
            a_frozen_second_disturbs_nothing
            a_database_that_is_away_for_4_seconds_disturbs_no_balanced_engine
            an_engine_that_starts_while_nothing_takes_writes_waits
            an_engine_that_is_stopped_while_the_database_is_away_ends
            a_long_freeze_kills_what_runs_and_the_work_goes_on_by_itself;
    }
}

/// Cases that stop and freeze a server.
mod own_postgres {
    #[test]
    fn cuts_of_the_network_take_no_more_connections_than_an_engine_may_have() {
        if crate::support::postgres::server().is_some() {
            super::rig::on_island(super::server::POSTGRES, super::cuts::cuts_of_the_network_take_no_more_connections);
        }
    }
    run_all! {
        super::rig::on_own_postgres:
        restores:
            a_data_directory_that_is_put_back_under_a_stopped_server_raises_the_epoch;
        switch:
            engines_follow_the_postgres_that_takes_writes;
        outages:
            a_frozen_second_disturbs_nothing
            a_database_that_is_away_for_4_seconds_disturbs_no_balanced_engine
            a_database_that_is_read_only_for_a_while_ends_no_engine
            an_engine_that_starts_while_nothing_takes_writes_waits
            an_engine_that_is_stopped_while_the_database_is_away_ends
            a_minute_without_database_kills_what_runs_and_the_work_goes_on_by_itself
            a_long_freeze_kills_what_runs_and_the_work_goes_on_by_itself;
    }
}

/// A pooler in transaction mode sits between. Left out is what only processes do, and who is let in: that is
/// between an engine and the pooler's own list of users.
mod pgbouncer {
    network_cases!(super::rig::on_pgbouncer);
    run_all! {
        super::rig::on_pgbouncer:
        epochs:
            an_operators_raise_of_the_epoch_holds_claims_until_it_is_settled;
        chaos:
            no_task_is_lost_and_none_runs_twice_at_once_under_random_faults;
        kills:
            a_killed_engine_is_proved_dead_and_its_task_runs_elsewhere_within_a_second
            after_the_death_of_both_tasks_die_and_a_peer_fences_by_expiry
            a_frozen_engine_is_killed_by_its_guard_before_a_successor_starts
            a_late_finish_of_an_engine_that_was_frozen_with_its_guard_is_refused_and_counted
            an_operators_fence_waits_until_the_engine_has_stopped_everything;
        late:
            a_claim_that_commits_after_its_engine_was_closed_runs_again_by_itself
            a_running_task_that_was_deleted_by_hand_gives_its_resource_back;
        lines:
            two_engines_never_own_a_resource_at_once_and_keep_its_order;
        names:
            a_second_engine_of_a_live_name_exits_3_and_disturbs_nobody
            after_the_death_of_both_the_same_state_directory_registers_at_once;
        outages:
            connections_that_are_ended_disturb_nothing;
        places:
            a_schema_that_is_newer_is_refused_with_78
            an_engine_of_another_cluster_is_refused_with_78
            a_schema_that_becomes_newer_later_does_not_stop_who_works
            engines_that_start_together_set_an_empty_database_up;
        poison:
            a_poison_task_is_quarantined_after_three_engines_and_its_neighbours_never;
        stops:
            a_stopping_engine_lets_its_tasks_finish_and_its_peer_takes_the_rest
            an_engine_that_ends_adds_what_it_did_to_the_hour
            what_still_runs_at_the_deadline_of_a_drain_is_handed_back
            drain_pause_and_stop_are_obeyed_with_the_next_beat;
    }
}

mod own_pgbouncer {
    run_all! {
        super::rig::on_own_pgbouncer:
        outages:
            a_frozen_second_disturbs_nothing
            a_database_that_is_away_for_4_seconds_disturbs_no_balanced_engine
            a_long_freeze_kills_what_runs_and_the_work_goes_on_by_itself
            a_pooler_that_is_started_again_disturbs_nothing
            a_pooler_that_is_away_for_long_kills_what_runs_and_the_work_goes_on_by_itself
            a_pooler_that_is_away_stops_nothing_where_beats_go_round_it;
    }
}
