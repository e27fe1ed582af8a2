package local

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// watcher is one consumer of changes.
type watcher struct {
	wake chan struct{} // holds one token while there is something to look at

	mu    sync.Mutex
	names map[string]bool // guarded by mu; machines to look at
}

// changed tells the watchers to look at machines.
func (p *Provider) changed(names []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range p.watchers {
		w.mu.Lock()
		for _, name := range names {
			w.names[name] = true
		}
		w.mu.Unlock()
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

func (w *watcher) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	names := make([]string, 0, len(w.names))
	for name := range w.names {
		names = append(names, name)
	}
	clear(w.names)
	return names
}

// relistInterval is how often a watcher looks at everything: a supervisor that another process started a moment ago
// cannot tell of its machines before this one has connected to it.
const relistInterval = 2 * time.Second

// Watch tells of changes as they happen, as [machine.Watcher] says. A consumer that is slower than the changes sees
// the latest state of each machine.
func (p *Provider) Watch(ctx context.Context, owner string) iter.Seq2[*machine.Machine, error] {
	return func(yield func(*machine.Machine, error) bool) {
		w := &watcher{wake: make(chan struct{}, 1), names: map[string]bool{}}
		p.mu.Lock()
		p.watchers[w] = true
		p.mu.Unlock()
		defer func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.watchers, w)
		}()
		seen := &sightings{provider: p, owner: owner, known: map[string]*machine.Machine{}, yield: yield}
		relist := time.NewTicker(relistInterval)
		defer relist.Stop()
		if !seen.all(ctx) {
			return
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-relist.C:
				if !seen.all(ctx) {
					return
				}
			case <-w.wake:
				for _, name := range w.take() {
					if !seen.one(ctx, name) {
						return
					}
				}
			}
		}
	}
}

// sightings is what a watcher has told its consumer. Its methods return false when the consumer, or ctx, is done.
type sightings struct {
	provider *Provider
	owner    string
	known    map[string]*machine.Machine
	yield    func(*machine.Machine, error) bool
}

// all looks at every machine.
func (s *sightings) all(ctx context.Context) bool {
	s.provider.connectSoon()
	list, err := s.provider.List(ctx, s.owner)
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		return s.yield(nil, err)
	}
	present := make(map[string]bool, len(list))
	for _, m := range list {
		present[m.Name] = true
		if !s.tell(m) {
			return false
		}
	}
	for name := range s.known {
		if !present[name] && !s.one(ctx, name) {
			return false
		}
	}
	return true
}

// one looks at one machine.
func (s *sightings) one(ctx context.Context, name string) bool {
	m, err := s.provider.Get(ctx, name)
	switch {
	case ctx.Err() != nil:
		return false
	case errors.Is(err, fault.NotFound):
		known := s.known[name]
		if known == nil {
			return true
		}
		delete(s.known, name)
		gone := *known
		gone.State = machine.Gone
		return s.yield(&gone, nil)
	case err != nil:
		return s.yield(nil, err)
	case m.Owner != s.owner:
		return true
	}
	return s.tell(m)
}

// tell yields a machine if its state is news. A machine that was made anew under its name begins again.
func (s *sightings) tell(m *machine.Machine) bool {
	known := s.known[m.Name]
	if known != nil && known.State == m.State && known.Created.Equal(m.Created) {
		return true
	}
	if known != nil && !known.Created.Equal(m.Created) {
		gone := *known
		gone.State = machine.Gone
		if !s.yield(&gone, nil) {
			return false
		}
	}
	copied := *m
	s.known[m.Name] = &copied
	return s.yield(m, nil)
}
