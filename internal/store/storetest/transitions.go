package storetest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

func transitionsCases() []testCase {
	return []testCase{
		{"FromEveryStateOnlyItsTransitionsLead", everyTransition},
		{"NothingLeavesATerminalState", terminalStates},
		{"EventsHaveNoGapsAndFoldToTheState", eventsFold},
		{"ManyCallersAtOnceKeepEveryRule", manyCallers},
	}
}

// states brings a new job into every state.
func states() map[dayfly.State]func(k *kit) *store.Job {
	return map[dayfly.State]func(k *kit) *store.Job{
		dayfly.Created:   func(k *kit) *store.Job { return k.submit(inState(dayfly.Created)) },
		dayfly.Scheduled: func(k *kit) *store.Job { return k.submit(inState(dayfly.Scheduled)) },
		dayfly.Queued:    func(k *kit) *store.Job { return k.submit() },
		dayfly.Starting:  func(k *kit) *store.Job { return k.launch(k.submit()).Job },
		dayfly.Running:   func(k *kit) *store.Job { return k.running().Job },
		dayfly.Succeeded: func(k *kit) *store.Job { return k.finished() },
		dayfly.Failed:    func(k *kit) *store.Job { return k.end(k.failure(k.running(), dayfly.Failed)) },
		dayfly.Canceled:  func(k *kit) *store.Job { return k.cancel(k.submit()) },
		dayfly.Expired: func(k *kit) *store.Job {
			job := k.submit(queueDeadline(epoch().Add(-time.Hour)))
			_, _, err := k.store.Promote(k.ctx, epoch(), epoch(), 100)
			k.must(err)
			return k.job(job.ID)
		},
	}
}

// everyTransition tries to move a job from every state to every state.
func everyTransition(k *kit) {
	allowed := map[dayfly.State]bool{dayfly.Created: true, dayfly.Scheduled: true, dayfly.Queued: true}
	target := map[dayfly.State]bool{
		dayfly.Scheduled: true, dayfly.Queued: true, dayfly.Failed: true, dayfly.Canceled: true, dayfly.Expired: true,
	}
	for from, bring := range states() {
		for to := range states() {
			job := bare(bring(k))
			now := k.now()
			m := &store.Move{JobID: job.ID, Version: job.Version, From: from, To: to, Time: now, Event: "moved"}
			switch {
			case to == dayfly.Scheduled:
				m.RunAt = now.Add(time.Hour)
			case to == dayfly.Queued:
				m.QueuedAt = now
			case to.Terminal():
				m.FinishedAt = now
			}
			what := fmt.Sprintf("a move from %s to %s", from, to)
			moved, err := k.store.Move(k.ctx, m)
			if allowed[from] && target[to] {
				k.must(err)
				k.wantEqual("the state after "+what, moved.State, to)
				k.wantEqual("the version after "+what, moved.Version, job.Version+1)
				k.wantEqual("the job after "+what, bare(k.job(job.ID)), moved)
				continue
			}
			if err == nil {
				k.Errorf("%s was carried out, want it refused", what)
			}
			k.wantEqual("the job after "+what+", which was refused", bare(k.job(job.ID)), job)
		}
	}
}

// terminalStates tries every operation on jobs in the terminal states.
func terminalStates(k *kit) {
	for state, bring := range states() {
		if !state.Terminal() {
			continue
		}
		job := bare(bring(k))
		events := k.events(job.ID)
		refused := func(what string, err error) {
			k.Helper()
			k.wantKind(fmt.Sprintf("%s of a job that has %s", what, state), err, fault.Conflict)
		}
		move := k.cancelMove(job)
		_, err := k.store.Move(k.ctx, move)
		refused("a cancel", err)
		move.To = state
		_, err = k.store.Move(k.ctx, move)
		refused("a mark", err)
		refusals, err := k.store.Launch(k.ctx, []*store.Launch{k.wish(job)})
		k.must(err)
		refused("a launch", refusals[0])
		_, err = k.store.StoreInput(k.ctx, job.ID, store.Input{Name: "a"})
		refused("an input", err)
		if job.Attempt != "" {
			a := k.attempt(job.Attempt)
			_, _, err = k.store.Claim(k.ctx, &store.Claim{Attempt: a.ID, By: a.ClaimedBy, Time: k.now()})
			refused("a claim", err)
			other := k.failure(a, dayfly.Queued)
			other.State = dayfly.AttemptLost
			_, err = k.store.End(k.ctx, other)
			refused("another end", err)
			k.note(k.doubt(a.ID), &store.Note{Attempt: a.ID, Time: k.now(), Progress: &dayfly.Progress{Fraction: 1}})
		}
		moved, _ := k.promote(epoch().Add(1000*time.Hour), 1000)
		for _, id := range moved {
			if id == job.ID {
				k.Errorf("a job that has %s was promoted", state)
			}
		}
		_, err = k.store.Boot(k.ctx)
		k.must(err)
		k.wantEqual("the job", bare(k.job(job.ID)), job)
		k.wantEqual("its events", k.events(job.ID), events)
	}
}

// eventsFold takes a job through everything that can happen and compares its events with what it went through.
func eventsFold(k *kit) {
	job := k.submit(inState(dayfly.Created))
	now := k.now()
	job, err := k.store.Move(k.ctx, &store.Move{JobID: job.ID, Version: job.Version, From: dayfly.Created, To: dayfly.Scheduled,
		Time: now, StartedAt: now, RunAt: epoch(), Event: "scheduled"})
	k.must(err)
	k.promote(epoch(), 10)
	a := k.launch(k.job(job.ID))
	job = k.end(k.neverStarted(a))
	a = k.claim(k.launch(job).ID, "agent/1")
	e := k.failure(a, dayfly.Scheduled)
	e.Job.RunAt = epoch()
	k.end(e)
	k.promote(epoch(), 10)
	a = k.claim(k.launch(k.job(job.ID)).ID, "agent/2")
	marked := k.cancel(bare(a.Job))
	last := k.success(a)
	last.JobVersion, last.State, last.Job.State = marked.Version, dayfly.AttemptCanceled, dayfly.Canceled
	job = k.end(last)

	var got []string
	events := k.events(job.ID)
	for i, e := range events {
		k.wantEqual("the number of an event", e.Seq, int64(i+1))
		got = append(got, fmt.Sprintf("%s:%s:%d", e.Type, e.State, e.Attempt))
	}
	k.wantEqual("the events", got, []string{
		"created:created:0", "scheduled:scheduled:0", "queued:queued:0", "starting:starting:1", "attempt_ended:queued:1",
		"starting:starting:2", "running:running:2", "attempt_ended:scheduled:2", "queued:queued:0", "starting:starting:3",
		"running:running:3", "canceling:running:0", "canceled:canceled:3",
	})
	k.wantEqual("the job's number of events", job.Events, int64(len(events)))
	k.wantEqual("the state of the last event", events[len(events)-1].State, job.State)
	k.wantEqual("the job's version", job.Version, int64(len(events)))
}

// manyCallers lets several goroutines do to the same jobs whatever they can, and then looks at what has become of them.
func manyCallers(k *kit) {
	const jobs, callers, keyLimit = 40, 6, 2
	for i := range jobs {
		k.submit(withKey([]string{"", "a", "b"}[i%3]))
	}
	all, _, err := k.store.List(k.ctx, &store.Query{Limit: 1000})
	k.must(err)
	attempts := 0
	var mu sync.Mutex // guards attempts
	for _, err := range race(callers, func(caller int) error {
		for round := range 10 {
			for i := range all {
				job, err := k.store.Job(k.ctx, all[(i+caller*7)%len(all)].ID)
				if err != nil {
					return err
				}
				mu.Lock()
				attempts++
				name := fmt.Sprintf("%06d", attempts)
				mu.Unlock()
				if err := advance(k, job, caller, round, name, keyLimit); err != nil {
					return err
				}
			}
		}
		return nil
	}) {
		k.must(err)
	}
	places := map[store.Count]int{}
	active := map[string]int{}
	for _, listed := range all {
		job := k.job(listed.ID)
		if !job.State.Terminal() {
			places[store.Count{Lane: store.Lane{Provider: job.Provider, Queue: job.Queue}, State: job.State}]++
		}
		if job.State == dayfly.Starting || job.State == dayfly.Running {
			active[job.Key]++
		}
		soundJob(k, job)
	}
	k.wantEqual("counts", k.counted(), places)
	if active["a"] > keyLimit || active["b"] > keyLimit {
		k.Errorf("got active jobs per key %v, want at most %d of a and b", active, keyLimit)
	}
}

// advance does one thing to a job that may lead it on. That somebody else was first is no error.
func advance(k *kit, job *store.Job, caller, round int, name string, keyLimit int) error {
	at := epoch().Add(time.Duration(round) * time.Second)
	var err error
	switch job.State {
	case dayfly.Queued:
		var refusals []error
		refusals, err = k.store.Launch(k.ctx, []*store.Launch{{JobID: job.ID, Version: job.Version, AttemptID: "att_" + name,
			Machine: "mach-" + name, Provider: job.Provider, Lifetime: time.Hour, Time: at, KeyLimit: keyLimit}})
		if err == nil {
			err = refusals[0]
		}
	case dayfly.Starting:
		_, _, err = k.store.Claim(k.ctx, &store.Claim{Attempt: job.Attempt, By: fmt.Sprint(caller), Time: at})
	case dayfly.Running:
		if round%5 == 4 && job.CancelRequestedAt.IsZero() {
			_, err = k.store.Move(k.ctx, &store.Move{JobID: job.ID, Version: job.Version, From: job.State, To: job.State, Time: at,
				CancelRequestedAt: at, Event: "canceling"})
			break
		}
		next := []dayfly.State{dayfly.Queued, dayfly.Succeeded, dayfly.Scheduled}[(caller+round)%3]
		_, err = k.store.End(k.ctx, &store.Ending{Attempt: job.Attempt, Fence: job.Fence, JobVersion: job.Version, Time: at,
			State: dayfly.AttemptFailed, Job: store.Next{State: next, RunAt: at, ReleaseKey: true}})
	case dayfly.Scheduled:
		_, _, err = k.store.Promote(k.ctx, at, at, 2)
	}
	if errors.Is(err, fault.Conflict) || errors.Is(err, fault.Exhausted) {
		return nil
	}
	return err
}

// soundJob checks a job against its own history.
func soundJob(k *kit, job *store.Job) {
	k.Helper()
	events := k.events(job.ID)
	k.wantEqual("the number of events of "+job.ID, job.Events, int64(len(events)))
	k.wantEqual("the version of "+job.ID, job.Version, job.Events)
	starts, ends := 0, 0
	for i, e := range events {
		k.wantEqual("the seq of an event", e.Seq, int64(i+1))
		switch {
		case e.Type == "starting":
			starts++
		case e.Type == "attempt_ended" || e.State.Terminal():
			ends++
		}
		if e.State.Terminal() && i != len(events)-1 {
			k.Errorf("job %s ended with event %d of %d", job.ID, i+1, len(events))
		}
		if starts-ends < 0 || starts-ends > 1 {
			k.Errorf("job %s had %d attempts begun and %d ended after event %d, want them one after the other", job.ID, starts, ends, i+1)
		}
	}
	k.wantEqual("the state of its last event", events[len(events)-1].State, job.State)
	k.wantEqual("the number of attempts begun", starts, len(job.AttemptLog))
	for i, a := range job.AttemptLog {
		if live := starts > ends && i == len(job.AttemptLog)-1; a.State.Terminal() == live {
			k.Errorf("attempt %d of job %s is %s, want it live: %v", a.Number, job.ID, a.State, live)
		}
	}
}
