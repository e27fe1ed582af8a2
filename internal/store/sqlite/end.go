package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

const endAttempt = `
UPDATE attempts SET state = $2, ended_at = $3, reason = $4, message = $5, started = $6, report = $7, unbilled = $8,
	delete_at = CASE WHEN machine_state IN ('creating', 'present') THEN coalesce($9, $3) ELSE delete_at END,
	gone_at = CASE WHEN machine_state = 'lent' THEN $3 ELSE gone_at END,
	machine_state = CASE WHEN machine_state = 'lent' THEN 'gone' WHEN machine_state NOT IN ('creating', 'present') THEN machine_state
		WHEN $9 IS NULL THEN 'deleting' ELSE 'kept' END
WHERE seq = $1`

const endJob = `
UPDATE jobs SET version = $2, state = $3, run_at = $4, queued_at = $5, finished_at = $6, starts = $7, launches = $8,
	losses = $9, reason = $10, message = $11, exit_code = $12, result = $13, events = $14, progress = coalesce($15, progress),
	refusals = coalesce($16, refusals)
WHERE seq = $1`

const insertArtifact = `
INSERT INTO artifacts (attempt, name, size, sha256, content_type) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (attempt, name) DO UPDATE SET size = excluded.size, sha256 = excluded.sha256,
	content_type = excluded.content_type`

// ending is a store.Ending made ready to be written. It shares no memory that a caller might change.
type ending struct {
	store.Ending
	report   string
	value    any    // text or NULL
	progress []byte // nil if nothing was said of it
	refusals []byte // nil: the job's stay as they are
}

// End implements store.Attempts.
func (s *Store) End(ctx context.Context, e *store.Ending) (*store.Job, error) {
	end, err := newEnding(e)
	if err != nil {
		return nil, err
	}
	var ended *jobRow
	err = s.write(ctx, opEnd, func(t *tx) (err error) {
		ended, err = t.end(end)
		return err
	})
	if err != nil {
		return nil, err
	}
	return ended.decode()
}

func newEnding(e *store.Ending) (*ending, error) {
	next := e.Job.State
	switch {
	case !e.State.Terminal():
		return nil, fmt.Errorf("sqlite: end of attempt %s: %w: an attempt does not end in state %q", e.Attempt, fault.Invalid, e.State)
	case next != dayfly.Scheduled && next != dayfly.Queued && !next.Terminal():
		return nil, fmt.Errorf("sqlite: end of attempt %s: %w: its job cannot go on to state %q", e.Attempt, fault.Invalid, next)
	case next == dayfly.Scheduled && e.Job.RunAt.IsZero():
		return nil, fmt.Errorf("sqlite: end of attempt %s: %w: a scheduled job needs a time to run at", e.Attempt, fault.Invalid)
	}
	r := report{Exit: e.Exit}
	if m := e.Result; m != nil {
		r.FetchMS, r.RunMS, r.FinishMS = m.FetchMS, m.RunMS, m.FinishMS
		r.MaxRSSKB, r.UserMS, r.SystemMS = m.MaxRSSKB, m.UserMS, m.SystemMS
		r.StdoutLen, r.StderrLen = m.StdoutBytes, m.StderrBytes
	}
	var progress []byte
	if m := e.Result; m != nil && m.Progress != nil {
		var err error
		progress, err = json.Marshal(&dayfly.Progress{Fraction: m.Progress.Fraction, Text: m.Progress.Text})
		if err != nil {
			return nil, fmt.Errorf("sqlite: end of attempt %s: %w: %w", e.Attempt, fault.Invalid, err)
		}
	}
	encoded, err := json.Marshal(&r)
	if err != nil {
		return nil, fmt.Errorf("sqlite: end of attempt %s: %w: %w", e.Attempt, fault.Internal, err)
	}
	refusals, err := refusalsText(e.Job.Refusals)
	if err != nil {
		return nil, err
	}
	end := &ending{Ending: *e, report: string(encoded), value: text(e.Job.Value), progress: progress, refusals: refusals}
	end.Job.Refusals = nil
	end.Exit, end.Result, end.Job.Value = nil, nil, slices.Clone(e.Job.Value)
	end.Artifacts = slices.Clone(e.Artifacts)
	if e.Job.ExitCode != nil {
		code := *e.Job.ExitCode
		end.Job.ExitCode = &code
	}
	return end, nil
}

func (t *tx) end(e *ending) (*jobRow, error) {
	p, err := t.pair(e.Attempt)
	if err != nil {
		return nil, err
	}
	a, j := &p.attempt, &p.job
	switch {
	case a.State == e.State && a.Fence == e.Fence && a.Fence != 0:
		return j, nil // the answer to an earlier call was lost
	case a.State.Terminal() || a.Fence != e.Fence || j.Attempt != a.ID:
		return nil, fmt.Errorf("sqlite: end of attempt %s: %w: it is %s with fence %d, and attempt %s is its job's last",
			a.ID, fault.StaleAttempt, a.State, a.Fence, j.Attempt)
	case j.Version != e.JobVersion:
		return nil, fmt.Errorf("sqlite: end of attempt %s: %w: its job is at version %d, not %d",
			a.ID, fault.Conflict, j.Version, e.JobVersion)
	}
	from := j.State
	j.end(e)
	if err := t.writeEnd(p, e); err != nil {
		return nil, err
	}
	t.moved(j.lane(), from, j.State)
	if e.Job.ReleaseKey {
		return j, t.release(j.Queue, j.Key)
	}
	return j, nil
}

// end changes the row as the end of its attempt says.
func (r *jobRow) end(e *ending) {
	next := &e.Job
	r.Version++
	r.Events++
	r.State = next.State
	switch next.State {
	case dayfly.Scheduled:
		r.RunAt = stored(next.RunAt)
	case dayfly.Queued:
		r.QueuedAt = stored(e.Time)
	default:
		r.FinishedAt = stored(e.Time)
	}
	r.Starts, r.Launches, r.Losses = next.Starts, next.Launches, next.Losses
	r.Reason, r.Message, r.ExitCode, r.Result = next.Reason, next.Message, next.ExitCode, next.Value
	if e.progress != nil {
		r.progress = e.progress
	}
	if e.refusals != nil {
		r.refusals = e.refusals
	}
}

func (t *tx) writeEnd(p *pair, e *ending) error {
	a, j := &p.attempt, &p.job
	at := e.Time.UnixMicro()
	_, _, err := t.exec(endAttempt, a.Seq, string(e.State), at, string(e.Reason), e.Message, e.Started, e.report, e.Unbilled, micros(e.KeepUntil))
	if err != nil {
		return err
	}
	for _, f := range e.Artifacts {
		if _, _, err := t.exec(insertArtifact, a.Seq, f.Name, f.Size, f.SHA256, f.ContentType); err != nil {
			return err
		}
	}
	var exit any
	if j.ExitCode != nil {
		exit = *j.ExitCode
	}
	_, _, err = t.exec(endJob, j.Seq, j.Version, string(j.State), micros(j.RunAt), micros(j.QueuedAt), micros(j.FinishedAt),
		j.Starts, j.Launches, j.Losses, string(j.Reason), j.Message, exit, e.value, j.Events, text(e.progress),
		text(e.refusals))
	if err != nil {
		return err
	}
	a.State = e.State
	t.pairs.remember(p)
	t.event(endEvent(a.Number, j, e))
	if a.Runner != "" {
		return t.vacate(p, e)
	}
	return nil
}

// endEvent is the event of a job that its attempt's end has moved: the job's own end, or that it goes on.
func endEvent(attempt int, j *jobRow, e *ending) event {
	ev := event{job: j.Seq, seq: j.Events, time: e.Time, kind: string(j.State), state: j.State, attempt: attempt,
		reason: j.Reason, message: j.Message}
	if !j.State.Terminal() {
		ev.kind, ev.reason, ev.message = eventAttemptEnded, e.Reason, e.Message
	}
	return ev
}
