package engine_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// keeping asks for the machine of a failed job for half an hour.
func keeping(spec *dayfly.JobSpec) { spec.KeepOnFailure = dayfly.Duration(30 * time.Minute) }

func TestAFailedJobsMachineIsKeptForItsTimeAndNoLonger(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.work = fail(3)
		job := f.finished(f.submit(keeping).ID, time.Minute)
		check(t, job, dayfly.Failed, dayfly.ReasonExitNonzero, 1)
		if !strings.Contains(job.Message, "kept until") || !strings.Contains(job.Message, "dayfly shell "+job.ID) {
			t.Errorf("the job's message: got %q, want until when its machine is kept and how to enter it", job.Message)
		}
		for range 25 { // sweeps, and what else could take it for a stray
			wait(t.Context(), time.Minute)
			if got := f.job(job.ID).AttemptLog[0].Machine.State; got != store.MachineKept {
				t.Fatalf("the machine within its time: got %s, want kept", got)
			}
			if n := len(f.cloud.Machines()); n != 1 {
				t.Fatalf("machines within the time: got %d, want 1", n)
			}
		}
		if err := f.engine.Load().Delete(t.Context(), job.ID); !errors.Is(err, fault.Conflict) {
			t.Errorf("Delete of the job: got error %v, want fault.Conflict", err)
		}
		wait(t.Context(), 6*time.Minute)
		f.settled(10 * time.Second)
		wait(t.Context(), time.Second)
		if got := f.job(job.ID).AttemptLog[0].Machine.State; got != store.MachineGone {
			t.Errorf("the machine after its time: got %s, want gone", got)
		}
	})
}

func TestOnlyTheLastAttemptsMachineIsKeptAndOnlyAfterAFailure(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.work = fail(3)
		job := f.finished(f.submit(func(spec *dayfly.JobSpec) {
			keeping(spec)
			spec.Retry.MaxAttempts = 3
		}).ID, time.Hour)
		check(t, job, dayfly.Failed, dayfly.ReasonExitNonzero, 3)
		wait(t.Context(), 10*time.Second)
		if left := f.cloud.Machines(); len(left) != 1 || left[0].Name != f.job(job.ID).AttemptLog[2].Machine.Name {
			t.Errorf("machines after three attempts: got %v, want the last one's", left)
		}
		if _, err := f.engine.Load().Release(t.Context(), job.ID); err != nil {
			t.Errorf("Release: got error %v, want nil", err)
		}
		f.settled(10 * time.Second)
		if _, err := f.engine.Load().Release(t.Context(), job.ID); !errors.Is(err, fault.Conflict) {
			t.Errorf("Release of what is not kept any more: got error %v, want fault.Conflict", err)
		}
		f.work = succeed
		f.finished(f.submit(keeping).ID, time.Minute)
		f.settled(10 * time.Second)
		f.work = workFor(time.Hour)
		canceled := f.submit(keeping)
		wait(t.Context(), 10*time.Second)
		if _, err := f.engine.Load().Cancel(t.Context(), canceled.ID); err != nil {
			t.Fatal(err)
		}
		f.finished(canceled.ID, time.Minute)
		f.settled(10 * time.Second)
	})
}

func TestAKeptMachineSurvivesTheServerAndEndsWithoutIt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, func(o *engine.Options) { o.MaxMachines = map[string]int{"mem": 1} })
		f.work = fail(3)
		job := f.finished(f.submit(keeping).ID, time.Minute)
		f.restart()
		f.work = succeed
		next := f.submit(nil)
		wait(t.Context(), 10*time.Minute)
		if got := f.job(next.ID).State; got != dayfly.Queued {
			t.Errorf("a job behind a provider whose one machine is kept: got %s, want queued", got)
		}
		f.stop()
		wait(t.Context(), 25*time.Minute)
		if m := f.cloud.Machines(); len(m) != 1 || m[0].State != machine.Exited {
			t.Errorf("the machine after its time, without a server: got %+v, want it exited", m)
		}
		f.start()
		check(t, f.finished(next.ID, time.Minute), dayfly.Succeeded, "", 1)
		f.settled(10 * time.Second)
		if got := f.job(job.ID).AttemptLog[0].Machine.State; got != store.MachineGone {
			t.Errorf("the machine that was kept: got %s, want gone", got)
		}
	})
}

func TestAKeptMachineThatEndsEarlyIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.work = fail(3)
		f.finished(f.submit(keeping).ID, time.Minute)
		f.cloud.Exit(f.cloud.Machines()[0].ID, machine.Exit{Code: -1, Signal: "SIGKILL"})
		f.settled(time.Minute)
	})
}

func TestAMachineIsEnteredWhileItsJobRunsOrItIsKept(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.work = func(ctx context.Context, _ *wire.Assignment) wire.Result {
			wait(ctx, time.Minute)
			return fail(3)(ctx, nil)
		}
		job := f.submit(func(spec *dayfly.JobSpec) {
			keeping(spec)
			spec.Env = map[string]string{"COLOR": "red"}
		})
		enter := func(most time.Duration) (*engine.Entrance, error) {
			return f.engine.Load().Enter(t.Context(), job.ID, most)
		}
		wait(t.Context(), 10*time.Second)
		in, err := enter(0)
		if err != nil || in.Kept || in.Left != time.Hour {
			t.Fatalf("Enter of a job that runs: got %+v and error %v, want its machine, for an hour", in, err)
		}
		var out strings.Builder
		exit, err := in.Exec(t.Context(), &machine.Command{Args: []string{"echo", "hello"}, Stdout: &out})
		if err != nil || !exit.OK() || out.String() != "hello\n" {
			t.Errorf("Exec in it: got %+v, %q and error %v, want hello", exit, out.String(), err)
		}
		if _, err := in.Shell(t.Context()); !errors.Is(err, fault.Unsupported) {
			t.Errorf("Shell of a machine without one: got error %v, want fault.Unsupported", err)
		}
		f.finished(job.ID, 2*time.Minute)
		wait(t.Context(), 20*time.Minute)
		if in, err = enter(0); err != nil || !in.Kept || in.Left > 10*time.Minute {
			t.Errorf("Enter of a job whose machine is kept: got %+v and error %v, want it, until it ends", in, err)
		}
		if _, err := enter(48 * time.Hour); !errors.Is(err, fault.Invalid) {
			t.Errorf("Enter for two days: got error %v, want fault.Invalid", err)
		}
		wait(t.Context(), 15*time.Minute)
		if _, err := enter(0); !errors.Is(err, fault.Conflict) {
			t.Errorf("Enter after the machine's time: got error %v, want fault.Conflict", err)
		}
		if _, err := f.engine.Load().Enter(t.Context(), "job_none", 0); !errors.Is(err, fault.NotFound) {
			t.Errorf("Enter of a job that there is not: got error %v, want fault.NotFound", err)
		}
		f.work = fail(1)
		plain := f.finished(f.submit(nil).ID, time.Minute)
		_, err = f.engine.Load().Enter(t.Context(), plain.ID, 0)
		if sentence, _ := fault.Sentence(err); !strings.Contains(sentence, "--keep-on-failure") {
			t.Errorf("Enter of a failed job that keeps nothing: got %q, want it to say how to keep one", sentence)
		}
	})
}
