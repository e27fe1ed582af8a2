package engine

import (
	"context"
	"errors"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// watchLoop follows the machines of one provider, so that the end of a machine is known when it happens.
func (e *Engine) watchLoop(ctx context.Context, name string, p machine.Provider) {
	for ctx.Err() == nil {
		for m, err := range machine.Watch(ctx, p, ownerOf(e.identity.Install), 10*time.Second) {
			if err != nil {
				if ctx.Err() == nil {
					e.logger.Warn("a provider's machines cannot be watched for now", "provider", name, "error", err)
				}
				continue
			}
			e.saw(m)
		}
		pause(ctx, time.Second)
	}
}

// saw takes what a provider says of one machine.
func (e *Engine) saw(m *machine.Machine) {
	e.mu.Lock()
	r := e.runners[m.Name]
	flights := e.flightsOn(r)
	if f := e.byMachine[m.Name]; f != nil && r == nil {
		flights = append(flights, f)
	}
	e.mu.Unlock()
	if r != nil {
		e.sawRunner(m)
	}
	for _, f := range flights {
		e.sawFlight(f, m)
	}
	if len(flights) == 0 && r == nil {
		e.sawKept(m)
	}
}

// sawFlight takes what a provider says of the machine of a flight.
func (e *Engine) sawFlight(f *flight, m *machine.Machine) {
	e.mu.Lock()
	news := f.see(m)
	ended := f.sight.Rank() >= machine.Exited.Rank()
	// What it runs came with the answer to the create, and that may have been lost with the server that waited for it.
	untold := f.state == dayfly.AttemptRunning && f.image == "" && m.Image != ""
	if untold {
		f.image = m.Image
	}
	e.mu.Unlock()
	if untold {
		e.notes.add(e.lifetime, &store.Note{Attempt: f.id, Time: e.clock.now(), Booted: m})
	}
	if news && (ended || f.bare) {
		e.consider(f)
	}
}

// tickLoop looks at every attempt once a second. It is for what only time brings about: silence and timeouts. All
// else is acted upon when it happens.
func (e *Engine) tickLoop(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		w := world{now: e.clock.now(), timers: e.timers}
		e.mu.Lock()
		for _, f := range e.flights {
			w.attempts = append(w.attempts, e.view(f, w.now))
		}
		e.mu.Unlock()
		for _, a := range plan(&w) {
			e.carryOut(a)
		}
	}
}

// touchLoop stores the clock every ten seconds. No timer waits for it, however slow the store is.
func (e *Engine) touchLoop(ctx context.Context) {
	for ctx.Err() == nil {
		if err := e.store.Touch(ctx, e.clock.reading()); err != nil && ctx.Err() == nil {
			e.logger.Warn("the clock could not be stored", "error", err)
		}
		pause(ctx, 10*time.Second)
	}
}

// consider decides about one attempt now.
func (e *Engine) consider(f *flight) {
	w := world{now: e.clock.now(), timers: e.timers}
	e.mu.Lock()
	if e.flights[f.id] != f {
		e.mu.Unlock()
		return
	}
	w.attempts = []attemptView{e.view(f, w.now)}
	e.mu.Unlock()
	for _, a := range plan(&w) {
		e.carryOut(a)
	}
}

// view gathers what is known of an attempt. The caller holds mu.
func (e *Engine) view(f *flight, now time.Time) attemptView {
	job := f.job
	e.vigil.look(now)
	v := attemptView{
		id: f.id, machine: f.machine, provider: f.provider, state: f.state, fence: f.fence,
		cancel:  !job.CancelRequestedAt.IsZero(),
		overdue: !job.TotalDeadline.IsZero() && !now.Before(job.TotalDeadline),
		age:     e.age(f, now), boot: time.Duration(job.Spec.Timeouts.Boot),
		silence: e.vigil.elapsed(f.heard, now),
		limit:   time.Duration(job.Spec.Timeouts.Run), grace: time.Duration(job.Spec.Timeouts.Grace),
		capped: cutShort(&job.Spec, f.meter),
		sight:  f.sight, exit: f.exit, absent: f.absent, asking: f.asking || now.Sub(f.askedAt) < lookInterval(f.looks),
		pending: f.pending, refused: f.refused, order: f.order, killed: f.killed, killedFor: f.killedFor, gone: f.gone, sends: f.sends,
	}
	if !f.commandAt.IsZero() {
		v.running = e.vigil.elapsed(f.commandAt, now)
	}
	if f.order != "" {
		v.ordered = e.vigil.elapsed(f.orderedAt, now)
	}
	v.bare, v.sending, v.deaf = f.bare, f.sending > 0, f.deaf
	if f.bare && v.capped && !f.commandAt.IsZero() { // it has no agent that would stop the command in time
		if paid, _ := paidRun(&job.Spec, f.meter, f.commandAt); paid < v.limit {
			v.limit, v.limitIsCost = paid, true
		}
	}
	if f.bare {
		_, told := e.providers[f.provider].(machine.Watcher)
		v.polls = !told
		if f.state == dayfly.AttemptRunning {
			v.asking = f.asking || now.Sub(f.askedAt) < barePoll
		}
	}
	if f.untold {
		v.untold, v.boot = true, offerTTL
	}
	v.doubt = !f.confirmed
	v.lookDue = f.state == dayfly.AttemptCreateUnknown
	v.resendOK = v.absent >= e.timers.absentFor && f.preparing == nil // else it is asked for when that is done
	return v
}

// barePoll is how often a provider that does not tell by itself is asked whether a bare machine still runs.
const barePoll = 5 * time.Second

// age is for how long a flight's machine has been asked for. What is fetched before does not count. The caller holds mu.
func (e *Engine) age(f *flight, now time.Time) time.Duration {
	if f.preparing != nil {
		return 0
	}
	return e.vigil.elapsed(f.since, now)
}

// lookInterval is how long to wait before asking a provider about the same machine again: soon at first, as a lost
// answer is usually found at once, then ever less often.
func lookInterval(looks int) time.Duration {
	return min(time.Second<<min(looks, 5), 30*time.Second)
}

// carryOut does what plan decided about an attempt.
func (e *Engine) carryOut(a action) {
	f := e.flightOf(a.attempt)
	if f == nil {
		return
	}
	switch a.kind {
	case endAttempt:
		if r := a.verdict.refusal; r != nil { // it was refused a while ago, and waited for certainty
			e.refused(f, r.Message, r.Kind == fault.Denied)
		}
		e.background.Go(func() { e.finish(f, a.verdict) })
	case orderStop:
		e.order(f, a.order)
		if f.bare {
			e.background.Go(func() { e.terminate(e.lifetime, f) })
		}
	case claimMachine:
		e.background.Go(func() { e.claimFor(e.lifetime, f) })
	case askProvider:
		e.mu.Lock()
		asked := f.asking
		f.asking = true
		e.mu.Unlock()
		if !asked {
			e.background.Go(func() { e.ask(e.lifetime, f) })
		}
	case resend:
		e.mu.Lock()
		f.absentAt, f.absent, f.askedAt = time.Time{}, 0, e.clock.now()
		e.mu.Unlock()
		e.logger.Info("asking for a machine again, unchanged", "attempt", f.id, "machine", f.machine, "provider", f.provider)
		e.background.Go(func() { e.create(e.lifetime, f) })
	case killMachine:
		e.background.Go(func() { e.kill(e.lifetime, f, a.why) })
	}
}

// order tells an attempt's agent to end its command. It hears of it at once, through the heartbeat it has open.
func (e *Engine) order(f *flight, reason wire.Outcome) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if f.order != "" {
		return
	}
	f.order, f.orderedAt = reason, e.clock.now()
	f.wakeListeners()
}

// ask finds out from the provider whether a machine exists. When one instance of a machine is known to have ended, it
// takes a whole list to know that there is no other. A list without any instance does not do: it contradicts what was
// seen, and lists have been empty by mistake. Then absence has to be found twice, as for every machine.
func (e *Engine) ask(ctx context.Context, f *flight) {
	e.mu.Lock()
	id, host := f.providerID, e.hostOf(f)
	doubt := f.state == dayfly.AttemptRunning && f.sight.Rank() >= machine.Exited.Rank()
	e.mu.Unlock()
	if doubt {
		id = ""
	}
	found, err := e.look(ctx, f.provider, host, id)
	now := e.clock.now()
	e.mu.Lock()
	f.asking, f.askedAt = false, now
	f.looks++
	state := f.state
	if errors.Is(err, fault.NotFound) {
		if f.absentAt.IsZero() {
			f.absentAt = now
		}
		f.absent = now.Sub(f.absentAt)
	}
	for _, m := range found {
		if f.instances[m.ID] == machine.Gone && m.State != machine.Gone {
			// Gone may only have meant that a list did not show it, and lists have been wrong. This one was asked for
			// afterwards.
			delete(f.instances, m.ID)
		}
		f.see(m)
		if f.bare {
			f.heard = now
		}
	}
	// What was confirmed once does not hold for ever: a list may show an instance that was not known.
	f.confirmed = (f.confirmed || doubt && err == nil) && f.sight.Rank() >= machine.Exited.Rank()
	// Whoever made it may have been cut off before it started it. The same create finishes such a one, and does nothing to one
	// that comes up by itself.
	half := err == nil && state == dayfly.AttemptCreateUnknown && found[0].State == machine.Creating &&
		f.sends < maxSends && f.refused == nil && f.preparing == nil
	e.mu.Unlock()
	switch {
	case half:
		e.logger.Info("asking for a machine again that does not run yet", "attempt", f.id, "machine", f.machine, "provider", f.provider)
		e.create(ctx, f)
	case err == nil && (state == dayfly.AttemptCreateUnknown || state == dayfly.AttemptCreating):
		e.created(f, found[0])
	case err == nil || errors.Is(err, fault.NotFound):
		e.consider(f)
	case ctx.Err() == nil:
		e.logger.Warn("a provider cannot say how a machine is", "machine", f.machine, "provider", f.provider, "error", err)
	}
}

// kill destroys the machine of an attempt that can be ended in no other way. The ledger says so first.
func (e *Engine) kill(ctx context.Context, f *flight, why string) {
	e.mu.Lock()
	again := f.killed
	f.killed = true
	id, host := f.providerID, e.hostOf(f)
	e.mu.Unlock()
	if again {
		return
	}
	e.mu.Lock()
	for _, slot := range e.slotsOf(e.runners[f.runner]) { // those beside it end with the machine
		if slot.row.State != store.RunnerDraining {
			slot.row.State, slot.row.Message = store.RunnerDraining, why
		}
		slot.wake()
	}
	e.mu.Unlock()
	e.logger.Warn("destroying a machine whose attempt is in flight", "job", f.jobID, "attempt", f.number, "machine", f.machine, "why", why)
	err := e.store.MoveMachine(ctx, []*store.MachineMove{{
		Name: host, From: []store.MachineState{store.MachineCreating, store.MachinePresent},
		To: store.MachineDeleting, Time: e.clock.now(), Message: why,
	}})
	if err != nil {
		e.logger.Error("the ledger of machines could not be written; trying again", "machine", f.machine, "error", err)
		e.mu.Lock()
		f.killed = false
		e.mu.Unlock()
		return
	}
	now := e.clock.now()
	e.mu.Lock()
	for _, beside := range e.flightsOn(e.runners[f.runner]) {
		if !beside.killed && e.vigil.elapsed(beside.heard, now) <= e.timers.lostAfter { // else it is silent, too
			beside.killedFor = why
		}
		beside.killed = true
	}
	e.mu.Unlock()
	e.doomed.add(f.provider, host, id)
}
