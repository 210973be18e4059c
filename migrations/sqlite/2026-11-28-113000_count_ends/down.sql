ALTER TABLE engine DROP COLUMN counted_at;
