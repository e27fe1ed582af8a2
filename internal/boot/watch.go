package boot

import (
	"context"
	"time"

	"github.com/dayfly-run/dayfly/machine"
)

const (
	// leftFor is how long a machine has to have been seen exited, or to have outlived its lifetime, before it is taken for
	// forgotten by a parent of whom it is not known whether it lives.
	leftFor = time.Minute
	// sweepInterval is how often such machines are looked at again.
	sweepInterval = 15 * time.Second
)

// watch tells the runners how their machines are, and destroys what is left of others', until ctx ends.
func (b *Booter) watch(ctx context.Context) {
	s := &sweeper{booter: b, since: map[string]time.Time{}}
	changes := make(chan *machine.Machine)
	b.work.Go(func() {
		defer close(changes)
		for m, err := range machine.Watch(ctx, b.provider, b.owner, b.options.Poll) {
			if err != nil {
				b.log.Debug("the machines of a pool cannot be watched", "pool", b.pool, "error", err)
				continue
			}
			if r := b.runner(m.Name); r != nil {
				r.see(m)
				continue
			}
			select {
			case changes <- m:
			case <-ctx.Done():
				return
			}
		}
	})
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case m, open := <-changes:
			if !open {
				return
			}
			s.look(ctx, m)
		case <-ticker.C:
			s.again(ctx)
		}
	}
}

// sweeper destroys what dead parents have left. It is used by one goroutine.
type sweeper struct {
	booter *Booter
	since  map[string]time.Time // when a machine was first seen to be left, by its id
}

// look destroys a machine that is no runner's of this process, if nobody else will.
func (s *sweeper) look(ctx context.Context, m *machine.Machine) {
	if m.State == machine.Gone || s.booter.runner(m.Name) != nil {
		delete(s.since, m.ID)
		return
	}
	parent := m.Labels[LabelParent]
	overdue := !m.Expires.IsZero() && time.Since(m.Expires) > leftFor
	exited := m.State == machine.Exited
	dead := certainlyDead(parent)
	switch {
	case parent == s.booter.parent && exited:
		// Of this process, which has forgotten it: a create that was carried out long after it was given up.
	case dead && m.State != machine.Running:
		// A runner that runs may finish something, and then ends by itself.
	case exited || overdue:
		first, seen := s.since[m.ID]
		if !seen {
			s.since[m.ID] = time.Now()
			return
		}
		if time.Since(first) < leftFor {
			return
		}
	default:
		delete(s.since, m.ID)
		return
	}
	if err := s.booter.provider.Destroy(ctx, m.ID); err != nil {
		s.booter.log.Debug("a machine that a dead parent has left cannot be destroyed yet", "machine", m.Name, "error", err)
		return
	}
	s.booter.log.Info("a machine was destroyed that nobody needed any more", "machine", m.Name, "pool", s.booter.pool)
	delete(s.since, m.ID)
}

// again looks at all machines there are.
func (s *sweeper) again(ctx context.Context) {
	list, err := s.booter.provider.List(ctx, s.booter.owner)
	if err != nil {
		return // it is asked again
	}
	there := make(map[string]bool, len(list))
	for _, m := range list {
		there[m.ID] = true
		s.look(ctx, m)
	}
	for id := range s.since {
		if !there[id] {
			delete(s.since, id)
		}
	}
}
