-- A copy of a machine (a cloned container, a restored snapshot, a copied state directory) has the state id and
-- the boot id of its original. Its start took the original for its own former life and fenced it alive. So each
-- life also says which lock file it holds and in which PID namespace, and whether all that it started dies with
-- it. In effect with each life's next registration; rows without these prove nothing.
-- One statement, and harmless where it ran already: DDL commits by itself here.
ALTER TABLE engine_info
    -- Device and inode of the lock file of its state directory.
    ADD COLUMN /*M! IF NOT EXISTS */ lock_device BIGINT,
    ADD COLUMN /*M! IF NOT EXISTS */ lock_inode BIGINT,
    -- Inode of its PID namespace.
    ADD COLUMN /*M! IF NOT EXISTS */ pid_namespace BIGINT,
    -- When its process started, in clock ticks since boot.
    ADD COLUMN /*M! IF NOT EXISTS */ start_ticks BIGINT,
    -- What holds all it started: 0 parentage only, 1 a control group, 2 a PID namespace.
    ADD COLUMN /*M! IF NOT EXISTS */ kept_by SMALLINT;
