-- A job may name several providers. jobs.provider holds all of them, as they were named, so that a lane is the jobs with
-- the same choice; an attempt has the one that it was launched on. What the others said is kept on the job.

-- +goose Up

ALTER TABLE jobs ADD COLUMN refusals TEXT; -- JSON; NULL: none
ALTER TABLE attempts ADD COLUMN prepared_at INTEGER;
ALTER TABLE attempts ADD COLUMN region TEXT NOT NULL DEFAULT '';
ALTER TABLE attempts ADD COLUMN image TEXT NOT NULL DEFAULT '';
ALTER TABLE adopted ADD COLUMN region TEXT NOT NULL DEFAULT '';
ALTER TABLE adopted ADD COLUMN image TEXT NOT NULL DEFAULT '';
