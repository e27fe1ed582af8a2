package memmachine

import (
	"slices"
	"sync"
	"time"
)

// Clock is what a [Cloud] lives by.
type Clock interface {
	// Now returns the time.
	Now() time.Time
	// AfterFunc calls f once d has passed, unless stop is called before. It does not call f before it returns.
	AfterFunc(d time.Duration, f func()) (stop func())
}

type realClock struct{}

func (realClock) Now() time.Time { return time.Now() }

func (realClock) AfterFunc(d time.Duration, f func()) func() {
	timer := time.AfterFunc(d, f)
	return func() { timer.Stop() }
}

// ManualClock is a [Clock] that stands still until it is told to advance. It is safe for concurrent use.
type ManualClock struct {
	mu     sync.Mutex // guards what follows
	now    time.Time
	timers []*manualTimer // in the order they were set
}

type manualTimer struct {
	due time.Time
	f   func()
}

var _ Clock = (*ManualClock)(nil)

// NewManualClock returns a clock that shows start.
func NewManualClock(start time.Time) *ManualClock { return &ManualClock{now: start} }

// Now returns the time the clock has been advanced to.
func (c *ManualClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// AfterFunc arranges for a later Advance to call f.
func (c *ManualClock) AfterFunc(d time.Duration, f func()) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	timer := &manualTimer{due: c.now.Add(d), f: f}
	c.timers = append(c.timers, timer)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.timers = slices.DeleteFunc(c.timers, func(t *manualTimer) bool { return t == timer })
	}
}

// Advance moves the clock on by d and calls, in the order they are due and at their own time, the functions that
// became due, including those that such a function sets. It returns when the last of them has returned.
func (c *ManualClock) Advance(d time.Duration) {
	c.mu.Lock()
	end := c.now.Add(d)
	c.mu.Unlock()
	for {
		timer := c.next(end)
		if timer == nil {
			return
		}
		timer.f()
	}
}

// next moves the clock to the earliest timer due by end and takes it, or to end when there is none.
func (c *ManualClock) next(end time.Time) *manualTimer {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := -1
	for i, t := range c.timers {
		if !t.due.After(end) && (first < 0 || t.due.Before(c.timers[first].due)) {
			first = i
		}
	}
	if first < 0 {
		if end.After(c.now) {
			c.now = end
		}
		return nil
	}
	timer := c.timers[first]
	c.timers = slices.Delete(c.timers, first, first+1)
	if timer.due.After(c.now) {
		c.now = timer.due
	}
	return timer
}
