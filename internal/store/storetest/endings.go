package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

func endingsCases() []testCase {
	return []testCase{
		{"AnEndFinishesAttemptJobAndMachine", endFinishes},
		{"AnEndSendsTheJobBack", endSendsBack},
		{"TheNextAttemptForgetsTheOutcomeOfTheLast", endForgotten},
		{"AnEndIsAcceptedAgain", endAgain},
		{"AnEndWithAStaleFenceIsRefused", endStaleFence},
		{"AnEndOfASupersededAttemptIsRefused", endSuperseded},
		{"AnotherEndOfAnEndedAttemptIsRefused", endDiffers},
		{"AnEndWithoutAClaimIsNotAcceptedTwice", endUnclaimedTwice},
		{"AnEndAfterAClaimItDoesNotKnowOfIsRefused", endBeforeClaim},
		{"AnEndAfterACancelIsAConflict", endAfterCancel},
		{"OfManyEndsOneCounts", endRace},
		{"AnEndToAStateThatIsNoneIsInvalid", endInvalid},
		{"ArtifactsAreThoseOfTheLastAttempt", endArtifacts},
		{"AMachineThatIsBeingDeletedStaysSo", endMachine},
		{"AnEndMayKeepTheMachine", endKeeps},
	}
}

func endFinishes(k *kit) {
	a := k.running()
	code := 0
	e := &store.Ending{
		Attempt: a.ID, Fence: a.Fence, JobVersion: a.Job.Version, State: dayfly.AttemptSucceeded, Time: k.now(),
		Reason: dayfly.ReasonExitNonzero, Message: "attempt's", Started: true,
		Exit: &machine.Exit{Code: 3, Signal: "SIGTERM", Message: "exit's"},
		Result: &wire.Result{
			StdoutBytes: 1, StderrBytes: 2, FetchMS: 3, RunMS: 4, FinishMS: 5, MaxRSSKB: 6, UserMS: 7, SystemMS: 8,
		},
		Artifacts: []dayfly.Artifact{{Name: "out.mp3", Size: 9, SHA256: "abc", ContentType: "audio/mpeg"}, {Name: "a/b"}},
		Job: store.Next{
			State: dayfly.Succeeded, Reason: dayfly.ReasonTimeout, Message: "job's", ExitCode: &code,
			Value: json.RawMessage(`{"words": [1, "a"]}`), Starts: 2, Launches: 3, Losses: 4,
		},
	}
	job := k.end(e)

	want := *a.Job
	want.Version, want.Events, want.State, want.FinishedAt = 4, 4, dayfly.Succeeded, e.Time
	want.Starts, want.Launches, want.Losses = 2, 3, 4
	want.Reason, want.Message, want.ExitCode, want.Result = dayfly.ReasonTimeout, "job's", &code, e.Job.Value
	k.wantEqual("the ended job", job, &want)

	attempt := *a
	attempt.State, attempt.EndedAt, attempt.Reason, attempt.Message = e.State, e.Time, e.Reason, e.Message
	attempt.Exit, attempt.Started = e.Exit, true
	attempt.StdoutLen, attempt.StderrLen, attempt.FetchMS, attempt.RunMS, attempt.FinishMS = 1, 2, 3, 4, 5
	attempt.MaxRSSKB, attempt.UserMS, attempt.SystemMS = 6, 7, 8
	attempt.Job = &want
	attempt.Machine = k.machine(k.attempt(a.ID).Machine.Name)
	k.wantEqual("the attempt", k.attempt(a.ID), &attempt)
	k.wantEqual("the machine's state", attempt.Machine.State, store.MachineDeleting)
	k.wantEqual("since when", attempt.Machine.DeleteAt, e.Time)

	attempt.Job = nil
	want.AttemptLog = []*store.Attempt{&attempt}
	want.Artifacts = []dayfly.Artifact{{Name: "a/b"}, e.Artifacts[0]}
	k.wantEqual("the job", k.job(job.ID), &want)
	k.reopen()
	k.wantEqual("the job after a restart", k.job(job.ID), &want)
	k.wantEqual("the last event", k.events(job.ID)[3], &dayfly.Event{
		Seq: 4, Job: job.ID, Time: e.Time, Type: "succeeded", State: dayfly.Succeeded, Attempt: 1,
		Reason: dayfly.ReasonTimeout, Message: "job's",
	})
}

func endSendsBack(k *kit) {
	for _, next := range []dayfly.State{dayfly.Scheduled, dayfly.Queued} {
		a := k.running()
		e := k.failure(a, next)
		e.Job.Losses, e.Job.Launches = 5, 6
		want := *a.Job
		want.Version, want.Events, want.State = 4, 4, next
		want.Starts, want.Losses, want.Launches, want.Reason, want.Message = 1, 5, 6, e.Reason, e.Message
		if next == dayfly.Scheduled {
			want.RunAt = e.Job.RunAt
		} else {
			want.QueuedAt = e.Time
		}
		k.wantEqual("the job", k.end(e), &want)
		k.wantEqual("the job read", bare(k.job(want.ID)), &want)
		k.wantEqual("the last event", k.events(want.ID)[3], &dayfly.Event{
			Seq: 4, Job: want.ID, Time: e.Time, Type: "attempt_ended", State: next, Attempt: 1, Reason: e.Reason, Message: e.Message,
		})
		job := &want
		if next == dayfly.Scheduled {
			k.promote(e.Job.RunAt, 1)
			job = k.job(want.ID)
		}
		k.wantEqual("the number of the next attempt", k.launch(job).Number, 2)
	}
}

func endForgotten(k *kit) {
	a := k.running()
	code := 3
	e := k.failure(a, dayfly.Queued)
	e.Job.ExitCode, e.Job.Value = &code, json.RawMessage(`{"half":true}`)
	e.Result = &wire.Result{Progress: &wire.Progress{Fraction: 0.9}}
	waiting := k.end(e)
	k.wantEqual("the reason while it waits", waiting.Reason, e.Job.Reason)
	again := k.launch(waiting)
	check := func(what string, job *store.Job) {
		k.Helper()
		want := *bare(job)
		want.Reason, want.Message, want.ExitCode, want.Result, want.Progress = "", "", nil, nil, nil
		k.wantEqual(what, bare(job), &want)
	}
	check("the job that is starting", k.job(a.JobID))
	claimed := k.claim(again.ID, "agent/2")
	check("the job that was claimed", claimed.Job)
	check("the job that runs", k.job(a.JobID))
	k.wantEqual("the reason of the attempt", k.job(a.JobID).AttemptLog[0].Reason, e.Reason)
}

func endAgain(k *kit) {
	for _, next := range []dayfly.State{dayfly.Failed, dayfly.Scheduled} {
		a := k.running()
		e := k.failure(a, next)
		want := k.end(e)
		for range 2 {
			k.wantEqual("the job after the same end", k.end(e), want)
			k.wantEqual("number of events", len(k.events(want.ID)), 4)
			k.reopen()
		}
	}
	// The job may have gone on since: it is returned as it is.
	a := k.running()
	e := k.failure(a, dayfly.Queued)
	b := k.claim(k.launch(k.end(e)).ID, "agent/2")
	k.wantEqual("the job after an old end", k.end(e), bare(b.Job))
	k.wantEqual("the attempt since", k.attempt(b.ID).State, dayfly.AttemptRunning)
}

func endStaleFence(k *kit) {
	a := k.running()
	for _, fence := range []int64{0, a.Fence - 1, a.Fence + 1} {
		e := k.success(a)
		e.Fence = fence
		_, err := k.store.End(k.ctx, e)
		k.wantKind(fmt.Sprintf("an end with fence %d instead of %d", fence, a.Fence), err, fault.StaleAttempt)
	}
	k.wantEqual("the job's state", k.job(a.JobID).State, dayfly.Running)
	k.wantEqual("number of events", len(k.events(a.JobID)), 3)
}

func endSuperseded(k *kit) {
	first := k.running()
	lost := k.failure(first, dayfly.Queued)
	lost.State, lost.Reason = dayfly.AttemptLost, dayfly.ReasonMachineLost
	second := k.claim(k.launch(k.end(lost)).ID, "agent/2")
	late := k.success(first)
	late.JobVersion = second.Job.Version
	_, err := k.store.End(k.ctx, late)
	k.wantKind("the end of the first attempt", err, fault.StaleAttempt)
	k.wantEqual("the job", bare(k.job(first.JobID)), bare(second.Job))
	k.wantEqual("the second attempt", k.attempt(second.ID).State, dayfly.AttemptRunning)
	k.end(k.success(second))
}

func endDiffers(k *kit) {
	a := k.running()
	want := k.end(k.success(a))
	_, err := k.store.End(k.ctx, k.failure(a, dayfly.Failed))
	k.wantKind("another end", err, fault.StaleAttempt)
	k.wantEqual("the job", bare(k.job(a.JobID)), want)
}

func endUnclaimedTwice(k *kit) {
	a := k.launch(k.submit())
	e := k.neverStarted(a)
	k.end(e)
	_, err := k.store.End(k.ctx, e)
	k.wantKind("the same end again", err, fault.StaleAttempt)
}

func endBeforeClaim(k *kit) {
	a := k.launch(k.submit())
	e := k.neverStarted(a)
	running := k.claim(a.ID, "agent/1")
	_, err := k.store.End(k.ctx, e)
	k.wantKind("giving up an attempt that was claimed meanwhile", err, fault.StaleAttempt)
	k.wantEqual("the job", bare(k.job(a.JobID)), bare(running.Job))
}

func endAfterCancel(k *kit) {
	a := k.running()
	e := k.success(a)
	marked := k.cancel(bare(a.Job))
	_, err := k.store.End(k.ctx, e)
	k.wantKind("an end that does not know of the cancel", err, fault.Conflict)
	k.wantEqual("the job", bare(k.job(a.JobID)), marked)
	k.wantEqual("number of events", len(k.events(a.JobID)), 4)
	e.JobVersion, e.State = marked.Version, dayfly.AttemptCanceled
	e.Job = store.Next{State: dayfly.Canceled, Reason: dayfly.ReasonCanceled}
	k.wantEqual("the job's state in the end", k.end(e).State, dayfly.Canceled)
	_, err = k.store.Move(k.ctx, k.cancelMove(bare(a.Job)))
	k.wantKind("a cancel after the end", err, fault.Conflict)
}

func endRace(k *kit) {
	a := k.running()
	ends := []*store.Ending{k.success(a), k.failure(a, dayfly.Failed), k.failure(a, dayfly.Queued)}
	errs := race(30, func(i int) error {
		_, err := k.store.End(k.ctx, ends[i%3])
		return err
	})
	k.accepted(errs, fault.StaleAttempt)
	k.wantEqual("number of events", len(k.events(a.JobID)), 4)
	// The two failures differ only in what becomes of the job, so each is an answer to the other.
	succeeded := k.attempt(a.ID).State == dayfly.AttemptSucceeded
	for i, err := range errs {
		if (err == nil) != (succeeded == (i%3 == 0)) {
			k.Errorf("end %d got %v, and the attempt succeeded: %v", i, err, succeeded)
		}
	}
}

func endInvalid(k *kit) {
	a := k.running()
	for _, state := range []dayfly.AttemptState{dayfly.AttemptRunning, dayfly.AttemptBooting, "", "other"} {
		e := k.success(a)
		e.State = state
		_, err := k.store.End(k.ctx, e)
		k.wantKind(fmt.Sprintf("the end of an attempt in state %q", state), err, fault.Invalid)
	}
	for _, state := range []dayfly.State{dayfly.Created, dayfly.Starting, dayfly.Running, "", "other"} {
		e := k.success(a)
		e.Job.State = state
		_, err := k.store.End(k.ctx, e)
		k.wantKind(fmt.Sprintf("an end after which the job is %q", state), err, fault.Invalid)
	}
}

func endArtifacts(k *kit) {
	a := k.running()
	e := k.failure(a, dayfly.Queued)
	e.Artifacts = []dayfly.Artifact{{Name: "log", Size: 1, SHA256: "1"}, {Name: "core", Size: 2, SHA256: "2"}}
	job := k.end(e)
	k.wantEqual("artifacts after the first attempt", len(k.job(job.ID).Artifacts), 2)
	a = k.claim(k.launch(job).ID, "agent/2")
	k.wantEqual("artifacts during the second", len(k.job(job.ID).Artifacts), 0)
	e = k.success(a)
	e.Artifacts = []dayfly.Artifact{{Name: "log", Size: 3, SHA256: "3"}}
	k.end(e)
	k.wantEqual("artifacts after the second", k.job(job.ID).Artifacts, e.Artifacts)
}

func endKeeps(k *kit) {
	a := k.running()
	e := k.success(a)
	e.State, e.Job.State, e.KeepUntil = dayfly.AttemptFailed, dayfly.Failed, e.Time.Add(time.Hour)
	k.end(e)
	m := k.machine(k.attempt(a.ID).Machine.Name)
	k.wantEqual("the state of a machine that is kept", m.State, store.MachineKept)
	k.wantEqual("until when it is kept", m.DeleteAt, e.KeepUntil)
	kept, err := k.store.Machines(k.ctx, &store.MachineQuery{States: []store.MachineState{store.MachineKept}, Limit: 10})
	k.must(err)
	k.wantEqual("the machines that are kept", len(kept), 1)
	expendable, err := k.store.Expendable(k.ctx, e.Time.Add(24*time.Hour), 10)
	k.must(err)
	k.wantEqual("the jobs that may be removed while a machine is kept", len(expendable), 0)
	if err := k.store.Delete(k.ctx, a.JobID); !errors.Is(err, fault.Conflict) {
		k.Errorf("Delete of a job whose machine is kept: got error %v, want fault.Conflict", err)
	}

	b := k.running()
	name, at := k.attempt(b.ID).Machine.Name, k.now()
	k.must(k.store.MoveMachine(k.ctx, []*store.MachineMove{{
		Name: name, From: []store.MachineState{store.MachinePresent}, To: store.MachineDeleting, Time: at,
	}}))
	e = k.success(b)
	e.KeepUntil = e.Time.Add(time.Hour)
	k.end(e)
	k.wantEqual("the state of a machine that was being deleted, and then to be kept", k.machine(name).State, store.MachineDeleting)
	k.wantEqual("since when it is being deleted", k.machine(name).DeleteAt, at)
}

func endMachine(k *kit) {
	a := k.running()
	name := k.attempt(a.ID).Machine.Name
	at := k.now()
	k.must(k.store.MoveMachine(k.ctx, []*store.MachineMove{{
		Name: name, From: []store.MachineState{store.MachinePresent}, To: store.MachineDeleting, Time: at,
	}}))
	k.end(k.success(a))
	k.wantEqual("since when it is being deleted", k.machine(name).DeleteAt, at)

	b := k.running()
	name = k.attempt(b.ID).Machine.Name
	k.must(k.store.MoveMachine(k.ctx, []*store.MachineMove{{
		Name: name, From: []store.MachineState{store.MachinePresent}, To: store.MachineGone, Time: at.Add(time.Second),
	}}))
	k.end(k.success(b))
	k.wantEqual("the state of a machine that is gone", k.machine(name).State, store.MachineGone)
}
