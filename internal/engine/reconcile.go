package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

// The flights are what this server believes of the attempts in the store. A write that was committed although its answer
// was lost makes the two differ: an attempt that nobody looks after, one that is looked after in vain, a machine that nobody
// destroys. Whoever notices settles it at once; what nobody notices is found by comparing the two from time to time.

const (
	reconcileEvery = 10 * time.Second
	// launching is how old an attempt is for certain when the server that has launched it has taken it up.
	launching = 5 * time.Second
)

func (e *Engine) reconcileLoop(ctx context.Context) {
	ticker := time.NewTicker(reconcileEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := e.reconcile(ctx, launching)
		if err == nil {
			_, err = e.condemn(ctx, launching)
		}
		if err == nil && (len(e.pools) > 0 || e.anyRunner()) {
			err = e.recallRunners(ctx)
		}
		if err == nil {
			err = e.countOpen(ctx)
		}
		if err != nil && ctx.Err() == nil {
			e.logger.Warn("the attempts in flight could not be compared with the store; trying again", "error", err)
		}
	}
}

// reconcile makes the flights agree with the store. It adds an attempt that is not among them if that is as old as
// age at least; 0 is any age.
func (e *Engine) reconcile(ctx context.Context, age time.Duration) error {
	e.mu.Lock()
	flights := maps.Clone(e.flights) // those that were here before the store was read
	e.mu.Unlock()
	_, err := e.eachLive(ctx, func(a *store.Attempt) {
		now := e.clock.now()
		delete(flights, a.ID)
		if f := e.flightOf(a.ID); f != nil {
			e.refresh(f, a, now)
		} else if age == 0 || now.Sub(a.CreatedAt) >= age {
			e.adopt(ctx, a.ID)
		}
	})
	if err != nil {
		return err
	}
	var failed error
	for _, f := range flights {
		if _, err := e.settle(ctx, f); err != nil {
			failed = err // the others may be readable
		}
	}
	return failed
}

// eachLive hands over every attempt that is in flight according to the store, and returns why others cannot be read.
func (e *Engine) eachLive(ctx context.Context, each func(*store.Attempt)) (bad []error, err error) {
	const page = 500
	for after := int64(0); ; {
		live, unreadable, err := e.store.Live(ctx, after, page)
		if err != nil {
			return nil, fmt.Errorf("engine: reading the attempts in flight: %w", err)
		}
		bad = append(bad, unreadable...)
		for _, a := range live {
			after = a.Seq
			each(a)
		}
		if len(live) < page {
			return bad, nil
		}
	}
}

// adopt takes up an attempt that this server does not know. It is read again, because it may have ended since.
func (e *Engine) adopt(ctx context.Context, attempt string) {
	a, err := e.store.Attempt(ctx, attempt)
	if err != nil || a.State.Terminal() {
		return // if it cannot be read now, the next time will do
	}
	if a.Runner != "" {
		if err := e.syncRunner(ctx, a.Runner); err != nil {
			return
		}
	}
	f := newFlight(a, e.clock.now())
	if !e.addFlight(f) {
		return
	}
	e.logger.Warn("an attempt was found that was launched although the answer to that was lost", "job", f.jobID, "attempt", f.number,
		"machine", f.machine, "state", a.State)
	if f.state == dayfly.AttemptCreateUnknown {
		// Asking again under the same name is harmless if the machine exists, and the quickest way to it if not.
		e.background.Go(func() { e.bring(e.lifetime, f) })
	}
}

// refresh takes what the store says of a flight, if that is news.
func (e *Engine) refresh(f *flight, a *store.Attempt, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if a.Fence > f.fence || a.Fence == f.fence && a.State == dayfly.AttemptRunning && f.state != a.State {
		f.state, f.fence, f.pending = dayfly.AttemptRunning, a.Fence, nil
		f.alive(now)
	}
	if a.Job.Version > f.job.Version {
		f.job = a.Job
	}
}

// settle learns from the store what has become of an attempt and acts upon it. live reports that it is still in flight.
func (e *Engine) settle(ctx context.Context, f *flight) (live bool, err error) {
	a, err := e.store.Attempt(ctx, f.id)
	if err == nil && f.runner != "" {
		err = e.syncRunner(ctx, f.runner)
	}
	switch {
	case errors.Is(err, fault.NotFound):
		e.land(f)
		e.tell(f.jobID, true)
		return false, nil
	case err != nil:
		return false, err
	case !a.State.Terminal():
		e.refresh(f, a, e.clock.now())
		return true, nil
	case a.Machine != nil && a.Machine.State == store.MachineKept:
		e.keepFlight(f, a.Machine.DeleteAt)
		e.landed(f, a.Job.State)
	case a.Job.Attempt == f.id:
		e.landed(f, a.Job.State)
		if a.Job.State == dayfly.Queued {
			e.stirred(laneOf(a.Job))
			e.wakeQueue.set()
		}
	default: // the job has gone on to another attempt
		e.landed(f, dayfly.Running)
	}
	return false, nil
}

// condemn has the machines destroyed that the ledger holds as deleting for as long as age at least (0: however long), and
// returns how many there are. Those that are being destroyed already are not disturbed.
func (e *Engine) condemn(ctx context.Context, age time.Duration) (int, error) {
	deleting, err := e.store.Machines(ctx, &store.MachineQuery{States: []store.MachineState{store.MachineDeleting}, Limit: 10_000})
	if err != nil {
		return 0, fmt.Errorf("engine: reading the machines to be destroyed: %w", err)
	}
	now := e.clock.now()
	for _, m := range deleting {
		if age == 0 || now.Sub(m.DeleteAt) >= age {
			e.doomed.add(m.Provider, m.Name, m.ID)
		}
	}
	return len(deleting), nil
}

// countOpen counts the jobs that have not finished.
func (e *Engine) countOpen(ctx context.Context) error {
	counts, err := e.store.Counts(ctx)
	if err != nil {
		return err
	}
	open := 0
	for _, c := range counts {
		open += c.Jobs
	}
	e.open.Store(int64(open))
	return nil
}
