package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/machine"
)

// cell is one machine, as its supervisor holds it.
//
//	admitted ──> made ──────────────> ended ──> removed
//	    └── not made: err says why        a destroy first stops what runs
type cell struct {
	s    *supervisor
	spec *machine.Spec

	made chan struct{} // closed once it is decided whether there is a machine
	err  error         // set before made is closed: why there is none

	// Set before made is closed, if there is a machine.
	birth birth
	slot  *slot
	group *process.Group          // the slot's
	stop  context.CancelCauseFunc // ends what runs

	ended    chan struct{} // closed once nothing of it runs and its end is on record
	exit     *machine.Exit // set before ended is closed
	unwanted chan struct{} // closed when the machine is to be destroyed
	refuse   func()        // closes unwanted
	removed  chan struct{} // closed once it is destroyed

	removing bool // guarded by the supervisor's mu
}

var (
	errDestroyed = errors.New("the machine is being destroyed")
	errOver      = errors.New("the machine has ended")
	errExpired   = errors.New("the machine has reached the end of its lifetime")
)

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// over reports whether nothing of the machine runs any more, or never did.
func (c *cell) over() bool { return closed(c.ended) }

// settled reports whether there is a machine for certain.
func (c *cell) settled() bool { return closed(c.made) && c.err == nil }

// admit returns the cell of a name. It is new if nobody has asked for the name before; then the caller makes it.
// Requests of one connection are admitted in order, so a destroy that follows a create finds it.
func (s *supervisor) admit(spec *machine.Spec) (c *cell, isNew bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.cells[spec.Name]; c != nil {
		return c, false, nil
	}
	if s.ending {
		return nil, false, fmt.Errorf("local: machine %s: %w: the supervisor is about to end", spec.Name, fault.Unavailable)
	}
	if len(s.cells) >= s.MaxMachines {
		return nil, false, fmt.Errorf("local: machine %s: %w: this supervisor has %d machines, which is its limit", spec.Name, fault.Exhausted, len(s.cells))
	}
	c = &cell{
		s: s, spec: spec,
		made:     make(chan struct{}),
		ended:    make(chan struct{}),
		unwanted: make(chan struct{}),
		removed:  make(chan struct{}),
	}
	c.refuse = sync.OnceFunc(func() { close(c.unwanted) })
	s.cells[spec.Name] = c
	return c, true, nil
}

// create makes a machine, or finds the one that has its name. The cell is what admit returned.
func (s *supervisor) create(r *createRequest, c *cell, isNew bool) (*made, error) {
	for {
		if isNew {
			return c.make(r.Deadline)
		}
		<-c.made
		switch {
		case c.err != nil:
			// Whoever asked first did not succeed; this request stands on its own.
		case closed(c.unwanted):
			select {
			case <-c.removed:
			case <-time.After(r.Deadline - clock()):
			}
		case c.spec.Owner != r.Spec.Owner:
			return nil, taken(r.Spec.Name)
		default:
			return &made{Exists: true}, nil
		}
		if clock() > r.Deadline {
			return nil, late(r.Spec.Name)
		}
		var err error
		if c, isNew, err = s.admit(r.Spec); err != nil {
			return nil, err
		}
	}
}

func taken(name string) error {
	return fmt.Errorf("local: machine %s: %w: the name belongs to a machine of another owner", name, fault.Conflict)
}

func late(name string) error {
	return fmt.Errorf("local: machine %s: %w: the request was not carried out in time, so nothing was started", name, fault.Unavailable)
}

// errElsewhere is why a cell is not made whose machine another supervisor holds.
var errElsewhere = errors.New("another supervisor has the machine")

// make brings the machine into being, unless there is one of its name already. On an error nothing is left of it.
func (c *cell) make(deadline time.Duration) (*made, error) {
	c.err = c.bring(deadline)
	if c.err != nil {
		c.s.mu.Lock()
		delete(c.s.cells, c.spec.Name)
		c.s.mu.Unlock()
	}
	close(c.made)
	if c.err == errElsewhere {
		return &made{Exists: true}, nil
	}
	if c.err != nil {
		return nil, c.err
	}
	answer := &made{Created: c.birth.Created}
	if c.over() {
		answer.Ended = &ending{Exit: c.exit}
	}
	return answer, nil
}

// bring takes a slot, gives it the machine's name, makes the group and starts what runs in it.
//
// The order makes a destroy by another process safe, which condemns the machine, then kills and removes the group,
// and then removes the name. The group exists before the name and the condemnation are looked at for the last time:
// if the machine was not condemned yet, the destroyer finds the group, and once that is removed nothing can be born
// in it.
func (c *cell) bring(deadline time.Duration) (err error) {
	if clock() > deadline {
		return late(c.spec.Name)
	}
	if c.spec.Agent != nil && c.s.Guest == nil {
		return fmt.Errorf("local: machine %s: %w: this supervisor has no agent", c.spec.Name, fault.Unsupported)
	}
	if c.slot, err = c.s.slots.take(); err != nil {
		return c.story(err)
	}
	c.birth = birth{
		Name:       c.spec.Name,
		Owner:      c.spec.Owner,
		Labels:     c.spec.Labels,
		Created:    time.Now().UTC().Round(0),
		Lifetime:   c.spec.Lifetime,
		Clock:      clock(),
		Boot:       c.s.boot,
		Supervisor: c.s.number,
		Slot:       c.slot.number,
	}
	if err := c.slot.publish(c.s.machines, &c.birth); err != nil {
		c.giveBack()
		if errors.Is(err, fs.ErrExist) {
			return c.elsewhere()
		}
		return c.story(err)
	}
	if err := c.begin(deadline); err != nil {
		c.undo()
		return err
	}
	return nil
}

// elsewhere says whose the machine is that has the name already.
func (c *cell) elsewhere() error {
	r, err := c.s.machines.read(c.spec.Name)
	switch {
	case err != nil:
		return c.story(err) // It was just removed; asking again will succeed.
	case r.Owner != c.spec.Owner:
		return taken(c.spec.Name)
	}
	return errElsewhere
}

// begin makes the group and starts what runs in it.
func (c *cell) begin(deadline time.Duration) (err error) {
	if err := c.s.slots.prepare(c.slot, c.spec.Size); err != nil {
		return c.story(err)
	}
	c.group = c.slot.group
	c.group.Measure(c.slot.work, c.slot.tmp)
	if c.s.machines.condemned(c.spec.Name) || !c.slot.named() {
		return c.story(errDestroyed)
	}
	if clock() > deadline {
		return late(c.spec.Name)
	}
	return c.start()
}

// undo removes what bring has made. The name goes last, as in every destroy.
func (c *cell) undo() {
	if c.stop != nil {
		c.stop(errOver)
	}
	c.removeName()
}

// removeName removes the machine's name and gives the slot back, unless somebody else has condemned the machine: then
// he removes the slot as well, at any moment, and it cannot be used again. He looks for the name after condemning,
// and this looks for the condemnation after removing the name, so one of the two sees the other.
func (c *cell) removeName() {
	// Between looking and removing, another machine could get the name; its supervisor would notice that it is gone and
	// end that machine, which is safe.
	if c.slot.holds(c.s.machines, c.spec.Name) {
		if err := c.s.machines.unlink(c.spec.Name); err != nil {
			c.s.log.Error("a machine's name cannot be removed", "machine", c.spec.Name, "err", err)
		}
	}
	if !c.s.machines.condemned(c.spec.Name) {
		c.giveBack()
	} else if err := c.s.slots.giveUp(c.slot); err != nil {
		c.s.log.Error("a machine's directories cannot be removed", "machine", c.spec.Name, "err", err)
	}
}

func (c *cell) giveBack() {
	if err := c.s.slots.give(c.slot); err != nil {
		c.s.log.Error("a machine's directories cannot be removed", "machine", c.spec.Name, "err", err)
	}
}

func (c *cell) story(err error) error {
	return fmt.Errorf("local: machine %s: %w: %w", c.spec.Name, fault.Unavailable, err)
}

// start starts what runs in the machine. A program that cannot be run is a machine that has ended, not an error.
func (c *cell) start() error {
	ctx, stop := context.WithCancelCause(context.Background())
	c.stop = stop
	if c.spec.Agent != nil {
		var exit machine.Exit
		done := make(chan struct{})
		guest := &Cell{
			Spec: c.spec, WorkDir: c.slot.work, ScratchDir: c.slot.scratch,
			Group: c.group, Home: c.s.currentHome, Env: c.environment(),
		}
		c.s.work.Go(func() {
			defer close(done)
			exit = c.s.Guest(ctx, guest)
		})
		c.s.work.Go(func() { c.live(ctx, done, func() machine.Exit { return exit }) })
		return nil
	}
	p, err := c.group.Start(&process.Command{Argv: c.spec.Command, Env: c.environment(), Dir: c.slot.work})
	switch {
	case errors.Is(err, fault.NotFound):
		c.stop(errOver)
		return c.finish(machine.Exit{Code: -1, Message: fmt.Sprintf("The command could not be started: %v.", err)})
	case err != nil:
		return err
	}
	c.s.work.Go(func() {
		c.live(ctx, p.Done(), func() machine.Exit { exit, _ := p.Exit(); return exit })
	})
	return nil
}

// environment is the clean minimum with the Spec's own, which wins.
func (c *cell) environment() []string {
	minimum := []string{
		"PATH", c.s.path,
		"HOME", c.slot.work,
		"TMPDIR", c.slot.tmp,
		"LANG", "C.UTF-8",
		"DAYFLY_MACHINE", c.spec.Name,
	}
	env := make([]string, 0, len(minimum)/2+len(c.spec.Env))
	for i := 0; i < len(minimum); i += 2 {
		if _, ok := c.spec.Env[minimum[i]]; !ok {
			env = append(env, minimum[i]+"="+minimum[i+1])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.spec.Env)) {
		env = append(env, name+"="+c.spec.Env[name])
	}
	return env
}

// live waits until what runs in the machine is done, is told to stop or has reached the end of its lifetime, and ends
// what is left of the tree.
func (c *cell) live(ctx context.Context, done <-chan struct{}, exit func() machine.Exit) {
	defer c.stop(errOver)
	expired := c.await(ctx, done)
	if expired {
		c.s.log.Info("machine has expired", "machine", c.spec.Name, "lifetime", c.spec.Lifetime)
		c.terminate(ctx, done)
		c.stop(errExpired)
	}
	c.endTree(done)
	e := exit()
	if expired {
		e.Expired = true
		e.Message = fmt.Sprintf("It was stopped at the end of its lifetime of %v.", c.spec.Lifetime)
	} else if cause := context.Cause(ctx); cause != nil && e.Message == "" {
		e.Message = fmt.Sprintf("It was stopped: %v.", cause)
	}
	if err := c.finish(e); err != nil {
		c.s.log.Error("a machine's end is not on record", "machine", c.spec.Name, "err", err)
	}
}

// await reports whether the lifetime has passed. Go's timers stand still while the computer is suspended, so the
// clock that does not is looked at from time to time.
func (c *cell) await(ctx context.Context, done <-chan struct{}) (expired bool) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		left := c.birth.expires() - clock()
		if left <= 0 {
			return !closed(done)
		}
		timer.Reset(min(left, 30*time.Second))
		select {
		case <-done:
			return false
		case <-ctx.Done():
			return false
		case <-timer.C:
		}
	}
}

// terminate asks the tree to end and gives it its grace.
func (c *cell) terminate(ctx context.Context, done <-chan struct{}) {
	if err := c.group.Signal(syscall.SIGTERM); err != nil {
		c.s.log.Warn("SIGTERM did not reach every process", "machine", c.spec.Name, "err", err)
	}
	grace := time.NewTimer(c.s.Grace)
	defer grace.Stop()
	select {
	case <-done:
	case <-ctx.Done():
	case <-grace.C:
	}
}

// endTree returns when nothing of the machine is left: what ran in it is done, and no descendant lives. It does not
// give up, because a machine that is not certainly gone must not be said to be.
func (c *cell) endTree(done <-chan struct{}) {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		over := closed(done)
		empty, err := c.group.Empty()
		if err == nil && empty && over {
			return
		}
		c.stop(errOver) // A guest must not start anything now.
		if err == nil && !empty {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			err = c.group.Kill(ctx)
			cancel()
		}
		if err != nil {
			c.s.log.Error("a machine cannot be ended", "machine", c.spec.Name, "err", err)
		}
		if closed(done) {
			continue
		}
		select {
		case <-done:
		case <-time.After(wait):
		}
	}
}

// finish puts the end on record and tells everybody. While the disk is full it tries again: until it is there, other
// processes take the machine for running.
func (c *cell) finish(exit machine.Exit) (err error) {
	c.exit = &exit
	end := &ending{Of: c.birth.Clock, Exit: &exit}
	for {
		if err = c.slot.end(end); err == nil || !c.slot.named() {
			err = nil
			break
		}
		c.s.log.Error("a machine's end cannot be recorded yet", "machine", c.spec.Name, "err", err)
		select {
		case <-c.unwanted:
		case <-time.After(time.Second):
			continue
		}
		break
	}
	close(c.ended)
	c.s.changed(change{Name: c.spec.Name, Ended: end}, nil)
	return err
}

// destroyTimeout is how long a destroy waits for a machine to end before it says that it has not. The provider, or its
// caller, asks again.
const destroyTimeout = 20 * time.Second

// destroy ends a machine and removes every trace of it. The cell is what the supervisor holds under the name, or nil.
// fault.NotFound: this supervisor has no such machine.
func (s *supervisor) destroy(name string, c *cell) error {
	if c != nil {
		<-c.made
	}
	if c == nil || c.err != nil {
		return fmt.Errorf("local: machine %s: %w: this supervisor does not have it", name, fault.NotFound)
	}
	c.refuse()
	c.stop(errDestroyed)
	timeout := time.NewTimer(destroyTimeout)
	defer timeout.Stop()
	select {
	case <-c.ended:
	case <-timeout.C:
		return c.story(errors.New("it does not end"))
	}
	s.mu.Lock()
	first := !c.removing
	c.removing = true
	s.mu.Unlock()
	if !first {
		<-c.removed
		return nil
	}
	c.removeName()
	s.mu.Lock()
	delete(s.cells, name)
	s.mu.Unlock()
	close(c.removed)
	return nil
}
