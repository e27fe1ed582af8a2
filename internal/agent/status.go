package agent

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/internal/wire"
)

// status is what an attempt tells of itself in its heartbeats. It is safe for concurrent use.
type status struct {
	news chan struct{} // holds one when there is progress to tell

	mu       sync.Mutex // guards what follows
	phase    wire.Phase
	progress *wire.Progress
	told     bool        // the server has been told of progress
	seen     fileVersion // of the progress file, when it was last read
}

func newStatus() *status { return &status{phase: wire.Fetching, news: make(chan struct{}, 1)} }

func (s *status) enter(phase wire.Phase) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase = phase
}

// poll reads the progress file if it has changed.
func (s *status) poll(f *files) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if version, ok := f.progressVersion(); ok && version != s.seen {
		s.seen = version
		s.set(f.readProgress(false))
	}
}

// settle reads the progress file for the last time and returns what the command said last.
func (s *status) settle(f *files) *wire.Progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(f.readProgress(true))
	return s.progress
}

// set takes over progress, unless it is nil or nothing new. The caller holds mu.
func (s *status) set(progress *wire.Progress) {
	if progress == nil || s.progress != nil && *s.progress == *progress {
		return
	}
	s.progress, s.told = progress, false
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// heartbeat returns the next heartbeat to send, without progress that the server knows.
func (s *status) heartbeat(wait time.Duration) *wire.Heartbeat {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &wire.Heartbeat{Phase: s.phase, WaitMS: wait.Milliseconds()}
	if !s.told {
		b.Progress = s.progress
		s.told = true
	}
	return b
}

// failed takes back that the server knows what a heartbeat said.
func (s *status) failed(b *wire.Heartbeat) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.Progress != nil {
		s.told = false
	}
}

const (
	// firstBeat is how long an attempt goes on before its first heartbeat: the claim was a sign of life, and a job that
	// is over sooner needs no other.
	firstBeat = time.Second
	// tellEvery is how often progress is told at most.
	tellEvery = time.Second
	// maxWait is how long the protocol lets a server hold a heartbeat.
	maxWait = 30 * time.Second
)

// beat sends heartbeats until ctx ends. Each waits at the server until the next one is due, so an order
// arrives at once.
func (a *attempt) beat(ctx context.Context) {
	every := milliseconds(a.job.HeartbeatMS, wire.DefaultHeartbeat*time.Millisecond)
	if !pause(ctx, min(firstBeat, every)) {
		return
	}
	a.background.Go(func() { a.tell(ctx) })
	for {
		began := time.Now()
		wait := min(time.Duration((0.8+0.4*rand.Float64())*float64(every)), maxWait) // apart from those of other agents
		if err := a.sendBeat(ctx, a.line.do, wait); err != nil && ctx.Err() == nil {
			a.log.Warn("the server refused a heartbeat", "error", err)
		}
		// A server that does not hold the request is not asked more often for it.
		if !pause(ctx, wait-time.Since(began)) {
			return
		}
	}
}

// tell sends progress soon after it was made, beside the heartbeat that waits.
func (a *attempt) tell(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.status.news:
		}
		// If this fails, the next heartbeat brings it.
		_ = a.sendBeat(ctx, a.line.try, 0)
		if !pause(ctx, tellEvery) {
			return
		}
	}
}

// sendBeat sends one heartbeat by the given way of calling, and obeys the order it may be answered with.
func (a *attempt) sendBeat(ctx context.Context, by func(context.Context, call) error, wait time.Duration) error {
	return by(ctx, func(ctx context.Context, to Address) error {
		b := a.status.heartbeat(wait)
		answer, err := a.line.link.Beat(ctx, to, b)
		if err != nil {
			a.status.failed(b)
			return err
		}
		if answer.Order == wire.OrderStop {
			a.halt(&orderToStop{reason: stopReason(answer.Reason)}) // only the first order counts
		}
		return nil
	})
}

// stopReason returns the outcome that an order asks for. An order without one that this agent knows is a cancel.
func stopReason(reason wire.Outcome) wire.Outcome {
	if reason == wire.TimedOut {
		return wire.TimedOut
	}
	return wire.Canceled
}
