package engine

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

// launchGroup is how many jobs are launched in one transaction. Larger groups save flushes and make the first of the
// group wait for the last.
const launchGroup = 64

// dispatchLoop launches what is ready whenever something has become ready or some room has become free. Nothing on a
// job's path waits for a tick: the timer is for providers that recover by themselves.
func (e *Engine) dispatchLoop(ctx context.Context) {
	var scanned time.Time
	for ctx.Err() == nil {
		if now := e.clock.now(); now.Sub(scanned) >= laneScan {
			if err := e.scanLanes(ctx); err != nil && ctx.Err() == nil {
				e.logger.Warn("the lanes with ready jobs could not be read; trying again", "error", err)
			}
			scanned = now
		}
		launched, look, err := e.dispatch(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			e.logger.Error("jobs could not be launched", "error", err)
			pause(ctx, time.Second)
			continue
		case launched > 0:
			if e.crowded() {
				// Room comes back one machine at a time. Reading and committing for each alone costs more than the
				// jobs do; in a millisecond several come back.
				pause(ctx, time.Millisecond)
			}
			continue // there may be more
		}
		wait := e.nextProbe(laneScan)
		if !look.IsZero() {
			wait = min(wait, max(0, look.Sub(e.clock.now())))
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-e.wakeQueue:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// laneScan is how often the lanes with ready jobs are read from the store. In between, what this server does to jobs
// tells it; see lineup.
const laneScan = 5 * time.Second

func (e *Engine) scanLanes(ctx context.Context) error {
	lanes, err := e.store.Lanes(ctx)
	for _, lane := range lanes {
		e.stirred(lane)
	}
	return err
}

func (e *Engine) readyLanes() []store.Lane {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Keys(e.lanes))
}

// crowded reports whether no provider has more than a little room left.
func (e *Engine) crowded() bool {
	for name, room := range e.room() {
		if room > e.maxMachines(name)/4 {
			return false
		}
	}
	return true
}

// dispatch launches one group and returns how many jobs it moved, and when to look at others (zero: when something has
// happened).
func (e *Engine) dispatch(ctx context.Context) (moved int, look time.Time, err error) {
	now := e.clock.now()
	w := world{now: now, timers: e.timers, room: e.room(), gates: e.gates(now), idle: e.poolViews(now)}
	for _, lane := range e.readyLanes() {
		room, gated := roomFor(choicesOf(lane.Provider), w.room, w.gates)
		lends := hasIdle(w.idle, choicesOf(lane.Provider))
		if room <= 0 && !lends || e.queueRoom(lane.Queue) <= 0 {
			continue
		}
		if stop, err := e.overLimit(ctx, lane.Queue); err != nil {
			return 0, look, err
		} else if stop != nil {
			continue
		}
		limit := min(room, launchGroup)
		if gated || lends {
			limit = launchGroup // the first may be refused, and those behind them may not
		}
		heads, err := e.head(ctx, lane, limit)
		if err == nil && !gated && slices.ContainsFunc(heads, choosy) {
			// The room may be where the first do not run, and those behind them do.
			gated = true
			heads, err = e.head(ctx, lane, launchGroup)
		}
		// The same when the first wait for machines of their pools: those behind them may want none, or another tenant's.
		gated = gated || lends && len(heads) == launchGroup && allWait(w.idle, heads, room)
		if err == nil && gated && len(heads) == launchGroup {
			var behind []*store.Job
			var again time.Time
			behind, again, err = e.search(ctx, lane, heads, now)
			heads = append(heads[:launchGroup:launchGroup], behind...)
			if look.IsZero() || again.Before(look) {
				look = again
			}
		}
		if err != nil {
			return 0, look, err
		}
		w.lanes = append(w.lanes, e.laneView(lane, heads))
	}
	actions := plan(&w)
	if len(actions) > launchGroup {
		actions = actions[:launchGroup]
	}
	moved, err = e.launch(ctx, actions, w.now)
	return moved, look, err
}

// laneView returns the head of a lane with the room that its queue and keys have left by the attempts this server knows
// of. The store counts again in the transaction that launches, which is the only place where the count cannot be old;
// counting here keeps a full queue from being tried for nothing each time.
func (e *Engine) laneView(lane store.Lane, heads []*store.Job) laneView {
	view := laneView{heads: heads, queueRoom: e.queueRoom(lane.Queue)}
	limits := e.options.Queues[lane.Queue]
	if limits.KeyConcurrency == 0 {
		return view
	}
	view.keyRoom = map[string]int{}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, job := range heads {
		view.keyRoom[job.Key] = limits.KeyConcurrency - e.active[place{lane.Queue, job.Key}]
	}
	return view
}

// queueRoom returns how many more jobs of a queue may be active.
func (e *Engine) queueRoom(queue string) int {
	limit := e.options.Queues[queue].Concurrency
	if limit == 0 {
		return math.MaxInt
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return limit - e.active[place{queue: queue}]
}

// room returns how many more machines each provider may be asked for now.
func (e *Engine) room() map[string]int {
	dying := e.doomed.count()
	var hired map[string]int
	if e.options.Hired != nil {
		hired = e.options.Hired()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	kept := map[string]int{}
	for _, m := range e.kept {
		kept[m.provider]++
	}
	for _, r := range e.runners {
		if e.countsAlone(r) {
			kept[r.row.Provider]++
		}
	}
	room := make(map[string]int, len(e.providers))
	for name := range e.providers {
		limit := e.maxMachines(name) - hired[name] - e.claimed[name]
		// Machines on their way out still hold memory and disk. They may be as many again as those at work; beyond
		// that nothing new is started until they are gone.
		room[name] = min(limit-e.busy[name]-kept[name], 2*limit-e.busy[name]-kept[name]-dying[name])
	}
	return room
}

// Room returns how many more machines a provider may be asked for now.
func (e *Engine) Room(provider string) int { return e.room()[provider] }

// TakeRoom calls take if a provider may be asked for one more machine now, and reports whether it has. When take returns, the
// machine has to be counted by Options.Hired. Nobody else gets that room meanwhile, neither a job nor a pool. take must not wait
// for the engine.
func (e *Engine) TakeRoom(provider string, take func()) bool {
	e.seats.Lock()
	defer e.seats.Unlock()
	if e.room()[provider] <= 0 {
		return false
	}
	take()
	return true
}

// RoomFreed is called when Options.Hired counts less than before.
func (e *Engine) RoomFreed() { e.wakeQueue.set() }

// claim takes room for the machines of launches that are about to be committed, and reports for each whether it has. What was
// planned may be old by now.
func (e *Engine) claim(launches []*store.Launch) []bool {
	e.seats.Lock()
	defer e.seats.Unlock()
	room := e.room()
	e.mu.Lock()
	defer e.mu.Unlock()
	got := make([]bool, len(launches))
	for i, l := range launches {
		got[i] = l.OnIdle() || room[l.Provider] > 0
		if got[i] && !l.OnIdle() {
			room[l.Provider]--
			e.claimed[l.Provider]++
		}
	}
	return got
}

// unclaim gives back what claim has taken for a launch, when count has counted what became of it.
func (e *Engine) unclaim(l *store.Launch, count func()) {
	e.seats.Lock()
	defer e.seats.Unlock()
	count()
	if !l.OnIdle() {
		e.mu.Lock()
		e.claimed[l.Provider]--
		e.mu.Unlock()
	}
}

func (e *Engine) maxMachines(provider string) int {
	if n := e.options.MaxMachines[provider]; n > 0 {
		return n
	}
	return DefaultMaxMachines
}

// launch commits the intents of a group and then asks the providers.
func (e *Engine) launch(ctx context.Context, actions []action, now time.Time) (moved int, err error) {
	var launches []*store.Launch
	var jobs []*store.Job
	done := map[store.Lane]map[*store.Job]bool{}
	leave := func(job *store.Job) {
		lane := laneOf(job)
		if done[lane] == nil {
			done[lane] = map[*store.Job]bool{}
		}
		done[lane][job] = true
	}
	defer func() {
		for lane, jobs := range done {
			e.left(lane, jobs)
		}
	}()
	for _, a := range actions {
		if a.kind == leaveJob {
			leave(a.job)
			e.wakeClock.set()
			continue
		}
		funds, err := e.fund(ctx, a.job, a.choice)
		if err != nil {
			return moved, err
		}
		if funds.move != nil {
			if err := e.divert(ctx, a.job, funds.move); err != nil {
				return moved, err
			}
			leave(a.job)
			moved++
			continue
		}
		intent := e.intent(a.job, a.choice, a.passed, funds, now)
		if !e.lend(intent, a.job, a) {
			moved++ // somebody else has got the machine in this moment
			continue
		}
		launches = append(launches, intent)
		jobs = append(jobs, a.job)
	}
	for i, got := range slices.Backward(e.claim(launches)) {
		if !got { // somebody else has got the room in this moment
			launches, jobs = slices.Delete(launches, i, i+1), slices.Delete(jobs, i, i+1)
			moved++
		}
	}
	if len(launches) == 0 {
		return moved, nil
	}
	results, err := e.store.Launch(ctx, launches)
	if err != nil {
		// The commit may have happened although its answer was lost. What was launched then is found by reading.
		err = errors.Join(err, e.reconcile(ctx, 0))
		for _, l := range launches {
			e.unclaim(l, func() { e.unlend(l) })
		}
		return moved, err
	}
	surprised := false
	for i, result := range results {
		e.unclaim(launches[i], func() {
			if result == nil {
				e.takeOff(launches[i], jobs[i])
			} else {
				e.unlend(launches[i])
			}
		})
		switch {
		case result == nil:
			leave(jobs[i])
			moved++
		case errors.Is(result, store.ErrTaken):
			if err := e.recallRunners(ctx); err != nil {
				return moved, err
			}
			moved++
		case errors.Is(result, fault.Conflict), errors.Is(result, store.ErrHeld):
			leave(jobs[i]) // somebody else moved it, or it is held until its key has room
			moved++
		case errors.Is(result, fault.Exhausted):
			surprised = true
		default:
			e.logger.Error("a job could not be launched", "job", jobs[i].ID, "error", result)
		}
	}
	if surprised {
		// The store counts an attempt that this server does not know of. Knowing it, the server looks after it, and does
		// not try again for nothing.
		return moved, e.reconcile(ctx, 0)
	}
	return moved, nil
}

// intent is what is committed before a provider is asked for a job's machine.
func (e *Engine) intent(job *store.Job, where choice, passed []dayfly.Refusal, funds funds, now time.Time) *store.Launch {
	attempt := newID("att_")
	limits := e.options.Queues[job.Queue]
	l := &store.Launch{
		JobID: job.ID, Version: job.Version, AttemptID: attempt,
		Machine: machineName(e.identity.Install, attempt), Provider: where.provider, Region: where.region,
		Lifetime: funds.lifetime, Price: funds.price, Time: now,
		QueueLimit: limits.Concurrency, KeyLimit: limits.KeyConcurrency,
	}
	if len(passed) > 0 {
		l.Refusals, l.Message = withRefusals(job.Refusals, passed...), passedOver(passed)
	}
	return l
}

// takeOff starts an attempt whose intent is committed.
func (e *Engine) takeOff(l *store.Launch, job *store.Job) {
	launched := *job
	launched.State, launched.Version, launched.Attempt, launched.Number = dayfly.Starting, job.Version+1, l.AttemptID, job.Number+1
	if l.OnIdle() {
		launched.State, launched.Version, launched.Fence = dayfly.Running, job.Version+2, job.Fence+1
	}
	if len(l.Refusals) > 0 {
		launched.Refusals = l.Refusals
	}
	if f := launchedFlight(l, &launched); e.addFlight(f) {
		e.begin(f)
	}
}

// launchedFlight is the attempt of a launch, of which nothing is known yet.
func launchedFlight(l *store.Launch, job *store.Job) *flight {
	f := &flight{
		id: l.AttemptID, jobID: job.ID, machine: l.Machine, provider: l.Provider, region: l.Region, number: job.Number,
		state: dayfly.AttemptCreating, job: job, since: l.Time, heard: l.Time, bare: job.Spec.Bare,
		meter: store.Meter{Price: l.Price, From: l.Time, Lifetime: l.Lifetime},
	}
	f.on(l)
	return f
}

// on gives a flight its machine of a pool, if the launch has one.
func (f *flight) on(l *store.Launch) {
	if l.Lend == nil {
		return
	}
	f.machine, f.runner, f.meter.Price, f.lending = l.Machine, l.Machine, l.Price, l
	if l.OnIdle() {
		f.state, f.fence, f.untold = dayfly.AttemptRunning, f.job.Fence, true
	}
}

// begin asks for the machine of a flight.
func (e *Engine) begin(f *flight) {
	if f.lending != nil {
		e.occupied(f.lending, f.jobID)
	}
	e.tell(f.jobID, false)
	if f.lending == nil || !f.lending.OnIdle() { // else its machine is there, and waits
		e.background.Go(func() { e.bring(e.lifetime, f) })
	}
}
