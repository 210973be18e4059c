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
-- SQLite cannot add a rule to a table: each is made again and filled from the old one, under the lock of this
-- migration; numbers of tasks go on where they were. The
-- clock is asked for in a way that older libraries of other programs know too.
-- The tables of what has ended (task_archive, attempt, history) have no rules: they may be large, and no engine
-- reads them to decide anything. src/store/queries/stray.rs says what engines do about rows that were written
-- with the rules switched off.

-- Of tasks.
UPDATE task SET error = 'set aside by a migration: its kind was "' || kind || '", which no engine can have',
    kind = 'not-a-kind', state = 5, owner = NULL, nonce = NULL
    WHERE (typeof(kind) <> 'text' OR kind GLOB '*[^A-Za-z0-9._+@-]*' OR length(kind) NOT BETWEEN 1 AND 128);
UPDATE task SET error = 'set aside by a migration: its state was ' || state || ', which means nothing', state = 5,
    owner = NULL, nonce = NULL
    WHERE state NOT BETWEEN 0 AND 6;
UPDATE task SET error = 'set aside by a migration: its payload is over 1 MiB', state = 5
    WHERE state IN (0, 1, 2) AND attempt <= 0 AND length(CAST(payload AS BLOB)) > 1048576;
UPDATE task SET error = 'set aside by a migration: its token cannot grow any more', state = 5
    WHERE state IN (0, 1, 2) AND token >= 9223372036854775806;
UPDATE task_resource SET in_line = 0 WHERE task IN (SELECT id FROM task
    WHERE state = 5 AND error LIKE 'set aside by a migration:%');
UPDATE task SET owner = NULL, nonce = NULL WHERE state <> 3 AND owner IS NOT NULL;
UPDATE task SET owner = CASE WHEN owner >= 0 THEN owner ELSE 0 END, nonce = COALESCE(nonce, 0),
    claimed_at = COALESCE(claimed_at, CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000)
    WHERE state = 3 AND (owner IS NULL OR owner < 0 OR nonce IS NULL OR claimed_at IS NULL);
UPDATE task SET due_at = CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000
    WHERE (state = 1 AND due_at IS NULL) OR due_at NOT BETWEEN 0 AND 9000000000000000000;
UPDATE task SET created_at = CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000
    WHERE created_at NOT BETWEEN 1000000000000000 AND 253402300800000000;
UPDATE task SET claimed_at = CASE WHEN state = 3 THEN CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000 END
    WHERE claimed_at NOT BETWEEN 0 AND 253402300800000000;
UPDATE task SET ended_at = NULL WHERE ended_at NOT BETWEEN 0 AND 253402300800000000;
UPDATE task SET keyed = CASE WHEN keyed = 0 THEN 0 ELSE 1 END,
    reason = CASE WHEN reason BETWEEN 0 AND 99 THEN reason ELSE 0 END,
    wish = CASE WHEN wish BETWEEN 0 AND 99 THEN wish ELSE 0 END,
    result = CASE WHEN result BETWEEN 0 AND 99 THEN result END,
    policy = CASE WHEN policy BETWEEN 0 AND 1000000000 THEN policy ELSE 3 END
    WHERE keyed NOT BETWEEN 0 AND 1 OR reason NOT BETWEEN 0 AND 99 OR wish NOT BETWEEN 0 AND 99
    OR result NOT BETWEEN 0 AND 99 OR policy NOT BETWEEN 0 AND 1000000000;
UPDATE task SET attempt = min(max(attempt, 0), 1000000000), failures = min(max(failures, 0), 1000000000),
    lost = min(max(lost, 0), 1000000000),
    handed_back = min(max(handed_back, 0), 1000000000), version = min(max(version, 0), 1000000000),
    token = min(max(token, 0), 9223372036854775806)
    WHERE attempt NOT BETWEEN 0 AND 1000000000 OR failures NOT BETWEEN 0 AND 1000000000
    OR lost NOT BETWEEN 0 AND 1000000000
    OR handed_back NOT BETWEEN 0 AND 1000000000 OR version NOT BETWEEN 0 AND 1000000000
    OR token NOT BETWEEN 0 AND 9223372036854775806;
-- Of resources.
UPDATE task_resource SET in_line = CASE WHEN in_line = 0 THEN 0 ELSE 1 END WHERE in_line NOT BETWEEN 0 AND 1;
UPDATE resource SET token = min(max(token, 0), 9223372036854775806), version = 0
    WHERE token NOT BETWEEN 0 AND 9223372036854775806 OR version NOT BETWEEN 0 AND 1000000000000000000;
UPDATE resource SET owner = NULL, owner_task = NULL, token = min(token + 1, 9223372036854775806)
    WHERE owner < 0 OR (owner IS NULL AND owner_task IS NOT NULL) OR (owner IS NOT NULL AND owner_task IS NULL);
-- Of the rest.
DELETE FROM engine_wish WHERE wanted NOT BETWEEN 0 AND 99;
UPDATE hour SET claimed = min(max(claimed, 0), 1000000000000000000),
    done = min(max(done, 0), 1000000000000000000),
    tempfail = min(max(tempfail, 0), 1000000000000000000),
    failed = min(max(failed, 0), 1000000000000000000),
    timeout = min(max(timeout, 0), 1000000000000000000),
    crash = min(max(crash, 0), 1000000000000000000),
    lost = min(max(lost, 0), 1000000000000000000),
    handed_back = min(max(handed_back, 0), 1000000000000000000),
    canceled = min(max(canceled, 0), 1000000000000000000),
    fenced = min(max(fenced, 0), 1000000000000000000),
    failed_for_good = min(max(failed_for_good, 0), 1000000000000000000),
    quarantined = min(max(quarantined, 0), 1000000000000000000),
    run_us = min(max(run_us, 0), 1000000000000000000),
    run_max_us = min(max(run_max_us, 0), 1000000000000000000),
    waited = min(max(waited, 0), 1000000000000000000),
    wait_us = min(max(wait_us, 0), 1000000000000000000),
    wait_max_us = min(max(wait_max_us, 0), 1000000000000000000)
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
UPDATE meta SET raised_epoch = min(max(raised_epoch, 0), epoch), settled_epoch = min(max(settled_epoch, 0), 8388607),
    forget_epoch = CASE WHEN forget_epoch BETWEEN 0 AND epoch THEN forget_epoch ELSE 0 END
    WHERE raised_epoch NOT BETWEEN 0 AND epoch OR settled_epoch NOT BETWEEN 0 AND 8388607
    OR forget_epoch NOT BETWEEN 0 AND epoch;
DELETE FROM engine WHERE incarnation < 0;
UPDATE engine SET state = 2, live_name = NULL, proof = 5, ended_by = 'a migration',
    ended_at = CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000
    WHERE state NOT BETWEEN 1 AND 3;
UPDATE engine SET heartbeat_ms = 1000, query_ms = 1000, lease_ms = 3000000, kill_ms = 500000, takeover_ms = 3600000,
    sweep_ms = 5000
    WHERE heartbeat_ms NOT BETWEEN 10 AND 3600000
    OR query_ms NOT BETWEEN 10 AND 3600000
    OR lease_ms NOT BETWEEN 10 AND 3600000
    OR kill_ms NOT BETWEEN 10 AND 3600000
    OR takeover_ms NOT BETWEEN 10 AND 3600000
    OR sweep_ms NOT BETWEEN 10 AND 3600000;
UPDATE engine SET beat = min(max(beat, 0), 1000000000000000000), running = max(running, 0),
    refused = min(max(refused, 0), 1000000000000000000),
    last_beat_at = min(max(last_beat_at, 0), 253402300800000000)
    WHERE beat NOT BETWEEN 0 AND 1000000000000000000 OR running < 0
    OR refused NOT BETWEEN 0 AND 1000000000000000000 OR last_beat_at NOT BETWEEN 0 AND 253402300800000000;

CREATE TABLE task_new (
    id              INTEGER PRIMARY KEY AUTOINCREMENT, -- also its place in its lines
    kind            TEXT     NOT NULL,
    state           SMALLINT NOT NULL DEFAULT 0,
    keyed           SMALLINT NOT NULL DEFAULT 0,              -- 1 if it names resources
    priority        SMALLINT NOT NULL DEFAULT 0,              -- higher first
    reason          SMALLINT NOT NULL DEFAULT 0,              -- why the next attempt exists
    attempt         INTEGER  NOT NULL DEFAULT 0,              -- claims so far
    failures        INTEGER  NOT NULL DEFAULT 0,              -- retry budget used
    lost            INTEGER  NOT NULL DEFAULT 0,              -- engines lost under it
    handed_back     INTEGER  NOT NULL DEFAULT 0,              -- self-fences in a row
    wish            SMALLINT NOT NULL DEFAULT 0,              -- what its owner is asked to do
    result          SMALLINT,                                 -- how the last attempt ended
    policy          INTEGER  NOT NULL DEFAULT 3,              -- what its kind says, written at the claim
    version         INTEGER  NOT NULL DEFAULT 0,              -- goes up with every write by an owner
    token           BIGINT   NOT NULL DEFAULT 0,              -- the fencing token
    owner           BIGINT,                                   -- the incarnation that runs it
    nonce           BIGINT,                                   -- names the claim
    due_at          BIGINT,                                   -- not before, while it waits
    claimed_at      BIGINT,
    ended_at        BIGINT,                                   -- of the last attempt
    charged         BIGINT,                                   -- incarnation it was last charged for
    stack           BIGINT,
    created_at      BIGINT   NOT NULL
        DEFAULT (CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000),
    not_on          TEXT,                                     -- host that may not take the next attempt
    was_elsewhere   SMALLINT NOT NULL DEFAULT 0,              -- it was barred from a host before
    engine          TEXT,                                     -- who ran it last
    created_by      TEXT,
    unique_key      TEXT,                                     -- at most one unfinished task of a key
    error           TEXT,                                     -- one line about the last attempt
    payload         BLOB     NOT NULL DEFAULT x'',
    CONSTRAINT task_kind_is_a_name CHECK (
        typeof(kind) = 'text' AND kind NOT GLOB '*[^A-Za-z0-9._+@-]*' AND length(kind) BETWEEN 1 AND 128),
    CONSTRAINT task_state_is_known CHECK (
        state BETWEEN 0 AND 6),
    CONSTRAINT task_runs_with_an_owner CHECK (
        (state = 3) = (owner IS NOT NULL)),
    CONSTRAINT task_runs_with_a_claim CHECK (
        state <> 3 OR (owner >= 0 AND nonce IS NOT NULL AND claimed_at IS NOT NULL)),
    CONSTRAINT task_waits_for_a_time CHECK (
        state <> 1 OR due_at IS NOT NULL),
    CONSTRAINT task_codes_are_small CHECK (
        keyed BETWEEN 0 AND 1 AND reason BETWEEN 0 AND 99 AND wish BETWEEN 0 AND 99
        AND (result IS NULL OR result BETWEEN 0 AND 99) AND policy BETWEEN 0 AND 1000000000),
    CONSTRAINT task_counts_can_grow CHECK (
        attempt BETWEEN 0 AND 1000000000 AND failures BETWEEN 0 AND 1000000000
        AND lost BETWEEN 0 AND 1000000000 AND handed_back BETWEEN 0 AND 1000000000
        AND version BETWEEN 0 AND 1000000000),
    CONSTRAINT task_token_can_grow CHECK (
        token BETWEEN 0 AND 9223372036854775806),
    CONSTRAINT task_created_at_is_in_microseconds CHECK (
        created_at BETWEEN 1000000000000000 AND 253402300800000000),
    CONSTRAINT task_times_are_in_microseconds CHECK (
        (due_at IS NULL OR due_at BETWEEN 0 AND 9000000000000000000)
        AND (claimed_at IS NULL OR claimed_at BETWEEN 0 AND 253402300800000000)
        AND (ended_at IS NULL OR ended_at BETWEEN 0 AND 253402300800000000)),
    CONSTRAINT task_payload_is_small CHECK (
        length(CAST(payload AS BLOB)) <= 1048576 OR attempt > 0 OR state IN (4, 5, 6))
);
INSERT INTO task_new (
    id, kind, state, keyed, priority, reason, attempt, failures, lost, handed_back, wish, result, policy,
    version, token, owner, nonce, due_at, claimed_at, ended_at, charged, stack, created_at, not_on,
    was_elsewhere, engine, created_by, unique_key, error, payload
)
SELECT
    id, kind, state, keyed, priority, reason, attempt, failures, lost, handed_back, wish, result, policy,
    version, token, owner, nonce, due_at, claimed_at, ended_at, charged, stack, created_at, not_on,
    was_elsewhere, engine, created_by, unique_key, error, payload
FROM task;
-- An empty table has no entry yet.
UPDATE sqlite_sequence SET seq = (SELECT s.seq FROM sqlite_sequence s WHERE s.name = 'task') WHERE name = 'task_new';
INSERT INTO sqlite_sequence (name, seq) SELECT 'task_new', s.seq FROM sqlite_sequence s
    WHERE s.name = 'task' AND NOT EXISTS (SELECT 1 FROM sqlite_sequence n WHERE n.name = 'task_new');
DROP TABLE task;
ALTER TABLE task_new RENAME TO task;
CREATE INDEX task_ready ON task (kind, keyed, priority DESC, id) WHERE state = 0;
CREATE INDEX task_alone ON task (kind, keyed, priority DESC, id) WHERE state = 0 AND lost >= 2;
CREATE UNIQUE INDEX task_unique ON task (unique_key) WHERE unique_key IS NOT NULL;
CREATE INDEX task_barred ON task (id) WHERE not_on IS NOT NULL;
CREATE INDEX task_due ON task (due_at) WHERE state = 1;
CREATE INDEX task_owner ON task (owner, id) WHERE owner IS NOT NULL;
CREATE INDEX task_wish ON task (owner) WHERE wish <> 0;
CREATE INDEX task_blocked ON task (id) WHERE state = 2;
CREATE INDEX task_aside ON task (state, kind, id) WHERE state IN (4, 5, 6);
-- None is ever in it: those that the search for orphans looks for, without reading the backlog.
CREATE INDEX task_unowned ON task (id) WHERE state = 3 AND owner IS NULL;

CREATE TABLE task_resource_new (
    task            BIGINT   NOT NULL,
    resource        TEXT     NOT NULL,
    in_line         SMALLINT NOT NULL,
    PRIMARY KEY (task, resource),
    CONSTRAINT task_resource_is_in_line_or_not CHECK (
        in_line BETWEEN 0 AND 1)
);
INSERT INTO task_resource_new (
    task, resource, in_line
)
SELECT
    task, resource, in_line
FROM task_resource;
DROP TABLE task_resource;
ALTER TABLE task_resource_new RENAME TO task_resource;
CREATE INDEX task_resource_line ON task_resource (resource, in_line, task);

CREATE TABLE resource_new (
    name            TEXT   PRIMARY KEY,
    owner_task      BIGINT,                                   -- the task that owns it
    owner           BIGINT,                                   -- the incarnation that runs that task
    token           BIGINT NOT NULL DEFAULT 0,
    version         BIGINT NOT NULL DEFAULT 0,                -- goes up with every write
    used_at         BIGINT NOT NULL DEFAULT 0,
    CONSTRAINT resource_is_owned_or_not CHECK (
        (owner IS NULL) = (owner_task IS NULL) AND (owner IS NULL OR owner >= 0)),
    CONSTRAINT resource_token_can_grow CHECK (
        token BETWEEN 0 AND 9223372036854775806 AND version BETWEEN 0 AND 1000000000000000000)
);
INSERT INTO resource_new (
    name, owner_task, owner, token, version, used_at
)
SELECT
    name, owner_task, owner, token, version, used_at
FROM resource;
DROP TABLE resource;
ALTER TABLE resource_new RENAME TO resource;
CREATE INDEX resource_owner ON resource (owner) WHERE owner IS NOT NULL;

CREATE TABLE engine_wish_new (
    name            TEXT PRIMARY KEY,
    wanted          SMALLINT NOT NULL,                        -- run, pause, drain, stop
    reason          TEXT,
    set_by          TEXT     NOT NULL,
    set_at          BIGINT   NOT NULL,
    until_at        BIGINT,                                   -- it ends by itself then
    deadline_at     BIGINT,  -- what still runs then is handed back
    CONSTRAINT engine_wish_is_known CHECK (
        wanted BETWEEN 0 AND 99)
);
INSERT INTO engine_wish_new (
    name, wanted, reason, set_by, set_at, until_at, deadline_at
)
SELECT
    name, wanted, reason, set_by, set_at, until_at, deadline_at
FROM engine_wish;
DROP TABLE engine_wish;
ALTER TABLE engine_wish_new RENAME TO engine_wish;

CREATE TABLE hour_new (
    starts_at       BIGINT   NOT NULL,                        -- the full hour, UTC
    kind            TEXT     NOT NULL,
    shard           SMALLINT NOT NULL,                        -- which of the rows: from the engine's id
    claimed         BIGINT   NOT NULL DEFAULT 0,              -- attempts that began
    done            BIGINT   NOT NULL DEFAULT 0,              -- attempts by their result, as in `attempt`
    tempfail        BIGINT   NOT NULL DEFAULT 0,
    failed          BIGINT   NOT NULL DEFAULT 0,
    timeout         BIGINT   NOT NULL DEFAULT 0,
    crash           BIGINT   NOT NULL DEFAULT 0,
    lost            BIGINT   NOT NULL DEFAULT 0,
    handed_back     BIGINT   NOT NULL DEFAULT 0,
    canceled        BIGINT   NOT NULL DEFAULT 0,
    fenced          BIGINT   NOT NULL DEFAULT 0,              -- results that were refused
    failed_for_good BIGINT   NOT NULL DEFAULT 0,              -- tasks that failed: they wait for a person
    quarantined     BIGINT   NOT NULL DEFAULT 0,              -- tasks that were quarantined
    run_us          BIGINT   NOT NULL DEFAULT 0,              -- time that ended attempts ran, together
    run_max_us      BIGINT   NOT NULL DEFAULT 0,              -- the longest of them
    waited          BIGINT   NOT NULL DEFAULT 0,              -- claims whose wait is known: see wait_us
    wait_us         BIGINT   NOT NULL DEFAULT 0,              -- from added to claimed, together, of tasks
                                                              -- that were ready all that time
    wait_max_us     BIGINT   NOT NULL DEFAULT 0,              -- the longest of them
    PRIMARY KEY (starts_at, kind, shard),
    CONSTRAINT hour_counts_can_grow CHECK (
        claimed BETWEEN 0 AND 1000000000000000000 AND done BETWEEN 0 AND 1000000000000000000
        AND tempfail BETWEEN 0 AND 1000000000000000000 AND failed BETWEEN 0 AND 1000000000000000000
        AND timeout BETWEEN 0 AND 1000000000000000000 AND crash BETWEEN 0 AND 1000000000000000000
        AND lost BETWEEN 0 AND 1000000000000000000 AND handed_back BETWEEN 0 AND 1000000000000000000
        AND canceled BETWEEN 0 AND 1000000000000000000 AND fenced BETWEEN 0 AND 1000000000000000000
        AND failed_for_good BETWEEN 0 AND 1000000000000000000
        AND quarantined BETWEEN 0 AND 1000000000000000000 AND run_us BETWEEN 0 AND 1000000000000000000
        AND run_max_us BETWEEN 0 AND 1000000000000000000 AND waited BETWEEN 0 AND 1000000000000000000
        AND wait_us BETWEEN 0 AND 1000000000000000000 AND wait_max_us BETWEEN 0 AND 1000000000000000000)
);
INSERT INTO hour_new (
    starts_at, kind, shard, claimed, done, tempfail, failed, timeout, crash, lost, handed_back, canceled,
    fenced, failed_for_good, quarantined, run_us, run_max_us, waited, wait_us, wait_max_us
)
SELECT
    starts_at, kind, shard, claimed, done, tempfail, failed, timeout, crash, lost, handed_back, canceled,
    fenced, failed_for_good, quarantined, run_us, run_max_us, waited, wait_us, wait_max_us
FROM hour;
DROP TABLE hour;
ALTER TABLE hour_new RENAME TO hour;

-- The one row of meta is not copied, because later migrations may have added to it before this one was run.
CREATE TRIGGER meta_epochs_are_epochs BEFORE UPDATE ON meta
WHEN NEW.raised_epoch NOT BETWEEN 0 AND NEW.epoch OR NEW.settled_epoch NOT BETWEEN 0 AND 8388607
    OR NEW.forget_epoch NOT BETWEEN 0 AND NEW.epoch
BEGIN
    SELECT RAISE(ABORT, 'CHECK constraint failed: meta_epochs_are_epochs');
END;

CREATE TABLE engine_new (
    incarnation     BIGINT PRIMARY KEY,                       -- random, never reused
    name            TEXT     NOT NULL,                        -- chosen by people
    live_name       TEXT     UNIQUE,                          -- the name while live: one live engine a name
    state           SMALLINT NOT NULL DEFAULT 1,              -- live, fenced, stopped
    mode            SMALLINT NOT NULL DEFAULT 0,              -- what it reports of itself
    beat            BIGINT   NOT NULL DEFAULT 0,              -- accepted beats
    last_beat_at    BIGINT   NOT NULL,                        -- a cheap filter, never a verdict
    running         INTEGER  NOT NULL DEFAULT 0,              -- tasks that run
    refused         BIGINT   NOT NULL DEFAULT 0,              -- results of it that were refused
    acknowledged    SMALLINT NOT NULL DEFAULT 0,              -- fenced, has seen it and stopped everything
    proof           SMALLINT,                                 -- how it is known to have ended
    ended_by        TEXT,                                     -- who ended it
    ended_at        BIGINT,
    heartbeat_ms    INTEGER  NOT NULL,                        -- h
    query_ms        INTEGER  NOT NULL,                        -- q
    lease_ms        INTEGER  NOT NULL,                        -- L
    kill_ms         INTEGER  NOT NULL,                        -- K
    takeover_ms     INTEGER  NOT NULL,                        -- T
    sweep_ms        INTEGER  NOT NULL,                        -- S
    CHECK (takeover_ms * 100 >= 102 * (lease_ms + kill_ms)),
    CHECK (110 * heartbeat_ms + 200 * query_ms <= lease_ms * 100),
    CHECK ((state = 1) = (live_name IS NOT NULL)),
    CONSTRAINT engine_state_is_known CHECK (
        state BETWEEN 1 AND 3),
    CONSTRAINT engine_spans_are_possible CHECK (
        heartbeat_ms BETWEEN 10 AND 3600000 AND query_ms BETWEEN 10 AND 3600000
        AND lease_ms BETWEEN 10 AND 3600000 AND kill_ms BETWEEN 10 AND 3600000
        AND takeover_ms BETWEEN 10 AND 3600000 AND sweep_ms BETWEEN 10 AND 3600000),
    CONSTRAINT engine_counts_can_grow CHECK (
        incarnation >= 0 AND beat BETWEEN 0 AND 1000000000000000000 AND running BETWEEN 0 AND 2147483647
        AND refused BETWEEN 0 AND 1000000000000000000 AND last_beat_at BETWEEN 0 AND 253402300800000000)
);
INSERT INTO engine_new (
    incarnation, name, live_name, state, mode, beat, last_beat_at, running, refused, acknowledged, proof,
    ended_by, ended_at, heartbeat_ms, query_ms, lease_ms, kill_ms, takeover_ms, sweep_ms
)
SELECT
    incarnation, name, live_name, state, mode, beat, last_beat_at, running, refused, acknowledged, proof,
    ended_by, ended_at, heartbeat_ms, query_ms, lease_ms, kill_ms, takeover_ms, sweep_ms
FROM engine;
DROP TABLE engine;
ALTER TABLE engine_new RENAME TO engine;
