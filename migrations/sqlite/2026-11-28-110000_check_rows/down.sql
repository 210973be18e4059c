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
    created_at      BIGINT   NOT NULL,
    not_on          TEXT,                                     -- host that may not take the next attempt
    was_elsewhere   SMALLINT NOT NULL DEFAULT 0,              -- it was barred from a host before
    engine          TEXT,                                     -- who ran it last
    created_by      TEXT,
    unique_key      TEXT,                                     -- at most one unfinished task of a key
    error           TEXT,                                     -- one line about the last attempt
    payload         BLOB     NOT NULL
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

CREATE TABLE task_resource_new (
    task            BIGINT   NOT NULL,
    resource        TEXT     NOT NULL,
    in_line         SMALLINT NOT NULL,
    PRIMARY KEY (task, resource)
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
    used_at         BIGINT NOT NULL DEFAULT 0
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
    deadline_at     BIGINT                                    -- what still runs then is handed back
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
    PRIMARY KEY (starts_at, kind, shard)
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

DROP TRIGGER meta_epochs_are_epochs;

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
    CHECK ((state = 1) = (live_name IS NOT NULL))
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
