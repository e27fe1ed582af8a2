package pool

import (
	"context"
	"errors"
	"runtime"
	"testing"
)

// still is a Backend of runners to which nothing happens.
type still struct{}

func (still) Boot(context.Context, string) (Runner, error) {
	return &stillRunner{done: make(chan struct{})}, nil
}

type stillRunner struct{ done chan struct{} }

func (r *stillRunner) ID() string                 { return "still" }
func (r *stillRunner) Done() <-chan struct{}      { return r.done }
func (r *stillRunner) Err() error                 { return nil }
func (r *stillRunner) Stop(context.Context) error { return nil }

// warm returns a running pool with so many runners, all idle.
func warm(tb testing.TB, runners int) *Pool {
	tb.Helper()
	p, err := New(still{}, &Options{Min: runners, Max: runners, Concurrency: 4})
	if err != nil {
		tb.Fatal(err)
	}
	go p.Run(context.Background())
	tb.Cleanup(func() { p.Close() })
	var slots []*Slot
	for range 4 * runners {
		s, err := p.Acquire(tb.Context())
		if err != nil {
			tb.Fatal(err)
		}
		slots = append(slots, s)
	}
	for _, s := range slots {
		s.Release()
	}
	return p
}

func TestASlotOfAWarmRunnerCostsOneSmallAllocation(t *testing.T) {
	p := warm(t, 8)
	ctx := t.Context()
	allocations := testing.AllocsPerRun(1000, func() {
		s, err := p.Acquire(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		s.Release()
	})
	if allocations > 1 {
		t.Errorf("a slot cost %v allocations, want the slot alone", allocations)
	}
}

func TestAMillionCallersInLineCostLittleAndMayGoAwayInAnyOrder(t *testing.T) {
	p, err := New(still{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	const million = 1_000_000
	waiters := make([]*waiter, 0, million)
	before := heap()
	for range million {
		w, err := p.enqueue()
		if err != nil {
			t.Fatal(err)
		}
		waiters = append(waiters, w)
	}
	each := float64(heap()-before) / million
	t.Logf("a caller in line costs %.0f bytes", each)
	if each > 256 {
		t.Errorf("a caller in line costs %.0f bytes, want at most 256", each)
	}
	if _, err := p.enqueue(); reasonOf(err) != Full {
		t.Errorf("one more: got %v, want that the line is full", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range waiters { // from the middle outwards; a line that searches would take hours
		w := waiters[(million/2+i*7)%million] // 7 and a million have no common factor
		if _, err := p.abandon(gone, w); reasonOf(err) != TimeUp {
			t.Fatalf("a caller that goes away: got %v, want that its time is up", err)
		}
	}
	if p.line.length != 0 || p.line.first != nil || p.line.last != nil {
		t.Errorf("%d callers are left in line, want none", p.line.length)
	}
}

func reasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return ""
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkSlotOfAWarmRunner(b *testing.B) {
	for name, runners := range map[string]int{"runners=1": 1, "runners=100": 100} {
		b.Run(name, func(b *testing.B) {
			p := warm(b, runners)
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			b.ReportAllocs()
			for b.Loop() {
				s, err := p.Acquire(ctx)
				if err != nil {
					b.Fatal(err)
				}
				s.Release()
			}
		})
	}
}
