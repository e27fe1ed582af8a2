-- How long no server was there is known from a counter of the computer's, which nobody can set, if that has gone on meanwhile.

-- +goose Up

ALTER TABLE installation ADD COLUMN count INTEGER NOT NULL DEFAULT 0; -- what the counter showed at the time of clock, in microseconds
ALTER TABLE installation ADD COLUMN since TEXT NOT NULL DEFAULT ''; -- what it counts from
