package storetest

import (
	"fmt"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

func attemptsCases() []testCase {
	return []testCase{
		{"AClaimMakesTheJobRunning", claimRuns},
		{"OfManyClaimantsOneWins", claimRace},
		{"AClaimantIsAnsweredAgain", claimAgain},
		{"AClaimBringsTheInputs", claimInputs},
		{"AClaimWithoutAClaimantIsInvalid", claimNobody},
		{"AClaimBeforeTheProvidersAnswerCounts", claimEarly},
		{"AClaimAfterACancelIsStale", claimCanceled},
		{"AClaimOfAnEndedAttemptIsStale", claimEnded},
		{"AFenceRisesWithEveryClaim", fenceRises},
		{"ANoteOfAMachineMakesTheAttemptBooting", noteBooted},
		{"ANoteOfDoubtMakesTheAttemptUnknown", noteUnknown},
		{"ANoteThatComesTooLateMovesNothing", noteLate},
		{"AMachinesIDIsKeptEvenIfItCalledFirst", noteKeepsID},
		{"ProgressIsKeptWhileTheAttemptRuns", noteProgress},
		{"TheLastProgressComesWithTheEnd", endProgress},
		{"ANoteThatSaysNothingIsInvalid", noteNothing},
		{"LiveAttemptsArePagedBySeq", livePages},
	}
}

func claimRuns(k *kit) {
	launched := k.launch(k.submit())
	c := &store.Claim{Attempt: launched.ID, By: "machine-1/nonce", Time: k.now()}
	job, a, err := k.store.Claim(k.ctx, c)
	k.must(err)

	want := *launched.Job
	want.Version, want.Events, want.State, want.Fence = 3, 3, dayfly.Running, 1
	k.wantEqual("the claimed job", job, &want)
	attempt := *launched
	attempt.State, attempt.Fence, attempt.ClaimedBy, attempt.ClaimedAt = dayfly.AttemptRunning, 1, c.By, c.Time
	attempt.Job, attempt.Machine = job, nil
	a.Machine = nil // a store may bring it, or not
	k.wantEqual("the claimed attempt", a, &attempt)

	read := k.attempt(a.ID)
	k.wantEqual("the machine's state", read.Machine.State, store.MachinePresent)
	read.Machine = nil
	k.wantEqual("the attempt read", read, &attempt)
	k.wantEqual("the last event", k.events(job.ID)[2],
		&dayfly.Event{Seq: 3, Job: job.ID, Time: c.Time, Type: "running", State: dayfly.Running, Attempt: 1})
}

func claimRace(k *kit) {
	a := k.launch(k.submit())
	const n = 20
	fences := make([]int64, n)
	won := k.accepted(race(n, func(i int) error {
		_, claimed, err := k.store.Claim(k.ctx, &store.Claim{Attempt: a.ID, By: fmt.Sprintf("agent/%d", i), Time: epoch()})
		if err == nil {
			fences[i] = claimed.Fence
		}
		return err
	}), fault.AlreadyClaimed)
	k.wantEqual("claims accepted", won, 1)
	read := k.attempt(a.ID)
	for i, fence := range fences {
		if by := fmt.Sprintf("agent/%d", i); (fence != 0) != (read.ClaimedBy == by) {
			k.Errorf("claimant %s was given fence %d, and the attempt is claimed by %s", by, fence, read.ClaimedBy)
		}
	}
}

func claimAgain(k *kit) {
	first := k.claim(k.launch(k.submit()).ID, "agent/1")
	again := func(what string) {
		k.Helper()
		a := k.claim(first.ID, "agent/1")
		k.wantEqual(what, a, first)
		k.wantEqual("number of events", len(k.events(a.JobID)), 3)
		_, _, err := k.store.Claim(k.ctx, &store.Claim{Attempt: a.ID, By: "agent/2", Time: k.now()})
		k.wantKind("the claim of another", err, fault.AlreadyClaimed)
	}
	again("the second answer")
	k.reopen()
	again("the answer after a restart")
	marked := k.cancel(bare(first.Job))
	a := k.claim(first.ID, "agent/1")
	k.wantEqual("the fence after a cancel", a.Fence, first.Fence)
	k.wantEqual("the job after a cancel", bare(a.Job), marked)
}

func claimInputs(k *kit) {
	job := k.submit(inState(dayfly.Queued), func(s *store.Submission) {
		s.Inputs = []store.Input{{Name: "b", Size: 1, SHA256: "x", StoredAt: epoch()}, {Name: "a", ContentType: "text/plain"}}
	})
	a := k.claim(k.launch(job).ID, "agent/1")
	k.wantEqual("inputs", a.Job.Inputs, job.Inputs)
}

func claimNobody(k *kit) {
	_, _, err := k.store.Claim(k.ctx, &store.Claim{Attempt: k.launch(k.submit()).ID, Time: k.now()})
	k.wantKind("a claim by nobody", err, fault.Invalid)
}

// booted is the note that the provider has answered.
func (k *kit) booted(attempt string) *store.Note {
	return &store.Note{Attempt: attempt, Time: k.now(), Booted: &machine.Machine{ID: "i-1", Location: "ams"}}
}

func (k *kit) doubt(attempt string) *store.Note {
	return &store.Note{Attempt: attempt, Time: k.now(), Unknown: "The answer was lost."}
}

func (k *kit) note(notes ...*store.Note) {
	k.Helper()
	k.must(k.store.Note(k.ctx, notes))
}

func claimEarly(k *kit) {
	creating, unknown, booting := k.launch(k.submit()), k.launch(k.submit()), k.launch(k.submit())
	k.note(k.doubt(unknown.ID), k.booted(booting.ID))
	for _, a := range []*store.Attempt{creating, unknown, booting} {
		before := k.attempt(a.ID).State
		k.wantEqual(fmt.Sprintf("an attempt claimed from %s", before), k.claim(a.ID, "agent/1").State, dayfly.AttemptRunning)
	}
}

func claimCanceled(k *kit) {
	a := k.launch(k.submit())
	k.cancel(bare(a.Job))
	_, _, err := k.store.Claim(k.ctx, &store.Claim{Attempt: a.ID, By: "agent/1", Time: k.now()})
	k.wantKind("a claim after the cancel", err, fault.StaleAttempt)
	k.wantEqual("the attempt's state", k.attempt(a.ID).State, dayfly.AttemptCreating)
}

func claimEnded(k *kit) {
	a := k.running()
	k.end(k.success(a))
	for _, by := range []string{"agent/1", "agent/2"} {
		_, _, err := k.store.Claim(k.ctx, &store.Claim{Attempt: a.ID, By: by, Time: k.now()})
		k.wantKind("a claim by "+by+" after the end", err, fault.StaleAttempt)
	}
	b := k.launch(k.submit())
	k.end(k.neverStarted(b))
	_, _, err := k.store.Claim(k.ctx, &store.Claim{Attempt: b.ID, By: "agent/1", Time: k.now()})
	k.wantKind("a claim after the attempt was given up", err, fault.StaleAttempt)
}

// neverStarted is the end of an attempt that nobody has claimed, after which its job is queued again.
func (k *kit) neverStarted(a *store.Attempt) *store.Ending {
	return &store.Ending{
		Attempt: a.ID, JobVersion: a.Job.Version, State: dayfly.AttemptNeverStarted, Time: k.now(),
		Reason: dayfly.ReasonNeverStarted, Message: "No machine could be made.",
		Job: store.Next{State: dayfly.Queued, Launches: 1},
	}
}

func fenceRises(k *kit) {
	job := k.submit()
	for want := int64(1); want <= 3; want++ {
		a := k.claim(k.launch(job).ID, "agent/1")
		k.wantEqual("the attempt's fence", a.Fence, want)
		k.wantEqual("the job's fence", a.Job.Fence, want)
		job = k.end(k.failure(a, dayfly.Queued))
		job = k.end(k.neverStarted(k.launch(job)))
		k.wantEqual("the job's fence after an attempt that was not claimed", job.Fence, want)
	}
}

func noteBooted(k *kit) {
	creating, unknown := k.launch(k.submit()), k.launch(k.submit())
	k.note(k.doubt(unknown.ID))
	for _, a := range []*store.Attempt{creating, unknown} {
		n := k.booted(a.ID)
		k.note(n)
		want := *a
		want.State, want.BootedAt = dayfly.AttemptBooting, n.Time
		m := *a.Machine
		m.ID, m.Location, m.State = "i-1", "ams", store.MachinePresent
		want.Machine = &m
		k.wantEqual("the attempt", k.attempt(a.ID), &want)
	}
}

func noteUnknown(k *kit) {
	a := k.launch(k.submit())
	k.note(k.doubt(a.ID))
	want := *a
	want.State, want.Message = dayfly.AttemptCreateUnknown, "The answer was lost."
	k.wantEqual("the attempt", k.attempt(a.ID), &want)
}

func noteLate(k *kit) {
	running, booting := k.running(), k.launch(k.submit())
	k.note(k.booted(booting.ID))
	ended := k.running()
	k.end(k.success(ended))
	for _, id := range []string{running.ID, booting.ID, ended.ID} {
		before := k.attempt(id)
		k.note(k.doubt(id), k.booted(id), &store.Note{Attempt: "none", Time: k.now(), Unknown: "Who?"})
		after := k.attempt(id)
		k.wantEqual("the attempt's state", after.State, before.State)
		k.wantEqual("the attempt's message", after.Message, before.Message)
		k.wantEqual("when it booted", after.BootedAt, before.BootedAt)
		k.wantEqual("its machine's state", after.Machine.State, before.Machine.State)
		k.wantEqual("its job", after.Job, before.Job)
	}
}

func noteKeepsID(k *kit) {
	running, ended := k.running(), k.launch(k.submit())
	k.end(k.neverStarted(ended))
	for _, id := range []string{running.ID, ended.ID} {
		k.note(k.booted(id))
		a := k.attempt(id)
		k.wantEqual("the machine's id", a.Machine.ID, "i-1")
		k.wantEqual("the machine's location", a.Machine.Location, "ams")
	}
}

func endProgress(k *kit) {
	a := k.running()
	k.note(&store.Note{Attempt: a.ID, Time: k.now(), Progress: &dayfly.Progress{Fraction: 0.5, Text: "half"}})
	e := k.success(a)
	e.Result = &wire.Result{Progress: &wire.Progress{Fraction: 1, Text: "all"}}
	want := &dayfly.Progress{Fraction: 1, Text: "all"}
	k.wantEqual("the progress of the ended job", k.end(e).Progress, want)
	k.wantEqual("the progress when it is read", k.job(a.JobID).Progress, want)
}

func noteProgress(k *kit) {
	a := k.running()
	say := func(id string, fraction float64) {
		k.Helper()
		k.note(&store.Note{Attempt: id, Time: k.now(), Progress: &dayfly.Progress{Fraction: fraction, Text: "working"}})
	}
	say(a.ID, 0.25)
	say(a.ID, 0.5)
	want := *a.Job
	want.Progress = &dayfly.Progress{Fraction: 0.5, Text: "working"}
	k.wantEqual("the job", bare(k.job(a.JobID)), bare(&want))
	end := k.success(a) // progress has not raised the version, so this is no conflict
	k.end(end)
	say(a.ID, 0.75)
	k.wantEqual("the progress after the end", k.job(a.JobID).Progress, want.Progress)

	first := k.running()
	k.claim(k.launch(k.end(k.failure(first, dayfly.Queued))).ID, "agent/1")
	say(first.ID, 0.9)
	if got := k.job(first.JobID).Progress; got != nil {
		k.Errorf("got progress %+v from a superseded attempt, want none", *got)
	}
}

func noteNothing(k *kit) {
	a := k.launch(k.submit())
	k.wantKind("a note that says nothing", k.store.Note(k.ctx, []*store.Note{{Attempt: a.ID, Time: k.now()}}), fault.Invalid)
	k.note()
}

func livePages(k *kit) {
	var want []string
	for i := range 7 {
		a := k.launch(k.submit())
		switch i {
		case 2:
			k.end(k.neverStarted(a))
			continue
		case 4:
			k.claim(a.ID, "agent/1")
		case 5:
			k.note(k.booted(a.ID))
		}
		want = append(want, a.ID)
	}
	k.submit()
	var got []string
	for after := int64(0); ; {
		live, bad, err := k.store.Live(k.ctx, after, 4)
		k.must(err)
		k.wantEqual("rows that cannot be read", len(bad), 0)
		for _, a := range live {
			if a.Seq <= after {
				k.Fatalf("got attempt %d after %d, want rising seqs", a.Seq, after)
			}
			after = a.Seq
			k.wantEqual("a live attempt", a, k.attempt(a.ID))
			got = append(got, a.ID)
		}
		if len(live) < 4 {
			break
		}
	}
	k.wantEqual("live attempts", got, want)
	k.reopen()
	live, _, err := k.store.Live(k.ctx, 0, 100)
	k.must(err)
	k.wantEqual("live attempts after a restart", len(live), len(want))
}
