package machinetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

func (s *subject) signaler(t *testing.T) {
	t.Helper()
	if _, ok := s.Provider.(machine.Signaler); !ok {
		t.Skip("the provider is no machine.Signaler")
	}
}

func signalReachesTheFirstProcess(t *testing.T, s *subject) {
	s.signaler(t)
	// Who has not set the trap yet does not notice SIGURG.
	m := s.create(t, s.script(t, "trap 'exit 42' URG; trap 'exit 43' USR1 HUP INT; while :; do sleep 0.05; done"))
	s.wantState(t, m.ID, machine.Running)
	s.reopen(t)
	s.eventually(t, "a machine that ends when it is sent SIGURG", func() error {
		if s.get(t, m.ID).State == machine.Exited {
			return nil
		}
		err := machine.Signal(t.Context(), s.Provider, m.ID, "SIGURG")
		if err != nil && !errors.Is(err, fault.Conflict) { // it may have just exited
			t.Fatalf("Signal: got error %v, want nil", err)
		}
		return errors.New("it still runs")
	})
	if exit := s.get(t, m.ID).Exit; exit == nil || exit.Code != 42 {
		t.Errorf("a machine that ends with 42 on SIGURG: got %+v, want that status", exit)
	}
	m = s.create(t, s.spec())
	s.wantState(t, m.ID, machine.Running)
	if err := machine.Signal(t.Context(), s.Provider, m.ID, "SIGKILL"); err != nil {
		t.Fatalf("Signal of SIGKILL: got error %v, want nil", err)
	}
	if exit := s.wantState(t, m.ID, machine.Exited).Exit; exit.OK() || exit != nil && exit.Expired {
		t.Errorf("a machine that was sent SIGKILL: got %+v, want an end by that signal", exit)
	}
	s.wantNothingAlive(t, m, "after SIGKILL to its first process")
}

func signalsThatCannotBeSentAreRefused(t *testing.T, s *subject) {
	s.signaler(t)
	m := s.create(t, s.spec())
	s.wantState(t, m.ID, machine.Running)
	exited := s.create(t, s.exits(t, 0))
	s.wantState(t, exited.ID, machine.Exited)
	for what, c := range map[string]struct {
		id, name string
		want     fault.Kind
	}{
		"to an unknown machine":        {fresh("unknown"), "SIGTERM", fault.NotFound},
		"to a machine that has exited": {exited.ID, "SIGTERM", fault.Conflict},
		"without a name":               {m.ID, "", fault.Invalid},
		"of a name that is none":       {m.ID, "SIGNOTHING", fault.Invalid},
		"of a number":                  {m.ID, "9", fault.Invalid},
	} {
		if err := machine.Signal(t.Context(), s.Provider, c.id, c.name); !errors.Is(err, c.want) {
			t.Errorf("Signal %s: got error %v, want fault %s", what, err, c.want)
		}
	}
	s.steadily(t, func() {
		if got := s.get(t, m.ID); got.State != machine.Running {
			t.Fatalf("the machine after signals that were refused: got %s with exit %+v, want it to run on", got.State, got.Exit)
		}
	})
}

// ticking creates a machine that prints a line again and again, and waits until it has begun. It skips the case of a
// provider that cannot suspend it, or cannot show what it prints.
func (s *subject) ticking(t *testing.T, change func(*machine.Spec)) *machine.Machine {
	t.Helper()
	if _, ok := s.Provider.(machine.Suspender); !ok {
		t.Skip("the provider is no machine.Suspender")
	}
	s.logger(t)
	spec := s.script(t, "while :; do echo tick; sleep 0.02; done")
	if change != nil {
		change(spec)
	}
	m := s.create(t, spec)
	s.goesOn(t, m.ID, 0)
	return m
}

// ticks returns how much the machine has printed.
func (s *subject) ticks(t *testing.T, id string) int {
	t.Helper()
	var out buffer
	if err := machine.Logs(t.Context(), s.Provider, id, false, &out, nil); err != nil {
		t.Fatalf("Logs(%s): got error %v, want nil", id, err)
	}
	return out.Len()
}

// goesOn waits until the machine has printed more.
func (s *subject) goesOn(t *testing.T, id string, before int) {
	t.Helper()
	s.eventually(t, "a machine to go on", func() error {
		if got := s.ticks(t, id); got <= before {
			return fmt.Errorf("it has printed %d bytes, want more than %d", got, before)
		}
		return nil
	})
}

// halted waits until what the machine has printed before has come through, and checks that nothing more comes.
func (s *subject) halted(t *testing.T, id string) int {
	t.Helper()
	last, same := -1, 0
	s.eventually(t, "a suspended machine to be quiet", func() error {
		got := s.ticks(t, id)
		if got != last {
			last, same = got, 0
		} else {
			same++
		}
		if same < 10 {
			return fmt.Errorf("it has printed %d bytes, and no more at the last %d looks", got, same)
		}
		return nil
	})
	s.steadily(t, func() {
		if got := s.ticks(t, id); got != last {
			t.Fatalf("a suspended machine: it has printed %d bytes after %d, want no more", got, last)
		}
	})
	return last
}

func (s *subject) suspend(t *testing.T, id string) {
	t.Helper()
	if err := machine.Suspend(t.Context(), s.Provider, id); err != nil {
		t.Fatalf("Suspend(%s): got error %v, want nil", id, err)
	}
}

func (s *subject) resume(t *testing.T, id string) {
	t.Helper()
	if err := machine.Resume(t.Context(), s.Provider, id); err != nil {
		t.Fatalf("Resume(%s): got error %v, want nil", id, err)
	}
}

func aSuspendedMachineGoesOnWhereItWas(t *testing.T, s *subject) {
	m := s.ticking(t, nil)
	s.resume(t, m.ID) // it was never suspended
	for range 2 {
		s.suspend(t, m.ID)
		s.suspend(t, m.ID)
		at := s.halted(t, m.ID)
		if got := s.get(t, m.ID); got.State != machine.Running {
			t.Errorf("a suspended machine: got %s with exit %+v, want it to be running", got.State, got.Exit)
		}
		s.resume(t, m.ID)
		s.resume(t, m.ID)
		s.goesOn(t, m.ID, at)
	}
}

func aSuspendedMachineStaysSoWithoutItsCreator(t *testing.T, s *subject) {
	m := s.ticking(t, nil)
	s.suspend(t, m.ID)
	s.reopen(t)
	at := s.halted(t, m.ID)
	s.resume(t, m.ID)
	s.goesOn(t, m.ID, at)
	s.suspend(t, m.ID)
	s.destroy(t, m.ID)
	s.wantGone(t, m.ID)
	s.wantNothingAlive(t, m, "after it was destroyed while it was suspended")
}

func aSuspendedMachineEndsAtItsEndDate(t *testing.T, s *subject) {
	m := s.ticking(t, func(spec *machine.Spec) { spec.Lifetime = 2 * s.Lifetime })
	// It may have ended already, on a busy computer.
	if err := machine.Suspend(t.Context(), s.Provider, m.ID); err != nil && !errors.Is(err, fault.Conflict) {
		t.Fatalf("Suspend: got error %v, want nil", err)
	}
	if exit := s.wantState(t, m.ID, machine.Exited).Exit; exit == nil || !exit.Expired {
		t.Errorf("a suspended machine at its end date: got exit %+v, want Expired", exit)
	}
	s.wantNothingAlive(t, m, "after its end date, which it reached suspended")
}

func whatDoesNotRunIsNotSuspended(t *testing.T, s *subject) {
	if _, ok := s.Provider.(machine.Suspender); !ok {
		t.Skip("the provider is no machine.Suspender")
	}
	exited := s.create(t, s.exits(t, 0))
	s.wantState(t, exited.ID, machine.Exited)
	for name, call := range map[string]func(context.Context, machine.Provider, string) error{"Suspend": machine.Suspend, "Resume": machine.Resume} {
		if err := call(t.Context(), s.Provider, exited.ID); !errors.Is(err, fault.Conflict) {
			t.Errorf("%s of a machine that has exited: got error %v, want fault.Conflict", name, err)
		}
		if err := call(t.Context(), s.Provider, fresh("unknown")); !errors.Is(err, fault.NotFound) {
			t.Errorf("%s of an unknown machine: got error %v, want fault.NotFound", name, err)
		}
	}
}
