-- Times are microseconds since 1970, UTC; NULL is none. States are words. JSON is text.
--
-- Every partial index below holds one kind of row that somebody waits for, so that finding work costs what the work
-- costs, however long the history is. Their conditions name columns that change only when a row enters or leaves the
-- index: an UPDATE that sets none of them does not touch it.

-- +goose Up

CREATE TABLE installation (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    install TEXT    NOT NULL,
    epoch   INTEGER NOT NULL,
    clock   INTEGER
) STRICT;

CREATE TABLE jobs (
    seq                 INTEGER PRIMARY KEY,
    id                  TEXT    NOT NULL,
    version             INTEGER NOT NULL,
    state               TEXT    NOT NULL,
    provider            TEXT    NOT NULL,
    queue               TEXT    NOT NULL,
    key                 TEXT    NOT NULL,
    priority            INTEGER NOT NULL,
    held                INTEGER NOT NULL DEFAULT 0,
    name                TEXT    NOT NULL,
    created_at          INTEGER NOT NULL,
    started_at          INTEGER,
    run_at              INTEGER,
    queued_at           INTEGER,
    finished_at         INTEGER,
    queue_deadline      INTEGER,
    total_deadline      INTEGER,
    cancel_requested_at INTEGER,
    attempt             TEXT    NOT NULL DEFAULT '',
    number              INTEGER NOT NULL DEFAULT 0,
    starts              INTEGER NOT NULL DEFAULT 0,
    launches            INTEGER NOT NULL DEFAULT 0,
    losses              INTEGER NOT NULL DEFAULT 0,
    fence               INTEGER NOT NULL DEFAULT 0,
    events              INTEGER NOT NULL,           -- the seq of the last one
    inputs              INTEGER NOT NULL,           -- how many it has
    retried_from        TEXT    NOT NULL,
    reason              TEXT    NOT NULL DEFAULT '',
    message             TEXT    NOT NULL DEFAULT '',
    exit_code           INTEGER,
    progress            TEXT,
    request_key         TEXT,                       -- the Idempotency-Key
    spec                TEXT,                       -- NULL if it is large: then it is in specs
    result              TEXT
) STRICT;

CREATE UNIQUE INDEX jobs_id ON jobs (id);
CREATE INDEX jobs_created ON jobs (seq) WHERE state = 'created';
CREATE INDEX jobs_scheduled ON jobs (run_at) WHERE run_at IS NOT NULL;
CREATE INDEX jobs_ready ON jobs (provider, queue, priority DESC, seq) WHERE state = 'queued' AND held = 0;
CREATE INDEX jobs_held ON jobs (queue, key, priority DESC, seq) WHERE held = 1;
CREATE INDEX jobs_expiring ON jobs (queue_deadline)
    WHERE queue_deadline IS NOT NULL AND number = 0 AND finished_at IS NULL;
CREATE INDEX jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX jobs_unsuccessful ON jobs (state, seq)
    WHERE state = 'failed' OR state = 'canceled' OR state = 'expired'; -- IN would make a temporary table each time

-- Every transition rewrites the row of its job. A spec with a large payload stands apart, so that it is written once.
CREATE TABLE specs (
    job  INTEGER PRIMARY KEY,
    spec TEXT    NOT NULL
) STRICT;

CREATE TABLE request_keys (
    key       TEXT    PRIMARY KEY,
    job       INTEGER NOT NULL,
    body_hash BLOB    NOT NULL
) WITHOUT ROWID, STRICT;

CREATE TABLE labels (
    key   TEXT    NOT NULL,
    value TEXT    NOT NULL,
    job   INTEGER NOT NULL,
    PRIMARY KEY (key, value, job)
) WITHOUT ROWID, STRICT;

CREATE TABLE inputs (
    job          INTEGER NOT NULL,
    place        INTEGER NOT NULL, -- in the order in which they were declared
    name         TEXT    NOT NULL,
    content_type TEXT    NOT NULL,
    size         INTEGER NOT NULL,
    sha256       TEXT    NOT NULL,
    stored_at    INTEGER,
    PRIMARY KEY (job, place)
) WITHOUT ROWID, STRICT;

CREATE TABLE events (
    job     INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    time    INTEGER NOT NULL,
    type    TEXT    NOT NULL,
    state   TEXT    NOT NULL,
    attempt INTEGER NOT NULL,
    reason  TEXT    NOT NULL,
    message TEXT    NOT NULL,
    PRIMARY KEY (job, seq)
) WITHOUT ROWID, STRICT;

-- An attempt and its machine are one row, because most of what happens to one happens to the other.
--
-- The seq of an attempt is its job's seq shifted left by 20 bits, plus its number. So the attempts of a job are one
-- range of the table, and no index is needed to find them.
CREATE TABLE attempts (
    seq             INTEGER PRIMARY KEY,
    id              TEXT    NOT NULL,
    job             INTEGER NOT NULL,
    number          INTEGER NOT NULL,
    state           TEXT    NOT NULL,
    fence           INTEGER NOT NULL DEFAULT 0,
    claimed_by      TEXT    NOT NULL DEFAULT '',
    provider        TEXT    NOT NULL,
    queue           TEXT    NOT NULL, -- its job's, to count by
    key             TEXT    NOT NULL, -- its job's, to count by
    queued_at       INTEGER,
    created_at      INTEGER NOT NULL,
    booted_at       INTEGER,
    claimed_at      INTEGER,
    ended_at        INTEGER,
    reason          TEXT    NOT NULL DEFAULT '',
    message         TEXT    NOT NULL DEFAULT '',
    started         INTEGER NOT NULL DEFAULT 0,
    report          TEXT,             -- its exit and measurements
    machine         TEXT    NOT NULL,
    machine_id      TEXT    NOT NULL DEFAULT '',
    machine_state   TEXT    NOT NULL,
    machine_message TEXT    NOT NULL DEFAULT '',
    lifetime        INTEGER NOT NULL, -- microseconds
    location        TEXT    NOT NULL DEFAULT '',
    delete_at       INTEGER,
    gone_at         INTEGER           -- not NULL exactly when machine_state is gone
) STRICT;

CREATE UNIQUE INDEX attempts_id ON attempts (id);
CREATE UNIQUE INDEX attempts_machine ON attempts (machine);
-- A job is starting or running exactly while its last attempt is here: what the limits of queues and keys count.
CREATE INDEX attempts_live ON attempts (queue, key) WHERE ended_at IS NULL;
CREATE INDEX attempts_present ON attempts (gone_at) WHERE gone_at IS NULL;

CREATE TABLE artifacts (
    attempt      INTEGER NOT NULL,
    name         TEXT    NOT NULL,
    size         INTEGER NOT NULL,
    sha256       TEXT    NOT NULL,
    content_type TEXT    NOT NULL,
    PRIMARY KEY (attempt, name)
) WITHOUT ROWID, STRICT;

-- Machines that no launch made.
CREATE TABLE adopted (
    machine         TEXT    PRIMARY KEY,
    provider        TEXT    NOT NULL,
    machine_id      TEXT    NOT NULL,
    attempt         TEXT    NOT NULL,
    job             TEXT    NOT NULL,
    machine_state   TEXT    NOT NULL,
    machine_message TEXT    NOT NULL,
    lifetime        INTEGER NOT NULL,
    location        TEXT    NOT NULL,
    created_at      INTEGER NOT NULL,
    delete_at       INTEGER,
    gone_at         INTEGER
) WITHOUT ROWID, STRICT;

CREATE INDEX adopted_present ON adopted (job) WHERE gone_at IS NULL;
CREATE INDEX adopted_gone ON adopted (gone_at) WHERE gone_at IS NOT NULL;

CREATE TABLE tokens (
    seq        INTEGER PRIMARY KEY,
    id         TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    hash       BLOB    NOT NULL,
    scopes     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER
) STRICT;

CREATE UNIQUE INDEX tokens_id ON tokens (id);
CREATE UNIQUE INDEX tokens_hash ON tokens (hash);
CREATE INDEX tokens_name ON tokens (name) WHERE revoked_at IS NULL;
