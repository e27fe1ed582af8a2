package fly

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// pace makes calls wait for their turn: each key is a bucket of its own, as each kind of request about each machine is
// at Fly.
type pace struct {
	mu      sync.Mutex
	buckets map[string]*bucket
}

// bucket is full of burst requests at first and is filled up at rate.
type bucket struct {
	rate  float64 // requests per second
	burst float64
	left  float64   // at the time seen; below 0 are those who wait
	seen  time.Time //
	hold  time.Time // nothing is asked before this, because a Retry-After said so
}

// maxBuckets is how many buckets are kept before those that are full again, which is what a new one would be, are dropped.
const maxBuckets = 1024

// wait returns when it is the caller's turn to make a request of this key. When ctx would end before that it returns
// fault.Exhausted at once and takes no turn. A rate of 0 or less is no limit, but a hold counts all the same.
func (p *pace) wait(ctx context.Context, key string, rate, burst float64) error {
	now := time.Now()
	p.mu.Lock()
	b := p.bucket(key, rate, burst, now)
	delay := b.delay(now)
	err := inTime(ctx, now, delay)
	if err == nil {
		b.left--
	}
	p.mu.Unlock()
	for err == nil && delay > 0 {
		if err = pause(ctx, delay); err == nil {
			// Fly may have asked for more patience meanwhile.
			now = time.Now()
			p.mu.Lock()
			delay = b.hold.Sub(now)
			p.mu.Unlock()
			err = inTime(ctx, now, delay)
		}
		if err != nil {
			p.mu.Lock()
			b.left++ // the turn was not used
			p.mu.Unlock()
		}
	}
	return err
}

// inTime returns fault.Exhausted when the context will have ended after the delay.
func inTime(ctx context.Context, now time.Time, delay time.Duration) error {
	if deadline, ok := ctx.Deadline(); ok && delay > 0 && now.Add(delay).After(deadline) {
		return fault.Say(fault.Exhausted, "Fly takes no further request of this kind for another %v; ask again then", delay.Round(time.Millisecond))
	}
	return nil
}

// pause waits, and returns early with fault.Canceled when ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return canceled(ctx)
	}
}

// holdFor lets no request of this key be made for a while.
func (p *pace) holdFor(key string, rate, burst float64, d time.Duration) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.bucket(key, rate, burst, now)
	if until := now.Add(d); until.After(b.hold) {
		b.hold = until
	}
	// Fly's bucket is empty, whatever was believed of it: after the hold they come one by one.
	b.left = min(b.left, 1)
}

// bucket returns the bucket of a key, filled up to now. p.mu is held.
func (p *pace) bucket(key string, rate, burst float64, now time.Time) *bucket {
	b := p.buckets[key]
	if b == nil {
		if p.buckets == nil {
			p.buckets = make(map[string]*bucket)
		}
		p.prune(now)
		b = &bucket{rate: rate, burst: burst, left: burst, seen: now}
		p.buckets[key] = b
	}
	b.fill(now)
	return b
}

// prune drops buckets that are full. p.mu is held.
func (p *pace) prune(now time.Time) {
	if len(p.buckets) < maxBuckets {
		return
	}
	for key, b := range p.buckets {
		b.fill(now)
		if b.left >= b.burst && !b.hold.After(now) {
			delete(p.buckets, key)
		}
	}
}

func (b *bucket) fill(now time.Time) {
	if b.rate > 0 {
		b.left = min(b.burst, b.left+now.Sub(b.seen).Seconds()*b.rate)
	} else {
		b.left = b.burst
	}
	b.seen = now
}

// delay returns how long the next caller has to wait.
func (b *bucket) delay(now time.Time) time.Duration {
	held := b.hold.Sub(now)
	if b.rate <= 0 || b.left >= 1 {
		return max(held, 0)
	}
	// Those who wait already have their turns before, and during a hold nobody's turn comes.
	turn := time.Duration((1 - b.left) / b.rate * float64(time.Second))
	return max(held, 0) + turn
}

// canceled is the error of a call whose context has ended.
func canceled(ctx context.Context) error {
	return fmt.Errorf("fly: %w: %w", fault.Canceled, context.Cause(ctx))
}
