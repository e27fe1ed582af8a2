package engine

import (
	"context"
	"sync"
	"time"
)

// signal wakes one loop. Setting it while it is set does nothing: the loop looks at everything each time.
type signal chan struct{}

func newSignal() signal { return make(signal, 1) }

func (s signal) set() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// notifier tells watchers of a job, or of a machine of the ledger, that something has happened to it. What nobody watches
// costs nothing.
type notifier struct {
	mu      sync.Mutex
	watched map[string]*watched // by id of the job or name of the machine; guarded by mu
}

// watched is what somebody watches.
type watched struct {
	watchers int
	changed  chan struct{} // closed at the next notify
}

// watch begins to watch. changed returns a channel that is closed at the next notify. stop must be called, and may
// be again; changed must not be called afterwards.
func (n *notifier) watch(id string) (changed func() <-chan struct{}, stop func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	w := n.watched[id]
	if w == nil {
		if n.watched == nil {
			n.watched = map[string]*watched{}
		}
		w = &watched{changed: make(chan struct{})}
		n.watched[id] = w
	}
	w.watchers++
	changed = func() <-chan struct{} {
		n.mu.Lock()
		defer n.mu.Unlock()
		return w.changed
	}
	stop = sync.OnceFunc(func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if w.watchers--; w.watchers == 0 {
			delete(n.watched, id)
		}
	})
	return changed, stop
}

func (n *notifier) notify(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if w := n.watched[id]; w != nil {
		close(w.changed)
		w.changed = make(chan struct{})
	}
}

// batcher gathers items for a moment and hands them on together, so that many small writes become one. What it holds
// may be lost when the process dies, so it takes only what recovery finds out again.
type batcher[T any] struct {
	items chan T
	wait  time.Duration
	flush func(context.Context, []T) error
}

const batchSize = 512

func newBatcher[T any](wait time.Duration, flush func(context.Context, []T) error) *batcher[T] {
	return &batcher[T]{items: make(chan T, batchSize), wait: wait, flush: flush}
}

// add queues an item. When the queue is full it waits, which slows the caller down to what the store can take.
func (b *batcher[T]) add(ctx context.Context, item T) {
	select {
	case b.items <- item:
	case <-ctx.Done():
	}
}

func (b *batcher[T]) run(ctx context.Context) {
	for {
		var batch []T
		select {
		case <-ctx.Done():
			return
		case item := <-b.items:
			batch = append(batch, item)
		}
		pause(ctx, b.wait)
		for len(batch) < batchSize {
			select {
			case item := <-b.items:
				batch = append(batch, item)
				continue
			default:
			}
			break
		}
		// The store refuses only for a while: its disk is full, or it is busy. Nothing else may overtake meanwhile.
		for delay := 50 * time.Millisecond; b.flush(ctx, batch) != nil && ctx.Err() == nil; delay = min(2*delay, 5*time.Second) {
			pause(ctx, delay)
		}
	}
}

// pause waits for the duration or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
