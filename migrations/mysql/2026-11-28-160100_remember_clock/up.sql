-- A database whose clock was set back lets delayed and retried tasks wait so much longer, and nothing else shows it
-- (src/engine/heartbeat/db_clock.rs). Takes effect with 0.1.0; programs of before go on without it.
-- Harmless where it ran already: DDL commits by itself here.
ALTER TABLE meta
    -- The latest time of the database that an engine had seen when it found the clock set back; it only grows.
    ADD COLUMN /*M! IF NOT EXISTS */ clock_seen_at BIGINT NOT NULL DEFAULT 0;
