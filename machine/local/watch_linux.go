package local

import (
	"context"
	"errors"
	"iter"
	"maps"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// news is what is known of a machine without reading its record.
type news struct {
	machine *machine.Machine // as it was made
	ended   *ending          // it has exited so
	gone    bool             // it has been destroyed
}

// watcher is one consumer of changes.
type watcher struct {
	wake chan struct{} // holds one token while there is something to tell

	mu   sync.Mutex
	news map[string]news // guarded by mu; by machine
}

// tell tells the watchers of a machine.
func (p *Provider) tell(name string, what news) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range p.watchers {
		w.mu.Lock()
		if _, ok := w.news[name]; ok {
			w.news[name] = news{} // Two stories at once may have come in any order; the record knows.
		} else {
			w.news[name] = what
		}
		w.mu.Unlock()
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// look tells the watchers to look at machines.
func (p *Provider) look(names ...string) {
	for _, name := range names {
		p.tell(name, news{})
	}
}

// changed passes on what a supervisor tells.
func (p *Provider) changed(changes []change) {
	for _, c := range changes {
		p.tell(c.Name, news{ended: c.Ended})
	}
}

func (w *watcher) take() map[string]news {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := w.news
	w.news = map[string]news{}
	return taken
}

// relistInterval is how often a watcher looks at everything: a supervisor that another process started a moment ago
// cannot tell of its machines before this one has connected to it.
const relistInterval = 5 * time.Second

// Watch tells of changes as they happen, as [machine.Watcher] says. A consumer that is slower than the changes sees
// the latest state of each machine.
func (p *Provider) Watch(ctx context.Context, owner string) iter.Seq2[*machine.Machine, error] {
	return func(yield func(*machine.Machine, error) bool) {
		w := &watcher{wake: make(chan struct{}, 1), news: map[string]news{}}
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
				for name, what := range w.take() {
					if !seen.hear(ctx, name, what) {
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
		if !present[name] && !s.look(ctx, name) {
			return false
		}
	}
	return true
}

// hear takes in what was told of one machine, and looks if that does not say enough.
func (s *sightings) hear(ctx context.Context, name string, what news) bool {
	known := s.known[name]
	switch {
	case ctx.Err() != nil:
		return false
	case what.machine != nil && what.machine.Owner != s.owner:
		return true
	case what.machine != nil:
		return s.tell(what.machine)
	case what.ended != nil && known != nil && known.State != machine.Exited:
		exited := *known
		exited.State, exited.Exit = machine.Exited, what.ended.Exit
		return s.tell(&exited)
	case what.gone:
		return s.forget(name)
	}
	return s.look(ctx, name)
}

// look reads the record of one machine.
func (s *sightings) look(ctx context.Context, name string) bool {
	m, err := s.provider.Get(ctx, name)
	switch {
	case ctx.Err() != nil:
		return false
	case errors.Is(err, fault.NotFound):
		return s.forget(name)
	case err != nil:
		return s.yield(nil, err)
	case m.Owner != s.owner:
		return true
	}
	return s.tell(m)
}

// forget yields that a machine is gone, if the consumer knows of it.
func (s *sightings) forget(name string) bool {
	known := s.known[name]
	if known == nil {
		return true
	}
	delete(s.known, name)
	gone := *known
	gone.State = machine.Gone
	return s.yield(&gone, nil)
}

// tell yields a machine if its state is news. A machine that was made anew under its name begins again.
func (s *sightings) tell(m *machine.Machine) bool {
	if known := s.known[m.Name]; known != nil {
		if !known.Created.Equal(m.Created) {
			if m.Created.Before(known.Created) {
				return true // An old story.
			}
			if !s.forget(m.Name) {
				return false
			}
		} else if m.State.Rank() <= known.State.Rank() {
			return true
		}
	}
	copied := *m
	s.known[m.Name] = &copied
	yielded := *m
	yielded.Labels = maps.Clone(m.Labels)
	return s.yield(&yielded, nil)
}
