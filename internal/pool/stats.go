package pool

import "time"

// Stats is what a pool was like in one moment.
type Stats struct {
	Up       int // runners that do work or could: Idle and Busy together
	Idle     int // runners of which no slot is taken
	Busy     int // runners of which a slot is taken
	Booting  int // runners that boot
	Stopping int // runners that are lost or being stopped, and are not known to be gone

	InUse  int           // slots taken, those of lost and stopping runners included
	Queued int           // callers in line
	Oldest time.Duration // how long the first of them has waited

	Boots    uint64 // boots that have succeeded
	Failures uint64 // boots that have failed, and runners that were lost before they had any work
	InARow   int    // how many times in a row boots have failed, a burst counted once; 0 when the last succeeded
	// LastError is why the last boot failed, nil when one has succeeded since; NextBoot is in how much time a boot may be
	// tried again because of it, 0 when it may at once.
	LastError error
	NextBoot  time.Duration
}

// Stats returns what the pool is like now. It looks at each runner.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	s := Stats{
		Booting: len(p.boots), Queued: p.line.length, Boots: p.booted, Failures: p.failures,
		InARow: p.trouble.row, LastError: p.trouble.err,
	}
	if p.line.first != nil {
		s.Oldest = now - p.line.first.since
	}
	if p.trouble.until > 0 {
		s.NextBoot = max(0, p.trouble.until-now)
	}
	for _, m := range p.members {
		s.InUse += m.busy
		switch {
		case m.state >= failing:
			s.Stopping++
		case m.busy > 0:
			s.Busy++
		default:
			s.Idle++
		}
	}
	s.Up = s.Idle + s.Busy
	return s
}
