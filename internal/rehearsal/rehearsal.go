// Package rehearsal is how a pool has its runners played in its own process, for tests: what is between the root package, which knows
// what a runner does, and package dayflytest, which knows when and where.
//
//	dayfly.NewPool ── Rehearse(play) ──> Stage        is told how a runner is played, and says by which network it gets home
//	boot ──────────── Create ──────────> Stage        a machine starts, in which
//	                                     play(ctx, part) dials home over that network and serves calls until its link is over
package rehearsal

import (
	"context"

	"github.com/dayfly-run/dayfly/internal/link"
	"github.com/dayfly-run/dayfly/machine"
)

// Stage is a provider of machines in which runners are played.
type Stage interface {
	machine.Provider
	// Rehearse is given the way to play a runner, before the first machine is made. It returns the network on which the pool
	// is to be reached.
	Rehearse(Play) link.Network
}

// Play is the life of a runner from when its machine runs until its link is over. It returns why that was, and nil when its
// parent has closed it. When the context ends its process is gone: nothing more is sent, and the contexts of its functions end.
type Play func(ctx context.Context, p *Part) error

// Part is what one runner is to be.
type Part struct {
	Spec    *machine.Spec                     // what its machine was made from, with its invitation
	Network link.Network                      // by which it gets to its parent
	Build   string                            // that of its program; "": its parent's
	Around  func(function string, run func()) // runs a function, or does not
	Leave   <-chan struct{}                   // closed when it is told to end
}
