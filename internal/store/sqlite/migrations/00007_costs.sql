-- What a machine costs is fixed when it is asked for, so that later prices do not rewrite history. What an attempt has cost
-- for certain is added to its day and queue in the transaction that records that its machine is gone.

-- +goose Up

ALTER TABLE attempts ADD COLUMN price_rate INTEGER NOT NULL DEFAULT -1; -- billionths of a dollar per hour; -1 if nobody knows
ALTER TABLE attempts ADD COLUMN price_minimum INTEGER NOT NULL DEFAULT 0; -- billed at least, in microseconds
ALTER TABLE attempts ADD COLUMN price_date TEXT NOT NULL DEFAULT '';
ALTER TABLE attempts ADD COLUMN unbilled INTEGER NOT NULL DEFAULT 0; -- its provider made no machine
ALTER TABLE attempts ADD COLUMN cost INTEGER; -- what has been added to costs, in millionths of a dollar; NULL before

CREATE INDEX attempts_unsettled ON attempts (queue) WHERE cost IS NULL AND price_rate > 0;

CREATE TABLE costs (
    day      TEXT    NOT NULL, -- 2006-01-02, UTC, by the wall clock
    queue    TEXT    NOT NULL,
    provider TEXT    NOT NULL,
    amount   INTEGER NOT NULL, -- millionths of a dollar
    attempts INTEGER NOT NULL, -- whose machines were found gone on that day, and cost something
    unknown  INTEGER NOT NULL, -- whose machines were found gone on that day, and nobody knows what they cost
    PRIMARY KEY (day, queue, provider)
) WITHOUT ROWID, STRICT;
