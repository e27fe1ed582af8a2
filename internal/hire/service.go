package hire

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/failpoint"
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
	// TakeRoom calls take if a provider may have one more machine, those that are hired counted, and reports whether it has. Nobody
	// else gets that room before take has returned; from then on the machine is counted. Freed is told when fewer are; it may be nil.
	TakeRoom func(provider string, take func()) bool
	Freed    func()
	// Lease is how long a holder may be silent. Default: DefaultLease.
	Lease time.Duration
	// ProgramDir is where uploaded programs are kept; only this Service uses it.
	ProgramDir   string
	Programs     int           // how many of them. Default: DefaultPrograms.
	ProgramBytes int64         // how large they may be together. Default: DefaultProgramBytes.
	ProgramLife  time.Duration // how long one is kept that nobody uses. Default: DefaultProgramLife.
	Logger       *slog.Logger
}

// Service is the server's side. It is safe for concurrent use.
type Service struct {
	Options

	entering sync.Mutex // held while a machine is written down

	mu     sync.Mutex
	hired  map[place]*hiring    // guarded by mu; from before a machine is asked for until it is gone
	leases map[lessee]time.Time // guarded by mu; when each holder of a machine was last heard of
	ledger ledger

	programs *programs
	long     chan struct{} // holds an element for each answer that may take as long as it likes
}

// hiring is a machine that is hired.
type hiring struct {
	record
	seen    *machine.Machine // as it was last seen; nil before
	creates int              // that go on, so that it cannot be forgotten
}

// place is the name of a machine at a provider.
type place struct{ provider, name string }

// lessee is one holder. What a tenant calls its holders is its own affair.
type lessee struct{ tenant, holder string }

func (r *record) lessee() lessee { return lessee{r.Tenant, r.Holder} }

// New returns a Service that knows what is written down. Nothing is asked of providers before Run. fault.Unavailable: the
// directory cannot be used.
func New(o Options) (*Service, error) {
	o.Lease = cmp.Or(o.Lease, DefaultLease)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{Options: o, hired: map[place]*hiring{}, leases: map[lessee]time.Time{}, ledger: ledger(o.Dir), long: make(chan struct{}, maxLong)}
	known, err := s.ledger.open()
	if err != nil {
		return nil, err
	}
	for _, r := range known {
		s.hired[place{r.Provider, r.Name}] = &hiring{record: *r}
	}
	s.programs = &programs{
		dir: o.ProgramDir, most: cmp.Or(o.Programs, DefaultPrograms), mostBytes: cmp.Or(o.ProgramBytes, DefaultProgramBytes),
		life: cmp.Or(o.ProgramLife, DefaultProgramLife), needed: s.needs, log: o.Logger,
	}
	return s, s.programs.open()
}

// needs reports whether a machine that is hired runs the program, or is about to.
func (s *Service) needs(digest string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hired {
		if slices.Contains(h.Programs, digest) {
			return true
		}
	}
	return false
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
		s.programs.tidy()
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
			if h := s.of(place{name, m.Name}); h == nil || h.Fleet == "" && s.over(h) {
				s.Logger.Info("a hired machine is destroyed: nobody has asked for it for a while", "provider", name, "machine", m.Name)
				if err := s.destroy(ctx, name, m); err != nil {
					s.Logger.Debug("a hired machine cannot be destroyed yet", "provider", name, "machine", m.Name, "error", err)
				}
			}
		}
	}
	s.forgetLeases()
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
			// Nobody is known to need one that is not written down. It is counted until it is gone.
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

// drop forgets a machine that is gone, unless somebody asks for it again at this moment. mu is held.
func (s *Service) drop(at place) {
	if h := s.hired[at]; h == nil || h.creates > 0 {
		return
	}
	if err := s.ledger.remove(at); err != nil {
		s.Logger.Warn("a machine that is gone stays written down", "machine", at.name, "error", err)
		return
	}
	delete(s.hired, at)
	s.freed()
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

// over reports whether the lease of a machine's holder is. One that was never heard of gets one, and so does a machine that
// nobody is known to hold.
func (s *Service) over(h *hiring) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, known := s.leases[h.lessee()]
	switch {
	case h.Holder == "":
		last = h.Created
	case !known:
		s.leases[h.lessee()] = time.Now()
		return false
	}
	return time.Since(last) > s.Lease
}

// renew notes that a holder was heard of, who holds something.
func (s *Service) renew(who lessee) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.leases[who]; known {
		s.leases[who] = time.Now()
	}
}

// forgetLeases forgets those of holders who hold nothing any more.
func (s *Service) forgetLeases() {
	s.mu.Lock()
	defer s.mu.Unlock()
	holding := map[lessee]bool{}
	for _, h := range s.hired {
		holding[h.lessee()] = true
	}
	maps.DeleteFunc(s.leases, func(who lessee, _ time.Time) bool { return !holding[who] })
}

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
		return nil, fault.Say(fault.Invalid, "the server has no provider %.64q; it has %s", name,
			strings.Join(slices.Sorted(maps.Keys(s.Providers)), ", "))
	case s.Owner() == "":
		return nil, fault.Say(fault.Unavailable, "the server is starting")
	}
	return p, nil
}

// Create implements machine.Provider for a tenant: whoever hires by one token, or what else tells them apart. Machines of
// others do not exist for him, except that their names are taken.
func (s *Service) Create(ctx context.Context, tenant, provider string, h *wire.Hire) (*machine.Machine, error) {
	p, err := s.provider(provider)
	if err != nil {
		return nil, err
	}
	spec, program, release, err := s.specOf(h)
	if err != nil {
		return nil, err
	}
	defer release()
	at := place{provider, spec.Name}
	isNew, err := s.reserve(&record{
		Provider: provider, Name: spec.Name, Tenant: tenant, HiredBy: h.Spec.Owner, Holder: h.Holder, Programs: program.digests(), Created: time.Now(),
	})
	if err != nil {
		return nil, err
	}
	m, err := create(ctx, p, spec)
	if err != nil {
		s.reserved(at, isNew && refused(err))
		return nil, program.plain(err)
	}
	s.note(provider, m)
	s.reserved(at, false)
	return shown(m, h.Spec.Owner), nil
}

// refused reports whether an error of Create says that nothing was made.
func refused(err error) bool {
	switch fault.Of(err).General() {
	case fault.Invalid, fault.Unsupported, fault.Denied, fault.Exhausted, fault.Conflict:
		return true
	}
	return false
}

// create and destroy are the calls that change something at a provider.
func create(ctx context.Context, p machine.Provider, spec *machine.Spec) (*machine.Machine, error) {
	if err := failpoint.Hit("hire.create.before"); err != nil {
		return nil, err
	}
	m, err := p.Create(ctx, spec)
	if failed := failpoint.Hit("hire.create.after"); failed != nil && err == nil {
		return nil, failed
	}
	return m, err
}

func destroy(ctx context.Context, p machine.Provider, id string) error {
	if err := failpoint.Hit("hire.destroy.before"); err != nil {
		return err
	}
	if err := p.Destroy(ctx, id); err != nil {
		return err
	}
	return failpoint.Hit("hire.destroy.after")
}

// maxPrograms is how many programs are noted of one machine.
const maxPrograms = 8

// reserve counts and writes down a machine that is about to be asked for, unless there is no room for it. One that is hired
// already is from now on held by who asks for it again. Until reserved is called the machine is not forgotten, whatever others do.
func (s *Service) reserve(r *record) (isNew bool, err error) {
	s.entering.Lock()
	defer s.entering.Unlock()
	at := place{r.Provider, r.Name}
	isNew, err = s.adopt(at, r)
	if err != nil {
		return false, err
	}
	if isNew && !s.TakeRoom(r.Provider, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hired[at] = &hiring{record: *r, creates: 1}
	}) {
		return false, fault.Say(fault.Exhausted, "the provider %s has as many machines as the server lets it have; hired ones and those of jobs count "+
			"together, see providers.%s.max_machines", r.Provider, r.Provider)
	}
	err = s.ledger.write(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hired[at]
	switch {
	case err == nil:
		h.record = *r
		s.leases[r.lessee()] = time.Now()
		return isNew, nil
	case isNew:
		if err := s.ledger.remove(at); err != nil { // some of it may be on the disk
			s.Logger.Warn("a machine that was not made may be written down; the next server finds out", "machine", at.name, "error", err)
		}
		delete(s.hired, at)
		s.freed()
	default:
		h.creates--
	}
	return false, err
}

// adopt prepares the record of a machine that may be hired already, which is not forgotten from now on.
func (s *Service) adopt(at place, r *record) (isNew bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.hired[at]
	if known == nil {
		return true, nil
	}
	if known.Holder == "" || known.Tenant != r.Tenant || known.HiredBy != r.HiredBy {
		return false, fault.Say(fault.Conflict, "the name %s is that of a machine which somebody else has hired", r.Name)
	}
	known.creates++
	r.Created = known.Created
	for _, digest := range known.Programs { // if it exists it runs what it was made with
		if !slices.Contains(r.Programs, digest) && len(r.Programs) < maxPrograms {
			r.Programs = append(r.Programs, digest)
		}
	}
	return false, nil
}

// reserved is called when a machine was asked for. absent says that there is none, and will be none.
func (s *Service) reserved(at place, absent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hired[at].creates--
	if absent {
		s.drop(at)
	}
}

func (s *Service) freed() {
	if s.Freed != nil {
		s.Freed()
	}
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

// find returns a machine that a tenant has hired, as its provider has it, and what is known of it.
func (s *Service) find(ctx context.Context, tenant, provider, id string) (*machine.Machine, *hiring, error) {
	p, err := s.provider(provider)
	if err != nil {
		return nil, nil, err
	}
	m, err := p.Get(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	h := s.of(place{provider, m.Name})
	if m.Owner != s.Owner() || h == nil || h.Holder == "" || h.Tenant != tenant || h.Fleet != "" {
		return nil, nil, fault.Say(fault.NotFound, "the provider %s has no machine %.64q that was hired with this token", provider, id)
	}
	return m, h, nil
}

// Get implements machine.Provider for a tenant.
func (s *Service) Get(ctx context.Context, tenant, provider, id string) (*machine.Machine, error) {
	m, h, err := s.find(ctx, tenant, provider, id)
	if err != nil {
		return nil, err
	}
	s.note(provider, m)
	return shown(m, h.HiredBy), nil
}

// List implements machine.Provider for a tenant. It renews the lease of the holder, if one is named.
func (s *Service) List(ctx context.Context, tenant, provider, owner, holder string) ([]*machine.Machine, error) {
	p, err := s.provider(provider)
	if err != nil {
		return nil, err
	}
	s.renew(lessee{tenant, holder})
	began := time.Now()
	list, err := p.List(ctx, s.Owner())
	if err != nil {
		return nil, err
	}
	s.take(provider, list, began)
	own := []*machine.Machine{}
	for _, m := range list {
		if h := s.of(place{provider, m.Name}); h != nil && h.Holder != "" && h.Fleet == "" && h.Tenant == tenant && h.HiredBy == owner {
			own = append(own, shown(m, owner))
		}
	}
	return own, nil
}

// Destroy implements machine.Provider for a tenant. What he has not hired is left alone: it is nothing to him.
func (s *Service) Destroy(ctx context.Context, tenant, provider, id string) error {
	m, _, err := s.find(ctx, tenant, provider, id)
	if errors.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.destroy(ctx, provider, m)
}

func (s *Service) destroy(ctx context.Context, provider string, m *machine.Machine) error {
	if err := destroy(ctx, s.Providers[provider], m.ID); err != nil {
		return err
	}
	s.forget(place{provider, m.Name})
	return nil
}

// CheckProgram implements machine.Carrier for whoever hires. fault.NotFound: the program was not uploaded.
func (s *Service) CheckProgram(ctx context.Context, provider string, wanted *machine.Program) error {
	p, err := s.provider(provider)
	if err != nil {
		return err
	}
	if wanted == nil {
		return fault.Say(fault.Invalid, "no program is named")
	}
	program, release, err := s.fetch(wanted)
	if err != nil {
		return err
	}
	defer release()
	return program.plain(machine.CheckProgram(ctx, p, program.own))
}

// KeepProgram notes that a program which was uploaded, or nil, is about to be needed: it is kept as one that was used now. It
// returns the program as providers are given it. fault.NotFound: it was not uploaded. fault.Invalid: it is named otherwise
// than by its digest.
func (s *Service) KeepProgram(wanted *machine.Program) (*machine.Program, error) {
	program, release, err := s.fetch(wanted)
	if err != nil {
		return nil, err
	}
	release()
	return program.own, nil
}

// fetched is a program as this server has it.
type fetched struct {
	digest string           // "" when there is none
	own    *machine.Program // nil when there is none
}

func (f *fetched) digests() []string {
	if f.digest == "" {
		return nil
	}
	return []string{f.digest}
}

// fetch returns the program that a message names, which may be nil, and keeps it until release is called. Whatever else the
// message may name, such as a file of this computer, is nobody's to run.
func (s *Service) fetch(wanted *machine.Program) (program fetched, release func(), err error) {
	if wanted == nil {
		return fetched{}, func() {}, nil
	}
	digest, named := strings.CutPrefix(wanted.File, wire.ProgramScheme)
	if !named || !isDigest(digest) {
		return fetched{}, nil, fault.Say(fault.Invalid, "a program is named by %s and the digest under which it was uploaded, not by a file of the server's computer", wire.ProgramScheme)
	}
	file, release, err := s.programs.use(digest)
	if err != nil {
		return fetched{}, nil, err
	}
	return fetched{digest, &machine.Program{File: file, Args: wanted.Args}}, release, nil
}

// plain is an error about the program in which it is called what it is called at home, and not by where the server keeps it.
func (f *fetched) plain(err error) error {
	if err == nil || f.own == nil || !strings.Contains(err.Error(), f.own.File) {
		return err
	}
	sentence, said := fault.Sentence(err)
	if !said {
		return err
	}
	return fault.Say(fault.Of(err), "%s", strings.ReplaceAll(sentence, f.own.File, filepath.Base(f.own.File)))
}

// Prepare implements machine.Preparer for whoever hires. fault.NotFound: the program was not uploaded.
func (s *Service) Prepare(ctx context.Context, provider string, h *wire.Hire, report func(machine.Preparation)) error {
	p, err := s.provider(provider)
	if err != nil {
		return err
	}
	spec, program, release, err := s.specOf(h)
	if err != nil {
		return err
	}
	defer release()
	return program.plain(machine.Prepare(ctx, p, spec, report))
}

// specOf returns what a provider is asked for, with a program that is kept until release is called.
func (s *Service) specOf(h *wire.Hire) (spec *machine.Spec, program fetched, release func(), err error) {
	switch {
	case h.Holder == "" || len(h.Holder) > 64:
		return nil, program, nil, fault.Say(fault.Invalid, "the holder must have 1 to 64 characters")
	case h.Spec.Agent != nil:
		return nil, program, nil, fault.Say(fault.Unsupported, "agents are the server's own, so a hired machine has none")
	}
	program, release, err = s.fetch(h.Spec.Program)
	if err != nil {
		return nil, program, nil, err
	}
	own := h.Spec
	own.Program = program.own
	if err := own.Validate(); err != nil {
		release()
		return nil, program, nil, err
	}
	own.Owner = s.Owner()
	return &own, program, release, nil
}

// Logs implements machine.Logger for a tenant.
func (s *Service) Logs(ctx context.Context, tenant, provider, id string, follow bool, stdout, stderr io.Writer) error {
	if _, _, err := s.find(ctx, tenant, provider, id); err != nil {
		return err
	}
	return machine.Logs(ctx, s.Providers[provider], id, follow, stdout, stderr)
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
