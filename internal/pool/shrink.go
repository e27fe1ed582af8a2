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

// rest is called when a member has become idle.
func (p *Pool) rest(m *member) {
	m.restedAt = p.now()
	if limit := p.idleLimit(); limit >= 0 && m.restedAt+limit < p.wakeAt {
		p.nudge()
	}
}

// idleLimit returns how long a runner may be idle as things are: longer when the pool has only those it is to keep. Negative is
// for ever.
func (p *Pool) idleLimit() time.Duration {
	if p.serving+p.booting > p.floor {
		return p.o.Idle
	}
	return p.o.MinIdle
}

// stopIdle stops what has been idle for its time, those first that became idle first.
func (p *Pool) stopIdle(now moment) {
	idle := slices.DeleteFunc(slices.Clone(p.members), func(m *member) bool {
		return m.state != serving || m.busy > 0 || m.checking
	})
	slices.SortStableFunc(idle, func(a, b *member) int { return int(a.restedAt - b.restedAt) })
	for _, m := range idle {
		switch {
		case !p.isIdleTooLong(m, now):
		case p.o.IdleCheck == nil:
			p.stopIdleMember(m)
		default:
			m.checking = true
			p.told.do("IdleCheck", func() {
				yes := true
				defer func() { p.idleChecked(m, yes) }()
				yes = p.o.IdleCheck()
			})
		}
	}
}

// isIdleTooLong reports whether the member is to be stopped. One that would be booted again for Options.Prewarm is kept for
// as long again.
func (p *Pool) isIdleTooLong(m *member, now moment) bool {
	limit := p.idleLimit()
	if m.state != serving || m.busy > 0 || limit < 0 || now-m.restedAt < limit {
		return false
	}
	if p.prewarmWants(p.serving - 1 + p.booting) {
		m.restedAt = now
		return false
	}
	return true
}

// idleChecked is called with the answer of IdleCheck. Meanwhile the member may have been given work, or been lost.
func (p *Pool) idleChecked(m *member, yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.checking = false
	now := p.now()
	switch {
	case !p.isIdleTooLong(m, now):
	case yes:
		p.stopIdleMember(m)
	default:
		m.restedAt = now
	}
	p.nudge()
}

func (p *Pool) stopIdleMember(m *member) {
	p.floor = min(p.floor, p.serving+p.booting-1)
	p.stop(m, Idled, nil)
}

// leave takes a member out of service for good.
func (p *Pool) leave(m *member, reason Reason, err error) {
	if m.state == serving {
		p.serving--
		p.inUse -= m.busy
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
	case <-m.done:
		p.mu.Lock()
		defer p.mu.Unlock()
		p.lost(m)
		if !p.closed {
			p.settle()
		}
	}
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

// mortality notes when a member ends by itself.
func (p *Pool) mortality(m *member, now moment) {
	mortal, ok := m.runner.(Mortal)
	if !ok || mortal.Ends().IsZero() {
		return
	}
	left := max(0, time.Until(mortal.Ends()))
	lead := p.o.Retire
	if lead == 0 {
		lead = min(DefaultRetire, left/4)
	}
	m.retireAt = max(1, now+left-lead)
	m.stopAt = max(m.retireAt, now+left-min(p.o.ShutdownTimeout, lead/2))
}

// retireOld looks after those that end by themselves before long. They serve on while their replacement boots, as far as there is room
// for one, and then do what they have.
func (p *Pool) retireOld(now moment) {
	for _, m := range slices.Clone(p.members) {
		if m.retireAt == 0 || now < m.retireAt || m.state == stopping {
			continue
		}
		if m.state == serving {
			p.retire(m)
		}
		if m.state != stopping && now >= m.stopAt {
			p.stop(m, Retired, nil)
		}
	}
}

func (p *Pool) retire(m *member) {
	p.serving--
	p.inUse -= m.busy
	m.state = retiring
	p.trouble.again = true
	p.say(slog.LevelInfo, "a runner retires because it ends soon by itself", "runner", m.name)
	if m.place >= 0 {
		p.shelf.put(m)
	}
	p.counted()
	p.grow()
	if m.busy > 0 && p.booting == 0 && p.mayBoot() {
		p.boot()
	}
	if p.booting == 0 {
		p.retireWholly(m)
	}
}

// retireWholly is called when nothing is to be waited for any more that would replace the member.
func (p *Pool) retireWholly(m *member) {
	m.state = retired
	p.shelf.take(m)
	if m.busy == 0 {
		p.stop(m, Retired, nil)
	}
}

// endRetirement is called when a boot has ended: who served on because of it gets no more work.
func (p *Pool) endRetirement() {
	for _, m := range slices.Clone(p.members) {
		if m.state == retiring {
			p.retireWholly(m)
		}
	}
}
