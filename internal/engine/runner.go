package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// runner is a machine of a pool, or one slot of it. The engine's mu guards all but what never changes.
type runner struct {
	name string       // the row's; never changes, so that it may be read without the lock
	row  store.Runner // as last read or written

	sight    machine.State
	exit     string    // how it has ended, when sight says that it has
	since    time.Time // when it was asked for, or this server started
	heard    time.Time // when its agent was last heard of, or this server started
	promised bool      // a launch is under way that gives it to an attempt; the store decides whether it does
	bringing bool      // it is being asked for, by itself and not by an attempt's flight
	fetching bool      // what it needs is being fetched
	missed   bool      // it has been told that the machine does not have this slot
	poll     *poll     // the call in which its agent waits; nil: none is open
}

// sawRunner takes what a provider says of a machine of a pool.
func (e *Engine) sawRunner(m *machine.Machine) {
	ended := false
	e.mu.Lock()
	for _, r := range e.slotsOf(e.runners[m.Name]) {
		if m.State.Rank() < machine.Exited.Rank() {
			r.row.MachineID, r.row.Image, r.row.Location = m.ID, cmp.Or(m.Image, r.row.Image), cmp.Or(m.Location, r.row.Location)
		}
		if m.State.Rank() > r.sight.Rank() {
			r.sight = m.State
			r.exit = describeExit(m.Exit)
		}
		ended = ended || r.sight.Rank() >= machine.Exited.Rank()
	}
	e.mu.Unlock()
	if ended {
		e.wakePools.set()
	}
}

// recallRunners makes the copies of the machines of pools agree with the store.
func (e *Engine) recallRunners(ctx context.Context) error {
	e.mu.Lock()
	gone := make(map[string]bool, len(e.runners))
	for name := range e.runners {
		gone[name] = true
	}
	e.mu.Unlock()
	rows, err := e.store.Runners(ctx)
	if err != nil {
		return fmt.Errorf("engine: reading the machines of pools: %w", err)
	}
	for _, row := range rows {
		delete(gone, row.Machine)
		e.noteRunner(row)
	}
	for name := range gone { // it is gone, or was added when the store had been read
		if err := e.syncRunner(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// syncRunner reads how a machine of a pool is.
func (e *Engine) syncRunner(ctx context.Context, name string) error {
	row, err := e.store.Runner(ctx, name)
	switch {
	case errors.Is(err, fault.NotFound):
		e.mu.Lock()
		delete(e.runners, name)
		e.mu.Unlock()
		return nil
	case err != nil:
		return err
	}
	e.noteRunner(row)
	return nil
}

// noteRunner takes what the store says of a machine of a pool, and returns the copy; nil if it is gone.
func (e *Engine) noteRunner(row *store.Runner) *runner {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.runners[row.Machine]
	if row.State == store.RunnerGone {
		if r != nil {
			delete(e.runners, row.Machine)
			r.wake()
		}
		return nil
	}
	if r == nil {
		now := e.clock.now()
		r = &runner{name: row.Machine, row: *row, since: now, heard: now}
		e.runners[row.Machine] = r
		return r
	}
	if row.Version < r.row.Version {
		return r // it was read before the last change
	}
	r.row = *row
	r.promised = r.promised && row.State == store.RunnerIdle
	r.wake()
	return r
}

// wake lets the agent's call look again. The caller holds mu.
func (r *runner) wake() {
	if r.poll != nil {
		r.poll.wake.set()
	}
}
