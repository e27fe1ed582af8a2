package boot

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/link"
	"github.com/dayfly-run/dayfly/machine"
)

// Runner is a machine that runs this program, and the link to it. It is safe for concurrent use.
type Runner struct {
	booter   *Booter
	name     string
	guest    *link.Guest // set while Boot goes on
	link     *link.Link  // set before Boot returns
	up       bool        // guarded by the booter's mu: Boot has returned it
	began    time.Time
	memoryMB int // that it may use; 0: nobody has said

	exited chan struct{} // closed when the machine has exited, or is gone
	over   chan struct{} // closed when the link is over or the machine has exited
	done   chan struct{} // closed when err is set

	mu      sync.Mutex
	machine *machine.Machine // guarded by mu; as it was last seen, nil before it was
	noTrace bool             // guarded by mu; there certainly is no machine, and will be none
	stopped bool             // guarded by mu; Stop was called
	err     error            // guarded by mu

	tellOver, tellDone func() // guarded by mu; see Tell

	destroying sync.Mutex // held while the machine is destroyed
}

// ID returns the runner's name, which is also its machine's.
func (r *Runner) ID() string { return r.name }

// Link returns the link to the runner. Who serves it closes it in order, or leaves that to Stop.
func (r *Runner) Link() *link.Link { return r.link }

// Machine returns the machine as it was last seen. It is the caller's own.
func (r *Runner) Machine() *machine.Machine {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := *r.machine
	return &seen
}

// Ends returns when the machine reaches its end date, by the clock of this process. One that is lent was made before, and its provider
// knows how long it still has.
func (r *Runner) Ends() time.Time {
	left := r.booter.options.Spec.Lifetime
	if m := r.Machine(); r.booter.options.Lent && !m.Created.IsZero() && !m.Expires.IsZero() {
		left = max(0, min(left, m.Expires.Sub(m.Created)))
	}
	return r.began.Add(left)
}

// Done is closed when the link is over or the machine has ended, and it is known, or cannot be known soon, why.
func (r *Runner) Done() <-chan struct{} { return r.done }

// Err returns why Done is closed, and nil before: a *[Lost], or why the link was closed in order.
func (r *Runner) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Why waits until Done is closed, for which it is enough that the link is over, and returns Err.
func (r *Runner) Why() error {
	<-r.done
	return r.Err()
}

const (
	// leaveTimeout is how long a runner whose link was closed in order may take to end by itself.
	leaveTimeout = time.Second
	// destroyTimeout is for how long a machine is tried to be destroyed before it is said that it cannot be.
	destroyTimeout = 30 * time.Second
)

// Stop closes the link in order, if it is not over, gives the runner a moment to end by itself, and destroys its machine. What
// the runner has to finish, it has to be given the time for before. nil says that the machine is gone. It may be repeated.
// The end of ctx cuts the moment short, and not the destroying, which has a limit of its own; then, and when the provider
// refuses, the error is the last that it gave.
func (r *Runner) Stop(ctx context.Context) error {
	r.mu.Lock()
	r.stopped = true
	r.mu.Unlock()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		r.link.Close(nil)
	}()
	over := r.exited
	if r.booter.options.Lent {
		over = closed // it goes on, without this parent
	}
	leave, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	select {
	case <-over:
	case <-leave.Done():
	}
	err := r.destroy(context.WithoutCancel(ctx))
	if !isClosed(closed) {
		r.link.Lose(fault.Say(fault.Unavailable, "the runner did not end in time, and its machine was destroyed"))
	}
	<-closed
	return err
}

// destroy destroys the machine until it is gone.
func (r *Runner) destroy(ctx context.Context) error {
	r.destroying.Lock()
	defer r.destroying.Unlock()
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
	defer cancel()
	var err error
	for wait := firstPause; ; wait = min(2*wait, longestPause) {
		if err = r.destroyOnce(ctx); err == nil {
			r.gone()
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("boot: the machine of runner %s is not gone: %w", r.name, err)
		}
	}
}

// destroyLast is destroy when nobody tries again afterwards. Who has called Stop has waited its time already, and a pool whose provider
// is away shall not take twice as long to close; so the provider is asked once more, in case it is back.
func (r *Runner) destroyLast() error {
	r.mu.Lock()
	stopped := r.stopped
	r.mu.Unlock()
	limit := destroyTimeout
	if stopped {
		limit = askTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return r.destroy(ctx)
}

// destroyOnce asks the provider to destroy the machine. One whose id is not known, because its create was never answered,
// is looked for by its name.
func (r *Runner) destroyOnce(ctx context.Context) error {
	r.mu.Lock()
	m, noTrace := r.machine, r.noTrace
	r.mu.Unlock()
	switch {
	case noTrace:
		return nil
	case m != nil:
		return r.booter.provider.Destroy(ctx, m.ID)
	}
	list, err := r.booter.provider.List(ctx, r.booter.owner)
	if err != nil {
		return err
	}
	for _, m := range list {
		if m.Name == r.name {
			if err := r.booter.provider.Destroy(ctx, m.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// absent notes that there is no machine.
func (r *Runner) absent() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noTrace = r.machine == nil
}

// gone is called when the machine is.
func (r *Runner) gone() {
	r.mu.Lock()
	if !isClosed(r.exited) {
		close(r.exited)
	}
	r.mu.Unlock()
	r.booter.forget(r)
}

// see is called with the machine whenever its provider tells of it.
func (r *Runner) see(m *machine.Machine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.machine != nil && r.machine.State.Rank() >= m.State.Rank() {
		return
	}
	seen := *m
	if r.machine != nil && seen.Exit == nil {
		seen.Exit = r.machine.Exit
	}
	r.machine = &seen
	if seen.State.Rank() >= machine.Exited.Rank() && !isClosed(r.exited) {
		close(r.exited)
	}
}

// exit returns how the machine has ended, as far as it is known.
func (r *Runner) exit() *machine.Exit {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.machine == nil {
		return nil
	}
	return r.machine.Exit
}

// fail destroys the machine of a boot that has failed. Nobody waits longer for it than a moment; then it goes on by itself.
func (r *Runner) fail(ctx context.Context) {
	over := make(chan struct{})
	r.booter.work.Go(func() {
		defer close(over)
		for {
			err := r.destroy(r.booter.life)
			if err == nil || r.booter.life.Err() != nil {
				return
			}
			r.booter.log.Warn("the machine of a runner that did not boot cannot be destroyed yet", "machine", r.name, "error", err)
		}
	})
	moment, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	select {
	case <-over:
	case <-moment.Done():
	}
}

const (
	// foundOutWithin is how long it may take to find out why a link was lost: a provider that can tell does so in
	// milliseconds.
	foundOutWithin = 300 * time.Millisecond
	// askedWithin is the same for a provider that has to be asked.
	askedWithin = 3 * time.Second
)

// attend waits for the end of the runner, says why it has ended, and ends the half that is left of it.
func (r *Runner) attend() {
	for over := false; !over; {
		select {
		case <-r.link.Cuts():
			// Its computer may be out of reach, or it may have ended; if the provider knows, nobody has to wait for a silence.
			r.booter.work.Go(func() { r.ask(r.booter.life) })
		case <-r.exited:
			over = true
		case <-r.link.Done():
			over = true
		}
	}
	r.announce(r.over, &r.tellOver)
	end, _ := errors.AsType[*link.End](r.link.Err())
	if end == nil {
		// The last it said may be on its way still, and among it that it leaves in order.
		select {
		case <-r.link.Done():
			end, _ = errors.AsType[*link.End](r.link.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	if end != nil && end.Lost {
		r.findOut()
	}
	err := r.reason(end)
	r.link.Lose(err) // nothing, if it is over
	r.mu.Lock()
	r.err = err
	r.mu.Unlock()
	r.announce(r.done, &r.tellDone)
}

// announce closes over or done, and calls who asked to be told of it.
func (r *Runner) announce(point chan struct{}, tell *func()) {
	r.mu.Lock()
	close(point)
	told := *tell
	r.mu.Unlock()
	if told != nil {
		told()
	}
}

// Tell has over called at once when the link is over or the machine has ended, and done when Done is closed, which follows when it
// is known why. That is on a goroutine which waits for this anyway: one more for each of a thousand runners would be some mebibytes
// of stacks. Both return at once. It is called once.
func (r *Runner) Tell(over, done func()) {
	r.mu.Lock()
	r.tellOver, r.tellDone = over, done
	isOver, isDone := isClosed(r.over), isClosed(r.done)
	r.mu.Unlock()
	if isOver {
		over()
	}
	if isDone {
		done()
	}
}

// findOut waits until the provider has told how the machine ended whose link was lost, or asks.
func (r *Runner) findOut() {
	wait := foundOutWithin
	if _, tells := r.booter.provider.(machine.Watcher); !tells {
		wait = askedWithin
		ctx, cancel := context.WithTimeout(r.booter.life, wait)
		defer cancel()
		r.booter.work.Go(func() { r.ask(ctx) })
	}
	if r.booter.options.Lent { // who lends it is told of its end, but nobody is told by him
		ctx, cancel := context.WithTimeout(r.booter.life, wait)
		defer cancel()
		r.booter.work.Go(func() {
			for pause := firstPause / 2; ctx.Err() == nil && !isClosed(r.exited); pause *= 2 {
				r.ask(ctx)
				pauseFor(ctx, pause)
			}
		})
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-r.exited:
	case <-timer.C:
	}
}

// ask asks the provider how the machine is.
func (r *Runner) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r.mu.Lock()
	id := r.machine.ID
	r.mu.Unlock()
	m, err := r.booter.provider.Get(ctx, id)
	switch {
	case err == nil:
		r.see(m)
	case errors.Is(err, fault.NotFound):
		r.see(&machine.Machine{ID: id, Name: r.name, State: machine.Gone})
	}
}
