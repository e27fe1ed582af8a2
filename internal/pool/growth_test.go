package pool_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/pool"
)

func TestMinRunnersAreBootedBeforeAnybodyCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{takes: time.Second}
		p := start(t, c, &pool.Options{Min: 3})
		time.Sleep(time.Second)
		wantUp(t, p, 3, "after one boot's time")
	})
}

func TestTheProgramOfARunnerKeepsNoRunnersOfItsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{}
		p := start(t, c, &pool.Options{Min: 3, Nested: true})
		time.Sleep(time.Minute)
		if got := c.booted(); got != 0 {
			t.Errorf("%d runners were booted that nobody asked for, want none", got)
		}
		take(t, p).Release()
		if got := c.booted(); got != 1 {
			t.Errorf("%d runners were booted for one caller, want 1", got)
		}
	})
}

func TestAPoolGrowsOnlyWhenEverySlotIsTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{}
		p := start(t, c, &pool.Options{Min: 1, Max: 2, Concurrency: 2})
		slots := []*pool.Slot{take(t, p), take(t, p)}
		wantUp(t, p, 1, "with both slots of a runner taken")
		slots = append(slots, take(t, p), take(t, p))
		wantUp(t, p, 2, "with one caller more")
		late := ask(t.Context(), p)
		time.Sleep(time.Hour)
		wantUp(t, p, 2, "with a caller more than Max runners can serve")
		slots[0].Release()
		a := <-late
		if a.err != nil || a.after != time.Hour {
			t.Errorf("the last caller got %v after %v, want a slot when one was free after 1h", a.err, a.after)
		}
		for _, s := range append(slots, a.slot) {
			s.Release() // the first one again, which changes nothing
		}
		if s := p.Stats(); s.InUse != 0 || s.Idle != 2 {
			t.Errorf("after all releases %d slots are in use and %d runners idle, want 0 and 2", s.InUse, s.Idle)
		}
	})
}

func TestTwoCallersOnAnEmptyPoolShareOneBoot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{takes: time.Second}
		p := start(t, c, nil)
		first, second := ask(t.Context(), p), ask(t.Context(), p)
		a, b := <-first, <-second
		if a.err != nil || b.err != nil {
			t.Fatalf("got %v and %v, want two slots", a.err, b.err)
		}
		if got := c.booted(); got != 1 {
			t.Errorf("%d runners were booted, want 1", got)
		}
		a.slot.Release()
		b.slot.Release()
	})
}

func TestARunnerThatBootsLateServesTheNextCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{takes: 20 * time.Second}
		p := start(t, c, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := p.Acquire(ctx); reason(err) != pool.TimeUp {
			t.Fatalf("the first caller got %v, want that its time was up", err)
		}
		a := <-ask(t.Context(), p)
		if a.err != nil || a.after != 15*time.Second {
			t.Fatalf("the next caller got %v after %v, want a slot after the 15s that the boot still took", a.err, a.after)
		}
		a.slot.Release()
		if got := c.booted(); got != 1 {
			t.Errorf("%d runners were booted, want the one that was late", got)
		}
	})
}

func TestTheTimeInLineIsChargedToTheCallersDeadlineAndItIsToldWhy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, &cloud{}, &pool.Options{Max: 1, Concurrency: 1})
		held := take(t, p)
		defer held.Release()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		before := ask(t.Context(), p)
		synctest.Wait()
		a := <-ask(ctx, p)
		if a.after != time.Second {
			t.Errorf("the caller was told after %v, want 1s, which was its deadline", a.after)
		}
		if !errors.Is(a.err, context.DeadlineExceeded) || fault.Of(a.err) != fault.Canceled {
			t.Errorf("the caller got %v of kind %s, want a deadline exceeded of kind canceled", a.err, fault.Of(a.err))
		}
		want := "pool pool: the caller waited 1s for a runner, of which 1 are up and 0 boot and there may be 1, with 1 more in line: context deadline exceeded"
		if a.err.Error() != want {
			t.Errorf("the text is %q, want %q", a.err, want)
		}
		held.Release()
		(<-before).slot.Release()
	})
}

func TestTheCauseOfACancellationIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, &cloud{takes: time.Hour}, &pool.Options{BootTimeout: 2 * time.Hour})
		ctx, cancel := context.WithCancelCause(t.Context())
		answers := ask(ctx, p)
		synctest.Wait()
		cause := errors.New("the visitor has left")
		cancel(cause)
		a := <-answers
		if !errors.Is(a.err, cause) || !errors.Is(a.err, context.Canceled) {
			t.Errorf("got %v, want the cause and context.Canceled", a.err)
		}
		if _, err := p.Acquire(ctx); !errors.Is(err, cause) || reason(err) != pool.TimeUp {
			t.Errorf("with a context that has ended: got %v, want that its time is up, and the cause", err)
		}
	})
}

func TestAFailedBootIsTriedAgainAndTheCallerIsServed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told []string
		c := &cloud{takes: time.Second, fails: func(n int) error {
			if n <= 2 {
				return passing(n)
			}
			return nil
		}}
		p := start(t, c, &pool.Options{OnGrow: func(g pool.Growth) {
			told = append(told, fmt.Sprintf("done=%v count=%d took=%v err=%v", g.Done, g.Count, g.Took, g.Err))
		}})
		a := <-ask(t.Context(), p)
		if a.err != nil {
			t.Fatalf("the caller got %v, want a slot", a.err)
		}
		a.slot.Release()
		// Three boots of a second, and pauses of half a second to one and of one to two.
		if a.after < 4500*time.Millisecond || a.after > 6*time.Second {
			t.Errorf("the caller waited %v, want 4.5s to 6s", a.after)
		}
		synctest.Wait()
		got := strings.Join(told, "\n")
		begun, failed := "done=false count=1 took=0s err=<nil>\n", "done=true count=0 took=1s err=the provider does not answer\n"
		want := begun + failed + begun + failed + begun + "done=true count=1 took=1s err=<nil>"
		if got != want {
			t.Errorf("OnGrow was told\n%s\nwant\n%s", got, want)
		}
		if s := p.Stats(); s.Failures != 2 || s.Boots != 1 || s.LastError != nil || s.InARow != 0 {
			t.Errorf("the statistics are %+v, want 2 failures, 1 boot and nothing in the way", s)
		}
	})
}

func TestThePauseAfterFailedBootsGrowsToHalfAMinuteAndNeverStops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var at []time.Duration
		c := &cloud{fails: func(int) error {
			at = append(at, time.Since(began))
			return passing(0)
		}}
		p := start(t, c, &pool.Options{Min: 4, Max: 4})
		time.Sleep(10 * time.Minute)
		p.Close()
		if len(at) < 4+20 || len(at) > 4+46 {
			t.Fatalf("%d boots were tried in 10 minutes, want the burst of 4 and 20 to 46 more", len(at))
		}
		for i, whole := range []int{1, 2, 4, 8, 16, 30, 30, 30, 30} {
			got, whole := at[i+4]-at[i+3], time.Duration(whole)*time.Second
			if got < whole/2 || got > whole {
				t.Errorf("pause %d was %v, want between %v and %v", i+1, got, whole/2, whole)
			}
		}
	})
}

func TestABurstThatFailsCountsAsOneFailureAndIsProbedByOneBoot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{takes: time.Second, fails: func(n int) error {
			if n <= 4 {
				return passing(n)
			}
			return nil
		}}
		p := start(t, c, &pool.Options{Min: 4, Max: 4})
		time.Sleep(time.Second)
		synctest.Wait()
		if s := p.Stats(); s.InARow != 1 || s.Failures != 4 || s.NextBoot > time.Second {
			t.Errorf("after the burst: %d in a row, %d failures, next in %v; want 1, 4 and at most a second", s.InARow, s.Failures, s.NextBoot)
		}
		time.Sleep(time.Second)
		if got := p.Stats().Booting; got != 1 {
			t.Errorf("after the pause %d runners boot, want 1", got)
		}
		time.Sleep(2 * time.Second)
		wantUp(t, p, 4, "when it works again")
	})
}

func TestACallerWithoutADeadlineLearnsWhyNothingBoots(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, &cloud{fails: passing}, &pool.Options{Patience: 10 * time.Second})
		for range 2 { // the second one finds the trouble, and has the same patience
			a := <-ask(t.Context(), p)
			if reason(a.err) != pool.BootFailed || fault.Of(a.err) != fault.Unavailable || a.after != 10*time.Second {
				t.Errorf("the caller got %v of kind %s after %v, want that no boot succeeds, unavailable, after 10s", a.err, fault.Of(a.err), a.after)
			}
			if !strings.Contains(a.err.Error(), "the provider does not answer") {
				t.Errorf("the error %q does not say what the backend said", a.err)
			}
		}
	})
}

func TestACallerWithADeadlineLearnsWhyNothingBoots(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, &cloud{fails: passing}, &pool.Options{Patience: pool.Never})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		a := <-ask(ctx, p)
		if reason(a.err) != pool.TimeUp || fault.Of(a.err) != fault.Canceled || a.after != 10*time.Minute {
			t.Errorf("the caller got %v of kind %s after %v, want that its time is up after 10m", a.err, fault.Of(a.err), a.after)
		}
		if !strings.Contains(a.err.Error(), "boots failed, at last with: the provider does not answer") {
			t.Errorf("the error %q does not say what the backend said", a.err)
		}
	})
}

func TestCallersWaitForABusyRunnerWhateverFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{fails: func(n int) error {
			if n > 1 {
				return fault.Say(fault.Denied, "no more machines for you")
			}
			return nil
		}}
		p := start(t, c, &pool.Options{Concurrency: 1, Patience: time.Second})
		held := take(t, p)
		waiting := ask(t.Context(), p)
		time.Sleep(time.Minute)
		held.Release()
		if a := <-waiting; a.err != nil {
			t.Errorf("the caller got %v, want the slot that came free", a.err)
		} else {
			a.slot.Release()
		}
	})
}

func TestAConfigurationErrorIsToldAtOnceAndIsNotTriedInALoop(t *testing.T) {
	t.Parallel()
	for _, kind := range []fault.Kind{fault.Invalid, fault.Denied, fault.Unauthenticated, fault.Unsupported, fault.TooLarge} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				broken := true
				c := &cloud{takes: time.Second, fails: func(int) error {
					if broken {
						return fault.Say(kind, "the image has no program of this architecture")
					}
					return nil
				}}
				p := start(t, c, &pool.Options{Min: 1, Max: 3})
				first := <-ask(t.Context(), p)
				if reason(first.err) != pool.BootFailed || fault.Of(first.err) != kind || first.after != time.Second {
					t.Errorf("the first caller got %v of kind %s after %v, want the boot's failure after its 1s", first.err, fault.Of(first.err), first.after)
				}
				next := p.Stats().NextBoot.Round(time.Millisecond)
				if a := <-ask(t.Context(), p); a.after != 0 || fault.Of(a.err) != kind || !strings.Contains(a.err.Error(), fmt.Sprintf("no other is tried for %v", next)) {
					t.Errorf("the next caller got %v after %v, want the same at once, and that it is for %v", a.err, a.after, next)
				}
				time.Sleep(time.Hour)
				if got := c.booted(); got != 1 {
					t.Errorf("%d boots were tried while nobody called, want the first alone", got)
				}
				c.change(func() { broken = false })
				a := <-ask(t.Context(), p)
				if a.err != nil || a.after != time.Second {
					t.Fatalf("a caller after it was mended got %v after %v, want a slot after 1s", a.err, a.after)
				}
				a.slot.Release()
				time.Sleep(time.Hour)
				wantUp(t, p, 1, "when it is mended")
			})
		})
	}
}

func TestABootThatNeverReturnsIsToldAndCountsAgainstMax(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := &cloud{boot: func(context.Context, *node) error { <-release; return nil }}
		p := start(t, c, &pool.Options{Max: 2, BootTimeout: 30 * time.Second})
		a := <-ask(t.Context(), p)
		if reason(a.err) != pool.BootFailed || fault.Of(a.err) != fault.Unavailable || a.after != 40*time.Second {
			t.Errorf("the caller got %v of kind %s after %v, want the boot's failure after 40s", a.err, fault.Of(a.err), a.after)
		}
		a = <-ask(t.Context(), p)
		if reason(a.err) != pool.BootFailed || a.after > 50*time.Second {
			t.Errorf("the next caller got %v after %v, want the boot's failure after a pause and 40s", a.err, a.after)
		}
		a = <-ask(t.Context(), p)
		if reason(a.err) != pool.BootFailed || a.after != 30*time.Second || c.booted() != 2 {
			t.Errorf("when Max boots hang a caller got %v after %v, and %d were begun; want the failure after 30s, and 2", a.err, a.after, c.booted())
		}
		close(release)
		a = <-ask(t.Context(), p)
		if a.err != nil || a.after != 0 {
			t.Fatalf("when the boots succeed at last a caller got %v after %v, want a slot at once", a.err, a.after)
		}
		a.slot.Release()
		synctest.Wait()
		if s := p.Stats(); s.LastError != nil || s.Failures != 2 || s.Boots != 2 {
			t.Errorf("the statistics are %+v, want 2 failures, 2 boots, and nothing in the way", s)
		}
	})
}

func TestABootIsGivenItsTimeAndTheFailureSaysHowLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, &cloud{takes: time.Hour}, &pool.Options{BootTimeout: 7 * time.Second})
		a := <-ask(t.Context(), p)
		if a.after != 7*time.Second || fault.Of(a.err) != fault.Unavailable {
			t.Errorf("the caller got an error of kind %s after %v, want unavailable after 7s", fault.Of(a.err), a.after)
		}
		want := "pool pool: no runner is up and none can be booted; the last boot failed: unavailable: " +
			"the runner was not up within 7s: the fake's boot was ended: context deadline exceeded"
		if a.err.Error() != want {
			t.Errorf("the text is\n%s\nwant\n%s", a.err, want)
		}
		if errors.Is(a.err, context.DeadlineExceeded) {
			t.Errorf("got the error of a context that has ended, want none: the caller's has not")
		}
	})
}

func TestABackendThatReturnsNothingHasFailed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, err := pool.New(nothing{}, &pool.Options{Patience: time.Nanosecond})
		if err != nil {
			t.Fatal(err)
		}
		go p.Run(t.Context())
		if _, err := p.Acquire(t.Context()); fault.Of(err) != fault.Internal {
			t.Errorf("got %v, want an error of kind internal", err)
		}
	})
}

type nothing struct{}

func (nothing) Boot(context.Context, string) (pool.Runner, error) { return nil, nil }

func TestOneMoreRunnerIsBootedAtAShareOfTheSlots(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, &cloud{}, &pool.Options{Max: 3, Concurrency: 10, Prewarm: 0.8, Idle: time.Minute})
		var slots []*pool.Slot
		for n := 1; n <= 30; n++ {
			slots = append(slots, take(t, p))
			want := 1
			switch {
			case n >= 16:
				want = 3
			case n >= 8:
				want = 2
			}
			wantUp(t, p, want, fmt.Sprintf("with %d slots taken", n))
		}
		for n := 30; n > 0; n-- {
			slots[n-1].Release()
		}
		time.Sleep(time.Hour)
		wantUp(t, p, 0, "without work")
	})
}

func TestARunnerThatWasBootedAheadIsKeptWhileTheShareIsUsed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{}
		p := start(t, c, &pool.Options{Max: 3, Concurrency: 10, Prewarm: 0.5, Packing: pool.FewestRunners})
		var slots []*pool.Slot
		for range 6 {
			slots = append(slots, take(t, p))
		}
		time.Sleep(time.Hour)
		if got := c.booted(); got != 2 {
			t.Errorf("%d runners were booted within an hour of steady use, want 2", got)
		}
		wantUp(t, p, 2, "with 6 of 10 slots taken")
		for _, s := range slots {
			s.Release()
		}
		time.Sleep(time.Hour)
		wantUp(t, p, 0, "without work")
	})
}

func TestMaxCountsRunnersThatStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stopping := make(chan struct{})
		c := &cloud{stop: func(context.Context, *node) error { <-stopping; return nil }}
		p := start(t, c, &pool.Options{Max: 2, Concurrency: 1, SingleUse: true})
		take(t, p).Release()
		take(t, p).Release()
		third := ask(t.Context(), p)
		time.Sleep(time.Minute)
		if s := p.Stats(); s.Stopping != 2 || s.Booting != 0 || s.Queued != 1 || s.Oldest != time.Minute {
			t.Errorf("got %+v, want 2 that stop, none that boot, and one caller that has waited a minute", s)
		}
		close(stopping)
		a := <-third
		if a.err != nil {
			t.Fatalf("got %v, want a slot when there is room", a.err)
		}
		a.slot.Release()
		if _, most := c.exist(); most > 2 {
			t.Errorf("%d runners existed at once, want at most 2", most)
		}
	})
}

// descending sorts from the largest.
func descending(numbers []int) []int {
	slices.Sort(numbers)
	slices.Reverse(numbers)
	return numbers
}

func TestPatienceIsLookedAfterWhileNothingElseHappens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{fails: passing}
		p := start(t, c, &pool.Options{Min: 1, Patience: time.Second})
		time.Sleep(10 * time.Minute)
		for p.Stats().NextBoot < 5*time.Second {
			time.Sleep(time.Second)
		}
		if a := <-ask(t.Context(), p); reason(a.err) != pool.BootFailed || a.after != time.Second {
			t.Errorf("a caller in the middle of a pause got %v after %v, want why after the 1s of its patience", a.err, a.after)
		}
	})
}

func TestPatienceDoesNotEndWhileARunnerBoots(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := 0
		c := &cloud{boot: func(context.Context, *node) error {
			if n++; n == 1 {
				return passing(n)
			}
			<-time.After(20 * time.Second)
			return nil
		}}
		p := start(t, c, &pool.Options{Max: 1, Patience: 5 * time.Second})
		a := <-ask(t.Context(), p)
		if a.err != nil || a.after < 20*time.Second {
			t.Fatalf("the caller got %v after %v, want the slot of the boot that was under way", a.err, a.after)
		}
		a.slot.Release()
	})
}

func TestABootThatIsOverdueAndFailsAfterAllIsOneFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{boot: func(context.Context, *node) error {
			<-time.After(time.Hour)
			return passing(0)
		}}
		p := start(t, c, &pool.Options{Max: 1})
		<-ask(t.Context(), p)
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := p.Stats(); s.InARow != 1 || s.Failures != 1 || s.NextBoot != 0 {
			t.Errorf("%d failures, %d in a row, next boot in %v; want 1, 1 and at once", s.Failures, s.InARow, s.NextBoot)
		}
	})
}

func TestASuccessThatBeganBeforeAFailureDoesNotEndThePause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := make(chan int, 2)
		n <- 1
		n <- 2
		c := &cloud{boot: func(context.Context, *node) error {
			if <-n == 1 {
				return passing(1)
			}
			<-time.After(100 * time.Millisecond)
			return nil
		}}
		p := start(t, c, &pool.Options{Min: 2, Max: 2})
		time.Sleep(200 * time.Millisecond)
		wantUp(t, p, 1, "when one of two boots has succeeded")
		if s := p.Stats(); s.InARow != 1 || s.NextBoot == 0 || s.Booting != 0 {
			t.Errorf("got %+v, want that the pause goes on which the other's failure began", s)
		}
		n <- 3
		time.Sleep(2 * time.Second)
		wantUp(t, p, 2, "after the pause")
	})
}

func TestMinIsRestoredAfterAConfigurationErrorWhenAnotherRunnerGoes(t *testing.T) {
	t.Parallel()
	for name, life := range map[string]time.Duration{"by death": 0, "by age": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := &cloud{life: life}
				p := start(t, c, &pool.Options{Min: 2})
				refused := func(int) error { return fault.Say(fault.Denied, "not you") }
				c.change(func() { c.fails = refused })
				take(t, p).Release()
				c.up()[0].kill(errOOM)
				time.Sleep(time.Minute)
				wantUp(t, p, 1, "after a death, when the replacement was refused")
				c.change(func() { c.fails = nil })
				if life == 0 {
					c.up()[0].kill(errOOM)
				}
				time.Sleep(time.Hour)
				wantUp(t, p, 2, "when another has gone since")
			})
		})
	}
}
