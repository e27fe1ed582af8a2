package pool

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

// maxTold is how many calls of callbacks may be due at once.
const maxTold = 1000

// callbacks calls functions of the user: one at a time, in order, on a goroutine which exists while there is something to
// call. The pool's lock is held where they are told, and not where they are called.
type callbacks struct {
	report func(level slog.Level, message string, args ...any)

	mu      sync.Mutex
	due     []func()
	left    int  // how many were left out because too many were due
	calling bool // there is a goroutine
	others  int  // goroutines of do
	idle    chan struct{}
}

// tell calls f after all that were told before.
func (c *callbacks) tell(name string, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.due) >= maxTold {
		c.left++
		return
	}
	c.due = append(c.due, func() { c.guard(name, f) })
	if !c.calling {
		c.calling = true
		go c.call()
	}
}

func (c *callbacks) call() {
	for {
		c.mu.Lock()
		due, left := c.due, c.left
		c.due, c.left = nil, 0
		if len(due) == 0 {
			c.calling = false
			c.rested()
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		for _, f := range due {
			f()
		}
		if left > 0 {
			c.say(slog.LevelWarn, "callbacks of the pool take too long: calls were left out", "calls", left)
		}
	}
}

// do calls f at once on a goroutine of its own.
func (c *callbacks) do(name string, f func()) {
	c.mu.Lock()
	c.others++
	c.mu.Unlock()
	go func() {
		c.guard(name, f)
		c.mu.Lock()
		c.others--
		c.rested()
		c.mu.Unlock()
	}()
}

// guard calls f, whose panic is told and goes no further.
func (c *callbacks) guard(name string, f func()) {
	defer func() {
		if v := recover(); v != nil {
			c.say(slog.LevelError, "a callback of the pool panicked", "callback", name, "panic", v, "stack", string(debug.Stack()))
		}
	}()
	f()
}

// say reports what became of the callbacks. A Logger that panics has nobody to be reported to.
func (c *callbacks) say(level slog.Level, message string, args ...any) {
	defer func() { _ = recover() }()
	c.report(level, message, args...)
}

func (c *callbacks) rested() {
	if c.idle != nil && !c.calling && c.others == 0 {
		close(c.idle)
		c.idle = nil
	}
}

// wait returns true when nothing is being called any more, or false after the limit: a function that never returns cannot
// be ended.
func (c *callbacks) wait(limit time.Duration) bool {
	c.mu.Lock()
	if !c.calling && c.others == 0 {
		c.mu.Unlock()
		return true
	}
	idle := make(chan struct{})
	c.idle = idle
	c.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-idle:
		return true
	case <-timer.C:
		return false
	}
}

// say logs, at once but not here: the lock may be held, and a Logger may do anything.
func (p *Pool) say(level slog.Level, message string, args ...any) {
	p.said.tell("Logger", func() { p.sayNow(level, message, args...) })
}

func (p *Pool) sayNow(level slog.Level, message string, args ...any) {
	p.log.Log(context.Background(), level, message, args...)
}

func (p *Pool) tellGrowth(g Growth) {
	if p.o.OnGrow != nil {
		p.told.tell("OnGrow", func() { p.o.OnGrow(g) })
	}
}

func (p *Pool) tellShrinkage(s Shrinkage) {
	if p.o.OnShrink != nil {
		p.told.tell("OnShrink", func() { p.o.OnShrink(s) })
	}
}
