package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"golang.org/x/sys/unix"

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
	birth  birth
	slot   *slot
	group  *process.Group          // the slot's
	stop   context.CancelCauseFunc // ends what runs
	life   context.Context         // ends with stop
	first  *process.Process        // what the machine was started with; nil for an agent, which is no process
	prints *outputs                // what that prints

	suspending sync.Mutex // held while the machine is halted or resumed, and while something is started beside
	suspended  bool       // guarded by suspending
	division   *division  // guarded by suspending; nil: the machine is not divided

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
	if n := len(s.cells) + s.extra; n >= s.MaxMachines {
		return nil, false, fmt.Errorf("local: machine %s: %w: this supervisor has %d machines, which is its limit", spec.Name, fault.Exhausted, n)
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
	if errors.Is(c.err, errElsewhere) {
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
	if err := c.place(); err != nil {
		return c.story(err)
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
	c.unite()
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

// story tells why the machine is not made. What the computer has run out of is fault.Exhausted.
func (c *cell) story(err error) error {
	kind := fault.Unavailable
	for _, scarce := range []error{unix.ENOSPC, unix.EDQUOT, unix.EMFILE, unix.ENFILE, unix.ENOMEM} {
		if errors.Is(err, scarce) {
			kind = fault.Exhausted
		}
	}
	return fmt.Errorf("local: machine %s: %w: %w", c.spec.Name, kind, err)
}
