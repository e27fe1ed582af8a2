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
	"github.com/dayfly-run/dayfly/machine"
)

// Before a machine is asked for, its provider fetches what it needs, such as its image. That may take minutes and is no
// fault of the machine's, so it has a limit of its own and the boot timeout begins after it. How far it is is kept in
// memory only: after a restart of the server it begins again, and what was fetched is there.

// preparing is what is known of a preparation under way.
type preparing struct {
	stop  context.CancelFunc
	since time.Time
	said  machine.Preparation // the last that the provider said
}

// worthNoting is how long a preparation takes at least that is shown as a phase of its own. Finding that nothing is
// missing is none.
const worthNoting = 50 * time.Millisecond

var errPullSlow = errors.New("the time to fetch what the machine needs is over")

// bring has the provider fetch what a flight's machine needs, and then asks for it.
func (e *Engine) bring(ctx context.Context, f *flight) {
	if !e.prepare(ctx, f) {
		return
	}
	e.mu.Lock()
	wanted := f.state == dayfly.AttemptCreating || f.state == dayfly.AttemptCreateUnknown // else it was found meanwhile
	e.mu.Unlock()
	if wanted {
		e.create(ctx, f)
	}
}

// prepare reports whether the machine may be asked for. If not, the attempt has been dealt with, or the server ends.
func (e *Engine) prepare(ctx context.Context, f *flight) bool {
	if _, ok := e.providers[f.provider].(machine.Preparer); !ok {
		return true
	}
	e.mu.Lock()
	job, now := f.job, e.clock.now()
	limit := time.Duration(job.Spec.Timeouts.Pull)
	if limit <= 0 {
		limit = defaultPull // a job of an earlier version
	}
	ctx, stop := context.WithTimeoutCause(ctx, limit, errPullSlow)
	defer stop()
	if e.flights[f.id] != f {
		e.mu.Unlock()
		return false
	}
	f.preparing = &preparing{stop: stop, since: now}
	e.mu.Unlock()

	err := e.fetch(ctx, f, job)

	done := e.clock.now()
	e.mu.Lock()
	f.preparing, f.since = nil, done // the boot timeout begins
	over := e.flights[f.id] != f
	e.mu.Unlock()
	switch {
	case over:
		return false
	case err == nil:
		if done.Sub(now) >= worthNoting {
			e.notes.add(e.lifetime, &store.Note{Attempt: f.id, Time: done, Prepared: true})
			e.tell(f.jobID, false)
		}
		return true
	case errors.Is(context.Cause(ctx), errPullSlow):
		e.refuseFlight(f, verdict{state: dayfly.AttemptNeverStarted, reason: dayfly.ReasonNeverStarted,
			message: fmt.Sprintf("What the machine needs was not there after %v, which is timeouts.pull: %s", limit, sentenceOf(err))})
	case ctx.Err() != nil: // the server ends; the next one begins again
	default:
		e.refuseFlight(f, *e.turnedDown(f, err))
	}
	return false
}

// fetch asks until the provider is ready or has refused, or ctx ends. Nothing that a Prepare says is ambiguous.
func (e *Engine) fetch(ctx context.Context, f *flight, job *store.Job) error {
	for delay := time.Second; ; delay = min(2*delay, 30*time.Second) {
		spec, err := e.machineSpec(ctx, f, job)
		if err == nil {
			err = e.callPrepare(ctx, f.provider, spec, func(p machine.Preparation) { e.prepared(f, p) })
		}
		switch fault.Of(err) {
		case "", fault.Invalid, fault.Unsupported, fault.Exhausted, fault.Denied, fault.Unauthenticated, fault.Conflict:
			return err
		case fault.NotFound: // an image that does not exist
			return fault.Say(fault.Invalid, "%s", sentenceOf(err))
		}
		if ctx.Err() != nil {
			return err
		}
		e.prepared(f, machine.Preparation{Text: "tried again, because " + sentenceOf(err)})
		e.logger.Warn("what a machine needs cannot be fetched for now; trying again", "job", f.jobID, "provider", f.provider, "error", err)
		pause(ctx, delay)
		if ctx.Err() != nil {
			return err
		}
	}
}

// prepared notes how far a preparation is.
func (e *Engine) prepared(f *flight, p machine.Preparation) {
	const longest = 600 // as long as a sentence about an error
	p.Text = strings.ToValidUTF8(p.Text, "�")
	if len(p.Text) > longest {
		p.Text = strings.ToValidUTF8(p.Text[:longest], "")
	}
	p.Done, p.Total = max(0, p.Done), max(0, p.Total)
	e.mu.Lock()
	defer e.mu.Unlock()
	if f.preparing != nil {
		f.preparing.said = p
	}
}

// withPreparation adds to a job how far the preparation of its machine is.
func (e *Engine) withPreparation(job *store.Job) *store.Job {
	if len(job.AttemptLog) == 0 || job.State != dayfly.Starting {
		return job
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	last := job.AttemptLog[len(job.AttemptLog)-1]
	if f := e.flights[last.ID]; f != nil && f.preparing != nil {
		said := f.preparing.said
		last.Preparation = &said
	}
	return job
}
