package storetest

import (
	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// The cases about jobs that name several providers, and about what providers fetch before they make a machine.

func choicesCases() []testCase {
	return []testCase{
		{"AnAttemptSaysWhereItsMachineWasAskedFor", launchElsewhere},
		{"WhatWasRefusedIsKeptOnTheJob", refusalsKept},
		{"WhatIsRefusedBeforeALaunchIsKeptOnTheJob", refusalsBefore},
		{"ANoteOfPreparationIsKeptOnce", notePrepared},
		{"TheImageOfAMachineIsKept", noteImage},
	}
}

// severalChoices are the providers of the jobs of these cases.
const severalChoices = "fly:ams,fly:fra,docker"

func refusal(region, why string) dayfly.Refusal {
	return dayfly.Refusal{Provider: "fly", Region: region, Kind: fault.Exhausted, Message: why, At: epoch()}
}

func launchElsewhere(k *kit) {
	job := k.submit(inLane(severalChoices, "default"))
	l := k.wish(job)
	l.Provider, l.Region, l.Message = "fly", "fra", "fly:ams was passed over."
	l.Refusals = []dayfly.Refusal{refusal("ams", "It is full.")}
	refusals, err := k.store.Launch(k.ctx, []*store.Launch{l})
	k.must(err)
	k.must(refusals[0])
	a := k.attempt(l.AttemptID)
	k.wantEqual("the attempt's provider", a.Provider, "fly")
	k.wantEqual("its machine's region", a.Machine.Region, "fra")
	k.wantEqual("its job's providers", a.Job.Provider, severalChoices)
	k.wantEqual("its job's refusals", a.Job.Refusals, l.Refusals)
	events := k.events(job.ID)
	k.wantEqual("the last event", events[len(events)-1], &dayfly.Event{Seq: 2, Job: job.ID, Time: l.Time, Type: "starting",
		State: dayfly.Starting, Attempt: 1, Message: l.Message})

	s := k.submission(inLane(severalChoices, "default"))
	s.Launch = k.wish(s.Job)
	s.Launch.Provider, s.Launch.Region, s.Launch.Refusals = "docker", "here", l.Refusals
	added, _, err := k.store.Submit(k.ctx, s)
	k.must(err)
	k.wantEqual("the refusals of a job that is launched at once", added.Refusals, l.Refusals)
	k.wantEqual("its region", added.AttemptLog[0].Machine.Region, "here")
	k.wantEqual("the job when it is read", k.job(added.ID), added)
}

func refusalsKept(k *kit) {
	a := k.launch(k.submit(inLane(severalChoices, "default")))
	first := []dayfly.Refusal{refusal("ams", "It is full.")}
	e := k.neverStarted(a)
	e.Job.Refusals = first
	job := k.end(e)
	k.wantEqual("the refusals after the end", job.Refusals, first)
	k.wantEqual("the ready jobs of its lane", k.ready(severalChoices, "default"), []string{job.ID})
	a = k.launch(job)
	k.wantEqual("the refusals after a launch that brings none", a.Job.Refusals, first)
	k.reopen()
	e = k.neverStarted(k.attempt(a.ID))
	job = k.end(e)
	k.wantEqual("the refusals after an end that brings none", job.Refusals, first)
	e = k.neverStarted(k.launch(job))
	e.Job.Refusals = append(first, refusal("fra", "It is full, too."))
	k.wantEqual("the refusals after another end", k.end(e).Refusals, e.Job.Refusals)
	k.wantEqual("the refusals when they are read", k.job(job.ID).Refusals, e.Job.Refusals)
}

// refusalsBefore follows a job for which places are known to be none from the beginning, and learns of more.
func refusalsBefore(k *kit) {
	first := []dayfly.Refusal{refusal("ams", "It is too dear.")}
	job := k.submit(inLane(severalChoices, "default"), func(s *store.Submission) { s.Job.Refusals = first })
	k.wantEqual("the refusals of a new job", job.Refusals, first)
	k.wantEqual("the job when it is read", k.job(job.ID), job)

	m := &store.Move{JobID: job.ID, Version: job.Version, From: dayfly.Queued, To: dayfly.Queued, Time: k.now(), Event: "queued",
		Message: "fly:fra is passed over.", Refusals: append(first, refusal("fra", "It is too dear, too."))}
	want := *job
	want.Version, want.Events, want.Refusals = 2, 2, m.Refusals
	moved, err := k.store.Move(k.ctx, m)
	k.must(err)
	k.wantEqual("the job that stays in its queue", moved, &want)
	k.wantEqual("the job read", k.job(job.ID), &want)
	k.wantEqual("the ready jobs of its lane", k.ready(severalChoices, "default"), []string{job.ID})
	k.wantEqual("its last event", k.events(job.ID)[1], &dayfly.Event{Seq: 2, Job: job.ID, Time: m.Time, Type: "queued",
		State: dayfly.Queued, Message: m.Message})
	k.reopen()
	k.wantEqual("the refusals after a launch that brings none", k.launch(k.job(job.ID)).Job.Refusals, m.Refusals)

	s := k.submission(inLane(severalChoices, "default"))
	s.Job.Refusals, s.Launch = first, k.wish(s.Job)
	s.Launch.Provider = "docker"
	added, _, err := k.store.Submit(k.ctx, s)
	k.must(err)
	k.wantEqual("the refusals of a new job that is launched at once", added.Refusals, first)
	k.wantEqual("that job when it is read", k.job(added.ID), added)

	job = k.submit(inLane(severalChoices, "default"))
	now := k.now()
	_, err = k.store.Move(k.ctx, &store.Move{JobID: job.ID, Version: job.Version, From: dayfly.Queued, To: dayfly.Failed, Time: now,
		FinishedAt: now, Reason: dayfly.ReasonCostLimit, Message: "Each is too dear.", Event: "failed", Refusals: first})
	k.must(err)
	k.wantEqual("the refusals of a job that failed of them", k.job(job.ID).Refusals, first)
}

func notePrepared(k *kit) {
	creating, running, ended := k.launch(k.submit()), k.running(), k.running()
	k.end(k.success(ended))
	first := k.now()
	for _, id := range []string{creating.ID, running.ID, ended.ID} {
		before := k.attempt(id)
		k.note(&store.Note{Attempt: id, Time: first, Prepared: true})
		k.note(&store.Note{Attempt: id, Time: k.now(), Prepared: true})
		want := *before
		want.PreparedAt = first
		k.wantEqual("the attempt", k.attempt(id), &want)
	}
}

func noteImage(k *kit) {
	a := k.launch(k.submit())
	k.note(&store.Note{Attempt: a.ID, Time: k.now(), Booted: &machine.Machine{ID: "i-1", Image: "debian@sha256:1"}})
	k.wantEqual("the image", k.attempt(a.ID).Machine.Image, "debian@sha256:1")
	adopted := &store.Machine{Name: "stray", Provider: "fly", Region: "ams", Image: "debian@sha256:2", State: store.MachineQuarantined,
		CreatedAt: k.now()}
	k.must(k.store.AdoptMachine(k.ctx, adopted))
	k.wantEqual("the stray", k.machine("stray"), adopted)
}
