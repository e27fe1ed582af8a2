// Package machinetest checks that a machine.Provider does what package machine says. It is the specification: a
// provider is one when it passes.
//
// A provider's test is one call:
//
//	func TestProvider(t *testing.T) {
//		machinetest.Run(t, machinetest.Harness{
//			New:    func(t *testing.T) machine.Provider { return local.New(…) },
//			Reopen: func(t *testing.T, old machine.Provider) machine.Provider { return local.New(…) },
//			Spec:   machine.Spec{Command: []string{"sleep", "600"}},
//			Exits:  machine.Spec{Command: []string{"sh", "-c", "exit $CODE"}},
//			Settle: 5 * time.Second,
//		})
//	}
//
// The cases are the slice in cases.go: each is named as a sentence and runs on a provider of its own. What differs
// between providers is declared in the [Harness]; the suite never asks what it is testing. The cases about optional
// interfaces run where the provider has them and are skipped, visibly, where it has not. Everything a case
// creates bears an owner of its own and is swept by that owner when the case ends, also when it fails; what cannot
// be swept fails the last case.
package machinetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// Harness says how to get at a provider, and what may differ between providers. New, Reopen and Spec are required.
type Harness struct {
	// New returns a provider for one case. It cleans up after itself with t.Cleanup.
	New func(t *testing.T) machine.Provider

	// Reopen returns the same backend's provider as a new process would have it: connected to what old has created,
	// sharing no memory with it. Where the old process can be ended, end it: old is not used any more.
	Reopen func(t *testing.T, old machine.Provider) machine.Provider

	// Spec describes the smallest machine that stays up until it is ended. The suite sets Name, Owner, Labels and
	// Lifetime.
	Spec machine.Spec

	// Exits describes a machine that ends by itself with the status that is in the variable CODE of its environment.
	// The suite sets it, from 0 to 255. Left out: this provider cannot run such a machine, and the cases about exits
	// and about the environment are skipped.
	Exits machine.Spec

	// Alive reports whether anything that was started in the machine still runs, as somebody sees it who does not ask
	// the provider: in the list of processes, in the fake of the cloud. nil: nobody can look, and the suite takes the
	// provider's word for it that nothing runs in a machine which has ended.
	Alive func(t *testing.T, m *machine.Machine) bool

	// Settle is how long the provider may take until its machines and its answers are what they will be: a boot, an
	// end, a list that lags behind. Default: 10 seconds. It is spent only by a provider that fails.
	Settle time.Duration

	// Lifetime is the shortest lifetime with which a machine is sure to be seen running. Default: 1 second.
	Lifetime time.Duration

	// Agent returns what the agent in the machine was told, as the agent has it and not as the provider was asked: from
	// its environment or arguments, from the fake of the cloud. It returns nil while the agent has not started. nil:
	// nobody can look, and the case about agents is skipped.
	Agent func(t *testing.T, m *machine.Machine) *machine.Agent

	// Exceeds are specs of machines that take more memory or disk than their own Size gives them, and must be ended for
	// it. Left out: nothing runs here that could, or nothing limits it, and the case about sizes is skipped.
	Exceeds []machine.Spec

	// Parallel lets cases run at once, each on its own provider. It is for a backend whose machines take long to come and to
	// go and do not disturb each other.
	Parallel bool

	// Refused are specs which this provider, beyond what every provider refuses, must refuse with fault.Invalid or
	// fault.Unsupported: an image where there are no images, a size that cannot be had. The suite fills in what
	// Spec has and these leave out.
	Refused []machine.Spec

	// Script describes a machine that runs the shell script which is in the variable SCRIPT of its environment:
	// {"sh", "-c", `eval "$SCRIPT"`}. The suite sets it. Its shell is the machine's first process. Left out: this
	// provider cannot run such a machine, and the cases that need one are skipped.
	Script machine.Spec

	// Program is Script with a Program in place of the Command, for a provider that is a machine.Carrier: File is a shell
	// that needs nothing else. Left out for any other.
	Program machine.Spec

	// Shell is the command that runs a script, to be appended, in a machine of Spec. Default: {"sh", "-c"}. It matters
	// for a provider that is a machine.Execer.
	Shell []string
	// User is the number of a user, other than the machine's own, whom commands may be run as. "": none, and the
	// provider must refuse any.
	User string
	// NoTerminal is set for a machine.Execer that has no terminals to give; it must refuse to.
	NoTerminal bool
	// CommandsStay is set for a machine.Execer that has no way to end a command in a machine but with the machine: one
	// whose context has ended goes on there, unheard.
	CommandsStay bool
	// CommandsAreWhole is set for a machine.Execer that takes all of a command's input, at most 1 MiB, before the command
	// starts, and gives its output when it has ended: the way of an API of requests and answers.
	CommandsAreWhole bool
}

// Run runs every case as a subtest of t, one after the other unless the harness is Parallel.
func Run(t *testing.T, h Harness) {
	t.Helper()
	if h.New == nil || h.Reopen == nil || !offered(&h.Spec) {
		t.Fatal("machinetest: a Harness needs New, Reopen and Spec")
	}
	if h.Settle <= 0 {
		h.Settle = 10 * time.Second
	}
	if h.Lifetime <= 0 {
		h.Lifetime = time.Second
	}
	if len(h.Shell) == 0 {
		h.Shell = []string{"sh", "-c"}
	}
	var mu sync.Mutex
	var left []string // guarded by mu; what could not be swept
	each := func(t *testing.T) {
		for _, c := range cases() {
			t.Run(c.name, func(t *testing.T) {
				if h.Parallel {
					t.Parallel()
				}
				s := &subject{Harness: h, Provider: h.New(t), owner: fresh("o")}
				// Deferred, because t.Cleanup would sweep after the harness has closed the provider of a Reopen.
				defer func() {
					mu.Lock()
					patient := len(left) == 0
					mu.Unlock()
					stays := s.sweep(t, patient)
					mu.Lock()
					left = append(left, stays...)
					mu.Unlock()
				}()
				c.run(t, s)
			})
		}
	}
	if h.Parallel {
		t.Run("Cases", each) // it returns when all have ended
	} else {
		each(t)
	}
	t.Run("NothingIsLeftBehind", func(t *testing.T) {
		for _, what := range left {
			t.Errorf("after its case had ended: %s", what)
		}
	})
}

// offered reports whether the harness describes a machine.
func offered(spec *machine.Spec) bool {
	return spec.Agent != nil || spec.Program != nil || len(spec.Command) > 0 || spec.Image != ""
}

// subject is the provider under test in one case.
type subject struct {
	Harness
	machine.Provider // the one in use: New's, or the last Reopen's

	owner  string
	others []string // more owners to sweep by
	made   []string // ids to sweep though no list may hold them
}

// stay is the lifetime of machines that are not meant to reach it: long enough for every case, and short enough that
// what a broken provider leaves in somebody's cloud ends by itself.
const stay = 10 * time.Minute

// fresh returns a name that nobody has used before, beginning with the given letters.
func fresh(prefix string) string {
	return "mt-" + prefix + "-" + strings.ToLower(rand.Text()[:10])
}

// spec returns the harness's Spec with a new name.
func (s *subject) spec() *machine.Spec { return s.complete(s.Spec) }

// complete returns a copy of spec that shares nothing with it and has a new name and all the suite decides.
func (s *subject) complete(spec machine.Spec) *machine.Spec {
	out := clone(&spec)
	out.Name = fresh("m")
	out.Owner = s.owner
	out.Labels = map[string]string{"test": "machinetest"}
	out.Lifetime = stay
	return out
}

// exits returns the Spec of a machine that ends with the code, or skips the case.
func (s *subject) exits(t *testing.T, code int) *machine.Spec {
	t.Helper()
	if !offered(&s.Exits) {
		t.Skip("the harness offers no machine that exits")
	}
	spec := s.complete(s.Exits)
	if spec.Env == nil {
		spec.Env = map[string]string{}
	}
	spec.Env["CODE"] = strconv.Itoa(code)
	return spec
}

// create creates a machine that must be accepted.
func (s *subject) create(t *testing.T, spec *machine.Spec) *machine.Machine {
	t.Helper()
	m, err := s.Create(t.Context(), spec)
	if err != nil {
		t.Fatalf("Create(%s): got error %v, want a machine", spec.Name, err)
	}
	if m == nil || m.ID == "" {
		t.Fatalf("Create(%s): got %+v, want a machine with an ID", spec.Name, m)
	}
	s.made = append(s.made, m.ID)
	return m
}

// get returns a machine that must be there.
func (s *subject) get(t *testing.T, id string) *machine.Machine {
	t.Helper()
	m, err := s.Get(t.Context(), id)
	if err != nil || m == nil {
		t.Fatalf("Get(%s): got %v and error %v, want the machine", id, m, err)
	}
	return m
}

// destroy destroys a machine and repeats what the contract says to repeat.
func (s *subject) destroy(t *testing.T, id string) {
	t.Helper()
	s.eventually(t, "Destroy("+id+") to succeed", func() error {
		err := s.Destroy(t.Context(), id)
		if err != nil && !errors.Is(err, fault.Unavailable) {
			t.Fatalf("Destroy(%s): got error %v, want nil, or fault.Unavailable to ask again", id, err)
		}
		return err
	})
}

// reopen makes the subject a new process.
func (s *subject) reopen(t *testing.T) {
	t.Helper()
	s.Provider = s.Reopen(t, s.Provider)
}

// listed returns how often each id is in the owner's list.
func (s *subject) listed(t *testing.T, owner string) map[string]int {
	t.Helper()
	list, err := s.List(t.Context(), owner)
	if err != nil {
		t.Fatalf("List(%s): got error %v, want a list", owner, err)
	}
	ids := map[string]int{}
	for _, m := range list {
		ids[m.ID]++
	}
	return ids
}

// wantList waits until the owner's list holds exactly these machines, once each.
func (s *subject) wantList(t *testing.T, owner string, ids ...string) {
	t.Helper()
	want := map[string]int{}
	for _, id := range ids {
		want[id]++
	}
	s.eventually(t, "List("+owner+")", func() error {
		if got := s.listed(t, owner); !maps.Equal(got, want) {
			return fmt.Errorf("got %v, want %v (how often each id is listed)", got, want)
		}
		return nil
	})
}

// wantState waits until the machine is in the state and returns it as it is then.
func (s *subject) wantState(t *testing.T, id string, want machine.State) *machine.Machine {
	t.Helper()
	var m *machine.Machine
	s.eventually(t, "the machine's state", func() error {
		m = s.get(t, id)
		if m.State.Rank() > want.Rank() {
			t.Fatalf("Get(%s): got state %s with exit %+v, want %s", id, m.State, m.Exit, want)
		}
		if m.State != want {
			return fmt.Errorf("got %s, want %s", m.State, want)
		}
		return nil
	})
	return m
}

// eventually waits for Settle until check returns nil.
func (s *subject) eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(s.Settle)
	tick := time.NewTicker(s.poll())
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: waited %v: %v", what, s.Settle, err)
		}
		<-tick.C
	}
}

// poll is how often to look again: a hundred times in Settle, and between 5 milliseconds and a second.
func (s *subject) poll() time.Duration {
	return min(max(s.Settle/100, 5*time.Millisecond), time.Second)
}

// wantGone checks that Get knows nothing of the machine, now, and waits until List does not either.
func (s *subject) wantGone(t *testing.T, id string) {
	t.Helper()
	m, err := s.Get(t.Context(), id)
	if !errors.Is(err, fault.NotFound) {
		t.Errorf("Get(%s) after Destroy: got %+v and error %v, want fault.NotFound", id, m, err)
	}
	s.eventually(t, "List after Destroy("+id+")", func() error {
		if s.listed(t, s.owner)[id] > 0 {
			return errors.New("the machine is still listed")
		}
		return nil
	})
}

// outwait waits until a machine created from now on is certain to show a later Created than m, which is there already:
// a provider may keep whole seconds.
func (s *subject) outwait(m *machine.Machine) {
	if m.Created.Equal(m.Created.Truncate(time.Second)) {
		<-time.After(time.Second)
	}
}

// wantNothingAlive checks that nothing runs in a machine that has ended, where the harness can look.
func (s *subject) wantNothingAlive(t *testing.T, m *machine.Machine, ended string) {
	t.Helper()
	if s.Alive != nil && s.Alive(t, m) {
		t.Errorf("what runs in machine %s %s: got something alive, want nothing", m.ID, ended)
	}
}

// steadily checks ten times in a row, a poll apart, that nothing changes that should not.
func (s *subject) steadily(t *testing.T, check func()) {
	t.Helper()
	tick := time.NewTicker(s.poll())
	defer tick.Stop()
	for range 10 {
		check()
		<-tick.C
	}
}

// sweep destroys everything the case made and returns what would not go. It repeats for Settle when it is told to be
// patient: once something is known to stay, waiting for more of it helps nobody.
func (s *subject) sweep(t *testing.T, patient bool) []string {
	cause := errors.New("machinetest: sweeping took too long")
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(t.Context()), s.Settle, cause)
	defer cancel()
	tick := time.NewTicker(s.poll())
	defer tick.Stop()
	for {
		left := s.sweepOnce(ctx)
		if len(left) == 0 || !patient || ctx.Err() != nil {
			return left
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (s *subject) sweepOnce(ctx context.Context) (left []string) {
	ids := map[string]bool{}
	for _, id := range s.made {
		ids[id] = true
	}
	for _, owner := range append(slices.Clone(s.others), s.owner) {
		list, err := s.List(ctx, owner)
		if err != nil {
			left = append(left, fmt.Sprintf("List(%s): got error %v, want what to sweep", owner, err))
		}
		for _, m := range list {
			// A provider that lists other people's machines must not make the suite destroy them.
			if m.Owner == owner {
				ids[m.ID] = true
			}
		}
	}
	for id := range ids {
		if _, err := s.Get(ctx, id); errors.Is(err, fault.NotFound) {
			continue
		}
		if err := s.Destroy(ctx, id); err != nil {
			left = append(left, fmt.Sprintf("Destroy(%s): got error %v, want nil", id, err))
		} else if m, err := s.Get(ctx, id); err == nil {
			left = append(left, fmt.Sprintf("Get(%s) after Destroy: got %+v, want fault.NotFound", id, m))
		}
	}
	return left
}

func clone(spec *machine.Spec) *machine.Spec {
	out := *spec
	out.Labels = maps.Clone(spec.Labels)
	out.Env = maps.Clone(spec.Env)
	out.Command = slices.Clone(spec.Command)
	out.Entrypoint = slices.Clone(spec.Entrypoint)
	out.Files = slices.Clone(spec.Files)
	if spec.Agent != nil {
		agent := *spec.Agent
		out.Agent = &agent
	}
	if spec.Program != nil {
		out.Program = &machine.Program{File: spec.Program.File, Args: slices.Clone(spec.Program.Args)}
	}
	return &out
}
