package pool_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/internal/pool"
)

// spike takes so many slots at once and releases them.
func spike(t *testing.T, p *pool.Pool, n int) {
	t.Helper()
	var slots []*pool.Slot
	for range n {
		slots = append(slots, take(t, p))
	}
	for _, s := range slots {
		s.Release()
	}
}

func TestIdleRunnersGoAndTheLastMinStay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told []string
		p := start(t, &cloud{}, &pool.Options{
			Min: 2, Max: 5, Concurrency: 1, Idle: time.Minute,
			OnShrink: func(s pool.Shrinkage) { told = append(told, fmt.Sprintf("%s %d", s.Reason, s.Count)) },
		})
		spike(t, p, 5)
		time.Sleep(time.Minute - time.Nanosecond)
		wantUp(t, p, 5, "just before the idle limit")
		time.Sleep(time.Nanosecond)
		wantUp(t, p, 2, "at the idle limit")
		time.Sleep(24 * time.Hour)
		wantUp(t, p, 2, "a day later")
		want := "[idle 4 idle 3 idle 2]"
		if got := fmt.Sprint(told); got != want {
			t.Errorf("OnShrink was told %s, want %s", got, want)
		}
	})
}

func TestAPoolWithoutMinShrinksToNothingAndGrowsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{}
		p := start(t, c, nil)
		for round := 1; round <= 3; round++ {
			take(t, p).Release()
			time.Sleep(pool.DefaultIdle)
			wantUp(t, p, 0, "at the idle limit")
			if got := c.booted(); got != round {
				t.Errorf("%d runners were booted in %d rounds, want one in each", got, round)
			}
		}
	})
}

func TestARunnerThatNeverGotWorkBecomesIdleToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, &cloud{takes: time.Second}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		<-ask(ctx, p)
		time.Sleep(time.Second)
		wantUp(t, p, 1, "when the boot has ended whose caller is gone")
		time.Sleep(pool.DefaultIdle)
		wantUp(t, p, 0, "at the idle limit")
	})
}

func TestARunnerWithWorkIsNeverIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{}
		p := start(t, c, &pool.Options{Idle: time.Second})
		placed, call := take(t, p), take(t, p)
		call.Release()
		time.Sleep(24 * time.Hour)
		if got := c.up(); len(got) != 1 {
			t.Errorf("%d runners are up after a day of work on one, want 1", len(got))
		}
		placed.Release()
		time.Sleep(time.Second)
		wantUp(t, p, 0, "a second after the work")
	})
}

func TestIdleTimeIsCountedFromTheLastUse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{}
		p := start(t, c, &pool.Options{Idle: 10 * time.Second})
		for range 50 {
			take(t, p).Release()
			time.Sleep(9 * time.Second)
		}
		if got := c.booted(); got != 1 {
			t.Errorf("%d runners were booted for calls that come every 9s, want 1", got)
		}
	})
}

func TestACallPlacedExactlyAtTheIdleLimitDoesNotFail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{}
		p := start(t, c, &pool.Options{Idle: time.Second, Concurrency: 4})
		take(t, p).Release()
		for range 300 {
			time.Sleep(time.Second) // wakes in the moment in which the pool looks at the clock
			var asked []<-chan answer
			for range 4 {
				asked = append(asked, ask(t.Context(), p))
			}
			for _, answers := range asked {
				a := <-answers
				if a.err != nil || a.after != 0 {
					t.Fatalf("a caller at the idle limit got %v after %v, want a slot at once", a.err, a.after)
				}
				synctest.Wait()
				if r := a.slot.Runner().(*node); r.isDone() || r.stopped() > 0 {
					t.Fatalf("a caller at the idle limit got a runner that is being stopped")
				}
				a.slot.Release()
			}
		}
	})
}

func TestIdleCheckThatSaysNoKeepsTheRunnerForAsLongAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var asked []time.Duration
		p := start(t, &cloud{}, &pool.Options{Idle: time.Minute, IdleCheck: func(string) bool {
			asked = append(asked, time.Since(began))
			return len(asked) == 3
		}})
		take(t, p).Release()
		time.Sleep(3*time.Minute - time.Nanosecond)
		wantUp(t, p, 1, "before the check has said yes")
		time.Sleep(time.Nanosecond)
		wantUp(t, p, 0, "when it has")
		if got := fmt.Sprint(asked); got != "[1m0s 2m0s 3m0s]" {
			t.Errorf("IdleCheck was asked after %s, want after 1m, 2m and 3m", got)
		}
	})
}

func TestWorkThatComesWhileIdleCheckThinksKeepsTheRunner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{}
		p := start(t, c, &pool.Options{Idle: time.Minute, Concurrency: 1, IdleCheck: func(string) bool {
			time.Sleep(10 * time.Second)
			return true
		}})
		take(t, p).Release()
		time.Sleep(time.Minute + 5*time.Second)
		held := take(t, p)
		time.Sleep(time.Hour)
		if r := held.Runner().(*node); r.stopped() > 0 || c.booted() != 1 {
			t.Errorf("the runner was stopped %d times and %d were booted, want it kept", r.stopped(), c.booted())
		}
		held.Release()
		time.Sleep(time.Minute + 5*time.Second)
		take(t, p).Release()
		time.Sleep(5 * time.Second)
		wantUp(t, p, 1, "when work came and went while the check was asked")
		time.Sleep(time.Minute + 10*time.Second)
		wantUp(t, p, 0, "without work")
	})
}

func TestIdleCheckThatPanicsHasSaidYes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, &cloud{}, &pool.Options{Idle: time.Minute, IdleCheck: func(string) bool { panic("a bug of the user") }})
		take(t, p).Release()
		time.Sleep(time.Minute)
		wantUp(t, p, 0, "after the check")
	})
}

func TestMinRunnersMayGoTooAndComeBackWhenACallerHasToWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{takes: time.Second}
		p := start(t, c, &pool.Options{Min: 2, Concurrency: 1, Idle: time.Minute, MinIdle: time.Hour})
		time.Sleep(time.Second)
		spike(t, p, 3)
		time.Sleep(time.Minute)
		wantUp(t, p, 2, "after Idle")
		time.Sleep(time.Hour)
		wantUp(t, p, 0, "after MinIdle")
		time.Sleep(24 * time.Hour)
		wantUp(t, p, 0, "a day later")
		take(t, p).Release()
		wantUp(t, p, 2, "after a call")
	})
}

func TestNeverKeepsRunnersForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, &cloud{}, &pool.Options{Concurrency: 1, Idle: pool.Never})
		spike(t, p, 3)
		time.Sleep(1000 * time.Hour)
		wantUp(t, p, 3, "after a thousand hours")
	})
}

func TestTheLeastLoadedRunnerIsNextUnlessFewAreToBeUsed(t *testing.T) {
	t.Parallel()
	for packing, want := range map[pool.Packing]string{pool.LeastLoaded: "[2 2 2]", pool.FewestRunners: "[4 2 0]"} {
		synctest.Test(t, func(t *testing.T) {
			p := start(t, &cloud{}, &pool.Options{Min: 3, Concurrency: 4, Packing: packing})
			load := map[pool.Runner]int{}
			for range 6 {
				load[take(t, p).Runner()]++
			}
			got := []int{}
			for _, n := range load {
				got = append(got, n)
			}
			for len(got) < 3 {
				got = append(got, 0)
			}
			if sorted := fmt.Sprint(descending(got)); sorted != want {
				t.Errorf("packing %d: 6 slots are spread %s over 3 runners, want %s", packing, sorted, want)
			}
		})
	}
}

func TestFewestRunnersLetTheOthersGoAfterASpike(t *testing.T) {
	t.Parallel()
	for packing, want := range map[pool.Packing]int{pool.LeastLoaded: 4, pool.FewestRunners: 1} {
		synctest.Test(t, func(t *testing.T) {
			p := start(t, &cloud{}, &pool.Options{Concurrency: 4, Packing: packing})
			var slots []*pool.Slot
			for range 16 {
				slots = append(slots, take(t, p))
			}
			for _, s := range slots {
				s.Release()
			}
			for range 100 { // four at a time, half a minute long
				slots = slots[:0]
				for range 4 {
					slots = append(slots, take(t, p))
				}
				time.Sleep(29 * time.Second)
				for _, s := range slots {
					s.Release()
				}
			}
			wantUp(t, p, want, fmt.Sprintf("packing %d: after a spike to 4 runners and an hour of 4 slots in use", packing))
		})
	}
}

func TestARunnerThatIsLostWhileIdleCheckThinksLeavesOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told []pool.Reason
		c := &cloud{}
		p := start(t, c, &pool.Options{
			IdleCheck: func(string) bool { time.Sleep(10 * time.Second); return true },
			OnShrink:  func(s pool.Shrinkage) { told = append(told, s.Reason) },
		})
		take(t, p).Release()
		r := c.up()[0]
		time.Sleep(pool.DefaultIdle + time.Second)
		r.kill(errOOM)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(told) != 1 || told[0] != pool.Lost || r.stopped() != 1 {
			t.Errorf("OnShrink was told %v and Stop called %d times, want lost, and once", told, r.stopped())
		}
	})
}
