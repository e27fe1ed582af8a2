package fly_test

import (
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/fly"
	"github.com/dayfly-run/dayfly/machine/machinetest"
)

// TestProvider runs the suite over a real socket. The fake starts nothing, so how a size is enforced is Fly's matter;
// that it arrives is in the other tests.
func TestProvider(t *testing.T) {
	t.Parallel()
	clouds := map[machine.Provider]*cloud{}
	// Nothing runs in the fake that could be entered; the suite's cases about that run where real processes do, in
	// TestProviderOverADayflyServer.
	type provider struct {
		machine.Provider
		machine.Signaler
		machine.Suspender
	}
	var current *cloud
	connect := func(t *testing.T, c *cloud) machine.Provider {
		f := fly.New(app, token, &fly.Options{URL: c.serve().URL, Image: "debian:12", Rate: -1})
		p := &provider{f, f, f}
		clouds[p], current = c, c
		return p
	}
	machinetest.Run(t, machinetest.Harness{
		New:    func(t *testing.T) machine.Provider { return connect(t, newCloud(t)) },
		Reopen: func(t *testing.T, old machine.Provider) machine.Provider { return connect(t, clouds[old]) },
		Spec:   machine.Spec{Agent: &machine.Agent{URL: "https://dayfly.example.com", Attempt: "a", Token: "t"}},
		Exits:  machine.Spec{Command: []string{"exit"}},
		Alive:  func(_ *testing.T, m *machine.Machine) bool { return current.running(m.ID) != nil },
		Agent: func(_ *testing.T, m *machine.Machine) *machine.Agent {
			b := current.running(m.ID)
			if b == nil {
				return nil
			}
			env := b.env()
			return &machine.Agent{URL: env["DAYFLY_AGENT_URL"], Attempt: env["DAYFLY_AGENT_ATTEMPT"], Token: env["DAYFLY_AGENT_TOKEN"]}
		},
		Settle:   5 * time.Second,
		Lifetime: 500 * time.Millisecond,
		Refused: []machine.Spec{
			{Size: machine.Size{MemoryMB: 100}},
			{Size: machine.Size{CPUs: 8, MemoryMB: 512}},
			{Size: machine.Size{CPUs: 0.5}},
			{Size: machine.Size{CPUs: 3}},
			{Size: machine.Size{MemoryMB: 1 << 20}},
			{Size: machine.Size{Preset: "gigantic-1x"}},
			{Size: machine.Size{GPU: "voodoo"}},
			{Size: machine.Size{DiskMB: 100}},
			{Size: machine.Size{Processes: 10}},
		},
	})
}
