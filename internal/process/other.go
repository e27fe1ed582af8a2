//go:build !linux

package process

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// Host cannot be made on this operating system: process trees are held together with what only Linux has.
type Host struct{}

// Group is a process tree on Linux.
type Group struct{}

// Process is a process of a [Group] on Linux.
type Process struct{}

func unsupported() error {
	return fmt.Errorf("process: %w: machines on this computer need Linux, and this is %s", fault.Unsupported, runtime.GOOS)
}

// NewHost returns fault.Unsupported.
func NewHost(*Options) (*Host, error) { return nil, unsupported() }

// Abilities says that there are none.
func (*Host) Abilities() Abilities {
	return Abilities{Kill: "none", Why: []string{unsupported().Error()}}
}

// Places returns nothing.
func (*Host) Places() []string { return nil }

// Close does nothing.
func (*Host) Close() error { return nil }

// Group returns fault.Unsupported.
func (*Host) Group(string, machine.Size) (*Group, error) { return nil, unsupported() }

// Find returns fault.Unsupported.
func (*Host) Find(string) (*Group, error) { return nil, unsupported() }

// Share returns nothing.
func (*Host) Share(int) machine.Size { return machine.Size{} }

// Names returns fault.Unsupported.
func (*Host) Names(...string) ([]string, error) { return nil, unsupported() }

// Start returns fault.Unsupported.
func (*Group) Start(*Command) (*Process, error) { return nil, unsupported() }

// Halt returns fault.Unsupported.
func (*Group) Halt() error { return unsupported() }

// Resume returns fault.Unsupported.
func (*Group) Resume() error { return unsupported() }

// Revive returns fault.Unsupported.
func (*Group) Revive() error { return unsupported() }

// Renew returns fault.Unsupported.
func (*Group) Renew() error { return unsupported() }

// Part returns fault.Unsupported.
func (*Group) Part(int, int) (*Group, error) { return nil, unsupported() }

// Measure does nothing.
func (*Group) Measure(...string) {}

// Signal returns fault.Unsupported.
func (*Group) Signal(syscall.Signal) error { return unsupported() }

// Kill returns fault.Unsupported.
func (*Group) Kill(context.Context) error { return unsupported() }

// Empty returns fault.Unsupported.
func (*Group) Empty() (bool, error) { return false, unsupported() }

// Reuse returns fault.Unsupported.
func (*Group) Reuse(machine.Size) (*Group, error) { return nil, unsupported() }

// OOMKilled returns false.
func (*Group) OOMKilled() bool { return false }

// KilledForMemory returns 0.
func KilledForMemory() int { return 0 }

// Close returns fault.Unsupported.
func (*Group) Close() error { return unsupported() }

// Pid returns 0.
func (*Process) Pid() int { return 0 }

// Done returns a channel that is never closed.
func (*Process) Done() <-chan struct{} { return nil }

// Exit panics, since there is no process that could have ended.
func (*Process) Exit() (machine.Exit, Usage) { panic(unsupported()) }

// OpenTerminal returns fault.Unsupported.
func OpenTerminal(int, int) (person, program *os.File, err error) { return nil, nil, unsupported() }

// ResizeTerminal returns fault.Unsupported.
func ResizeTerminal(*os.File, int, int) error { return unsupported() }

// Signal returns fault.Unsupported.
func (*Process) Signal(syscall.Signal) error { return unsupported() }

// EndSession does nothing.
func (*Process) EndSession() {}
