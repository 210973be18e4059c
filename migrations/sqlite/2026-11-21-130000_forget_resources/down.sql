ALTER TABLE meta DROP COLUMN forget_epoch;
ALTER TABLE meta DROP COLUMN forget_at;
