package engine_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// Jobs that wait for a machine of a pool which boots, and machines whose slots take their time.

// why returns what is said of a job.
func (f *fleet) why(id string) string {
	f.t.Helper()
	w, err := f.engine.Load().Why(f.t.Context(), id)
	if err != nil {
		f.t.Fatal(err)
	}
	return strings.Join(w.Answers, " ")
}

func TestSlotsWaitAsLongAsWhatTheirMachineIsMadeOfIsFetched(t *testing.T) {
	t.Parallel()
	for name, least := range map[string]int{"made by the pool": 1, "made for a job": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				f := newFleet(t, func(o *engine.Options) {
					divided(func(p *engine.Pool) { p.Min, p.Max = least, 1 })(o)
				})
				f.cloud.Fail(memmachine.Prepare, pulling(9*time.Minute))
				f.work = workFor(10 * time.Minute)
				var jobs []string
				if least == 0 {
					jobs = f.submitMany(3)
				}
				wait(t.Context(), 9*time.Minute+30*time.Second) // longer than the boot timeout
				if least == 1 {
					f.wantSlots("when its image was fetched", map[string]int{"idle": 4})
					jobs = f.submitMany(3)
					wait(t.Context(), time.Second)
				}
				f.wantSlots("with three jobs", map[string]int{"busy": 3, "idle": 1})
				for _, id := range jobs {
					check(t, f.finished(id, time.Hour), dayfly.Succeeded, "", 1)
				}
				if n := f.cloud.Calls(memmachine.Create); n != 1 {
					t.Errorf("creates: got %d, want 1", n)
				}
			})
		})
	}
}

func TestSlotsWaitAsLongAsTheBootTimeoutOfTheJobThatTheirMachineIsMadeFor(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, divided(nil))
		f.work = func(ctx context.Context, a *wire.Assignment) wire.Result { return succeed(ctx, a) }
		f.dozes = 12 * time.Minute
		job := f.submit(func(s *dayfly.JobSpec) { inWarm(s); s.Timeouts.Boot = dayfly.Duration(20 * time.Minute) })
		check(t, f.finished(job.ID, time.Hour), dayfly.Succeeded, "", 1)
		wait(t.Context(), time.Second)
		f.wantSlots("of a machine that has booted for long", map[string]int{"idle": 4})
	})
}

func TestAMachineThatCannotBeDividedIsAMachineOfOneSlot(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, divided(func(p *engine.Pool) { p.Max = 1 }))
		f.undivided.Store(true)
		f.work = workFor(time.Minute)
		first := f.submitMany(1)[0]
		wait(t.Context(), 5*time.Second)
		second := f.submitMany(1)[0] // waits for a slot, and then no more
		check(t, f.finished(first, 10*time.Minute), dayfly.Succeeded, "", 1)
		done := f.finished(second, 10*time.Minute)
		check(t, done, dayfly.Succeeded, "", 1)
		if waited := done.AttemptLog[0].CreatedAt.Sub(done.CreatedAt); waited > 2*time.Minute {
			t.Errorf("a job waited %v for slots that never came, want about a minute", waited)
		}
		third := f.submitMany(1)[0]
		wait(t.Context(), 4*time.Minute) // longer than a boot may take
		f.wantSlots("when the others have not called for long", map[string]int{"idle": 1, "warming": 3})
		fourth := f.ran(nil)
		if hostOf(f.job(third)) != hostOf(f.job(first)) || hostOf(fourth) != hostOf(f.job(first)) {
			t.Error("the machine of jobs that came later: got another, want the same")
		}
		wait(t.Context(), 10*time.Minute)
		f.settled(time.Minute)
		wait(t.Context(), time.Second) // until the engine has been told, too
		f.wantSlots("when nobody has used it for a while", map[string]int{})
	})
}

func TestAJobThatWaitsForAMachineHasItsPlaceInTheQueueAndOfItsKey(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, func(o *engine.Options) {
			divided(func(p *engine.Pool) { p.Max = 1 })(o)
			o.Queues = map[string]engine.QueueLimits{"default": {Concurrency: 4, KeyConcurrency: 1}}
		})
		f.work = workFor(10 * time.Minute)
		f.dozes = time.Minute
		keyed := func(key string, pooled bool) string {
			return f.submit(func(s *dayfly.JobSpec) {
				if pooled {
					inWarm(s)
				}
				s.ConcurrencyKey = key
			}).ID
		}
		keyed("a", true) // the machine is made for this one
		wait(t.Context(), time.Second)
		held := keyed("a", true)
		waits, next := keyed("b", true), keyed("c", true)
		fits, late := keyed("", false), keyed("", false)
		wait(t.Context(), 10*time.Second)
		for id, want := range map[string]dayfly.State{waits: dayfly.Queued, next: dayfly.Queued, fits: dayfly.Running, late: dayfly.Queued} {
			if got := f.job(id).State; got != want {
				t.Errorf("a job while the machine boots: got %s, want %s", got, want)
			}
		}
		wait(t.Context(), 2*time.Minute)
		for id, want := range map[string]dayfly.State{held: dayfly.Queued, waits: dayfly.Running, next: dayfly.Running, fits: dayfly.Running, late: dayfly.Queued} {
			if got := f.job(id).State; got != want {
				t.Errorf("a job when the machine is ready: got %s, want %s", got, want)
			}
		}
	})
}

func TestManyJobsThatWaitForAMachineKeepNoOtherWaiting(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, divided(func(p *engine.Pool) { p.Concurrency = wire.MaxSlots }))
		f.work = workFor(time.Minute)
		f.dozes = 4 * time.Minute
		f.submitMany(100)
		plain := f.submit(nil).ID
		wait(t.Context(), 10*time.Second)
		if got := f.job(plain).State; got != dayfly.Running {
			t.Errorf("a job of no pool behind a hundred that wait: got %s, want running", got)
		}
	})
}

func TestAMachineOfAsManyUsesAsAreAllowedIsWaitedForByNobodyElse(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, divided(func(p *engine.Pool) { p.MaxUses = 1 }))
		f.work = workFor(time.Minute)
		f.dozes = time.Minute
		jobs := f.submitMany(2)
		wait(t.Context(), 10*time.Second)
		for _, id := range jobs {
			if got := f.job(id).State; got != dayfly.Starting {
				t.Errorf("a job whose machine is for one job: got %s, want starting", got)
			}
		}
	})
}

func TestWhyIsTrueOfMachinesThatArePoolsAndOfThoseThatBoot(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, func(o *engine.Options) {
			divided(nil)(o)
			o.MaxMachines = map[string]int{"mem": 2}
		})
		f.work = workFor(10 * time.Minute)
		f.dozes = time.Minute
		f.submitMany(2)
		wait(t.Context(), 5*time.Second)
		f.submit(nil)
		wait(t.Context(), 5*time.Second)
		other := f.submit(func(s *dayfly.JobSpec) { inWarm(s); s.Queue = "other" }).ID
		wait(t.Context(), 5*time.Second)
		if said := f.why(other); strings.Contains(said, "boots that has room for it") {
			t.Errorf("why says %q of a job that may not share the machine that boots", said)
		}
		wait(t.Context(), 2*time.Minute)
		f.restart()
		wait(t.Context(), 5*time.Second)
		if said := f.why(other); !strings.Contains(said, "as many machines as it may have: 2 of 2") {
			t.Errorf("why says %q, want that the provider has as many machines as it may have", said)
		}
	})
}

func TestJobsInEverySlotAreToldAlikeThatTheirMachineEnded(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, divided(nil))
		f.work = workFor(time.Hour)
		f.submitMany(1)
		wait(t.Context(), 10*time.Second)
		jobs := f.submitMany(2)
		wait(t.Context(), 10*time.Second)
		f.restart() // which of two instances of that name has them is not known any more
		wait(t.Context(), 10*time.Second)
		f.cloud.Exit(f.cloud.Machines()[0].ID, machine.Exit{Code: -1, Signal: "SIGKILL"})
		for _, id := range jobs {
			check(t, f.finished(id, 5*time.Second), dayfly.Failed, dayfly.ReasonMachineLost, 1)
		}
	})
}

func TestAJobIsToldThatItsMachineWasDestroyedBecauseOfAnother(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, func(o *engine.Options) {
			divided(nil)(o)
			o.MaxMachines = map[string]int{"mem": 1}
		})
		f.work = workFor(6 * time.Hour)
		f.submitMany(1)
		wait(t.Context(), 10*time.Second)
		beside := f.submitMany(1)[0]
		stuck := f.submit(func(s *dayfly.JobSpec) { inWarm(s); s.Timeouts.Run = dayfly.Duration(5 * time.Minute) }).ID
		wait(t.Context(), 10*time.Second)
		f.restart() // none of them is the one that its machine is counted with
		wait(t.Context(), 5*time.Minute)
		f.cloud.Fail(memmachine.Destroy, memmachine.Delay(59*time.Second)) // less than is waited for an answer
		wait(t.Context(), 90*time.Second)
		if got := f.engine.Load().Room("mem"); got != 0 {
			t.Errorf("the room while a machine is destroyed under its jobs: got %d, want 0", got)
		}
		check(t, f.finished(stuck, 5*time.Minute), dayfly.Failed, dayfly.ReasonTimeout, 1)
		job := f.finished(beside, time.Minute)
		check(t, job, dayfly.Failed, dayfly.ReasonMachineLost, 1)
		if !strings.Contains(job.Message, "because of another job there") {
			t.Errorf("what the job beside it is told: got %q, want that it was because of another", job.Message)
		}
	})
}

// quiet is a provider that tells of its machines only when it is asked.
type quiet struct {
	machine.Provider
	machine.Execer
}

func TestTheMachineOfAJobInAnySlotCanBeEnteredThoughItsCreationWasAnsweredLate(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, func(o *engine.Options) {
			divided(nil)(o)
			p := o.Providers["mem"]
			o.Providers = map[string]machine.Provider{"mem": quiet{p, p.(machine.Execer)}}
		})
		wait(t.Context(), time.Second) // after the first sweep, so that nobody sees the machine before its agent calls
		f.cloud.Fail(memmachine.Create, func(ctx context.Context, c *memmachine.Call) error {
			err := c.Do(ctx)
			wait(ctx, 10*time.Second)
			return err
		})
		f.work = workFor(time.Hour)
		f.submitMany(1)
		wait(t.Context(), time.Second) // its slots have called
		second := f.submitMany(1)[0]
		for range 2 { // before that answer, and after it
			wait(t.Context(), time.Second)
			if _, err := f.engine.Load().Enter(t.Context(), second, 0); err != nil {
				t.Errorf("Enter of a job in the second slot: got error %v, want its machine", err)
			}
			wait(t.Context(), 10*time.Second)
		}
	})
}
