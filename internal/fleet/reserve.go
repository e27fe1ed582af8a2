package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// maxInvitation is how long an invitation may be, in bytes.
const maxInvitation = 16 << 10

// check refuses terms that make no sense.
func (s *Service) check(at place, t *wire.FleetTerms) error {
	if err := s.Hire.HasProvider(at.provider); err != nil {
		return err
	}
	spec := t.Spec
	if spec.Name == "" { // terms that are announced are for machines that have no name yet
		spec.Name = "announced"
	}
	if spec.Owner == "" {
		spec.Owner = "announced"
	}
	switch {
	case !validName(at.name):
		return fault.Say(fault.Invalid, "the name of a fleet must be 1 to 48 characters of a-z, 0-9 and '-', beginning with a letter, and not %.64q", at.name)
	case !validHolder(t.Holder):
		return fault.Say(fault.Invalid, "the holder must be 1 to 64 letters, digits and '-'")
	case t.Build == "" || len(t.Build) > 256:
		return fault.Say(fault.Invalid, "the build of the program must have 1 to 256 characters")
	case t.Max < 1 || t.Max > maxMachine || t.Min < 0 || t.Min > t.Max:
		return fault.Say(fault.Invalid, "max must be between 1 and %d, and min between 0 and max; they are %d and %d", maxMachine, t.Max, t.Min)
	case t.IdleMS < 0 || time.Duration(t.IdleMS) > machine.MaxLifetime/time.Millisecond:
		return fault.Say(fault.Invalid, "runners that are idle cannot be kept for %d ms", t.IdleMS)
	case t.Spec.Agent != nil:
		return fault.Say(fault.Unsupported, "agents are the server's own, so a runner has none")
	}
	var err error
	if spec.Program, err = s.Hire.KeepProgram(t.Spec.Program); err != nil {
		return err
	}
	return spec.Validate()
}

func validName(name string) bool {
	if name == "" || len(name) > 48 || name[0] < 'a' || name[0] > 'z' {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

func validHolder(holder string) bool {
	for _, c := range []byte(holder) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return holder != "" && len(holder) <= 64
}

// enter returns the fleet and the kind that terms are of, which it takes note of. mu is held.
func (s *Service) enter(at place, t *wire.FleetTerms) (*fleet, *kind, string, error) {
	id, spec, invitation, err := kindOf(t)
	if err != nil {
		return nil, nil, "", err
	}
	f := s.fleets[at]
	switch {
	case f == nil && len(s.fleets) >= maxFleets:
		return nil, nil, "", fault.Say(fault.Exhausted, "the server has %d fleets already", maxFleets)
	case f != nil && f.kinds[id] == nil && len(f.kinds) >= maxKinds:
		return nil, nil, "", fault.Say(fault.Exhausted, "the fleet %s has runners of %d kinds already", at.name, maxKinds)
	case f != nil && f.terms[t.Holder] == nil && len(f.terms) >= maxHolders:
		return nil, nil, "", fault.Say(fault.Exhausted, "the fleet %s is shared by %d programs already", at.name, maxHolders)
	}
	f = s.fleet(at)
	s.renew(holder{at.tenant, t.Holder})
	return f, f.announce(t, id, spec), invitation, nil
}

// Announce takes note of what a holder wants a fleet to be, until it says something else or nothing for a lease.
func (s *Service) Announce(tenant, provider, name string, t *wire.FleetTerms) error {
	at := place{tenant, provider, name}
	if err := s.check(at, t); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f, _, _, err := s.enter(at, t)
	if err != nil {
		return err
	}
	f.settle()
	return nil
}

// Reserve implements machine.Provider's Create for a parent. When no runner is free in the time that it may take, it returns a
// *wire.FleetWait instead of a machine, and also when one did not boot.
func (s *Service) Reserve(ctx context.Context, tenant, provider, name string, want *wire.Reserve) (*machine.Machine, *wire.FleetWait, error) {
	at := place{tenant, provider, name}
	if err := s.check(at, &want.FleetTerms); err != nil {
		return nil, nil, err
	}
	if want.Spec.Name == "" || want.Spec.Owner == "" {
		return nil, nil, fault.Say(fault.Invalid, "a reservation has a name and an owner")
	}
	timer := time.NewTimer(time.Duration(max(0, min(want.WaitMS, wire.MaxHold))) * time.Millisecond)
	defer timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	f, k, invitation, err := s.enter(at, &want.FleetTerms)
	if err != nil {
		return nil, nil, err
	}
	res, err := f.reserve(k, want, invitation)
	if err != nil {
		return nil, nil, err
	}
	res.asking++
	f.settle()
	for res.waits() && ctx.Err() == nil {
		changed := res.changed
		s.mu.Unlock()
		timeout := false
		select {
		case <-changed:
		case <-ctx.Done():
		case <-timer.C:
			timeout = true
		}
		s.mu.Lock()
		if timeout {
			break
		}
	}
	res.asking--
	res.asked = time.Now()
	switch {
	case res.err != nil:
		if f.reservations[res.id] == res && ctx.Err() == nil {
			delete(f.reservations, res.id)
		}
		return nil, &wire.FleetWait{ID: res.id, Failed: &wire.Problem{Code: string(fault.Of(res.err)), Detail: sentence(res.err)}}, nil
	case !res.back.IsZero():
		return nil, nil, fault.Say(fault.Canceled, "the reservation %s was given back", res.name)
	case res.waits():
		if ctx.Err() == nil {
			res.told = res.asked
		}
		return nil, &wire.FleetWait{ID: res.id, Why: f.why(res)}, nil
	}
	return res.machine(), nil, nil
}

// waits reports whether nothing has become of the reservation yet.
func (r *reservation) waits() bool {
	return r.given.IsZero() && !r.over && r.err == nil && r.back.IsZero()
}

// reserve returns the reservation that is asked for, which may be in line already, or over.
func (f *fleet) reserve(k *kind, want *wire.Reserve, invitation string) (*reservation, error) {
	if invitation == "" || len(invitation) > maxInvitation || wire.IsFleetHome(invitation) {
		return nil, fault.Say(fault.Invalid, "a reservation has an invitation for its runner, of at most %d bytes", maxInvitation)
	}
	id := reservationID(want.Spec.Name, want.Spec.Owner, want.Holder, invitation)
	if res := f.reservations[id]; res != nil {
		return res, nil
	}
	for _, res := range f.reservations {
		if res.owner == want.Spec.Owner && res.name == want.Spec.Name {
			return nil, fault.Say(fault.Conflict, "the name %s is that of another reservation", res.name)
		}
	}
	now := time.Now()
	switch {
	case len(f.line) >= maxLine:
		return nil, fault.Say(fault.Exhausted, "%d wait for runners of the fleet %s already", maxLine, f.name)
	case k.configuration && now.Before(k.until):
		return nil, fmt.Errorf("fleet %s: %w", f.name, k.err)
	}
	res := &reservation{
		id: id, name: want.Spec.Name, owner: want.Spec.Owner, holder: want.Holder, labels: want.Spec.Labels, kind: k,
		invitation: invitation, asked: now, changed: make(chan struct{}),
	}
	f.reservations[id] = res
	f.line = append(f.line, res)
	return res, nil
}

// reservationID is the same whenever the same is asked for, also of another process of the server, and says whose it is.
func reservationID(name, owner, holder, invitation string) string {
	sum := sha256.Sum256([]byte(invitation))
	return strings.Join([]string{name, owner, holder, hex.EncodeToString(sum[:8])}, ".")
}

// parseReservation returns what an id says of a reservation, or false if it is none.
func parseReservation(id string) (*reservation, bool) {
	parts := strings.Split(id, ".")
	if len(id) > 256 || len(parts) != 4 || !validHolder(parts[2]) {
		return nil, false
	}
	as := machine.Spec{Name: parts[0], Owner: parts[1], Lifetime: 1, Command: []string{"x"}}
	if as.Validate() != nil {
		return nil, false
	}
	return &reservation{id: id, name: parts[0], owner: parts[1], holder: parts[2], changed: make(chan struct{})}, true
}

// machine is the reservation as its parent sees it.
func (r *reservation) machine() *machine.Machine {
	m := &machine.Machine{
		ID: r.id, Name: r.name, Owner: r.owner, Labels: r.labels, State: machine.Creating, Created: r.given, Image: r.image, Location: r.location,
	}
	switch {
	case r.over:
		m.State, m.Exit = machine.Exited, r.ended
	case !r.given.IsZero():
		m.State, m.Expires = machine.Running, r.ends
		if r.runner != nil && r.runner.machine != nil {
			m.Image, m.Location = r.runner.machine.Image, r.runner.machine.Location
		}
	}
	return m
}

// why says why somebody waits.
func (f *fleet) why(res *reservation) string {
	counts := map[state]int{}
	for _, r := range f.runners {
		counts[r.state]++
	}
	k := res.kind
	switch now := time.Now(); {
	case len(f.runners) >= f.max && counts[draining] > 0:
		return fmt.Sprintf("The fleet %s has %d runners, as many as it may, and %d of them are about to go.", f.name, len(f.runners), counts[draining])
	case len(f.runners) >= f.max:
		return fmt.Sprintf("All %d runners of the fleet %s are in use, and it may have no more.", len(f.runners), f.name)
	case counts[warming] > 0:
		return fmt.Sprintf("A runner of the fleet %s boots.", f.name)
	case now.Before(k.until) && k.err != nil:
		return fmt.Sprintf("The fleet %s makes no runners until %s, because the last did not boot. %s", f.name, k.until.UTC().Format(time.TimeOnly), sentence(k.err))
	case f.room() <= 0:
		return fmt.Sprintf("All runners of the fleet %s are in use, and the provider %s has as many machines as the server lets it have; see "+
			"providers.%s.max_machines.", f.name, f.provider, f.provider)
	}
	return fmt.Sprintf("The fleet %s waits for a runner.", f.name)
}

// restoring reports whether it is not known yet who has the runners, because the server was started and has not heard of all.
func (f *fleet) restoring() bool {
	age := time.Since(f.service.started)
	if !f.restored || age > restoreTTL {
		return false
	}
	if age < placeTTL {
		return true // who waits has not said so again
	}
	for _, r := range f.runners {
		if r.state == unheard {
			return true
		}
	}
	return false
}

// restoreTTL is how long a server that was started says that it does not know yet who has which runner.
const restoreTTL = 15 * time.Second

// known returns a fleet, or an error. mu is held.
func (s *Service) known(at place) (*fleet, error) {
	if err := s.Hire.HasProvider(at.provider); err != nil {
		return nil, err
	}
	f := s.fleets[at]
	if f != nil && f.restoring() {
		return f, fault.Say(fault.Unavailable, "the server was started a moment ago, and finds out who has the runners of the fleet %s", at.name)
	}
	return f, nil
}

// List implements machine.Provider for a parent: it returns the reservations of one holder, whose lease it renews.
func (s *Service) List(tenant, provider, name, owner, as string) ([]*machine.Machine, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if validHolder(as) {
		s.renew(holder{tenant, as})
	}
	f, err := s.known(place{tenant, provider, name})
	if err != nil {
		return nil, err
	}
	own := []*machine.Machine{}
	if f == nil {
		return own, nil
	}
	for _, res := range f.reservations {
		if res.owner == owner && res.holder == as && res.err == nil {
			own = append(own, res.machine())
		}
	}
	return own, nil
}

// askTTL is how long a provider is asked about a machine whose parent asks.
const askTTL = 5 * time.Second

// Get implements machine.Provider for a parent. It asks the provider how the machine is.
func (s *Service) Get(ctx context.Context, tenant, provider, name, id string) (*machine.Machine, error) {
	at := place{tenant, provider, name}
	runnerName, m, err := s.get(at, id)
	if err != nil || runnerName == "" {
		return m, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTTL)
	defer cancel()
	seen, err := s.Hire.Look(ctx, provider, runnerName)
	switch {
	case err == nil:
		s.see(seen)
	case errors.Is(err, fault.NotFound) && m.State == machine.Running:
		s.vanished(runnerName)
	default:
		return nil, fault.Say(fault.Unavailable, "it cannot be found out how the machine of a runner is: %s", sentence(err))
	}
	s.awaitEnd(at, id)
	_, m, err = s.get(at, id)
	return m, err
}

// awaitEnd waits until it is known how a reservation has ended, if it just has.
func (s *Service) awaitEnd(at place, id string) {
	s.mu.Lock()
	var changed chan struct{}
	if f := s.fleets[at]; f != nil && f.reservations[id] != nil && f.reservations[id].ending {
		changed = f.reservations[id].changed
	}
	s.mu.Unlock()
	if changed == nil {
		return
	}
	select {
	case <-changed:
	case <-time.After(2 * wordsTTL):
	}
}

// get returns a reservation as it is known, and the name of its runner, if it has one.
func (s *Service) get(at place, id string) (runner string, m *machine.Machine, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.known(at)
	if f != nil {
		if res := f.reservations[id]; res != nil && res.err == nil {
			if res.runner != nil {
				runner = res.runner.name
			}
			return runner, res.machine(), nil
		}
	}
	if err != nil {
		return "", nil, err
	}
	return "", nil, fault.Say(fault.NotFound, "the fleet %s has no reservation %.64q", at.name, id)
}

// vanished notes that the machine of a runner, which was seen before, is not there any more.
func (s *Service) vanished(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.runners[name]
	if r == nil || r.machine == nil {
		return
	}
	gone := *r.machine
	gone.State = machine.Gone
	if r.see(&gone) {
		r.fleet.settle()
	}
}

// Release implements machine.Provider's Destroy for a parent: it gives a runner back, or the place in line. What is over, or was
// never known, is no error.
func (s *Service) Release(tenant, provider, name, id string) error {
	at := place{tenant, provider, name}
	if err := s.Hire.HasProvider(at.provider); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.fleets[at]
	if f == nil {
		return nil
	}
	if res := f.reservations[id]; res != nil {
		f.giveBack(res)
	} else if _, ok := parseReservation(id); ok {
		f.remember(id, time.Now())
	}
	f.settle()
	return nil
}
