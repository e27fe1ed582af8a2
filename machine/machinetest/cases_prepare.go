package machinetest

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

func (s *subject) preparer(t *testing.T) {
	t.Helper()
	if _, ok := s.Provider.(machine.Preparer); !ok {
		t.Skip("the provider is no machine.Preparer")
	}
}

func prepareMakesNoMachine(t *testing.T, s *subject) {
	s.preparer(t)
	spec := s.spec()
	busy := make(chan struct{}, 1)
	report := func(step machine.Preparation) {
		select {
		case busy <- struct{}{}:
			defer func() { <-busy }()
		default:
			t.Error("report: got a call while another had not returned, want one at a time")
		}
		if step.Text == "" || step.Done < 0 || step.Total < 0 || step.Total > 0 && step.Done > step.Total {
			t.Errorf("report: got %+v, want a text, and a part of the whole", step)
		}
	}
	for range 2 {
		if err := machine.Prepare(t.Context(), s.Provider, spec, report); err != nil {
			t.Fatalf("Prepare: got error %v, want nil", err)
		}
	}
	s.steadily(t, func() {
		if got := s.listed(t, s.owner); len(got) != 0 {
			t.Fatalf("List after Prepare: got %v, want no machine", got)
		}
	})
	m := s.create(t, spec)
	s.wantState(t, m.ID, machine.Running)
}

func prepareMayBeCalledAtOnce(t *testing.T, s *subject) {
	s.preparer(t)
	var group sync.WaitGroup
	for range 4 {
		spec := s.spec()
		group.Go(func() {
			if err := machine.Prepare(t.Context(), s.Provider, spec, nil); err != nil {
				t.Errorf("Prepare, one of four at once: got error %v, want nil", err)
			}
		})
	}
	group.Wait()
}

func prepareRefusesWhatCreateRefuses(t *testing.T, s *subject) {
	s.preparer(t)
	spec := s.spec()
	spec.Lifetime = 0
	if err := machine.Prepare(t.Context(), s.Provider, spec, nil); !errors.Is(err, fault.Invalid) {
		t.Errorf("Prepare for a machine without lifetime: got error %v, want fault.Invalid", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := machine.Prepare(ctx, s.Provider, s.spec(), nil); !errors.Is(err, fault.Canceled) && !errors.Is(err, context.Canceled) {
		t.Errorf("Prepare with a canceled context: got error %v, want fault.Canceled or context.Canceled", err)
	}
}

func filesAreThereBeforeAnythingRuns(t *testing.T, s *subject) {
	// Where the file system is not the machine's own, DAYFLY_FILES says below what they are.
	spec := s.script(t, `cd "$DAYFLY_FILES/mt-files" && [ "$(cat a/data)" = "it's \"\$1\"" ] && [ -x run ] && [ ! -x a/data ] && ./run`)
	spec.Files = []machine.File{
		{Path: "/mt-files/a/data", Data: []byte("it's \"$1\"\n")},
		{Path: "/mt-files/run", Data: []byte("#!/bin/sh\nexit 42\n"), Mode: 0o755},
	}
	m, err := s.Create(t.Context(), spec)
	if errors.Is(err, fault.Unsupported) {
		t.Skip("the provider is no home for files: it refuses them")
	}
	if err != nil {
		t.Fatalf("Create with files: got error %v, want a machine", err)
	}
	s.made = append(s.made, m.ID)
	if exit := s.wantState(t, m.ID, machine.Exited).Exit; exit == nil || exit.Code != 42 {
		t.Errorf("a machine that runs a file it was created with: got %+v, want status 42", exit)
	}
}
