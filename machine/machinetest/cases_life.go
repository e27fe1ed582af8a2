package machinetest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/machine"
)

func statesOnlyMoveForward(t *testing.T, s *subject) {
	m := s.create(t, s.spec())
	latest := m.State
	look := func() {
		got := s.get(t, m.ID).State
		if got.Rank() < latest.Rank() {
			t.Fatalf("state: got %q after %q, want it never to go back", got, latest)
		}
		latest = got
	}
	s.eventually(t, "the machine to run", func() error {
		if look(); latest != machine.Running {
			return fmt.Errorf("its state is %q", latest)
		}
		return nil
	})
	s.steadily(t, look)
	s.destroy(t, m.ID)
	s.steadily(t, func() {
		if got, err := s.Get(t.Context(), m.ID); err == nil {
			t.Fatalf("Get after Destroy: got state %q, want fault.NotFound for ever", got.State)
		}
	})
}

func agentIsToldWhatItHasComeFor(t *testing.T, s *subject) {
	if s.Agent == nil {
		t.Skip("the harness offers no look at what an agent is told")
	}
	agents := map[*machine.Machine]*machine.Agent{}
	for range 2 { // what is told to one must not reach the other
		spec := s.spec()
		spec.Command = nil
		spec.Agent = &machine.Agent{URL: "http://127.0.0.1:1/" + fresh("u"), Attempt: fresh("a"), Token: fresh("t")}
		agents[s.create(t, spec)] = spec.Agent
	}
	for m, want := range agents {
		var got *machine.Agent
		s.eventually(t, "the agent in machine "+m.ID, func() error {
			if got = s.Agent(t, m); got == nil {
				return errors.New("it has not started")
			}
			return nil
		})
		if *got != *want {
			t.Errorf("what the agent in machine %s was told: got %+v, want %+v", m.ID, *got, *want)
		}
	}
}

func environmentReachesWhatRuns(t *testing.T, s *subject) {
	spec := s.exits(t, 42)
	// A value is not a piece of a command line, of a file or of a list.
	spec.Env["EMPTY"] = ""
	spec.Env["QUOTED"] = `it's "$CODE" \ &`
	spec.Env["LINES"] = "one\nCODE=1\n"
	m := s.create(t, spec)
	if exit := s.wantState(t, m.ID, machine.Exited).Exit; exit == nil || exit.Code != 42 {
		t.Errorf("Exit of a machine that ends with the CODE in its environment, 42: got %+v, want that status", exit)
	}
}

func sizeIsEnforced(t *testing.T, s *subject) {
	if len(s.Exceeds) == 0 {
		t.Skip("the harness offers no machine that exceeds its size")
	}
	for i, spec := range s.Exceeds {
		m := s.create(t, s.complete(spec))
		exit := s.wantState(t, m.ID, machine.Exited).Exit
		if exit == nil || (!exit.OOMKilled && !exit.DiskFull) || exit.OK() {
			t.Errorf("Exit of Exceeds[%d], of size %+v: got %+v, want OOMKilled or DiskFull", i, spec.Size, exit)
		}
	}
}

func exitStatusIsReported(t *testing.T, s *subject) {
	for _, code := range []int{0, 1, 7, 255} {
		m := s.create(t, s.exits(t, code))
		got := s.wantState(t, m.ID, machine.Exited)
		checkExit(t, got.Exit, code)
		checkExit(t, s.fromList(t, m.ID).Exit, code)
	}
}

func exitStatusSurvivesTheCreator(t *testing.T, s *subject) {
	early := s.create(t, s.exits(t, 3))
	s.wantState(t, early.ID, machine.Exited)
	late := s.create(t, s.exits(t, 4)) // it may still be starting when its creator goes
	s.reopen(t)
	checkExit(t, s.wantState(t, early.ID, machine.Exited).Exit, 3)
	checkExit(t, s.wantState(t, late.ID, machine.Exited).Exit, 4)
}

// checkExit checks the exit of a machine that ended by itself with this status.
func checkExit(t *testing.T, exit *machine.Exit, code int) {
	t.Helper()
	if exit == nil {
		t.Errorf("Exit of a machine that ended with %d: got none, want its status", code)
		return
	}
	if exit.Code != code || exit.Signal != "" || exit.Expired || exit.OOMKilled || exit.OK() != (code == 0) {
		t.Errorf("Exit of a machine that ended with %d: got %+v, want that status and nothing else", code, *exit)
	}
}

func lifetimeEndsTheMachine(t *testing.T, s *subject) {
	wantLifetime(t, s, func() {})
}

func lifetimeEndsTheMachineAfterItsCreatorIsGone(t *testing.T, s *subject) {
	wantLifetime(t, s, func() { s.reopen(t) })
}

// wantLifetime checks that a machine is ended at the end of its lifetime and not before, whatever is done meanwhile.
func wantLifetime(t *testing.T, s *subject, meanwhile func()) {
	spec := s.spec()
	spec.Lifetime = s.Lifetime
	asked := time.Now()
	m := s.create(t, spec)
	meanwhile()

	deadline := asked.Add(s.Lifetime + s.Settle)
	tick := time.NewTicker(s.poll())
	defer tick.Stop()
	for {
		got := s.get(t, m.ID)
		lived := time.Since(asked)
		if got.State.Rank() >= machine.Exited.Rank() {
			// A clock that counts in coarser steps may be a little early.
			if lived < s.Lifetime*9/10 {
				t.Errorf("a machine with a lifetime of %v ended after %v: %+v", s.Lifetime, lived, got)
			}
			s.wantExpired(t, got)
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("a machine with a lifetime of %v is still %s after %v", s.Lifetime, got.State, lived)
		}
		<-tick.C
	}
}

// wantExpired checks that a machine whose lifetime is over says so, and stays until it is destroyed.
func (s *subject) wantExpired(t *testing.T, m *machine.Machine) {
	t.Helper()
	switch {
	case m.Exit == nil && !offered(&s.Exits): // This provider cannot say how a machine ended.
	case m.Exit == nil:
		t.Error("Exit at the end of the lifetime: got none, want Expired")
	case !m.Exit.Expired || m.Exit.OK():
		t.Errorf("Exit at the end of the lifetime: got %+v, want Expired", *m.Exit)
	}
	s.wantNothingAlive(t, m, "at the end of its lifetime")
	s.steadily(t, func() {
		if got := s.get(t, m.ID); got.State != machine.Exited {
			t.Fatalf("state after the end of the lifetime: got %s, want exited until the machine is destroyed", got.State)
		}
	})
}

func destroyedIsGoneFromListAndGet(t *testing.T, s *subject) {
	starting := s.create(t, s.spec())
	running := s.create(t, s.spec())
	s.wantState(t, running.ID, machine.Running)
	for _, m := range []*machine.Machine{starting, running} {
		s.destroy(t, m.ID)
		s.wantGone(t, m.ID)
	}
	s.wantList(t, s.owner)
}

func destroyEndsWhatRunsInTheMachine(t *testing.T, s *subject) {
	if s.Alive == nil {
		t.Skip("the harness offers no look at what runs in a machine")
	}
	alive := func() *machine.Machine {
		m := s.create(t, s.spec())
		s.eventually(t, "what runs in machine "+m.ID, func() error {
			if !s.Alive(t, m) {
				return errors.New("got nothing alive, want what the Spec says")
			}
			return nil
		})
		return m
	}
	starting, running, inherited := s.create(t, s.spec()), alive(), alive()
	s.destroy(t, starting.ID)
	s.destroy(t, running.ID)
	s.reopen(t)
	s.destroy(t, inherited.ID)
	// Looking again finds what is started late.
	s.steadily(t, func() {
		s.wantNothingAlive(t, starting, "that was destroyed while it started")
		s.wantNothingAlive(t, running, "that was destroyed")
		s.wantNothingAlive(t, inherited, "that a new process destroyed")
		if t.Failed() {
			t.FailNow()
		}
	})
}

func destroyIsRepeatable(t *testing.T, s *subject) {
	m := s.create(t, s.spec())
	s.destroy(t, m.ID)
	for range 3 {
		if err := s.Destroy(t.Context(), m.ID); err != nil {
			t.Fatalf("Destroy of a machine that is gone: got error %v, want nil", err)
		}
	}
	s.reopen(t)
	if err := s.Destroy(t.Context(), m.ID); err != nil {
		t.Errorf("Destroy of a machine that is gone, by a new process: got error %v, want nil", err)
	}
}

func destroyOfUnknownIsNoError(t *testing.T, s *subject) {
	bystander := s.create(t, s.spec())
	for _, id := range []string{fresh("m"), "no such machine", "../../etc/passwd"} {
		if err := s.Destroy(t.Context(), id); err != nil {
			t.Errorf("Destroy(%q): got error %v, want nil", id, err)
		}
	}
	// Whatever an empty id means to a provider, it must not mean everything.
	if err := s.Destroy(t.Context(), ""); err != nil {
		t.Errorf("Destroy(\"\"): got error %v, want nil", err)
	}
	s.wantList(t, s.owner, bystander.ID)
}

func destroyRemovesAnExitedMachine(t *testing.T, s *subject) {
	m := s.create(t, s.exits(t, 0))
	s.wantState(t, m.ID, machine.Exited)
	s.destroy(t, m.ID)
	s.wantGone(t, m.ID)
}

func destroyByANewProcessWorks(t *testing.T, s *subject) {
	m := s.create(t, s.spec())
	s.wantState(t, m.ID, machine.Running)
	s.reopen(t)
	s.destroy(t, m.ID)
	s.wantGone(t, m.ID)
}
