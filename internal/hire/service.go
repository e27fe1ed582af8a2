package hire

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// DefaultLease is how long a holder may be silent.
const DefaultLease = time.Minute

// Options are what a Service is made of.
type Options struct {
	Dir       string                      // where it is written down what is hired; only this Service uses it
	Providers map[string]machine.Provider // by name
	// Owner returns the owner of the machines at their providers, or "" as long as that is not known.
	Owner func() string
	// Room returns how many more machines a provider may have now, those that are hired counted.
	Room func(provider string) int
	// Lease is how long a holder may be silent. Default: DefaultLease.
	Lease  time.Duration
	Logger *slog.Logger
}

// Service is the server's side. It is safe for concurrent use.
type Service struct {
	Options

	mu     sync.Mutex
	hired  map[place]*hiring    // guarded by mu; from before a machine is asked for until it is gone
	leases map[string]time.Time // guarded by mu; when each holder was last heard of
	ledger ledger
}

// hiring is a machine that is hired.
type hiring struct {
	record
	seen *machine.Machine // as it was last seen; nil before
}

// place is the name of a machine at a provider.
type place struct{ provider, name string }

// New returns a Service that knows what is written down. Nothing is asked of providers before Run. fault.Unavailable: the
// directory cannot be used.
func New(o Options) (*Service, error) {
	o.Lease = cmp.Or(o.Lease, DefaultLease)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{Options: o, hired: map[place]*hiring{}, leases: map[string]time.Time{}, ledger: ledger(o.Dir)}
	known, err := s.ledger.open()
	if err != nil {
		return nil, err
	}
	for _, r := range known {
		s.hired[place{r.Provider, r.Name}] = &hiring{record: *r}
	}
	return s, nil
}

// Run destroys machines whose holders are silent, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	every := s.Lease / 4
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	all := true // a server that was killed may have hired out anything
	for {
		if s.Owner() != "" && s.sweep(ctx, all) {
			all = false
		}
		wait := ticker.C
		if all {
			wait = time.After(min(every, time.Second))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wait:
		}
	}
}

// sweep looks at the machines of each provider that has some, or of all, and reports whether all could be looked at.
func (s *Service) sweep(ctx context.Context, all bool) bool {
	count := s.Counts()
	whole := true
	for name, p := range s.Providers {
		if !all && count[name] == 0 {
			continue
		}
		began := time.Now()
		list, err := p.List(ctx, s.Owner())
		if err != nil {
			s.Logger.Debug("the hired machines of a provider cannot be listed", "provider", name, "error", err)
			whole = false
			continue
		}
		s.take(name, list, began)
		for _, m := range list {
			if h := s.of(place{name, m.Name}); h == nil || s.over(h.Holder) {
				s.Logger.Info("a hired machine is destroyed: nobody has asked for it for a while", "provider", name, "machine", m.Name)
				if err := s.destroy(ctx, name, m); err != nil {
					s.Logger.Debug("a hired machine cannot be destroyed yet", "provider", name, "machine", m.Name, "error", err)
				}
			}
		}
	}
	return whole
}

// take notes what a list says that was begun then. A machine that was asked for since may be missing.
func (s *Service) take(provider string, list []*machine.Machine, began time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	there := map[place]bool{}
	for _, m := range list {
		at := place{provider, m.Name}
		there[at] = true
		if s.hired[at] == nil {
			// Of one that is not written down nobody is known to need it. That may change within the time of a lease.
			s.hired[at] = &hiring{record: record{Provider: provider, Name: m.Name, Created: began}}
		}
		s.hired[at].seen = m
	}
	for at, h := range s.hired {
		if at.provider == provider && !there[at] && h.Created.Before(began.Add(-s.Lease)) {
			s.drop(at)
		}
	}
}

// drop forgets a machine that is gone. mu is held.
func (s *Service) drop(at place) {
	if err := s.ledger.remove(at); err != nil {
		s.Logger.Warn("a machine that is gone stays written down", "machine", at.name, "error", err)
		return
	}
	delete(s.hired, at)
}

// of returns what is known of a machine, or nil.
func (s *Service) of(at place) *hiring {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.hired[at]; h != nil {
		known := *h
		return &known
	}
	return nil
}

// over reports whether the lease of a holder is. One that was never heard of gets one.
func (s *Service) over(holder string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, known := s.leases[holder]
	if !known {
		s.leases[holder] = time.Now()
		return false
	}
	return time.Since(last) > s.Lease
}

// renew notes that a holder was heard of.
func (s *Service) renew(holder string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leases[holder] = time.Now()
	if len(s.leases) < maxLeases {
		return
	}
	maps.DeleteFunc(s.leases, func(_ string, last time.Time) bool { return time.Since(last) > 2*s.Lease })
}

// maxLeases is how many are remembered before those that are long over are forgotten.
const maxLeases = 10_000

// Counts returns how many machines are hired, by provider.
func (s *Service) Counts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := map[string]int{}
	for at := range s.hired {
		count[at.provider]++
	}
	return count
}

// Machine is one that is hired.
type Machine struct {
	Provider string
	HiredBy  string
	*machine.Machine
}

// Machines returns all that are hired, as they were last seen, newest first. They are not to be changed.
func (s *Service) Machines() []Machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Machine, 0, len(s.hired))
	for at, h := range s.hired {
		seen := h.seen
		if seen == nil {
			seen = &machine.Machine{Name: h.Name, State: machine.Creating, Created: h.Created}
		}
		all = append(all, Machine{at.provider, h.HiredBy, seen})
	}
	slices.SortFunc(all, func(a, b Machine) int { return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.Name, b.Name)) })
	return all
}

func (s *Service) provider(name string) (machine.Provider, error) {
	p := s.Providers[name]
	switch {
	case p == nil:
		return nil, fault.Say(fault.Invalid, "the server has no provider %.64q", name)
	case s.Owner() == "":
		return nil, fault.Say(fault.Unavailable, "the server is starting")
	}
	return p, nil
}

// Create implements machine.Provider for whoever hires.
func (s *Service) Create(ctx context.Context, provider string, h *wire.Hire) (*machine.Machine, error) {
	p, err := s.provider(provider)
	if err != nil {
		return nil, err
	}
	if err := h.Spec.Validate(); err != nil {
		return nil, err
	}
	switch {
	case h.Holder == "" || len(h.Holder) > 64:
		return nil, fault.Say(fault.Invalid, "the holder must have 1 to 64 characters")
	case h.Spec.Agent != nil:
		return nil, fault.Say(fault.Unsupported, "agents are the server's own, so a hired machine has none")
	}
	spec := h.Spec
	spec.Owner = s.Owner()
	s.renew(h.Holder)
	at := place{provider, spec.Name}
	isNew, err := s.reserve(&record{Provider: provider, Name: spec.Name, HiredBy: h.Spec.Owner, Holder: h.Holder, Created: time.Now()})
	if err != nil {
		return nil, err
	}
	m, err := p.Create(ctx, &spec)
	if err != nil {
		switch fault.Of(err).General() {
		case fault.Invalid, fault.Unsupported, fault.Denied, fault.Exhausted, fault.Conflict:
			if isNew { // nothing was made
				s.forget(at)
			}
		}
		return nil, err
	}
	s.note(provider, m)
	return shown(m, h.Spec.Owner), nil
}

// reserve counts and writes down a machine that is about to be asked for, unless there is no room for it. One that is hired
// already is from now on held by who asks for it again.
func (s *Service) reserve(r *record) (isNew bool, err error) {
	room := s.Room(r.Provider)
	at := place{r.Provider, r.Name}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.hired[at]
	switch {
	case known != nil && known.HiredBy != "" && known.HiredBy != r.HiredBy:
		return false, fault.Say(fault.Conflict, "the name %s is that of a machine which somebody else has hired", r.Name)
	case known == nil && room <= 0:
		return false, fault.Say(fault.Exhausted, "the provider %s has as many machines as the server lets it have; hired ones and those of jobs count "+
			"together, see providers.%s.max_machines", r.Provider, r.Provider)
	case known != nil:
		r.Created = known.Created
	}
	if err := s.ledger.write(r); err != nil {
		return false, err
	}
	if known != nil {
		known.record = *r
		return false, nil
	}
	s.hired[at] = &hiring{record: *r}
	return true, nil
}

func (s *Service) forget(at place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(at)
}

func (s *Service) note(provider string, m *machine.Machine) {
	seen := *m
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.hired[place{provider, m.Name}]; h != nil {
		h.seen = &seen
	}
}

// shown is a machine as whoever hired it sees it.
func shown(m *machine.Machine, owner string) *machine.Machine {
	own := *m
	own.Owner = owner
	return &own
}

// find returns a machine that is hired, as its provider has it.
func (s *Service) find(ctx context.Context, p machine.Provider, provider, id string) (*machine.Machine, error) {
	m, err := p.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if m.Owner != s.Owner() {
		return nil, fault.Say(fault.NotFound, "the provider %s has no hired machine %.64q", provider, id)
	}
	return m, nil
}

// Get implements machine.Provider for whoever hires.
func (s *Service) Get(ctx context.Context, provider, id string) (*machine.Machine, error) {
	p, err := s.provider(provider)
	if err != nil {
		return nil, err
	}
	m, err := s.find(ctx, p, provider, id)
	if err != nil {
		return nil, err
	}
	s.note(provider, m)
	owner := ""
	if h := s.of(place{provider, m.Name}); h != nil {
		owner = h.HiredBy
	}
	return shown(m, owner), nil
}

// List implements machine.Provider for whoever hires. It renews the lease of the holder, if one is named.
func (s *Service) List(ctx context.Context, provider, owner, holder string) ([]*machine.Machine, error) {
	p, err := s.provider(provider)
	if err != nil {
		return nil, err
	}
	if holder != "" && len(holder) <= 64 {
		s.renew(holder)
	}
	began := time.Now()
	list, err := p.List(ctx, s.Owner())
	if err != nil {
		return nil, err
	}
	s.take(provider, list, began)
	own := []*machine.Machine{}
	for _, m := range list {
		if h := s.of(place{provider, m.Name}); h != nil && h.HiredBy == owner {
			own = append(own, shown(m, owner))
		}
	}
	return own, nil
}

// Destroy implements machine.Provider for whoever hires. What is not hired is left alone: it is nothing to him.
func (s *Service) Destroy(ctx context.Context, provider, id string) error {
	p, err := s.provider(provider)
	if err != nil {
		return err
	}
	m, err := s.find(ctx, p, provider, id)
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.destroy(ctx, provider, m)
}

func (s *Service) destroy(ctx context.Context, provider string, m *machine.Machine) error {
	if err := s.Providers[provider].Destroy(ctx, m.ID); err != nil {
		return err
	}
	s.forget(place{provider, m.Name})
	return nil
}

// CheckProgram implements machine.Carrier for whoever hires.
func (s *Service) CheckProgram(ctx context.Context, provider string, program *machine.Program) error {
	p, err := s.provider(provider)
	if err != nil {
		return err
	}
	return machine.CheckProgram(ctx, p, program)
}

// Gateway implements machine.Gateway for whoever hires. The machines of a provider without one are taken to run where the
// server does.
func (s *Service) Gateway(ctx context.Context, provider string) (string, error) {
	p, err := s.provider(provider)
	if err != nil {
		return "", err
	}
	gateway, ok := p.(machine.Gateway)
	if !ok {
		return "127.0.0.1", nil
	}
	address, err := gateway.Gateway(ctx)
	return address.String(), err
}
