package sqlite

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

const insertJob = `
INSERT INTO jobs (id, version, state, provider, queue, key, priority, name, created_at, started_at, run_at, queued_at,
	queue_deadline, total_deadline, retried_from, events, inputs, request_key, spec)
VALUES ($1, 1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 1, $15, $16, $17)`

const insertSpec = `INSERT INTO specs (job, spec) VALUES ($1, $2)`

// maxInlineSpec is the size in bytes up to which a spec is kept in the row of its job.
const maxInlineSpec = 2 << 10

const insertKey = `INSERT INTO request_keys (key, job, body_hash) VALUES ($1, $2, $3)`

const insertInput = `
INSERT INTO inputs (job, place, name, content_type, size, sha256, blob, stored_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`

const insertLabel = `INSERT INTO labels (key, value, job) VALUES ($1, $2, $3)`

const jobByKey = `SELECT job, body_hash FROM request_keys WHERE key = $1`

// submission is a store.Submission made ready to be written. It shares no memory that a caller might change.
type submission struct {
	job    store.Job // without its spec
	spec   string
	name   string
	labels []label
	inputs []store.Input

	refusals []byte // nil: none

	key    string
	hash   []byte
	launch *launch
}

type label struct{ key, value string }

// Submit implements store.Jobs.
func (s *Store) Submit(ctx context.Context, sub *store.Submission) (*store.Job, bool, error) {
	if sub.OnlyReplay {
		return s.replay(ctx, sub)
	}
	n, err := newSubmission(sub)
	if err != nil {
		return nil, false, err
	}
	var seq int64
	var earlier *whole
	var moved *jobRow // by the launch
	var attempt *store.Attempt
	err = s.write(ctx, opSubmit, func(t *tx) error {
		var err error
		moved, attempt = nil, nil
		if earlier, err = earlierJob(t.session, n.key, n.hash); earlier != nil || err != nil {
			return err
		}
		if seq, err = t.submit(n); err == nil && n.launch != nil {
			moved, attempt, err = t.launchNew(seq, n.launch)
		}
		return err
	})
	if err != nil {
		return nil, false, err
	}
	if earlier != nil {
		job, err := earlier.decode()
		return job, true, err
	}
	job := n.job
	job.Seq, job.Version, job.Events = seq, 1, 1
	job.Spec, job.Inputs = sub.Job.Spec, n.inputs
	if moved != nil {
		job.State, job.Version, job.Events = moved.State, moved.Version, moved.Events
		job.Attempt, job.Number, job.Held, job.Fence = moved.Attempt, moved.Number, moved.Held, moved.Fence
		if moved.Attempt != "" && len(sub.Launch.Refusals) > 0 {
			job.Refusals = sub.Launch.Refusals
		}
	}
	if attempt != nil {
		job.AttemptLog = []*store.Attempt{attempt}
	}
	return &job, false, nil
}

func newSubmission(s *store.Submission) (*submission, error) {
	j := s.Job
	switch {
	case j.ID == "":
		return nil, fmt.Errorf("sqlite: submit: %w: the job has no id", fault.Invalid)
	case j.State != dayfly.Created && j.State != dayfly.Scheduled && j.State != dayfly.Queued:
		return nil, fmt.Errorf("sqlite: submit: %w: a job cannot begin in state %q", fault.Invalid, j.State)
	case j.State == dayfly.Scheduled && j.RunAt.IsZero():
		return nil, fmt.Errorf("sqlite: submit: %w: a scheduled job needs a time to run at", fault.Invalid)
	}
	spec, err := json.Marshal(&j.Spec)
	if err != nil {
		return nil, fmt.Errorf("sqlite: submit: %w: the spec cannot be stored: %w", fault.Invalid, err)
	}
	n := &submission{
		job: store.Job{
			ID: j.ID, State: j.State, Provider: j.Provider, Queue: j.Queue, Key: j.Key, Priority: j.Priority,
			CreatedAt: stored(j.CreatedAt), StartedAt: stored(j.StartedAt), RunAt: stored(j.RunAt),
			QueuedAt: stored(j.QueuedAt), QueueDeadline: stored(j.QueueDeadline), TotalDeadline: stored(j.TotalDeadline),
			RetriedFrom: j.RetriedFrom, Refusals: slices.Clone(j.Refusals),
		},
		spec: string(spec),
		name: j.Spec.Name,
		key:  s.Key,
		hash: append([]byte{}, s.BodyHash...),
	}
	if n.refusals, err = refusalsText(j.Refusals); err != nil {
		return nil, err
	}
	if s.Launch != nil {
		if j.State != dayfly.Queued {
			return nil, fmt.Errorf("sqlite: submit: %w: a job that is %s cannot be launched", fault.Invalid, j.State)
		}
		if n.launch, err = newLaunch(s.Launch); err != nil {
			return nil, err
		}
	}
	if j.State != dayfly.Scheduled {
		n.job.RunAt = time.Time{} // the index of scheduled jobs is that of jobs with a time to run at
	}
	for key, value := range j.Spec.Labels {
		n.labels = append(n.labels, label{key, value})
	}
	for _, in := range s.Inputs {
		in.StoredAt = stored(in.StoredAt)
		n.inputs = append(n.inputs, in)
	}
	return n, nil
}

// replay returns the job that was submitted with the same key.
func (s *Store) replay(ctx context.Context, sub *store.Submission) (*store.Job, bool, error) {
	var earlier *whole
	err := s.read(ctx, func(c *session) (err error) {
		earlier, err = earlierJob(c, sub.Key, sub.BodyHash)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	if earlier == nil {
		return nil, false, fmt.Errorf("sqlite: submit: %w: the key has not been used", fault.NotFound)
	}
	job, err := earlier.decode()
	return job, true, err
}

// earlierJob returns the job that was submitted with the same key, or nil. fault.IdempotencyMismatch if what was asked
// for then was something else.
func earlierJob(s *session, key string, hash []byte) (*whole, error) {
	if key == "" {
		return nil, nil
	}
	var seq int64
	var known []byte
	found, err := s.one([]column{number(&seq), document(&known)}, jobByKey, key)
	if !found || err != nil {
		return nil, err
	}
	if !bytes.Equal(known, hash) {
		return nil, fmt.Errorf("sqlite: submit: %w: the key was used for another request", fault.IdempotencyMismatch)
	}
	return readWhole(s, jobBySeq, seq)
}

// submit adds a job with everything that belongs to it and returns its seq.
func (t *tx) submit(n *submission) (int64, error) {
	j := &n.job
	var key, spec any
	if n.key != "" {
		key = n.key
	}
	if len(n.spec) <= maxInlineSpec {
		spec = n.spec
	}
	_, seq, err := t.exec(insertJob, j.ID, string(j.State), j.Provider, j.Queue, j.Key, j.Priority, n.name,
		micros(j.CreatedAt), micros(j.StartedAt), micros(j.RunAt), micros(j.QueuedAt), micros(j.QueueDeadline),
		micros(j.TotalDeadline), j.RetriedFrom, len(n.inputs), key, spec)
	if err != nil {
		return 0, err
	}
	if n.refusals != nil {
		if _, _, err := t.exec(keepRefusals, seq, string(n.refusals)); err != nil {
			return 0, err
		}
	}
	if spec == nil {
		if _, _, err := t.exec(insertSpec, seq, n.spec); err != nil {
			return 0, err
		}
	}
	if key != nil {
		if _, _, err := t.exec(insertKey, key, seq, n.hash); err != nil {
			return 0, err
		}
	}
	for i, in := range n.inputs {
		_, _, err := t.exec(insertInput, seq, i, in.Name, in.ContentType, in.Size, in.SHA256, in.Blob, micros(in.StoredAt))
		if err != nil {
			return 0, err
		}
	}
	for _, l := range n.labels {
		if _, _, err := t.exec(insertLabel, l.key, l.value, seq); err != nil {
			return 0, err
		}
	}
	t.moved(store.Lane{Provider: j.Provider, Queue: j.Queue}, "", j.State)
	t.event(event{job: seq, seq: 1, time: j.CreatedAt, kind: eventCreated, state: j.State})
	return seq, nil
}

const stateByID = `SELECT seq, state FROM jobs WHERE id = $1`

const blobOfInput = `SELECT blob FROM inputs WHERE job = $1 AND name = $2`

const storeInput = `
UPDATE inputs SET content_type = $3, size = $4, sha256 = $5, blob = $6, stored_at = $7 WHERE job = $1 AND name = $2`

// StoreInput implements store.Jobs.
func (s *Store) StoreInput(ctx context.Context, jobID string, in store.Input) (replaced string, err error) {
	err = s.write(ctx, opStoreInput, func(t *tx) error {
		var seq int64
		var state dayfly.State
		found, err := t.one([]column{number(&seq), word(&state)}, stateByID, jobID)
		if err != nil {
			return err
		}
		if !found {
			return noJob(jobID)
		}
		if state != dayfly.Created {
			return fmt.Errorf("sqlite: job %s: %w: it is %s and takes no inputs any more", jobID, fault.Conflict, state)
		}
		found, err = t.one([]column{word(&replaced)}, blobOfInput, seq, in.Name)
		if err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("sqlite: job %s: %w: it declares no input %q", jobID, fault.NotFound, in.Name)
		}
		_, _, err = t.exec(storeInput, seq, in.Name, in.ContentType, in.Size, in.SHA256, in.Blob, micros(in.StoredAt))
		return err
	})
	if err != nil {
		return "", err
	}
	return replaced, nil
}

func noJob(id string) error { return fmt.Errorf("sqlite: job %s: %w", id, fault.NotFound) }
