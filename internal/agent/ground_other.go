//go:build !linux

package agent

import (
	"context"

	"github.com/dayfly-run/dayfly/fault"
)

// Ground is made on Linux only: machines run nowhere else.
type Ground struct{}

// Room is a part of a [Ground].
type Room struct{ Work, Scratch, Temp string }

func unsupported() error {
	return fault.Say(fault.Unsupported, "a machine can be used again on Linux only")
}

// NewGround returns fault.Unsupported.
func NewGround(string, string) (*Ground, error) { return nil, unsupported() }

// Room returns fault.Unsupported.
func (*Ground) Room(string, int) (*Room, error) { return nil, unsupported() }

// Begin does nothing.
func (*Ground) Begin() {}

// Restore returns fault.Unsupported.
func (*Ground) Restore(context.Context) error { return unsupported() }

// Begin returns fault.Unsupported.
func (*Room) Begin() error { return unsupported() }

// Restore returns fault.Unsupported.
func (*Room) Restore(context.Context) error { return unsupported() }
