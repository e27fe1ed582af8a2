package call

import (
	"context"
	"encoding/binary"
	"math"
	"sync"
	"time"
)

// progressPause is how often progress is sent. What is reported in between is sent when it has passed, and only the last of it.
const progressPause = 50 * time.Millisecond

// maxProgress is how long the text of a report may be, in bytes.
const maxProgress = 1 << 10

// progress is what an execution has reported.
type progress struct {
	sending sync.Mutex // held while a report is taken and sent, so that none overtakes another

	mu      sync.Mutex
	last    time.Time // when it was sent
	waiting *report   // what was not sent yet
	timer   *time.Timer
	stopped bool
}

// Progress tells the caller how far the work is. It does not wait for the caller, and may be called as often as one likes.
func (x *Execution) Progress(fraction float64, text string) {
	p := &x.progress
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	p.waiting = &report{fraction, clip(text, maxProgress)}
	if p.timer != nil {
		return
	}
	// The first is sent at once too, but by another goroutine: sending may wait for the link, and work must not.
	p.timer = time.AfterFunc(max(0, progressPause-time.Since(p.last)), func() {
		p.sending.Lock()
		defer p.sending.Unlock()
		p.mu.Lock()
		p.timer = nil
		now := p.take()
		p.mu.Unlock()
		x.sendProgress(now)
	})
}

// take returns what waits to be sent, or nil; the lock is held.
func (p *progress) take() *report {
	now := p.waiting
	if p.stopped {
		now = nil
	}
	p.waiting, p.last = nil, time.Now()
	return now
}

func (x *Execution) sendProgress(now *report) {
	if now == nil {
		return
	}
	head := header(make([]byte, 0, 64), kindProgress, x.id)
	head = binary.AppendUvarint(head, math.Float64bits(now.fraction))
	_ = x.server.link.Send(context.Background(), append(head, now.text...)) // or the link is over
}

// stopProgress sends what waits, and nothing afterwards.
func (x *Execution) stopProgress() {
	p := &x.progress
	p.sending.Lock()
	defer p.sending.Unlock()
	p.mu.Lock()
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	var last *report
	if p.waiting != nil {
		last = p.take()
	}
	p.stopped = true
	p.mu.Unlock()
	x.sendProgress(last)
}
