package engine

import (
	"context"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
)

// A server that lives inside a command stops when the command ends. These say what it should see through before.

// Starting reports whether a job is about to begin and needs a server to do so: there is room for one that is ready, its
// machine has not claimed it, or its machine is fetching inputs. A job that is being canceled is about to end.
func (e *Engine) Starting(ctx context.Context) (bool, error) {
	if err := e.await(ctx); err != nil {
		return false, err
	}
	// What waits is read before what has been launched, so that a job on its way from the one to the other is seen.
	if launchable, err := e.launchable(ctx); err != nil || launchable {
		return launchable, err
	}
	starting, _, err := e.store.List(ctx, &store.Query{States: []dayfly.State{dayfly.Starting}, Limit: 1000})
	if err != nil {
		return false, err
	}
	for _, job := range starting {
		if job.CancelRequestedAt.IsZero() {
			return true, nil
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, f := range e.flights {
		if f.state == dayfly.AttemptRunning && f.commandAt.IsZero() && len(f.job.Inputs) > 0 && f.order == "" {
			return true, nil
		}
	}
	return false, nil
}

// launchable reports whether a job is ready and there is room for it.
func (e *Engine) launchable(ctx context.Context) (bool, error) {
	lanes, err := e.store.Lanes(ctx)
	if err != nil {
		return false, err
	}
	now := e.clock.now()
	w := world{now: now, timers: e.timers, room: e.room(), gates: e.gates(now)}
	for _, lane := range lanes {
		if room, _ := roomFor(choicesOf(lane.Provider), w.room, nil); room <= 0 || e.queueRoom(lane.Queue) <= 0 {
			continue
		}
		heads, err := e.store.Ready(ctx, lane, nil, launchGroup)
		if err != nil {
			return false, err
		}
		w.lanes = append(w.lanes, e.laneView(lane, heads))
	}
	return len(plan(&w)) > 0, nil
}

// Unheard reports whether the agent of an attempt that ran when this server started has not said yet how it stands. What
// it held back while there was no server comes before that.
func (e *Engine) Unheard(ctx context.Context) (bool, error) {
	if err := e.await(ctx); err != nil {
		return false, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, f := range e.flights {
		if f.unheard {
			return true, nil
		}
	}
	return false, nil
}
