package storetest

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
)

func runnersCases() []testCase {
	return []testCase{
		{"AMachineOfAPoolHasOneAttemptAfterTheOther", runnerLife},
		{"ALaunchOnAMachineThatWaitsIsItsAgentsClaim", runnerClaims},
		{"AnAttemptThatItsAgentHasNotHeardOfLeavesTheMachineToOthers", runnerGivenBack},
		{"AMachineOfAPoolIsGivenAwayOnce", runnerGivenOnce},
		{"AMachineOfAPoolIsMadeForAnAttempt", runnerMadeFor},
		{"AMachineOfAPoolHasOneTenant", runnerTenant},
		{"AMachineOfAPoolHasOneAgent", runnerAgent},
		{"APoolHasNoMoreMachinesThanItMay", runnerMost},
		{"OnlyAnIdleMachineIsScaledDown", runnerScaledDown},
		{"AMachineThatIsDestroyedUnderItsAttemptStaysSo", runnerDestroyed},
		{"AMachineOfAPoolIsInTheLedgerOnce", runnerListed},
		{"WhatAMachineOfAPoolCostsIsDividedBetweenJobsAndPool", runnerCosts},
		{"TheSlotsOfAMachineAreOneMachine", runnerSlots},
		{"TheSlotsOfAMachineHaveOneTenant", runnerSlotsTenant},
		{"AMachineIsDestroyedWithAllItsSlots", runnerSlotsDestroyed},
	}
}

// runnerOf returns a machine of a pool to be made.
func (k *kit) runnerOf(pool string) *store.Runner {
	name := k.id("dayfly-pool")
	return &store.Runner{
		Machine: name, ID: "rnr_" + name, Pool: pool, Spec: "debian", Provider: "local", Lifetime: 4 * time.Hour, CreatedAt: k.now(),
	}
}

// idle returns a machine of a pool that waits for an attempt.
func (k *kit) idle(pool string, change ...func(*store.Runner)) *store.Runner {
	k.Helper()
	r := k.runnerOf(pool)
	for _, c := range change {
		c(r)
	}
	k.must(k.store.AddRunner(k.ctx, r, 100))
	moved, err := k.store.MoveRunner(k.ctx, &store.RunnerMove{
		Machine: r.Machine, From: []store.RunnerState{store.RunnerWarming}, To: store.RunnerIdle, Time: k.now(), By: "agent/1", MachineID: "i-" + r.Machine,
	})
	k.must(err)
	return moved
}

// on returns the intent to run an attempt of a job on a machine of a pool.
func (k *kit) on(job *store.Job, r *store.Runner, tenant string) *store.Launch {
	l := k.wish(job)
	l.Machine, l.Provider, l.Lend = r.Machine, r.Provider, &store.Lending{Tenant: tenant, By: "agent/1"}
	return l
}

func (k *kit) lend(job *store.Job, r *store.Runner, tenant string) *store.Attempt {
	k.Helper()
	l := k.on(job, r, tenant)
	refusals, err := k.store.Launch(k.ctx, []*store.Launch{l})
	k.must(err)
	k.must(refusals[0])
	return k.attempt(l.AttemptID)
}

func (k *kit) runner(name string) *store.Runner {
	k.Helper()
	r, err := k.store.Runner(k.ctx, name)
	k.must(err)
	return r
}

func (k *kit) wantRunner(what string, name string, state store.RunnerState, attempt string) {
	k.Helper()
	r := k.runner(name)
	k.wantEqual(what+": its state", r.State, state)
	k.wantEqual(what+": its attempt", r.Attempt, attempt)
}

func runnerLife(k *kit) {
	r := k.idle("warm")
	k.wantEqual("the provider's name", r.MachineID, "i-"+r.Machine)
	for use := 1; use <= 3; use++ {
		a := k.lend(k.submit(), r, "t")
		k.wantEqual("the state of an attempt on it", a.State, dayfly.AttemptRunning)
		k.wantEqual("its machine", a.Machine.Name, r.Machine)
		k.wantEqual("the provider's name of that", a.Machine.ID, r.MachineID)
		k.wantEqual("the state of that", a.Machine.State, store.MachineLent)
		k.wantEqual("its runner", a.Runner, r.Machine)
		k.wantRunner("after the launch", r.Machine, store.RunnerBusy, a.ID)
		k.wantEqual("its uses", k.runner(r.Machine).Uses, use)
		e := k.success(a)
		e.Runner = store.RunnerRecycling
		k.end(e)
		k.wantRunner("after the end", r.Machine, store.RunnerRecycling, a.ID)
		ended := k.attempt(a.ID)
		k.wantEqual("the machine of an attempt that has ended", ended.Machine.State, store.MachineGone)
		k.wantEqual("its name", ended.Machine.Name, r.Machine)
		k.must(k.store.Delete(k.ctx, ended.JobID))
		_, err := k.store.MoveRunner(k.ctx, &store.RunnerMove{
			Machine: r.Machine, From: []store.RunnerState{store.RunnerRecycling}, Attempt: a.ID, To: store.RunnerIdle, Time: k.now(),
		})
		k.must(err)
		k.wantRunner("when it is clean", r.Machine, store.RunnerIdle, "")
		k.reopen()
	}
	k.wantEqual("its tenant", k.runner(r.ID).Tenant, "t")
}

func runnerClaims(k *kit) {
	r := k.idle("warm")
	waits := k.submit()
	launched := k.lend(waits, r, "").Job
	e := k.success(k.attempt(launched.Attempt))
	e.Runner = store.RunnerIdle
	k.end(e)
	s := k.submission(func(s *store.Submission) { s.Inputs = []store.Input{{Name: "in"}} })
	s.Launch = k.on(s.Job, r, "")
	submitted, _, err := k.store.Submit(k.ctx, s)
	k.must(err)
	given := submitted.AttemptLog[0]
	k.wantEqual("what Submit says of its fence", given.Fence, submitted.Fence)
	k.wantEqual("what Submit says of who has claimed it", given.ClaimedBy, "agent/1")
	for what, j := range map[string]*store.Job{"a job that waited": launched, "a job that was submitted with its launch": submitted} {
		k.wantEqual(what+": its state", j.State, dayfly.Running)
		k.wantEqual(what+": its fence", j.Fence, int64(1))
		k.wantEqual(what+": its version", j.Version, int64(3))
		events, err := k.store.Events(k.ctx, j.ID, 0, 3)
		k.must(err)
		k.wantEqual(what+": its events", len(events), 3)
		k.wantEqual(what+": its second event", events[1].State, dayfly.Starting)
		k.wantEqual(what+": its third event", events[2].State, dayfly.Running)
	}
	a := k.attempt(given.ID)
	k.wantEqual("when it was claimed", a.ClaimedAt, a.CreatedAt)
	k.wantEqual("when it was booted", a.BootedAt, a.CreatedAt)
	for range 2 {
		job, again, err := k.store.Claim(k.ctx, &store.Claim{Attempt: a.ID, By: "agent/1", Time: k.now()})
		k.must(err)
		k.wantEqual("the fence that the agent is told", again.Fence, a.Fence)
		k.wantEqual("when it was claimed, as the agent is told", again.ClaimedAt, a.ClaimedAt)
		k.wantEqual("the inputs that the agent is told of", len(job.Inputs), 1)
		k.wantEqual("the job's version, as the agent is told", job.Version, submitted.Version)
	}
	_, _, err = k.store.Claim(k.ctx, &store.Claim{Attempt: a.ID, By: "agent/2", Time: k.now()})
	k.wantKind("a claim by an agent that was started again", err, fault.AlreadyClaimed)
	nobody := k.on(k.submit(), r, "")
	nobody.Lend.By = ""
	_, err = k.store.Launch(k.ctx, []*store.Launch{nobody})
	k.wantKind("a launch for nobody", err, fault.Invalid)
}

func runnerGivenBack(k *kit) {
	r := k.idle("warm")
	a := k.lend(k.submit(), r, "")
	e := k.success(a)
	e.State, e.Started, e.Runner = dayfly.AttemptNeverStarted, false, store.RunnerIdle
	e.Job = store.Next{State: dayfly.Queued}
	e.Fence = 0
	_, err := k.store.End(k.ctx, e)
	k.wantKind("an end without its fence", err, fault.StaleAttempt)
	e.Fence = a.Fence
	job := k.end(e)
	k.wantRunner("when its attempt is taken back", r.Machine, store.RunnerIdle, "")
	_, _, err = k.store.Claim(k.ctx, &store.Claim{Attempt: a.ID, By: "agent/1", Time: k.now()})
	k.wantKind("its agent, which asks for it then", err, fault.StaleAttempt)
	next := k.lend(job, r, "")
	k.wantEqual("the fence of the next attempt", next.Fence, a.Fence+1)
	k.wantEqual("its number", next.Number, 2)
}

func runnerGivenOnce(k *kit) {
	r := k.idle("warm")
	var won atomic.Int32
	var all sync.WaitGroup
	var launches []*store.Launch
	for range 8 {
		launches = append(launches, k.on(k.submit(), r, ""))
	}
	for _, l := range launches {
		all.Go(func() {
			refusals, err := k.store.Launch(k.ctx, []*store.Launch{l})
			switch {
			case err != nil:
				k.Error(err)
			case refusals[0] == nil:
				won.Add(1)
			case !errors.Is(refusals[0], store.ErrTaken) || !errors.Is(refusals[0], fault.Conflict):
				k.Errorf("a launch on a machine that is taken: got %v, want ErrTaken", refusals[0])
			}
		})
	}
	all.Wait()
	k.wantEqual("how many have got it", won.Load(), int32(1))
	s := k.submission()
	s.Launch = k.on(s.Job, r, "")
	job, _, err := k.store.Submit(k.ctx, s)
	k.must(err)
	k.wantEqual("the state of a job that was submitted to run on it", job.State, dayfly.Queued)
	_, err = k.store.MoveRunner(k.ctx, &store.RunnerMove{
		Machine: r.Machine, From: []store.RunnerState{store.RunnerIdle}, To: store.RunnerDraining, Time: k.now(),
	})
	k.wantKind("draining what is busy", err, fault.Conflict)
}

func runnerMadeFor(k *kit) {
	job := k.submit()
	l := k.wish(job)
	r := k.runnerOf("warm")
	l.Machine, l.Lend = r.Machine, &store.Lending{Tenant: "t", New: r, Most: 1}
	refusals, err := k.store.Launch(k.ctx, []*store.Launch{l})
	k.must(err)
	k.must(refusals[0])
	a := k.attempt(l.AttemptID)
	k.wantEqual("the state of the attempt", a.State, dayfly.AttemptCreating)
	k.wantRunner("after the launch", r.Machine, store.RunnerWarming, a.ID)
	k.wantEqual("its tenant", k.runner(r.Machine).Tenant, "t")
	a = k.claim(a.ID, "agent/1")
	k.wantRunner("after the claim", r.Machine, store.RunnerBusy, a.ID)

	full := k.wish(k.submit())
	other := k.runnerOf("warm")
	full.Machine, full.Lend = other.Machine, &store.Lending{New: other, Most: 1}
	refusals, err = k.store.Launch(k.ctx, []*store.Launch{full})
	k.must(err)
	k.wantKind("a machine too many", refusals[0], fault.Conflict)
	k.wantEqual("that it is said to be taken", errors.Is(refusals[0], store.ErrTaken), true)

	e := k.failure(a, dayfly.Failed)
	e.Runner, e.Gone = store.RunnerDraining, "it ran out of memory"
	k.end(e)
	k.wantRunner("after an end that drains it", r.Machine, store.RunnerDraining, a.ID)
	k.wantEqual("why", k.runner(r.Machine).Message, "it ran out of memory")
}

func runnerTenant(k *kit) {
	r := k.idle("warm")
	a := k.lend(k.submit(), r, "blue")
	e := k.success(a)
	e.Runner = store.RunnerIdle
	k.end(e)
	l := k.on(k.submit(), r, "red")
	refusals, err := k.store.Launch(k.ctx, []*store.Launch{l})
	k.must(err)
	k.wantEqual("that another tenant does not get it", errors.Is(refusals[0], store.ErrTaken), true)
	k.lend(k.submit(), r, "blue")
}

func runnerAgent(k *kit) {
	r := k.idle("warm")
	l := k.on(k.submit(), r, "")
	l.Lend.By = "agent/2"
	refusals, err := k.store.Launch(k.ctx, []*store.Launch{l})
	k.must(err)
	k.wantEqual("that an agent that was started again gets nothing", errors.Is(refusals[0], store.ErrTaken), true)
	k.lend(k.submit(), r, "")

	made := k.wish(k.submit())
	fresh := k.runnerOf("warm")
	made.Machine, made.Lend = fresh.Machine, &store.Lending{New: fresh, Most: 9}
	_, err = k.store.Launch(k.ctx, []*store.Launch{made})
	k.must(err)
	k.claim(made.AttemptID, "agent/1")
	_, _, err = k.store.Claim(k.ctx, &store.Claim{Attempt: made.AttemptID, By: "agent/2", Time: k.now()})
	k.wantKind("a second agent on a machine that was made for the attempt", err, fault.AlreadyClaimed)
}

func runnerMost(k *kit) {
	k.idle("warm")
	k.wantKind("a second machine", k.store.AddRunner(k.ctx, k.runnerOf("warm"), 1), fault.Exhausted)
	k.must(k.store.AddRunner(k.ctx, k.runnerOf("other"), 1))
	again := k.runnerOf("warm")
	k.must(k.store.AddRunner(k.ctx, again, 2))
	k.wantKind("the same machine again", k.store.AddRunner(k.ctx, again, 9), fault.Conflict)
}

func runnerScaledDown(k *kit) {
	r := k.idle("warm")
	a := k.lend(k.submit(), r, "")
	drain := &store.RunnerMove{Machine: r.Machine, From: []store.RunnerState{store.RunnerIdle}, To: store.RunnerDraining, Time: k.now(), Message: "idle"}
	_, err := k.store.MoveRunner(k.ctx, drain)
	k.wantKind("draining what is busy", err, fault.Conflict)
	e := k.success(a)
	e.Runner = store.RunnerIdle
	k.end(e)
	_, err = k.store.MoveRunner(k.ctx, drain)
	k.must(err)
	l := k.on(k.submit(), r, "")
	refusals, err := k.store.Launch(k.ctx, []*store.Launch{l})
	k.must(err)
	k.wantEqual("that nobody gets it then", errors.Is(refusals[0], store.ErrTaken), true)
	_, err = k.store.MoveRunner(k.ctx, &store.RunnerMove{Machine: "none", From: drain.From, To: drain.To, Time: k.now()})
	k.wantKind("a machine that is not there", err, fault.NotFound)
}

func runnerDestroyed(k *kit) {
	r := k.idle("warm")
	a := k.lend(k.submit(), r, "")
	k.must(k.store.MoveMachine(k.ctx, []*store.MachineMove{{
		Name: r.Machine, From: []store.MachineState{store.MachineCreating, store.MachinePresent}, To: store.MachineDeleting, Time: k.now(), Message: "silent",
	}}))
	k.wantRunner("while its attempt lives", r.Machine, store.RunnerDraining, a.ID)
	e := k.success(a)
	e.Runner = store.RunnerRecycling
	k.end(e)
	k.wantRunner("when that has ended", r.Machine, store.RunnerDraining, a.ID)
	k.must(k.store.MoveMachine(k.ctx, []*store.MachineMove{{
		Name: r.Machine, From: []store.MachineState{store.MachineDeleting}, To: store.MachineGone, Time: k.now(),
	}}))
	k.wantRunner("when that is confirmed", r.Machine, store.RunnerGone, a.ID)
	present, err := k.store.Runners(k.ctx)
	k.must(err)
	k.wantEqual("what is left", len(present), 0)
}

func runnerListed(k *kit) {
	r := k.idle("warm")
	for range 2 {
		e := k.success(k.lend(k.submit(), r, ""))
		e.Runner = store.RunnerIdle
		k.end(e)
	}
	a := k.lend(k.submit(), r, "")
	for _, q := range []*store.MachineQuery{
		{Limit: 10}, {Limit: 10, Names: []string{r.Machine}}, {Limit: 10, States: []store.MachineState{store.MachinePresent}}, {Limit: 10, Provider: "local"},
	} {
		listed, err := k.store.Machines(k.ctx, q)
		k.must(err)
		k.wantEqual("how many machines there are", len(listed), 1)
		m := listed[0]
		k.wantEqual("its name", m.Name, r.Machine)
		k.wantEqual("its state", m.State, store.MachinePresent)
		k.wantEqual("its attempt", m.Attempt, a.ID)
		k.wantEqual("its pool", m.Slots[0].Pool, "warm")
	}
	for _, q := range []*store.MachineQuery{
		{Limit: 10, States: []store.MachineState{store.MachineGone}}, {Limit: 10, Provider: "fly"}, {Limit: 10, Before: r.Machine},
	} {
		listed, err := k.store.Machines(k.ctx, q)
		k.must(err)
		k.wantEqual("machines that do not match", len(listed), 0)
	}
}

func runnerCosts(k *kit) {
	at := epoch()
	r := k.runnerOf("warm")
	r.Price, r.CreatedAt = dear(), at
	k.must(k.store.AddRunner(k.ctx, r, 9))
	_, err := k.store.MoveRunner(k.ctx, &store.RunnerMove{
		Machine: r.Machine, From: []store.RunnerState{store.RunnerWarming}, To: store.RunnerIdle, Time: at.Add(10 * time.Second), By: "agent/1",
	})
	k.must(err)
	l := k.on(k.submit(inLane("local", "day")), r, "")
	l.Price, l.Time = dear(), at.Add(100*time.Second)
	refusals, err := k.store.Launch(k.ctx, []*store.Launch{l})
	k.must(err)
	k.must(refusals[0])
	k.wantCosts("when a job has it", store.Cost{Day: "2026-05-04", Queue: "pool:warm", Provider: "local", Amount: 100})
	k.wantUnsettled("what runs up then", k.attempt(l.AttemptID))
	e := k.success(k.attempt(l.AttemptID))
	e.Time, e.Runner = at.Add(130*time.Second), store.RunnerIdle
	k.end(e)
	want := []store.Cost{
		{Day: "2026-05-04", Queue: "day", Provider: "local", Amount: 30, Attempts: 1},
		{Day: "2026-05-04", Queue: "pool:warm", Provider: "local", Amount: 100},
	}
	k.wantCosts("when the job is over", want...)
	charges, err := k.store.Unsettled(k.ctx)
	k.must(err)
	k.wantEqual("how many run up costs then", len(charges), 1)
	k.wantEqual("who pays", charges[0].Queue, "pool:warm")
	k.wantEqual("since when", charges[0].From, at.Add(130*time.Second))
	for _, to := range []store.MachineState{store.MachineDeleting, store.MachineGone} {
		k.must(k.store.MoveMachine(k.ctx, []*store.MachineMove{{
			Name: r.Machine, From: []store.MachineState{store.MachinePresent, store.MachineDeleting}, To: to, Time: at.Add(150 * time.Second),
		}}))
	}
	want[1].Amount = 120
	k.wantCosts("when it is gone", want...)
}

func runnerSlots(k *kit) {
	r := k.runnerOf("warm")
	r.Slots, r.Price = 3, dear()
	k.must(k.store.AddRunner(k.ctx, r, 1))
	k.wantKind("another machine", k.store.AddRunner(k.ctx, k.runnerOf("warm"), 1), fault.Exhausted)
	all, err := k.store.Runners(k.ctx)
	k.must(err)
	k.wantEqual("how many slots there are", len(all), 3)
	var attempts []*store.Attempt
	for i := range 3 {
		slot := k.runner(wire.Slot(r.ID, i+1))
		k.wantEqual("a slot's name", slot.Machine, wire.Slot(r.Machine, i+1))
		k.wantEqual("its machine", slot.Host, r.Machine)
		k.wantEqual("how many that has", slot.Slots, 3)
		moved, err := k.store.MoveRunner(k.ctx, &store.RunnerMove{
			Machine: slot.Machine, From: []store.RunnerState{store.RunnerWarming}, To: store.RunnerIdle, Time: k.now(), By: "agent/1", MachineID: "i-1",
		})
		k.must(err)
		a := k.lend(k.submit(), moved, "t")
		k.wantEqual("the machine of an attempt on it", a.Machine.Name, slot.Machine)
		attempts = append(attempts, a)
	}
	e := k.success(attempts[1])
	e.Runner, e.Gone = store.RunnerDraining, "it is dirty"
	k.end(e)
	k.wantRunner("a slot whose attempt has ended so", wire.Slot(r.Machine, 2), store.RunnerDraining, attempts[1].ID)
	k.wantRunner("the slot beside it", wire.Slot(r.Machine, 3), store.RunnerBusy, attempts[2].ID)
	listed := k.slotsListed(r, store.MachinePresent)
	k.wantEqual("whose it is", listed.JobID, "")
	k.wantEqual("why a slot of it is given up", listed.Message, "it is dirty")
	for i, a := range []*store.Attempt{attempts[0], attempts[2]} {
		e := k.success(a)
		e.Runner = store.RunnerDraining
		k.end(e)
		k.slotsListed(r, []store.MachineState{store.MachinePresent, store.MachineDeleting}[i])
	}
	k.must(k.store.AddRunner(k.ctx, k.runnerOf("warm"), 1))
}

// slotsListed checks that a machine is in the ledger once, in the state, and returns it.
func (k *kit) slotsListed(r *store.Runner, state store.MachineState) *store.Machine {
	k.Helper()
	var found *store.Machine
	for _, s := range []store.MachineState{store.MachineCreating, store.MachinePresent, store.MachineDeleting, store.MachineGone} {
		listed, err := k.store.Machines(k.ctx, &store.MachineQuery{Limit: 10, States: []store.MachineState{s}, Names: []string{r.Machine}})
		k.must(err)
		if s != state {
			k.wantEqual("how many are "+string(s), len(listed), 0)
			continue
		}
		k.wantEqual("how many are "+string(s), len(listed), 1)
		found = listed[0]
	}
	k.wantEqual("its slots", len(found.Slots), r.Slots)
	return found
}

func runnerSlotsTenant(k *kit) {
	r := k.idle("warm", func(r *store.Runner) { r.Slots = 2 })
	other, err := k.store.MoveRunner(k.ctx, &store.RunnerMove{
		Machine: wire.Slot(r.Machine, 2), From: []store.RunnerState{store.RunnerWarming}, To: store.RunnerIdle, Time: k.now(), By: "agent/1",
	})
	k.must(err)
	blue, red := k.on(k.submit(), r, "blue"), k.on(k.submit(), other, "red")
	refusals, err := k.store.Launch(k.ctx, []*store.Launch{blue, red})
	k.must(err)
	k.must(refusals[0])
	k.wantEqual("that another tenant does not get the slot beside it", errors.Is(refusals[1], store.ErrTaken), true)
	k.lend(k.submit(), other, "blue")

	made := k.runnerOf("warm")
	made.Slots = 2
	l := k.wish(k.submit())
	l.Machine, l.Lend = made.Machine, &store.Lending{Tenant: "blue", New: made, Most: 9}
	refusals, err = k.store.Launch(k.ctx, []*store.Launch{l})
	k.must(err)
	k.must(refusals[0])
	k.wantRunner("the slot of the attempt that it is made for", made.Machine, store.RunnerWarming, l.AttemptID)
	k.wantRunner("the slot beside it", wire.Slot(made.Machine, 2), store.RunnerWarming, "")
	k.wantEqual("whose that is", k.runner(wire.Slot(made.Machine, 2)).Tenant, "blue")
}

func runnerSlotsDestroyed(k *kit) {
	at := epoch()
	r := k.runnerOf("warm")
	r.Slots, r.Price, r.CreatedAt = 2, dear(), at
	k.must(k.store.AddRunner(k.ctx, r, 9))
	first, err := k.store.MoveRunner(k.ctx, &store.RunnerMove{
		Machine: r.Machine, From: []store.RunnerState{store.RunnerWarming}, To: store.RunnerIdle, Time: at, By: "agent/1",
	})
	k.must(err)
	l := k.on(k.submit(inLane("local", "day")), first, "")
	l.Price, l.Time = dear(), at.Add(100*time.Second)
	refusals, err := k.store.Launch(k.ctx, []*store.Launch{l})
	k.must(err)
	k.must(refusals[0])
	move := func(name string, to store.MachineState, after time.Duration) {
		k.Helper()
		k.must(k.store.MoveMachine(k.ctx, []*store.MachineMove{{
			Name: name, From: []store.MachineState{store.MachineCreating, store.MachinePresent, store.MachineDeleting}, To: to,
			Time: at.Add(after), Message: "silent",
		}}))
	}
	move(wire.Slot(r.Machine, 2), store.MachineDeleting, 105*time.Second)
	k.wantRunner("a slot that is not a machine", wire.Slot(r.Machine, 2), store.RunnerWarming, "")
	move(r.Machine, store.MachineDeleting, 110*time.Second)
	k.wantRunner("a slot while its attempt lives", r.Machine, store.RunnerDraining, l.AttemptID)
	k.wantRunner("the slot beside it", wire.Slot(r.Machine, 2), store.RunnerDraining, "")
	e := k.success(k.attempt(l.AttemptID))
	e.Time = at.Add(130 * time.Second)
	k.end(e)
	move(r.Machine, store.MachineGone, 150*time.Second)
	k.wantRunner("a slot when it is gone", r.Machine, store.RunnerGone, l.AttemptID)
	k.wantRunner("the slot beside it", wire.Slot(r.Machine, 2), store.RunnerGone, "")
	k.wantCosts("each slot costs its pool what no attempt pays for",
		store.Cost{Day: "2026-05-04", Queue: "day", Provider: "local", Amount: 30, Attempts: 1},
		store.Cost{Day: "2026-05-04", Queue: "pool:warm", Provider: "local", Amount: 120 + 150})
}
