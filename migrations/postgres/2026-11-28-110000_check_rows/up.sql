-- Rows that other programs write: what no version of this program writes is refused from now on, with the name of
-- the rule in the error, and what such a program may leave out has a default. Takes effect when it has run; engines
-- of older releases go on beside it, because nothing that they write is refused.
--
-- Rows that are there and break a rule are mended first, never deleted but where nobody can mean them:
-- * numbers out of their range go to the nearest one in it; times that are no microseconds since 1970 become now (of
--   a task's creation) or unknown; a running task without an owner, or with a negative one, belongs to engine 0,
--   which nobody is: the next search for orphans takes it over, with its evidence;
-- * unfinished tasks with an unknown state, a kind that no engine can have, a payload over 1 MiB or a token that
--   cannot grow any more are set aside as failed; `error` begins with "set aside by a migration" and says why:
--   rekindle task list -s failed;
-- * an engine's row with an unknown state counts as fenced by an operator, one with impossible spans gets the
--   longest possible ones; a wish that says nothing goes.
--
-- Each table is locked while it is read once, and until this transaction ends: about a second for a million
-- unfinished tasks. The small table of engines comes last, so that beats wait the least. Constraints are not added
-- as NOT VALID: within one transaction the lock is the same.
-- The tables of what has ended (task_archive, attempt, history) have no rules: they may be large, and no engine
-- reads them to decide anything. src/store/queries/stray.rs says what engines do about rows that were written
-- with the rules switched off.

-- Of tasks.
UPDATE task SET error = 'set aside by a migration: its kind was "' || kind || '", which no engine can have',
    kind = 'not-a-kind', state = 5, owner = NULL, nonce = NULL
    WHERE (kind COLLATE "C" ~ '[^A-Za-z0-9._+@-]' OR length(kind) NOT BETWEEN 1 AND 128);
UPDATE task SET error = 'set aside by a migration: its state was ' || state || ', which means nothing', state = 5,
    owner = NULL, nonce = NULL
    WHERE state NOT BETWEEN 0 AND 6;
UPDATE task SET error = 'set aside by a migration: its payload is over 1 MiB', state = 5
    WHERE state IN (0, 1, 2) AND attempt <= 0 AND octet_length(payload) > 1048576;
UPDATE task SET error = 'set aside by a migration: its token cannot grow any more', state = 5
    WHERE state IN (0, 1, 2) AND token >= 9223372036854775806;
UPDATE task_resource SET in_line = 0 WHERE task IN (SELECT id FROM task
    WHERE state = 5 AND error LIKE 'set aside by a migration:%');
UPDATE task SET owner = NULL, nonce = NULL WHERE state <> 3 AND owner IS NOT NULL;
UPDATE task SET owner = CASE WHEN owner >= 0 THEN owner ELSE 0 END, nonce = COALESCE(nonce, 0),
    claimed_at = COALESCE(claimed_at, (extract(epoch from clock_timestamp()) * 1000000)::bigint)
    WHERE state = 3 AND (owner IS NULL OR owner < 0 OR nonce IS NULL OR claimed_at IS NULL);
UPDATE task SET due_at = (extract(epoch from clock_timestamp()) * 1000000)::bigint
    WHERE (state = 1 AND due_at IS NULL) OR due_at NOT BETWEEN 0 AND 9000000000000000000;
UPDATE task SET created_at = (extract(epoch from clock_timestamp()) * 1000000)::bigint
    WHERE created_at NOT BETWEEN 1000000000000000 AND 253402300800000000;
UPDATE task SET claimed_at = CASE WHEN state = 3 THEN (extract(epoch from clock_timestamp()) * 1000000)::bigint END
    WHERE claimed_at NOT BETWEEN 0 AND 253402300800000000;
UPDATE task SET ended_at = NULL WHERE ended_at NOT BETWEEN 0 AND 253402300800000000;
UPDATE task SET keyed = CASE WHEN keyed = 0 THEN 0 ELSE 1 END,
    reason = CASE WHEN reason BETWEEN 0 AND 99 THEN reason ELSE 0 END,
    wish = CASE WHEN wish BETWEEN 0 AND 99 THEN wish ELSE 0 END,
    result = CASE WHEN result BETWEEN 0 AND 99 THEN result END,
    policy = CASE WHEN policy BETWEEN 0 AND 1000000000 THEN policy ELSE 3 END
    WHERE keyed NOT BETWEEN 0 AND 1 OR reason NOT BETWEEN 0 AND 99 OR wish NOT BETWEEN 0 AND 99
    OR result NOT BETWEEN 0 AND 99 OR policy NOT BETWEEN 0 AND 1000000000;
UPDATE task SET attempt = LEAST(GREATEST(attempt, 0), 1000000000), failures = LEAST(GREATEST(failures, 0),
    1000000000), lost = LEAST(GREATEST(lost, 0), 1000000000),
    handed_back = LEAST(GREATEST(handed_back, 0), 1000000000), version = LEAST(GREATEST(version, 0), 1000000000),
    token = LEAST(GREATEST(token, 0), 9223372036854775806)
    WHERE attempt NOT BETWEEN 0 AND 1000000000 OR failures NOT BETWEEN 0 AND 1000000000
    OR lost NOT BETWEEN 0 AND 1000000000
    OR handed_back NOT BETWEEN 0 AND 1000000000 OR version NOT BETWEEN 0 AND 1000000000
    OR token NOT BETWEEN 0 AND 9223372036854775806;
-- Of resources.
UPDATE task_resource SET in_line = CASE WHEN in_line = 0 THEN 0 ELSE 1 END WHERE in_line NOT BETWEEN 0 AND 1;
UPDATE resource SET token = LEAST(GREATEST(token, 0), 9223372036854775806), version = 0
    WHERE token NOT BETWEEN 0 AND 9223372036854775806 OR version NOT BETWEEN 0 AND 1000000000000000000;
UPDATE resource SET owner = NULL, owner_task = NULL, token = LEAST(token + 1, 9223372036854775806)
    WHERE owner < 0 OR (owner IS NULL AND owner_task IS NOT NULL) OR (owner IS NOT NULL AND owner_task IS NULL);
-- Of the rest.
DELETE FROM engine_wish WHERE wanted NOT BETWEEN 0 AND 99;
UPDATE hour SET claimed = LEAST(GREATEST(claimed, 0), 1000000000000000000),
    done = LEAST(GREATEST(done, 0), 1000000000000000000),
    tempfail = LEAST(GREATEST(tempfail, 0), 1000000000000000000),
    failed = LEAST(GREATEST(failed, 0), 1000000000000000000),
    timeout = LEAST(GREATEST(timeout, 0), 1000000000000000000),
    crash = LEAST(GREATEST(crash, 0), 1000000000000000000),
    lost = LEAST(GREATEST(lost, 0), 1000000000000000000),
    handed_back = LEAST(GREATEST(handed_back, 0), 1000000000000000000),
    canceled = LEAST(GREATEST(canceled, 0), 1000000000000000000),
    fenced = LEAST(GREATEST(fenced, 0), 1000000000000000000),
    failed_for_good = LEAST(GREATEST(failed_for_good, 0), 1000000000000000000),
    quarantined = LEAST(GREATEST(quarantined, 0), 1000000000000000000),
    run_us = LEAST(GREATEST(run_us, 0), 1000000000000000000),
    run_max_us = LEAST(GREATEST(run_max_us, 0), 1000000000000000000),
    waited = LEAST(GREATEST(waited, 0), 1000000000000000000),
    wait_us = LEAST(GREATEST(wait_us, 0), 1000000000000000000),
    wait_max_us = LEAST(GREATEST(wait_max_us, 0), 1000000000000000000)
    WHERE claimed NOT BETWEEN 0 AND 1000000000000000000
    OR done NOT BETWEEN 0 AND 1000000000000000000
    OR tempfail NOT BETWEEN 0 AND 1000000000000000000
    OR failed NOT BETWEEN 0 AND 1000000000000000000
    OR timeout NOT BETWEEN 0 AND 1000000000000000000
    OR crash NOT BETWEEN 0 AND 1000000000000000000
    OR lost NOT BETWEEN 0 AND 1000000000000000000
    OR handed_back NOT BETWEEN 0 AND 1000000000000000000
    OR canceled NOT BETWEEN 0 AND 1000000000000000000
    OR fenced NOT BETWEEN 0 AND 1000000000000000000
    OR failed_for_good NOT BETWEEN 0 AND 1000000000000000000
    OR quarantined NOT BETWEEN 0 AND 1000000000000000000
    OR run_us NOT BETWEEN 0 AND 1000000000000000000
    OR run_max_us NOT BETWEEN 0 AND 1000000000000000000
    OR waited NOT BETWEEN 0 AND 1000000000000000000
    OR wait_us NOT BETWEEN 0 AND 1000000000000000000
    OR wait_max_us NOT BETWEEN 0 AND 1000000000000000000;
UPDATE meta SET raised_epoch = LEAST(GREATEST(raised_epoch, 0), epoch),
    settled_epoch = LEAST(GREATEST(settled_epoch, 0), 8388607),
    forget_epoch = CASE WHEN forget_epoch BETWEEN 0 AND epoch THEN forget_epoch ELSE 0 END
    WHERE raised_epoch NOT BETWEEN 0 AND epoch OR settled_epoch NOT BETWEEN 0 AND 8388607
    OR forget_epoch NOT BETWEEN 0 AND epoch;
DELETE FROM engine WHERE incarnation < 0;
UPDATE engine SET state = 2, live_name = NULL, proof = 5, ended_by = 'a migration',
    ended_at = (extract(epoch from clock_timestamp()) * 1000000)::bigint
    WHERE state NOT BETWEEN 1 AND 3;
UPDATE engine SET heartbeat_ms = 1000, query_ms = 1000, lease_ms = 3000000, kill_ms = 500000, takeover_ms = 3600000,
    sweep_ms = 5000
    WHERE heartbeat_ms NOT BETWEEN 10 AND 3600000
    OR query_ms NOT BETWEEN 10 AND 3600000
    OR lease_ms NOT BETWEEN 10 AND 3600000
    OR kill_ms NOT BETWEEN 10 AND 3600000
    OR takeover_ms NOT BETWEEN 10 AND 3600000
    OR sweep_ms NOT BETWEEN 10 AND 3600000;
UPDATE engine SET beat = LEAST(GREATEST(beat, 0), 1000000000000000000), running = GREATEST(running, 0),
    refused = LEAST(GREATEST(refused, 0), 1000000000000000000),
    last_beat_at = LEAST(GREATEST(last_beat_at, 0), 253402300800000000)
    WHERE beat NOT BETWEEN 0 AND 1000000000000000000 OR running < 0
    OR refused NOT BETWEEN 0 AND 1000000000000000000 OR last_beat_at NOT BETWEEN 0 AND 253402300800000000;

ALTER TABLE task
    ALTER COLUMN created_at SET DEFAULT ((extract(epoch from clock_timestamp()) * 1000000)::bigint),
    ALTER COLUMN payload SET DEFAULT '',
    ADD CONSTRAINT task_kind_is_a_name CHECK (
        kind COLLATE "C" !~ '[^A-Za-z0-9._+@-]' AND length(kind) BETWEEN 1 AND 128),
    ADD CONSTRAINT task_state_is_known CHECK (
        state BETWEEN 0 AND 6),
    ADD CONSTRAINT task_runs_with_an_owner CHECK (
        (state = 3) = (owner IS NOT NULL)),
    ADD CONSTRAINT task_runs_with_a_claim CHECK (
        state <> 3 OR (owner >= 0 AND nonce IS NOT NULL AND claimed_at IS NOT NULL)),
    ADD CONSTRAINT task_waits_for_a_time CHECK (
        state <> 1 OR due_at IS NOT NULL),
    ADD CONSTRAINT task_codes_are_small CHECK (
        keyed BETWEEN 0 AND 1 AND reason BETWEEN 0 AND 99 AND wish BETWEEN 0 AND 99
        AND (result IS NULL OR result BETWEEN 0 AND 99) AND policy BETWEEN 0 AND 1000000000),
    ADD CONSTRAINT task_counts_can_grow CHECK (
        attempt BETWEEN 0 AND 1000000000 AND failures BETWEEN 0 AND 1000000000
        AND lost BETWEEN 0 AND 1000000000 AND handed_back BETWEEN 0 AND 1000000000
        AND version BETWEEN 0 AND 1000000000),
    ADD CONSTRAINT task_token_can_grow CHECK (
        token BETWEEN 0 AND 9223372036854775806),
    ADD CONSTRAINT task_created_at_is_in_microseconds CHECK (
        created_at BETWEEN 1000000000000000 AND 253402300800000000),
    ADD CONSTRAINT task_times_are_in_microseconds CHECK (
        (due_at IS NULL OR due_at BETWEEN 0 AND 9000000000000000000)
        AND (claimed_at IS NULL OR claimed_at BETWEEN 0 AND 253402300800000000)
        AND (ended_at IS NULL OR ended_at BETWEEN 0 AND 253402300800000000)),
    ADD CONSTRAINT task_payload_is_small CHECK (
        octet_length(payload) <= 1048576 OR attempt > 0 OR state IN (4, 5, 6));
-- None is ever in it: those that the search for orphans looks for, without reading the backlog.
CREATE INDEX task_unowned ON task (id) WHERE state = 3 AND owner IS NULL;
ALTER TABLE task_resource
    ADD CONSTRAINT task_resource_is_in_line_or_not CHECK (
        in_line BETWEEN 0 AND 1);
ALTER TABLE resource
    ADD CONSTRAINT resource_is_owned_or_not CHECK (
        (owner IS NULL) = (owner_task IS NULL) AND (owner IS NULL OR owner >= 0)),
    ADD CONSTRAINT resource_token_can_grow CHECK (
        token BETWEEN 0 AND 9223372036854775806 AND version BETWEEN 0 AND 1000000000000000000);
ALTER TABLE engine_wish
    ADD CONSTRAINT engine_wish_is_known CHECK (
        wanted BETWEEN 0 AND 99);
ALTER TABLE hour
    ADD CONSTRAINT hour_counts_can_grow CHECK (
        claimed BETWEEN 0 AND 1000000000000000000 AND done BETWEEN 0 AND 1000000000000000000
        AND tempfail BETWEEN 0 AND 1000000000000000000 AND failed BETWEEN 0 AND 1000000000000000000
        AND timeout BETWEEN 0 AND 1000000000000000000 AND crash BETWEEN 0 AND 1000000000000000000
        AND lost BETWEEN 0 AND 1000000000000000000 AND handed_back BETWEEN 0 AND 1000000000000000000
        AND canceled BETWEEN 0 AND 1000000000000000000 AND fenced BETWEEN 0 AND 1000000000000000000
        AND failed_for_good BETWEEN 0 AND 1000000000000000000
        AND quarantined BETWEEN 0 AND 1000000000000000000 AND run_us BETWEEN 0 AND 1000000000000000000
        AND run_max_us BETWEEN 0 AND 1000000000000000000 AND waited BETWEEN 0 AND 1000000000000000000
        AND wait_us BETWEEN 0 AND 1000000000000000000 AND wait_max_us BETWEEN 0 AND 1000000000000000000);
ALTER TABLE meta
    ADD CONSTRAINT meta_epochs_are_epochs CHECK (
        raised_epoch BETWEEN 0 AND epoch AND settled_epoch BETWEEN 0 AND 8388607
        AND forget_epoch BETWEEN 0 AND epoch);
ALTER TABLE engine
    ADD CONSTRAINT engine_state_is_known CHECK (
        state BETWEEN 1 AND 3),
    ADD CONSTRAINT engine_spans_are_possible CHECK (
        heartbeat_ms BETWEEN 10 AND 3600000 AND query_ms BETWEEN 10 AND 3600000
        AND lease_ms BETWEEN 10 AND 3600000 AND kill_ms BETWEEN 10 AND 3600000
        AND takeover_ms BETWEEN 10 AND 3600000 AND sweep_ms BETWEEN 10 AND 3600000),
    ADD CONSTRAINT engine_counts_can_grow CHECK (
        incarnation >= 0 AND beat BETWEEN 0 AND 1000000000000000000 AND running BETWEEN 0 AND 2147483647
        AND refused BETWEEN 0 AND 1000000000000000000 AND last_beat_at BETWEEN 0 AND 253402300800000000);
