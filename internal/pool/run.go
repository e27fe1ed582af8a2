package pool

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

const never moment = math.MaxInt64

// Run boots Options.Min runners and keeps the pool going until the context ends or Close is called. Then it refuses
// those in line, gives up boots, stops all runners, whose work has Options.ShutdownTimeout to end, and returns when nothing
// is left of any of them: no runner, and no goroutine. The error says which may be left because they could not be stopped. A second Run returns
// an error of kind [fault.Conflict]. After Close it returns at once.
func (p *Pool) Run(ctx context.Context) error {
	p.mu.Lock()
	switch {
	case p.running:
		p.mu.Unlock()
		return fault.Say(fault.Conflict, "pool %s runs already", p.o.Name)
	case p.closed:
		p.mu.Unlock()
		return nil
	}
	p.running = true
	p.mu.Unlock()

	defer close(p.done)
	timer := time.NewTimer(0) // the first look at the clock boots Min
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			p.close()
		case <-p.life.Done():
			return p.drain()
		case <-p.wake:
		case <-timer.C:
		}
		timer.Reset(p.tick())
	}
}

// Close ends the pool as the end of Run's context does, and returns what Run returns. Before Run it makes the pool one that never runs.
func (p *Pool) Close() error {
	if !p.close() {
		return nil
	}
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.leftover...)
}

// close begins to close, and reports whether there is a Run to wait for.
func (p *Pool) close() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return p.running
	}
	p.closed, p.closedAt = true, p.now()
	p.end()
	for w := p.line.first; w != nil; w = p.line.first {
		p.line.remove(w)
		w.refuse(p.refusal(Closed, p.closedAt-w.since))
	}
	for _, m := range slices.Clone(p.members) {
		if m.state != stopping {
			p.stop(m, Closed, nil)
		}
	}
	return p.running
}

func (p *Pool) drain() error {
	p.work.Wait()
	if !p.told.wait(p.o.ShutdownTimeout) {
		p.say(slog.LevelWarn, "a callback of the pool has not returned, and is left behind", "waited", p.o.ShutdownTimeout)
	}
	p.said.wait(p.o.ShutdownTimeout)
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.leftover...)
}

// nudge makes Run look at the clock again.
func (p *Pool) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// tick does what is due, and returns how long nothing else will be.
func (p *Pool) tick() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return time.Hour
	}
	now := p.now()
	if p.trouble.until > 0 && now >= p.trouble.until {
		p.trouble.until = 0
	}
	p.callOverdue(now)
	p.retireOld(now)
	p.stopIdle(now)
	p.settle()
	p.wakeAt = p.due()
	return max(0, p.wakeAt-p.now())
}

// callOverdue counts boots as failed that have not returned in time. They still count against Max.
func (p *Pool) callOverdue(now moment) {
	for b := range p.boots {
		if b.overdue || now < p.overdueAt(b) {
			continue
		}
		b.overdue = true
		p.booting--
		err := fault.Say(fault.Unavailable, "the runner was not up within %v", p.o.BootTimeout)
		p.say(slog.LevelWarn, "a boot takes too long", "runner", b.name, "error", err)
		p.failed(b.series, now, err, false)
		b.series = p.trouble.series // so that it is good news when it is up after all
		p.counted()
		p.endRetirement()
	}
}

// overdueAt returns when a boot is counted as failed though it has not returned. Its time to clean up is in it: what
// the Backend says when it has done so is more than that it took too long.
func (p *Pool) overdueAt(b *boot) moment { return b.began + p.o.BootTimeout + cleaning }

// due returns the moment at which something is to be done if nothing happens before.
func (p *Pool) due() moment {
	at := never
	if p.trouble.until > 0 {
		at = p.trouble.until
	}
	if p.line.length > 0 && !p.hope() && p.o.Patience >= 0 {
		at = min(at, p.line.first.since+p.o.Patience)
	}
	for b := range p.boots {
		if !b.overdue {
			at = min(at, p.overdueAt(b))
		}
	}
	limit := p.idleLimit()
	for _, m := range p.members {
		if m.state == serving && m.busy == 0 && !m.checking && limit >= 0 {
			at = min(at, m.restedAt+limit)
		}
		if m.state == serving && m.retireAt > 0 {
			at = min(at, m.retireAt)
		}
		if m.retireAt > 0 && (m.state == retiring || m.state == retired) {
			at = min(at, m.stopAt)
		}
	}
	return at
}
