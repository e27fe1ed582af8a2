package flyapi

import (
	"errors"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// The bounds of restarts.
const (
	restartWindow = 5 * time.Minute // in which max_retries are counted
	firstBackoff  = 250 * time.Millisecond
	lastBackoff   = 30 * time.Second
)

// move commits what follows from a step, unless the machine has moved on meanwhile.
func (s *Service) move(e *entry, from *record, op string, edit func(*record) error) error {
	_, err := s.change(s.life, e, op, func(r *record) error {
		if r.State != from.State || r.Launch != from.Launch || r.Ended != from.Ended {
			return errUnchanged
		}
		return edit(r)
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	return err
}

// recordRunning records that the launch runs.
func (s *Service) recordRunning(e *entry, from *record) error {
	seen, _ := e.sight()
	return s.move(e, from, "started", func(r *record) error {
		s.begun(r, seen)
		return nil
	})
}

// begun makes the record one of a launch that runs.
func (s *Service) begun(r *record, seen *machine.Machine) {
	if seen != nil {
		r.Provider = seen.ID
		if seen.Image != "" {
			r.Image = seen.Image
		}
	}
	r.State, r.Resume, r.NotBefore = started, false, time.Time{}
	s.happened(r, "start", started, byHost, nil)
}

// recordRefusal records that the provider will not have the launch. A machine that has never run is destroyed for that.
// Another has failed, or is stopped if there was merely no room for it.
func (s *Service) recordRefusal(e *entry, from *record, why error) error {
	e.mu.Lock()
	e.refused[from.Launch] = why
	e.mu.Unlock()
	s.log.Info("a machine was refused by its provider", "machine", from.ID, "error", why)
	ask := &eventAsk{Error: describePlacing(why).text}
	return s.move(e, from, "refused", func(r *record) error {
		if r.State == created {
			r.State = launchFailed
			s.happened(r, "launch", launchFailed, byHost, ask)
			return nil
		}
		r.forget()
		r.State = failed
		if errors.Is(why, fault.Exhausted) {
			r.State = stopped
		}
		s.happened(r, "start", failed, byHost, ask)
		return nil
	})
}

// recordExit records how the launch ended and decides what follows. What is left of it is removed afterwards, so that its
// exit is never lost with it.
func (s *Service) recordExit(e *entry, from *record) error {
	seen, _ := e.sight()
	c := e.config()
	return s.move(e, from, "exit", func(r *record) error {
		if r.State == created || r.State == starting {
			if seen.Exit == nil || seen.Exit.Code >= 0 || seen.Exit.Signal != "" {
				s.begun(r, seen) // it has run, and was quicker than we
			}
		}
		if seen.ID != "" {
			r.Provider = seen.ID
		}
		now := s.Now()
		exit := exitOf(seen.Exit, r.Requested, now)
		if r.After == "" {
			r.After = s.afterExit(r, c, seen.Exit, now)
		}
		if r.After == thenStop && c.AutoDestroy {
			r.After = thenDestroy
		}
		exit.Restarting = r.After == thenLaunch
		ask := &eventAsk{ExitEvent: exit, RestartCount: r.Count}
		switch {
		case r.State == replacing:
		case exit.Restarting:
			r.State = restarting
		default:
			r.State = stopping
		}
		r.Ended = true
		s.happened(r, "exit", stopped, byHost, ask)
		return nil
	})
}

// afterExit decides what follows an end that nobody asked for, and counts restarts.
func (s *Service) afterExit(r *record, c *config, exit *machine.Exit, now time.Time) string {
	if c.Restart.Policy == restartNo || c.Restart.Policy == restartOnFailure && exit.OK() {
		return thenStop
	}
	horizon := now.Add(-restartWindow).UnixMilli()
	lately := r.Restarts[:0]
	for _, at := range r.Restarts {
		if at > horizon {
			lately = append(lately, at)
		}
	}
	r.Restarts = lately
	if len(lately) == 0 {
		r.Count = 0
	}
	if c.Restart.Policy == restartOnFailure && len(lately) >= c.Restart.MaxRetries {
		return thenStop
	}
	if r.Restarts = append(r.Restarts, now.UnixMilli()); len(r.Restarts) > 1000 {
		r.Restarts = r.Restarts[1:]
	}
	r.Count++
	return thenLaunch
}

// recordOver records what follows an end, once nothing is left of the launch.
func (s *Service) recordOver(e *entry, from *record) error {
	return s.move(e, from, "ended", func(r *record) error {
		switch r.After {
		case thenLaunch:
			if r.Requested { // by a restart or an update
				r.Restarts, r.Count = nil, 0
				r.launch(time.Time{})
				s.happened(r, "start", starting, byUser, nil)
				return nil
			}
			backoff := min(firstBackoff<<min(r.Count-1, 10), lastBackoff)
			r.launch(s.Now().Add(backoff))
			s.happened(r, "restart", starting, byHost, &eventAsk{RestartCount: r.Count})
		case thenDestroy:
			s.gone(r)
			s.happened(r, "destroy", destroyed, byHost, nil)
		default:
			r.forget()
			r.Restarts, r.Count = nil, 0
			r.State = stopped
		}
		return nil
	})
}

// recordDestroyed records that nothing is left of a machine that was to be destroyed.
func (s *Service) recordDestroyed(e *entry, from *record) error {
	return s.move(e, from, "destroyed", func(r *record) error {
		s.gone(r)
		s.happened(r, "destroy", destroyed, byHost, nil)
		return nil
	})
}

// gone makes the record one of a destroyed machine.
func (s *Service) gone(r *record) {
	r.forget()
	r.State, r.Lease, r.NextRun = destroyed, nil, time.Time{}
	r.Destroyed = s.Now().UTC()
}
