//go:build linux

package survival_test

import (
	"errors"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

// TestAJobCanBeCanceledAtAnyTime cancels a job in each of its states and in between.
func TestAJobCanBeCanceledAtAnyTime(t *testing.T) {
	t.Parallel()
	is := func(states ...dayfly.State) func(*dayfly.Job) bool {
		return func(job *dayfly.Job) bool { return contains(states, job.State) }
	}
	endless := ledgerLine("start") + "while :; do sleep 0.1; done"
	later := time.Now().Add(time.Hour)
	no := false
	cases := map[string]struct {
		failpoints string
		config     string
		script     string
		change     func(*dayfly.JobSpec)
		blocked    bool // by another job of its queue
		when       func(*dayfly.Job) bool
		settled    bool // the answer to the cancel is the job, canceled
		stopped    bool // its agent stands still
	}{
		"while it is created":   {change: func(s *dayfly.JobSpec) { s.Start = &no }, when: is(dayfly.Created), settled: true},
		"while it is scheduled": {change: func(s *dayfly.JobSpec) { s.RunAt = &later }, when: is(dayfly.Scheduled), settled: true},
		"while it is queued": {config: "DAYFLY_QUEUES_NARROW_CONCURRENCY=1", blocked: true, when: is(dayfly.Queued), settled: true,
			change: func(s *dayfly.JobSpec) { s.Queue = "narrow" }},
		"before the provider has been asked": {failpoints: "provider.create.before=1*delay(1500)", when: is(dayfly.Starting)},
		"before the provider has answered":   {failpoints: "provider.create.after=1*delay(1500)", when: is(dayfly.Starting, dayfly.Running)},
		"while its agent claims it":          {failpoints: "store.claim.before=1*delay(700)", when: is(dayfly.Starting)},
		"while it runs":                      {when: is(dayfly.Running)},
		"while its result is stored":         {failpoints: "store.end.before=1*delay(700)", script: ledgerLine("start") + "exit 1", when: is(dayfly.Running)},
		"while it waits to be tried again": {script: ledgerLine("start") + "exit 1", when: is(dayfly.Scheduled), settled: true,
			change: func(s *dayfly.JobSpec) {
				s.Retry.BackoffMin, s.Retry.BackoffMax = dayfly.Duration(time.Hour), dayfly.Duration(time.Hour)
			}},
		"while its agent stands still": {when: is(dayfly.Running), stopped: true, config: "DAYFLY_TIMEOUTS_UNREACHABLE_AFTER=3s"},
		"while it does not react":      {script: "trap '' TERM; " + endless, when: is(dayfly.Running)},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := install(t)
			if c.config != "" {
				in.config = append(in.config, c.config)
			}
			in.start(c.failpoints)
			if c.script == "" {
				c.script = endless
			}
			spec := in.shell(c.script)
			if c.change != nil {
				c.change(spec)
			}
			var blocker *dayfly.Job
			if c.blocked {
				blocker = in.submit(spec)
				in.running(blocker.ID)
			}
			job := in.submit(spec)
			in.reaches(job.ID, c.when)
			agent := 0
			if c.stopped {
				agent = in.running(job.ID).parent
				if err := syscall.Kill(agent, syscall.SIGSTOP); err != nil {
					t.Fatal(err)
				}
			}
			answer, err := in.client.Cancel(t.Context(), job.ID)
			if err != nil {
				t.Fatalf("cancel: %v", err)
			}
			if c.settled && answer.State != dayfly.Canceled {
				t.Errorf("the answer to cancel says %s, want canceled", answer.State)
			}
			ended := in.ended(job.ID)
			if ended.State != dayfly.Canceled || ended.Reason != dayfly.ReasonCanceled {
				t.Errorf("got %s, reason %q, want canceled: %s", ended.State, ended.Reason, attemptsOf(ended))
			}
			in.checkEvents(ended)
			if c.stopped {
				_ = syscall.Kill(agent, syscall.SIGCONT) // if it has been killed, so much the better
			}
			if _, err := in.client.Cancel(t.Context(), job.ID); err != nil {
				t.Errorf("canceling it again: got %v, want no error", err)
			}
			if blocker != nil {
				in.cancel(blocker.ID)
				in.ended(blocker.ID)
			}
			in.empty()
		})
	}
}

// TestACancelAtARandomMomentIsDecidedOnce cancels many jobs, each at another moment of its short life.
func TestACancelAtARandomMomentIsDecidedOnce(t *testing.T) {
	t.Parallel()
	in := install(t)
	in.start("")
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for range 8 {
				in.cancelSometime(task{lines: rand.IntN(5)})
			}
		})
	}
	clients.Wait()
	in.empty()
}

// cancelSometime submits a task and cancels it at some moment of its life.
func (in *installation) cancelSometime(k task) {
	job, err := in.client.Submit(in.t.Context(), in.spec(k), nil)
	if err != nil {
		in.t.Errorf("submit: %v", err)
		return
	}
	pass(rand.N(250 * time.Millisecond))
	_, refused := in.client.Cancel(in.t.Context(), job.ID)
	if refused != nil && !errors.Is(refused, fault.AlreadyFinished) {
		in.t.Errorf("cancel: got %v, want no error or already_finished", refused)
	}
	ended, err := in.client.Wait(in.t.Context(), job.ID)
	if err != nil {
		in.t.Errorf("waiting for job %s: %v", job.ID, err)
		return
	}
	want := dayfly.Canceled
	if refused != nil {
		want = dayfly.Succeeded
	}
	if ended.State != want {
		in.t.Errorf("a job whose cancel was answered with %v is %s, want %s: %s", refused, ended.State, want, attemptsOf(ended))
	}
	for _, attempt := range ended.Attempts {
		if n := len(in.entries("start", job.ID)); n > attempt.Number {
			in.t.Errorf("job %s: its command was started %d times in %d attempts", job.ID, n, attempt.Number)
		}
	}
}

func contains(states []dayfly.State, s dayfly.State) bool {
	for _, state := range states {
		if state == s {
			return true
		}
	}
	return false
}
