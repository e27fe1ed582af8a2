package engine

import (
	"context"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// poolLoop keeps the pools as their owner wants them.
func (e *Engine) poolLoop(ctx context.Context) {
	if len(e.pools) == 0 && !e.anyRunner() {
		return // none comes into being without a pool
	}
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for ctx.Err() == nil {
		w := world{now: e.clock.now(), timers: e.timers, pools: e.poolStates()}
		for _, a := range plan(&w) {
			if err := e.carryOutPool(ctx, a); err != nil && ctx.Err() == nil && fault.Of(err) != fault.Conflict {
				e.logger.Warn("a machine of a pool could not be looked after; trying again", "machine", a.machine, "what", a.kind, "error", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-e.wakePools:
		case <-ticker.C:
		}
	}
}

// poolStates gathers what planPool decides from. Machines of pools that are not configured any more are among them.
func (e *Engine) poolStates() []poolState {
	now := e.clock.now()
	e.mu.Lock()
	defer e.mu.Unlock()
	states := map[string]*poolState{}
	for name, p := range e.pools {
		states[name] = &poolState{name: name, pool: &p.Pool, spec: p.spec, paused: now.Before(p.until)}
	}
	uses := map[string]int{} // by machine
	for _, r := range e.runners {
		uses[r.row.Host] += r.row.Uses
	}
	for _, r := range e.runners {
		s := states[r.row.Pool]
		if s == nil {
			s = &poolState{name: r.row.Pool}
			states[r.row.Pool] = s
		}
		state := r.row.State
		if r.promised {
			state = store.RunnerBusy // or is about to be
		}
		view := runnerView{
			name: r.name, host: r.row.Host, message: r.row.Message, provider: r.row.Provider, state: state, spec: r.row.Spec, attempt: r.row.Attempt,
			ended: r.sight.Rank() >= machine.Exited.Rank(), exit: r.exit, polls: r.poll != nil, bringing: r.bringing,
			silence: e.vigil.elapsed(r.heard, now), idle: now.Sub(r.row.IdleAt), age: now.Sub(r.row.CreatedAt), since: e.sinceUp(r, now),
			uses: uses[r.row.Host],
		}
		if view.missing() && !r.missed {
			r.missed = true
			e.logger.Warn("a machine of a pool has a slot less than it should: its agent has not called from there; the agent's log says why",
				"pool", r.row.Pool, "machine", r.row.Host, "slot", r.name)
		}
		s.runners = append(s.runners, view)
	}
	list := make([]poolState, 0, len(states))
	for _, s := range states {
		list = append(list, *s)
	}
	return list
}

// carryOutPool does what plan decided about pools.
func (e *Engine) carryOutPool(ctx context.Context, a action) error {
	if a.kind == warmRunner {
		return e.warm(ctx, e.pools[a.why])
	}
	e.mu.Lock()
	r := e.runners[a.machine]
	e.mu.Unlock()
	if r == nil {
		return nil
	}
	switch a.kind {
	case drainRunner:
		return e.drain(ctx, r, a.why)
	case bringRunner:
		e.mu.Lock()
		again := r.bringing
		r.bringing = true
		e.mu.Unlock()
		if !again {
			e.background.Go(func() { e.bringRunner(e.lifetime, r) })
		}
	}
	return nil
}

func (e *Engine) anyRunner() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.runners) > 0
}
