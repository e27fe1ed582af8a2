package machinetest

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// sides returns the machine as Create answered, as Get and List show it, and as a new process sees both.
func (s *subject) sides(t *testing.T, spec *machine.Spec) map[string]*machine.Machine {
	t.Helper()
	m := s.create(t, spec)
	sides := map[string]*machine.Machine{"Create": m, "Get": s.get(t, m.ID), "List": s.fromList(t, m.ID)}
	s.reopen(t)
	sides["Get by a new process"] = s.get(t, m.ID)
	sides["List by a new process"] = s.fromList(t, m.ID)
	return sides
}

// fromList returns a machine as List shows it, which may take a while.
func (s *subject) fromList(t *testing.T, id string) *machine.Machine {
	t.Helper()
	var found *machine.Machine
	s.eventually(t, "List to hold "+id, func() error {
		list, err := s.List(t.Context(), s.owner)
		if err != nil {
			t.Fatalf("List(%s): got error %v, want a list", s.owner, err)
		}
		for _, m := range list {
			if m.ID == id {
				found = m
				return nil
			}
		}
		return fmt.Errorf("%d machines, without it", len(list))
	})
	return found
}

func labelsSurvive(t *testing.T, s *subject) {
	spec := s.spec()
	spec.Labels = map[string]string{
		"job":        "job_01j9",
		"created-by": "Jürgen \"the tester\" <j@example.com>",
		"with_under": "a=b,c=d;e&f%20'g'",
		"empty":      "",
		"lines":      "one\ntwo\ttabbed \\ ",
		"number":     "0042",
	}
	for side, m := range s.sides(t, spec) {
		if !maps.Equal(m.Labels, spec.Labels) {
			t.Errorf("labels as seen by %s: got %q, want %q", side, m.Labels, spec.Labels)
		}
	}
}

func theLongestNamesAndLabelsAreKept(t *testing.T, s *subject) {
	long := func(name string) string { return name + strings.Repeat("-x", 31)[:63-len(name)] }
	s.owner = long(s.owner)
	spec := s.spec()
	spec.Name = long(spec.Name)
	spec.Labels = map[string]string{}
	for i := range 32 {
		spec.Labels[long(fmt.Sprintf("l%02d_", i))] = strings.Repeat("v", 256)
	}
	m := s.create(t, spec)
	other := clone(spec)
	other.Name = spec.Name[:62] + "y" // differs in the last character only
	second := s.create(t, other)
	s.reopen(t)
	for id, want := range map[string]*machine.Spec{m.ID: spec, second.ID: other} {
		got := s.fromList(t, id)
		if got.Name != want.Name || got.Owner != want.Owner || !maps.Equal(got.Labels, want.Labels) {
			t.Errorf("the longest names: got %q of %q with %d labels, want %q of %q with all %d as they were",
				got.Name, got.Owner, len(got.Labels), want.Name, want.Owner, len(want.Labels))
		}
	}
	s.wantList(t, s.owner, m.ID, second.ID)
}

func endDateIsCarried(t *testing.T, s *subject) {
	for side, m := range s.sides(t, s.spec()) {
		if m.Created.IsZero() {
			t.Errorf("Created as seen by %s: got none, want the time of the provider", side)
		}
		// A provider may keep whole seconds.
		if got := m.Expires.Sub(m.Created); (got - stay).Abs() > time.Second {
			t.Errorf("Expires less Created as seen by %s: got %v, want the lifetime of %v", side, got, stay)
		}
	}
}

func machinesLookTheSameFromEverywhere(t *testing.T, s *subject) {
	spec := s.spec()
	sides := s.sides(t, spec)
	want := sides["Create"]
	for side, m := range sides {
		if m.ID != want.ID || m.Name != spec.Name || m.Owner != spec.Owner {
			t.Errorf("the machine as seen by %s: got id %q, name %q, owner %q, want %q, %q, %q",
				side, m.ID, m.Name, m.Owner, want.ID, spec.Name, spec.Owner)
		}
		if !m.Created.Equal(want.Created) {
			t.Errorf("Created as seen by %s: got %v, want %v as Create said", side, m.Created, want.Created)
		}
		if m.State.Rank() < 0 {
			t.Errorf("State as seen by %s: got %q, want one of package machine", side, m.State)
		}
	}
}

func returnedMachinesAreTheCallersOwn(t *testing.T, s *subject) {
	spec := s.spec()
	m := s.create(t, spec)
	for _, mine := range []*machine.Machine{m, s.get(t, m.ID), s.fromList(t, m.ID)} {
		mine.Name = "changed"
		if mine.Labels != nil {
			mine.Labels["test"] = "changed"
		}
	}
	for side, got := range map[string]*machine.Machine{"Get": s.get(t, m.ID), "List": s.fromList(t, m.ID)} {
		if got.Name != spec.Name || got.Labels["test"] == "changed" {
			t.Errorf("%s after the caller changed its copies: got name %q and labels %v, want %q and %v",
				side, got.Name, got.Labels, spec.Name, spec.Labels)
		}
	}
}

func getOfUnknownIsNotFound(t *testing.T, s *subject) {
	for _, id := range []string{fresh("m"), "", "no such machine", "../../etc/passwd", "mt-a/b?c=d"} {
		if m, err := s.Get(t.Context(), id); !errors.Is(err, fault.NotFound) {
			t.Errorf("Get(%q): got %+v and error %v, want fault.NotFound", id, m, err)
		}
	}
}

func listFindsWhatANewProcessNeverCreated(t *testing.T, s *subject) {
	first, second := s.create(t, s.spec()), s.create(t, s.spec())
	s.reopen(t)
	s.wantList(t, s.owner, first.ID, second.ID)
	third := s.create(t, s.spec())
	s.wantList(t, s.owner, first.ID, second.ID, third.ID)
}

func listIsByOwner(t *testing.T, s *subject) {
	mine := s.create(t, s.spec())
	spec := s.spec()
	spec.Owner = s.owner + "-2" // begins as the other does
	s.others = append(s.others, spec.Owner)
	theirs := s.create(t, spec)
	s.wantList(t, s.owner, mine.ID)
	s.wantList(t, spec.Owner, theirs.ID)
}

func listOfAnOwnerWithoutMachinesIsEmpty(t *testing.T, s *subject) {
	s.create(t, s.spec())
	s.wantList(t, fresh("o"))
}

func listHoldsExitedMachines(t *testing.T, s *subject) {
	m := s.create(t, s.exits(t, 0))
	s.wantState(t, m.ID, machine.Exited)
	s.steadily(t, func() {
		if s.listed(t, s.owner)[m.ID] != 1 {
			t.Fatalf("List after the machine has exited: it is missing, want it until it is destroyed")
		}
	})
}
