package engine

import (
	"context"
	"runtime"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

// A job that is submitted while nothing waits and there is room is launched by the transaction that makes it durable.
// Otherwise a job on an idle server would wait for two flushes, one after the other, before its machine is asked for.
// Everything else goes through dispatchLoop, and plan decides in either case.

// board sets the launch of a submission if the job may be launched at once. It returns the flight whose room it has
// reserved, or nil; depart gives it back.
func (e *Engine) board(ctx context.Context, s *store.Submission, now time.Time) *flight {
	if s.Job.State != dayfly.Queued || len(e.readyLanes()) > 0 || e.refuses(s.Job.Provider) {
		return nil
	}
	view := e.laneView(laneOf(s.Job), []*store.Job{s.Job})
	if stop, err := e.overLimit(ctx, s.Job.Queue); stop != nil || err != nil {
		return nil // the dispatcher says so, or tries again
	}
	first := open(s.Job, s.Job.Refusals)[0] // there is always one
	funds, err := e.fund(ctx, s.Job, first)
	if err != nil || funds.move != nil {
		return nil
	}
	launch := e.intent(s.Job, first, nil, funds, now)
	f := launchedFlight(launch, s.Job)
	// The room is taken before it is looked at, so that two submissions do not both find the last of it.
	e.seats.Lock()
	e.reserve(f, 1)
	w := world{now: now, timers: e.timers, room: e.room(), lanes: []laneView{view}}
	e.seats.Unlock()
	w.room[f.provider]++
	if s.Job.Spec.Pool != "" {
		w.idle = e.poolViews(now)
	}
	actions := plan(&w)
	if len(actions) != 1 || actions[0].kind != launchJob || actions[0].choice != first || !e.lend(launch, s.Job, actions[0]) {
		e.reserve(f, -1)
		return nil
	}
	e.mu.Lock()
	e.count(f, -1)
	f.on(launch)
	f.rides = e.rides(f)
	e.count(f, 1)
	e.mu.Unlock()
	s.Launch = launch
	return f
}

func (e *Engine) reserve(f *flight, change int) {
	e.mu.Lock()
	e.count(f, change)
	e.mu.Unlock()
}

// depart begins the flight that board has reserved room for, if the submission has launched it.
func (e *Engine) depart(f *flight, stored *store.Job, err error) {
	if f == nil {
		return
	}
	if err == nil && stored.Attempt == f.id {
		e.mu.Lock()
		f.job, f.jobID, f.number = stored, stored.ID, stored.Number
		if f.untold {
			f.fence = stored.Fence
		}
		known := e.flights[f.id] != nil // it was found by reading meanwhile, and is looked after and counted
		if known {
			e.count(f, -1)
		} else {
			e.flights[f.id], e.byMachine[f.machine] = f, f
		}
		e.mu.Unlock()
		if known {
			return
		}
		e.begin(f)
		// The machine is asked for before the client is answered: it is what takes time.
		runtime.Gosched()
		return
	}
	e.reserve(f, -1)
	if f.lending != nil {
		e.unlend(f.lending)
	}
	switch fault.Of(err) {
	case "", fault.Invalid, fault.IdempotencyMismatch, fault.StoreFull, fault.Canceled:
	default:
		// The commit may have happened although its answer was lost. What was launched then is found by reading.
		e.background.Go(func() {
			if err := e.reconcile(e.lifetime, 0); err != nil && e.lifetime.Err() == nil {
				e.logger.Error("attempts that may have been launched could not be looked for", "error", err)
			}
		})
	}
	e.wakeQueue.set()
}
