package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

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
	r.wake()
	return r
}

// wake lets the agent's call look again. The caller holds mu.
func (r *runner) wake() {
	if r.poll != nil {
		r.poll.wake.set()
	}
}

// runnerOf returns the machine of a pool whose agent claims by an id, or nil.
func (e *Engine) runnerOf(ctx context.Context, id string) (*runner, error) {
	e.mu.Lock()
	for _, r := range e.runners {
		if r.row.ID == id {
			e.mu.Unlock()
			return r, nil
		}
	}
	e.mu.Unlock()
	row, err := e.store.Runner(ctx, id) // the answer to what has made it may have been lost
	switch {
	case errors.Is(err, fault.NotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return e.noteRunner(row), nil
}

// unwanted refuses the agent of a machine that is not to go on.
func unwanted() error {
	return fault.Say(fault.StaleAttempt, "this machine is not wanted any more; end it")
}

// claimNext is a claim by the agent of a machine of a pool: it waits until there is an attempt for the machine, and
// claims it. See package wire.
func (e *Engine) claimNext(ctx context.Context, c *wire.ClaimRequest) (*wire.Assignment, error) {
	r, err := e.runnerOf(ctx, c.Attempt)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, unwanted()
	}
	mine := &poll{wake: newSignal(), number: e.polls.Add(1)}
	defer func() {
		e.mu.Lock()
		if r.poll == mine {
			r.poll = nil
		}
		r.heard = e.clock.now()
		e.mu.Unlock()
	}()
	timer := time.NewTimer(time.Duration(min(max(0, c.WaitMS), wire.MaxHold)) * time.Millisecond)
	defer timer.Stop()
	by := c.Instance + "/" + c.Nonce
	for waited := false; ; {
		step, attempt := e.greet(r, by, c, mine)
		switch step {
		case "wait":
			if waited || ctx.Err() != nil || e.lifetime.Err() != nil {
				return e.nothingYet(), nil
			}
			select {
			case <-mine.wake:
			case <-timer.C:
				waited = true
			case <-ctx.Done():
			case <-e.lifetime.Done():
			}
			continue
		case "superseded":
			return e.nothingYet(), nil
		case "claim":
			w, err := e.claimLent(ctx, r, attempt, by, c.Detour)
			if err != nil && ctx.Err() != nil {
				return e.nothingYet(), nil // it asks again, and is given the same attempt
			}
			if fault.Of(err) != fault.StaleAttempt && fault.Of(err) != fault.AlreadyClaimed && fault.Of(err) != fault.NotFound {
				return w, err
			}
			// It was canceled in this moment, or the machine was given up: the store knows.
			if err := e.syncRunner(ctx, r.name); err != nil {
				return nil, err
			}
			if e.attemptOfRunner(r) == attempt {
				return nil, err
			}
			continue
		case "ready":
			err = e.readied(ctx, r, attempt, by)
		case "spoiled":
			err = e.drain(ctx, r, "it could not be made ready for another job: "+sentenceIn(c.Spoiled))
		case "other":
			// A second instance, which a provider has made of the name, ends by itself. So does a machine whose agent was
			// started again, because nobody knows what is left on it; then that is seen, as the end of any machine is.
			return nil, fault.Say(fault.AlreadyClaimed, "another agent has this machine; end this one")
		case "strange":
			err = e.drain(ctx, r, "its agent has lost count of its jobs")
		default:
			return nil, unwanted()
		}
		if err != nil && ctx.Err() == nil && fault.Of(err) != fault.Conflict {
			return nil, err
		}
		if err != nil && ctx.Err() == nil {
			if err := e.syncRunner(ctx, r.name); err != nil {
				return nil, err
			}
		}
		if ctx.Err() != nil {
			return e.nothingYet(), nil
		}
	}
}

// nothingYet tells an agent to ask again.
func (e *Engine) nothingYet() *wire.Assignment {
	return &wire.Assignment{Wait: true, OrphanAfterMS: e.orphanAfter().Milliseconds()}
}

// sentenceIn bounds what an agent says.
func sentenceIn(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 500 {
		text = strings.ToValidUTF8(text[:500], "") + "…"
	}
	return text
}

func (e *Engine) attemptOfRunner(r *runner) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return r.row.Attempt
}

// greet says what a call of the agent of a machine of a pool means, by what the machine is.
func (e *Engine) greet(r *runner, by string, c *wire.ClaimRequest, mine *poll) (step, attempt string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r.heard = e.clock.now()
	if e.runners[r.name] != r {
		return "gone", ""
	}
	row := &r.row
	switch {
	case row.State == store.RunnerDraining || row.State == store.RunnerGone:
		return "gone", ""
	case row.By != "" && row.By != by:
		return "other", ""
	}
	switch row.State {
	case store.RunnerWarming:
		if row.Attempt != "" {
			return "claim", row.Attempt
		}
		return "ready", ""
	case store.RunnerReserved:
		return "claim", row.Attempt
	case store.RunnerBusy:
		if c.Done == row.Attempt {
			return "strange", row.Attempt // what it reports of that comes before it asks for more
		}
		return "claim", row.Attempt
	case store.RunnerRecycling:
		switch {
		case c.Spoiled != "":
			return "spoiled", row.Attempt
		case c.Done != row.Attempt:
			return "strange", row.Attempt
		}
		return "ready", row.Attempt
	}
	if r.poll != mine {
		if r.poll != nil && r.poll.number > mine.number {
			return "superseded", ""
		}
		r.wake() // an earlier call, which the agent does not wait for any more
		r.poll = mine
		e.wakeQueue.set()
	}
	return "wait", ""
}

// readied lets a machine wait for an attempt: it has booted, or has been made ready after another.
func (e *Engine) readied(ctx context.Context, r *runner, attempt, by string) error {
	now := e.clock.now()
	e.mu.Lock()
	p, row := e.pools[r.row.Pool], r.row
	e.mu.Unlock()
	if why := retired(p, &row, now); why != "" && attempt != "" {
		return e.drain(ctx, r, why)
	}
	moved, err := e.store.MoveRunner(ctx, &store.RunnerMove{
		Machine: row.Machine, From: []store.RunnerState{store.RunnerWarming, store.RunnerRecycling}, Attempt: attempt, To: store.RunnerIdle,
		Time: now, By: by, MachineID: row.MachineID, Image: row.Image, Location: row.Location,
	})
	if err != nil {
		return err
	}
	e.mu.Lock()
	if p != nil {
		p.deaths, p.until = 0, time.Time{}
	}
	e.mu.Unlock()
	e.noteRunner(moved)
	return nil
}

// claimLent claims the attempt that a machine of a pool was given.
func (e *Engine) claimLent(ctx context.Context, r *runner, attempt, by string, detour bool) (*wire.Assignment, error) {
	now := e.clock.now()
	job, a, err := e.store.Claim(ctx, &store.Claim{Attempt: attempt, By: by, Time: now})
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	if r.row.Attempt == attempt && (r.row.State == store.RunnerReserved || r.row.State == store.RunnerWarming) {
		r.row.State, r.row.By = store.RunnerBusy, by
		r.row.Uses++
		r.row.Version++
	}
	if p := e.pools[r.row.Pool]; p != nil {
		p.deaths, p.until = 0, time.Time{}
	}
	e.mu.Unlock()
	return e.boarded(ctx, job, a, now, detour)
}

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
	e.noteRunner(moved)
	e.logger.Info("a machine of a pool is destroyed", "pool", row.Pool, "machine", row.Machine, "was", row.State, "uses", row.Uses, "why", why)
	if row.State == store.RunnerWarming {
		e.died(row.Pool, why)
	}
	e.doomed.add(row.Provider, row.Machine, moved.MachineID)
	e.wakeQueue.set()
	return nil
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
		end.Runner, end.Gone = afterUse(e.pools[r.row.Pool], &r.row, v, fence != 0, result, end.Time)
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
	was := r.row.State
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
		e.logger.Info("a machine of a pool is destroyed", "pool", row.Pool, "machine", row.Machine, "was", was, "uses", row.Uses, "why", end.Gone)
		if was == store.RunnerWarming && end.State == dayfly.AttemptNeverStarted && end.Reason != dayfly.ReasonDeadline {
			e.died(row.Pool, end.Gone)
		}
	}
}

// sawRunner takes what a provider says of a machine of a pool that no attempt is on.
func (e *Engine) sawRunner(m *machine.Machine) {
	e.mu.Lock()
	r := e.runners[m.Name]
	if r != nil {
		if m.State.Rank() < machine.Exited.Rank() {
			r.row.MachineID, r.row.Image, r.row.Location = m.ID, cmp.Or(m.Image, r.row.Image), cmp.Or(m.Location, r.row.Location)
		}
		if m.State.Rank() > r.sight.Rank() {
			r.sight = m.State
			r.exit = describeExit(m.Exit)
		}
	}
	ended := r != nil && r.sight.Rank() >= machine.Exited.Rank()
	e.mu.Unlock()
	if ended {
		e.wakePools.set()
	}
}

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

func (e *Engine) anyRunner() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.runners) > 0
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
	for _, r := range e.runners {
		s := states[r.row.Pool]
		if s == nil {
			s = &poolState{name: r.row.Pool}
			states[r.row.Pool] = s
		}
		since := e.vigil.elapsed(r.since, now)
		if r.fetching {
			since = 0
		}
		s.runners = append(s.runners, runnerView{
			name: r.name, provider: r.row.Provider, state: r.row.State, spec: r.row.Spec, attempt: r.row.Attempt,
			ended: r.sight.Rank() >= machine.Exited.Rank(), exit: r.exit, polls: r.poll != nil, bringing: r.bringing,
			silence: e.vigil.elapsed(r.heard, now), idle: now.Sub(r.row.IdleAt), age: now.Sub(r.row.CreatedAt), since: since,
		})
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

// warm adds a machine to a pool that no job waits for.
func (e *Engine) warm(ctx context.Context, p *pool) error {
	if e.room()[p.where.provider] <= 0 {
		return nil
	}
	now, id := e.clock.now(), newID("rnr_")
	row := &store.Runner{
		Machine: machineName(e.identity.Install, id), ID: id, Pool: p.name, State: store.RunnerWarming, Version: 1, Spec: p.spec,
		Provider: p.where.provider, Region: p.where.region, Lifetime: p.lifetime(nil),
		Price: e.price(p.where, &dayfly.JobSpec{Size: p.Size}), CreatedAt: now, FreeAt: now,
	}
	if err := e.store.AddRunner(ctx, row, p.Max); err != nil {
		if fault.Of(err) == fault.Exhausted {
			return e.recallRunners(ctx) // there are machines that this server does not know
		}
		return err
	}
	r := e.noteRunner(row)
	e.mu.Lock()
	r.bringing = true
	e.mu.Unlock()
	e.background.Go(func() { e.bringRunner(e.lifetime, r) })
	return nil
}

// runnerSpec returns the machine of a pool to ask for, the same each time.
func (e *Engine) runnerSpec(ctx context.Context, row *store.Runner, image string, size machine.Size) (*machine.Spec, error) {
	home, err := e.url(ctx, row.Provider)
	if err != nil {
		return nil, err
	}
	return &machine.Spec{
		Name: row.Machine, Owner: ownerOf(e.identity.Install),
		Labels:   map[string]string{"pool": row.Pool, "attempt": row.ID, "epoch": formatEpoch(e.identity.Epoch)},
		Lifetime: row.Lifetime, Image: image, Region: row.Region, Size: size,
		Agent: &machine.Agent{URL: home, Attempt: row.ID, Token: e.key.Bootstrap(row.ID)},
	}, nil
}

// bringRunner asks for a machine of a pool until the provider has answered. An ambiguous answer is asked for again, with the
// same bytes, until the boot timeout is over; planPool ends it then.
func (e *Engine) bringRunner(ctx context.Context, r *runner) {
	e.mu.Lock()
	row, p := r.row, e.pools[r.row.Pool]
	r.since, r.fetching = e.clock.now(), true
	e.mu.Unlock()
	var err error
	if p == nil {
		err = fault.Say(fault.Invalid, "the pool is not configured any more")
	} else {
		err = e.askRunner(ctx, r, &row, p)
	}
	e.mu.Lock()
	r.fetching = false
	e.mu.Unlock()
	if err == nil || ctx.Err() != nil {
		return
	}
	if err := e.drain(ctx, r, "the provider refused it: "+sentenceOf(err)); err != nil && fault.Of(err) != fault.Conflict {
		e.logger.Warn("a machine of a pool that was refused could not be given up; it is at the boot timeout", "machine", row.Machine, "error", err)
	}
}

// askRunner returns nil when the machine exists, or when it is not wanted any more, and why it was refused.
func (e *Engine) askRunner(ctx context.Context, r *runner, row *store.Runner, p *pool) error {
	size, err := sizeOf(&dayfly.JobSpec{Size: p.Size})
	if err != nil {
		return err
	}
	pull, stop := context.WithTimeoutCause(ctx, defaultPull, errPullSlow)
	defer stop()
	_, prepares := e.providers[row.Provider].(machine.Preparer)
	for delay := time.Second; ; delay = min(2*delay, 30*time.Second) {
		spec, err := e.runnerSpec(ctx, row, p.Image, size)
		if err == nil && prepares {
			err = e.callPrepare(pull, row.Provider, spec, func(machine.Preparation) {})
		}
		var m *machine.Machine
		if err == nil {
			prepares = false
			e.mu.Lock()
			if r.fetching {
				r.since, r.fetching = e.clock.now(), false // the boot timeout begins
			}
			waits := r.row.State == store.RunnerWarming && e.runners[row.Machine] == r
			e.mu.Unlock()
			if !waits {
				return nil
			}
			create, cancel := context.WithTimeoutCause(ctx, time.Minute, errProviderSlow)
			m, err = e.callCreate(create, row.Provider, spec)
			cancel()
		}
		switch fault.Of(err) {
		case "":
			e.sawRunner(m)
			return nil
		case fault.Invalid, fault.Unsupported, fault.Exhausted, fault.Denied, fault.Unauthenticated, fault.Conflict, fault.NotFound:
			return err
		}
		if pull.Err() != nil {
			return err
		}
		e.logger.Warn("the answer to a create is ambiguous; asking again", "pool", row.Pool, "machine", row.Machine, "provider", row.Provider, "error", err)
		pause(ctx, delay)
	}
}
