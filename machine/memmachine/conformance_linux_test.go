package memmachine_test

import (
	"context"
	"fmt"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/hostshell"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/machinetest"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// guests knows what runs in the machines of a test.
type guests struct {
	shell  hostshell.Shell
	mu     sync.Mutex
	inside map[string]<-chan struct{} // guarded by mu; by the machine's name, until the channel is closed
	agents map[string]*machine.Agent  // guarded by mu; what agents were told, by the machine's name
}

func (g *guests) run(ctx context.Context, spec *machine.Spec) machine.Exit {
	g.mu.Lock()
	g.inside[spec.Name] = ctx.Done()
	g.agents[spec.Name] = spec.Agent
	g.mu.Unlock()
	switch {
	case spec.Agent != nil:
	case spec.Program != nil:
		spec.Command = append([]string{spec.Program.File}, spec.Program.Args...)
		return g.shell.Guest(ctx, spec)
	case spec.Command[0] == "sh":
		return g.shell.Guest(ctx, spec)
	case spec.Command[0] == "exit":
		spec.Command = []string{"exit", spec.Env["CODE"]}
	case spec.Command[0] == "take 64 MiB":
		return machine.Exit{OOMKilled: spec.Size.MemoryMB > 0 && spec.Size.MemoryMB < 64}
	}
	return memmachine.Idle(ctx, spec)
}

func (g *guests) alive(_ *testing.T, m *machine.Machine) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	ended, started := g.inside[m.Name]
	select {
	case <-ended:
		return false
	default:
		return started
	}
}

func (g *guests) agent(_ *testing.T, m *machine.Machine) *machine.Agent {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.agents[m.Name]
}

func harness(t *testing.T, o memmachine.Options) machinetest.Harness {
	g := &guests{
		shell:  hostshell.Shell{Dir: t.TempDir()},
		inside: map[string]<-chan struct{}{}, agents: map[string]*machine.Agent{},
	}
	o.Guest, o.Exec = g.run, g.shell.Exec
	return machinetest.Harness{
		New: func(t *testing.T) machine.Provider {
			p := memmachine.New(&o)
			t.Cleanup(p.Cloud().Close)
			return p
		},
		Reopen: func(_ *testing.T, old machine.Provider) machine.Provider {
			return old.(interface{ Cloud() *memmachine.Cloud }).Cloud().Connect()
		},
		Spec:     machine.Spec{Command: []string{"stay"}},
		Exits:    machine.Spec{Command: []string{"exit"}},
		Alive:    g.alive,
		Agent:    g.agent,
		Settle:   3 * time.Second,
		Lifetime: 200 * time.Millisecond,
		Script:   machine.Spec{Command: []string{"sh", "-c", `eval "$SCRIPT"`}},
		Program:  machine.Spec{Program: &machine.Program{File: shellFile(t), Args: []string{"-c", `eval "$SCRIPT"`}}},
		Exceeds:  []machine.Spec{{Command: []string{"take 64 MiB"}, Size: machine.Size{MemoryMB: 32}}},
	}
}

func shellFile(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestProvider(t *testing.T) {
	t.Parallel()
	machinetest.Run(t, harness(t, memmachine.Options{}))
}

func TestProviderWhoseMachinesTakeTimeToBootAndWhosePagesAreSmall(t *testing.T) {
	t.Parallel()
	machinetest.Run(t, harness(t, memmachine.Options{Boot: 20 * time.Millisecond, PageSize: 1}))
}

// polled hides that the provider is a machine.Watcher, and everything else that not all providers are.
type polled struct {
	machine.Provider
	cloud *memmachine.Cloud
}

func (p polled) Create(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
	if spec.Program != nil {
		return nil, fmt.Errorf("no program is brought along: %w", fault.Unsupported)
	}
	return p.Provider.Create(ctx, spec)
}

func (p polled) Cloud() *memmachine.Cloud { return p.cloud }

func TestProviderThatIsNoWatcher(t *testing.T) {
	t.Parallel()
	h := harness(t, memmachine.Options{})
	watcher := h.New
	h.New = func(t *testing.T) machine.Provider {
		p := watcher(t).(*memmachine.Provider)
		return polled{p, p.Cloud()}
	}
	h.Reopen = func(_ *testing.T, old machine.Provider) machine.Provider {
		cloud := old.(polled).Cloud()
		return polled{cloud.Connect(), cloud}
	}
	machinetest.Run(t, h)
}
