package pool

import (
	"context"
	"time"
)

// Backend boots runners. It is safe for concurrent use: a burst of callers boots all the runners it needs at once.
type Backend interface {
	// Boot starts a runner and returns it when it is ready for work. The name is unique among the runners of all pools, 1 to 63
	// characters of a-z, 0-9 and '-', beginning with a letter.
	//
	// The context ends after Options.BootTimeout and when the pool closes. Boot then destroys what it has made and returns
	// soon; until it has returned the runner counts against Options.Max. A runner that is up nevertheless may be returned, and
	// is used, or stopped when the pool has closed.
	//
	// The kind of the error decides what follows: [fault.Invalid], [fault.Denied], [fault.Unauthenticated] and
	// [fault.Unsupported] say that the configuration is wrong. They end the wait of all callers, and no boot is tried again until
	// somebody calls or a runner leaves the pool. All others are tried again by the pool, with a growing pause.
	Boot(ctx context.Context, name string) (Runner, error)
}

// Runner is something that work can be placed on. It is safe for concurrent use. Its methods, but for Stop, return at once: the pool
// waits for them.
type Runner interface {
	// ID names the runner in logs and errors.
	ID() string
	// Done is closed when the runner can do no work any more, whoever ended it. It always returns the same channel.
	Done() <-chan struct{}
	// Err says why Done is closed, and nil before.
	Err() error
	// Stop ends the runner: it is told to take no more work, has until the end of the context to finish what it
	// has, and is then destroyed. The end of the context cuts off the work, not the cleaning up: that has a limit of its own. Nil says
	// that nothing of the runner is left. After an error Stop is called again, and it is also called for a runner that is
	// lost.
	Stop(ctx context.Context) error
}

// Failing is a [Runner] that can know that it is lost before it knows why.
type Failing interface {
	// Failing is closed at once when the runner is lost. It gets no more work from then on. Done follows, when Err says
	// why. It always returns the same channel.
	Failing() <-chan struct{}
}

// Mortal is a [Runner] that ends by itself at a time that is known in advance. The pool replaces it before.
type Mortal interface {
	// Ends returns when the runner ends, whatever it does then. The zero time is never.
	Ends() time.Time
}
