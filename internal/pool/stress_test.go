package pool_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/pool"
)

// TestManyAtOnceNeverGiveARunnerMoreThanItMayHave is about true concurrency: outside a bubble, as fast as it goes.
func TestManyAtOnceNeverGiveARunnerMoreThanItMayHave(t *testing.T) {
	t.Parallel()
	const callers, calls, concurrency = 64, 500, 3
	c := &cloud{}
	p := create(t, c, &pool.Options{Min: 2, Max: 8, Concurrency: concurrency, Idle: time.Millisecond, Patience: pool.Never})
	go p.Run(t.Context())
	var load sync.Map // *node → *atomic.Int64
	var served, refused atomic.Int64
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range calls {
				ctx, cancel := context.WithCancel(t.Context())
				if rand.N(10) == 0 {
					go cancel()
				}
				s, err := p.Acquire(ctx)
				if err != nil {
					refused.Add(1)
					cancel()
					continue
				}
				served.Add(1)
				mine, _ := load.LoadOrStore(s.Runner(), new(atomic.Int64))
				if n := mine.(*atomic.Int64).Add(1); n > concurrency {
					t.Errorf("a runner has %d slots taken, which are more than %d", n, concurrency)
				}
				if rand.N(50) == 0 {
					s.Runner().(*node).kill(errOOM)
				}
				mine.(*atomic.Int64).Add(-1)
				s.Release()
				cancel()
			}
		})
	}
	all.Wait()
	if got := served.Load() + refused.Load(); got != callers*calls || served.Load() < callers*calls/2 {
		t.Errorf("of %d calls %d were served and %d refused, want all, and most served", callers*calls, served.Load(), refused.Load())
	}
	if s := p.Stats(); s.Queued != 0 || s.Busy != 0 {
		t.Errorf("afterwards: got %+v, want nobody in line and no runner busy", s)
	}
	if err := p.Close(); err != nil {
		t.Errorf("Close: got %v, want no error", err)
	}
	if left, most := c.exist(); left != 0 || most > 8 {
		t.Errorf("%d runners are left, and at most %d existed at once; want 0, and at most 8", left, most)
	}
}
