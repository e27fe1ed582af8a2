package engine_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
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

func TestAJobRunsOnAMachineThatIsGoneAfterwards(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		job := f.finished(f.submit(nil).ID, time.Minute)
		check(t, job, dayfly.Succeeded, "", 1)
		if job.ExitCode == nil || *job.ExitCode != 0 {
			t.Errorf("exit code: got %v, want 0", job.ExitCode)
		}
		f.settled(10 * time.Second)
		wait(t.Context(), time.Second)
		if m := f.job(job.ID).AttemptLog[0].Machine; m.State != store.MachineGone {
			t.Errorf("machine in the ledger: got %s, want gone", m.State)
		}
		events, err := f.engine.Load().Events(t.Context(), job.ID, 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range events {
			if e.Seq != int64(i+1) {
				t.Errorf("event %d has seq %d, want %d", i, e.Seq, i+1)
			}
		}
		if last := events[len(events)-1]; last.State != dayfly.Succeeded {
			t.Errorf("last event's state: got %s, want succeeded", last.State)
		}
	})
}

func TestAFailedCommandIsRetriedAsOftenAsAllowed(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.work = fail(3)
		once := f.finished(f.submit(nil).ID, time.Minute)
		check(t, once, dayfly.Failed, dayfly.ReasonExitNonzero, 1)
		if once.ExitCode == nil || *once.ExitCode != 3 {
			t.Errorf("exit code: got %v, want 3", once.ExitCode)
		}
		thrice := f.submit(func(s *dayfly.JobSpec) { s.Retry.MaxAttempts = 3 })
		check(t, f.finished(thrice.ID, time.Hour), dayfly.Failed, dayfly.ReasonExitNonzero, 3)
		never := f.submit(func(s *dayfly.JobSpec) { s.Retry.MaxAttempts, s.Retry.NonRetryableExits = 3, []int{3} })
		check(t, f.finished(never.ID, time.Hour), dayfly.Failed, dayfly.ReasonExitNonzero, 1)
	})
}

func TestAnAmbiguousCreateIsAdoptedAndNotRepeatedUnderAnotherName(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]memmachine.Fault{
		"executed, then timed out":        memmachine.ExecuteThenTimeout,
		"refused in passing":              memmachine.Refuse(fault.Unavailable),
		"lands half a minute later":       memmachine.LandLate(30 * time.Second),
		"starts the same machine twice":   memmachine.StartTwice,
		"answers after ten seconds":       memmachine.Delay(10 * time.Second),
		"executed, and nothing was heard": memmachine.ExecuteThenHang,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				f := newFleet(t, nil)
				f.cloud.Fail(memmachine.Create, fault).Times(1)
				job := f.finished(f.submit(nil).ID, 10*time.Minute)
				check(t, job, dayfly.Succeeded, "", 1)
				if total, most := f.startsOf(); total != 1 || most != 1 {
					t.Errorf("user code was started %d times, %d in one attempt; want 1 and 1", total, most)
				}
				f.settled(5 * time.Minute)
			})
		})
	}
}

// TestAMachineThatWasMadeAndNotStartedIsFinishedByTheSameCreate is about a provider that was killed between the two.
func TestAMachineThatWasMadeAndNotStartedIsFinishedByTheSameCreate(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		var half atomic.Pointer[machine.Machine]
		f.cloud.Fail(memmachine.Create, func(_ context.Context, c *memmachine.Call) error {
			half.Store(&machine.Machine{ID: c.Spec.Name, Name: c.Spec.Name, Owner: c.Spec.Owner, Labels: c.Spec.Labels, State: machine.Creating})
			return fault.Unavailable
		}).Times(1)
		f.cloud.Fail(memmachine.Create, func(ctx context.Context, c *memmachine.Call) error {
			half.Store(nil)
			return c.Do(ctx)
		})
		f.cloud.Fail(memmachine.List, func(ctx context.Context, c *memmachine.Call) error {
			err := c.Do(ctx)
			if m := half.Load(); m != nil {
				c.Machines = append(c.Machines, m)
			}
			return err
		})
		began := time.Now()
		job := f.finished(f.submit(nil).ID, 10*time.Minute)
		check(t, job, dayfly.Succeeded, "", 1)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("the machine was finished after %v, want as soon as it was seen", took)
		}
		f.settled(5 * time.Minute)
	})
}

func TestAMachineThatLandsAfterItWasGivenUpRunsNothingAndIsRemoved(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.cloud.Fail(memmachine.Create, memmachine.LandLate(10*time.Minute)).Times(3)
		job := f.submit(func(s *dayfly.JobSpec) {
			s.Timeouts.Boot, s.Retry.MaxLaunches = dayfly.Duration(time.Minute), 1
		})
		check(t, f.finished(job.ID, time.Hour), dayfly.Failed, dayfly.ReasonNeverStarted, 1)
		wait(t.Context(), 11*time.Minute)
		if total, _ := f.startsOf(); total != 0 {
			t.Errorf("user code was started %d times by machines that came too late, want 0", total)
		}
		f.settled(2 * time.Minute)
	})
}

func TestARefusalIsTakenForWhatItIs(t *testing.T) {
	t.Parallel()
	t.Run("invalid ends the job", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T) {
			f := newFleet(t, nil)
			f.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Invalid))
			check(t, f.finished(f.submit(nil).ID, time.Minute), dayfly.Failed, dayfly.ReasonRefused, 1)
		})
	})
	t.Run("no capacity lets it wait and counts as nothing", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T) {
			f := newFleet(t, nil)
			f.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted)).Times(20)
			job := f.finished(f.submit(nil).ID, time.Hour)
			if job.State != dayfly.Succeeded || job.Starts != 1 {
				t.Errorf("got %s after %d starts, want succeeded after 1: %s", job.State, job.Starts, job.Message)
			}
		})
	})
	t.Run("bad credentials leave the provider alone for a while", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T) {
			f := newFleet(t, nil)
			refused := f.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Denied))
			job := f.submit(nil)
			wait(t.Context(), 5*time.Minute)
			if n := refused.Used(); n > 11 {
				t.Errorf("the provider was asked %d times in 5 minutes, want at most one each 30 seconds", n)
			}
			var why *dayfly.Why
			for range 5 { // an attempt may just be changing hands
				var err error
				if why, err = f.engine.Load().Why(t.Context(), job.ID); err != nil {
					t.Fatal(err)
				}
				if strings.Contains(strings.Join(why.Answers, " ")+why.Next, "credentials") {
					break
				}
				wait(t.Context(), time.Second)
			}
			if !strings.Contains(strings.Join(why.Answers, " ")+why.Next, "credentials") {
				t.Errorf("why: got %v; want it to name the credentials", why)
			}
			refused.Stop()
			check(t, f.finished(job.ID, 2*time.Minute), dayfly.Succeeded, "", len(f.job(job.ID).AttemptLog))
		})
	})
}

func TestAMachineThatDiesLosesItsAttempt(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.work = workFor(time.Hour)
		job := f.submit(func(s *dayfly.JobSpec) { s.Retry.MaxAttempts = 2 })
		wait(t.Context(), 10*time.Second)
		if !f.cloud.Vanish(f.cloud.Machines()[0].ID) {
			t.Fatal("no machine to take away")
		}
		wait(t.Context(), time.Minute)
		got := f.job(job.ID)
		if len(got.AttemptLog) != 2 || got.AttemptLog[0].State != dayfly.AttemptLost || got.State != dayfly.Running {
			t.Fatalf("got %s with %d attempts, the first %s; want running with 2, the first lost", got.State, len(got.AttemptLog), got.AttemptLog[0].State)
		}
		f.work = succeed
		check(t, f.finished(job.ID, 2*time.Hour), dayfly.Succeeded, "", 2)
	})
}

func TestAJobThatTakesItsMachinesDownIsPoison(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.work = func(ctx context.Context, a *wire.Assignment) wire.Result {
			f.cloud.Vanish(f.cloud.Machines()[0].ID)
			<-ctx.Done()
			return wire.Result{Outcome: wire.Failed}
		}
		job := f.submit(func(s *dayfly.JobSpec) { s.Retry.MaxAttempts = 100 })
		check(t, f.finished(job.ID, time.Hour), dayfly.Failed, dayfly.ReasonPoison, 3)
	})
}

func TestASilentAgentIsKilledAndItsLateResultIsRefused(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		var silent atomic.Bool
		silent.Store(true)
		f.mute = func(a *wire.Assignment) bool { return a.Number == 1 && silent.Load() }
		f.work = func(ctx context.Context, a *wire.Assignment) wire.Result {
			if a.Number == 1 {
				wait(context.Background(), 20*time.Minute) // deaf to everything, like a stopped process
				return fail(9)(ctx, a)
			}
			wait(ctx, 30*time.Minute)
			return succeed(ctx, a)
		}
		job := f.submit(func(s *dayfly.JobSpec) { s.Retry.MaxAttempts = 2 })
		wait(t.Context(), 4*time.Minute)
		if got := f.job(job.ID); len(got.AttemptLog) != 1 || got.State != dayfly.Running {
			t.Fatalf("after 4 minutes of silence: got %s with %d attempts, want running with 1: silence is not death", got.State, len(got.AttemptLog))
		}
		got := f.finished(job.ID, 2*time.Hour)
		check(t, got, dayfly.Succeeded, "", 2)
		if got.AttemptLog[0].State != dayfly.AttemptLost {
			t.Errorf("the silent attempt: got %s, want lost", got.AttemptLog[0].State)
		}
		f.settled(time.Minute)
	})
}

func TestCancelEndsAJobWhereverItIs(t *testing.T) {
	t.Parallel()
	for name, try := range map[string]struct {
		spec    func(*dayfly.JobSpec)
		prepare func(*fleet)
		wait    time.Duration
	}{
		"created":   {spec: func(s *dayfly.JobSpec) { s.Inputs = []dayfly.InputSpec{{Name: "a"}} }},
		"scheduled": {spec: func(s *dayfly.JobSpec) { at := time.Now().Add(time.Hour); s.RunAt = &at }},
		"queued":    {prepare: func(f *fleet) { f.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Denied)) }, wait: time.Minute},
		"starting":  {prepare: func(f *fleet) { f.cloud.Fail(memmachine.Create, memmachine.Delay(30*time.Second)) }, wait: time.Second},
		"unknown":   {prepare: func(f *fleet) { f.cloud.Fail(memmachine.Create, memmachine.LandLate(time.Minute)) }, wait: time.Second},
		"running":   {prepare: func(f *fleet) { f.work = workFor(time.Hour) }, wait: time.Second},
		"deaf": {prepare: func(f *fleet) {
			f.mute = func(*wire.Assignment) bool { return true }
			f.work = func(context.Context, *wire.Assignment) wire.Result {
				wait(context.Background(), time.Hour)
				return wire.Result{}
			}
		}, wait: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				f := newFleet(t, nil)
				if try.prepare != nil {
					try.prepare(f)
				}
				job := f.submit(try.spec)
				wait(t.Context(), try.wait)
				for range 2 { // canceling again is no error
					if _, err := f.engine.Load().Cancel(t.Context(), job.ID); err != nil {
						t.Fatalf("cancel: %v", err)
					}
				}
				got := f.finished(job.ID, 2*time.Minute)
				if got.State != dayfly.Canceled || got.Reason != dayfly.ReasonCanceled {
					t.Errorf("got %s (%s), want canceled", got.State, got.Reason)
				}
				f.settled(3 * time.Minute)
			})
		})
	}
}

func TestCancelAfterTheResultIsRefused(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		job := f.finished(f.submit(nil).ID, time.Minute)
		if _, err := f.engine.Load().Cancel(t.Context(), job.ID); !errors.Is(err, fault.AlreadyFinished) {
			t.Errorf("cancel of a finished job: got %v, want fault.AlreadyFinished", err)
		}
		if _, err := f.engine.Load().Cancel(t.Context(), "job_none"); !errors.Is(err, fault.NotFound) {
			t.Errorf("cancel of an unknown job: got %v, want fault.NotFound", err)
		}
	})
}

func TestARestartAloneRepeatsNothing(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.work = workFor(10 * time.Minute)
		var ids []string
		for range 20 {
			ids = append(ids, f.submit(nil).ID)
		}
		for range 6 {
			wait(t.Context(), 70*time.Second)
			f.restart()
		}
		for _, id := range ids {
			check(t, f.finished(id, time.Hour), dayfly.Succeeded, "", 1)
		}
		f.settled(time.Minute)
	})
}

func TestAJobThatEndsWhileNoServerRunsIsDelivered(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.work = workFor(time.Minute)
		job := f.submit(nil)
		wait(t.Context(), 10*time.Second)
		f.stop()
		wait(t.Context(), 2*time.Minute)
		f.start()
		check(t, f.finished(job.ID, time.Minute), dayfly.Succeeded, "", 1)
	})
}

func TestLimitsOfQueuesAndKeysHold(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, func(o *engine.Options) {
			o.Queues = map[string]engine.QueueLimits{"small": {Concurrency: 3, KeyConcurrency: 1}}
		})
		var running, most, clash atomic.Int64
		var keys [2]atomic.Int64
		f.work = func(ctx context.Context, a *wire.Assignment) wire.Result {
			most.Store(max(most.Load(), running.Add(1)))
			if i := slices.Index([]string{"x", "y"}, a.Env["KEY"]); i >= 0 {
				if keys[i].Add(1) > 1 {
					clash.Add(1)
				}
				defer keys[i].Add(-1)
			}
			wait(ctx, 10*time.Second)
			running.Add(-1)
			return succeed(ctx, a)
		}
		var ids []string
		for i := range 18 {
			ids = append(ids, f.submit(func(s *dayfly.JobSpec) {
				s.Queue = "small"
				if key := []string{"x", "y", ""}[i%3]; key != "" {
					s.ConcurrencyKey, s.Env = key, map[string]string{"KEY": key}
				}
			}).ID)
		}
		other := f.submit(nil)
		check(t, f.finished(other.ID, 11*time.Second), dayfly.Succeeded, "", 1)
		for _, id := range ids {
			check(t, f.finished(id, time.Hour), dayfly.Succeeded, "", 1)
		}
		if most.Load() > 4 || clash.Load() > 0 {
			t.Errorf("at most %d jobs ran at once and a key was used twice %d times; want at most 3 of the queue, and 0", most.Load(), clash.Load())
		}
	})
}

func TestPriorityGoesFirstThenAge(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, func(o *engine.Options) { o.MaxMachines = map[string]int{"mem": 1} })
		order := make(chan string, 10)
		f.work = func(ctx context.Context, a *wire.Assignment) wire.Result {
			order <- a.Name
			wait(ctx, time.Second)
			return succeed(ctx, a)
		}
		f.submit(func(s *dayfly.JobSpec) { s.Name = "first" })
		wait(t.Context(), 100*time.Millisecond)
		last := ""
		for i, p := range []int{0, -1, 5, 5, 0} {
			last = f.submit(func(s *dayfly.JobSpec) { s.Name, s.Priority = fmt.Sprintf("%d:%d", p, i), p }).ID
		}
		f.finished(last, time.Minute)
		wait(t.Context(), time.Minute)
		close(order)
		var got []string
		for name := range order {
			got = append(got, name)
		}
		if want := []string{"first", "5:2", "5:3", "0:0", "0:4", "-1:1"}; !slices.Equal(got, want) {
			t.Errorf("order: got %v, want %v", got, want)
		}
	})
}

func TestTimesAreKept(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, func(o *engine.Options) { o.MaxMachines = map[string]int{"mem": 2} })
		f.work = workFor(time.Minute)
		begin := time.Now()
		at := begin.Add(10 * time.Minute)
		delayed := f.submit(func(s *dayfly.JobSpec) { s.RunAt = &at })
		f.submit(nil)
		f.submit(nil)
		expires := f.submit(func(s *dayfly.JobSpec) { s.Timeouts.Queue = dayfly.Duration(30 * time.Second) })
		check(t, f.finished(expires.ID, 35*time.Second), dayfly.Expired, dayfly.ReasonQueueTimeout, 0)
		total := f.submit(func(s *dayfly.JobSpec) { s.Timeouts.Total = dayfly.Duration(time.Minute) })
		got := f.finished(total.ID, 3*time.Minute)
		check(t, got, dayfly.Failed, dayfly.ReasonDeadline, 1)
		check(t, f.finished(delayed.ID, 12*time.Minute), dayfly.Succeeded, "", 1)
		if ran := f.job(delayed.ID).AttemptLog[0].CreatedAt; ran.Before(at) || ran.After(at.Add(time.Second)) {
			t.Errorf("the delayed job was launched %v after its time, want within a second", ran.Sub(at))
		}
	})
}

func TestATotalTimeoutEndsAJobThatWaits(t *testing.T) {
	t.Parallel()
	total := func(s *dayfly.JobSpec) { s.Timeouts.Total = dayfly.Duration(time.Minute) }
	t.Run("for its time to be tried again", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T) {
			f := newFleet(t, nil)
			f.work = fail(1)
			job := f.submit(func(s *dayfly.JobSpec) {
				total(s)
				s.Retry.MaxAttempts = 2
				s.Retry.BackoffMin, s.Retry.BackoffMax = dayfly.Duration(24*time.Hour), dayfly.Duration(24*time.Hour)
			})
			check(t, f.finished(job.ID, 65*time.Second), dayfly.Failed, dayfly.ReasonDeadline, 1)
		})
	})
	t.Run("for room", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T) {
			f := newFleet(t, func(o *engine.Options) { o.MaxMachines = map[string]int{"mem": 1} })
			f.work = workFor(10 * time.Minute)
			f.submit(nil)
			job := f.submit(total)
			check(t, f.finished(job.ID, 65*time.Second), dayfly.Failed, dayfly.ReasonDeadline, 0)
		})
	})
	t.Run("for room to be tried again", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T) {
			f := newFleet(t, func(o *engine.Options) { o.MaxMachines = map[string]int{"mem": 1} })
			f.work = func(ctx context.Context, a *wire.Assignment) wire.Result {
				if a.Name == "other" {
					return workFor(3*time.Hour)(ctx, a)
				}
				return fail(1)(ctx, a)
			}
			job := f.submit(func(s *dayfly.JobSpec) { total(s); s.Retry.MaxAttempts = 2 })
			f.submit(func(s *dayfly.JobSpec) { s.Name, s.Priority, s.Timeouts.Run = "other", 1, dayfly.Duration(5*time.Hour) })
			check(t, f.finished(job.ID, 65*time.Second), dayfly.Failed, dayfly.ReasonDeadline, 1)
		})
	})
}

func TestAStrangerWithOurLabelsIsRemovedAndAnotherOwnersIsNot(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.work = workFor(time.Hour)
		job := f.submit(nil)
		wait(t.Context(), time.Second)
		mine := f.cloud.Machines()[0]
		for name, owner := range map[string]string{"stray": mine.Owner, "foreign": "somebody-else"} {
			_, err := f.cloud.Connect().Create(t.Context(), &machine.Spec{
				Name: name, Owner: owner, Lifetime: 24 * time.Hour, Command: []string{"sleep"}, Labels: map[string]string{"attempt": "att_unknown"}})
			if err != nil {
				t.Fatal(err)
			}
		}
		wait(t.Context(), 90*time.Second)
		var names []string
		for _, m := range f.cloud.Machines() {
			names = append(names, m.Name)
		}
		slices.Sort(names)
		if want := []string{mine.Name, "foreign"}; !slices.Equal(names, want) {
			t.Errorf("machines: got %v, want %v", names, want)
		}
		if got := f.job(job.ID); got.State != dayfly.Running {
			t.Errorf("the job: got %s, want running", got.State)
		}
	})
}

func TestAListThatLiesLosesNothing(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.work = workFor(30 * time.Minute)
		var ids []string
		for range 10 {
			ids = append(ids, f.submit(nil).ID)
		}
		wait(t.Context(), time.Second)
		f.cloud.Fail(memmachine.List, memmachine.EmptyList)
		wait(t.Context(), 5*time.Minute)
		f.cloud.Heal()
		for _, id := range ids {
			check(t, f.finished(id, time.Hour), dayfly.Succeeded, "", 1)
		}
	})
}

func TestDestroyIsRepeatedUntilItIsConfirmed(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		f.cloud.Fail(memmachine.Destroy, memmachine.Refuse(fault.Unavailable)).Times(4)
		f.cloud.Fail(memmachine.Destroy, memmachine.PretendDestroyed).Times(1)
		job := f.finished(f.submit(nil).ID, time.Minute)
		check(t, job, dayfly.Succeeded, "", 1)
		f.settled(5 * time.Minute)
	})
}

func TestAProviderWithTooManyMachinesKeepsNoOtherFromLaunching(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		other := memmachine.New(&memmachine.Options{})
		f := newFleet(t, func(o *engine.Options) {
			o.Providers["other"] = other
			o.MaxMachines = map[string]int{"mem": 2, "other": 8}
		})
		t.Cleanup(other.Cloud().Close)
		f.crowd(8, func(s *dayfly.JobSpec) { s.Provider = "other" })
		wait(t.Context(), time.Second)
		f.stop()
		f.options.MaxMachines = map[string]int{"mem": 2, "other": 1} // it is over its new limit by more than the others have
		f.start()
		f.submit(func(s *dayfly.JobSpec) { s.Provider = "other" }) // waits, so that others are not launched as they come
		job := f.submit(nil)
		wait(t.Context(), time.Minute)
		if state := f.job(job.ID).State; state != dayfly.Succeeded {
			t.Errorf("a job of the provider with room is %s after a minute, want succeeded", state)
		}
	})
}

func TestWhyTellsOfMachinesThatCannotBeDestroyed(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, func(o *engine.Options) { o.MaxMachines = map[string]int{"mem": 1} })
		stuck := f.cloud.Fail(memmachine.Destroy, memmachine.Refuse(fault.Unavailable))
		for range 2 {
			f.finished(f.submit(nil).ID, time.Minute)
		}
		job := f.submit(nil)
		wait(t.Context(), time.Minute)
		why, err := f.engine.Load().Why(t.Context(), job.ID)
		if err != nil {
			t.Fatal(err)
		}
		if said := strings.Join(why.Answers, " "); !strings.Contains(said, "2 machines of jobs that are over") || strings.Contains(said, "Nothing holds it up") {
			t.Errorf("why says %q, want it to tell of two machines that are not destroyed", said)
		}
		stuck.Stop()
		check(t, f.finished(job.ID, 5*time.Minute), dayfly.Succeeded, "", 1)
	})
}

func TestAnAgentsURLsAreGoodForAnHourWhateverTheEnginesClockShows(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		began := time.Now()
		f := newFleet(t, func(o *engine.Options) {
			o.Clock = func() time.Duration { return time.Since(began) / 2 } // the wall clock is set forward again and again
		})
		wait(t.Context(), 3*time.Hour)
		f.work = func(ctx context.Context, a *wire.Assignment) wire.Result {
			good := func(method, address string) {
				u, err := url.Parse(address)
				if err == nil {
					_, err = f.options.Key.CheckFile(method, strings.TrimPrefix(u.Path, "/v1/blobs/"), u.Query(), time.Now().Add(50*time.Minute))
				}
				if err != nil {
					t.Errorf("a %s of a URL that was just made, in 50 minutes: got %v, want nil", method, err)
				}
			}
			for _, in := range a.Inputs {
				good("GET", in.URL)
			}
			answer, err := f.engine.Load().Artifacts(ctx, a.Token, &wire.ArtifactRequest{Artifacts: []wire.ArtifactWant{{Name: "out", Size: 1}}})
			if err != nil || len(a.Inputs) != 2 {
				t.Errorf("got %d inputs and %v, want 2 and nil", len(a.Inputs), err)
				return fail(1)(ctx, a)
			}
			good("PUT", answer.Uploads[0].URL)
			return succeed(ctx, a)
		}
		check(t, f.finished(f.uploaded().ID, time.Minute), dayfly.Succeeded, "", 1)
	})
}

func TestAPlaceOfAKeyIsNotLostOnAJobWhoseProviderIsFull(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		other := memmachine.New(&memmachine.Options{})
		f := newFleet(t, func(o *engine.Options) {
			o.Providers["other"] = other
			o.MaxMachines = map[string]int{"mem": 4, "other": 1}
			o.Queues = map[string]engine.QueueLimits{"default": {KeyConcurrency: 1}}
		})
		t.Cleanup(other.Cloud().Close)
		f.work = workFor(time.Minute)
		ofKey := func(s *dayfly.JobSpec) { s.ConcurrencyKey = "k" }
		first := f.submit(ofKey)
		wait(t.Context(), time.Second)
		f.submit(func(s *dayfly.JobSpec) { s.ConcurrencyKey, s.Provider = "k", "other" })
		wait(t.Context(), time.Second)
		f.submit(func(s *dayfly.JobSpec) { s.Provider, s.Timeouts.Boot = "other", dayfly.Duration(time.Hour) }) // and stays
		last := f.submit(ofKey)
		check(t, f.finished(first.ID, 2*time.Minute), dayfly.Succeeded, "", 1)
		check(t, f.finished(last.ID, 2*time.Minute), dayfly.Succeeded, "", 1)
	})
}

func TestTooManyOpenJobsAreRefused(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, func(o *engine.Options) { o.MaxOpenJobs = 3 })
		f.work = workFor(time.Minute)
		for range 3 {
			f.submit(nil)
		}
		_, _, err := f.engine.Load().Submit(t.Context(), &engine.Submission{Spec: dayfly.JobSpec{Command: []string{"true"}}})
		if !errors.Is(err, fault.Exhausted) {
			t.Errorf("a fourth job: got %v, want fault.Exhausted", err)
		}
		wait(t.Context(), 2*time.Minute)
		f.submit(nil)
	})
}

func TestRetentionGoesPastJobsThatCannotBeRemoved(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, func(o *engine.Options) { o.Retention = time.Hour })
		for _, id := range f.crowd(100, nil) { // as many as are read at once
			f.finished(id, time.Minute)
		}
		db, err := sql.Open("sqlite", f.file)
		if err == nil {
			_, err = db.ExecContext(t.Context(), "UPDATE jobs SET spec = 'of a later version'")
			err = errors.Join(err, db.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		last := f.submit(nil)
		f.finished(last.ID, time.Minute)
		wait(t.Context(), 2*time.Hour)
		if _, err := f.engine.Load().Job(t.Context(), last.ID); !errors.Is(err, fault.NotFound) {
			t.Errorf("a job behind a hundred that cannot be read, an hour after its retention: got %v, want fault.NotFound", err)
		}
	})
}

func TestAJobIsReplayedThoughItWouldBeRefusedNow(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, func(o *engine.Options) { o.MaxOpenJobs = 2 })
		f.work = workFor(time.Hour)
		at := time.Now().Add(time.Minute)
		full := &engine.Submission{Spec: dayfly.JobSpec{Command: []string{"true"}}, Key: "full", BodyHash: []byte("b")}
		gone := &engine.Submission{Spec: dayfly.JobSpec{Command: []string{"true"}, RunAt: &at, Provider: "mem"}, Key: "gone", BodyHash: []byte("c")}
		for _, s := range []*engine.Submission{full, gone} {
			first, _, err := f.engine.Load().Submit(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			if s == gone {
				s.Spec.Provider = "no longer configured"
			}
			again, replayed, err := f.engine.Load().Submit(t.Context(), s)
			if err != nil || !replayed || again.ID != first.ID {
				t.Errorf("key %s again: got %v, replayed = %v, %v; want job %s", s.Key, again, replayed, err, first.ID)
			}
		}
		full.Spec.Command = []string{"false"}
		full.BodyHash = []byte("another")
		if _, _, err := f.engine.Load().Submit(t.Context(), full); !errors.Is(err, fault.IdempotencyMismatch) {
			t.Errorf("the key of another body: got %v, want fault.IdempotencyMismatch", err)
		}
		full.Key = "a new one"
		if _, _, err := f.engine.Load().Submit(t.Context(), full); !errors.Is(err, fault.Exhausted) {
			t.Errorf("a new key: got %v, want fault.Exhausted", err)
		}
	})
}

func TestRetentionRemovesFinishedJobs(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, func(o *engine.Options) { o.Retention = time.Hour })
		job := f.finished(f.submit(nil).ID, time.Minute)
		wait(t.Context(), 30*time.Minute)
		f.job(job.ID)
		wait(t.Context(), 35*time.Minute)
		if _, err := f.engine.Load().Job(t.Context(), job.ID); !errors.Is(err, fault.NotFound) {
			t.Errorf("a job after its retention: got %v, want fault.NotFound", err)
		}
	})
}

func TestWhoWaitsForTheEndIsWokenByNothingElse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spec   func(*dayfly.JobSpec)
		work   func(context.Context, *wire.Assignment) wire.Result
		cancel bool
		full   bool // there is no room for its machine
		want   dayfly.State
	}{
		"succeeds":           {work: workFor(time.Minute), want: dayfly.Succeeded},
		"fails when retried": {work: fail(1), spec: func(s *dayfly.JobSpec) { s.Retry.MaxAttempts = 3 }, want: dayfly.Failed},
		"has no time for another attempt": {work: fail(1), want: dayfly.Failed, spec: func(s *dayfly.JobSpec) {
			s.Retry.MaxAttempts, s.Timeouts.Total = 100, dayfly.Duration(time.Minute)
		}},
		"is canceled while it waits": {cancel: true, want: dayfly.Canceled, spec: func(s *dayfly.JobSpec) {
			s.RunAt = new(time.Now().Add(time.Hour))
		}},
		"is canceled while it runs": {cancel: true, work: workFor(time.Hour), want: dayfly.Canceled},
		"is never launched": {full: true, want: dayfly.Expired, spec: func(s *dayfly.JobSpec) {
			s.Timeouts.Queue = dayfly.Duration(time.Minute)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				f := newFleet(t, nil)
				if c.work != nil {
					f.work = c.work
				}
				if c.full {
					f.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted))
				}
				id := f.submit(c.spec).ID
				ended, stop := f.engine.Load().WatchEnd(id)
				defer stop()
				end := ended()
				if c.cancel {
					wait(t.Context(), 10*time.Second)
					if _, err := f.engine.Load().Cancel(t.Context(), id); err != nil {
						t.Fatal(err)
					}
				}
				select {
				case <-end:
				case <-time.After(2 * time.Hour):
					t.Fatalf("nobody was woken; the job is %s", f.job(id).State)
				}
				if job := f.job(id); job.State != c.want {
					t.Errorf("woken when the job was %s, want %s", job.State, c.want)
				}
			})
		})
	}
}
