package engine

import (
	"context"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// drain has a machine of a pool destroyed that no attempt is on, or whose attempt is to be given up. The store says so
// first. fault.Conflict: it has changed; it may have an attempt by now.
func (e *Engine) drain(ctx context.Context, r *runner, why string) error {
	e.mu.Lock()
	row, f := r.row, e.byMachine[r.name]
	e.mu.Unlock()
	if f != nil { // what ends the attempt is that its machine is gone for certain
		e.kill(ctx, f, why)
		return nil
	}
	moved, err := e.store.MoveRunner(ctx, &store.RunnerMove{
		Machine: row.Machine, From: []store.RunnerState{row.State}, Attempt: row.Attempt, To: store.RunnerDraining, Time: e.clock.now(), Message: why,
	})
	if err != nil {
		return err
	}
	e.mu.Lock()
	beside := e.share(r)
	e.mu.Unlock()
	e.noteRunner(moved)
	e.tellLeaves(&row, beside, row.State, why)
	if row.State == store.RunnerWarming && beside.leaves == "" { // once for each machine
		e.died(row.Pool, why)
	}
	e.release(r, moved.MachineID)
	e.wakeQueue.set()
	return nil
}

// tellLeaves logs that a machine of a pool is not to be used any more, once for all its slots. beside is how it was before.
func (e *Engine) tellLeaves(row *store.Runner, beside shared, was store.RunnerState, why string) {
	switch {
	case beside.leaves != "": // it has been told
	case row.Divided():
		e.logger.Info("a machine of a pool gets no more jobs, and is destroyed when those are over that it has", "pool", row.Pool,
			"machine", row.Host, "slot", row.Machine, "was", was, "uses", beside.uses, "why", why)
	default:
		e.logger.Info("a machine of a pool is destroyed", "pool", row.Pool, "machine", row.Machine, "was", was, "uses", row.Uses, "why", why)
	}
}

// revived notes that a machine of a pool has been ready.
func (e *Engine) revived(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p := e.pools[name]; p != nil {
		p.deaths, p.until = 0, time.Time{}
	}
}

// died counts a machine of a pool that never was idle, and lets the pool back off.
func (e *Engine) died(name, why string) {
	now := e.clock.now()
	e.mu.Lock()
	p := e.pools[name]
	if p == nil {
		e.mu.Unlock()
		return
	}
	p.deaths++
	p.why = why
	deaths, pause := p.deaths, time.Duration(0)
	if deaths >= deathsInRow {
		pause = min(poolPauseLeast<<min(deaths-deathsInRow, 10), poolPauseMost)
		p.until = now.Add(pause)
	}
	e.mu.Unlock()
	if pause > 0 {
		e.logger.Error("the machines of a pool end before they are ready; no others are made for a while, and its jobs start on machines of their own",
			"pool", name, "deaths", deaths, "for", pause, "why", why)
	}
}

// vacate says in the ending of an attempt what becomes of its machine, if that is a pool's.
func (e *Engine) vacate(f *flight, v *verdict, fence int64, end *store.Ending, report *ended) {
	if f.runner == "" {
		return
	}
	var result *wire.Result
	if report != nil {
		result = report.result
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	end.Wall, end.Runner, end.Gone = wallClock(), store.RunnerDraining, "it is not known any more"
	if r := e.runners[f.runner]; r != nil {
		end.Runner, end.Gone = afterUse(e.pools[r.row.Pool], &r.row, e.share(r), v, fence != 0 && !f.untold, result, end.Time)
	}
}

// vacated notes what has become of the machine of a pool whose attempt has ended.
func (e *Engine) vacated(f *flight, end *store.Ending) {
	if f.runner == "" {
		return
	}
	e.mu.Lock()
	r := e.runners[f.runner]
	if r == nil || r.row.Attempt != f.id {
		e.mu.Unlock()
		return
	}
	was, beside := r.row.State, e.share(r)
	r.row.Version++
	r.row.FreeAt, r.heard = end.Time, end.Time
	if was != store.RunnerDraining {
		r.row.State = end.Runner
		if end.Runner == store.RunnerIdle {
			r.row.Attempt, r.row.JobID, r.row.IdleAt = "", "", end.Time
		}
		r.row.Message = end.Gone
	}
	r.wake()
	row := r.row
	e.mu.Unlock()
	if row.State == store.RunnerDraining && was != store.RunnerDraining {
		e.tellLeaves(&row, beside, was, end.Gone)
		if was == store.RunnerWarming && beside.leaves == "" && end.State == dayfly.AttemptNeverStarted && end.Reason != dayfly.ReasonDeadline {
			e.died(row.Pool, end.Gone)
		}
	}
}
