package machinetest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// carrier returns the Spec of a machine that brings a program along, which runs the script, or skips the case after a look at
// how the provider refuses to.
func (s *subject) carrier(t *testing.T, script string) *machine.Spec {
	t.Helper()
	if _, ok := s.Provider.(machine.Carrier); !ok {
		spec := s.complete(machine.Spec{Program: &machine.Program{File: "/bin/sh"}, Image: s.Spec.Image})
		m, err := s.Create(t.Context(), spec)
		if m != nil {
			s.made = append(s.made, m.ID)
		}
		if !errors.Is(err, fault.Unsupported) {
			t.Errorf("Create with a program, by a provider that is no machine.Carrier: got %+v and error %v, want fault.Unsupported", m, err)
		}
		t.Skip("the provider is no machine.Carrier")
	}
	if s.Program.Program == nil {
		t.Fatal("the provider is a machine.Carrier, and the Harness has no Program")
	}
	spec := s.complete(s.Program)
	if spec.Env == nil {
		spec.Env = map[string]string{}
	}
	spec.Env["SCRIPT"] = script
	return spec
}

func aProgramIsBroughtAlong(t *testing.T, s *subject) {
	spec := s.carrier(t, `[ "$#" = 3 ] && [ "$1" = "two  words" ] && [ "$2" = '"$1"' ] && [ "$3" = "" ] && exit 42`)
	// The first is the name that a shell gives its script.
	spec.Program.Args = slices.Concat(spec.Program.Args, []string{"sh", "two  words", `"$1"`, ""})
	before := clone(spec)
	if err := machine.CheckProgram(t.Context(), s.Provider, spec.Program); err != nil {
		t.Fatalf("CheckProgram: got error %v, want nil for a program that can run", err)
	}
	for range 2 { // the second time it may be there already
		m := s.create(t, spec)
		if exit := s.wantState(t, m.ID, machine.Exited).Exit; exit == nil || exit.Code != 42 {
			t.Errorf("a machine with a program and three arguments: got exit %+v, want status 42", exit)
		}
		spec = clone(before)
		spec.Name = fresh("m")
	}
}

func aProgramThatIsNotThereIsRefused(t *testing.T, s *subject) {
	spec := s.carrier(t, "exit 42")
	spec.Program.File = filepath.Join(t.TempDir(), "program")
	for _, text := range []string{"", "this is no program\n"} {
		if text != "" {
			if err := os.WriteFile(spec.Program.File, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := machine.CheckProgram(t.Context(), s.Provider, spec.Program); !errors.Is(err, fault.Unsupported) {
			t.Errorf("CheckProgram of a file holding %q: got error %v, want fault.Unsupported", text, err)
		}
		m, err := s.Create(t.Context(), spec)
		if m != nil {
			s.made = append(s.made, m.ID)
		}
		if !errors.Is(err, fault.Unsupported) {
			t.Errorf("Create with a program whose file holds %q: got %+v and error %v, want fault.Unsupported", text, m, err)
		}
	}
	s.wantList(t, s.owner)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := machine.CheckProgram(ctx, s.Provider, s.Program.Program); !errors.Is(err, fault.Canceled) && !errors.Is(err, context.Canceled) {
		t.Errorf("CheckProgram with a canceled context: got error %v, want fault.Canceled or context.Canceled", err)
	}
}
