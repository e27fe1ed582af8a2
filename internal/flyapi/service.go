package flyapi

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/flyapi/ledger"
	"github.com/dayfly-run/dayfly/machine"
)

// Options are what a service is made of. Provider and Ledger are required.
type Options struct {
	// Provider makes the machines.
	Provider machine.Provider
	// Ledger is the path of the file in which they are remembered. It is made if it is missing.
	Ledger string

	// Images are the programs that stand for images, for a provider that has none; nil: the provider has images.
	Images *Images
	// Regions are those that machines can be created in, the default one first. Default: Fly's own, ams first.
	Regions []string
	// Apps are made when the service begins, if they are missing.
	Apps []string
	// Lifetime is how long one launch of a machine may run; default and at most machine.MaxLifetime.
	Lifetime time.Duration
	// MaxCPUs and MaxMemoryMB are the most that a machine is given, whatever its guest asks for; 0: as much as it asks for.
	MaxCPUs     float64
	MaxMemoryMB int
	// MaxMachines is how many machines may exist that are not destroyed; default 1000.
	MaxMachines int
	// KeepDestroyed is how long a destroyed machine is still shown; default one hour.
	KeepDestroyed time.Duration
	// MaxDestroyed is how many of those are kept, whatever their age, so that a client which makes a hundred a second does
	// not fill the memory with what is gone; default 5000.
	MaxDestroyed int
	// Quirks are misbehavior to try clients with; nil: none.
	Quirks *Quirks

	// Authorize refuses a request whose token may not use this API: fault.Unauthenticated, fault.Denied or
	// fault.Exhausted. Whatever scheme a client used, the request carries the token as Bearer. nil: everybody may.
	Authorize func(*http.Request) error

	Logger *slog.Logger     // default: discards
	Now    func() time.Time // default: time.Now
}

// Service is the Machines API. Make it with [New], let [Service.Run] run beside its handler, and close it. It is safe for
// concurrent use.
type Service struct {
	Options
	log    *slog.Logger
	ledger *ledger.Ledger
	owner  string
	ids    idents
	quirks *quirks
	routes *http.ServeMux

	life    context.Context // ends with Close; for what is done for machines between requests
	end     context.CancelFunc
	work    sync.WaitGroup
	calling chan struct{} // holds a token for each call of the provider that is under way
	inside  chan struct{} // holds a token for each command that is run in a machine

	mu       sync.RWMutex
	apps     map[string]*appRecord // guarded by mu; by name
	machines map[string]*entry     // guarded by mu; by id
	names    map[string]*entry     // guarded by mu; by app and name, of those that are not destroyed
	closed   bool                  // guarded by mu
}

// What may be under way at once.
const (
	maxCalls = 64 // calls of the provider for machines
	maxExecs = 64 // commands in machines, each of which keeps what it prints in memory
)

// New opens the ledger and returns a service with everything that it remembers. It asks the provider nothing.
//
// fault.Invalid if an option is wrong; the kinds of ledger.Open.
func New(ctx context.Context, o Options) (*Service, error) {
	if o.Provider == nil || o.Ledger == "" {
		return nil, fmt.Errorf("flyapi: %w: Provider and Ledger are required", fault.Invalid)
	}
	s := &Service{
		Options: o, log: o.Logger, calling: make(chan struct{}, maxCalls), inside: make(chan struct{}, maxExecs),
		apps: map[string]*appRecord{}, machines: map[string]*entry{}, names: map[string]*entry{},
	}
	if err := s.setDefaults(); err != nil {
		return nil, err
	}
	s.quirks = newQuirks(o.Quirks, s.Now)
	s.life, s.end = context.WithCancel(context.WithoutCancel(ctx))
	var err error
	if s.ledger, err = ledger.Open(ctx, o.Ledger); err != nil {
		return nil, err
	}
	s.owner = s.ledger.Owner()
	if err := s.load(ctx); err != nil {
		_ = s.Close()
		return nil, err
	}
	s.routes = s.router()
	return s, nil
}

func (s *Service) setDefaults() error {
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	s.Lifetime = cmp.Or(s.Lifetime, machine.MaxLifetime)
	s.MaxMachines = cmp.Or(s.MaxMachines, 1000)
	s.MaxDestroyed = cmp.Or(s.MaxDestroyed, 5000)
	s.KeepDestroyed = cmp.Or(s.KeepDestroyed, time.Hour)
	if len(s.Regions) == 0 {
		for _, r := range knownRegions() {
			s.Regions = append(s.Regions, r.Code)
		}
	}
	if s.Lifetime < time.Second || s.Lifetime > machine.MaxLifetime {
		return fault.Say(fault.Invalid, "the lifetime of machines, %v, is not between 1s and %v", s.Lifetime, machine.MaxLifetime)
	}
	for _, region := range s.Regions {
		if !validRegion(region) {
			return fault.Say(fault.Invalid, "%q is not the code of a region: 2 to 12 characters of a-z and 0-9", region)
		}
	}
	if err := s.Quirks.check(); err != nil {
		return err
	}
	return s.Images.check()
}

// load reads what the ledger remembers.
func (s *Service) load(ctx context.Context) error {
	content, err := s.ledger.Load(ctx)
	if err != nil {
		return err
	}
	for id, data := range content.Apps {
		app := &appRecord{}
		if err := json.Unmarshal(data, app); err != nil {
			return fmt.Errorf("flyapi: app %s in the ledger: %w: %w", id, fault.Internal, err)
		}
		s.apps[app.Name] = app
	}
	for id, data := range content.Machines {
		r := &record{}
		if err := json.Unmarshal(data, r); err != nil {
			return fmt.Errorf("flyapi: machine %s in the ledger: %w: %w", id, fault.Internal, err)
		}
		configs, err := s.ledger.Configs(ctx, id, r.Instance)
		if err == nil && len(configs) == 0 {
			err = fmt.Errorf("flyapi: machine %s in the ledger: %w: it has no configuration", id, fault.Internal)
		}
		if err != nil {
			return err
		}
		c, err := parseConfig(configs[0].Config)
		if err != nil {
			return fmt.Errorf("flyapi: machine %s in the ledger: %w: its configuration: %w", id, fault.Internal, err)
		}
		s.ids.follow(r.Instance)
		if len(r.Events) > 0 {
			s.ids.follow(r.Events[len(r.Events)-1].ID)
		}
		s.add(newEntry(r, c))
	}
	for _, name := range s.Apps {
		if s.apps[name] != nil {
			continue
		}
		if _, err := s.addApp(ctx, &appRequest{Name: name}); err != nil {
			return fault.Say(fault.Invalid, "the app %q cannot be made: %s", name, describe(err).text)
		}
	}
	return nil
}

// Handler returns the handler of all routes, which begin with /v1/apps and /v1/platform.
func (s *Service) Handler() http.Handler { return http.HandlerFunc(s.serve) }

// Close ends what goes on between requests and closes the ledger. Machines go on running. It may be repeated.
func (s *Service) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.end()
	s.work.Wait()
	return s.ledger.Close()
}

// add makes a machine known.
func (s *Service) add(e *entry) {
	r := e.record()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.machines[r.ID] = e
	if r.State != destroyed {
		s.names[r.App+"/"+r.Name] = e
	}
}

// drop makes a machine unknown.
func (s *Service) drop(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := e.record()
	delete(s.machines, r.ID)
	if key := r.App + "/" + r.Name; s.names[key] == e {
		delete(s.names, key)
	}
}

// release makes the name of a destroyed machine free.
func (s *Service) release(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := e.record()
	if key := r.App + "/" + r.Name; s.names[key] == e {
		delete(s.names, key)
	}
}

// all returns every machine, oldest first; of one app if app is not "".
func (s *Service) all(app string) []*entry {
	s.mu.RLock()
	var list []*entry
	for _, e := range s.machines {
		if app == "" || e.record().App == app {
			list = append(list, e)
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(list, func(a, b *entry) int {
		x, y := a.record(), b.record()
		return cmp.Or(x.Created.Compare(y.Created), cmp.Compare(x.ID, y.ID))
	})
	return list
}

// find returns a machine by its id, or nil.
func (s *Service) find(id string) *entry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.machines[id]
}
