package hire

import (
	"context"
	"errors"
	"iter"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// Stock is a machine that the server keeps for a fleet. It is written down, counted, shown and found again like a hired one, but
// nobody's lease ends it: that is for the fleet to decide.
type Stock struct {
	Provider, Name string
	Tenant, Fleet  string // whose fleet it is, and what he calls it
	Kind           string // what the machine is made as
	Program        string // the File of its Program, as a message names it; "": it has none. Stocked leaves it out.
	Created        time.Time
	Ends           time.Time // when the machine ends by itself
}

// FleetOwner is by whom the machines of a fleet are said to be hired.
func FleetOwner(fleet string) string { return "fleet " + fleet }

// fleetHolder is the holder of all machines of fleets. Its lease ends none of them.
const fleetHolder = "fleet"

// ErrNoRoom is what Enter returns when the provider has as many machines as it may; see fault.Exhausted.
var ErrNoRoom = fault.Say(fault.Exhausted, "the provider has as many machines as the server lets it have")

// Stocked returns the machines that are kept for fleets. A server that has just started knows them from what is written down.
func (s *Service) Stocked() []Stock {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Stock
	for _, h := range s.hired {
		if h.Fleet != "" {
			all = append(all, Stock{
				Provider: h.Provider, Name: h.Name, Tenant: h.Tenant, Fleet: h.Fleet, Kind: h.Kind, Created: h.Created, Ends: h.Ends,
			})
		}
	}
	return all
}

// HasProvider reports whether machines can be had of a provider now: fault.Invalid, if there is none of that name, and
// fault.Unavailable as long as the server is starting.
func (s *Service) HasProvider(name string) error {
	_, err := s.provider(name)
	return err
}

// Enter writes a machine down that is about to be made for a fleet. When it returns an error, nothing is to be made: ErrNoRoom, or
// fault.Unavailable.
func (s *Service) Enter(stock *Stock) error {
	if _, err := s.provider(stock.Provider); err != nil {
		return err
	}
	r := &record{
		Provider: stock.Provider, Name: stock.Name, Tenant: stock.Tenant, HiredBy: FleetOwner(stock.Fleet), Holder: fleetHolder, Created: stock.Created,
		Fleet: stock.Fleet, Kind: stock.Kind, Ends: stock.Ends,
	}
	if digest, uploaded := strings.CutPrefix(stock.Program, wire.ProgramScheme); uploaded {
		r.Programs = []string{digest}
	}
	_, err := s.reserve(r)
	if err == nil {
		s.reserved(place{r.Provider, r.Name}, false)
	}
	if errors.Is(err, fault.Exhausted) {
		return ErrNoRoom
	}
	return err
}

// Make asks for a machine that was entered, under the name of spec, whose Program is as messages name it. Errors are those of machine.Provider's Create; it may be
// repeated with the same spec. After a definite refusal the machine is to be struck.
func (s *Service) Make(ctx context.Context, provider string, spec machine.Spec) (*machine.Machine, error) {
	p, err := s.provider(provider)
	if err != nil {
		return nil, err
	}
	program, release, err := s.fetch(spec.Program)
	if errors.Is(err, fault.NotFound) { // as a machine.Provider never says it
		return nil, fault.Say(fault.Conflict, "the program of the machine is not at the server any more")
	}
	if err != nil {
		return nil, err
	}
	defer release()
	spec.Program, spec.Owner = program.own, s.Owner()
	m, err := create(ctx, p, &spec)
	if err != nil {
		return nil, program.plain(err)
	}
	s.note(provider, m)
	return m, nil
}

// Strike forgets a machine that certainly is not there, and never will be.
func (s *Service) Strike(provider, name string) { s.forget(place{provider, name}) }

// Remove destroys a machine of a fleet and forgets it. It is repeated until it returns nil. fault.Unavailable also says that
// it is not known yet whether a machine, which was asked for without an answer, will come to be.
func (s *Service) Remove(ctx context.Context, provider, name string) error {
	p, err := s.provider(provider)
	if err != nil {
		return err
	}
	at := place{provider, name}
	h := s.of(at)
	if h == nil {
		return nil
	}
	var id string
	if h.seen != nil {
		id = h.seen.ID
	} else if id, err = s.idOf(ctx, p, h); err != nil {
		return err
	}
	if id != "" {
		if err := destroy(ctx, p, id); err != nil {
			return err
		}
	}
	s.forget(at)
	return nil
}

// idOf looks for a machine that nobody has seen. "" says that there is none.
func (s *Service) idOf(ctx context.Context, p machine.Provider, h *hiring) (string, error) {
	list, err := p.List(ctx, s.Owner())
	if err != nil {
		return "", err
	}
	for _, m := range list {
		if m.Name == h.Name {
			return m.ID, nil
		}
	}
	if time.Since(h.Created) < s.Lease {
		return "", fault.Say(fault.Unavailable, "it is not known yet whether the machine %s will come to be", h.Name)
	}
	return "", nil
}

// Look returns a machine of a fleet as its provider has it now. fault.NotFound: it is gone, or was never seen.
func (s *Service) Look(ctx context.Context, provider, name string) (*machine.Machine, error) {
	p, err := s.provider(provider)
	if err != nil {
		return nil, err
	}
	h := s.of(place{provider, name})
	if h == nil || h.seen == nil {
		return nil, fault.Say(fault.NotFound, "nothing is known of a machine %s", name)
	}
	m, err := p.Get(ctx, h.seen.ID)
	if err != nil {
		return nil, err
	}
	s.note(provider, m)
	return m, nil
}

// Watch yields the machines of a provider, hired ones too, as machine.Watch does. The server must have started.
func (s *Service) Watch(ctx context.Context, provider string, every time.Duration) iter.Seq2[*machine.Machine, error] {
	return func(yield func(*machine.Machine, error) bool) {
		for m, err := range machine.Watch(ctx, s.Providers[provider], s.Owner(), every) {
			if err == nil {
				s.note(provider, m)
			}
			if !yield(m, err) {
				return
			}
		}
	}
}

// At returns a provider, or nil.
func (s *Service) At(provider string) machine.Provider { return s.Providers[provider] }
