package storetest

import (
	"fmt"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

func costsCases() []testCase {
	return []testCase{
		{"APriceIsKeptAsItWasAtTheLaunch", priceKept},
		{"WhatAMachineHasCostIsSettledWhenItIsGone", costSettled},
		{"ACostIsThatOfTheLifetimeAtMost", costOfLifetime},
		{"ACostIsSettledOnce", costOnce},
		{"AMachineThatIsFoundAgainCostsWhatItLastsLonger", costAgain},
		{"ACostIsDividedAtMidnightByTheWallClock", costDivided},
		{"WhatWasNeverMadeCostsNothing", costOfNothing},
		{"AnUnknownPriceIsCountedAndNotSummed", costUnknown},
		{"AMachineThatCostsNothingLeavesNoTrace", costFree},
		{"SettledCostsOutliveTheirJobAndARestart", costsOutlive},
	}
}

// dear is a price of a millionth of a dollar per second.
func dear() *machine.Price {
	return &machine.Price{Rate: 3_600_000, Minimum: time.Second, Date: "2026-05-04"}
}

// priced lists charges with their prices in place of pointers to them.
func priced(charges []store.Charge) []string {
	var list []string
	for _, c := range charges {
		price := machine.Price{}
		if c.Price != nil {
			price = *c.Price
			c.Price = nil
		}
		list = append(list, fmt.Sprintf("%+v %+v", c, price))
	}
	return list
}

// price draws what a machine may cost.
func (d *drive) price(t *rapid.T) *machine.Price {
	return pick(t, "price", nil, &machine.Price{}, dear(), dear())
}

// launchAt begins an attempt of a new job with a price, a lifetime of an hour, and ends it at once.
func (k *kit) launchAt(p *machine.Price, change ...func(*store.Submission)) *store.Attempt {
	k.Helper()
	l := k.wish(k.submit(change...))
	l.Price = p
	refusals, err := k.store.Launch(k.ctx, []*store.Launch{l})
	k.must(err)
	k.must(refusals[0])
	return k.attempt(l.AttemptID)
}

// goneAfter records that the machine of an attempt was found gone some time after it was asked for.
func (k *kit) goneAfter(a *store.Attempt, d time.Duration, wall time.Time) {
	k.Helper()
	k.must(k.store.MoveMachine(k.ctx, []*store.MachineMove{{
		Name: a.Machine.Name, From: machineStates(), To: store.MachineGone, Time: a.CreatedAt.Add(d), Wall: wall,
	}}))
}

func (k *kit) wantCosts(what string, want ...store.Cost) {
	k.Helper()
	got, err := k.store.Costs(k.ctx, "0000-01-01", "9999-12-31")
	k.must(err)
	k.wantEqual(what, fmt.Sprint(got), fmt.Sprint(want))
}

func (k *kit) wantUnsettled(what string, want ...*store.Attempt) {
	k.Helper()
	got, err := k.store.Unsettled(k.ctx)
	k.must(err)
	var charges []store.Charge
	for _, a := range want {
		charges = append(charges, store.Charge{Queue: a.Job.Queue, Provider: a.Provider, Meter: a.Meter()})
	}
	k.wantEqual(what, sorted(priced(got)), sorted(priced(charges)))
}

func priceKept(k *kit) {
	for _, want := range []*machine.Price{nil, {}, dear()} {
		a := k.launchAt(want)
		k.wantEqual("the price of an attempt", a.Price, want)
		a = k.claim(a.ID, "agent/1")
		k.wantEqual("the price of a claimed attempt", a.Price, want)
		k.wantEqual("the price in its job", k.job(a.JobID).AttemptLog[0].Price, want)
		k.reopen()
		k.wantEqual("the price after a restart", k.attempt(a.ID).Price, want)
	}
	s := k.submission()
	s.Launch = k.wish(s.Job)
	s.Launch.Price = dear()
	job, _, err := k.store.Submit(k.ctx, s)
	k.must(err)
	k.wantEqual("the price of what was launched with its submission", job.AttemptLog[0].Price, dear())
	k.wantEqual("the same when it is read", k.attempt(job.Attempt).Price, dear())
}

func costSettled(k *kit) {
	a, b := k.launchAt(dear()), k.launchAt(dear(), inLane("fly", "night"))
	k.wantUnsettled("what runs up costs", a, b)
	k.wantCosts("before anything is gone")
	k.goneAfter(a, 90*time.Second, time.Time{})
	k.wantUnsettled("what is left", b)
	k.wantCosts("when one is gone", store.Cost{Day: "2026-05-04", Queue: "default", Provider: "local", Amount: 90, Attempts: 1})
	k.goneAfter(b, 1500*time.Millisecond, time.Time{})
	k.goneAfter(k.launchAt(dear()), 10*time.Second, time.Time{})
	k.wantUnsettled("what is left when all are gone")
	k.wantCosts("when all are gone",
		store.Cost{Day: "2026-05-04", Queue: "default", Provider: "local", Amount: 100, Attempts: 2},
		store.Cost{Day: "2026-05-04", Queue: "night", Provider: "fly", Amount: 2, Attempts: 1})
	got, err := k.store.Costs(k.ctx, "2026-05-05", "2026-05-06")
	k.must(err)
	k.wantEqual("the costs of other days", len(got), 0)
}

func costOfLifetime(k *kit) {
	// It ended itself after an hour, however late somebody looked.
	a := k.launchAt(dear())
	k.goneAfter(a, 40*time.Hour, time.Date(2026, 5, 6, 12, 0, 0, 0, time.UTC))
	k.wantCosts("a machine that was found gone 40 hours after it was asked for",
		store.Cost{Day: "2026-05-04", Queue: "default", Provider: "local", Amount: 3600, Attempts: 1})
}

func costOnce(k *kit) {
	a := k.launchAt(dear())
	k.goneAfter(a, time.Minute, time.Time{})
	k.goneAfter(a, time.Minute, time.Time{})
	k.wantCosts("a machine that was found gone twice",
		store.Cost{Day: "2026-05-04", Queue: "default", Provider: "local", Amount: 60, Attempts: 1})
}

func costAgain(k *kit) {
	a := k.launchAt(dear())
	k.goneAfter(a, time.Minute, time.Time{})
	k.must(k.store.MoveMachine(k.ctx, []*store.MachineMove{{
		Name: a.Machine.Name, From: machineStates(), To: store.MachineDeleting, Time: a.CreatedAt.Add(2 * time.Minute),
	}}))
	k.goneAfter(a, 3*time.Minute, time.Time{})
	k.wantCosts("a machine that was found again", store.Cost{Day: "2026-05-04", Queue: "default", Provider: "local", Amount: 180, Attempts: 1})
}

func costDivided(k *kit) {
	a := k.launchAt(dear())
	k.goneAfter(a, 10*time.Minute, time.Date(2026, 12, 31, 0, 4, 0, 0, time.UTC))
	k.wantCosts("ten minutes that end four minutes after midnight by the wall clock",
		store.Cost{Day: "2026-12-30", Queue: "default", Provider: "local", Amount: 360},
		store.Cost{Day: "2026-12-31", Queue: "default", Provider: "local", Amount: 240, Attempts: 1})
}

func costOfNothing(k *kit) {
	a := k.launchAt(dear())
	e := k.failure(a, dayfly.Failed)
	e.State, e.Unbilled = dayfly.AttemptNeverStarted, true
	k.end(e)
	k.wantUnsettled("after a refusal")
	k.goneAfter(a, time.Minute, time.Time{})
	k.wantCosts("after a refusal")
	k.wantEqual("that it was not billed", k.attempt(a.ID).Unbilled, true)
}

func costUnknown(k *kit) {
	a := k.launchAt(nil)
	k.wantUnsettled("with an unknown price")
	k.goneAfter(a, time.Minute, time.Time{})
	k.goneAfter(a, time.Minute, time.Time{})
	k.wantCosts("with an unknown price", store.Cost{Day: "2026-05-04", Queue: "default", Provider: "local", Unknown: 1})
}

func costFree(k *kit) {
	a := k.launchAt(&machine.Price{})
	k.wantUnsettled("without costs")
	k.goneAfter(a, time.Minute, time.Time{})
	k.wantCosts("without costs")
}

func costsOutlive(k *kit) {
	job := k.end(k.success(k.claim(k.launchAt(dear()).ID, "agent/1")))
	k.goneAfter(k.attempt(job.Attempt), time.Minute, time.Time{})
	k.must(k.store.Delete(k.ctx, job.ID))
	k.reopen()
	k.wantCosts("after the job was deleted", store.Cost{Day: "2026-05-04", Queue: "default", Provider: "local", Amount: 60, Attempts: 1})
}
