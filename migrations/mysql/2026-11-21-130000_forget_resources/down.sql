ALTER TABLE meta DROP COLUMN /*M! IF EXISTS */ forget_epoch, DROP COLUMN /*M! IF EXISTS */ forget_at;
