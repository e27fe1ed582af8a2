package dayfly

import (
	"context"
	"errors"
	"sync"
)

// Placed is a function that was placed on a runner by [Function.Place] and occupies a slot there until it ends. It is safe for
// concurrent use.
type Placed[R any] struct {
	runner string
	cancel func()
	done   chan struct{}

	mu     sync.Mutex
	closed bool
	result R
	err    error
}

// Place starts the function on a runner of the pool and returns a handle when it has begun there: a connection to keep, a
// subscription, a server. The context is that of placing it, the wait for a slot included. Afterwards the function
// runs until it returns or the handle is closed, with no limit of time. It also ends when this process does, at once unless it is
// detached, and when the runner is stopped, after PoolOptions.ShutdownTimeout; [Draining] tells it beforehand.
//
// Errors are those of Call.
func (f *Function[A, R]) Place(ctx context.Context, p *Pool, a A) (*Placed[R], error) {
	c, err := f.encode(&a)
	if err != nil {
		return nil, err
	}
	placing, cancel := c.within(ctx)
	defer cancel()
	c.options.Timeout = 0 // it is the limit of placing
	c.tells, c.unlimited = true, true
	k, err := c.start(placing, p)
	if err != nil {
		return nil, err
	}
	if err := c.tell(k.Started(placing)); err != nil {
		k.Cancel() // nobody has a handle
		return nil, err
	}
	placed := &Placed[R]{runner: c.runner, cancel: k.Cancel, done: make(chan struct{})}
	go func() {
		defer close(placed.done)
		var r R
		err := c.guard(func() error {
			err := k.Wait(context.WithoutCancel(ctx))
			if err == nil {
				r, err = f.signature.Result(k)
			}
			if placed.isClosed() && errors.Is(err, context.Canceled) {
				err = nil
			}
			return c.tell(err)
		})
		placed.mu.Lock()
		defer placed.mu.Unlock()
		placed.result, placed.err = r, err
	}()
	return placed, nil
}

// Runner returns the name of the runner on which it was placed.
func (p *Placed[R]) Runner() string { return p.runner }

// Done returns a channel that is closed when the function has ended, or nobody knows any more.
func (p *Placed[R]) Done() <-chan struct{} { return p.done }

// Err returns why the function has ended: nil while it runs, when it returned no error, and when Close has ended it.
func (p *Placed[R]) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Close ends the function's context and does not wait: Done is closed when the function has ended. It may be repeated.
func (p *Placed[R]) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
}

func (p *Placed[R]) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// Wait waits until the function has ended and returns what it returned. When the context ends first, the function goes on.
func (p *Placed[R]) Wait(ctx context.Context) (R, error) {
	select {
	case <-p.done:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.result, p.err
	case <-ctx.Done():
		var none R
		return none, context.Cause(ctx)
	}
}
