package dayflytest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/dayflytest"
	"github.com/dayfly-run/dayfly/fault"
)

// The functions of the tests.
var (
	double = dayfly.Func("dayflytest/double", func(_ context.Context, n int) (int, error) { return 2 * n, nil })
	spoil  = dayfly.Func("dayflytest/spoil", func(_ context.Context, list []int) ([]int, error) {
		clear(list)
		return list, nil
	})
	ran   = dayfly.Func("dayflytest/ran", func(_ context.Context, n *counted) (int, error) { return n.Add(), nil })
	sleep = dayfly.Func("dayflytest/sleep", func(ctx context.Context, d time.Duration) (string, error) {
		select {
		case <-time.After(d):
			return "slept", nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	})
	ticks = dayfly.Stream("dayflytest/ticks", func(ctx context.Context, every time.Duration, yield func(int) error) error {
		for i := 0; ; i++ {
			if err := yield(i); err != nil {
				return err
			}
			select {
			case <-time.After(every):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	leave = dayfly.Func("dayflytest/leave", func(context.Context, struct{}) (int, error) {
		go func() { <-make(chan int) }()
		return 0, nil
	})
)

// counters are counted in by functions that run in the test's process, each by one test.
var counters [3]atomic.Int32

// counted is one of the counters, as it travels.
type counted struct{ Index int }

func (c *counted) Add() int { return int(counters[c.Index].Add(1)) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// newPool returns a pool that says nothing, and its runners.
func newPool(t *testing.T, o *dayfly.PoolOptions) (*dayfly.Pool, *dayflytest.Runners) {
	t.Helper()
	o.Logger = quiet()
	return dayflytest.NewPool(t, o)
}

func TestACallCrossesAWire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, runners := newPool(t, &dayfly.PoolOptions{MaxArgument: 1000})
		own := []int{1, 2, 3}
		got, err := spoil.Call(t.Context(), pool, own)
		if err != nil || !slices.Equal(got, []int{0, 0, 0}) {
			t.Errorf("got %v, %v; want zeros", got, err)
		}
		if !slices.Equal(own, []int{1, 2, 3}) {
			t.Errorf("the function has changed the caller's argument to %v; want a copy of it changed", own)
		}
		if _, err := spoil.Call(t.Context(), pool, make([]int, 2000)); !errors.Is(err, fault.TooLarge) {
			t.Errorf("got %v, want an argument of 2,000 bytes refused as too large", err)
		}
		if got := runners.Running(); len(got) != 1 {
			t.Errorf("got the runners %v, want one for two calls", got)
		}
	})
}

func TestARunnerKilledBeforeTheFunctionRanHasNotRunIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, runners := newPool(t, &dayfly.PoolOptions{})
		counters[0].Store(0)
		rule := runners.KillBefore("dayflytest/ran").Times(1)
		_, err := ran.Call(t.Context(), pool, &counted{0})
		if failed, ok := errors.AsType[*dayfly.CallError](err); !ok || !failed.Ran || !errors.Is(err, dayfly.ErrRunnerLost) {
			t.Errorf("got %v, want an error that says that the runner was lost and the function may have run", err)
		}
		if n := counters[0].Load(); n != 0 {
			t.Errorf("the function ran %d times, want it never to have run", n)
		}
		got, err := ran.Call(t.Context(), pool, &counted{0})
		if got != 1 || err != nil || rule.Used() != 1 {
			t.Errorf("got %d, %v after %d kills; want another runner to run it once", got, err, rule.Used())
		}
	})
}

func TestARunnerKilledAfterTheFunctionRanHasRunItAndNobodyKnows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, runners := newPool(t, &dayfly.PoolOptions{})
		counters[1].Store(0)
		runners.KillAfter("dayflytest/ran").After(1).Times(1)
		if _, err := ran.Call(t.Context(), pool, &counted{1}); err != nil {
			t.Fatalf("got %v, want the first call to pass", err)
		}
		_, err := ran.Call(t.Context(), pool, &counted{1})
		if !errors.Is(err, dayfly.ErrRunnerLost) || !strings.Contains(err.Error(), "SIGKILL") {
			t.Errorf("got %v, want the runner lost by SIGKILL", err)
		}
		if n := counters[1].Load(); n != 2 {
			t.Errorf("the function ran %d times, want 2", n)
		}
	})
}

func TestARunnerOutOfMemoryIsToldApart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, runners := newPool(t, &dayfly.PoolOptions{})
		runners.OutOfMemory("dayflytest/double").Times(1)
		if _, err := double.Call(t.Context(), pool, 1); !errors.Is(err, dayfly.ErrOutOfMemory) {
			t.Errorf("got %v, want dayfly.ErrOutOfMemory", err)
		}
		if got, err := double.Call(t.Context(), pool, 1); got != 2 || err != nil {
			t.Errorf("got %d, %v; want the pool to have come to no harm", got, err)
		}
	})
}

func TestNoCallGoesToARunnerThatHasDied(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, runners := newPool(t, &dayfly.PoolOptions{Max: 3})
		for i := range 50 {
			if _, err := double.Call(t.Context(), pool, i); err != nil {
				t.Fatalf("call %d: %v", i, err)
			}
			runners.Kill(runners.Running()[0])
			if i%2 == 0 {
				synctest.Wait() // who knows of it has heard of it; the reason is found out later
			}
			_, err := double.Call(t.Context(), pool, i)
			if failed, ok := errors.AsType[*dayfly.CallError](err); err != nil && (!ok || failed.Ran) {
				t.Errorf("a call after the %dth death: got %v, want it run elsewhere, or known not to have run", i, err)
			}
			if err != nil && i%2 == 0 {
				t.Errorf("a call when the %dth death is known: got %v, want it run elsewhere", i, err)
			}
		}
	})
}

func TestACallThatNeverLeftIsKnownNotToHaveRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, runners := newPool(t, &dayfly.PoolOptions{Max: 1, Silence: time.Hour})
		call := func() <-chan error {
			failed := make(chan error, 1)
			go func() {
				_, err := sleep.Call(t.Context(), pool, time.Minute)
				failed <- err
			}()
			synctest.Wait()
			return failed
		}
		before := call()
		runners.Cut()
		after := call()
		runners.Kill(runners.Running()[0])
		for name, c := range map[string]struct {
			err <-chan error
			ran bool
		}{"before": {before, true}, "after": {after, false}} {
			err := <-c.err
			if failed, ok := errors.AsType[*dayfly.CallError](err); !ok || failed.Ran != c.ran || !errors.Is(err, dayfly.ErrRunnerLost) {
				t.Errorf("a call that was made %s the network was cut: got %v, want a lost runner that may have run it: %v", name, err, c.ran)
			}
		}
	})
}

func TestAStreamEndsWithItsRunner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, runners := newPool(t, &dayfly.PoolOptions{})
		got := 0
		var failed error
		for n, err := range ticks.Call(t.Context(), pool, time.Second) {
			if err != nil {
				failed = err
				break
			}
			if got++; n == 2 && !runners.Kill(runners.Running()[0]) {
				t.Error("got no runner to kill, want the stream's")
			}
		}
		if got != 3 || !errors.Is(failed, dayfly.ErrRunnerLost) {
			t.Errorf("got %d items and %v, want three and a lost runner", got, failed)
		}
	})
}

func TestACastThatIsLostGoesToOnError(t *testing.T) {
	failed := make(chan error, 1)
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, runners := dayflytest.NewPool(t, &dayfly.PoolOptions{Logger: quiet(), OnError: func(err error) { failed <- err }})
		runners.KillBefore("dayflytest/double")
		if err := double.Cast(context.Background(), pool, 1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		time.Sleep(time.Minute)
		if err := <-failed; !errors.Is(err, dayfly.ErrRunnerLost) {
			t.Errorf("got %v, want OnError to hear of the lost runner", err)
		}
	})
}

func TestAPlacedFunctionEndsWithItsRunner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, runners := newPool(t, &dayfly.PoolOptions{})
		placed, err := sleep.Place(t.Context(), pool, 24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if !runners.Kill(placed.Runner()) {
			t.Fatalf("got no runner %s, want it to run", placed.Runner())
		}
		<-placed.Done()
		if !errors.Is(placed.Err(), dayfly.ErrRunnerLost) {
			t.Errorf("got %v, want a lost runner", placed.Err())
		}
		synctest.Wait() // its slot is given back after it is told
		if n := pool.Stats().InUse; n != 0 {
			t.Errorf("got %d slots in use, want none", n)
		}
	})
}

func TestACallOutlivesACut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, runners := newPool(t, &dayfly.PoolOptions{Silence: time.Minute})
		done := make(chan error)
		go func() {
			got, err := sleep.Call(t.Context(), pool, 10*time.Second)
			if err == nil && got != "slept" {
				err = fmt.Errorf("got %q, want slept", got)
			}
			done <- err
		}()
		time.Sleep(time.Second)
		runners.Cut()
		time.Sleep(20 * time.Second) // the function ends meanwhile
		select {
		case err := <-done:
			t.Fatalf("got the end of the call while nothing could arrive: %v", err)
		default:
		}
		runners.Heal()
		if err := <-done; err != nil {
			t.Errorf("got %v, want the result to have waited for the network", err)
		}
	})
}

func TestASilenceIsNoticedByBothSides(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, runners := newPool(t, &dayfly.PoolOptions{Silence: time.Minute})
		placed, err := sleep.Place(t.Context(), pool, 24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		runners.Mute(placed.Runner())
		<-placed.Done()
		if took := time.Since(began); took > time.Minute || took < 30*time.Second {
			t.Errorf("it took %v to notice, want most of a minute", took)
		}
		if !errors.Is(placed.Err(), dayfly.ErrRunnerLost) {
			t.Errorf("got %v, want a lost runner", placed.Err())
		}
		time.Sleep(2 * time.Minute)
		if left := runners.Running(); len(left) != 0 {
			t.Errorf("got the runners %v, want the silent one to have ended and its machine to be destroyed", left)
		}
	})
}

func TestAShortSilenceHarmsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, runners := newPool(t, &dayfly.PoolOptions{Silence: time.Minute})
		placed, err := sleep.Place(t.Context(), pool, 5*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		runners.Mute()
		time.Sleep(20 * time.Second)
		runners.Heal()
		if got, err := placed.Wait(t.Context()); got != "slept" || err != nil {
			t.Errorf("got %q, %v; want the function to have gone on", got, err)
		}
	})
}

func TestARefusedBootIsTriedAgainOrTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, runners := newPool(t, &dayfly.PoolOptions{})
		rule := runners.RefuseBoots(fault.Exhausted).Times(2)
		if got, err := double.Call(t.Context(), pool, 4); got != 8 || err != nil || rule.Used() != 2 {
			t.Errorf("got %d, %v after %d refusals; want 8 after 2", got, err, rule.Used())
		}
		runners.Kill(runners.Running()[0])
		time.Sleep(time.Second) // until the pool knows
		runners.RefuseBoots(fault.Denied)
		began := time.Now()
		_, err := double.Call(t.Context(), pool, 4)
		if fault.Of(err) != fault.Denied || time.Since(began) > time.Second {
			t.Errorf("got %v after %v, want wrong credentials told at once", err, time.Since(began))
		}
	})
}

func TestASlowBootIsWaitedForUntilTheBootTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, runners := newPool(t, &dayfly.PoolOptions{BootTimeout: time.Minute})
		runners.SlowBoots(50 * time.Second).Times(1)
		began := time.Now()
		if got, err := double.Call(t.Context(), pool, 4); got != 8 || err != nil || time.Since(began) < 50*time.Second {
			t.Errorf("got %d, %v after %v; want 8 after 50 s", got, err, time.Since(began))
		}
		runners.Kill(runners.Running()[0])
		time.Sleep(time.Second) // until the pool knows
		runners.SlowBoots(time.Hour)
		_, err := double.Call(t.Context(), pool, 4)
		if fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), "has not dialed home") {
			t.Errorf("got %v, want to be told that the runner did not dial home", err)
		}
	})
}

func TestACrashBeforeDialingHomeTellsWhatWasPrinted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, runners := newPool(t, &dayfly.PoolOptions{BootTimeout: 5 * time.Second})
		runners.CrashBoots(3, "no configuration at /etc/app.toml")
		_, err := double.Call(t.Context(), pool, 4)
		if fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), "status 3") || !strings.Contains(err.Error(), "/etc/app.toml") {
			t.Errorf("got %v, want the status and what was printed", err)
		}
	})
}

func TestAnotherBuildIsRefusedByItsName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, runners := newPool(t, &dayfly.PoolOptions{})
		runners.OtherBuild().Times(1)
		_, err := double.Call(t.Context(), pool, 4)
		if fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "another build") {
			t.Errorf("got %v, want the other build named", err)
		}
	})
}

func TestHoursPassInABubble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, runners := newPool(t, &dayfly.PoolOptions{Idle: time.Hour, Timeout: 30 * time.Minute})
		began := time.Now()
		if _, err := sleep.Call(t.Context(), pool, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the time of the call to be up", err)
		}
		if took := time.Since(began).Round(time.Second); took != 30*time.Minute {
			t.Errorf("it took %v, want 30 minutes", took)
		}
		time.Sleep(59 * time.Minute)
		if n := len(runners.Running()); n != 1 {
			t.Errorf("got %d runners before the idle time is over, want 1", n)
		}
		time.Sleep(2 * time.Minute)
		if n := len(runners.Running()); n != 0 {
			t.Errorf("got %d runners after the idle time, want 0", n)
		}
	})
}

func TestItWorksByTheRealClockToo(t *testing.T) {
	t.Parallel()
	pool, runners := dayflytest.NewPool(t, &dayfly.PoolOptions{Min: 2, Logger: quiet()})
	for range 100 {
		if got, err := double.Call(t.Context(), pool, 21); got != 42 || err != nil {
			t.Fatalf("got %d, %v; want 42", got, err)
		}
	}
	runners.KillAfter("dayflytest/double").Times(1)
	if _, err := double.Call(t.Context(), pool, 21); !errors.Is(err, dayfly.ErrRunnerLost) {
		t.Errorf("got %v, want a lost runner", err)
	}
}

// recorder is a test that is looked at.
type recorder struct {
	cleanups []func()
	errors   []string
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}
func (r *recorder) Fatalf(format string, args ...any) { r.Errorf(format, args...) }

// end ends the test and returns what it failed with.
func (r *recorder) end() []string {
	for _, f := range slices.Backward(r.cleanups) {
		f()
	}
	return r.errors
}

func TestAPoolThatIsNotClosedFailsItsTest(t *testing.T) {
	t.Parallel()
	test := &recorder{}
	pool, err := dayfly.NewPool(dayflytest.New(test).Provider(), &dayfly.PoolOptions{Name: "forgotten", Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := double.Call(t.Context(), pool, 1); err != nil {
		t.Fatal(err)
	}
	if got := test.end(); len(got) != 1 || !strings.Contains(got[0], "pool forgotten") {
		t.Errorf("got %q, want to be told of the pool that was not closed", got)
	}
}

func TestAGoroutineThatAFunctionLeavesFailsItsTest(t *testing.T) {
	t.Parallel()
	test := &recorder{}
	pool, _ := dayflytest.NewPool(test, &dayfly.PoolOptions{Logger: quiet()})
	if _, err := leave.Call(t.Context(), pool, struct{}{}); err != nil {
		t.Fatal(err)
	}
	if got := test.end(); len(got) != 1 || !strings.Contains(got[0], "dayflytest_test.go") {
		t.Errorf("got %q, want to be told where the goroutine was left", got)
	}
}

func TestAPoolThatCannotBeFailsItsTest(t *testing.T) {
	t.Parallel()
	test := &recorder{}
	if pool, _ := dayflytest.NewPool(test, &dayfly.PoolOptions{Min: -1}); pool != nil {
		t.Error("got a pool, want none of -1 runners")
	}
	if got := test.end(); len(got) != 1 {
		t.Errorf("got %q, want to be told why", got)
	}
}
