package pool_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/internal/pool"
)

func TestTheFirstCallerBootsARunnerAndTheNextFindsIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{takes: 3 * time.Second}
		p := start(t, c, nil)
		began := time.Now()
		first := take(t, p)
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("the first caller waited %v, want the 3s that a boot takes", took)
		}
		began = time.Now()
		second := take(t, p)
		if took := time.Since(began); took != 0 {
			t.Errorf("the second caller waited %v, want 0s", took)
		}
		if first.Runner() != second.Runner() {
			t.Errorf("the callers are on %s and %s, want one runner", first.Runner().ID(), second.Runner().ID())
		}
		first.Release()
		second.Release()
	})
}

func TestCallersAreServedInTheOrderInWhichTheyCame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, &cloud{}, &pool.Options{Max: 1, Concurrency: 1})
		held := take(t, p)
		var order []int
		for n := range 20 {
			go func() {
				s := take(t, p)
				order = append(order, n)
				s.Release()
			}()
			synctest.Wait()
		}
		held.Release()
		synctest.Wait()
		for i, n := range order {
			if i != n {
				t.Fatalf("the order was %v, want that of their coming", order)
			}
		}
		if len(order) != 20 {
			t.Errorf("%d callers were served, want 20", len(order))
		}
	})
}

func TestABurstBootsAllItNeedsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{takes: 10 * time.Second}
		p := start(t, c, &pool.Options{Max: 8, Concurrency: 5})
		var asked []<-chan answer
		for range 16 {
			asked = append(asked, ask(t.Context(), p))
		}
		synctest.Wait()
		if got := c.booted(); got != 4 {
			t.Errorf("16 callers began %d boots of 5 slots at once, want 4", got)
		}
		for _, answers := range asked {
			a := <-answers
			if a.err != nil || a.after != 10*time.Second {
				t.Errorf("a caller got %v after %v, want a slot after the 10s of one boot", a.err, a.after)
				continue
			}
			a.slot.Release()
		}
	})
}

func TestASlotIsNotLostWhenTheContextEndsInTheMomentOfTheGrant(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, &cloud{}, &pool.Options{Max: 1, Concurrency: 1})
		for n := range 500 {
			held := take(t, p)
			ctx, cancel := context.WithCancel(t.Context())
			answers := ask(ctx, p)
			synctest.Wait()
			if n%2 == 0 {
				cancel()
				held.Release()
			} else {
				held.Release()
				cancel()
			}
			a := <-answers
			if a.err == nil {
				a.slot.Release()
			} else if !errors.Is(a.err, context.Canceled) {
				t.Fatalf("the caller got %v, want a slot or its cancellation", a.err)
			}
			synctest.Wait()
			if got := p.Stats().InUse; got != 0 {
				t.Fatalf("%d slots are in use, want none", got)
			}
		}
	})
}

func TestACallerWhoseContextHasEndedGetsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, &cloud{}, &pool.Options{Min: 1})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := p.Acquire(ctx); reason(err) != pool.TimeUp || p.Stats().InUse != 0 {
			t.Errorf("got %v, and %d slots are in use; want that its time is up, and none", err, p.Stats().InUse)
		}
	})
}
