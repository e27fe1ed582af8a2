-- A queue timeout ends with the first start of a job's command, not with the first machine that is asked for: a provider
-- without capacity refuses machines for hours. A total timeout ends a job whether it runs or waits for another attempt.

-- +goose Up

DROP INDEX jobs_expiring;
CREATE INDEX jobs_expiring ON jobs (queue_deadline)
    WHERE queue_deadline IS NOT NULL AND starts = 0 AND finished_at IS NULL;
CREATE INDEX jobs_overdue ON jobs (total_deadline) WHERE total_deadline IS NOT NULL AND finished_at IS NULL;
