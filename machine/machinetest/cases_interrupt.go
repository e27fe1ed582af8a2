package machinetest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// fleeting is a context that ends when it is looked at often enough. So it ends within a call, at a moment which the
// provider's own code decides and no clock.
type fleeting struct {
	context.Context
	cancel func()

	mu    sync.Mutex // guards what follows
	looks int        // left until it ends
	ended time.Time  // zero until then
}

// endingAtLook returns a context that ends when it is looked at for the nth time.
func endingAtLook(parent context.Context, n int) *fleeting {
	ctx, cancel := context.WithCancel(parent)
	return &fleeting{Context: ctx, cancel: cancel, looks: n}
}

// Done looks.
func (f *fleeting) Done() <-chan struct{} {
	f.look()
	return f.Context.Done()
}

// Err looks.
func (f *fleeting) Err() error {
	f.look()
	return f.Context.Err()
}

func (f *fleeting) look() {
	f.mu.Lock()
	f.looks--
	over := f.looks == 0
	if over {
		f.ended = time.Now()
	}
	f.mu.Unlock()
	if over {
		f.cancel()
	}
}

// since returns how long ago it ended, and whether it has.
func (f *fleeting) since() (time.Duration, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.ended), !f.ended.IsZero()
}

// interrupt calls with a context that ends at the nth look, and reports whether it ended before the call did. The call
// may have succeeded all the same.
func (s *subject) interrupt(t *testing.T, name string, n int, call func(ctx context.Context) error) bool {
	t.Helper()
	ctx := endingAtLook(t.Context(), n)
	defer ctx.cancel()
	err := call(ctx)
	took, ended := ctx.since()
	if err != nil && !errors.Is(err, fault.Canceled) && !errors.Is(err, context.Canceled) {
		t.Errorf("%s whose context ends at look %d: got error %v, want nil, fault.Canceled or context.Canceled", name, n, err)
	}
	if ended && took > s.Settle {
		t.Errorf("%s whose context ends at look %d: it went on for %v, want at most %v", name, n, took, s.Settle)
	}
	return ended
}

func contextIsObeyedDuringACall(t *testing.T, s *subject) {
	bystander := s.create(t, s.spec())
	for _, n := range []int{1, 2, 4, 8, 16} {
		spec := s.spec()
		interrupted := s.interrupt(t, "Create", n, func(ctx context.Context) error {
			_, err := s.Create(ctx, spec)
			return err
		})
		// Whether it had an effect nobody knows; asking again finds the machine, or makes it.
		m := s.create(t, spec)
		s.wantList(t, s.owner, bystander.ID, m.ID)
		calls := map[string]func(ctx context.Context) error{
			"Get":  func(ctx context.Context) error { _, err := s.Get(ctx, m.ID); return err },
			"List": func(ctx context.Context) error { _, err := s.List(ctx, s.owner); return err },
		}
		for name, call := range calls {
			interrupted = s.interrupt(t, name, n, call) || interrupted
		}
		interrupted = s.interrupt(t, "Destroy", n, func(ctx context.Context) error { return s.Destroy(ctx, m.ID) }) || interrupted
		s.destroy(t, m.ID)
		s.wantList(t, s.owner, bystander.ID)
		if !interrupted || t.Failed() {
			break // Nothing looks as often.
		}
	}
	if got := s.get(t, bystander.ID); got.State.Rank() > machine.Running.Rank() {
		t.Errorf("state after calls about another machine: got %s with exit %+v, want running", got.State, got.Exit)
	}
}
