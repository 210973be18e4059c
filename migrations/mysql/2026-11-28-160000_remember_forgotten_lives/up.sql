-- A database that came back older may not know the life of an engine at all. Its row is then missing like one that
-- retention or `rekindle engine clean` has removed (src/protocol/last_beat.rs); this tells one from the other. Takes
-- effect with 0.1.0: engines of it need the column, programs of before go on without it.
-- Harmless where it ran already: DDL commits by itself here.
ALTER TABLE meta
    -- The latest end or last beat of all lives whose rows were removed, by the database's clock; it only grows.
    ADD COLUMN /*M! IF NOT EXISTS */ lives_forgotten_at BIGINT NOT NULL DEFAULT 0;
