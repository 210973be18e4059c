ALTER TABLE meta DROP COLUMN /*M! IF EXISTS */ clock_seen_at;
