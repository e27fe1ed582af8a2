package sqlite

import (
	"fmt"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

// pair is an attempt and its job, as they were read.
type pair struct {
	attempt attemptRow
	job     jobRow
	inputs  []store.Input
}

// decode returns the job and the attempt, the one in the other.
func (p *pair) decode() (*store.Job, *store.Attempt, error) {
	job, err := p.job.decode()
	if err != nil {
		return nil, nil, err
	}
	a, err := p.attempt.decode()
	if err != nil {
		return nil, nil, err
	}
	job.Inputs = p.inputs
	a.JobID, a.Job = job.ID, job
	return job, a, nil
}

// pairs are the live attempts and their jobs that the writer remembers. It has written each of them a moment ago, and
// will be asked to change it in a moment, so it need not read it again: reading costs as much as writing.
//
// As the writer is the only one to write, what it remembers is what the database holds, as long as two rules are kept:
// whatever changes a live attempt or its job remembers the change, and when a transaction is rolled back everything is
// forgotten. A pair that is remembered is never changed again, since callers may still be reading it.
type pairs map[string]*pair // by attempt

// The bounds of what is remembered: pairs, and bytes of a spec.
const (
	maxPairs    = 4096
	maxPairSpec = maxInlineSpec
)

// remember keeps a pair whose attempt is live and forgets one whose attempt has ended.
func (m pairs) remember(p *pair) {
	_, known := m[p.attempt.ID]
	switch {
	case p.attempt.State.Terminal():
		delete(m, p.attempt.ID)
	case known || len(m) < maxPairs && len(p.job.spec) <= maxPairSpec:
		if p.job.decoded == nil {
			p.job.decoded = new(decodedSpec)
		}
		m[p.attempt.ID] = p
	}
}

// rememberJob keeps the changed job of a live attempt, if that is remembered.
func (m pairs) rememberJob(j *jobRow) {
	if p := m[j.Attempt]; p != nil {
		changed := *p
		j.decoded = p.job.decoded
		changed.job = *j
		m[j.Attempt] = &changed
	}
}

const selectPair = `
SELECT ` + attemptColumns + `, ` + jobColumns + ` FROM attempts a JOIN ` + jobTables + ` WHERE a.id = $1 AND j.seq = a.job`

// pair returns an attempt and its job, or fault.NotFound. They are the caller's to change, and to remember.
func (t *tx) pair(attempt string) (*pair, error) {
	p := new(pair)
	if known := t.pairs[attempt]; known != nil {
		*p = *known
		return p, nil
	}
	found, err := t.one(append(p.attempt.columns(), p.job.columns()...), selectPair, attempt)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, noAttempt(attempt)
	}
	return p, nil
}

func noAttempt(id string) error { return fmt.Errorf("sqlite: attempt %s: %w", id, fault.NotFound) }
