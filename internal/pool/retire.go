package pool

import (
	"log/slog"
	"slices"
	"time"
)

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
		if m.retireAt == 0 || now < m.retireAt || m.state >= failing {
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

// wear takes a member out of service whose work does not end. It serves on not even while its replacement boots.
func (p *Pool) wear(m *member, why error) {
	if m.worn == nil {
		m.worn = why
	}
	switch m.state {
	case retired, failing, stopping:
		return
	case serving:
		p.serving--
		p.inUse -= m.busy
		p.trouble.again = true
		p.say(slog.LevelWarn, "a runner gets no more work", "runner", m.name, "error", why)
	}
	m.state = retired
	p.shelf.take(m)
	p.counted()
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
