package sqlite

import (
	"sync"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
)

// tally knows how many jobs of each lane are in each state that is not terminal. Counting rows would cost what the
// backlog is long, each time somebody looks; this process is the only one that writes, so it counts along.
type tally struct {
	mu   sync.Mutex // guards jobs
	jobs map[place]int
}

// place is where a job is counted.
type place struct {
	lane  store.Lane
	state dayfly.State
}

// change is a job that came to a place, or left it.
type change struct {
	place
	by int
}

// moved notes that a job of this lane went from one state to another. "" is before the beginning and after deletion.
func (t *tx) moved(lane store.Lane, from, to dayfly.State) {
	if from != "" && !from.Terminal() {
		t.changes = append(t.changes, change{place{lane, from}, -1})
	}
	if to != "" && !to.Terminal() {
		t.changes = append(t.changes, change{place{lane, to}, 1})
	}
}

// apply counts the changes of a transaction that has been committed.
func (t *tally) apply(changes []change) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range changes {
		t.jobs[c.place] += c.by
		if t.jobs[c.place] == 0 {
			delete(t.jobs, c.place)
		}
	}
}

// counts returns the places that have jobs.
func (t *tally) counts() []store.Count {
	t.mu.Lock()
	defer t.mu.Unlock()
	counts := make([]store.Count, 0, len(t.jobs))
	for p, n := range t.jobs {
		counts = append(counts, store.Count{Lane: p.lane, State: p.state, Jobs: n})
	}
	return counts
}

// inState returns how many jobs are in a state that is not terminal.
func (t *tally) inState(state dayfly.State) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for p, jobs := range t.jobs {
		if p.state == state {
			n += jobs
		}
	}
	return n
}

// The jobs that are not terminal, each found by an index that holds no others.
const countJobs = `
SELECT provider, queue, state, count(*) FROM (
	SELECT provider, queue, state FROM jobs WHERE state = 'created'
	UNION ALL SELECT provider, queue, state FROM jobs WHERE run_at IS NOT NULL
	UNION ALL SELECT provider, queue, state FROM jobs WHERE state = 'queued' AND held = 0
	UNION ALL SELECT provider, queue, state FROM jobs WHERE held = 1
	UNION ALL SELECT j.provider, j.queue, j.state FROM attempts a JOIN jobs j ON j.seq = a.job WHERE a.ended_at IS NULL
) GROUP BY provider, queue, state`

// newTally counts what the database holds.
func newTally(s *session) (*tally, error) {
	t := &tally{jobs: map[place]int{}}
	var p place
	var n int
	columns := []column{word(&p.lane.Provider), word(&p.lane.Queue), word(&p.state), number(&n)}
	err := s.each(func(values row) error {
		err := s.scan(values, columns)
		t.jobs[p] = n
		return err
	}, countJobs)
	return t, err
}
