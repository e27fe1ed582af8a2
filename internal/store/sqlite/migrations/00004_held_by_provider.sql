-- When a key has room again, the first of its held jobs on every provider goes on: one provider may be full while
-- another has room.

-- +goose Up

DROP INDEX jobs_held;
CREATE INDEX jobs_held ON jobs (queue, key, provider, priority DESC, seq) WHERE held = 1;
