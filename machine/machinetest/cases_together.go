package machinetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

func twoMachinesAtOnceDoNotMeet(t *testing.T, s *subject) {
	first, second := s.create(t, s.spec()), s.create(t, s.spec())
	if first.ID == second.ID {
		t.Fatalf("Create of two names: got machine %s twice, want two machines", first.ID)
	}
	s.wantState(t, first.ID, machine.Running)
	s.wantState(t, second.ID, machine.Running)
	s.destroy(t, first.ID)
	s.steadily(t, func() {
		if got := s.get(t, second.ID); got.State.Rank() > machine.Running.Rank() {
			t.Fatalf("state after another machine was destroyed: got %s with exit %+v, want running", got.State, got.Exit)
		}
	})
	s.wantList(t, s.owner, second.ID)
}

func callsMayBeConcurrent(t *testing.T, s *subject) {
	const callers = 6
	var group sync.WaitGroup
	for range callers {
		spec := s.spec()
		group.Go(func() {
			if err := oneLife(t.Context(), s.Provider, spec); err != nil {
				t.Errorf("one of %d callers at once: %v", callers, err)
			}
		})
	}
	group.Wait()
}

// oneLife is what a caller does with one machine.
func oneLife(ctx context.Context, p machine.Provider, spec *machine.Spec) error {
	m, err := p.Create(ctx, spec)
	if err != nil {
		return fmt.Errorf("Create: got error %w, want a machine", err)
	}
	for range 3 {
		got, err := p.Get(ctx, m.ID)
		if err != nil {
			return fmt.Errorf("Get: got error %w, want machine %s", err, spec.Name)
		}
		if got.Name != spec.Name {
			return fmt.Errorf("Get(%s): got machine %s, want %s", m.ID, got.Name, spec.Name)
		}
		if _, err := p.List(ctx, spec.Owner); err != nil {
			return fmt.Errorf("List: got error %w, want a list", err)
		}
	}
	err = p.Destroy(ctx, m.ID)
	if err != nil && !errors.Is(err, fault.Unavailable) { // what is left of those is swept
		return fmt.Errorf("Destroy: got error %w, want nil", err)
	}
	return nil
}

func contextIsObeyed(t *testing.T, s *subject) {
	m := s.create(t, s.spec())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	calls := map[string]func() error{
		"Create":  func() error { _, err := s.Create(ctx, s.spec()); return err },
		"Get":     func() error { _, err := s.Get(ctx, m.ID); return err },
		"List":    func() error { _, err := s.List(ctx, s.owner); return err },
		"Destroy": func() error { return s.Destroy(ctx, m.ID) },
	}
	for name, call := range calls {
		began := time.Now()
		err := call()
		if !errors.Is(err, fault.Canceled) && !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a canceled context: got error %v, want fault.Canceled or context.Canceled", name, err)
		}
		if took := time.Since(began); took > s.Settle {
			t.Errorf("%s with a canceled context: it took %v, want at most %v", name, took, s.Settle)
		}
	}
}

// sight is what a Watch yielded.
type sight struct {
	machine *machine.Machine
	err     error
}

// watch follows the owner's machines until the test or cancel ends it; done is closed when the sequence has ended.
func (s *subject) watch(t *testing.T) (sights <-chan sight, cancel func(), done <-chan struct{}) {
	t.Helper()
	if _, ok := s.Provider.(machine.Watcher); ok {
		t.Log("the provider is a machine.Watcher")
	} else {
		t.Log("the provider is no machine.Watcher: testing the fallback, which polls")
	}
	ctx, stop := context.WithCancel(t.Context())
	out, ended := make(chan sight), make(chan struct{})
	go func() {
		defer close(ended)
		for m, err := range machine.Watch(ctx, s.Provider, s.owner, s.poll()) {
			select {
			case out <- sight{m, err}:
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		s.endsInTime(ended) // WatchEndsWithItsContext is the case that fails when it does not
	})
	return out, stop, ended
}

// endsInTime reports whether done is closed within Settle.
func (s *subject) endsInTime(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	case <-time.After(s.Settle):
		return false
	}
}

// until reads what is seen until it is the machine in this state, and checks that nothing else is odd.
func (s *subject) until(t *testing.T, sights <-chan sight, id string, want machine.State) {
	t.Helper()
	timeout := time.NewTimer(s.Settle)
	defer timeout.Stop()
	latest := machine.State("")
	for {
		select {
		case <-timeout.C:
			t.Fatalf("Watch: waited %v for machine %s to be seen %s; its last state was %q", s.Settle, id, want, latest)
		case seen := <-sights:
			switch {
			case seen.err != nil:
				t.Logf("Watch: an error, which does not end it: %v", seen.err)
			case seen.machine.Owner != s.owner:
				t.Fatalf("Watch(%s): got machine %s of %s, want only the owner's", s.owner, seen.machine.ID, seen.machine.Owner)
			case seen.machine.ID != id:
			case seen.machine.State.Rank() < latest.Rank():
				t.Fatalf("Watch: got state %s after %s, want it never to go back", seen.machine.State, latest)
			default:
				if latest = seen.machine.State; latest == want {
					return
				}
				if latest.Rank() > want.Rank() {
					t.Fatalf("Watch: got state %s with exit %+v, want %s", latest, seen.machine.Exit, want)
				}
			}
		}
	}
}

func watchTellsOfCreateAndGone(t *testing.T, s *subject) {
	sights, _, _ := s.watch(t)
	foreign := s.spec()
	foreign.Owner = fresh("o")
	s.others = append(s.others, foreign.Owner)
	s.create(t, foreign)
	m := s.create(t, s.spec())
	s.until(t, sights, m.ID, machine.Running)
	s.destroy(t, m.ID)
	s.until(t, sights, m.ID, machine.Gone)
}

func watchBeginsWithWhatIsThere(t *testing.T, s *subject) {
	m := s.create(t, s.spec())
	s.wantState(t, m.ID, machine.Running)
	s.reopen(t)
	sights, _, _ := s.watch(t)
	s.until(t, sights, m.ID, machine.Running)
}

func watchEndsWithItsContext(t *testing.T, s *subject) {
	m := s.create(t, s.spec())
	sights, cancel, done := s.watch(t)
	s.until(t, sights, m.ID, machine.Running)
	cancel() // while there is nothing to tell
	if !s.endsInTime(done) {
		t.Errorf("Watch: it went on for %v after its context had ended, want it to end", s.Settle)
	}
}
