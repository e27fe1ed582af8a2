-- +goose Up
CREATE TABLE facts (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE apps (
    id     TEXT NOT NULL PRIMARY KEY,
    record BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE machines (
    id     TEXT NOT NULL PRIMARY KEY,
    record BLOB NOT NULL
) STRICT;

-- What a machine was asked to be, once for each version. It is apart from the machine because it may be large and never changes.
CREATE TABLE configs (
    machine TEXT NOT NULL,
    version TEXT NOT NULL,
    config  BLOB NOT NULL,
    PRIMARY KEY (machine, version)
) STRICT;
