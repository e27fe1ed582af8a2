package dayfly

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/internal/call"
	"github.com/dayfly-run/dayfly/internal/pool"
)

// backend boots runners for a pool's scheduler.
type backend struct{ pool *Pool }

// runner is a booted runner: its machine and the calls on it.
type runner struct {
	*boot.Runner
	pool   *Pool
	client *call.Client

	taken chan struct{} // closed when it is retired

	failing chan struct{} // closed by fail
	failed  sync.Once

	mu      sync.Mutex
	retired bool  // guarded by mu: it takes no more calls
	why     error // guarded by mu
}

// Boot implements pool.Backend.
func (b *backend) Boot(ctx context.Context, name string) (pool.Runner, error) {
	p := b.pool
	booted, err := p.booter.Boot(ctx, name)
	if err != nil {
		return nil, err
	}
	r := &runner{Runner: booted, pool: p, taken: make(chan struct{}), failing: make(chan struct{})}
	r.client, err = call.NewClient(ctx, booted.Link(), call.Settings{
		MaxArgument: p.o.MaxArgument, MaxResult: p.o.MaxResult, Grace: p.o.ShutdownTimeout,
		Level: leastLevel(ctx, p.log), Pool: p.name, Runner: name,
	}, &call.ClientOptions{
		Log:      r.log,
		Lost:     r.lost,
		Stuck:    r.stuck,
		Patience: max(0, p.o.Stuck),
		Leaving: func() {
			r.retire(fault.Say(fault.Unavailable, "the runner %s was told to end by somebody else than its pool", name))
		},
	})
	if err != nil {
		return nil, errors.Join(err, booted.Stop(ctx))
	}
	go func() { _ = r.client.Serve() }() // why it ended is told by Err
	booted.Tell(r.fail, func() { r.retire(booted.Err()) })
	return r, nil
}

// Done implements pool.Runner: it is closed when the runner can take no more calls. Some may still be under way.
func (r *runner) Done() <-chan struct{} { return r.taken }

// Err implements pool.Runner.
func (r *runner) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.why
}

// Failing implements pool.Failing: no call is given to a runner that is lost while it is being found out why.
func (r *runner) Failing() <-chan struct{} { return r.failing }

// fail notes that the runner is lost.
func (r *runner) fail() { r.failed.Do(func() { close(r.failing) }) }

// retire makes the pool give the runner no more calls, and stop it: those on it have PoolOptions.ShutdownTimeout to end.
func (r *runner) retire(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.retired {
		r.retired, r.why = true, why
		close(r.taken)
	}
}

// lost returns why calls under way are lost, when their link has ended. Their slots are free afterwards, and nobody must be
// given one of a runner that is gone.
func (r *runner) lost(err error) error {
	if why := r.Why(); why != nil {
		err = why
	}
	r.retire(err) // before a call can be refused because of it, which would be given to the same runner once more
	return err
}

// stuck is told of a call whose function does not end.
func (r *runner) stuck(request *call.Request) {
	request.Slot.(*pool.Slot).Abandon(fault.Say(fault.Unavailable, "the function %s has not ended for %v after its context, so the runner %s is replaced", request.Function, r.pool.o.Stuck, r.ID()))
}

// lastMoment is how long functions have to return when their contexts have ended because their runner stops.
const lastMoment = time.Second

// Stop implements pool.Runner: the work has the context's time to end, then the machine is destroyed.
func (r *runner) Stop(ctx context.Context) error {
	if err := r.client.Drain(ctx); err != nil && ctx.Err() != nil {
		timer := time.NewTimer(lastMoment)
		defer timer.Stop()
		select {
		case <-r.client.Ended():
		case <-timer.C:
		}
	}
	if err := r.Runner.Stop(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("runner %s: %w", r.ID(), err)
	}
	return nil
}

// log passes on what the runner logged or printed.
func (r *runner) log(record call.Record) {
	if record.Dropped > 0 {
		r.pool.log.Warn("records of a runner were left out, because there were more than could be sent", "runner", r.ID(), "records", record.Dropped)
	}
	if record.Source == call.Counted {
		return
	}
	ctx := context.Background()
	if !r.pool.log.Enabled(ctx, record.Level) {
		return
	}
	out := slog.NewRecord(record.Time, record.Level, record.Message, 0)
	out.AddAttrs(slog.String("runner", r.ID()))
	if record.Function != "" {
		out.AddAttrs(slog.String("function", record.Function), slog.Uint64("call", record.Call))
	}
	switch record.Source {
	case call.Printed:
		out.AddAttrs(slog.String("stream", "stdout"))
	case call.Errors:
		out.AddAttrs(slog.String("stream", "stderr"))
	}
	out.AddAttrs(apart(record.Attrs)...)
	_ = r.pool.log.Handler().Handle(ctx, out) // a logger that fails has nobody to tell
}

// inner is the group for what a record says under a name that its runner's pool uses. A runner may have pools of its own, whose
// records name another pool and runner; a handler would write two of each, and JSON takes one for the other.
const inner = "inner"

// apart puts the attributes of a record that have names of the pool's, and what was put apart before, into a group.
func apart(attrs []slog.Attr) []slog.Attr {
	taken := func(a slog.Attr) bool {
		switch a.Key {
		case "pool", "runner", "function", "call", "stream", inner:
			return true
		}
		return false
	}
	if !slices.ContainsFunc(attrs, taken) {
		return attrs
	}
	var own, group []slog.Attr
	for _, a := range attrs {
		if taken(a) {
			group = append(group, a)
		} else {
			own = append(own, a)
		}
	}
	return append(own, slog.Attr{Key: inner, Value: slog.GroupValue(group...)})
}

// leastLevel returns the least level that the logger takes, as a runner is told it.
func leastLevel(ctx context.Context, log *slog.Logger) int {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if log.Enabled(ctx, level) {
			return int(level)
		}
	}
	return math.MaxInt16
}
