//go:build !linux

package local

import (
	"context"
	"fmt"
	"io"
	"iter"
	"runtime"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/machine"
)

// Provider cannot be made on this operating system: machines here are held together with what only Linux has.
type Provider struct{}

var (
	_ machine.Provider = (*Provider)(nil)
	_ machine.Watcher  = (*Provider)(nil)
	_ machine.Carrier  = (*Provider)(nil)
)

func unsupported() error {
	return fmt.Errorf("local: %w: machines on this computer need Linux, and this is %s", fault.Unsupported, runtime.GOOS)
}

// New returns fault.Unsupported.
func New(Options) (*Provider, error) { return nil, unsupported() }

// Supervise returns fault.Unsupported.
func Supervise(context.Context, SupervisorOptions) error { return unsupported() }

// Discard returns fault.Unsupported.
func Discard(context.Context, string) error { return unsupported() }

// Abilities says that there are none.
func (*Provider) Abilities() process.Abilities {
	return process.Abilities{Kill: "none", Why: []string{unsupported().Error()}}
}

// SetHome does nothing.
func (*Provider) SetHome(string) {}

// Prepare does nothing.
func (*Provider) Prepare() {}

// Close does nothing.
func (*Provider) Close() error { return nil }

// Run returns fault.Unsupported.
func (*Provider) Run(context.Context) error { return unsupported() }

// Create returns fault.Unsupported.
func (*Provider) Create(context.Context, *machine.Spec) (*machine.Machine, error) {
	return nil, unsupported()
}

// Get returns fault.Unsupported.
func (*Provider) Get(context.Context, string) (*machine.Machine, error) { return nil, unsupported() }

// List returns fault.Unsupported.
func (*Provider) List(context.Context, string) ([]*machine.Machine, error) {
	return nil, unsupported()
}

// Destroy returns fault.Unsupported.
func (*Provider) Destroy(context.Context, string) error { return unsupported() }

// Watch yields fault.Unsupported once.
func (*Provider) Watch(context.Context, string) iter.Seq2[*machine.Machine, error] {
	return func(yield func(*machine.Machine, error) bool) { yield(nil, unsupported()) }
}

// Exec returns fault.Unsupported.
func (*Provider) Exec(context.Context, string, *machine.Command) (*machine.Exit, error) {
	return nil, unsupported()
}

// CheckProgram returns fault.Unsupported.
func (*Provider) CheckProgram(context.Context, *machine.Program) error { return unsupported() }

// Signal returns fault.Unsupported.
func (*Provider) Signal(context.Context, string, string) error { return unsupported() }

// Suspend returns fault.Unsupported.
func (*Provider) Suspend(context.Context, string) error { return unsupported() }

// Resume returns fault.Unsupported.
func (*Provider) Resume(context.Context, string) error { return unsupported() }

// Logs returns fault.Unsupported.
func (*Provider) Logs(context.Context, string, bool, io.Writer, io.Writer) error {
	return unsupported()
}
