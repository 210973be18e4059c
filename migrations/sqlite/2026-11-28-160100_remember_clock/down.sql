ALTER TABLE meta DROP COLUMN clock_seen_at;
