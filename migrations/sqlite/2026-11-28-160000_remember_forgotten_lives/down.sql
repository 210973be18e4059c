ALTER TABLE meta DROP COLUMN lives_forgotten_at;
