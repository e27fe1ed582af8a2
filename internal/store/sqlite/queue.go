package sqlite

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

// readyLanes leaps through the index of ready jobs from one lane to the next, so it reads one entry per lane: from each
// to the next queue of the same provider, or else to the first queue of the next provider.
const readyLanes = `
WITH RECURSIVE lane (provider, queue) AS (
	SELECT * FROM (
		SELECT provider, queue FROM jobs WHERE state = 'queued' AND held = 0 ORDER BY provider, queue LIMIT 1)
	UNION ALL
	SELECT next.provider, next.queue FROM lane JOIN jobs AS next ON next.seq = coalesce(
		(SELECT seq FROM jobs WHERE state = 'queued' AND held = 0 AND provider = lane.provider AND queue > lane.queue
			ORDER BY queue LIMIT 1),
		(SELECT seq FROM jobs WHERE state = 'queued' AND held = 0 AND provider > lane.provider
			ORDER BY provider, queue LIMIT 1))
)
SELECT provider, queue FROM lane`

const readyJobs = selectJob + `
WHERE j.state = 'queued' AND j.held = 0 AND j.provider = $1 AND j.queue = $2
ORDER BY j.priority DESC, j.seq LIMIT $3 + 0 OFFSET $4`

// Those behind a job are in two ranges of the index: of the same priority, and of lower ones.
const (
	readyBeside = selectJob + `
WHERE j.state = 'queued' AND j.held = 0 AND j.provider = $1 AND j.queue = $2 AND j.priority = $5 AND j.seq > $6
ORDER BY j.seq LIMIT $3 + 0 OFFSET $4`
	readyBelow = selectJob + `
WHERE j.state = 'queued' AND j.held = 0 AND j.provider = $1 AND j.queue = $2 AND j.priority < $5
ORDER BY j.priority DESC, j.seq LIMIT $3 + 0 OFFSET $4`
)

const readyAhead = `
SELECT count(*) FROM jobs
WHERE state = 'queued' AND held = 0 AND provider = $1 AND queue = $2 AND priority >= $3 AND (priority > $3 OR seq < $4)`

// Lanes implements store.Queue.
func (s *Store) Lanes(ctx context.Context) ([]store.Lane, error) {
	var lanes []store.Lane
	err := s.read(ctx, func(c *session) error {
		return c.each(func(values row) error {
			var l store.Lane
			err := c.scan(values, []column{word(&l.Provider), word(&l.Queue)})
			lanes = append(lanes, l)
			return err
		}, readyLanes)
	})
	return lanes, err
}

// Ready implements store.Queue.
func (s *Store) Ready(ctx context.Context, lane store.Lane, after *store.Job, limit int) ([]*store.Job, error) {
	if after == nil {
		return s.readyOf(ctx, limit, readyJobs, lane)
	}
	jobs, err := s.readyOf(ctx, limit, readyBeside, lane, after.Priority, after.Seq)
	if err != nil || len(jobs) >= limit {
		return jobs, err
	}
	below, err := s.readyOf(ctx, limit-len(jobs), readyBelow, lane, after.Priority)
	return append(jobs, below...), err
}

// readyOf returns the first limit jobs of a lane that the query finds and that can be read.
func (s *Store) readyOf(ctx context.Context, limit int, query string, lane store.Lane, more ...any) ([]*store.Job, error) {
	var jobs []*store.Job
	for passed := 0; limit > 0; {
		missing := limit - len(jobs)
		args := append([]any{lane.Provider, lane.Queue, missing, passed}, more...)
		var rows []*jobRow
		err := s.read(ctx, func(c *session) (err error) {
			rows, err = readJobs(c, query, args...)
			return err
		})
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, s.readable(rows)...)
		if len(rows) < missing || len(jobs) == limit {
			return jobs, nil
		}
		passed += len(rows) // some of them cannot be read, and must not hide those behind them
	}
	return nil, nil
}

// Ahead implements store.Queue.
func (s *Store) Ahead(ctx context.Context, job *store.Job) (int, error) {
	var n int
	err := s.read(ctx, func(c *session) error {
		_, err := c.one([]column{number(&n)}, readyAhead, job.Provider, job.Queue, job.Priority, job.Seq)
		return err
	})
	return n, err
}

// Counts implements store.Queue.
func (s *Store) Counts(context.Context) ([]store.Count, error) {
	return s.writer.tally.counts(), nil
}

const dueJobs = selectJob + `
WHERE j.run_at IS NOT NULL AND j.queued_at IS NULL AND j.run_at <= $1 ORDER BY j.run_at LIMIT $2 + 0`

const putOffJobs = selectJob + `
WHERE j.run_at IS NOT NULL AND j.queued_at IS NOT NULL AND j.run_at <= $1 ORDER BY j.run_at LIMIT $2 + 0`

const lateJobs = selectJob + `
WHERE j.queue_deadline IS NOT NULL AND j.starts = 0 AND j.finished_at IS NULL AND j.queued_at IS NOT NULL
	AND j.queue_deadline < $1 AND j.state IN ('scheduled', 'queued')
ORDER BY j.queue_deadline LIMIT $2 + 0`

const overdueJobs = selectJob + `
WHERE j.total_deadline IS NOT NULL AND j.finished_at IS NULL AND j.queued_at IS NOT NULL
	AND j.total_deadline < $1 AND j.state IN ('scheduled', 'queued')
ORDER BY j.total_deadline LIMIT $2 + 0`

const promoteJob = `
UPDATE jobs SET version = $2, state = 'queued', run_at = NULL, queued_at = $3, queue_deadline = $4, total_deadline = $5,
	events = $6 WHERE seq = $1`

const giveUpJob = `
UPDATE jobs SET version = $2, state = $3, held = 0, run_at = NULL, finished_at = $4, reason = $5, message = $6,
	events = $7 WHERE seq = $1`

const nextDue = `SELECT run_at FROM jobs WHERE run_at IS NOT NULL AND queued_at IS NULL ORDER BY run_at LIMIT 1`

const nextPutOff = `SELECT run_at FROM jobs WHERE run_at IS NOT NULL AND queued_at IS NOT NULL ORDER BY run_at LIMIT 1`

const nextLate = `
SELECT queue_deadline FROM jobs
WHERE queue_deadline IS NOT NULL AND starts = 0 AND finished_at IS NULL AND queued_at IS NOT NULL
	AND state IN ('scheduled', 'queued')
ORDER BY queue_deadline LIMIT 1`

const nextOverdue = `
SELECT total_deadline FROM jobs
WHERE total_deadline IS NOT NULL AND finished_at IS NULL AND queued_at IS NOT NULL AND state IN ('scheduled', 'queued')
ORDER BY total_deadline LIMIT 1`

// Promote implements store.Queue. Whoever has become ready for the first time comes first, because only then do its
// deadlines count; and giving up comes before the end of a backoff, so that a job that is both due and late moves once.
func (s *Store) Promote(ctx context.Context, now, wall time.Time, limit int) ([]*store.Job, time.Time, error) {
	if limit < 1 {
		return nil, time.Time{}, fmt.Errorf("sqlite: promote: %w: limit %d is not positive", fault.Invalid, limit)
	}
	ahead := stored(now).Sub(stored(wall))
	var moved []*jobRow
	var next time.Time
	err := s.write(ctx, opPromote, func(t *tx) error {
		due, err := t.promote(dueJobs, wall, now, ahead, limit)
		if err != nil {
			return err
		}
		late, err := t.giveUp(lateJobs, now, limit)
		if err != nil {
			return err
		}
		overdue, err := t.giveUp(overdueJobs, now, limit)
		if err != nil {
			return err
		}
		putOff, err := t.promote(putOffJobs, now, now, 0, limit)
		if err != nil {
			return err
		}
		moved = slices.Concat(due, late, overdue, putOff)
		next, err = t.next(ahead)
		return err
	})
	if err != nil {
		return nil, time.Time{}, err
	}
	return s.readable(moved), next, nil
}

// promote makes the jobs ready that the query finds: those whose time is not after at. Their deadlines are put off as
// well.
func (t *tx) promote(query string, at, now time.Time, putOff time.Duration, limit int) ([]*jobRow, error) {
	due, err := readJobs(t.session, query, at.UnixMicro(), limit)
	if err != nil {
		return nil, err
	}
	for _, j := range due {
		t.moved(j.lane(), j.State, dayfly.Queued)
		j.State, j.RunAt, j.QueuedAt = dayfly.Queued, time.Time{}, stored(now)
		for _, deadline := range []*time.Time{&j.QueueDeadline, &j.TotalDeadline} {
			if !deadline.IsZero() {
				*deadline = deadline.Add(putOff)
			}
		}
		j.Version++
		j.Events++
		_, _, err := t.exec(promoteJob, j.Seq, j.Version, micros(j.QueuedAt), micros(j.QueueDeadline), micros(j.TotalDeadline), j.Events)
		if err != nil {
			return nil, err
		}
		t.event(event{job: j.Seq, seq: j.Events, time: now, kind: eventQueued, state: j.State})
	}
	return due, nil
}

// giveUp ends the jobs that the query finds: those that wait although one of their deadlines has passed.
func (t *tx) giveUp(query string, now time.Time, limit int) ([]*jobRow, error) {
	late, err := readJobs(t.session, query, now.UnixMicro(), limit)
	if err != nil {
		return nil, err
	}
	state, reason, kind := dayfly.Expired, dayfly.ReasonQueueTimeout, eventExpired
	if query == overdueJobs {
		state, reason, kind = dayfly.Failed, dayfly.ReasonDeadline, eventFailed
	}
	for _, j := range late {
		wasReady := j.State == dayfly.Queued && !j.Held
		t.moved(j.lane(), j.State, state)
		j.Reason, j.Message = reason, givenUp(reason, j)
		j.State, j.Held, j.RunAt, j.FinishedAt = state, false, time.Time{}, stored(now)
		j.Version++
		j.Events++
		_, _, err := t.exec(giveUpJob, j.Seq, j.Version, string(state), micros(j.FinishedAt), string(j.Reason), j.Message, j.Events)
		if err != nil {
			return nil, err
		}
		t.event(event{job: j.Seq, seq: j.Events, time: now, kind: kind, state: j.State, reason: j.Reason, message: j.Message})
		if wasReady {
			if err := t.release(j.Queue, j.Key); err != nil {
				return nil, err
			}
		}
	}
	return late, nil
}

// givenUp tells why a job that waits has ended, and what became of its last attempt, if a machine was asked for at all.
func givenUp(reason dayfly.Reason, j *jobRow) string {
	text := "Its queue timeout passed before its command could be started."
	switch {
	case reason == dayfly.ReasonDeadline && j.Starts > 0:
		text = "Its total timeout passed before it could be tried again."
	case reason == dayfly.ReasonDeadline:
		text = "Its total timeout passed before its command could be started."
	}
	if j.Message != "" {
		text += " The last attempt: " + j.Message
	}
	return text
}

// next returns when Promote will have more to do, or zero. The clock that tells is ahead of the wall clock by so much.
func (t *tx) next(ahead time.Duration) (time.Time, error) {
	var next time.Time
	for _, look := range []struct {
		query string
		after time.Duration
	}{
		{nextDue, ahead},
		{nextPutOff, 0},
		{nextLate, time.Microsecond}, // a job is late when its deadline has passed, not when it comes
		{nextOverdue, time.Microsecond},
	} {
		var at time.Time
		if _, err := t.one([]column{instant(&at)}, look.query); err != nil {
			return time.Time{}, err
		}
		if !at.IsZero() && (next.IsZero() || at.Add(look.after).Before(next)) {
			next = at.Add(look.after)
		}
	}
	return next, nil
}
