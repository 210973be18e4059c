-- Rows of resources that nobody has used for long are forgotten (src/store/queries/forget.rs). Takes effect
-- with 0.1.0: engines of it need the columns, programs that only read do not.
-- When somebody last looked whether there are enough of them, or raised the epoch for it.
ALTER TABLE meta ADD COLUMN forget_at BIGINT NOT NULL DEFAULT 0;
-- The epoch raised for it; 0: nothing is left to forget. Rows with a smaller token may go T after forget_at.
ALTER TABLE meta ADD COLUMN forget_epoch BIGINT NOT NULL DEFAULT 0;
