package boot

import (
	"context"
	"time"
)

// LocalIn is Local with its state in the first of the places that can be used.
var LocalIn = localIn

// Owner is the owner of the machines.
func (b *Booter) Owner() string { return b.owner }

// SweepNow does what a booter does from time to time.
func SweepNow(ctx context.Context, b *Booter) {
	s := &sweeper{booter: b, since: map[string]time.Time{}}
	s.again(ctx)
	s.again(ctx)
}
