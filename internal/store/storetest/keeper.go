package storetest

import (
	"context"
	"regexp"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
)

func keeperCases() []testCase {
	return []testCase{
		{"BootRaisesTheEpochAndKeepsTheIdentity", boot},
		{"TheClockDoesNotGoBack", clockKept},
		{"DeleteRemovesAFinishedJobWhole", deleteWhole},
		{"DeleteRefusesAJobThatIsNotFinished", deleteUnfinished},
		{"DeleteRefusesAJobWhoseMachineIsNotGone", deleteMachine},
		{"ExpendableJobsAreThoseFinishedLongAgo", expendableJobs},
		{"EverythingSurvivesARestart", survives},
		{"AHealthyStorePassesTheCheck", check},
		{"ACanceledContextEndsACall", canceled},
		{"AClosedStoreIsUnavailable", closedStore},
	}
}

func boot(k *kit) {
	first, err := k.store.Boot(k.ctx)
	k.must(err)
	if !regexp.MustCompile(`^[a-z2-7]{6}$`).MatchString(first.Install) {
		k.Errorf("got install %q, want 6 characters of a-z and 2-7", first.Install)
	}
	want := store.Identity{Install: first.Install, Epoch: 1}
	k.wantEqual("the first identity", *first, want)
	for range 2 {
		k.reopen()
		want.Epoch++
		next, err := k.store.Boot(k.ctx)
		k.must(err)
		k.wantEqual("the next identity", *next, want)
	}
	other := newKit(k.TB, k.harness)
	id, err := other.store.Boot(k.ctx)
	k.must(err)
	if id.Install == first.Install {
		k.Errorf("two installations are both %s, want them to differ", id.Install)
	}
}

func clockKept(k *kit) {
	_, err := k.store.Boot(k.ctx)
	k.must(err)
	want := store.Reading{Clock: epoch().Add(time.Hour), Count: 7 * time.Microsecond, Since: "a start"}
	for _, r := range []store.Reading{
		{Clock: epoch(), Count: time.Second, Since: "another"}, want, {Clock: epoch().Add(time.Minute), Count: time.Hour, Since: "a third"},
	} {
		k.must(k.store.Touch(k.ctx, r))
	}
	k.reopen()
	id, err := k.store.Boot(k.ctx)
	k.must(err)
	k.wantEqual("the last reading of the clock", id.Last, want)
}

func deleteWhole(k *kit) {
	kept := k.finished(func(s *store.Submission) { s.Job.Spec.Labels = map[string]string{"a": "b"} })
	a := k.running(func(s *store.Submission) {
		s.Job.Spec.Labels = map[string]string{"a": "b"}
		s.Inputs = []store.Input{{Name: "in"}}
	})
	e := k.failure(a, dayfly.Queued)
	e.Artifacts = []dayfly.Artifact{{Name: "x"}}
	b := k.claim(k.launch(k.end(e)).ID, "agent/2")
	job := k.end(k.success(b))
	for _, id := range []string{a.ID, b.ID} {
		k.destroy(k.attempt(id).Machine.Name)
	}
	name := k.attempt(b.ID).Machine.Name
	k.must(k.store.Delete(k.ctx, job.ID))

	_, err := k.store.Job(k.ctx, job.ID)
	k.wantKind("the job", err, fault.NotFound)
	_, err = k.store.Events(k.ctx, job.ID, 0, 10)
	k.wantKind("its events", err, fault.NotFound)
	_, err = k.store.Attempt(k.ctx, b.ID)
	k.wantKind("its attempt", err, fault.NotFound)
	machines, err := k.store.Machines(k.ctx, &store.MachineQuery{Names: []string{name}, Limit: 1})
	k.must(err)
	k.wantEqual("its machines", len(machines), 0)
	listed, _, err := k.store.List(k.ctx, &store.Query{Labels: map[string]string{"a": "b"}, Limit: 10})
	k.must(err)
	k.wantEqual("jobs with its label", ids(listed), []string{kept.ID})
	k.wantKind("deleting it again", k.store.Delete(k.ctx, job.ID), fault.NotFound)
	k.wantEqual("events of another job", len(k.events(kept.ID)), 4)

	// Whatever is added next owes nothing to what was there before.
	next := k.job(k.submit().ID)
	if next.Inputs != nil || next.AttemptLog != nil || next.Artifacts != nil || next.Events != 1 {
		k.Errorf("a new job has inputs %v, attempts %v, artifacts %v and %d events, want a clean start",
			next.Inputs, next.AttemptLog, next.Artifacts, next.Events)
	}
}

func deleteUnfinished(k *kit) {
	for _, job := range []*store.Job{
		k.submit(inState(dayfly.Created)), k.submit(inState(dayfly.Scheduled)), k.submit(), k.launch(k.submit()).Job, k.running().Job,
	} {
		k.wantKind("deleting a job that is "+string(job.State), k.store.Delete(k.ctx, job.ID), fault.Conflict)
		k.wantEqual("its state", k.job(job.ID).State, job.State)
	}
}

func deleteMachine(k *kit) {
	job := k.finished()
	k.wantKind("deleting a job whose machine is being deleted", k.store.Delete(k.ctx, job.ID), fault.Conflict)
	k.wantEqual("its attempts", len(k.job(job.ID).AttemptLog), 1)
	k.destroy(k.attempt(job.Attempt).Machine.Name)
	k.must(k.store.Delete(k.ctx, job.ID))
}

func expendableJobs(k *kit) {
	var want []string
	var last *store.Job
	for i := range 4 {
		job := k.finished()
		if i == 1 {
			continue // its machine is not gone
		}
		k.destroy(k.attempt(job.Attempt).Machine.Name)
		want = append(want, job.ID)
		last = job
	}
	canceled := k.cancel(k.submit())
	k.running()
	k.submit()
	got, err := k.store.Expendable(k.ctx, last.FinishedAt, 10)
	k.must(err)
	k.wantEqual("jobs finished before the last one", got, want[:2])
	got, err = k.store.Expendable(k.ctx, canceled.FinishedAt.Add(time.Hour), 10)
	k.must(err)
	k.wantEqual("all finished jobs", got, append(want, canceled.ID))
	got, err = k.store.Expendable(k.ctx, canceled.FinishedAt.Add(time.Hour), 3)
	k.must(err)
	k.wantEqual("the first three", got, want)
}

func survives(k *kit) {
	k.submit(inState(dayfly.Created))
	k.submit(inState(dayfly.Scheduled), withKey("key"))
	a, _ := k.heldJobs(3, 1)
	k.end(k.failure(k.running(), dayfly.Scheduled))
	k.note(k.doubt(k.launch(k.submit()).ID), k.booted(a.ID))
	k.cancel(k.submit())
	k.finished()
	read := func() (all []any) {
		jobs, _, err := k.store.List(k.ctx, &store.Query{Limit: 100})
		k.must(err)
		k.wantEqual("number of jobs", len(jobs), 9)
		for _, j := range jobs {
			all = append(all, *k.job(j.ID))
			for _, e := range k.events(j.ID) {
				all = append(all, *e)
			}
			if j.Attempt != "" {
				all = append(all, *k.attempt(j.Attempt).Machine)
			}
		}
		return append(all, k.counted(), k.ready("local", "default"))
	}
	before := read()
	k.reopen()
	after := read()
	for i := range before {
		k.wantEqual("what was read before and after a restart", after[i], before[i])
	}
}

func check(k *kit) {
	k.must(k.store.Check(k.ctx))
	k.finished()
	k.must(k.store.Check(k.ctx))
	k.reopen()
	k.must(k.store.Check(k.ctx))
}

func canceled(k *kit) {
	ctx, cancel := context.WithCancel(k.ctx)
	job := k.submit()
	s := k.submission()
	cancel()
	_, _, err := k.store.Submit(ctx, s)
	k.wantKind("Submit", err, fault.Canceled)
	_, err = k.store.Job(k.ctx, s.Job.ID)
	k.wantKind("the job", err, fault.NotFound)
	_, err = k.store.Move(ctx, k.cancelMove(job))
	k.wantKind("Move", err, fault.Canceled)
	k.wantEqual("the job", k.job(job.ID), job)
	_, err = k.store.Job(ctx, job.ID)
	k.wantKind("Job", err, fault.Canceled)
	_, _, err = k.store.List(ctx, &store.Query{Limit: 1})
	k.wantKind("List", err, fault.Canceled)
}

func closedStore(k *kit) {
	job := k.submit()
	k.must(k.store.Close())
	_, _, err := k.store.Submit(k.ctx, k.submission())
	k.wantKind("Submit", err, fault.Unavailable)
	_, err = k.store.Job(k.ctx, job.ID)
	k.wantKind("Job", err, fault.Unavailable)
	k.wantKind("Check", k.store.Check(k.ctx), fault.Unavailable)
	k.must(k.store.Close())
}
