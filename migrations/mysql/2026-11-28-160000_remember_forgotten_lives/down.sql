ALTER TABLE meta DROP COLUMN /*M! IF EXISTS */ lives_forgotten_at;
