package engine_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// divided gives an engine a pool "warm" of two machines at most, on each of which four jobs run at once.
func divided(change func(*engine.Pool)) func(*engine.Options) {
	return warm(func(p *engine.Pool) {
		p.Concurrency = 4
		if change != nil {
			change(p)
		}
	})
}

func (f *fleet) wantSlots(what string, want map[string]int) {
	f.t.Helper()
	pools, err := f.engine.Load().Pools(f.t.Context())
	if err != nil || len(pools) != 1 || !maps.Equal(pools[0].Slots, want) {
		f.t.Errorf("the slots of the pool %s: got %+v and error %v, want %v", what, pools, err, want)
	}
}

// hostOf returns the machine that a job's last attempt was on.
func hostOf(job *store.Job) string {
	host, _ := wire.SlotOf(machineOf(job))
	return host
}

// submitMany submits jobs of the pool.
func (f *fleet) submitMany(n int) (jobs []string) {
	f.t.Helper()
	for range n {
		jobs = append(jobs, f.submit(inWarm).ID)
	}
	return jobs
}

func TestABurstOfJobsMakesAsManyMachinesAsItFillsAndRunsSideBySide(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, divided(func(p *engine.Pool) { p.Max = 6 }))
		f.work = workFor(time.Minute)
		f.cloud.Fail(memmachine.Create, memmachine.Delay(5*time.Second)).Times(6)
		jobs := f.submitMany(8)
		wait(t.Context(), time.Second)
		why, err := f.engine.Load().Why(t.Context(), jobs[7])
		if err != nil || !slices.ContainsFunc(why.Answers, func(a string) bool { return strings.Contains(a, "pool warm boots") }) {
			t.Errorf("Why of a job that waits for a machine: got %v and error %v, want that one boots", why, err)
		}
		wait(t.Context(), 10*time.Second)
		f.wantPool("with eight jobs", map[string]int{"busy": 2})
		f.wantSlots("with eight jobs", map[string]int{"busy": 8})
		on := map[string]int{}
		for _, id := range jobs {
			job := f.finished(id, 90*time.Second)
			check(t, job, dayfly.Succeeded, "", 1)
			on[hostOf(job)]++
		}
		for host, n := range on {
			if n != 4 {
				t.Errorf("jobs on machine %s: got %d, want 4", host, n)
			}
		}
		if n := f.cloud.Calls(memmachine.Create); n != 2 {
			t.Errorf("creates for eight jobs: got %d, want 2", n)
		}
		wait(t.Context(), time.Second)
		f.wantSlots("afterwards", map[string]int{"idle": 8})
		wait(t.Context(), 6*time.Minute)
		f.settled(time.Minute)
		wait(t.Context(), time.Second) // until the engine has been told, too
		f.wantSlots("when nobody has used it for a while", map[string]int{})
	})
}

func TestABurstThatIsLaunchedAtOnceMakesAsManyMachinesAsItFills(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, divided(func(p *engine.Pool) { p.Max = 6 }))
		f.work = workFor(time.Minute)
		var jobs []string
		for range 10 { // which become ready together
			jobs = append(jobs, f.submit(func(s *dayfly.JobSpec) {
				inWarm(s)
				at := time.Now().Add(time.Minute)
				s.RunAt = &at
			}).ID)
		}
		for _, id := range jobs {
			check(t, f.finished(id, time.Hour), dayfly.Succeeded, "", 1)
		}
		if n := f.cloud.Calls(memmachine.Create); n != 3 {
			t.Errorf("creates for ten jobs, four on each machine: got %d, want 3", n)
		}
	})
}

func TestJobsGatherOnTheMachineThatHasTheMost(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, divided(func(p *engine.Pool) { p.Min = 2 }))
		wait(t.Context(), 10*time.Second)
		f.work = workFor(time.Minute)
		on := map[string]int{}
		for range 4 {
			id := f.submitMany(1)[0]
			wait(t.Context(), time.Second)
			on[hostOf(f.job(id))]++
		}
		if len(on) != 1 {
			t.Errorf("machines of four jobs that came one by one: got %v, want one", on)
		}
	})
}

func TestAMachineIsCountedOnceHoweverManyJobsItHas(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, func(o *engine.Options) {
			divided(nil)(o)
			o.MaxMachines = map[string]int{"mem": 1}
		})
		f.work = workFor(10 * time.Minute)
		room := func(what string, want int) {
			t.Helper()
			if got := f.engine.Load().Room("mem"); got != want {
				t.Errorf("the room %s: got %d, want %d", what, got, want)
			}
		}
		room("without a job", 1)
		jobs := f.submitMany(3)
		room("while its machine is made", 0)
		wait(t.Context(), 10*time.Second)
		f.wantSlots("with three jobs", map[string]int{"busy": 3, "idle": 1})
		room("with three jobs", 0)
		f.restart()
		wait(t.Context(), 10*time.Second)
		room("after a restart", 0)
		f.submitMany(1) // is launched as it is submitted
		wait(t.Context(), time.Second)
		f.wantSlots("with four jobs", map[string]int{"busy": 4})
		listed, err := f.store.Machines(t.Context(), &store.MachineQuery{Limit: 10})
		if err != nil || len(listed) != 1 || len(listed[0].Slots) != 4 || listed[0].State != store.MachinePresent {
			t.Errorf("Machines: got %+v and error %v, want one with four slots", listed, err)
		}
		for _, id := range jobs {
			check(t, f.finished(id, time.Hour), dayfly.Succeeded, "", 1)
		}
		wait(t.Context(), 20*time.Minute)
		f.settled(time.Minute)
		room("when it is gone", 1)
	})
}

func TestAMachineThatAJobHasSpoiledCarriesOutTheOthersAndNoMore(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, divided(func(p *engine.Pool) { p.Max = 1 }))
		f.work = func(ctx context.Context, a *wire.Assignment) wire.Result {
			if a.Env["SPOIL"] == "" {
				wait(ctx, 10*time.Minute)
			}
			return succeed(ctx, a)
		}
		f.spoil = func(a *wire.Assignment) string { return a.Env["SPOIL"] }
		long := f.submitMany(2)
		wait(t.Context(), 10*time.Second)
		spoils := f.ran(func(s *dayfly.JobSpec) { s.Env = map[string]string{"SPOIL": "/etc/passwd was changed."} })
		check(t, spoils, dayfly.Succeeded, "", 1)
		wait(t.Context(), 5*time.Second)
		f.wantSlots("with a machine that was spoiled", map[string]int{"busy": 2, "draining": 2})
		f.wantPool("with a machine that was spoiled", map[string]int{"busy": 1})
		next := f.ran(func(s *dayfly.JobSpec) { s.Env = map[string]string{"SPOIL": "no more"} })
		if hostOf(next) == hostOf(spoils) {
			t.Error("a job that came later: got the machine that was spoiled, want another")
		}
		for _, id := range long {
			job := f.finished(id, time.Hour)
			check(t, job, dayfly.Succeeded, "", 1)
			if hostOf(job) != hostOf(spoils) {
				t.Errorf("the machine of a job beside it: got %s, want %s", hostOf(job), hostOf(spoils))
			}
		}
		f.settled(time.Minute)
		wait(t.Context(), time.Second) // until the engine has been told, too
		f.wantSlots("when it is gone", map[string]int{})
	})
}

func TestAMachineThatIsDestroyedUnderAJobIsDestroyedUnderThoseBesideIt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, divided(nil))
		f.work = workFor(30 * time.Minute)
		var muted atomic.Value
		muted.Store("")
		f.mute = func(a *wire.Assignment) bool { return a.Job == muted.Load() && a.Number == 1 }
		jobs := f.submitMany(1)
		wait(t.Context(), 5*time.Second)
		for range 2 {
			jobs = append(jobs, f.submit(func(s *dayfly.JobSpec) { inWarm(s); s.Retry.MaxAttempts = 2 }).ID)
		}
		wait(t.Context(), 5*time.Second)
		muted.Store(jobs[2]) // is destroyed when it has been silent for long
		for i, id := range jobs {
			job := f.finished(id, 3*time.Hour)
			if first := job.AttemptLog[0]; first.State != dayfly.AttemptLost {
				t.Errorf("the first attempt of job %d: got %s, want lost", i, first.State)
			}
			if want := map[bool]dayfly.State{true: dayfly.Failed, false: dayfly.Succeeded}[i == 0]; job.State != want {
				t.Errorf("job %d: got %s, want %s: %s", i, job.State, want, job.Message)
			}
		}
		total, most := f.startsOf()
		if total != 5 || most != 1 {
			t.Errorf("starts of user code: got %d, and %d of one attempt, want 5 and 1", total, most)
		}
		wait(t.Context(), 10*time.Minute)
		f.settled(time.Minute)
	})
}

func TestAMachineThatEndsEndsTheAttemptsInAllItsSlotsAtOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, divided(nil))
		f.work = workFor(30 * time.Minute)
		jobs := f.submitMany(3)
		wait(t.Context(), 10*time.Second)
		f.cloud.Exit(f.cloud.Machines()[0].ID, machine.Exit{Code: -1, Signal: "SIGKILL"})
		wait(t.Context(), 10*time.Second) // which is less than an agent may be silent
		for i, id := range jobs {
			if first := f.job(id).AttemptLog[0]; first.State != dayfly.AttemptLost || first.Reason != dayfly.ReasonMachineLost {
				t.Errorf("the attempt of job %d on a machine that has ended: got %s (%s), want it lost with the machine", i, first.State, first.Reason)
			}
		}
		for _, id := range jobs {
			f.finished(id, 3*time.Hour)
		}
		f.settled(time.Minute)
	})
}

func TestAServerThatIsKilledWhileItGivesUpAMachineGoesOnWithThat(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, divided(nil))
		f.work = func(ctx context.Context, a *wire.Assignment) wire.Result {
			if a.Env["SPOIL"] != "" {
				return succeed(ctx, a)
			}
			return workFor(10*time.Minute)(ctx, a)
		}
		f.spoil = func(a *wire.Assignment) string { return a.Env["SPOIL"] }
		long := f.submitMany(2)
		wait(t.Context(), 10*time.Second)
		f.ran(func(s *dayfly.JobSpec) { s.Env = map[string]string{"SPOIL": "It is dirty."} })
		f.restart()
		wait(t.Context(), 5*time.Second)
		f.wantSlots("after a restart", map[string]int{"busy": 2, "draining": 2})
		for _, id := range long {
			check(t, f.finished(id, time.Hour), dayfly.Succeeded, "", 1)
			f.restart()
		}
		wait(t.Context(), 5*time.Second)
		f.settled(time.Minute)
	})
}

func TestTenantsShareNoMachineAtOnceEither(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, divided(func(p *engine.Pool) { p.Min, p.Max = 1, 8 }))
		wait(t.Context(), 10*time.Second) // one waits, and is nobody's
		f.work = workFor(time.Minute)
		var jobs []string
		for range 3 {
			for _, queue := range []string{"red", "blue", "green"} {
				jobs = append(jobs, f.submit(func(s *dayfly.JobSpec) { inWarm(s); s.Queue = queue }).ID)
			}
		}
		whose := map[string]string{} // by machine
		for _, id := range jobs {
			job := f.finished(id, 10*time.Minute)
			check(t, job, dayfly.Succeeded, "", 1)
			if had := whose[hostOf(job)]; had != "" && had != job.Queue {
				t.Errorf("a job of queue %s: got a machine of queue %s", job.Queue, had)
			}
			whose[hostOf(job)] = job.Queue
		}
		if len(whose) != 3 {
			t.Errorf("machines of three tenants: got %v, want one each", whose)
		}
	})
}

func TestTheUsesOfAMachineAreThoseOfAllItsSlots(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, divided(func(p *engine.Pool) { p.MaxUses, p.Max = 3, 9 }))
		f.work = workFor(time.Minute)
		var all []string
		for range 3 {
			jobs := f.submitMany(5)
			all = append(all, jobs...)
			wait(t.Context(), 90*time.Second)
		}
		uses := map[string]int{}
		for _, id := range all {
			uses[hostOf(f.finished(id, time.Hour))]++
		}
		for host, n := range uses {
			if n > 3 {
				t.Errorf("jobs of machine %s: got %d, want 3 at most", host, n)
			}
		}
		if len(uses) > 8 {
			t.Errorf("machines for fifteen jobs, three on each: got %d, want about 5", len(uses))
		}
	})
}

func TestAJobDoesNotWaitForAMachineThatWillNeverBeReady(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, divided(nil))
		f.stillborn.Store(true)
		for _, id := range f.submitMany(6) {
			job := f.finished(id, time.Hour)
			if job.State != dayfly.Succeeded {
				t.Errorf("a job whose pool has no luck: got %s, want succeeded: %s", job.State, job.Message)
			}
		}
		if n := f.cloud.Calls(memmachine.Create); n > 20 {
			t.Errorf("creates for six jobs: got %d, want few", n)
		}
	})
}

func TestAPoolKeepsItsLeastOfMachinesNotOfSlots(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, divided(func(p *engine.Pool) { p.Min, p.Max, p.Prewarm = 1, 3, 0.5 }))
		wait(t.Context(), 10*time.Second)
		f.wantPool("without a job", map[string]int{"idle": 1})
		f.work = workFor(20 * time.Minute)
		f.submitMany(2)
		wait(t.Context(), 10*time.Second)
		f.wantPool("with half of its slots in use", map[string]int{"busy": 1})
		f.submitMany(1)
		wait(t.Context(), 10*time.Second)
		f.wantPool("with more of them", map[string]int{"busy": 1, "idle": 1})
		wait(t.Context(), time.Hour)
		f.wantPool("when all is over", map[string]int{"idle": 1})
		f.cloud.Exit(f.cloud.Machines()[0].ID, machine.Exit{Code: -1, Signal: "SIGKILL"})
		wait(t.Context(), 10*time.Second)
		f.wantPool("when that was killed", map[string]int{"idle": 1})
		f.wantSlots("when that was killed", map[string]int{"idle": 4})
	})
}

func TestASlotCostsItsShareOfTheMachine(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, func(o *engine.Options) {
			divided(func(p *engine.Pool) { p.Max = 1 })(o)
			o.Prices = map[string]machine.Pricer{"mem": fixed{&machine.Price{Rate: 4 * machine.DollarPerHour}}}
		})
		f.work = workFor(time.Hour)
		jobs := f.submitMany(2)
		for _, id := range jobs {
			f.finished(id, 2*time.Hour)
		}
		wait(t.Context(), 10*time.Minute)
		f.settled(time.Minute)
		wait(t.Context(), time.Minute)
		costs, err := f.store.Costs(t.Context(), "2000-01-01", "2001-01-01")
		if err != nil {
			t.Fatal(err)
		}
		paid := map[string]float64{}
		for _, c := range costs {
			paid[c.Queue] += float64(c.Amount) / float64(machine.Dollar)
		}
		if got := paid["default"]; got < 1.99 || got > 2.05 {
			t.Errorf("what two jobs of an hour cost on a quarter each of a machine for four dollars: got %.3f, want 2", got)
		}
		if got := paid["pool:warm"]; got < 2.2 || got > 2.6 {
			t.Errorf("what the rest of the machine costs its pool: got %.3f, want 2 for the hour and some for the minutes after", got)
		}
	})
}

func TestAPoolIsNotDividedSoThatNothingWorks(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		o := newFleet(t, nil).options
		for why, change := range map[string]func(*engine.Pool){
			"negative":         func(p *engine.Pool) { p.Concurrency = -1 },
			"too many":         func(p *engine.Pool) { p.Concurrency = wire.MaxSlots + 1 },
			"no machine twice": func(p *engine.Pool) { p.OneUse = true },
		} {
			divided(change)(&o)
			if _, err := engine.New(o); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "pools.warm.concurrency") {
				t.Errorf("a pool with %s: got error %v, want fault.Invalid about its concurrency", why, err)
			}
		}
	})
}
