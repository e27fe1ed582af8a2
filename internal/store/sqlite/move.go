package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

// moveJob writes every column that a Move can change.
const moveJob = `
UPDATE jobs SET version = $2, state = $3, held = $4, started_at = $5, run_at = $6, queued_at = $7, queue_deadline = $8,
	total_deadline = $9, cancel_requested_at = $10, finished_at = $11, reason = $12, message = $13, events = $14
WHERE seq = $1`

// releaseHeld lets the first of the jobs of a queue go on that wait because their key is at its limit: one on each
// provider, because one provider may be full while another has room. Those for which the key has no place left are held
// again when their turn comes.
const releaseHeld = `
WITH RECURSIVE holding (provider) AS (
	SELECT (SELECT provider FROM jobs WHERE held = 1 AND queue = $1 AND key = $2 ORDER BY provider LIMIT 1)
	UNION ALL
	SELECT (SELECT jobs.provider FROM jobs WHERE held = 1 AND queue = $1 AND key = $2 AND jobs.provider > holding.provider
		ORDER BY jobs.provider LIMIT 1)
	FROM holding WHERE holding.provider IS NOT NULL)
UPDATE jobs SET held = 0 WHERE seq IN (
	SELECT (SELECT seq FROM jobs WHERE held = 1 AND queue = $1 AND key = $2 AND jobs.provider = holding.provider
		ORDER BY priority DESC, seq LIMIT 1)
	FROM holding WHERE holding.provider IS NOT NULL)`

// Move implements store.Jobs.
func (s *Store) Move(ctx context.Context, m *store.Move) (*store.Job, error) {
	if err := checkMove(m); err != nil {
		return nil, err
	}
	refusals, err := refusalsText(m.Refusals)
	if err != nil {
		return nil, err
	}
	wish := *m
	wish.Refusals = nil
	var moved *jobRow
	err = s.write(ctx, moveOp(m), func(t *tx) (err error) {
		moved, err = t.move(&wish, refusals)
		return err
	})
	if err != nil {
		return nil, err
	}
	return moved.decode()
}

// moveOp is the name under which a move passes its failpoints.
func moveOp(m *store.Move) string {
	if m.From == dayfly.Created && m.To != dayfly.Canceled {
		return opStart
	}
	return opMove
}

// checkMove refuses what is no transition of a job without a live attempt. What is one for no job, because its job has
// ended, is refused as a conflict by [tx.move].
func checkMove(m *store.Move) error {
	if m.From.Terminal() {
		return nil
	}
	flag := m.From == m.To && !m.CancelRequestedAt.IsZero()
	active := m.From == dayfly.Starting || m.From == dayfly.Running
	to := m.To == dayfly.Scheduled || m.To == dayfly.Queued || m.To.Terminal()
	switch {
	case !knownState(m.From) || !flag && (active || !to) || m.To == dayfly.Succeeded:
		return fmt.Errorf("sqlite: move job %s: %w: not from %s to %s", m.JobID, fault.Invalid, m.From, m.To)
	case m.To == dayfly.Scheduled && !flag && m.RunAt.IsZero():
		return fmt.Errorf("sqlite: move job %s: %w: a scheduled job needs a time to run at", m.JobID, fault.Invalid)
	}
	return nil
}

// move carries out a move. Refusals that are nil leave the job's as they are.
func (t *tx) move(m *store.Move, refusals []byte) (*jobRow, error) {
	j, err := readJob(t.session, jobByID, m.JobID)
	if err != nil {
		return nil, err
	}
	if j == nil {
		return nil, noJob(m.JobID)
	}
	if j.State.Terminal() || j.State != m.From || j.Version != m.Version {
		return nil, fmt.Errorf("sqlite: job %s: %w: it is %s at version %d, not %s at %d",
			j.ID, fault.Conflict, j.State, j.Version, m.From, m.Version)
	}
	wasReady := j.State == dayfly.Queued && !j.Held
	j.Version++
	j.Events++
	if !m.CancelRequestedAt.IsZero() {
		j.CancelRequestedAt = stored(m.CancelRequestedAt)
	}
	if m.From != m.To || m.CancelRequestedAt.IsZero() {
		j.move(m)
	}
	_, _, err = t.exec(moveJob, j.Seq, j.Version, string(j.State), j.Held, micros(j.StartedAt), micros(j.RunAt),
		micros(j.QueuedAt), micros(j.QueueDeadline), micros(j.TotalDeadline), micros(j.CancelRequestedAt),
		micros(j.FinishedAt), string(j.Reason), j.Message, j.Events)
	if err != nil {
		return nil, err
	}
	if refusals != nil {
		j.refusals = refusals
		if _, _, err := t.exec(keepRefusals, j.Seq, string(refusals)); err != nil {
			return nil, err
		}
	}
	kind := m.Event
	if kind == "" {
		kind = string(m.To)
	}
	t.event(event{job: j.Seq, seq: j.Events, time: m.Time, kind: kind, state: j.State, reason: m.Reason, message: m.Message})
	t.moved(j.lane(), m.From, m.To)
	t.pairs.rememberJob(j)
	if wasReady && j.State != dayfly.Queued {
		return j, t.release(j.Queue, j.Key)
	}
	return j, nil
}

// move changes the row as m says. What m leaves zero stays as it is, except for the time to run at, which only a
// scheduled job has.
func (r *jobRow) move(m *store.Move) {
	set := func(to *time.Time, t time.Time) {
		if !t.IsZero() {
			*to = stored(t)
		}
	}
	r.State, r.Held, r.RunAt = m.To, false, time.Time{}
	if m.To.Terminal() {
		r.FinishedAt = stored(m.FinishedAt)
		if r.FinishedAt.IsZero() {
			r.FinishedAt = stored(m.Time)
		}
		r.Reason, r.Message = m.Reason, m.Message
		return
	}
	if m.To == dayfly.Scheduled {
		r.RunAt = stored(m.RunAt)
	}
	set(&r.StartedAt, m.StartedAt)
	set(&r.QueuedAt, m.QueuedAt)
	set(&r.QueueDeadline, m.QueueDeadline)
	set(&r.TotalDeadline, m.TotalDeadline)
}

// release lets the first held job of a queue and key go on, on each provider. It is called when a job gives up its place, and also when
// a job that had been let go on leaves the queue without taking the place, or the place would be lost.
func (t *tx) release(queue, key string) error {
	if key == "" {
		return nil
	}
	_, _, err := t.exec(releaseHeld, queue, key)
	return err
}
