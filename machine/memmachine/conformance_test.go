package memmachine_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/machinetest"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

func harness(o *memmachine.Options) machinetest.Harness {
	return machinetest.Harness{
		New: func(t *testing.T) machine.Provider {
			p := memmachine.New(o)
			t.Cleanup(p.Cloud().Close)
			return p
		},
		Reopen: func(_ *testing.T, old machine.Provider) machine.Provider {
			return old.(interface{ Cloud() *memmachine.Cloud }).Cloud().Connect()
		},
		Spec: machine.Spec{Command: []string{"stay"}},
		Exits: func(code int) machine.Spec {
			return machine.Spec{Command: []string{"exit", strconv.Itoa(code)}}
		},
		Settle:   3 * time.Second,
		Lifetime: 200 * time.Millisecond,
	}
}

func TestProvider(t *testing.T) {
	t.Parallel()
	machinetest.Run(t, harness(nil))
}

func TestProviderWhoseMachinesTakeTimeToBootAndWhosePagesAreSmall(t *testing.T) {
	t.Parallel()
	machinetest.Run(t, harness(&memmachine.Options{Boot: 20 * time.Millisecond, PageSize: 1}))
}

// polled hides that the provider is a machine.Watcher.
type polled struct {
	machine.Provider
	cloud *memmachine.Cloud
}

func (p polled) Cloud() *memmachine.Cloud { return p.cloud }

func TestProviderThatIsNoWatcher(t *testing.T) {
	t.Parallel()
	h := harness(nil)
	h.New = func(t *testing.T) machine.Provider {
		p := memmachine.New(nil)
		t.Cleanup(p.Cloud().Close)
		return polled{p, p.Cloud()}
	}
	h.Reopen = func(_ *testing.T, old machine.Provider) machine.Provider {
		cloud := old.(polled).Cloud()
		return polled{cloud.Connect(), cloud}
	}
	machinetest.Run(t, h)
}
