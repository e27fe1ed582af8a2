package pool

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// cleaning is how long after the last work has ended a closing pool tries to make sure that nothing is left.
const cleaning = 10 * time.Second

// leave takes a member out of service for good.
func (p *Pool) leave(m *member, reason Reason, err error) {
	if m.state == serving {
		p.serving--
		p.inUse -= m.busy
	}
	if m.state == failing && !m.used {
		p.doubtful--
	}
	m.state = stopping
	p.trouble.again = true
	p.shelf.take(m)
	p.counted()
	if err != nil {
		p.say(slog.LevelWarn, "a runner leaves the pool", "runner", m.name, "reason", reason, "error", err)
	} else {
		p.say(slog.LevelInfo, "a runner leaves the pool", "runner", m.name, "reason", reason)
	}
	p.tellShrinkage(Shrinkage{Runner: m.name, Reason: reason, Err: err, Count: p.up()})
}

// stop takes a member out of service and stops its runner, whatever work it has.
func (p *Pool) stop(m *member, reason Reason, err error) {
	p.leave(m, reason, err)
	p.work.Go(func() { p.destroy(m) })
}

// watch waits for a runner to be gone.
func (p *Pool) watch(m *member) {
	select {
	case <-m.gone:
		return
	case <-m.failing:
		p.mu.Lock()
		p.fail(m)
		if !p.closed {
			p.settle()
		}
		p.mu.Unlock()
	case <-m.done:
	}
	select {
	case <-m.gone:
	case <-m.done:
		p.mu.Lock()
		defer p.mu.Unlock()
		p.lost(m)
		if !p.closed {
			p.settle()
		}
	}
}

// fail takes a runner out of service that is lost, before it is known why. What it has is not for the pool to end.
func (p *Pool) fail(m *member) {
	if m.state >= failing {
		return
	}
	if m.state == serving {
		p.serving--
		p.inUse -= m.busy
	}
	if !m.used {
		p.doubtful++
	}
	m.state = failing
	p.trouble.again = true
	p.shelf.take(m)
	p.counted()
}

// lost takes a runner out of service that has gone by itself. It is stopped nevertheless, so that nothing is left of it. One that
// went soon, and before it had any work, counts as one more boot that failed; otherwise runners that cannot stay up
// would be booted without a pause for ever.
func (p *Pool) lost(m *member) {
	if m.state == stopping {
		return
	}
	err := m.runner.Err()
	if err == nil {
		err = fault.Say(fault.Unavailable, "runner %s is gone", m.runner.ID())
	}
	if now := p.now(); !m.used && now-m.upAt < longestPause {
		p.trouble.row = max(p.trouble.row, m.row)
		p.failed(p.trouble.series, now, fmt.Errorf("the runner was lost before it had any work: %w", err), false)
	}
	p.stop(m, Lost, err)
}

// destroy stops a runner, again and again until nothing of it is left.
func (p *Pool) destroy(m *member) {
	ctx, cancel := context.WithTimeout(context.Background(), p.o.ShutdownTimeout)
	defer cancel()
	for n := 1; ; n++ {
		err := m.runner.Stop(ctx)
		if err == nil {
			p.gone(m, nil)
			return
		}
		p.say(slog.LevelWarn, "a runner could not be stopped", "runner", m.name, "error", err)
		if !p.stopAgain(pause(n), err) {
			p.gone(m, err)
			return
		}
	}
}

// stopAgain waits, and reports whether stopping is to be tried again.
func (p *Pool) stopAgain(after time.Duration, err error) bool {
	p.mu.Lock()
	p.stuck = err
	closed, deadline := p.closed, p.closedAt+p.o.ShutdownTimeout+cleaning
	p.mu.Unlock()
	if !closed {
		pauseFor(after, p.life.Done())
		return true
	}
	after = min(after, firstPause)
	if p.now()+after > deadline {
		return false
	}
	pauseFor(after, nil)
	return true
}

func pauseFor(d time.Duration, until <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-until:
	}
}

// gone forgets a member whose runner has been stopped, or given up with an error.
func (p *Pool) gone(m *member, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(m.gone)
	if err == nil {
		p.stuck = nil
	} else {
		p.leftover = append(p.leftover, fmt.Errorf("runner %s may be left: %w", m.runner.ID(), err))
	}
	p.members = slices.DeleteFunc(p.members, func(other *member) bool { return other == m })
	p.counted()
	if !p.closed {
		p.settle()
	}
}
