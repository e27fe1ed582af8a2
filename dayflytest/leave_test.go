package dayflytest_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly"
)

// drains works until it is told that its runner is about to end, and then for a second.
var drains = dayfly.Func("dayflytest/drains", func(ctx context.Context, begun *counted) (string, error) {
	begun.Add()
	<-dayfly.Draining(ctx)
	<-time.After(time.Second)
	return "drained", ctx.Err()
})

// lasting ends when its context does.
var lasting = dayfly.Func("dayflytest/lasting", func(ctx context.Context, _ struct{}) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
})

func TestARunnerThatIsToldToEndFinishesItsCallsAndGetsNoMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, runners := newPool(t, &dayfly.PoolOptions{Max: 2})
		working := make(chan error, 1)
		go func() {
			got, err := drains.Call(t.Context(), pool, &counted{2})
			if err == nil && got != "drained" {
				t.Errorf("a call whose runner is told to end: got %q, want drained", got)
			}
			working <- err
		}()
		time.Sleep(time.Second)
		first := runners.Running()
		if len(first) != 1 || !runners.TellToEnd(first[0]) || runners.TellToEnd("nobody") {
			t.Fatalf("got the runners %v, want one that can be told to end, and nobody who cannot", first)
		}
		synctest.Wait()
		if got, err := double.Call(t.Context(), pool, 2); got != 4 || err != nil {
			t.Errorf("a call meanwhile: got %d and error %v, want 4", got, err)
		}
		if got := runners.Running(); len(got) != 2 {
			t.Errorf("got the runners %v, want another one for that call", got)
		}
		if err := <-working; err != nil {
			t.Errorf("the call that was under way: got error %v, want its result", err)
		}
		time.Sleep(3 * time.Second)
		if got := runners.Running(); len(got) != 1 || slices.Contains(got, first[0]) || runners.TellToEnd(first[0]) {
			t.Errorf("got the runners %v, want only the other than %s", got, first[0])
		}
	})
}

func TestARunnerThatIsToldToEndGoesThoughItsParentIsNotHeardOf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, runners := newPool(t, &dayfly.PoolOptions{Silence: time.Hour})
		if _, err := double.Call(t.Context(), pool, 1); err != nil {
			t.Fatal(err)
		}
		first := runners.Running()
		runners.Mute()
		runners.TellToEnd(first[0])
		time.Sleep(10 * time.Second)
		if got := runners.Running(); len(got) > 0 {
			t.Errorf("got the runners %v ten seconds after they were told to end, want none, long before the silence is over", got)
		}
		runners.Heal()
	})
}

func TestACallThatHeedsThatItsRunnerStopsIsLostLikeOneThatDoesNot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, runners := newPool(t, &dayfly.PoolOptions{ShutdownTimeout: time.Second})
		result := make(chan error, 1)
		go func() {
			_, err := lasting.Call(t.Context(), pool, struct{}{})
			result <- err
		}()
		synctest.Wait()
		if !runners.TellToEnd(runners.Running()[0]) {
			t.Fatal("TellToEnd: got false for a runner that is up")
		}
		if err := <-result; !errors.Is(err, dayfly.ErrRunnerLost) {
			t.Errorf("got %v, want an error that is ErrRunnerLost, so that who calls again what was lost does", err)
		}
	})
}
