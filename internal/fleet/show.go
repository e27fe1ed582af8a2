package fleet

import (
	"cmp"
	"slices"
	"time"
)

// Status is how a fleet is.
type Status struct {
	Tenant, Provider, Name string
	Min, Max               int            // as those who are heard of have announced it
	Programs               int            // who are heard of
	Runners                map[string]int // by state, see States
	Waiting                int            // who wait for a runner
	PausedUntil            time.Time      // when it boots again after boots that have failed; zero: it may now
	Failure                string         // why the last boot failed that did, since the server was started; "": none did
	FailedAt               time.Time
}

// States are all states that a runner may be in.
func States() []string {
	return []string{string(unheard), string(warming), string(idle), string(lent), string(busy), string(draining)}
}

// Fleets returns how all fleets are, by name.
func (s *Service) Fleets() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Status, 0, len(s.fleets))
	for _, f := range s.fleets {
		all = append(all, f.status(time.Now()))
	}
	slices.SortFunc(all, func(a, b Status) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Tenant, b.Tenant))
	})
	return all
}

func (f *fleet) status(now time.Time) Status {
	status := Status{
		Tenant: f.tenant, Provider: f.provider, Name: f.name, Max: f.max, Programs: len(f.terms), Runners: map[string]int{},
		Waiting: len(f.line), Failure: f.failure, FailedAt: f.failedAt,
	}
	for _, r := range f.runners {
		status.Runners[string(r.state)]++
	}
	for _, k := range f.kinds {
		status.Min += f.min(k)
		if now.Before(k.until) && k.until.After(status.PausedUntil) {
			status.PausedUntil = k.until
		}
	}
	return status
}

// Uses returns what each runner does, by the name of its machine.
func (s *Service) Uses() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	uses := make(map[string]string, len(s.runners))
	for name, r := range s.runners {
		uses[name] = string(r.state)
	}
	return uses
}
