package sqlite

import (
	"context"
	"fmt"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

const activeInQueue = `SELECT count(*) FROM attempts WHERE ended_at IS NULL AND queue = $1`

const activeOfKey = `SELECT count(*) FROM attempts WHERE ended_at IS NULL AND queue = $1 AND key = $2`

const holdJob = `UPDATE jobs SET held = 1 WHERE seq = $1`

const launchJob = `
UPDATE jobs SET version = $2, state = $3, held = 0, attempt = $4, number = $5, events = $6, fence = $7 WHERE seq = $1`

const keepRefusals = `UPDATE jobs SET refusals = $2 WHERE seq = $1`

// forgetOutcome clears what an earlier attempt has left: the attempts tell how they ended, the job how the last one went.
const forgetOutcome = `
UPDATE jobs SET reason = '', message = '', exit_code = NULL, result = NULL, progress = NULL WHERE seq = $1`

const insertAttempt = `
INSERT INTO attempts (seq, id, job, number, state, provider, queue, key, queued_at, created_at, machine, machine_state,
	lifetime, price_rate, price_minimum, price_date, region)
VALUES ($1, $2, $3, $4, 'creating', $5, $6, $7, $8, $9, $10, 'creating', $11, $12, $13, $14, $15)`

// onRunner makes an attempt, which has just been added, one on a machine of a pool.
const onRunner = `
UPDATE attempts SET state = $2, booted_at = $3, machine_state = 'lent', runner = $4, machine_id = $5, location = $6, image = $7,
	fence = $8, claimed_by = $9, claimed_at = $10
WHERE seq = $1`

// Launch implements store.Queue.
func (s *Store) Launch(ctx context.Context, launches []*store.Launch) ([]error, error) {
	if len(launches) == 0 {
		return nil, nil
	}
	wishes := make([]launch, len(launches))
	for i, l := range launches {
		wish, err := newLaunch(l)
		if err != nil {
			return nil, err
		}
		wishes[i] = *wish
	}
	var refusals []error
	err := s.write(ctx, opLaunch, func(t *tx) error {
		refusals = make([]error, len(wishes))
		active := actives{t: t, queues: map[string]int{}, keys: map[[2]string]int{}}
		for i := range wishes {
			refusal, err := active.launch(&wishes[i])
			if err != nil {
				return err
			}
			refusals[i] = refusal
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return refusals, nil
}

// launch is a store.Launch made ready to be written.
type launch struct {
	store.Launch
	refusals []byte // nil: the job's stay as they are
}

func newLaunch(l *store.Launch) (*launch, error) {
	if l.OnIdle() && l.Lend.By == "" {
		return nil, fmt.Errorf("sqlite: launch job %s: %w: nobody waits on machine %s", l.JobID, fault.Invalid, l.Machine)
	}
	refusals, err := refusalsText(l.Refusals)
	wish := &launch{Launch: *l, refusals: refusals}
	wish.Refusals, wish.Price, wish.Lend = nil, copied(l.Price), newLending(l.Lend)
	return wish, err
}

// actives carries out the launches of one call. It counts the active jobs of a queue or key once and then counts
// along.
type actives struct {
	t      *tx
	queues map[string]int
	keys   map[[2]string]int // by queue and key
}

// launch carries out one launch, or says why it may not be: refusal. An error fails the whole call.
func (a *actives) launch(l *launch) (refusal, err error) {
	j, err := readJob(a.t.session, jobByID, l.JobID)
	if err != nil {
		return nil, err
	}
	if j == nil || j.State != dayfly.Queued || j.Version != l.Version {
		return fmt.Errorf("sqlite: launch job %s: %w: it is not queued at version %d any more",
			l.JobID, fault.Conflict, l.Version), nil
	}
	if l.Lend != nil {
		if refusal, err := a.t.lendable(j, l); refusal != nil || err != nil {
			return refusal, err
		}
	}
	if refusal, err := a.limited(j, l); refusal != nil || err != nil {
		return refusal, err
	}
	_, _, err = a.t.launch(j, l)
	return nil, err
}

// launchNew launches a job that this transaction has added, unless a limit is reached. It returns the job either way,
// and the attempt if there is one.
func (t *tx) launchNew(seq int64, l *launch) (*jobRow, *store.Attempt, error) {
	j, err := readJob(t.session, jobBySeq, seq)
	if err != nil {
		return nil, nil, err
	}
	if l.Lend != nil {
		if refusal, err := t.lendable(j, l); refusal != nil || err != nil {
			return j, nil, err
		}
	}
	active := actives{t: t, queues: map[string]int{}, keys: map[[2]string]int{}}
	refusal, err := active.limited(j, l)
	if err != nil || refusal != nil {
		return j, nil, err
	}
	p, lent, err := t.launch(j, l)
	if err != nil {
		return nil, nil, err
	}
	a := p.attempt.Attempt
	a.JobID, a.Price = j.ID, copied(l.Price)
	a.Machine = &store.Machine{
		Name: l.Machine, Provider: l.Provider, Region: l.Region, Attempt: a.ID, JobID: j.ID, State: store.MachineCreating,
		Lifetime: l.Lifetime, CreatedAt: a.CreatedAt,
	}
	if lent != nil {
		a.Machine.State, a.Machine.ID, a.Machine.Location, a.Machine.Image = store.MachineLent, lent.MachineID, lent.Location, lent.Image
	}
	return j, &a, nil
}

// limited refuses a launch when the queue or the key has as many active jobs as it may have.
func (a *actives) limited(j *jobRow, l *launch) (refusal, err error) {
	if l.QueueLimit > 0 {
		n, err := count(a, a.queues, j.Queue, activeInQueue, j.Queue)
		if err != nil {
			return nil, err
		}
		if n >= l.QueueLimit {
			return fmt.Errorf("sqlite: launch job %s: %w: queue %s has %d active jobs", l.JobID, fault.Exhausted, j.Queue, n), nil
		}
	}
	if l.KeyLimit > 0 && j.Key != "" {
		n, err := count(a, a.keys, [2]string{j.Queue, j.Key}, activeOfKey, j.Queue, j.Key)
		if err != nil {
			return nil, err
		}
		if n >= l.KeyLimit {
			if _, _, err := a.t.exec(holdJob, j.Seq); err != nil {
				return nil, err
			}
			j.Held = true
			return fmt.Errorf("sqlite: launch job %s: %w: %w; it has %d active jobs", l.JobID, fault.Exhausted, store.ErrHeld, n), nil
		}
	}
	if _, counted := a.queues[j.Queue]; counted {
		a.queues[j.Queue]++
	}
	if _, counted := a.keys[[2]string{j.Queue, j.Key}]; counted {
		a.keys[[2]string{j.Queue, j.Key}]++
	}
	return nil, nil
}

// count returns how many jobs are active, from memory or from the database.
func count[K comparable](a *actives, known map[K]int, k K, query string, args ...any) (int, error) {
	if n, ok := known[k]; ok {
		return n, nil
	}
	var n int
	_, err := a.t.one([]column{number(&n)}, query, args...)
	known[k] = n
	return n, err
}

// launch moves a job to starting, with a new attempt and its machine, or to running on a machine of a pool that waits. It
// returns the attempt with its job as they are then, and the machine if it is a pool's.
func (t *tx) launch(j *jobRow, l *launch) (p *pair, lent *store.Runner, err error) {
	j.Version++
	j.Events++
	j.Number++
	j.State, j.Held, j.Attempt = dayfly.Starting, false, l.AttemptID
	if j.Number > 1 {
		j.Reason, j.Message, j.ExitCode, j.Result, j.progress = "", "", nil, nil, nil
		if _, _, err := t.exec(forgetOutcome, j.Seq); err != nil {
			return nil, nil, err
		}
	}
	if l.refusals != nil {
		j.refusals = l.refusals
		if _, _, err := t.exec(keepRefusals, j.Seq, string(l.refusals)); err != nil {
			return nil, nil, err
		}
	}
	t.event(event{job: j.Seq, seq: j.Events, time: l.Time, kind: eventStarting, state: j.State, attempt: j.Number, message: l.Message})
	a := attemptRow{price: rowOf(l.Price)}
	a.Seq, a.ID, a.Number, a.State = attemptSeq(j.Seq, j.Number), l.AttemptID, j.Number, dayfly.AttemptCreating
	a.Provider, a.QueuedAt, a.CreatedAt = l.Provider, j.QueuedAt, stored(l.Time)
	name := l.Machine
	if l.Lend != nil {
		name = lentName(l.Machine, l.AttemptID)
	}
	_, _, err = t.exec(insertAttempt, a.Seq, a.ID, j.Seq, a.Number, a.Provider, j.Queue, j.Key, micros(a.QueuedAt),
		micros(a.CreatedAt), name, l.Lifetime.Microseconds(), a.price.rate, a.price.minimum, a.price.date, l.Region)
	if err != nil {
		return nil, nil, err
	}
	if l.Lend != nil {
		if lent, err = t.lend(j, l); err != nil {
			return nil, nil, err
		}
		if err := t.board(j, &a, lent, l.Lend.By); err != nil {
			return nil, nil, err
		}
	}
	if _, _, err := t.exec(launchJob, j.Seq, j.Version, string(j.State), j.Attempt, j.Number, j.Events, j.Fence); err != nil {
		return nil, nil, err
	}
	t.moved(j.lane(), dayfly.Queued, j.State)
	p = &pair{job: *j, attempt: a}
	t.pairs.remember(p)
	return p, lent, nil
}

// board makes an attempt, which has just been added, one on a machine of a pool. If that waits it is claimed as well, for its
// agent.
func (t *tx) board(j *jobRow, a *attemptRow, lent *store.Runner, agent string) error {
	a.Runner = lent.Machine
	if lent.State == store.RunnerBusy {
		j.Version++
		j.Events++
		j.Fence++
		j.State = dayfly.Running
		a.State, a.Fence, a.ClaimedBy, a.BootedAt, a.ClaimedAt = dayfly.AttemptRunning, j.Fence, agent, a.CreatedAt, a.CreatedAt
		t.event(event{job: j.Seq, seq: j.Events, time: a.ClaimedAt, kind: eventRunning, state: j.State, attempt: a.Number})
	}
	_, _, err := t.exec(onRunner, a.Seq, string(a.State), micros(a.BootedAt), lent.Machine, lent.MachineID, lent.Location, lent.Image,
		a.Fence, a.ClaimedBy, micros(a.ClaimedAt))
	return err
}
