package boot

import (
	"context"
	"log/slog"
	"time"

	"github.com/dayfly-run/dayfly/machine/local"
)

// LocalIn is a provider like that of Local, with its state in the first of the places that can be used, and the caller's own.
func LocalIn(places []string, log *slog.Logger) (*local.Provider, error) {
	dir, err := localDir(places)
	if err != nil {
		return nil, err
	}
	return newLocal(dir, log)
}

// Owner is the owner of the machines.
func (b *Booter) Owner() string { return b.owner }

// SweepNow does what a booter does from time to time.
func SweepNow(ctx context.Context, b *Booter) {
	s := &sweeper{booter: b, since: map[string]time.Time{}}
	s.again(ctx)
	s.again(ctx)
}
