//go:build !linux

package agent

import (
	"context"

	"github.com/dayfly-run/dayfly/fault"
)

// Ground is made on Linux only: machines run nowhere else.
type Ground struct{}

// NewGround returns fault.Unsupported.
func NewGround(...string) (*Ground, error) {
	return nil, fault.Say(fault.Unsupported, "a machine can be used again on Linux only")
}

// Restore returns fault.Unsupported.
func (*Ground) Restore(context.Context) error {
	return fault.Say(fault.Unsupported, "a machine can be used again on Linux only")
}

// Empty returns fault.Unsupported.
func Empty(string) error {
	return fault.Say(fault.Unsupported, "a machine can be used again on Linux only")
}
