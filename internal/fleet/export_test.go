package fleet

import (
	"fmt"
	"slices"
	"time"
)

// Check returns the first of the rules that does not hold for what the service knows.
func (s *Service) Check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.fleets {
		if err := f.check(); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) check() error {
	holders := map[*reservation]string{}
	for name, r := range f.runners {
		has := r.held != nil
		switch {
		case f.service.runners[name] != r:
			return fmt.Errorf("runner %s is not found by its name", name)
		case has != (r.state == lent || r.state == busy):
			return fmt.Errorf("runner %s is %s and has a reservation: %v", name, r.state, has)
		case r.open != nil && r.state != idle:
			return fmt.Errorf("runner %s is %s and waits for an invitation", name, r.state)
		case has && holders[r.held] != "":
			return fmt.Errorf("one reservation has the runners %s and %s", name, holders[r.held])
		case has && r.held.back.IsZero() && r.held.runner != r:
			return fmt.Errorf("runner %s serves a reservation that has another runner", name)
		case has && r.held.back.IsZero() && r.held.kind != r.kind:
			return fmt.Errorf("runner %s serves a reservation of another kind", name)
		}
		if has {
			holders[r.held] = name
		}
	}
	for id, res := range f.reservations {
		inLine := slices.Index(f.line, res)
		switch {
		case res.runner != nil && (res.runner.held != res || res.runner.state == draining):
			return fmt.Errorf("reservation %s has the runner %s, which knows nothing of it", id, res.runner.name)
		case res.runner != nil && inLine >= 0:
			return fmt.Errorf("reservation %s has a runner and waits in line", id)
		case res.runner == nil && !res.over && !res.ending && res.err == nil && inLine < 0:
			return fmt.Errorf("reservation %s neither waits nor is over", id)
		case inLine >= 0 && slices.Contains(f.line[inLine+1:], res):
			return fmt.Errorf("reservation %s waits in line twice", id)
		}
	}
	for _, res := range f.line {
		if f.reservations[res.id] != res {
			return fmt.Errorf("reservation %s waits in line and is not known", res.id)
		}
	}
	return nil
}

// Count returns how many runners of a fleet are in each state.
func (s *Service) Count(tenant, provider, name string) map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := map[string]int{}
	if f := s.fleets[place{tenant, provider, name}]; f != nil {
		for _, r := range f.runners {
			count[string(r.state)]++
		}
	}
	return count
}

// The timers that tests wait for.
const (
	BootTTL   = bootTTL
	TakeTTL   = takeTTL
	ReturnTTL = returnTTL
	PlaceTTL  = placeTTL
)

// Grace is for how long a server that was started does not know who has which runner.
const Grace = restoreTTL + time.Second
