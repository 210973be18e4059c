-- The foundation: who is alive, what is to be done, who owns what. Takes effect with 0.1.0.
-- Times are microseconds since 1970 from the database's clock; states are numbers whose words stand in
-- src/protocol/task.rs and src/protocol/engine.rs. The layout and its figures: src/store/mod.rs.

-- One row: what holds for the whole cluster.
CREATE TABLE meta (
    one             BIGINT PRIMARY KEY CHECK (one = 1),       -- there is one row
    cluster_id      TEXT   NOT NULL,                          -- random, made here: recognises a wrong database
    cluster         TEXT,                                     -- named by its first engine; others are refused
    protocol        BIGINT NOT NULL,                          -- the protocol that writers speak
    epoch           BIGINT NOT NULL CHECK (epoch BETWEEN 1 AND 8388607), -- high bits of every token
    raised_epoch    BIGINT NOT NULL,                          -- last epoch raised because commits may be lost
    settled_epoch   BIGINT NOT NULL,                          -- claims need settled_epoch >= raised_epoch
    identity        TEXT   NOT NULL,                          -- which physical database gave out the tokens
    raised_reason   TEXT,                                     -- why the epoch was raised
    orphan_scan_at  BIGINT NOT NULL DEFAULT 0                 -- last search for orphans of closed engines
);

-- Incarnations that may still own something; narrow, because each beat rewrites the row (HOT).
CREATE TABLE engine (
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
    CHECK (takeover_ms * 100::BIGINT >= 102 * (lease_ms::BIGINT + kill_ms)),
    CHECK (110 * heartbeat_ms::BIGINT + 200 * query_ms::BIGINT <= lease_ms * 100::BIGINT),
    CHECK ((state = 1) = (live_name IS NOT NULL))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

-- What an incarnation says of itself once; kept for people after its row above is closed.
CREATE TABLE engine_info (
    incarnation     BIGINT PRIMARY KEY,
    name            TEXT     NOT NULL,
    host            TEXT     NOT NULL,
    boot_id         TEXT     NOT NULL,                        -- the kernel's boot id
    pid             BIGINT   NOT NULL,
    state_id        TEXT     NOT NULL,                        -- random id kept in its state directory
    version         TEXT     NOT NULL,
    protocol_min    INTEGER  NOT NULL,
    protocol_max    INTEGER  NOT NULL,
    release         TEXT     NOT NULL,                        -- where its code runs from
    kinds           TEXT     NOT NULL,                        -- JSON array
    slots           INTEGER  NOT NULL,
    means           TEXT     NOT NULL,                        -- how its guard kills
    timing          TEXT     NOT NULL,                        -- its spans in ms, JSON
    registered_at   BIGINT   NOT NULL,
    taken_over      BIGINT   NOT NULL DEFAULT 0,              -- tasks taken over from it
    end_state       SMALLINT,                                 -- the rest is written when its row is closed
    end_mode        SMALLINT,
    end_proof       SMALLINT,
    end_beat        BIGINT,
    end_beat_at     BIGINT,
    end_refused     BIGINT,
    ended_by        TEXT,
    ended_at        BIGINT
);
CREATE INDEX engine_info_name ON engine_info (name);

-- What operators want of a name; it survives the incarnation.
CREATE TABLE engine_wish (
    name            TEXT PRIMARY KEY,
    wanted          SMALLINT NOT NULL,                        -- run, pause, drain, stop
    reason          TEXT,
    set_by          TEXT     NOT NULL,
    set_at          BIGINT   NOT NULL,
    until_at        BIGINT,                                   -- it ends by itself then
    deadline_at     BIGINT                                    -- what still runs then is handed back
);

-- Unfinished work, and what waits for a person. `done` and `canceled` rows move to task_archive.
CREATE TABLE task (
    id              BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, -- also its place in its lines
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
    payload         BYTEA    NOT NULL
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
CREATE INDEX task_ready ON task (kind, keyed, priority DESC, id) WHERE state = 0;
CREATE INDEX task_alone ON task (kind, keyed, priority DESC, id) WHERE state = 0 AND lost >= 2; -- they run alone
-- Partial: most tasks have no key, and each write of a row would write an entry for its NULL.
CREATE UNIQUE INDEX task_unique ON task (unique_key) WHERE unique_key IS NOT NULL;
CREATE INDEX task_barred ON task (id) WHERE not_on IS NOT NULL; -- from a host, for one attempt
CREATE INDEX task_due ON task (due_at) WHERE state = 1;
CREATE INDEX task_owner ON task (owner, id) WHERE owner IS NOT NULL;
CREATE INDEX task_wish ON task (owner) WHERE wish <> 0;
CREATE INDEX task_blocked ON task (id) WHERE state = 2;
CREATE INDEX task_aside ON task (state, kind, id) WHERE state IN (4, 5, 6);

-- Which resources a task names; in_line: it stands in their lines now.
CREATE TABLE task_resource (
    task            BIGINT   NOT NULL,
    resource        TEXT     NOT NULL,
    in_line         SMALLINT NOT NULL,
    PRIMARY KEY (task, resource)
);
CREATE INDEX task_resource_line ON task_resource (resource, in_line, task);

-- A resource that was claimed at least once: its owner and its token. Whatever frees it or leaves its
-- line writes this row.
CREATE TABLE resource (
    name            TEXT   PRIMARY KEY,
    owner_task      BIGINT,                                   -- the task that owns it
    owner           BIGINT,                                   -- the incarnation that runs that task
    token           BIGINT NOT NULL DEFAULT 0,
    version         BIGINT NOT NULL DEFAULT 0,                -- goes up with every write
    used_at         BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 70);
CREATE INDEX resource_owner ON resource (owner) WHERE owner IS NOT NULL;

-- Finished well or canceled; never polled.
CREATE TABLE task_archive (
    id              BIGINT PRIMARY KEY,
    kind            TEXT     NOT NULL,
    state           SMALLINT NOT NULL,
    priority        SMALLINT NOT NULL,
    reason          SMALLINT NOT NULL,
    attempt         INTEGER  NOT NULL,
    failures        INTEGER  NOT NULL,
    lost            INTEGER  NOT NULL,
    result          SMALLINT,
    token           BIGINT   NOT NULL,
    owner           BIGINT,
    nonce           BIGINT,
    claimed_at      BIGINT,
    ended_at        BIGINT   NOT NULL,
    stack           BIGINT,
    created_at      BIGINT   NOT NULL,
    engine          TEXT,
    created_by      TEXT,
    resources       TEXT,                                     -- JSON array, NULL if none
    error           TEXT,
    value           TEXT,                                     -- what a handler returned
    payload         BYTEA    NOT NULL
);
CREATE INDEX task_archive_ended ON task_archive (ended_at);

-- Attempts that were not the good last one.
CREATE TABLE attempt (
    task            BIGINT   NOT NULL,
    attempt         INTEGER  NOT NULL,
    engine          TEXT     NOT NULL,
    incarnation     BIGINT   NOT NULL,
    token           BIGINT   NOT NULL,
    nonce           BIGINT   NOT NULL,
    started_at      BIGINT   NOT NULL,
    ended_at        BIGINT   NOT NULL,
    result          SMALLINT NOT NULL,
    exit_code       INTEGER,
    detail          TEXT,                                     -- one line, or the evidence of a loss
    PRIMARY KEY (task, attempt, token)
);
CREATE INDEX attempt_ended ON attempt (ended_at);

-- What attempts printed: the last bytes of it.
CREATE TABLE attempt_output (
    task            BIGINT   NOT NULL,
    attempt         INTEGER  NOT NULL,
    dropped         BIGINT   NOT NULL,                        -- bytes before the tail
    output          BYTEA    NOT NULL,
    PRIMARY KEY (task, attempt)
);
