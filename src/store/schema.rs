//! The tables as diesel's query builder knows them, written by hand and the same for every backend: the
//! column types were chosen so that one description fits all. The store itself writes SQL text
//! (`sql.rs` says why); this is for programs beside it, for `diesel` on the command line, and for the
//! test that selects every column of every table on each backend.

#![expect(missing_docs, reason = "each column is commented in migrations/*/up.sql")]

diesel::table! {
    meta (one) {
        one -> BigInt,
        cluster_id -> Text,
        cluster -> Nullable<Text>,
        protocol -> BigInt,
        epoch -> BigInt,
        raised_epoch -> BigInt,
        settled_epoch -> BigInt,
        identity -> Text,
        raised_reason -> Nullable<Text>,
        orphan_scan_at -> BigInt,
        forget_at -> BigInt,
        forget_epoch -> BigInt,
        lives_forgotten_at -> BigInt,
        clock_seen_at -> BigInt,
    }
}

diesel::table! {
    engine (incarnation) {
        incarnation -> BigInt,
        name -> Text,
        live_name -> Nullable<Text>,
        state -> SmallInt,
        mode -> SmallInt,
        beat -> BigInt,
        last_beat_at -> BigInt,
        running -> Integer,
        refused -> BigInt,
        acknowledged -> SmallInt,
        proof -> Nullable<SmallInt>,
        ended_by -> Nullable<Text>,
        ended_at -> Nullable<BigInt>,
        heartbeat_ms -> Integer,
        query_ms -> Integer,
        lease_ms -> Integer,
        kill_ms -> Integer,
        takeover_ms -> Integer,
        sweep_ms -> Integer,
        counted_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    engine_info (incarnation) {
        incarnation -> BigInt,
        name -> Text,
        host -> Text,
        boot_id -> Text,
        pid -> BigInt,
        state_id -> Text,
        version -> Text,
        protocol_min -> Integer,
        protocol_max -> Integer,
        release -> Text,
        kinds -> Text,
        slots -> Integer,
        means -> Text,
        timing -> Text,
        registered_at -> BigInt,
        taken_over -> BigInt,
        end_state -> Nullable<SmallInt>,
        end_mode -> Nullable<SmallInt>,
        end_proof -> Nullable<SmallInt>,
        end_beat -> Nullable<BigInt>,
        end_beat_at -> Nullable<BigInt>,
        end_refused -> Nullable<BigInt>,
        ended_by -> Nullable<Text>,
        ended_at -> Nullable<BigInt>,
        lock_device -> Nullable<BigInt>,
        lock_inode -> Nullable<BigInt>,
        pid_namespace -> Nullable<BigInt>,
        start_ticks -> Nullable<BigInt>,
        kept_by -> Nullable<SmallInt>,
    }
}

diesel::table! {
    engine_wish (name) {
        name -> Text,
        wanted -> SmallInt,
        reason -> Nullable<Text>,
        set_by -> Text,
        set_at -> BigInt,
        until_at -> Nullable<BigInt>,
        deadline_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    task (id) {
        id -> BigInt,
        kind -> Text,
        state -> SmallInt,
        keyed -> SmallInt,
        priority -> SmallInt,
        reason -> SmallInt,
        attempt -> Integer,
        failures -> Integer,
        lost -> Integer,
        handed_back -> Integer,
        wish -> SmallInt,
        result -> Nullable<SmallInt>,
        policy -> Integer,
        version -> Integer,
        token -> BigInt,
        owner -> Nullable<BigInt>,
        nonce -> Nullable<BigInt>,
        due_at -> Nullable<BigInt>,
        claimed_at -> Nullable<BigInt>,
        ended_at -> Nullable<BigInt>,
        charged -> Nullable<BigInt>,
        stack -> Nullable<BigInt>,
        created_at -> BigInt,
        not_on -> Nullable<Text>,
        was_elsewhere -> SmallInt,
        engine -> Nullable<Text>,
        created_by -> Nullable<Text>,
        unique_key -> Nullable<Text>,
        error -> Nullable<Text>,
        payload -> Binary,
    }
}

diesel::table! {
    task_resource (task, resource) {
        task -> BigInt,
        resource -> Text,
        in_line -> SmallInt,
    }
}

diesel::table! {
    resource (name) {
        name -> Text,
        owner_task -> Nullable<BigInt>,
        owner -> Nullable<BigInt>,
        token -> BigInt,
        version -> BigInt,
        used_at -> BigInt,
    }
}

diesel::table! {
    task_archive (id) {
        id -> BigInt,
        kind -> Text,
        state -> SmallInt,
        priority -> SmallInt,
        reason -> SmallInt,
        attempt -> Integer,
        failures -> Integer,
        lost -> Integer,
        result -> Nullable<SmallInt>,
        token -> BigInt,
        owner -> Nullable<BigInt>,
        nonce -> Nullable<BigInt>,
        claimed_at -> Nullable<BigInt>,
        ended_at -> BigInt,
        stack -> Nullable<BigInt>,
        created_at -> BigInt,
        engine -> Nullable<Text>,
        created_by -> Nullable<Text>,
        resources -> Nullable<Text>,
        error -> Nullable<Text>,
        value -> Nullable<Text>,
        payload -> Binary,
    }
}

diesel::table! {
    attempt (task, attempt_, token) {
        task -> BigInt,
        // A column may not be called like its table here.
        #[sql_name = "attempt"]
        attempt_ -> Integer,
        engine -> Text,
        incarnation -> BigInt,
        token -> BigInt,
        nonce -> BigInt,
        started_at -> BigInt,
        ended_at -> BigInt,
        result -> SmallInt,
        exit_code -> Nullable<Integer>,
        detail -> Nullable<Text>,
    }
}

diesel::table! {
    attempt_output (task, attempt) {
        task -> BigInt,
        attempt -> Integer,
        dropped -> BigInt,
        output -> Binary,
    }
}

diesel::table! {
    history (id) {
        id -> BigInt,
        command -> BigInt,
        part -> Integer,
        made_at -> BigInt,
        made_by -> Text,
        host -> Text,
        program -> Text,
        version -> Text,
        verb -> Text,
        object -> Text,
        task_first -> Nullable<BigInt>,
        task_last -> Nullable<BigInt>,
        tasks -> Nullable<Text>,
        object_count -> BigInt,
        old_value -> Nullable<Text>,
        new_value -> Nullable<Text>,
        reason -> Nullable<Text>,
        until_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    hour (starts_at, kind, shard) {
        starts_at -> BigInt,
        kind -> Text,
        shard -> SmallInt,
        claimed -> BigInt,
        done -> BigInt,
        tempfail -> BigInt,
        failed -> BigInt,
        timeout -> BigInt,
        crash -> BigInt,
        lost -> BigInt,
        handed_back -> BigInt,
        canceled -> BigInt,
        fenced -> BigInt,
        failed_for_good -> BigInt,
        quarantined -> BigInt,
        run_us -> BigInt,
        run_max_us -> BigInt,
        waited -> BigInt,
        wait_us -> BigInt,
        wait_max_us -> BigInt,
    }
}

diesel::allow_tables_to_appear_in_same_query!(
    attempt,
    attempt_output,
    engine,
    engine_info,
    engine_wish,
    history,
    hour,
    meta,
    resource,
    task,
    task_archive,
    task_resource,
);
