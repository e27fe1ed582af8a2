package storetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

// kit is what a case works with: a store, and short ways to bring jobs into any state. Its helpers fail the test when
// something goes wrong that the case is not about. They are called by the test's goroutine only.
type kit struct {
	testing.TB
	ctx     context.Context
	harness Harness
	store   store.Store
	ids     atomic.Int64
	seconds int // since epoch
}

func newKit(t testing.TB, h Harness) *kit {
	k := &kit{TB: t, ctx: t.Context(), harness: h, store: h.New(t)}
	t.Cleanup(func() {
		if err := k.store.Close(); err != nil {
			t.Errorf("Close returned %v, want nil", err)
		}
	})
	return k
}

// reopen closes the store and opens it again.
func (k *kit) reopen() {
	k.Helper()
	k.store = k.harness.Reopen(k.TB, k.store)
}

// now returns a time that is a second later each time.
func (k *kit) now() time.Time {
	k.seconds++
	return epoch().Add(time.Duration(k.seconds) * time.Second)
}

// id returns a name that is used once, and sorts after those before it.
func (k *kit) id(kind string) string { return fmt.Sprintf("%s_%06d", kind, k.ids.Add(1)) }

// must fails the test if err is not nil.
func (k *kit) must(err error) {
	k.Helper()
	if err != nil {
		k.Fatal(err)
	}
}

// wantKind fails the test if err is not of the kind.
func (k *kit) wantKind(what string, err error, kind fault.Kind) {
	k.Helper()
	if !errors.Is(err, kind) {
		k.Fatalf("%s: got error %v, want %s", what, err, kind)
	}
}

// wantEqual fails the test if got and want differ.
func (k *kit) wantEqual(what string, got, want any) {
	k.Helper()
	if !reflect.DeepEqual(got, want) {
		k.Fatalf("%s:\n got %s\nwant %s", what, show(got), show(want))
	}
}

// show formats a value with what its pointers point to.
func show(v any) string {
	switch v := v.(type) {
	case *store.Job:
		if v == nil {
			return "no job"
		}
		text := fmt.Sprintf("%+v", *v)
		for _, a := range v.AttemptLog {
			text += "\n    " + show(a)
		}
		return text
	case *store.Attempt:
		text := fmt.Sprintf("%+v", *v)
		if v.Machine != nil {
			text += fmt.Sprintf("\n    %+v", *v.Machine)
		}
		return text
	case []*dayfly.Event:
		text := ""
		for _, e := range v {
			text += fmt.Sprintf("\n    %+v", *e)
		}
		return text
	default:
		return fmt.Sprintf("%+v", v)
	}
}

// submission returns a job to add, in the state queued unless change says otherwise.
func (k *kit) submission(change ...func(*store.Submission)) *store.Submission {
	now := k.now()
	s := &store.Submission{Job: &store.Job{
		ID: k.id("job"), State: dayfly.Queued, Provider: "local", Queue: "default",
		CreatedAt: now, StartedAt: now, QueuedAt: now,
		Spec: dayfly.JobSpec{Command: []string{"true"}},
	}}
	for _, c := range change {
		c(s)
	}
	if s.Job.State == dayfly.Created {
		s.Job.StartedAt, s.Job.QueuedAt = time.Time{}, time.Time{}
	}
	if s.Job.State == dayfly.Scheduled {
		s.Job.QueuedAt = time.Time{}
	}
	return s
}

// submit adds a job and returns it.
func (k *kit) submit(change ...func(*store.Submission)) *store.Job {
	k.Helper()
	job, replayed, err := k.store.Submit(k.ctx, k.submission(change...))
	k.must(err)
	if replayed {
		k.Fatalf("job %s was replayed, want it added", job.ID)
	}
	return job
}

func inState(state dayfly.State) func(*store.Submission) {
	return func(s *store.Submission) {
		s.Job.State = state
		if state == dayfly.Scheduled {
			s.Job.RunAt = epoch().Add(time.Hour)
		}
	}
}

func withKey(key string) func(*store.Submission) {
	return func(s *store.Submission) { s.Job.Key = key }
}

func withPriority(priority int) func(*store.Submission) {
	return func(s *store.Submission) { s.Job.Priority = priority }
}

func inLane(provider, queue string) func(*store.Submission) {
	return func(s *store.Submission) { s.Job.Provider, s.Job.Queue = provider, queue }
}

// wish returns the intent to run an attempt of job.
func (k *kit) wish(job *store.Job) *store.Launch {
	return &store.Launch{
		JobID: job.ID, Version: job.Version, AttemptID: k.id("att"), Machine: k.id("dayfly-mach"), Provider: job.Provider,
		Lifetime: time.Hour, Time: k.now(),
	}
}

// launch begins an attempt of job and returns it.
func (k *kit) launch(job *store.Job) *store.Attempt {
	k.Helper()
	l := k.wish(job)
	refusals, err := k.store.Launch(k.ctx, []*store.Launch{l})
	k.must(err)
	k.must(refusals[0])
	return k.attempt(l.AttemptID)
}

// claim claims an attempt and returns it with its job.
func (k *kit) claim(id, by string) *store.Attempt {
	k.Helper()
	job, a, err := k.store.Claim(k.ctx, &store.Claim{Attempt: id, By: by, Time: k.now()})
	k.must(err)
	if a.Job != job {
		k.Fatalf("Claim returned job %p and an attempt of job %p, want the same", job, a.Job)
	}
	return a
}

// running returns a claimed attempt of a new job.
func (k *kit) running(change ...func(*store.Submission)) *store.Attempt {
	k.Helper()
	return k.claim(k.launch(k.submit(change...)).ID, "agent/1")
}

// success returns the end of an attempt, with its job, that succeeded.
func (k *kit) success(a *store.Attempt) *store.Ending {
	return &store.Ending{
		Attempt: a.ID, Fence: a.Fence, JobVersion: a.Job.Version, State: dayfly.AttemptSucceeded, Time: k.now(), Started: true,
		Job: store.Next{State: dayfly.Succeeded, Starts: 1},
	}
}

// failure returns the end of an attempt, with its job, that failed and after which the job goes on to next.
func (k *kit) failure(a *store.Attempt, next dayfly.State) *store.Ending {
	e := k.success(a)
	e.State, e.Reason, e.Message = dayfly.AttemptFailed, dayfly.ReasonExitNonzero, "It exited with 1."
	e.Job.State, e.Job.Reason, e.Job.Message = next, e.Reason, e.Message
	if next == dayfly.Scheduled {
		e.Job.RunAt = e.Time.Add(time.Minute)
	}
	return e
}

// end ends an attempt and returns its job.
func (k *kit) end(e *store.Ending) *store.Job {
	k.Helper()
	job, err := k.store.End(k.ctx, e)
	k.must(err)
	return job
}

// finished returns a job that has succeeded, and whose machine is being deleted.
func (k *kit) finished(change ...func(*store.Submission)) *store.Job {
	k.Helper()
	return k.end(k.success(k.running(change...)))
}

// destroy records that a machine is gone.
func (k *kit) destroy(name string) {
	k.Helper()
	k.must(k.store.MoveMachine(k.ctx, []*store.MachineMove{{
		Name: name, From: []store.MachineState{store.MachineDeleting}, To: store.MachineGone, Time: k.now(),
	}}))
}

// cancelMove returns the cancel of a job: at once, or by a mark if it is active.
func (k *kit) cancelMove(job *store.Job) *store.Move {
	now := k.now()
	m := &store.Move{JobID: job.ID, Version: job.Version, From: job.State, To: dayfly.Canceled, Time: now,
		CancelRequestedAt: now, Event: "canceled"}
	if job.State == dayfly.Starting || job.State == dayfly.Running {
		m.To, m.Event = job.State, "canceling"
		return m
	}
	m.FinishedAt, m.Reason, m.Message = now, dayfly.ReasonCanceled, "Somebody canceled it."
	return m
}

// cancel cancels a job, or marks it.
func (k *kit) cancel(job *store.Job) *store.Job {
	k.Helper()
	moved, err := k.store.Move(k.ctx, k.cancelMove(job))
	k.must(err)
	return moved
}

// job reads a job.
func (k *kit) job(id string) *store.Job {
	k.Helper()
	job, err := k.store.Job(k.ctx, id)
	k.must(err)
	return job
}

// attempt reads an attempt with its job and machine.
func (k *kit) attempt(id string) *store.Attempt {
	k.Helper()
	a, err := k.store.Attempt(k.ctx, id)
	k.must(err)
	return a
}

// machine reads a machine.
func (k *kit) machine(name string) *store.Machine {
	k.Helper()
	found, err := k.store.Machines(k.ctx, &store.MachineQuery{Names: []string{name}, Limit: 1})
	k.must(err)
	if len(found) != 1 {
		k.Fatalf("got %d machines named %s, want 1", len(found), name)
	}
	return found[0]
}

// events reads all events of a job.
func (k *kit) events(id string) []*dayfly.Event {
	k.Helper()
	events, err := k.store.Events(k.ctx, id, 0, 10_000)
	k.must(err)
	return events
}

// ready reads the ids of the ready jobs of a lane.
func (k *kit) ready(provider, queue string) []string {
	k.Helper()
	jobs, err := k.store.Ready(k.ctx, store.Lane{Provider: provider, Queue: queue}, nil, 100)
	k.must(err)
	return ids(jobs)
}

// ids returns the ids of jobs.
func ids(jobs []*store.Job) []string {
	list := make([]string, 0, len(jobs))
	for _, j := range jobs {
		list = append(list, j.ID)
	}
	return list
}

// bare is a job without what only Job, Submit and Claim return.
func bare(job *store.Job) *store.Job {
	b := *job
	b.Inputs, b.AttemptLog, b.Artifacts = nil, nil, nil
	return &b
}

// race calls f n times at once, with 0 to n-1, and returns the errors.
func race(n int, f func(i int) error) []error {
	errs := make([]error, n)
	var all sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		all.Go(func() {
			<-start
			errs[i] = f(i)
		})
	}
	close(start)
	all.Wait()
	return errs
}

// accepted counts the errors that are nil and fails the test for those of another kind than kind.
func (k *kit) accepted(errs []error, kind fault.Kind) int {
	k.Helper()
	n := 0
	for _, err := range errs {
		switch {
		case err == nil:
			n++
		case !errors.Is(err, kind):
			k.Fatalf("got error %v, want nil or %s", err, kind)
		}
	}
	return n
}
