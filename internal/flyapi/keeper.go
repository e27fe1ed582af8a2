package flyapi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/failpoint"
	"github.com/dayfly-run/dayfly/machine"
)

// The times of the keeper.
const (
	callTime   = 2 * time.Minute  // for one call of the provider
	createTime = 15 * time.Minute // for one that may have to fetch an image
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
	glance     = 2 * time.Second // after which a launch that should have moved is looked at
)

// kick has a machine looked at: by the goroutine that is at it already, or by a new one.
func (s *Service) kick(e *entry) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wanted = true
	select {
	case e.wake <- struct{}{}:
	default:
	}
	if !e.working {
		e.working = true
		s.work.Go(func() { s.keep(e) })
	}
}

// keep does for one machine what decide says until there is nothing left to do.
func (s *Service) keep(e *entry) {
	retry := firstRetry
	for s.life.Err() == nil {
		e.mu.Lock()
		e.wanted = false
		e.mu.Unlock()
		select {
		case <-e.wake:
		default:
		}
		r := e.record()
		seen, signaled := e.sight()
		next, moment := decide(r, seen, signaled, s.Now())
		switch next {
		case rest:
			e.mu.Lock()
			if !e.wanted {
				e.working = false
				e.mu.Unlock()
				return
			}
			e.mu.Unlock()
		case wait:
			pause := glance
			if !moment.IsZero() {
				pause = max(0, moment.Sub(s.Now()))
			}
			if s.pause(e, pause) && moment.IsZero() {
				s.glance(e, r)
			}
		default:
			if err := s.carryOut(e, r, next); err != nil {
				if fault.Of(err) != fault.Canceled {
					s.log.Warn("a machine is not where it should be; it will be tried again", "machine", r.ID, "state", r.State, "error", err)
				}
				s.pause(e, retry)
				retry = min(2*retry, lastRetry)
				continue
			}
			retry = firstRetry
		}
	}
	e.mu.Lock()
	e.working = false
	e.mu.Unlock()
}

// pause waits until the machine is kicked or d has passed; it reports the latter.
func (s *Service) pause(e *entry, d time.Duration) (passed bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.life.Done():
	case <-e.wake:
	case <-timer.C:
		return true
	}
	return false
}

// glance looks at a launch of which nothing has been heard.
func (s *Service) glance(e *entry, r *record) {
	if err := s.look(e, r); err != nil && fault.Of(err) != fault.Canceled {
		s.log.Warn("a machine cannot be looked at", "machine", r.ID, "error", err)
	}
}

// carryOut does one step. An error means to try again.
func (s *Service) carryOut(e *entry, r *record, next step) error {
	switch next {
	case place:
		return s.place(e, r)
	case look:
		return s.look(e, r)
	case signal:
		return s.signal(e, r)
	case remove:
		return s.remove(e, r)
	case halt:
		return s.halt(e, r)
	case resume:
		return s.resume(e, r)
	case running:
		return s.recordRunning(e, r)
	case exited:
		return s.recordExit(e, r)
	case over:
		return s.recordOver(e, r)
	case vanished:
		return s.recordDestroyed(e, r)
	}
	return fmt.Errorf("flyapi: step %d: %w", next, fault.Internal)
}

// call makes one call of the provider, which is given up when the machine e, if it is not nil, is wanted ended. Its failpoints are
// flyapi.provider.NAME.before and .after.
func (s *Service) call(e *entry, name string, do func(context.Context) error) error {
	select {
	case s.calling <- struct{}{}:
		defer func() { <-s.calling }()
	case <-s.life.Done():
		return s.life.Err()
	}
	limit := callTime
	if name == "create" {
		limit = createTime
	}
	ctx, cancel := context.WithTimeout(s.life, limit)
	defer cancel()
	if e != nil {
		e.mu.Lock()
		e.abort = cancel
		e.mu.Unlock()
		defer func() {
			e.mu.Lock()
			e.abort = nil
			e.mu.Unlock()
		}()
	}
	if err := failpoint.Hit("flyapi.provider." + name + ".before"); err != nil {
		return err
	}
	if err := do(ctx); err != nil {
		return err
	}
	return failpoint.Hit("flyapi.provider." + name + ".after")
}

// place asks the provider for the launch. A refusal for good ends it; anything else is asked again with the same spec.
func (s *Service) place(e *entry, r *record) error {
	spec, err := s.spec(e.state())
	if err == nil {
		var m *machine.Machine
		err = s.call(e, "create", func(ctx context.Context) (err error) {
			m, err = s.Provider.Create(ctx, spec)
			return err
		})
		if err == nil {
			e.observe(m)
			return nil
		}
	}
	switch fault.Of(err).General() {
	case fault.Invalid, fault.Unsupported, fault.Denied, fault.NotFound, fault.Conflict:
		return s.recordRefusal(e, r, err)
	case fault.Exhausted:
		if r.Count == 0 { // it is no restart of ours: whoever asked for it is told
			return s.recordRefusal(e, r, err)
		}
	}
	return err
}

// look asks the provider what there is of the launch.
func (s *Service) look(e *entry, r *record) error {
	id := s.providerID(e, r)
	var found *machine.Machine
	err := s.call(e, "look", func(ctx context.Context) (err error) {
		if id != "" {
			found, err = s.Provider.Get(ctx, id)
			return err
		}
		list, err := s.Provider.List(ctx, s.owner)
		for _, m := range list {
			if m.Name == r.machineName() {
				found = m
			}
		}
		return err
	})
	if err != nil && !errors.Is(err, fault.NotFound) {
		return err
	}
	if found == nil {
		found = &machine.Machine{ID: id, Name: r.machineName(), State: machine.Gone}
	}
	e.observe(found)
	return nil
}

// providerID returns the provider's id of the launch, or "" when nobody has heard it.
func (s *Service) providerID(e *entry, r *record) string {
	if seen, _ := e.sight(); seen != nil && seen.ID != "" {
		return seen.ID
	}
	return r.Provider
}

// signal sends the launch the signal of stopping. A provider that cannot, or a signal that comes too late, is no
// failure: the end comes at the deadline, or now.
func (s *Service) signal(e *entry, r *record) error {
	err := s.call(e, "signal", func(ctx context.Context) error {
		return machine.Signal(ctx, s.Provider, s.providerID(e, r), r.Signal)
	})
	switch fault.Of(err).General() {
	case "", fault.Conflict, fault.NotFound:
		e.mu.Lock()
		e.signaled = true
		e.mu.Unlock()
		if err != nil {
			s.glance(e, r)
		}
		return nil
	case fault.Unsupported, fault.Invalid:
		return s.remove(e, r)
	}
	return err
}

// remove destroys the launch at the provider.
func (s *Service) remove(e *entry, r *record) error {
	id := s.providerID(e, r)
	err := s.call(e, "destroy", func(ctx context.Context) error { return s.Provider.Destroy(ctx, id) })
	if err != nil {
		return err
	}
	e.observe(&machine.Machine{ID: id, Name: r.machineName(), State: machine.Gone})
	return nil
}

// halt suspends the launch.
func (s *Service) halt(e *entry, r *record) error {
	err := s.call(e, "suspend", func(ctx context.Context) error { return machine.Suspend(ctx, s.Provider, s.providerID(e, r)) })
	switch fault.Of(err).General() {
	case fault.Conflict, fault.NotFound:
		return s.look(e, r) // it has ended
	case fault.Unsupported, fault.Invalid, fault.Denied:
		return s.move(e, r, "suspend", func(r *record) error {
			r.State = started
			s.happened(r, "suspend", failed, byHost, &eventAsk{Error: sentence(err, "the machine cannot be suspended")})
			return nil
		})
	case "":
		return s.move(e, r, "suspended", func(r *record) error {
			r.State = suspended
			s.happened(r, "suspend", suspended, byHost, nil)
			return nil
		})
	}
	return err
}

// resume lets a suspended launch go on.
func (s *Service) resume(e *entry, r *record) error {
	err := s.call(e, "resume", func(ctx context.Context) error { return machine.Resume(ctx, s.Provider, s.providerID(e, r)) })
	switch fault.Of(err).General() {
	case fault.Conflict, fault.NotFound:
		return s.look(e, r)
	case "":
		return s.recordRunning(e, r)
	}
	return err
}
