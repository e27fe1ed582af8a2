package memmachine

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/machine"
)

// What is a kind of effect.
type What string

// The effects.
const (
	Created   What = "created"   // a machine came into being
	Started   What = "started"   // its guest was started
	Ended     What = "ended"     // it exited, by itself or at its end date
	Destroyed What = "destroyed" // Destroy or Close removed it
	Vanished  What = "vanished"  // Vanish removed it
)

// Effect is one thing that really happened to a machine, whatever any caller was told.
type Effect struct {
	Time  time.Time
	What  What
	ID    string
	Name  string
	Owner string
}

// maxLog bounds the log of effects: enough for every test, and not a leak in a benchmark of a million machines.
const maxLog = 1 << 16

// Calls returns how many calls of the method there have been, refused ones included. Specs that Create refuses as
// invalid never reach the cloud.
func (c *Cloud) Calls(method Method) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[method]
}

// Log returns what has happened, oldest first: the last 65,536 effects at least.
func (c *Cloud) Log() []Effect {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.log)
}

// changed records that something happened to a machine and wakes the watchers. c.mu is held.
func (c *Cloud) changed(i *instance, what What) {
	if len(c.log) >= 2*maxLog {
		c.log = slices.Clone(c.log[maxLog:])
	}
	m := &i.machine
	c.log = append(c.log, Effect{Time: c.clock.Now().UTC(), What: what, ID: m.ID, Name: m.Name, Owner: m.Owner})
	for w := range c.watchers {
		w.note(i)
	}
}

// watcher is one consumer of changes. It holds the latest state of each machine that changed since it last looked,
// so it is bounded by the number of machines, however slow the consumer.
type watcher struct {
	owner   string
	wake    chan struct{} // holds one token while there is something to drain
	pending map[*instance]*machine.Machine
}

func (w *watcher) note(i *instance) {
	if i.spec.Owner != w.owner {
		return
	}
	w.pending[i] = i.view()
	select {
	case w.wake <- struct{}{}:
	default: // it is awake already
	}
}

func (c *Cloud) watch(owner string) *watcher {
	w := &watcher{owner: owner, wake: make(chan struct{}, 1), pending: map[*instance]*machine.Machine{}}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range c.byID {
		w.note(i)
	}
	c.watchers[w] = struct{}{}
	return w
}

func (c *Cloud) unwatch(w *watcher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.watchers, w)
}

// drain returns the latest state of the machines that changed, oldest machine first.
func (c *Cloud) drain(w *watcher) []*machine.Machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := slices.SortedFunc(maps.Keys(w.pending), func(a, b *instance) int { return cmp.Compare(a.serial, b.serial) })
	machines := make([]*machine.Machine, len(changed))
	for n, i := range changed {
		machines[n] = w.pending[i]
	}
	clear(w.pending)
	return machines
}
