package sqlite

import (
	"context"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
)

const (
	selectJob = `SELECT ` + jobColumns + ` FROM ` + jobTables + ` `
	jobBySeq  = selectJob + `WHERE j.seq = $1`
	jobByID   = selectJob + `WHERE j.id = $1`
)

const inputsOfJob = `
SELECT name, content_type, size, sha256, blob, stored_at FROM inputs WHERE job = $1 ORDER BY place`

const attemptsOfJob = `
SELECT ` + attemptColumns + `, ` + machineColumns + ` FROM attempts a WHERE a.seq BETWEEN $1 AND $2 ORDER BY a.seq`

const artifactsOfAttempt = `SELECT name, size, sha256, content_type FROM artifacts WHERE attempt = $1 ORDER BY name`

const eventsOfJob = `
SELECT seq, time, type, state, attempt, reason, message FROM events
WHERE job = $1 AND seq > $2 ORDER BY seq LIMIT $3 + 0`

// whole is a job with all that belongs to it, as it was read.
type whole struct {
	jobRow
	inputs    []store.Input
	attempts  []attemptAndMachine
	artifacts []dayfly.Artifact
}

type attemptAndMachine struct {
	attempt attemptRow
	machine machineRow
}

// decode returns the job.
func (w *whole) decode() (*store.Job, error) {
	job, err := w.jobRow.decode()
	if err != nil {
		return nil, err
	}
	job.Inputs, job.Artifacts = w.inputs, w.artifacts
	for _, row := range w.attempts {
		a, err := row.attempt.decode()
		if err != nil {
			return nil, err
		}
		a.JobID, a.Machine = job.ID, row.machine.of(a, job.ID)
		job.AttemptLog = append(job.AttemptLog, a)
	}
	return job, nil
}

// readJob returns the row that a query of selectJob finds, or nil.
func readJob(s *session, query string, arg any) (*jobRow, error) {
	r := new(jobRow)
	found, err := s.one(r.columns(), query, arg)
	if !found || err != nil {
		return nil, err
	}
	return r, nil
}

// readJobs returns the rows that a query of selectJob finds.
func readJobs(s *session, query string, args ...any) (rows []*jobRow, err error) {
	err = s.each(func(values row) error {
		r := new(jobRow)
		rows = append(rows, r)
		return s.scan(values, r.columns())
	}, query, args...)
	return rows, err
}

// readWhole returns the job that a query of selectJob finds with all that belongs to it, or nil.
func readWhole(s *session, query string, arg any) (*whole, error) {
	r, err := readJob(s, query, arg)
	if r == nil || err != nil {
		return nil, err
	}
	w := &whole{jobRow: *r}
	if w.inputs, err = readInputs(s, r); err != nil {
		return nil, err
	}
	err = s.each(func(values row) error {
		var a attemptAndMachine
		err := s.scan(values, append(a.attempt.columns(), a.machine.columns()...))
		w.attempts = append(w.attempts, a)
		return err
	}, attemptsOfJob, firstAttempt(r.Seq), lastAttempt(r.Seq))
	if err != nil {
		return nil, err
	}
	// An attempt's artifacts are the job's until the next attempt begins.
	err = s.each(func(values row) error {
		var a dayfly.Artifact
		err := s.scan(values, []column{word(&a.Name), number(&a.Size), word(&a.SHA256), word(&a.ContentType)})
		w.artifacts = append(w.artifacts, a)
		return err
	}, artifactsOfAttempt, attemptSeq(r.Seq, r.Number))
	return w, err
}

func readInputs(s *session, r *jobRow) (inputs []store.Input, err error) {
	if r.inputs == 0 {
		return nil, nil
	}
	err = s.each(func(values row) error {
		var in store.Input
		err := s.scan(values, []column{word(&in.Name), word(&in.ContentType), number(&in.Size), word(&in.SHA256),
			word(&in.Blob), instant(&in.StoredAt)})
		inputs = append(inputs, in)
		return err
	}, inputsOfJob, r.Seq)
	return inputs, err
}

// Job implements store.Jobs.
func (s *Store) Job(ctx context.Context, id string) (*store.Job, error) {
	var found *whole
	err := s.read(ctx, func(c *session) (err error) {
		found, err = readWhole(c, jobByID, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	if found == nil {
		return nil, noJob(id)
	}
	return found.decode()
}

// Events implements store.Jobs.
func (s *Store) Events(ctx context.Context, id string, after int64, limit int) ([]*dayfly.Event, error) {
	var events []*dayfly.Event
	err := s.read(ctx, func(c *session) error {
		var job int64
		var state dayfly.State
		found, err := c.one([]column{number(&job), word(&state)}, stateByID, id)
		if err != nil {
			return err
		}
		if !found {
			return noJob(id)
		}
		if limit < 1 {
			return nil
		}
		return c.each(func(values row) error {
			e := &dayfly.Event{Job: id}
			events = append(events, e)
			return c.scan(values, []column{number(&e.Seq), instant(&e.Time), word(&e.Type), word(&e.State),
				number(&e.Attempt), word(&e.Reason), word(&e.Message)})
		}, eventsOfJob, job, after, limit)
	})
	return events, err
}
