package engine_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// crowd submits jobs and returns their ids.
func (f *fleet) crowd(n int, change func(*dayfly.JobSpec)) (ids []string) {
	f.t.Helper()
	for range n {
		ids = append(ids, f.submit(change).ID)
	}
	return ids
}

// attempts counts the attempts of all jobs.
func (f *fleet) attempts(ids []string) (n int) {
	f.t.Helper()
	for _, id := range ids {
		n += len(f.job(id).AttemptLog)
	}
	return n
}

func TestAProviderThatRefusesMachinesIsAskedForOneNowAndThen(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind fault.Kind
		says string
		most int // machines asked for in ten minutes, beyond those that were asked for before the first refusal
	}{
		"for want of room":        {kind: fault.Exhausted, says: "no room for a machine of this size since", most: 25},
		"for want of credentials": {kind: fault.Denied, says: "refused Dayfly's credentials since", most: 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				other := memmachine.New(&memmachine.Options{})
				f := newFleet(t, func(o *engine.Options) { o.Providers["other"] = other })
				t.Cleanup(other.Cloud().Close)
				refused := f.cloud.Fail(memmachine.Create, memmachine.Refuse(c.kind))
				began := time.Now()
				ids := f.crowd(200, nil)
				unaffected := f.submit(func(s *dayfly.JobSpec) { s.Provider = "other" })
				wait(t.Context(), time.Second)
				if job := f.job(unaffected.ID); job.State != dayfly.Starting {
					t.Errorf("a job of another provider is %s, want it starting", job.State)
				}
				wait(t.Context(), 10*time.Minute+10*time.Second) // and not the moment at which it is asked again
				if n := refused.Used(); n > engine.DefaultMaxMachines+c.most {
					t.Errorf("the provider was asked %d times in ten minutes, want at most %d", n, engine.DefaultMaxMachines+c.most)
				}
				if n := f.attempts(ids); n > engine.DefaultMaxMachines+c.most {
					t.Errorf("%d attempts are kept, want at most %d", n, engine.DefaultMaxMachines+c.most)
				}
				why, err := f.engine.Load().Why(t.Context(), ids[len(ids)-1])
				if err != nil {
					t.Fatal(err)
				}
				said := strings.Join(why.Answers, " ")
				for _, want := range []string{c.says, began.UTC().Format(time.RFC3339), "refused by a rule"} {
					if !strings.Contains(said, want) {
						t.Errorf("why says %q, want it to say %q", said, want)
					}
				}
				if !strings.Contains(why.Next, "asks again at") {
					t.Errorf("why says of what is next %q, want it to say when the provider is asked again", why.Next)
				}
				refused.Stop()
				for _, id := range ids {
					if job := f.finished(id, 2*time.Minute); job.State != dayfly.Succeeded {
						t.Fatalf("a job is %s when its provider grants machines again, want it succeeded: %s", job.State, job.Message)
					}
				}
			})
		})
	}
}

// capacity makes a cloud refuse machines beyond a number.
func capacity(cloud *memmachine.Cloud, most int) *memmachine.Rule {
	return cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted)).When(func(*memmachine.Call) bool {
		return len(cloud.Machines()) >= most
	})
}

func TestAProviderWithLittleRoomIsFilledAndNotHammered(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.work = workFor(10 * time.Second)
		refused := capacity(f.cloud, 4)
		began := time.Now()
		ids := f.crowd(100, nil)
		for _, id := range ids {
			if job := f.finished(id, time.Hour); job.State != dayfly.Succeeded {
				t.Fatalf("a job is %s, want it succeeded: %s", job.State, job.Message)
			}
		}
		if took := time.Since(began); took > 10*time.Minute {
			t.Errorf("100 jobs of ten seconds on four machines took %v, want at most 10m", took)
		}
		if n := refused.Used(); n > 200 {
			t.Errorf("%d machines were refused, want at most 200", n)
		}
	})
}

func TestAJobThatItsProviderHasNoRoomForKeepsNoSmallerOneWaiting(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		large := func(s *dayfly.JobSpec) { s.CPUs, s.MemoryMB, s.Priority = 8, 1<<15, 10 }
		small := func(s *dayfly.JobSpec) { s.CPUs, s.MemoryMB = 1, 1<<10 }
		f.work = func(ctx context.Context, a *wire.Assignment) wire.Result {
			wait(ctx, 2*time.Second)
			return succeed(ctx, a)
		}
		full := f.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted)) // for everybody at first
		tooLarge := f.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted)).When(func(c *memmachine.Call) bool {
			return c.Spec.Size.CPUs > 4
		})
		first := f.crowd(20, large)
		second := f.crowd(20, small)
		wait(t.Context(), 5*time.Minute)
		full.Stop()
		for _, id := range append(second, f.crowd(20, small)...) {
			if job := f.finished(id, 2*time.Minute); job.State != dayfly.Succeeded {
				t.Fatalf("a small job is %s, want it succeeded: %s", job.State, job.Message)
			}
		}
		before := tooLarge.Used()
		wait(t.Context(), 10*time.Minute)
		if n := tooLarge.Used() - before; n < 10 || n > 25 {
			t.Errorf("the provider was asked for a large machine %d times in ten minutes, want it each half minute", n)
		}
		tooLarge.Stop()
		for _, id := range first {
			if job := f.finished(id, 2*time.Minute); job.State != dayfly.Succeeded {
				t.Fatalf("a large job is %s, want it succeeded: %s", job.State, job.Message)
			}
		}
	})
}

func TestASmallJobIsFoundBehindAnyNumberThatItsProviderHasNoRoomFor(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		large := func(s *dayfly.JobSpec) { s.CPUs, s.MemoryMB, s.Priority = 8, 1<<15, 10 }
		small := func(s *dayfly.JobSpec) { s.CPUs, s.MemoryMB = 1, 1<<10 }
		f.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted)).When(func(c *memmachine.Call) bool {
			return c.Spec.Size.CPUs > 4
		})
		waiting := f.crowd(200, large)
		wait(t.Context(), time.Minute)
		waiting = append(waiting, f.crowd(200, func(s *dayfly.JobSpec) { large(s); s.Priority = 0 })...)
		small1 := f.crowd(3, small)
		waiting = append(waiting, f.crowd(200, func(s *dayfly.JobSpec) { large(s); s.Priority = -1 })...)
		small2 := f.crowd(100, func(s *dayfly.JobSpec) { small(s); s.Priority = -2 })
		for _, id := range append(small1, small2...) {
			if job := f.finished(id, 2*time.Minute); job.State != dayfly.Succeeded {
				t.Fatalf("a small job is %s, want it succeeded: %s", job.State, job.Message)
			}
		}
		for _, id := range waiting {
			if job := f.job(id); job.State.Terminal() || job.Starts > 0 {
				t.Fatalf("a large job is %s, want it waiting: %s", job.State, job.Message)
			}
		}
	})
}
