-- Every statement commits by itself here, and may run twice.
ALTER TABLE task
    ALTER COLUMN created_at DROP DEFAULT,
    ALTER COLUMN payload DROP DEFAULT,
    DROP CONSTRAINT /*M! IF EXISTS */ task_kind_is_a_name,
    DROP CONSTRAINT /*M! IF EXISTS */ task_state_is_known,
    DROP CONSTRAINT /*M! IF EXISTS */ task_runs_with_an_owner,
    DROP CONSTRAINT /*M! IF EXISTS */ task_runs_with_a_claim,
    DROP CONSTRAINT /*M! IF EXISTS */ task_waits_for_a_time,
    DROP CONSTRAINT /*M! IF EXISTS */ task_codes_are_small,
    DROP CONSTRAINT /*M! IF EXISTS */ task_counts_can_grow,
    DROP CONSTRAINT /*M! IF EXISTS */ task_token_can_grow,
    DROP CONSTRAINT /*M! IF EXISTS */ task_created_at_is_in_microseconds,
    DROP CONSTRAINT /*M! IF EXISTS */ task_times_are_in_microseconds,
    DROP CONSTRAINT /*M! IF EXISTS */ task_payload_is_small;
ALTER TABLE task_resource
    DROP CONSTRAINT /*M! IF EXISTS */ task_resource_is_in_line_or_not;
ALTER TABLE resource
    DROP CONSTRAINT /*M! IF EXISTS */ resource_is_owned_or_not,
    DROP CONSTRAINT /*M! IF EXISTS */ resource_token_can_grow;
ALTER TABLE engine_wish
    DROP CONSTRAINT /*M! IF EXISTS */ engine_wish_is_known;
ALTER TABLE hour
    DROP CONSTRAINT /*M! IF EXISTS */ hour_counts_can_grow;
ALTER TABLE meta
    DROP CONSTRAINT /*M! IF EXISTS */ meta_epochs_are_epochs;
ALTER TABLE engine
    DROP CONSTRAINT /*M! IF EXISTS */ engine_state_is_known,
    DROP CONSTRAINT /*M! IF EXISTS */ engine_spans_are_possible,
    DROP CONSTRAINT /*M! IF EXISTS */ engine_counts_can_grow;
