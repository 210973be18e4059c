ALTER TABLE engine_info DROP COLUMN kept_by;
ALTER TABLE engine_info DROP COLUMN start_ticks;
ALTER TABLE engine_info DROP COLUMN pid_namespace;
ALTER TABLE engine_info DROP COLUMN lock_inode;
ALTER TABLE engine_info DROP COLUMN lock_device;
