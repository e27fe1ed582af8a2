package engine_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
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

// warm gives an engine a pool "warm" of two machines at most.
func warm(change func(*engine.Pool)) func(*engine.Options) {
	return func(o *engine.Options) {
		p := engine.Pool{Max: 2, Idle: 5 * time.Minute, MaxAge: 12 * time.Hour}
		if change != nil {
			change(&p)
		}
		o.Pools = map[string]engine.Pool{"warm": p}
	}
}

func inWarm(spec *dayfly.JobSpec) { spec.Pool = "warm" }

// pool returns how many machines the pool has, by what they do.
func (f *fleet) pool() map[string]int {
	f.t.Helper()
	pools, err := f.engine.Load().Pools(f.t.Context())
	if err != nil || len(pools) != 1 {
		f.t.Fatalf("Pools: got %v and error %v, want one pool", pools, err)
	}
	return pools[0].Machines
}

func (f *fleet) wantPool(what string, want map[string]int) {
	f.t.Helper()
	if got := f.pool(); !maps.Equal(got, want) {
		f.t.Errorf("the pool %s: got %v, want %v", what, got, want)
	}
}

// ran submits a job in the pool and returns it when it has ended.
func (f *fleet) ran(change func(*dayfly.JobSpec)) *store.Job {
	f.t.Helper()
	job := f.finished(f.submit(func(spec *dayfly.JobSpec) {
		inWarm(spec)
		if change != nil {
			change(spec)
		}
	}).ID, time.Hour)
	wait(f.t.Context(), 100*time.Millisecond)
	return job
}

func machineOf(job *store.Job) string { return job.AttemptLog[len(job.AttemptLog)-1].Machine.Name }

func TestJobsOfAPoolShareAMachineOneAfterTheOther(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, warm(nil))
		first := f.ran(nil)
		check(t, first, dayfly.Succeeded, "", 1)
		f.wantPool("after its first job", map[string]int{"idle": 1})
		for range 4 {
			next := f.ran(nil)
			check(t, next, dayfly.Succeeded, "", 1)
			if got, want := machineOf(next), machineOf(first); got != want {
				t.Errorf("the machine of the next job: got %s, want that of the first, %s", got, want)
			}
		}
		if n := f.cloud.Calls(memmachine.Create); n != 1 {
			t.Errorf("creates for five jobs: got %d, want 1", n)
		}
		wait(t.Context(), 6*time.Minute)
		f.settled(time.Minute)
		wait(t.Context(), time.Second) // until the engine has been told, too
		f.wantPool("when nobody has used it for a while", map[string]int{})
	})
}

func TestAPoolThatIsFullKeepsNoJobWaiting(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, warm(nil))
		f.work = workFor(time.Minute)
		var jobs []string
		for range 5 {
			jobs = append(jobs, f.submit(inWarm).ID)
		}
		wait(t.Context(), 10*time.Second)
		f.wantPool("with five jobs", map[string]int{"busy": 2})
		for _, id := range jobs {
			if got := f.job(id).State; got != dayfly.Running {
				t.Errorf("a job of a full pool: got %s, want running", got)
			}
		}
		for _, id := range jobs {
			check(t, f.finished(id, 2*time.Minute), dayfly.Succeeded, "", 1)
		}
		wait(t.Context(), time.Second)
		f.wantPool("afterwards", map[string]int{"idle": 2})
		if n := len(f.cloud.Machines()); n != 2 {
			t.Errorf("machines afterwards: got %d, want the pool's 2", n)
		}
	})
}

func TestAPoolKeepsItsLeastAndReplacesWhatItLoses(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, warm(func(p *engine.Pool) { p.Min, p.Max, p.MaxUses = 2, 3, 2 }))
		wait(t.Context(), 5*time.Second)
		f.wantPool("without a job", map[string]int{"idle": 2})
		wait(t.Context(), time.Hour)
		f.wantPool("without a job, later", map[string]int{"idle": 2})
		f.cloud.Exit(f.cloud.Machines()[0].ID, machine.Exit{Code: -1, Signal: "SIGKILL"})
		wait(t.Context(), 5*time.Second)
		f.wantPool("after one was killed", map[string]int{"idle": 2})
		for range 6 { // each machine is good for two
			check(t, f.ran(nil), dayfly.Succeeded, "", 1)
		}
		wait(t.Context(), 10*time.Second)
		f.wantPool("after six jobs", map[string]int{"idle": 2})
		f.mu.Lock()
		defer f.mu.Unlock()
		for name, did := range f.served {
			if len(did) > 2 {
				t.Errorf("machine %s has carried out %d jobs, want 2 at most", name, len(did))
			}
		}
	})
}

func TestAPoolMakesAnotherMachineBeforeItIsNeeded(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, warm(func(p *engine.Pool) { p.Max, p.Prewarm = 4, 0.5 }))
		f.work = workFor(10 * time.Minute)
		f.submit(inWarm)
		wait(t.Context(), 10*time.Second)
		f.wantPool("with one job", map[string]int{"busy": 1, "idle": 1})
		f.submit(inWarm)
		wait(t.Context(), 10*time.Second)
		f.wantPool("with two", map[string]int{"busy": 2, "idle": 2})
	})
}

func TestAMachineIsUsedAgainOnlyIfItIsAsGoodAsNew(t *testing.T) {
	t.Parallel()
	outOfMemory := func(context.Context, *wire.Assignment) wire.Result {
		return wire.Result{Outcome: wire.Failed, Started: true, Exit: &machine.Exit{Code: -1, Signal: "SIGKILL", OOMKilled: true}}
	}
	for name, c := range map[string]struct {
		pool  func(*engine.Pool)
		work  func(context.Context, *wire.Assignment) wire.Result
		spoil string
		again bool
	}{
		"after a success":           {work: succeed, again: true},
		"after a failure":           {work: fail(1), again: true},
		"when it ran out of memory": {work: outOfMemory},
		"when its command was timed out": {work: func(context.Context, *wire.Assignment) wire.Result {
			return wire.Result{Outcome: wire.TimedOut, Started: true, Exit: &machine.Exit{Code: -1, Signal: "SIGTERM"}}
		}},
		"when it could not be cleaned":  {work: succeed, spoil: "/etc/passwd was changed."},
		"when the pool uses none twice": {work: succeed, pool: func(p *engine.Pool) { p.OneUse = true }},
		"when it has had its uses":      {work: succeed, pool: func(p *engine.Pool) { p.MaxUses = 1 }},
		"when it is old":                {work: workFor(time.Minute), pool: func(p *engine.Pool) { p.MaxAge = 30 * time.Second }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				f := newFleet(t, warm(c.pool))
				f.work = c.work
				f.spoil = func(*wire.Assignment) string { return c.spoil }
				first := f.ran(nil)
				wait(t.Context(), 5*time.Second)
				f.work = succeed
				second := f.ran(nil)
				if again := machineOf(first) == machineOf(second); again != c.again {
					t.Errorf("whether the second job had the machine of the first: got %v, want %v", again, c.again)
				}
				wait(t.Context(), 5*time.Second)
				if n := len(f.cloud.Machines()); n > 1 {
					t.Errorf("machines afterwards: got %d, want 1 at most", n)
				}
			})
		})
	}
}

func TestTenantsShareNoMachine(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, warm(func(p *engine.Pool) { p.Max, p.Isolate = 8, "customer" }))
		whose := map[string]string{} // by machine
		for range 2 {
			for _, customer := range []string{"", "a", "b"} {
				for _, queue := range []string{"default", "other"} {
					job := f.ran(func(spec *dayfly.JobSpec) {
						spec.Queue, spec.Labels = queue, map[string]string{"customer": customer}
					})
					tenant := queue + "/" + customer
					if had := whose[machineOf(job)]; had != "" && had != tenant {
						t.Errorf("a job of %s: got a machine of %s", tenant, had)
					}
					whose[machineOf(job)] = tenant
				}
			}
		}
		if len(whose) != 6 {
			t.Errorf("machines of six tenants: got %d, want one each", len(whose))
		}
	})
}

func TestAPoolSurvivesARestartOfItsServer(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, warm(nil))
		first := f.ran(nil)
		f.work = workFor(3 * time.Minute)
		busy := f.submit(inWarm)
		wait(t.Context(), time.Second)
		f.stop()
		wait(t.Context(), time.Minute)
		f.start()
		wait(t.Context(), 5*time.Second)
		f.wantPool("after a restart with a job under way", map[string]int{"busy": 1})
		check(t, f.finished(busy.ID, time.Hour), dayfly.Succeeded, "", 1)
		wait(t.Context(), time.Second)
		f.restart()
		wait(t.Context(), 5*time.Second)
		f.wantPool("after a restart without a job", map[string]int{"idle": 1})
		f.work = succeed
		last := f.ran(nil)
		check(t, last, dayfly.Succeeded, "", 1)
		if machineOf(first) != machineOf(last) {
			t.Error("the machine after two restarts is another")
		}
		f.options.Pools = nil
		f.restart()
		wait(t.Context(), 5*time.Second)
		f.settled(time.Minute) // it is nobody's any more
	})
}

func TestAMachineThatVanishesWithItsJobLosesThatAttempt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, warm(nil))
		f.work = workFor(time.Minute)
		job := f.submit(func(spec *dayfly.JobSpec) { inWarm(spec); spec.Retry.MaxAttempts = 2 })
		wait(t.Context(), 10*time.Second)
		f.cloud.Vanish(f.cloud.Machines()[0].ID)
		done := f.finished(job.ID, time.Hour)
		check(t, done, dayfly.Succeeded, "", 2)
		if got := done.AttemptLog[0].State; got != dayfly.AttemptLost {
			t.Errorf("the attempt whose machine has vanished: got %s, want lost", got)
		}
		wait(t.Context(), time.Minute)
		f.wantPool("afterwards", map[string]int{"idle": 1})
	})
}

func TestAPoolWhoseMachinesDieBacksOffAndItsJobsRun(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, warm(func(p *engine.Pool) { p.Min = 1 }))
		f.stillborn.Store(true)
		wait(t.Context(), 30*time.Minute)
		if n := f.cloud.Calls(memmachine.Create); n < 3 || n > 25 {
			t.Errorf("creates in half an hour of machines that die: got %d, want some and not many", n)
		}
		pools, err := f.engine.Load().Pools(t.Context())
		if err != nil || pools[0].PausedUntil == nil || !strings.Contains(pools[0].Message, "no such program") {
			t.Errorf("Pools: got %+v and error %v, want when it goes on and why", pools, err)
		}
		job := f.ran(nil)
		check(t, job, dayfly.Succeeded, "", 1)
		f.work = workFor(time.Hour)
		waiting := f.submit(inWarm)
		wait(t.Context(), time.Second)
		why, err := f.engine.Load().Why(t.Context(), waiting.ID)
		if err != nil || !slices.ContainsFunc(why.Answers, func(a string) bool { return strings.Contains(a, "pool warm") }) {
			t.Errorf("Why of its job: got %v and error %v, want that the pool is paused", why, err)
		}
		f.stillborn.Store(false)
		wait(t.Context(), 10*time.Minute)
		f.wantPool("when its machines live again", map[string]int{"idle": 1})
	})
}

func TestAPoolRefusesWhatItsMachinesAreNot(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, func(o *engine.Options) {
			warm(func(p *engine.Pool) { p.Image, p.Size = "debian:12", "shared-cpu-1x" })(o)
			o.Queues = map[string]engine.QueueLimits{"fast": {Pool: "warm"}}
		})
		for field, change := range map[string]func(*dayfly.JobSpec){
			"pool":     func(s *dayfly.JobSpec) { s.Pool = "cold" },
			"image":    func(s *dayfly.JobSpec) { s.Image = "debian:11" },
			"size":     func(s *dayfly.JobSpec) { s.MemoryMB = 4096 },
			"provider": func(s *dayfly.JobSpec) { s.Provider = "other" },
		} {
			spec := dayfly.JobSpec{Command: []string{"true"}, Pool: "warm"}
			change(&spec)
			_, _, err := f.engine.Load().Submit(t.Context(), &engine.Submission{Spec: spec})
			if refusal, ok := errors.AsType[*fault.FieldError](err); !ok || refusal.Field != field {
				t.Errorf("a job with another %s: got error %v, want one about the field", field, err)
			}
		}
		for _, change := range []func(*dayfly.JobSpec){
			func(s *dayfly.JobSpec) { s.KeepOnFailure = dayfly.Duration(time.Minute) },
			func(s *dayfly.JobSpec) { s.Bare = true },
			func(s *dayfly.JobSpec) { s.OwnAgent = true },
		} {
			spec := dayfly.JobSpec{Command: []string{"true"}, Pool: "warm"}
			change(&spec)
			if _, _, err := f.engine.Load().Submit(t.Context(), &engine.Submission{Spec: spec}); fault.Of(err) != fault.Invalid {
				t.Errorf("a job that cannot share a machine: got error %v, want fault.Invalid", err)
			}
		}
		fits := f.submit(func(s *dayfly.JobSpec) { s.Queue = "fast" })
		if fits.Spec.Pool != "warm" || fits.Spec.Image != "debian:12" || fits.Spec.Size != "shared-cpu-1x" {
			t.Errorf("a job of a queue with a pool: got pool %q, image %q and size %q, want the pool's", fits.Spec.Pool, fits.Spec.Image, fits.Spec.Size)
		}
		other := f.submit(func(s *dayfly.JobSpec) { s.Queue, s.Image = "fast", "debian:11" })
		if other.Spec.Pool != "" || other.Spec.Image != "debian:11" {
			t.Errorf("a job of that queue with another image: got pool %q and image %q, want none and its own", other.Spec.Pool, other.Spec.Image)
		}
	})
}

func TestACanceledJobLeavesItsMachineToThePoolOnlyBeforeItHasBegun(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, warm(nil))
		f.ran(nil)
		f.work = workFor(time.Hour)
		job := f.submit(inWarm)
		wait(t.Context(), time.Second)
		if _, err := f.engine.Load().Cancel(t.Context(), job.ID); err != nil {
			t.Fatal(err)
		}
		check(t, f.finished(job.ID, time.Minute), dayfly.Canceled, dayfly.ReasonCanceled, 1)
		f.settled(time.Minute)
		wait(t.Context(), time.Second) // until the engine has been told, too
		f.wantPool("after its job was ended by force", map[string]int{})
	})
}
