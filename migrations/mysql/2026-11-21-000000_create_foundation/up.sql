-- The foundation: who is alive, what is to be done, who owns what. Takes effect with 0.1.0.
-- Times are microseconds since 1970 from the database's clock; states are numbers whose words stand in
-- src/protocol/task.rs and src/protocol/engine.rs. The layout and its figures: src/store/mod.rs.
--
-- Peculiar to this server: every statement here commits by itself and may run twice, because a migration
-- that was cut in the middle runs again from its beginning. Texts compare byte by byte, trailing blanks
-- included: that collation has one name on MariaDB and another on MySQL, hence the two kinds of comments
-- with code. There are no partial indexes: an index of a seldom state begins with that state, one of a
-- seldom value leans on its NULLs. `release` is a reserved word here, and is quoted.

-- One row: what holds for the whole cluster.
CREATE TABLE IF NOT EXISTS meta (
    one             BIGINT PRIMARY KEY CHECK (one = 1),       -- there is one row
    cluster_id      VARCHAR(64) NOT NULL,                     -- random, made here: recognises a wrong database
    cluster         TEXT,                                     -- named by its first engine; others are refused
    protocol        BIGINT NOT NULL,                          -- the protocol that writers speak
    epoch           BIGINT NOT NULL CHECK (epoch BETWEEN 1 AND 8388607), -- high bits of every token
    raised_epoch    BIGINT NOT NULL,                          -- last epoch raised because commits may be lost
    settled_epoch   BIGINT NOT NULL,                          -- claims need settled_epoch >= raised_epoch
    identity        VARCHAR(255) NOT NULL,                    -- which physical database gave out the tokens
    raised_reason   TEXT,                                     -- why the epoch was raised
    orphan_scan_at  BIGINT NOT NULL DEFAULT 0                 -- last search for orphans of closed engines
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;

-- Incarnations that may still own something; narrow, because each beat rewrites the row.
CREATE TABLE IF NOT EXISTS engine (
    incarnation     BIGINT PRIMARY KEY,                       -- random, never reused
    name            VARCHAR(255) NOT NULL,                    -- chosen by people
    live_name       VARCHAR(255) UNIQUE,                      -- the name while live: one live engine a name
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
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;

-- What an incarnation says of itself once; kept for people after its row above is closed.
CREATE TABLE IF NOT EXISTS engine_info (
    incarnation     BIGINT PRIMARY KEY,
    name            VARCHAR(255) NOT NULL,
    host            VARCHAR(255) NOT NULL,
    boot_id         VARCHAR(255) NOT NULL,                    -- the kernel's boot id
    pid             BIGINT   NOT NULL,
    state_id        VARCHAR(255) NOT NULL,                    -- random id kept in its state directory
    version         VARCHAR(255) NOT NULL,
    protocol_min    INTEGER  NOT NULL,
    protocol_max    INTEGER  NOT NULL,
    `release`       TEXT     NOT NULL,                        -- where its code runs from
    kinds           MEDIUMTEXT NOT NULL,                      -- JSON array
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
    ended_at        BIGINT,
    INDEX engine_info_name (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;

-- What operators want of a name; it survives the incarnation.
CREATE TABLE IF NOT EXISTS engine_wish (
    name            VARCHAR(255) PRIMARY KEY,
    wanted          SMALLINT NOT NULL,                        -- run, pause, drain, stop
    reason          TEXT,
    set_by          TEXT     NOT NULL,
    set_at          BIGINT   NOT NULL,
    until_at        BIGINT,                                   -- it ends by itself then
    deadline_at     BIGINT                                    -- what still runs then is handed back
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;

-- Unfinished work, and what waits for a person. `done` and `canceled` rows move to task_archive.
-- A claim touches two of the indexes, task_ready and task_owner; the entries of the others stay.
CREATE TABLE IF NOT EXISTS task (
    id              BIGINT AUTO_INCREMENT PRIMARY KEY,        -- also its place in its lines
    kind            VARCHAR(255) NOT NULL,
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
    not_on          VARCHAR(255),                             -- host that may not take the next attempt
    was_elsewhere   SMALLINT NOT NULL DEFAULT 0,              -- it was barred from a host before
    engine          VARCHAR(255),                             -- who ran it last
    created_by      TEXT,
    unique_key      VARCHAR(255) UNIQUE,                      -- at most one unfinished task of a key
    error           LONGTEXT,                                 -- one line about the last attempt
    payload         LONGBLOB NOT NULL,
    INDEX task_ready (state, kind, keyed, priority DESC, id),
    INDEX task_lost (lost),                                   -- two lost engines: it runs alone
    INDEX task_barred (not_on),                               -- from a host, for one attempt
    INDEX task_due (due_at),
    INDEX task_owner (owner, wish)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;

-- Which resources a task names; in_line: it stands in their lines now.
CREATE TABLE IF NOT EXISTS task_resource (
    task            BIGINT   NOT NULL,
    resource        VARCHAR(255) NOT NULL,
    in_line         SMALLINT NOT NULL,
    PRIMARY KEY (task, resource),
    INDEX task_resource_line (resource, in_line, task)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;

-- A resource that was claimed at least once: its owner and its token. Whatever frees it or leaves its
-- line writes this row.
CREATE TABLE IF NOT EXISTS resource (
    name            VARCHAR(255) PRIMARY KEY,
    owner_task      BIGINT,                                   -- the task that owns it
    owner           BIGINT,                                   -- the incarnation that runs that task
    token           BIGINT NOT NULL DEFAULT 0,
    version         BIGINT NOT NULL DEFAULT 0,                -- goes up with every write
    used_at         BIGINT NOT NULL DEFAULT 0,
    INDEX resource_owner (owner)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;

-- Finished well or canceled; never polled.
CREATE TABLE IF NOT EXISTS task_archive (
    id              BIGINT PRIMARY KEY,
    kind            VARCHAR(255) NOT NULL,
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
    engine          VARCHAR(255),
    created_by      TEXT,
    resources       LONGTEXT,                                 -- JSON array, NULL if none
    error           LONGTEXT,
    value           LONGTEXT,                                 -- what a handler returned
    payload         LONGBLOB NOT NULL,
    INDEX task_archive_ended (ended_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;

-- Attempts that were not the good last one.
CREATE TABLE IF NOT EXISTS attempt (
    task            BIGINT   NOT NULL,
    attempt         INTEGER  NOT NULL,
    engine          VARCHAR(255) NOT NULL,
    incarnation     BIGINT   NOT NULL,
    token           BIGINT   NOT NULL,
    nonce           BIGINT   NOT NULL,
    started_at      BIGINT   NOT NULL,
    ended_at        BIGINT   NOT NULL,
    result          SMALLINT NOT NULL,
    exit_code       INTEGER,
    detail          LONGTEXT,                                 -- one line, or the evidence of a loss
    PRIMARY KEY (task, attempt, token),
    INDEX attempt_ended (ended_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;

-- What attempts printed: the last bytes of it.
CREATE TABLE IF NOT EXISTS attempt_output (
    task            BIGINT   NOT NULL,
    attempt         INTEGER  NOT NULL,
    dropped         BIGINT   NOT NULL,                        -- bytes before the tail
    output          LONGBLOB NOT NULL,
    PRIMARY KEY (task, attempt)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;
