-- A copy of a machine (a cloned container, a restored snapshot, a copied state directory) has the state id and
-- the boot id of its original. Its start took the original for its own former life and fenced it alive. So each
-- life also says which lock file it holds and in which PID namespace, and whether all that it started dies with
-- it. In effect with each life's next registration; rows without these prove nothing.
ALTER TABLE engine_info ADD COLUMN lock_device BIGINT;    -- device of the lock file of its state directory
ALTER TABLE engine_info ADD COLUMN lock_inode BIGINT;     -- inode of the same
ALTER TABLE engine_info ADD COLUMN pid_namespace BIGINT;  -- inode of its PID namespace
ALTER TABLE engine_info ADD COLUMN start_ticks BIGINT;    -- when its process started, in clock ticks since boot
ALTER TABLE engine_info ADD COLUMN kept_by SMALLINT;      -- what holds all it started: 0 parentage only, 1 a control group, 2 a PID namespace
