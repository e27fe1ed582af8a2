package pool

import (
	"slices"
	"time"
)

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
				yes = p.o.IdleCheck(m.name)
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
