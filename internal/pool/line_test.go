package pool_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/pool"
)

func TestOneCallerTooManyIsToldAtOnceAndThePoolLivesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, &cloud{}, &pool.Options{Max: 1, Concurrency: 1, MaxQueued: 1000})
		held := take(t, p)
		ctx, cancel := context.WithCancel(t.Context())
		for range 1000 {
			go p.Acquire(ctx)
		}
		synctest.Wait()
		a := <-ask(t.Context(), p)
		if reason(a.err) != pool.Full || fault.Of(a.err) != fault.Exhausted || a.after != 0 {
			t.Errorf("one too many got %v of kind %s after %v, want at once that the line is full, exhausted", a.err, fault.Of(a.err), a.after)
		}
		if want := "1000 callers wait for a runner already"; a.err != nil && !strings.Contains(a.err.Error(), want) {
			t.Errorf("the text is %q, want it to say %q", a.err, want)
		}
		cancel()
		synctest.Wait()
		if got := p.Stats().Queued; got != 0 {
			t.Errorf("%d callers wait when all have gone away, want none", got)
		}
		next := ask(t.Context(), p)
		held.Release()
		if a := <-next; a.err != nil {
			t.Errorf("a caller got %v afterwards, want a slot", a.err)
		} else {
			a.slot.Release()
		}
	})
}
