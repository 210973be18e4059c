-- A database whose clock was set back lets delayed and retried tasks wait so much longer, and nothing else shows it
-- (src/engine/heartbeat/db_clock.rs). Takes effect with 0.1.0; programs of before go on without it.
-- The latest time of the database that an engine had seen when it found the clock set back; it only grows.
ALTER TABLE meta ADD COLUMN clock_seen_at BIGINT NOT NULL DEFAULT 0;
