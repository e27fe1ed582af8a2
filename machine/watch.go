package machine

import (
	"context"
	"iter"
	"time"
)

// Watcher is an optional interface of a [Provider] that can tell of changes as they happen. Use [Watch], which falls
// back to polling.
type Watcher interface {
	// Watch yields a machine of the owner each time its state changes, beginning with every machine there is now,
	// until ctx ends or the consumer stops. A machine that is gone is yielded once with state Gone. An error is
	// yielded with a nil machine and does not end the sequence unless ctx has ended.
	// States in between may be skipped.
	Watch(ctx context.Context, owner string) iter.Seq2[*Machine, error]
}

// Watch, for an interval above 0, yields changes of the owner's machines as [Watcher] describes. For a provider that is no Watcher it lists
// every interval and yields the differences, so that callers have one way to follow machines.
//
// A polled machine counts as gone when two lists in a row do not hold it: a list may lag behind the truth.
func Watch(ctx context.Context, p Provider, owner string, interval time.Duration) iter.Seq2[*Machine, error] {
	if w, ok := p.(Watcher); ok {
		return w.Watch(ctx, owner)
	}
	return func(yield func(*Machine, error) bool) {
		type seen struct {
			machine Machine
			missed  int
		}
		known := map[string]*seen{}
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			list, err := p.List(ctx, owner)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				if !yield(nil, err) {
					return
				}
			} else {
				present := make(map[string]bool, len(list))
				for _, m := range list {
					present[m.ID] = true
					k := known[m.ID]
					if k != nil && k.machine.State == m.State {
						k.missed = 0
						continue
					}
					known[m.ID] = &seen{machine: *m} // a copy: what is yielded is the consumer's
					if !yield(m, nil) {
						return
					}
				}
				for id, k := range known {
					if present[id] {
						continue
					}
					if k.missed++; k.missed < 2 {
						continue
					}
					delete(known, id)
					gone := k.machine
					gone.State = Gone
					if !yield(&gone, nil) {
						return
					}
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
		}
	}
}
