ALTER TABLE engine DROP COLUMN /*M! IF EXISTS */ counted_at;
