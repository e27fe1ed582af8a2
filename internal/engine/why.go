package engine

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
)

// Why explains in sentences, the most important first, why a job is where it is and what happens next.
func (e *Engine) Why(ctx context.Context, id string) (*dayfly.Why, error) {
	if err := e.await(ctx); err != nil {
		return nil, err
	}
	job, err := e.store.Job(ctx, id)
	if err != nil {
		return nil, err
	}
	w := &dayfly.Why{Job: job.ID, State: job.State}
	switch job.State {
	case dayfly.Created:
		e.whyCreated(w, job)
	case dayfly.Scheduled:
		e.whyScheduled(w, job)
	case dayfly.Queued:
		err = e.whyQueued(ctx, w, job)
	case dayfly.Starting, dayfly.Running:
		e.whyActive(w, job)
	default:
		whyFinished(w, job)
	}
	return w, err
}

func say(w *dayfly.Why, format string, args ...any) {
	w.Answers = append(w.Answers, fmt.Sprintf(format, args...))
}

func (e *Engine) whyCreated(w *dayfly.Why, job *store.Job) {
	if missing := missingInputs(job); len(missing) > 0 {
		say(w, "It waits for its inputs: %s not been uploaded.", plural(missing, "has", "have"))
		w.Next = "Upload them to the URLs in the job's inputs, then start it."
		if job.Spec.Start != nil && *job.Spec.Start {
			w.Next = "Upload them to the URLs in the job's inputs; it starts by itself after the last one."
		}
		return
	}
	say(w, "It has everything it needs and waits to be started.")
	w.Next = fmt.Sprintf("POST /v1/jobs/%s/start", job.ID)
}

func (e *Engine) whyScheduled(w *dayfly.Why, job *store.Job) {
	in := job.RunAt.Sub(e.clock.now()).Round(time.Second)
	if job.Number == 0 {
		say(w, "It is scheduled for %s, in %v.", job.RunAt.Format(time.RFC3339), in)
		return
	}
	say(w, "Attempt %d ended and it waits %v before the next one, so that what was wrong has time to pass.", job.Number, in)
	if job.Message != "" {
		say(w, "Attempt %d: %s", job.Number, job.Message)
	}
	say(w, "The command has been started %d of at most %d times; %d of at most %d machines in a row failed before that.",
		job.Starts, job.Spec.Retry.MaxAttempts, job.Launches, job.Spec.Retry.MaxLaunches)
	e.whyRefused(w, job)
	w.Next = "It goes back to its queue at " + job.RunAt.Format(time.RFC3339) + "."
}

func (e *Engine) whyQueued(ctx context.Context, w *dayfly.Why, job *store.Job) error {
	limits := e.options.Queues[job.Queue]
	room, dying := e.room()[job.Provider], e.doomed.count()[job.Provider]
	e.mu.Lock()
	busy, most := e.busy[job.Provider], e.maxMachines(job.Provider)
	inQueue, ofKey := e.active[place{queue: job.Queue}], e.active[place{job.Queue, job.Key}]
	_, exists := e.providers[job.Provider]
	e.mu.Unlock()
	if !exists {
		say(w, "Its provider %s is not configured any more.", job.Provider)
		w.Next = "Configure the provider again, or cancel the job."
		return nil
	}
	e.whyRefused(w, job)
	if job.Key != "" && limits.KeyConcurrency > 0 && ofKey >= limits.KeyConcurrency {
		say(w, "Its concurrency key %q is at its limit: %d of %d jobs run.", job.Key, ofKey, limits.KeyConcurrency)
	}
	if limits.Concurrency > 0 && inQueue >= limits.Concurrency {
		say(w, "The queue %s is at its limit: %d of %d jobs run.", job.Queue, inQueue, limits.Concurrency)
	}
	switch {
	case busy >= most:
		say(w, "The provider %s has as many machines as it may have: %d of %d.", job.Provider, busy, most)
	case room <= 0:
		say(w, "The provider %s has not confirmed yet that %d machines of jobs that are over are destroyed, beside %d at work; "+
			"together they may be %d. It is asked until it has.", job.Provider, dying, busy, 2*most)
	}
	ahead, err := e.store.Ahead(ctx, job)
	if err != nil {
		return err
	}
	switch {
	case ahead > 0:
		say(w, "%d jobs are ahead of it in queue %s.", ahead, job.Queue)
	case len(w.Answers) == 0:
		say(w, "Nothing holds it up: it is next, and is about to be started.")
	default:
		say(w, "It is the next in queue %s.", job.Queue)
	}
	total := job.TotalDeadline
	if d := job.QueueDeadline; !d.IsZero() && job.Starts == 0 && (total.IsZero() || !d.After(total)) {
		w.Next = fmt.Sprintf("It expires if it has not started by %s.", d.Format(time.RFC3339))
	} else if !total.IsZero() {
		w.Next = fmt.Sprintf("It fails at %s, when its total timeout passes, wherever it is then.", total.Format(time.RFC3339))
	}
	return nil
}

func (e *Engine) whyActive(w *dayfly.Why, job *store.Job) {
	if !job.CancelRequestedAt.IsZero() {
		say(w, "It is being canceled since %s: its machine has been told, and the job is canceled when nothing of it runs.",
			job.CancelRequestedAt.Format(time.RFC3339))
	}
	f := e.flightOf(job.Attempt)
	if f == nil {
		say(w, "Attempt %d is changing hands; ask again in a moment.", job.Number)
		return
	}
	now := e.clock.now()
	e.mu.Lock()
	v := e.view(f, now)
	e.mu.Unlock()
	round := func(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }
	switch {
	case v.state == dayfly.AttemptCreating:
		say(w, "The provider %s was asked for machine %s %v ago.", v.provider, v.machine, round(v.age))
	case v.state == dayfly.AttemptCreateUnknown:
		say(w, "The provider %s was asked for machine %s, and its answer was lost; Dayfly is finding out whether the machine exists.", v.provider, v.machine)
	case v.state == dayfly.AttemptBooting:
		say(w, "Machine %s exists and its agent has not called yet (%v of at most %v).", v.machine, round(v.age), v.boot)
	case v.killed:
		say(w, "Machine %s is being destroyed; the attempt ends when that is confirmed.", v.machine)
	case v.silence > e.timers.lostAfter:
		say(w, "It runs on machine %s, whose agent has been silent for %v; after %v the machine is destroyed.", v.machine, round(v.silence), e.timers.unreachableAfter)
	default:
		say(w, "Its command runs on machine %s since %v; its agent was last heard of %v ago.", v.machine, round(v.running), round(v.silence))
	}
	if job.Progress != nil {
		say(w, "It says of itself: %.0f %% %s", job.Progress.Fraction*100, job.Progress.Text)
	}
	w.Next = fmt.Sprintf("It may run for %v.", v.limit)
}

func whyFinished(w *dayfly.Why, job *store.Job) {
	if job.State == dayfly.Succeeded {
		say(w, "It succeeded.")
	} else {
		say(w, "It is %s because of %s.", job.State, job.Reason)
	}
	if job.Message != "" {
		say(w, "%s", strings.TrimSpace(job.Message))
	}
	for _, a := range job.AttemptLog {
		if a.State == dayfly.AttemptSucceeded {
			continue
		}
		line := fmt.Sprintf("Attempt %d on %s was %s", a.Number, a.Provider, a.State)
		if a.Machine != nil {
			line += ", machine " + a.Machine.Name
		}
		if a.MaxRSSKB > 0 {
			line += fmt.Sprintf(", largest process %d MiB", a.MaxRSSKB>>10)
		}
		say(w, "%s. %s", line, strings.TrimSpace(a.Message))
	}
	switch job.Reason {
	case dayfly.ReasonOOMKilled:
		w.Next = "Give it more memory with memory_mb or a larger size, then retry it."
	case dayfly.ReasonDiskFull:
		w.Next = "Give it more disk with disk_mb, or make room on the host, then retry it."
	case dayfly.ReasonTimeout:
		w.Next = "Raise timeouts.run if it needs more time, then retry it."
	case dayfly.ReasonCommandNotFound:
		w.Next = "Check the command's first word, and that the program is installed where the job runs."
	case dayfly.ReasonMachineLost, dayfly.ReasonNeverStarted, dayfly.ReasonPoison:
		w.Next = "Retry it; raise retry.max_attempts if such failures should be retried without you."
	}
}
