package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// ended is what an agent reported, when it was the agent that found out.
type ended struct {
	result    *wire.Result
	artifacts []dayfly.Artifact
}

// finish ends an attempt because of something other than its agent's report. Losing the race to another end is no
// failure; while the store does not answer the attempt stays in flight, and the next tick tries again.
func (e *Engine) finish(f *flight, v verdict) {
	e.mu.Lock()
	over := f.ending || e.flights[f.id] != f // somebody else ends it, or has
	if f.bare && f.fence == 0 && f.sending > 0 && !over {
		// A create is on its way again, and what it makes runs the command at once.
		if v.refusal != nil {
			f.pending = &v
		}
		over = true
	}
	if !over {
		f.ending = true
	}
	e.mu.Unlock()
	if over {
		return
	}
	ctx, cancel := context.WithTimeout(e.lifetime, 30*time.Second)
	defer cancel()
	report := e.measured(f)
	err := e.end(ctx, f, v, report)
	e.mu.Lock()
	f.ending, f.pending = false, nil
	failed := err != nil && !errors.Is(err, fault.StaleAttempt) && !errors.Is(err, fault.NotFound)
	if failed && f.state != dayfly.AttemptRunning {
		// A provider's refusal is said once. What is known of an attempt that runs is still there at the next tick.
		f.pending = &v
	}
	if r := e.runners[f.runner]; r != nil {
		r.wake() // an agent that was not to be told meanwhile
	}
	e.mu.Unlock()
	switch {
	case err == nil:
		e.logger.Info("an attempt ended without its agent's report", "job", f.jobID, "attempt", f.number, "machine", f.machine,
			"provider", f.provider, "state", v.state, "reason", v.reason, "message", v.message)
	case failed && e.lifetime.Err() == nil:
		e.logger.Error("an attempt could not be ended; it will be tried again", "job", f.jobID, "attempt", f.number, "error", err)
	}
}

// end commits the end of an attempt and what becomes of its job. When the job has changed since it was read, it is
// read again and decided again. fault.StaleAttempt means that the attempt has ended differently, or that it has been
// claimed, so that a verdict about one that has not does not hold.
func (e *Engine) end(ctx context.Context, f *flight, v verdict, report *ended) error {
	for range 8 {
		e.mu.Lock()
		job, fence, told := f.job, f.fence, !f.untold
		e.mu.Unlock()
		if report == nil && !v.started && fence != 0 && told {
			// It was claimed after this was decided, or while a provider was asked once more and refused.
			return claimed(f)
		}
		now := e.clock.now()
		n := next(job, v, now, e.luck())
		ending := &store.Ending{
			Attempt: f.id, Fence: fence, JobVersion: job.Version, State: v.state, Time: now,
			Reason: v.reason, Message: v.message, Exit: v.exit, Started: v.started, Unbilled: v.unbilled, Job: n,
		}
		if report != nil {
			ending.Result, ending.Artifacts = report.result, report.artifacts
		}
		e.decideToKeep(ctx, f, v, ending, report)
		e.vacate(f, &v, fence, ending, report)
		moved, err := e.store.End(ctx, ending)
		switch {
		case err == nil:
			e.keepFlight(f, ending.KeepUntil)
			e.vacated(f, ending)
			e.landed(f, n.State)
			if n.State == dayfly.Queued {
				e.moved(moved)
			}
			return nil
		case errors.Is(err, fault.StaleAttempt), errors.Is(err, fault.NotFound), errors.Is(err, fault.Conflict):
		default:
			return err
		}
		live, unknown := e.settle(ctx, f)
		switch {
		case unknown != nil:
			return unknown
		case !live:
			return fmt.Errorf("engine: attempt %s has ended: %w", f.id, fault.StaleAttempt)
		case !errors.Is(err, fault.Conflict) || e.fenceOf(f) != fence:
			return claimed(f)
		}
	}
	return fmt.Errorf("engine: attempt %s: %w: its job kept changing", f.id, fault.Unavailable)
}

func claimed(f *flight) error {
	return fmt.Errorf("engine: attempt %s has been claimed: %w", f.id, fault.StaleAttempt)
}

func (e *Engine) fenceOf(f *flight) int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return f.fence
}

// landed does what follows from a committed end: the machine is destroyed, waiters are told, the room is used again. It
// does so once, whoever finds out first.
func (e *Engine) landed(f *flight, state dayfly.State) {
	e.mu.Lock()
	if e.flights[f.id] != f {
		e.mu.Unlock()
		return
	}
	f.condemned = !f.gone && !f.kept
	if f.runner != "" { // a pool's machine is destroyed when its pool says so
		r := e.runners[f.runner]
		f.condemned = f.condemned && r != nil && store.Together(e.rowsOf(r)) == store.RunnerDraining
	}
	e.mu.Unlock()
	e.doom(f)
	if f.runner != "" {
		e.wakePools.set()
	}
	if !e.land(f) {
		return
	}
	if state.Terminal() {
		e.open.Add(-1)
	} else {
		e.wakeClock.set()
	}
	e.tell(f.jobID, state.Terminal())
}

// doom has the machine of an attempt that is over destroyed. If nobody has heard of the machine yet and a create of it
// is under way, that waits for the answer: else the machine could come into being when the destroyer has already found
// that there is none.
func (e *Engine) doom(f *flight) {
	e.mu.Lock()
	due := f.condemned && (f.sending == 0 || f.fence > 0)
	f.condemned = f.condemned && !due
	id := f.providerID
	if r := e.runners[f.runner]; id == "" && r != nil {
		id = r.row.MachineID
	}
	host := e.hostOf(f)
	if id == "" && f.sight != "" {
		id = host
	}
	e.mu.Unlock()
	if due {
		e.doomed.add(f.provider, host, id)
	}
}

// verdictOf turns an agent's report into a verdict, whose message ends with the agent's warnings.
func verdictOf(r *wire.Result, job *store.Job) verdict {
	v := judge(r, job)
	v.message = strings.TrimSpace(v.message + " " + strings.Join(r.Warnings, " "))
	return v
}

func judge(r *wire.Result, job *store.Job) verdict {
	v := verdict{exit: r.Exit, value: r.Value, started: r.Started, reason: dayfly.Reason(r.Reason), message: r.Message}
	switch r.Outcome {
	case wire.Succeeded:
		v.state, v.reason = dayfly.AttemptSucceeded, ""
		return v
	case wire.Canceled:
		v.state, v.reason = dayfly.AttemptCanceled, dayfly.ReasonCanceled
		return v
	case wire.TimedOut:
		v.state = dayfly.AttemptTimedOut
		if v.reason == "" {
			v.reason = dayfly.ReasonTimeout
		}
		if v.message == "" {
			v.message = fmt.Sprintf("It ran longer than its run timeout of %v; raise timeouts.run if it needs more.", job.Spec.Timeouts.Run)
		}
		return v
	}
	v.state = dayfly.AttemptFailed
	if v.reason == "" {
		v.reason = reasonOf(r)
	}
	if v.message == "" {
		v.message = "The command ended" + describeExit(r.Exit) + "."
	}
	v.final = v.reason == dayfly.ReasonCommandNotFound
	return v
}

func reasonOf(r *wire.Result) dayfly.Reason {
	switch {
	case r.Exit == nil:
		return dayfly.ReasonInputFailed
	case r.Exit.OOMKilled:
		return dayfly.ReasonOOMKilled
	case r.Exit.DiskFull:
		return dayfly.ReasonDiskFull
	case r.Exit.Signal != "":
		return dayfly.ReasonSignaled
	default:
		return dayfly.ReasonExitNonzero
	}
}
