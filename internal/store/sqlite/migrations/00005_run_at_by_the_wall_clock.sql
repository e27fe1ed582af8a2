-- A job that has never been ready waits for the time that its owner named, by the wall clock, and its deadlines begin
-- then. Any other waits for a backoff, by the engine's clock. The two need not agree, so neither may be found while the
-- other is looked for.

-- +goose Up

DROP INDEX IF EXISTS jobs_scheduled;
CREATE INDEX jobs_scheduled ON jobs (run_at) WHERE run_at IS NOT NULL AND queued_at IS NULL;
DROP INDEX IF EXISTS jobs_put_off;
CREATE INDEX jobs_put_off ON jobs (run_at) WHERE run_at IS NOT NULL AND queued_at IS NOT NULL;
DROP INDEX IF EXISTS jobs_expiring;
CREATE INDEX jobs_expiring ON jobs (queue_deadline)
    WHERE queue_deadline IS NOT NULL AND starts = 0 AND finished_at IS NULL AND queued_at IS NOT NULL;
DROP INDEX IF EXISTS jobs_overdue;
CREATE INDEX jobs_overdue ON jobs (total_deadline)
    WHERE total_deadline IS NOT NULL AND finished_at IS NULL AND queued_at IS NOT NULL;
