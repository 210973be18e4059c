-- What people changed, and what happened per hour. Takes effect when it has run. New tables only: nothing that
-- running engines read or write changes.
-- Times are microseconds since 1970 from the database's clock. The words: src/store/audit.rs.
-- DDL commits by itself here, so each statement can be run again after a crash between two of them.

-- Who changed what, when and why: one row for each transaction in which a person's command changed
-- something, written by that transaction. A command in batches has several rows; they share `command`.
CREATE TABLE IF NOT EXISTS history (
    id              BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY, -- the order in which they were written
    command         BIGINT       NOT NULL,                    -- random: names one run of one command
    part            INTEGER      NOT NULL,                    -- its transactions, from 0
    made_at         BIGINT       NOT NULL,
    made_by         VARCHAR(255) NOT NULL,                    -- who, as the program says: user@host
    host            VARCHAR(255) NOT NULL,                    -- where the program ran
    program         VARCHAR(64)  NOT NULL,                    -- which program
    version         VARCHAR(64)  NOT NULL,                    -- of that program
    verb            VARCHAR(64)  NOT NULL,                    -- such as "engine pause"
    object          VARCHAR(255) NOT NULL,                    -- a name, a number, or first..last
    task_first      BIGINT,                                   -- of tasks: the smallest and largest number
    task_last       BIGINT,
    tasks           LONGTEXT,                                 -- of tasks: which, such as 7,9-12
    object_count    BIGINT       NOT NULL,                    -- how many objects were changed
    old_value       LONGTEXT,                                 -- what was
    new_value       LONGTEXT,                                 -- what is
    reason          LONGTEXT,                                 -- why, in the person's words
    until_at        BIGINT,                                   -- the change ends by itself then
    UNIQUE KEY history_command (command, part),
    KEY history_made (made_at),
    KEY history_object (object, id),
    KEY history_task (task_last)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;

-- What became of attempts, per hour and kind; engines add to it about once a minute. Several rows an hour
-- and kind, told apart by `shard`, so that many engines do not wait for one row; readers add them up.
CREATE TABLE IF NOT EXISTS hour (
    starts_at       BIGINT   NOT NULL,                        -- the full hour, UTC
    kind            VARCHAR(128) NOT NULL,
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
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */;
