package sqlite

import (
	"time"

	"github.com/dayfly-run/dayfly"
)

// The types of the events that the store writes by itself. Those of terminal states are the states' names, and a
// store.Move brings its own.
const (
	eventCreated      = "created"
	eventQueued       = "queued"
	eventStarting     = "starting"
	eventRunning      = "running"
	eventAttemptEnded = "attempt_ended"
	eventExpired      = "expired"
)

const insertEvent = `
INSERT INTO events (job, seq, time, type, state, attempt, reason, message) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`

// event is what is recorded of a transition.
type event struct {
	time    time.Time
	kind    string
	state   dayfly.State
	attempt int
	reason  dayfly.Reason
	message string
}

// event adds event number seq of a job. The caller stores that number with the job in the same transaction, which is
// what keeps a job's events without gaps.
func (t *tx) event(job, seq int64, e *event) error {
	_, _, err := t.exec(insertEvent, job, seq, e.time.UnixMicro(), e.kind, string(e.state), e.attempt, string(e.reason),
		e.message)
	return err
}
