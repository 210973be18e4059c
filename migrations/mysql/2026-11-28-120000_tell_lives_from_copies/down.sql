ALTER TABLE engine_info
    DROP COLUMN /*M! IF EXISTS */ kept_by,
    DROP COLUMN /*M! IF EXISTS */ start_ticks,
    DROP COLUMN /*M! IF EXISTS */ pid_namespace,
    DROP COLUMN /*M! IF EXISTS */ lock_inode,
    DROP COLUMN /*M! IF EXISTS */ lock_device;
