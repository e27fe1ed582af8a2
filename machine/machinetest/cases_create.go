package machinetest

import (
	"context"
	"errors"
	"maps"
	"math"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

func createIsIdempotentInName(t *testing.T, s *subject) {
	spec := s.spec()
	first := s.create(t, spec)
	again := s.create(t, spec)
	if again.ID != first.ID {
		t.Errorf("Create of the same name: got machine %s, want %s again", again.ID, first.ID)
	}
	s.wantState(t, first.ID, machine.Running)
	running := s.create(t, spec)
	if running.ID != first.ID {
		t.Errorf("Create of the same name while it runs: got machine %s, want %s again", running.ID, first.ID)
	}
	s.wantList(t, s.owner, first.ID)
}

func createByANewProcessReturnsTheSameMachine(t *testing.T, s *subject) {
	spec := s.spec()
	first := s.create(t, spec)
	s.reopen(t)
	again := s.create(t, spec)
	if again.ID != first.ID {
		t.Errorf("Create of the same name by a new process: got machine %s, want %s again", again.ID, first.ID)
	}
	s.wantList(t, s.owner, first.ID)
}

func createAgainAfterExitReturnsTheExitedMachine(t *testing.T, s *subject) {
	spec := s.exits(t, 7)
	first := s.create(t, spec)
	s.wantState(t, first.ID, machine.Exited)
	again := s.create(t, spec)
	if again.ID != first.ID || again.State != machine.Exited {
		t.Errorf("Create of a name whose machine has exited: got machine %s in state %s, want %s in state exited",
			again.ID, again.State, first.ID)
	}
	s.wantList(t, s.owner, first.ID)
}

func createAfterDestroyMakesANewMachine(t *testing.T, s *subject) {
	spec := s.spec()
	first := s.create(t, spec)
	s.wantState(t, first.ID, machine.Running)
	s.destroy(t, first.ID)
	s.wantGone(t, first.ID)
	s.outwait(first)
	another := clone(spec)
	another.Labels["life"] = "second"
	second := s.create(t, another)
	if !second.Created.After(first.Created) {
		t.Errorf("Create after Destroy: got a machine created at %v, want one from after %v", second.Created, first.Created)
	}
	if got := s.get(t, second.ID); !maps.Equal(got.Labels, another.Labels) {
		t.Errorf("labels of the name's second machine: got %v, want %v", got.Labels, another.Labels)
	}
	s.wantState(t, second.ID, machine.Running)
	s.wantList(t, s.owner, second.ID)
}

func concurrentCreatesOfOneNameMakeOne(t *testing.T, s *subject) {
	spec := s.spec()
	const callers = 8
	var ids [callers]string
	var errs [callers]error
	var group sync.WaitGroup
	for i := range callers {
		group.Go(func() {
			m, err := s.Create(t.Context(), spec)
			if errs[i] = err; err == nil {
				ids[i] = m.ID
			}
		})
	}
	group.Wait()
	for i := range callers {
		if errs[i] != nil {
			t.Errorf("Create by caller %d of %d at once: got error %v, want the machine", i, callers, errs[i])
		} else if ids[i] != ids[0] {
			t.Errorf("Create by caller %d of %d at once: got machine %s, want %s as the first caller", i, callers, ids[i], ids[0])
		}
	}
	if !t.Failed() {
		s.wantList(t, s.owner, ids[0])
	}
}

func foreignOwnersNameIsConflict(t *testing.T, s *subject) {
	spec := s.spec()
	first := s.create(t, spec)

	foreign := clone(spec)
	foreign.Owner = fresh("o")
	s.others = append(s.others, foreign.Owner)
	m, err := s.Create(t.Context(), foreign)
	if !errors.Is(err, fault.Conflict) {
		t.Errorf("Create of another owner's name: got %+v and error %v, want fault.Conflict", m, err)
	}
	s.wantList(t, foreign.Owner)
	if got := s.get(t, first.ID); got.Owner != s.owner {
		t.Errorf("Get after another owner asked for the name: got owner %s, want %s", got.Owner, s.owner)
	}
}

func specsThatEveryProviderRefusesAreInvalid(t *testing.T, s *subject) {
	for _, r := range refusals() {
		spec := s.spec()
		r.spoil(spec)
		m, err := s.Create(t.Context(), spec)
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("Create with %s: got %+v and error %v, want fault.Invalid", r.what, m, err)
		}
		if m != nil {
			s.made = append(s.made, m.ID)
		}
	}
	if !t.Failed() {
		s.wantList(t, s.owner)
	}
}

func specsThatThisProviderRefusesLeaveNothingBehind(t *testing.T, s *subject) {
	for i, refused := range s.Refused {
		if refused.Agent == nil && refused.Command == nil && refused.Program == nil {
			refused.Agent, refused.Command = s.Spec.Agent, s.Spec.Command
		}
		m, err := s.Create(t.Context(), s.complete(refused))
		if !errors.Is(err, fault.Invalid) && !errors.Is(err, fault.Unsupported) {
			t.Errorf("Create with Refused[%d]: got %+v and error %v, want fault.Invalid or fault.Unsupported", i, m, err)
		}
	}
	if !t.Failed() {
		s.wantList(t, s.owner)
	}
}

func specIsNotRetainedOrModified(t *testing.T, s *subject) {
	spec := s.spec()
	spec.Env = map[string]string{"WHERE": "here"}
	before := clone(spec)
	m := s.create(t, spec)
	if !reflect.DeepEqual(spec, before) {
		t.Errorf("Create changed its Spec: got %+v, want %+v", spec, before)
	}
	spec.Labels["test"] = "changed"
	spec.Labels["new"] = "added"
	spec.Lifetime = time.Minute
	got := s.get(t, m.ID)
	if !maps.Equal(got.Labels, before.Labels) {
		t.Errorf("labels after the caller changed its Spec: got %v, want %v", got.Labels, before.Labels)
	}
}

func cancelingAfterCreateLeavesTheMachineAlone(t *testing.T, s *subject) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	m, err := s.Create(ctx, s.spec())
	if err != nil {
		t.Fatalf("Create: got error %v, want a machine", err)
	}
	s.made = append(s.made, m.ID)
	cancel()
	s.wantState(t, m.ID, machine.Running)
	s.steadily(t, func() {
		if got := s.get(t, m.ID); got.State.Rank() > machine.Running.Rank() {
			t.Fatalf("state after the context of Create was canceled: got %s with exit %+v, want running", got.State, got.Exit)
		}
	})
}

type refusal struct {
	what  string
	spoil func(*machine.Spec)
}

// refusals returns one way to break each rule of [machine.Spec.Validate].
func refusals() []refusal {
	tooMany := map[string]string{}
	for i := range 33 {
		tooMany["l"+strings.Repeat("x", i)] = ""
	}
	agent := func(url, attempt, token string) func(*machine.Spec) {
		return func(s *machine.Spec) {
			s.Command, s.Agent = nil, &machine.Agent{URL: url, Attempt: attempt, Token: token}
		}
	}
	command := func(argv ...string) func(*machine.Spec) {
		return func(s *machine.Spec) { s.Agent, s.Command = nil, argv }
	}
	labels := func(key, value string) func(*machine.Spec) {
		return func(s *machine.Spec) { s.Labels = map[string]string{key: value} }
	}
	env := func(key, value string) func(*machine.Spec) {
		return func(s *machine.Spec) { s.Env = map[string]string{key: value} }
	}
	return []refusal{
		{"no name", func(s *machine.Spec) { s.Name = "" }},
		{"a name of 64 characters", func(s *machine.Spec) { s.Name = strings.Repeat("a", 64) }},
		{"a capital letter in the name", func(s *machine.Spec) { s.Name = "mt-Capital" }},
		{"a name that begins with a digit", func(s *machine.Spec) { s.Name = "0" + s.Name }},
		{"a name that is a path", func(s *machine.Spec) { s.Name = "../" + s.Name }},
		{"a newline in the name", func(s *machine.Spec) { s.Name += "\n" }},
		{"no owner", func(s *machine.Spec) { s.Owner = "" }},
		{"a space in the owner", func(s *machine.Spec) { s.Owner = "two words" }},
		{"33 labels", func(s *machine.Spec) { s.Labels = tooMany }},
		{"an empty label key", labels("", "value")},
		{"a label key with a dot", labels("a.b", "value")},
		{"a label value of 257 bytes", labels("key", strings.Repeat("v", 257))},
		{"a NUL in a label value", labels("key", "a\x00b")},
		{"no lifetime", func(s *machine.Spec) { s.Lifetime = 0 }},
		{"a negative lifetime", func(s *machine.Spec) { s.Lifetime = -time.Second }},
		{"a lifetime without end", func(s *machine.Spec) { s.Lifetime = math.MaxInt64 }},
		{"neither agent nor command", func(s *machine.Spec) { s.Agent, s.Command = nil, nil }},
		{"both agent and command", func(s *machine.Spec) {
			s.Agent, s.Command = &machine.Agent{URL: "http://127.0.0.1:1", Attempt: "a", Token: "t"}, []string{"true"}
		}},
		{"an agent without url", agent("", "a", "t")},
		{"an agent without attempt", agent("http://127.0.0.1:1", "", "t")},
		{"an agent without token", agent("http://127.0.0.1:1", "a", "")},
		{"an empty program", command("", "x")},
		{"a NUL in the command", command("echo", "a\x00b")},
		{"an empty environment name", env("", "value")},
		{"an equals sign in an environment name", env("A=B", "value")},
		{"a NUL in an environment name", env("A\x00B", "value")},
		{"a NUL in an environment value", env("A", "a\x00b")},
		{"a NUL in the image", func(s *machine.Spec) { s.Image = "debian\x00" }},
		{"an image of 1025 bytes", func(s *machine.Spec) { s.Image = strings.Repeat("i", 1025) }},
		{"CPUs that are no number", func(s *machine.Spec) { s.Size.CPUs = math.NaN() }},
		{"CPUs without end", func(s *machine.Spec) { s.Size.CPUs = math.Inf(1) }},
		{"negative CPUs", func(s *machine.Spec) { s.Size.CPUs = -1 }},
		{"negative memory", func(s *machine.Spec) { s.Size.MemoryMB = -1 }},
		{"negative disk", func(s *machine.Spec) { s.Size.DiskMB = -1 }},
		{"negative processes", func(s *machine.Spec) { s.Size.Processes = -1 }},
	}
}
