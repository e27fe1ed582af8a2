package sqlite

import (
	"strings"
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
	eventFailed       = "failed"
)

// event is what is recorded of a transition.
type event struct {
	job     int64
	seq     int64
	time    time.Time
	kind    string
	state   dayfly.State
	attempt int
	reason  dayfly.Reason
	message string
}

// event adds an event. The caller stores its seq with the job in the same transaction, which is what keeps a job's
// events without gaps. The events of all requests of a transaction are written together at its end.
func (t *tx) event(e event) { t.events = append(t.events, e) }

const insertEvents = `
INSERT INTO events (job, seq, time, type, state, attempt, reason, message) VALUES `

const eventRow = `(?, ?, ?, ?, ?, ?, ?, ?)`

// eventBatch is how many events are written by one statement. One row of many costs half of what one alone does.
const eventBatch = 16

// writeEvents writes the events of the transaction, in batches and then one by one.
func (t *tx) writeEvents(batch string) error {
	args := make([]any, 0, eventBatch*8)
	for rest := t.events; len(rest) > 0; {
		text, n := insertEvents+eventRow, 1
		if len(rest) >= eventBatch {
			text, n = batch, eventBatch
		}
		args = args[:0]
		for _, e := range rest[:n] {
			args = append(args, e.job, e.seq, e.time.UnixMicro(), e.kind, string(e.state), e.attempt, string(e.reason), e.message)
		}
		if _, _, err := t.exec(text, args...); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// insertEventBatch is the statement that writes a batch of events.
func insertEventBatch() string {
	return insertEvents + strings.Repeat(eventRow+", ", eventBatch-1) + eventRow
}
