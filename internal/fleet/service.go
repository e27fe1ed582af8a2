package fleet

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/internal/hire"
	"github.com/dayfly-run/dayfly/machine"
)

// Options are what a Service is made of. All but Lease and Logger are required.
type Options struct {
	Hire *hire.Service
	// Room returns how many more machines a provider may have now, those that are hired counted.
	Room func(provider string) int
	// URL returns the server's base URL as machines of a provider see it.
	URL func(ctx context.Context, provider string) (string, error)
	// Token returns what a runner proves with that it is on the machine of that name, always the same, and Genuine whether a
	// token is that.
	Token   func(machine string) string
	Genuine func(token, machine string) bool
	// Lease is how long a program, or an idle runner, may be silent. Default: hire.DefaultLease.
	Lease  time.Duration
	Logger *slog.Logger
}

// The bounds of what is kept in memory.
const (
	maxFleets  = 256
	maxKinds   = 16     // of one fleet
	maxLine    = 10_000 // who waits for runners of one fleet
	maxMachine = 10_000 // that a fleet may be told to have
	maxHolders = 20_000
	maxOver    = 10_000 // reservations of one fleet of which it is remembered that they were given back
)

// Service is the server's side of all fleets. It is safe for concurrent use.
type Service struct {
	Options
	life context.Context // ends with Run
	end  context.CancelFunc
	work sync.WaitGroup

	mu       sync.Mutex
	started  time.Time
	fleets   map[place]*fleet
	runners  map[string]*runner            // by the machine's name
	holders  map[holder]time.Time          // when each was last heard of
	watching map[string]context.CancelFunc // providers whose machines are watched
}

// place is where a fleet is: whose it is, at which provider, and what it is called there. Those of two tenants have nothing in
// common, whatever they are called.
type place struct{ tenant, provider, name string }

// holder is a program that has runners. What a tenant calls its programs is its own affair.
type holder struct{ tenant, name string }

// New returns a Service that knows which machines there are from the ledger of o.Hire. Nothing is asked of providers before
// Run.
func New(o Options) *Service {
	o.Lease = cmp.Or(o.Lease, hire.DefaultLease)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		Options: o, started: time.Now(), fleets: map[place]*fleet{}, runners: map[string]*runner{},
		holders: map[holder]time.Time{}, watching: map[string]context.CancelFunc{},
	}
	s.life, s.end = context.WithCancel(context.Background())
	for _, m := range o.Hire.Stocked() {
		f := s.fleet(place{m.Tenant, m.Provider, m.Fleet})
		f.restored = true
		r := &runner{
			fleet: f, name: m.Name, kind: f.kind(m.Kind), state: unheard, since: s.started, heard: s.started,
			created: m.Created, ends: m.Ends,
		}
		f.runners[r.name], s.runners[r.name] = r, r
	}
	return s
}

// Run keeps the fleets until ctx ends. Then machines go on running, and find the next server.
func (s *Service) Run(ctx context.Context) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		s.tick()
		select {
		case <-ctx.Done():
			s.end()
			s.work.Wait()
			return nil
		case <-ticker.C:
		}
	}
}

// tick does what is due for no other reason than that time has passed.
func (s *Service) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	inUse := map[string]bool{}
	for at, f := range s.fleets {
		f.expire(now)
		f.settle()
		if len(f.runners) > 0 {
			inUse[at.provider] = true
		}
		if f.forgettable() {
			delete(s.fleets, at)
		}
	}
	s.watchOnly(inUse)
	if len(s.holders) > maxHolders {
		maps.DeleteFunc(s.holders, func(_ holder, heard time.Time) bool { return now.Sub(heard) > 2*s.Lease })
	}
}

// watchOnly watches the machines of those providers. mu is held.
func (s *Service) watchOnly(inUse map[string]bool) {
	for provider, stop := range s.watching {
		if !inUse[provider] {
			stop()
			delete(s.watching, provider)
		}
	}
	for provider := range inUse {
		if s.watching[provider] != nil || s.Hire.HasProvider(provider) != nil {
			continue
		}
		ctx, stop := context.WithCancel(s.life)
		s.watching[provider] = stop
		s.work.Go(func() { s.watch(ctx, provider) })
	}
}

// watchInterval is how often machines are looked at whose provider cannot tell of changes.
const watchInterval = 2 * time.Second

func (s *Service) watch(ctx context.Context, provider string) {
	for m, err := range s.Hire.Watch(ctx, provider, watchInterval) {
		if err != nil {
			s.Logger.Debug("the machines of fleets cannot be watched", "provider", provider, "error", err)
			continue
		}
		s.see(m)
	}
}

// see takes note of a machine as its provider has it.
func (s *Service) see(m *machine.Machine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.runners[m.Name]; r != nil && r.see(m) {
		r.fleet.settle()
	}
}

// renew notes that a holder was heard of. mu is held.
func (s *Service) renew(who holder) { s.holders[who] = time.Now() }

// over reports whether the lease of a holder is. One that was never heard of gets one. mu is held.
func (s *Service) over(who holder, now time.Time) bool {
	heard, known := s.holders[who]
	if !known {
		s.holders[who] = now
		return false
	}
	return now.Sub(heard) > s.Lease
}
