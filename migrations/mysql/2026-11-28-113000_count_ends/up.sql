-- The hourly numbers survive their engine: what it had not told when it died is counted from its ends, by whoever
-- closes its row (src/store/queries/uncounted.rs). Takes effect with the engines that register after it: NULL says that an
-- engine does not note what it told, so nothing of it is counted twice.
-- Up to when the ends of this engine are in the hourly numbers.
ALTER TABLE engine ADD COLUMN /*M! IF NOT EXISTS */ counted_at BIGINT;
