package storetest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// model is a store in memory that is as plain as can be: it keeps rows in slices and looks at all of them each time.
// It has no tokens and never fails.
type model struct {
	mu       sync.Mutex // guards all below
	identity store.Identity
	jobs     []*modelJob               // by Seq
	machines map[string]*store.Machine // by name; those that attempts have of pools by that and the attempt
	runners  map[string]*store.Runner  // by name
	lastSeq  int64
	settled  map[string]machine.Money // by the same as machines
	costs    []store.Cost
}

// modelJob is a job with all that belongs to it.
type modelJob struct {
	store.Job
	key       string
	hash      []byte
	events    []*dayfly.Event
	attempts  []*store.Attempt // without Machine and Job
	artifacts map[string][]dayfly.Artifact
	machine   map[string]string // of an attempt
}

func newModel() *model {
	return &model{machines: map[string]*store.Machine{}, runners: map[string]*store.Runner{}, settled: map[string]machine.Money{}}
}

func refuse(kind fault.Kind, format string, args ...any) error {
	return fmt.Errorf("model: %w: %s", kind, fmt.Sprintf(format, args...))
}

func (m *model) find(id string) (*modelJob, error) {
	for _, j := range m.jobs {
		if j.ID == id {
			return j, nil
		}
	}
	return nil, refuse(fault.NotFound, "job %s", id)
}

func (m *model) findAttempt(id string) (*modelJob, *store.Attempt, error) {
	for _, j := range m.jobs {
		for _, a := range j.attempts {
			if a.ID == id {
				return j, a, nil
			}
		}
	}
	return nil, nil, refuse(fault.NotFound, "attempt %s", id)
}

// row is the job without what belongs to it.
func (j *modelJob) row() *store.Job { return bare(&j.Job) }

// moved ends every transition: it raises the version and records the event.
func (j *modelJob) moved(at time.Time, kind string, attempt int, reason dayfly.Reason, message string) {
	j.Version++
	j.Events++
	j.events = append(j.events, &dayfly.Event{Seq: j.Events, Job: j.ID, Time: at, Type: kind, State: j.State,
		Attempt: attempt, Reason: reason, Message: message})
}

func (m *model) Submit(_ context.Context, s *store.Submission) (*store.Job, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, j := range m.jobs {
		if s.Key != "" && j.key == s.Key {
			if !bytes.Equal(j.hash, s.BodyHash) {
				return nil, false, refuse(fault.IdempotencyMismatch, "key %s", s.Key)
			}
			return m.whole(j), true, nil
		}
	}
	if s.OnlyReplay {
		return nil, false, refuse(fault.NotFound, "key %s", s.Key)
	}
	if _, err := m.find(s.Job.ID); err == nil {
		return nil, false, refuse(fault.Conflict, "job %s exists", s.Job.ID)
	}
	j := &modelJob{Job: *s.Job, key: s.Key, hash: s.BodyHash, artifacts: map[string][]dayfly.Artifact{}, machine: map[string]string{}}
	m.lastSeq++
	j.Seq, j.Inputs = m.lastSeq, slices.Clone(s.Inputs)
	j.moved(j.CreatedAt, "created", 0, "", "")
	m.jobs = append(m.jobs, j)
	if s.Launch != nil {
		l := *s.Launch
		l.JobID, l.Version = j.ID, j.Version
		_ = m.launch(&l) // a refused job waits
	}
	return m.whole(j), false, nil
}

// whole is the job with all that belongs to it.
func (m *model) whole(j *modelJob) *store.Job {
	job := j.row()
	job.Inputs = slices.Clone(j.Inputs)
	for _, a := range j.attempts {
		job.AttemptLog = append(job.AttemptLog, m.wholeAttempt(j, a))
	}
	job.Artifacts = append(job.Artifacts, j.artifacts[j.Attempt]...)
	return job
}

func (m *model) wholeAttempt(j *modelJob, a *store.Attempt) *store.Attempt {
	c := *a
	row := *m.machines[j.machine[a.ID]]
	c.Machine = &row
	return &c
}

func (m *model) Job(_ context.Context, id string) (*store.Job, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	j, err := m.find(id)
	if err != nil {
		return nil, err
	}
	return m.whole(j), nil
}

func (m *model) List(_ context.Context, q *store.Query) (list []*store.Job, more bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	left := store.PageBytes
	for _, j := range slices.Backward(m.jobs) {
		matches := (q.Before == 0 || j.Seq < q.Before) && (len(q.States) == 0 || slices.Contains(q.States, j.State)) &&
			(q.Queue == "" || j.Queue == q.Queue) && (q.Name == "" || j.Spec.Name == q.Name)
		for key, value := range q.Labels {
			matches = matches && j.Spec.Labels[key] == value
		}
		if !matches {
			continue
		}
		spec, err := json.Marshal(&j.Spec)
		if err != nil {
			return nil, false, err
		}
		left -= len(spec) + len(j.Result)
		if list = append(list, j.row()); len(list) == q.Limit || left <= 0 {
			return list, true, nil
		}
	}
	return list, false, nil
}

func (m *model) Events(_ context.Context, id string, after int64, limit int) ([]*dayfly.Event, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	j, err := m.find(id)
	if err != nil {
		return nil, err
	}
	rest := j.events[min(after, j.Events):]
	return slices.Clone(rest[:min(limit, len(rest))]), nil
}

func (m *model) Move(_ context.Context, w *store.Move) (*store.Job, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	j, err := m.find(w.JobID)
	if err != nil {
		return nil, err
	}
	if j.State.Terminal() || j.State != w.From || j.Version != w.Version {
		return nil, refuse(fault.Conflict, "job %s is %s at %d", j.ID, j.State, j.Version)
	}
	ready := m.ready(j)
	if !w.CancelRequestedAt.IsZero() {
		j.CancelRequestedAt = w.CancelRequestedAt
	}
	if w.From != w.To || w.CancelRequestedAt.IsZero() {
		j.State, j.Held, j.RunAt = w.To, false, time.Time{}
		if w.To.Terminal() {
			j.FinishedAt, j.Reason, j.Message = w.FinishedAt, w.Reason, w.Message
		} else {
			j.StartedAt, j.QueuedAt = cmp.Or(w.StartedAt, j.StartedAt), cmp.Or(w.QueuedAt, j.QueuedAt)
			j.QueueDeadline = cmp.Or(w.QueueDeadline, j.QueueDeadline)
			j.TotalDeadline = cmp.Or(w.TotalDeadline, j.TotalDeadline)
		}
		if w.To == dayfly.Scheduled {
			j.RunAt = w.RunAt
		}
	}
	if len(w.Refusals) > 0 {
		j.Refusals = w.Refusals
	}
	j.moved(w.Time, w.Event, 0, w.Reason, w.Message)
	if ready && j.State != dayfly.Queued {
		m.release(j.Queue, j.Key)
	}
	return j.row(), nil
}

func (m *model) ready(j *modelJob) bool { return j.State == dayfly.Queued && !j.Held }

// inOrder returns the queued jobs for which keep holds, in the order in which they will run.
func (m *model) inOrder(keep func(*modelJob) bool) []*modelJob {
	var list []*modelJob
	for _, j := range m.jobs {
		if j.State == dayfly.Queued && keep(j) {
			list = append(list, j)
		}
	}
	slices.SortStableFunc(list, func(a, b *modelJob) int { return b.Priority - a.Priority })
	return list
}

func (m *model) release(queue, key string) {
	if key == "" {
		return
	}
	released := map[string]bool{} // by provider
	for _, j := range m.inOrder(func(j *modelJob) bool { return j.Held && j.Queue == queue && j.Key == key }) {
		j.Held = released[j.Provider]
		released[j.Provider] = true
	}
}

func (m *model) StoreInput(_ context.Context, jobID string, in store.Input) (replaced string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	j, err := m.find(jobID)
	if err != nil {
		return "", err
	}
	if j.State != dayfly.Created {
		return "", refuse(fault.Conflict, "job %s is %s", jobID, j.State)
	}
	for i := range j.Inputs {
		if j.Inputs[i].Name == in.Name {
			replaced, j.Inputs[i] = j.Inputs[i].Blob, in
			return replaced, nil
		}
	}
	return "", refuse(fault.NotFound, "input %s", in.Name)
}

func (m *model) Lanes(context.Context) ([]store.Lane, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	lanes := map[store.Lane]bool{}
	for _, j := range m.inOrder(m.ready) {
		lanes[store.Lane{Provider: j.Provider, Queue: j.Queue}] = true
	}
	return slices.Collect(maps.Keys(lanes)), nil
}

func (m *model) Ready(_ context.Context, lane store.Lane, after *store.Job, limit int) ([]*store.Job, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := []*store.Job{}
	for _, j := range m.inOrder(m.ready) {
		behind := after == nil || j.Priority < after.Priority || j.Priority == after.Priority && j.Seq > after.Seq
		if behind && j.Provider == lane.Provider && j.Queue == lane.Queue && len(list) < limit {
			list = append(list, j.row())
		}
	}
	return list, nil
}

func (m *model) Ahead(_ context.Context, job *store.Job) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, j := range m.inOrder(m.ready) {
		before := j.Priority > job.Priority || j.Priority == job.Priority && j.Seq < job.Seq
		if j.Provider == job.Provider && j.Queue == job.Queue && before {
			n++
		}
	}
	return n, nil
}

func (m *model) Counts(context.Context) ([]store.Count, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	places := map[store.Count]int{}
	for _, j := range m.jobs {
		if !j.State.Terminal() {
			places[store.Count{Lane: store.Lane{Provider: j.Provider, Queue: j.Queue}, State: j.State}]++
		}
	}
	var list []store.Count
	for c, n := range places {
		c.Jobs = n
		list = append(list, c)
	}
	return list, nil
}

func (m *model) Launch(_ context.Context, launches []*store.Launch) ([]error, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var refusals []error
	for _, l := range launches {
		refusals = append(refusals, m.launch(l))
	}
	return refusals, nil
}

func (m *model) launch(l *store.Launch) error {
	j, err := m.find(l.JobID)
	if err != nil || j.State != dayfly.Queued || j.Version != l.Version {
		return refuse(fault.Conflict, "job %s", l.JobID)
	}
	if l.Lend != nil {
		if err := m.lendable(j, l); err != nil {
			return err
		}
	}
	inQueue, ofKey := 0, 0
	for _, other := range m.jobs {
		if other.Queue != j.Queue || other.State != dayfly.Starting && other.State != dayfly.Running {
			continue
		}
		inQueue++
		if other.Key == j.Key {
			ofKey++
		}
	}
	if l.QueueLimit > 0 && inQueue >= l.QueueLimit {
		return refuse(fault.Exhausted, "queue %s", j.Queue)
	}
	if l.KeyLimit > 0 && j.Key != "" && ofKey >= l.KeyLimit {
		j.Held = true
		return fmt.Errorf("model: %w: %w: key %s", fault.Exhausted, store.ErrHeld, j.Key)
	}
	j.State, j.Held, j.Attempt = dayfly.Starting, false, l.AttemptID
	j.Reason, j.Message, j.ExitCode, j.Result, j.Progress = "", "", nil, nil, nil
	j.Number++
	a := &store.Attempt{
		Seq: j.Seq<<20 | int64(j.Number), ID: l.AttemptID, JobID: j.ID, Number: j.Number, State: dayfly.AttemptCreating,
		Provider: l.Provider, QueuedAt: j.QueuedAt, CreatedAt: l.Time, Price: l.Price,
	}
	j.attempts = append(j.attempts, a)
	if len(l.Refusals) > 0 {
		j.Refusals = l.Refusals
	}
	key := l.Machine
	if l.Lend != nil {
		key += "/" + l.AttemptID
	}
	j.machine[l.AttemptID] = key
	m.machines[key] = &store.Machine{Name: l.Machine, Provider: l.Provider, Region: l.Region, Attempt: l.AttemptID, JobID: j.ID,
		State: store.MachineCreating, Lifetime: l.Lifetime, CreatedAt: l.Time}
	j.moved(l.Time, "starting", j.Number, "", l.Message)
	if l.Lend != nil {
		m.lend(j, a, l)
	}
	return nil
}

func (m *model) Promote(_ context.Context, now, wall time.Time, limit int) ([]*store.Job, time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var moved []*store.Job
	byTime := func(of func(*modelJob) time.Time, keep func(*modelJob) bool) (list []*modelJob) {
		for _, j := range m.jobs {
			if keep(j) {
				list = append(list, j)
			}
		}
		slices.SortStableFunc(list, func(a, b *modelJob) int { return of(a).Compare(of(b)) })
		return list
	}
	waits := func(j *modelJob) bool {
		return (j.State == dayfly.Scheduled || j.State == dayfly.Queued) && !j.QueuedAt.IsZero()
	}
	mayExpire := func(j *modelJob) bool { return waits(j) && j.Starts == 0 && !j.QueueDeadline.IsZero() }
	mayFail := func(j *modelJob) bool { return waits(j) && !j.TotalDeadline.IsZero() }
	deadline := func(j *modelJob) time.Time { return j.QueueDeadline }
	total := func(j *modelJob) time.Time { return j.TotalDeadline }
	due := func(j *modelJob) time.Time { return j.RunAt }
	named := func(j *modelJob) bool { return j.State == dayfly.Scheduled && j.QueuedAt.IsZero() }
	putOff := func(j *modelJob) bool { return j.State == dayfly.Scheduled && !j.QueuedAt.IsZero() }

	promote := func(list []*modelJob, ahead time.Duration) {
		for _, j := range list[:min(limit, len(list))] {
			j.State, j.RunAt, j.QueuedAt = dayfly.Queued, time.Time{}, now
			for _, deadline := range []*time.Time{&j.QueueDeadline, &j.TotalDeadline} {
				if !deadline.IsZero() {
					*deadline = deadline.Add(ahead)
				}
			}
			j.moved(now, "queued", 0, "", "")
			moved = append(moved, j.row())
		}
	}
	giveUp := func(late []*modelJob, state dayfly.State, reason dayfly.Reason) {
		for _, j := range late[:min(limit, len(late))] {
			ready := m.ready(j)
			j.State, j.Held, j.RunAt, j.FinishedAt = state, false, time.Time{}, now
			j.Reason, j.Message = reason, givenUpMessage
			j.moved(now, string(state), 0, j.Reason, j.Message)
			if ready {
				m.release(j.Queue, j.Key)
			}
			moved = append(moved, j.row())
		}
	}
	promote(byTime(due, func(j *modelJob) bool { return named(j) && !j.RunAt.After(wall) }), now.Sub(wall))
	giveUp(byTime(deadline, func(j *modelJob) bool { return mayExpire(j) && j.QueueDeadline.Before(now) }), dayfly.Expired, dayfly.ReasonQueueTimeout)
	giveUp(byTime(total, func(j *modelJob) bool { return mayFail(j) && j.TotalDeadline.Before(now) }), dayfly.Failed, dayfly.ReasonDeadline)
	promote(byTime(due, func(j *modelJob) bool { return putOff(j) && !j.RunAt.After(now) }), 0)
	var next time.Time
	if rest := byTime(due, named); len(rest) > 0 {
		next = rest[0].RunAt.Add(now.Sub(wall))
	}
	if rest := byTime(due, putOff); len(rest) > 0 && (next.IsZero() || rest[0].RunAt.Before(next)) {
		next = rest[0].RunAt
	}
	passed := func(at time.Time) {
		if at = at.Add(time.Microsecond); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if rest := byTime(deadline, mayExpire); len(rest) > 0 {
		passed(rest[0].QueueDeadline)
	}
	if rest := byTime(total, mayFail); len(rest) > 0 {
		passed(rest[0].TotalDeadline)
	}
	return moved, next, nil
}

// givenUpMessage stands for any message: what a store says to people is its own business.
const givenUpMessage = "…"
