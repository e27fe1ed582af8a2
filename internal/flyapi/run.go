package flyapi

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/flyapi/ledger"
	"github.com/dayfly-run/dayfly/machine"
)

// The times of what goes on beside requests.
const (
	pollEvery  = time.Second      // of a provider that tells of no changes
	sweepEvery = 30 * time.Second //
	tickEvery  = time.Second      // for schedules
	brake      = 10               // machines that nobody knows, destroyed in one sweep
)

// Run follows the provider's machines, starts those whose time has come, and removes what nobody knows, until ctx ends.
// First of all it compares what it remembers with what there is.
func (s *Service) Run(ctx context.Context) error {
	for _, e := range s.all("") {
		if !e.record().settled() {
			s.kick(e)
		}
	}
	var group errgroup.Group
	group.Go(func() error { s.watch(ctx); return nil })
	group.Go(func() error { s.tick(ctx); return nil })
	group.Go(func() error { s.sweeping(ctx); return nil })
	return group.Wait()
}

// watch takes in what the provider tells of machines.
func (s *Service) watch(ctx context.Context) {
	for ctx.Err() == nil {
		for m, err := range machine.Watch(ctx, s.Provider, s.owner, pollEvery) {
			if err != nil {
				if ctx.Err() == nil {
					s.log.Warn("the machines cannot be followed", "error", err)
				}
				continue
			}
			s.take(m)
		}
		until(ctx, nil, pollEvery)
	}
}

// take takes in what is known of one of the provider's machines.
func (s *Service) take(m *machine.Machine) {
	id, ours := launchOf(m.Name)
	e := s.find(id)
	if !ours || e == nil || m.Owner != s.owner {
		return
	}
	if m.State == machine.Gone && m.Exit == nil {
		if r := e.record(); r.machineName() == m.Name && !r.Ended && r.busy() && !s.confirm(m) {
			return
		}
	}
	if e.observe(m) {
		s.kick(e)
	}
}

// confirm asks whether a machine is gone that a list did not hold: a list may lag behind the truth.
func (s *Service) confirm(m *machine.Machine) bool {
	err := s.call(nil, "look", func(ctx context.Context) error {
		_, err := s.Provider.Get(ctx, m.ID)
		return err
	})
	return fault.Of(err) == fault.NotFound
}

// tick does what has a time.
func (s *Service) tick(ctx context.Context) {
	for until(ctx, nil, tickEvery) && ctx.Err() == nil {
		s.runDue()
		s.forget(ctx)
	}
}

// forget drops the rows of machines that were destroyed a while ago, and the oldest of very many.
func (s *Service) forget(ctx context.Context) {
	var gone []*entry
	for _, e := range s.all("") {
		if e.record().State == destroyed {
			gone = append(gone, e)
		}
	}
	slices.SortStableFunc(gone, func(a, b *entry) int { return a.record().Destroyed.Compare(b.record().Destroyed) })
	change := &ledger.Change{}
	var dropped []*entry
	for n, e := range gone {
		r := e.record()
		if len(gone)-n <= s.MaxDestroyed && s.Now().Sub(r.Destroyed) < s.KeepDestroyed || len(dropped) >= 1000 {
			break
		}
		dropped = append(dropped, e)
		change.DropMachines = append(change.DropMachines, r.ID)
	}
	if len(dropped) == 0 {
		return
	}
	if err := s.ledger.Commit(ctx, "forget", change); err != nil {
		s.log.Warn("destroyed machines cannot be forgotten; it will be tried again", "error", err)
		return
	}
	for _, e := range dropped {
		s.drop(e)
	}
}

// sweeping compares what there is with what is remembered, again and again.
func (s *Service) sweeping(ctx context.Context) {
	suspects := map[string]bool{}
	for ctx.Err() == nil {
		var err error
		if suspects, err = s.sweep(ctx, suspects); err != nil && ctx.Err() == nil {
			s.log.Warn("machines that nobody knows cannot be looked for; it will be tried again", "error", err)
		}
		until(ctx, nil, sweepEvery)
	}
}

// sweep lists the provider's machines first and reads what is remembered second, so that a machine made in between is
// no stranger. What no row knows is destroyed when two sweeps in a row have seen it, at most ten at a time: should the
// rows be wrong, because somebody has put an old ledger in place, there is time to notice. Rows whose launch is not there
// are asked about. It returns the suspects for the next sweep.
func (s *Service) sweep(ctx context.Context, suspects map[string]bool) (map[string]bool, error) {
	begun := s.all("")
	list, err := s.Provider.List(ctx, s.owner)
	if err != nil {
		return suspects, err
	}
	next, present := map[string]bool{}, map[string]bool{}
	destroyed := 0
	for _, m := range list {
		present[m.Name] = true
		id, ours := launchOf(m.Name)
		if e := s.find(id); ours && e != nil && e.record().busy() && e.record().machineName() == m.Name {
			s.take(m)
			continue
		}
		if !suspects[m.ID] || destroyed >= brake {
			next[m.ID] = true
			continue
		}
		destroyed++
		s.log.Info("destroying a machine that nobody knows", "machine", m.ID, "name", m.Name)
		if err := s.Provider.Destroy(ctx, m.ID); err != nil {
			next[m.ID] = true
			s.log.Warn("a machine that nobody knows cannot be destroyed; it will be tried again", "machine", m.ID, "error", err)
		}
	}
	for _, e := range begun {
		r := e.record()
		if (r.State == started || r.State == suspended) && !present[r.machineName()] && r.Provider != "" {
			s.take(&machine.Machine{ID: r.Provider, Name: r.machineName(), Owner: s.owner, State: machine.Gone})
		}
	}
	return next, nil
}
