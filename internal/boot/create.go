package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/link"
	"github.com/dayfly-run/dayfly/machine"
)

// Boot makes a machine that runs this program and returns it when it has dialed home. The name, that of a machine, must not have been
// used before. Boot gives up when ctx ends; what it has made is then destroyed, for which it waits a little.
//
// The error tells what the machine printed and how it ended. fault.Invalid, fault.Unsupported and fault.Denied: no runner of
// this pool will ever boot, as it is configured. fault.Exhausted: there is no room now. fault.Canceled: ctx was canceled.
// fault.Unavailable: whatever else, also that the machine did not dial home in time.
func (b *Booter) Boot(ctx context.Context, name string) (*Runner, error) {
	r, err := b.begin(name)
	if err != nil {
		return nil, err
	}
	defer b.boots.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(b.closing, func() { cancel(fault.Say(fault.Canceled, "The pool %s is closed.", b.pool)) })
	defer stop()
	err = r.boot(ctx)
	if err == nil {
		err = b.complete(r)
	}
	if err != nil {
		if r.guest != nil {
			r.guest.Cancel(err)
			if l, _ := r.guest.Wait(ctx); l != nil { // it came in the last moment
				l.Lose(err)
			}
		}
		r.fail(ctx)
		return nil, fmt.Errorf("boot: runner %s: %w", name, err)
	}
	b.work.Go(r.attend)
	return r, nil
}

// boot makes the machine and waits until it has dialed home.
func (r *Runner) boot(ctx context.Context) error {
	home, err := r.booter.reach(ctx)
	if err == nil {
		r.guest, err = home.Expect(r.name)
	}
	if err != nil {
		r.absent()
		return err
	}
	invitation := home.invite(r.guest)
	spec, err := r.booter.spec(ctx, r.name, invitation.Encode())
	if err != nil {
		r.absent()
		return err
	}
	r.memoryMB = spec.Size.MemoryMB
	m, err := r.create(ctx, spec)
	if err != nil {
		return err
	}
	r.see(m)
	if r.booter.options.Lent { // it was waited for, which may take long, and is up
		r.began = time.Now()
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, arriveTimeout)
		defer cancel()
	}
	r.link, err = r.arrive(ctx, &invitation)
	return err
}

// arriveTimeout is how long a machine that is lent may take to dial.
const arriveTimeout = 30 * time.Second

// arrive waits until the machine has dialed home.
func (r *Runner) arrive(ctx context.Context, invitation *link.Invitation) (*link.Link, error) {
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan struct{})
	go func() {
		select {
		case <-r.exited:
			stop()
		case <-waiting.Done():
		}
		close(ended)
	}()
	l, err := r.guest.Wait(waiting)
	stop()
	<-ended
	switch {
	case err == nil:
		return l, nil
	case isClosed(r.exited) && !isMismatch(err):
		return nil, r.exitedEarly(ctx, invitation)
	case ctx.Err() != nil:
		return nil, r.late(ctx, invitation)
	}
	return nil, err
}

func isMismatch(err error) bool {
	_, mismatch := errors.AsType[*link.Mismatch](err)
	return mismatch
}

const (
	firstPause   = 50 * time.Millisecond
	longestPause = 2 * time.Second
	// unheardTimeout is how long a provider that does not answer is asked for one and the same machine.
	unheardTimeout = 30 * time.Second
	// askTimeout is how long the provider is asked about a machine whose caller has gone, or waits.
	askTimeout = 5 * time.Second
)

// create makes the machine. As long as nobody knows whether it exists the same is asked again; a provider returns what exists.
func (r *Runner) create(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
	level := slog.LevelWarn // once; how it goes on is told at the end
	var why error           // what the provider said before the time was up
	for wait := firstPause; ; wait = min(2*wait, longestPause) {
		m, err := r.booter.provider.Create(ctx, spec)
		switch fault.Of(err).General() {
		case "":
			return m, nil
		case fault.Invalid, fault.Unsupported, fault.Denied, fault.Unauthenticated, fault.Exhausted, fault.Conflict:
			r.absent() // a definite answer: there is none
			return nil, err
		}
		if ctx.Err() != nil {
			if why != nil && errors.Is(err, ctx.Err()) {
				err = why // this time it was only told to stop
			}
			return nil, gaveUp(ctx, err)
		}
		why = err
		if silent := r.booter.options.Unheard; silent != nil && silent() >= unheardTimeout {
			return nil, fmt.Errorf("given up after %v without any answer: %w", silent().Round(time.Second), err)
		}
		if r.booter.options.Lent { // who waits for a machine that is lent asks again himself, and this is his last word
			return nil, err
		}
		r.booter.log.Log(ctx, level, "nobody knows whether the machine of a runner was made; it is asked for again", "runner", r.name, "error", err)
		level = slog.LevelDebug
		if pauseFor(ctx, wait/2+rand.N(wait/2)); ctx.Err() != nil {
			return nil, gaveUp(ctx, err)
		}
	}
}

// pauseFor waits, unless ctx ends.
func pauseFor(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// gaveUp is the error of a boot whose context has ended while the provider did not make the machine.
func gaveUp(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("the machine was not made in time: %w: %w", fault.Unavailable, err)
	}
	return canceled(ctx)
}

// canceled is the error of what was given up by its caller.
func canceled(ctx context.Context) error {
	return fmt.Errorf("%w: %w", fault.Canceled, context.Cause(ctx))
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
