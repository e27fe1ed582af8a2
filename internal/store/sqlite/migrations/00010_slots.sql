-- A machine of a pool may be divided into slots, each of which carries out attempts for itself. A slot is a row of runners: the
-- first has the machine's name, and host is that name in the rows of all.

-- +goose Up

ALTER TABLE runners ADD COLUMN host TEXT NOT NULL DEFAULT '';
ALTER TABLE runners ADD COLUMN slots INTEGER NOT NULL DEFAULT 1;
UPDATE runners SET host = machine;
CREATE INDEX runners_host ON runners (host);
