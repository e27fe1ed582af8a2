package dayflytest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// place occupies so many slots, one after another, and returns the runners that they are on.
func place(t *testing.T, p *dayfly.Pool, n int) (runners []string) {
	t.Helper()
	for range n {
		placed, err := sleep.Place(t.Context(), p, 1000*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		runners = append(runners, placed.Runner())
	}
	return runners
}

// ups returns how many runners the pool has when all that happens now has happened.
func ups(p *dayfly.Pool) int {
	synctest.Wait()
	return p.Stats().Up
}

func TestPrewarmBootsBeforeAnybodyHasToWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, _ := newPool(t, &dayfly.PoolOptions{Max: 3, Concurrency: 4, Prewarm: 0.5})
		place(t, pool, 1)
		if n := ups(pool); n != 1 {
			t.Errorf("got %d runners with one slot of four in use, want 1", n)
		}
		place(t, pool, 1)
		if n := ups(pool); n != 2 {
			t.Errorf("got %d runners with half of the slots in use, want 2", n)
		}
	})
}

func TestPackingDecidesWhereTheNextCallGoes(t *testing.T) {
	t.Parallel()
	for packing, want := range map[dayfly.Packing]int{dayfly.LeastLoaded: 2, dayfly.FewestRunners: 1} {
		synctest.Test(t, func(t *testing.T) {
			pool, _ := newPool(t, &dayfly.PoolOptions{Min: 2, Packing: packing})
			if n := ups(pool); n != 2 {
				t.Fatalf("got %d runners, want the two that are kept", n)
			}
			runners := place(t, pool, 4)
			slices.Sort(runners)
			if got := len(slices.Compact(runners)); got != want {
				t.Errorf("packing %d: four functions are on %d runners, want %d", packing, got, want)
			}
		})
	}
}

func TestIdleCheckKeepsRunnersUntilItSaysYes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		pool, _ := newPool(t, &dayfly.PoolOptions{Idle: time.Minute, IdleCheck: func(string) bool { return asked.Add(1) == 3 }})
		if _, err := double.Call(t.Context(), pool, 1); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2*time.Minute + time.Second)
		if up, n := pool.Stats().Up, asked.Load(); up != 1 || n != 2 {
			t.Errorf("got %d runners after IdleCheck was asked %d times, want 1 after it has said no twice", up, n)
		}
		time.Sleep(time.Minute)
		if up, n := pool.Stats().Up, asked.Load(); up != 0 || n != 3 {
			t.Errorf("got %d runners after IdleCheck was asked %d times, want none after it has said yes", up, n)
		}
	})
}

func TestIdleCheckIsToldWhichRunnerItDecidesAbout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var kept atomic.Value
		shrunk := make(chan string, 2)
		pool, _ := newPool(t, &dayfly.PoolOptions{
			Concurrency: 1, Idle: time.Minute,
			IdleCheck: func(runner string) bool { return runner != kept.Load() },
			OnShrink:  func(s dayfly.Shrinkage) { shrunk <- s.Runner },
		})
		var used []string
		for range 2 { // at once, and so on two runners
			placed, err := sleep.Place(t.Context(), pool, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			used = append(used, placed.Runner())
		}
		kept.Store(used[1])
		time.Sleep(time.Minute + 2*time.Second)
		if up := ups(pool); up != 1 || <-shrunk != used[0] {
			t.Errorf("got %d runners, want %s alone to have been stopped", up, used[0])
		}
	})
}

func TestMinIdleLetsTheLastRunnersGoUntilACallWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, _ := newPool(t, &dayfly.PoolOptions{Min: 1, Idle: time.Minute, MinIdle: time.Hour})
		time.Sleep(59 * time.Minute)
		if n := pool.Stats().Up; n != 1 {
			t.Errorf("got %d runners before MinIdle is over, want 1", n)
		}
		time.Sleep(2 * time.Minute)
		if n := pool.Stats().Up; n != 0 {
			t.Errorf("got %d runners after MinIdle, want none", n)
		}
		if got, err := double.Call(t.Context(), pool, 1); got != 2 || err != nil {
			t.Errorf("got %d, %v, want 2 from a runner that came back", got, err)
		}
		time.Sleep(30 * time.Minute)
		if n := pool.Stats().Up; n != 1 {
			t.Errorf("got %d runners after a call, want the one of Min to be kept again", n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		pool, _ := newPool(t, &dayfly.PoolOptions{Min: 1, Idle: time.Minute})
		time.Sleep(23 * time.Hour)
		if n := pool.Stats().Up; n != 1 {
			t.Errorf("got %d runners without MinIdle, want 1 for ever", n)
		}
	})
}

func TestPoolRunWorksUntilItsContextEndsOrThePoolIsClosed(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*dayfly.Pool, context.CancelFunc) error{
		"its context":   func(_ *dayfly.Pool, cancel context.CancelFunc) error { cancel(); return nil },
		"a Close of it": func(p *dayfly.Pool, _ context.CancelFunc) error { return p.Close() },
	} {
		synctest.Test(t, func(t *testing.T) {
			pool, runners := newPool(t, &dayfly.PoolOptions{})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ran := make(chan error, 1)
			go func() { ran <- pool.Run(ctx) }()
			working := make(chan error, 1)
			go func() {
				_, err := sleep.Call(t.Context(), pool, 5*time.Second)
				working <- err
			}()
			time.Sleep(time.Second)
			select {
			case err := <-ran:
				t.Fatalf("Run returned %v while nothing ended it", err)
			default:
			}
			if err := end(pool, cancel); err != nil {
				t.Errorf("%s: got %v", name, err)
			}
			if err := <-ran; err != nil {
				t.Errorf("Run ended by %s: got %v, want nil", name, err)
			}
			if err := <-working; err != nil {
				t.Errorf("the call that ran when %s ended it: got %v, want its result", name, err)
			}
			if left := runners.Running(); len(left) > 0 {
				t.Errorf("after %s: got the runners %v, want none", name, left)
			}
			if _, err := double.Call(t.Context(), pool, 1); !errors.Is(err, fault.Conflict) {
				t.Errorf("a call after %s: got %v, want that the pool is closed", name, err)
			}
		})
	}
}

func TestGrowthAndShrinkageAreToldInOrderAlsoToCallbacksThatPanic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []string
		note := func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, fmt.Sprintf(format, args...))
			if len(told) == 1 {
				panic("a callback that fails")
			}
		}
		pool, runners := newPool(t, &dayfly.PoolOptions{
			Idle:   time.Minute,
			OnGrow: func(g dayfly.Growth) { note("grow %v %v %d", g.Done, g.Err != nil, g.Count) },
			OnShrink: func(s dayfly.Shrinkage) {
				time.Sleep(time.Second) // nothing waits for it
				note("shrink %s %v %d", s.Reason, s.Err != nil, s.Count)
			},
		})
		if _, err := double.Call(t.Context(), pool, 1); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		runners.RefuseBoots(fault.Exhausted).Times(1)
		runners.KillBefore("dayflytest/double").Times(1)
		if _, err := double.Call(t.Context(), pool, 1); !errors.Is(err, dayfly.ErrRunnerLost) {
			t.Fatalf("got %v, want a lost runner", err)
		}
		synctest.Wait() // the call's end and the pool's notice are told apart, and a pool that is closed first says closed
		if err := pool.Close(); err != nil {
			t.Fatal(err)
		}
		want := []string{
			"grow false false 1", "grow true false 1", "shrink idle false 0", // the first call
			"grow false false 1", "grow true true 0", // refused
			"grow false false 1", "grow true false 1", "shrink lost true 0",
		}
		if !slices.Equal(told, want) {
			t.Errorf("got  %v\nwant %v", told, want)
		}
	})
}

func TestOnErrorThatPanicsHarmsNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told atomic.Int32
		pool, runners := newPool(t, &dayfly.PoolOptions{OnError: func(error) {
			told.Add(1)
			panic("a callback that fails")
		}})
		runners.KillBefore("dayflytest/double").Times(2)
		for range 3 {
			if err := double.Cast(t.Context(), pool, 1); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		if n := told.Load(); n != 2 {
			t.Errorf("OnError was told %d times, want of each of 2 failures though it panics", n)
		}
		if got, err := double.Call(t.Context(), pool, 4); got != 8 || err != nil {
			t.Errorf("the next call: got %d, %v, want 8", got, err)
		}
	})
}

func TestPatienceIsHowLongACallWaitsWhileBootsFail(t *testing.T) {
	t.Parallel()
	for patience, want := range map[time.Duration]time.Duration{
		0:                defaultBootTimeout,
		5 * time.Minute:  5 * time.Minute,
		dayfly.Never:     time.Hour, // that of its context
		10 * time.Second: 10 * time.Second,
	} {
		synctest.Test(t, func(t *testing.T) {
			pool, runners := newPool(t, &dayfly.PoolOptions{Patience: patience})
			runners.RefuseBoots(fault.Exhausted)
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			began := time.Now()
			_, err := double.Call(ctx, pool, 1)
			failed, ok := errors.AsType[*dayfly.CallError](err)
			if took := time.Since(began).Round(time.Second); !ok || failed.Ran || took != want {
				t.Errorf("Patience %v: got %v after %v, want that nothing ran after %v", patience, err, took, want)
			}
			if !strings.Contains(err.Error(), "boots failed") {
				t.Errorf("Patience %v: got %q, want it to tell of the boots", patience, err)
			}
		})
	}
}

// defaultBootTimeout is what PoolOptions say of a BootTimeout of 0.
const defaultBootTimeout = 30 * time.Second

func TestRetireIsHowLongBeforeItsEndARunnerGetsNoMoreCalls(t *testing.T) {
	t.Parallel()
	for retire, want := range map[time.Duration]time.Duration{0: 115 * time.Minute, 30 * time.Minute: 90 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			var retired time.Duration
			began := time.Now()
			pool, _ := newPool(t, &dayfly.PoolOptions{
				Idle: dayfly.Never, Retire: retire, Spec: machine.Spec{Lifetime: 2 * time.Hour},
				OnShrink: func(s dayfly.Shrinkage) {
					if s.Reason == "retired" && retired == 0 {
						retired = time.Since(began).Round(time.Minute)
					}
				},
			})
			if _, err := double.Call(t.Context(), pool, 1); err != nil {
				t.Fatal(err)
			}
			time.Sleep(119 * time.Minute)
			if err := pool.Close(); err != nil {
				t.Fatal(err)
			}
			if retired != want {
				t.Errorf("Retire %v: the runner retired after %v of two hours, want %v", retire, retired, want)
			}
		})
	}
}

func TestNoCallFailsBecauseItsRunnerIsToldToEndInThatMoment(t *testing.T) {
	t.Parallel()
	pool, runners := newPool(t, &dayfly.PoolOptions{Concurrency: 4})
	var telling sync.WaitGroup
	for range 200 {
		for _, name := range runners.Running() {
			telling.Go(func() { runners.TellToEnd(name) })
		}
		for range 3 {
			telling.Go(func() {
				if got, err := double.Call(t.Context(), pool, 2); err != nil || got != 4 {
					t.Errorf("a call while runners are told to end: got %d and error %v, want 4", got, err)
				}
			})
		}
		telling.Wait()
	}
}

func TestACallWhoseTimeoutIsNeverIsNotLimitedByItsPoolEither(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, _ := newPool(t, &dayfly.PoolOptions{Timeout: time.Second})
		if _, err := sleep.Call(t.Context(), pool, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a call of an hour: got error %v, want that PoolOptions.Timeout is up", err)
		}
		forever := sleep.With(&dayfly.CallOptions{Timeout: dayfly.Never})
		if _, err := forever.Call(t.Context(), pool, time.Hour); err != nil {
			t.Errorf("a call of an hour whose Timeout is Never: got error %v, want none", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := forever.Call(ctx, pool, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the same with a context of a minute: got error %v, want that its time is up", err)
		}
	})
}
