-- The machines of pools outlive the attempts that they carry out, so they have rows of their own. An attempt on one of them
-- is a row as any other: its machine is the machine's name and its own id, so that it is unique, and runner is the name.

-- +goose Up

ALTER TABLE attempts ADD COLUMN runner TEXT NOT NULL DEFAULT '';

CREATE TABLE runners (
    machine       TEXT    NOT NULL,
    id            TEXT    NOT NULL,
    pool          TEXT    NOT NULL,
    state         TEXT    NOT NULL,
    version       INTEGER NOT NULL DEFAULT 1, -- raised by every change
    spec          TEXT    NOT NULL,
    tenant        TEXT    NOT NULL,
    attempt       TEXT    NOT NULL,
    job           TEXT    NOT NULL,
    claimed_by    TEXT    NOT NULL DEFAULT '',
    uses          INTEGER NOT NULL DEFAULT 0,
    provider      TEXT    NOT NULL,
    machine_id    TEXT    NOT NULL DEFAULT '',
    region        TEXT    NOT NULL,
    image         TEXT    NOT NULL DEFAULT '',
    location      TEXT    NOT NULL DEFAULT '',
    lifetime      INTEGER NOT NULL, -- microseconds
    price_rate    INTEGER NOT NULL, -- as in attempts
    price_minimum INTEGER NOT NULL,
    price_date    TEXT    NOT NULL,
    created_at    INTEGER NOT NULL,
    idle_at       INTEGER,
    free_at       INTEGER,
    drain_at      INTEGER,
    gone_at       INTEGER, -- not NULL exactly when state is gone
    message       TEXT    NOT NULL DEFAULT ''
) STRICT;

CREATE UNIQUE INDEX runners_machine ON runners (machine);
CREATE UNIQUE INDEX runners_id ON runners (id);
CREATE INDEX runners_present ON runners (pool) WHERE gone_at IS NULL;
CREATE INDEX runners_gone ON runners (gone_at) WHERE gone_at IS NOT NULL;
