package engine_test

import (
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// A job on a machine that waits is claimed by its launch, and the agent is told in the answer to the call in which it waits.
// Here that call is cut off in the moment in which the launch is committed.

// givenUnheard returns a fleet with one warm machine, and a job that was given to it, of which its agent has not been told
// because the line is cut. The job has been submitted, or, when it was waiting, launched.
func givenUnheard(t *testing.T, write string) (*fleet, *store.Job) {
	t.Helper()
	f, memory := newForgetfulFleet(t, func(o *engine.Options) {
		warm(nil)(o)
		o.Queues = map[string]engine.QueueLimits{"one": {Concurrency: 1}}
	})
	first := f.ran(func(spec *dayfly.JobSpec) { spec.Queue = "one" })
	if write == "launch" {
		f.work = workFor(10 * time.Second)
		f.submit(func(spec *dayfly.JobSpec) { spec.Queue = "one" }) // it has the queue's only place, and no pool
	}
	memory.set(func(w string) fate {
		if w == write {
			f.cut()
			memory.fate = nil // decide holds the lock
		}
		return done
	})
	job := f.submit(func(spec *dayfly.JobSpec) { inWarm(spec); spec.Queue = "one" })
	if write == "launch" {
		wait(t.Context(), 11*time.Second)
	}
	f.work = succeed
	job = f.job(job.ID)
	if job.State != dayfly.Running || machineOf(job) != machineOf(first) {
		t.Fatalf("the job: got %s on machine %s, want it running on the warm one, %s", job.State, machineOf(job), machineOf(first))
	}
	return f, job
}

func TestAnAgentThatComesBackInTimeIsToldOfTheJobThatItWasGiven(t *testing.T) {
	t.Parallel()
	for _, write := range []string{"submit", "launch"} {
		t.Run(write, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				f, job := givenUnheard(t, write)
				wait(t.Context(), 2*time.Second)
				f.mend()
				again := f.finished(job.ID, time.Minute)
				check(t, again, dayfly.Succeeded, "", 1)
				if machineOf(again) != machineOf(job) {
					t.Error("the job went on on another machine")
				}
				wait(t.Context(), time.Second)
				f.wantPool("afterwards", map[string]int{"idle": 1})
			})
		})
	}
}

func TestAnAgentThatComesBackFindsItsJobWithTheNextServer(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, job := givenUnheard(t, "submit")
		f.restart()
		wait(t.Context(), 20*time.Second) // the next server cannot know that the agent was not told
		f.mend()
		check(t, f.finished(job.ID, time.Minute), dayfly.Succeeded, "", 1)
		wait(t.Context(), time.Second)
		f.wantPool("afterwards", map[string]int{"idle": 1})
	})
}

func TestAJobOfWhichNoAgentWasToldGoesOnElsewhereAndNothingIsCounted(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*fleet, *store.Job){
		"its agent does not come back": func(f *fleet, _ *store.Job) { wait(f.t.Context(), 6*time.Second) },
		"its machine ends": func(f *fleet, job *store.Job) {
			f.cloud.Exit(job.AttemptLog[0].Machine.ID, machine.Exit{Code: -1, Signal: "SIGKILL"})
			wait(f.t.Context(), time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				f, job := givenUnheard(t, "submit")
				lose(f, job)
				if got := f.job(job.ID).Number; got != 2 {
					t.Errorf("when its machine was given up: got attempt %d, want another at once", got)
				}
				f.mend()
				done := f.finished(job.ID, time.Minute)
				check(t, done, dayfly.Succeeded, "", 2)
				if a := done.AttemptLog[0]; a.State != dayfly.AttemptNeverStarted || done.Starts != 1 || done.Launches != 0 {
					t.Errorf("got %s, %d starts and %d failed launches in all; want never_started, 1 and 0", a.State, done.Starts, done.Launches)
				}
				if machineOf(job) == machineOf(done) {
					t.Error("the job went on on the machine whose agent had not been told")
				}
				if total, most := f.startsOf(); total != 2 || most != 1 {
					t.Errorf("commands started: got %d, at most %d in one attempt; want 2 and 1", total, most)
				}
				wait(t.Context(), 5*time.Second)
				f.wantPool("afterwards", map[string]int{"idle": 1})
			})
		})
	}
}

func TestAJobOfWhichNoAgentWasToldIsCanceledAndItsMachineIsAsGoodAsBefore(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f, job := givenUnheard(t, "submit")
		if _, err := f.engine.Load().Cancel(t.Context(), job.ID); err != nil {
			t.Fatal(err)
		}
		check(t, f.finished(job.ID, time.Second), dayfly.Canceled, dayfly.ReasonCanceled, 1)
		f.wantPool("when its job is canceled", map[string]int{"idle": 1})
		f.mend()
		wait(t.Context(), 2*time.Second)
		next := f.ran(func(spec *dayfly.JobSpec) { spec.Queue = "one" })
		check(t, next, dayfly.Succeeded, "", 1)
		if machineOf(next) != machineOf(job) {
			t.Error("the next job got another machine")
		}
	})
}

func TestAnAgentIsToldOfAJobWhoseLaunchWasNotHeardOf(t *testing.T) {
	t.Parallel()
	for _, write := range []string{"submit", "launch"} {
		t.Run(write, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				f, memory := newForgetfulFleet(t, func(o *engine.Options) {
					warm(nil)(o)
					o.Queues = map[string]engine.QueueLimits{"one": {Concurrency: 1}}
				})
				first := f.ran(func(spec *dayfly.JobSpec) { spec.Queue = "one" })
				if write == "launch" {
					f.work = workFor(10 * time.Second)
					f.submit(func(spec *dayfly.JobSpec) { spec.Queue = "one" })
				}
				memory.times(1, write, lost)
				wish := &engine.Submission{Spec: dayfly.JobSpec{Command: []string{"true"}, Pool: "warm", Queue: "one"}, Key: "k", BodyHash: []byte("b")}
				job, _, err := f.engine.Load().Submit(t.Context(), wish)
				if err != nil {
					job, _, err = f.engine.Load().Submit(t.Context(), wish)
				}
				if err != nil {
					t.Fatal(err)
				}
				done := f.finished(job.ID, time.Minute)
				check(t, done, dayfly.Succeeded, "", 1)
				if machineOf(done) != machineOf(first) {
					t.Error("the job was not carried out by the machine that it was given to")
				}
				wait(t.Context(), time.Second)
				f.wantPool("afterwards", map[string]int{"idle": 1})
			})
		})
	}
}
