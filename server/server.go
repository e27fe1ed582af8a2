package server

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/blob/fileblob"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/agent"
	"github.com/dayfly-run/dayfly/internal/api"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/fleet"
	"github.com/dayfly-run/dayfly/internal/flyapi"
	"github.com/dayfly-run/dayfly/internal/hire"
	"github.com/dayfly-run/dayfly/internal/joblog"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/store/sqlite"
	"github.com/dayfly-run/dayfly/internal/ticket"
	"github.com/dayfly-run/dayfly/machine"
)

// Options are what a server is made of. DataDir and Providers are required; the zero value of everything else is its
// default.
type Options struct {
	// DataDir is where everything is kept. It is made if it is missing; an existing one must be private.
	DataDir string
	// Providers are what machines are made by, under the names that jobs use. One with a method Run(ctx) error is run
	// as long as the server, and one with a method Close() error is closed with it.
	Providers map[string]machine.Provider
	// Absent says, by name, why providers are missing that somebody may expect: sentences for whoever names one.
	Absent map[string]string
	// Blobs is where inputs and artifacts are kept, and is closed with the server if it has a method Close() error.
	// Default: files in the data directory.
	Blobs blob.Store
	// OwnsBlobs is asked before files are removed from Blobs because no job knows them, which in a store that two servers
	// share would be the other's; while it returns an error none are. Default: they always are.
	OwnsBlobs func(context.Context) error
	// DirectBlobs lets clients and machines exchange files with the backend of Blobs itself, if Blobs is a [blob.Signer].
	DirectBlobs bool
	// DefaultProvider runs the jobs that name none. It may be several, as in [dayfly.JobSpec], and "" when there is only one.
	DefaultProvider string

	// Listen are the addresses to serve on; default 127.0.0.1:7700. Port 0 is any port, and the one used last if that
	// is free, so that URLs that were handed out stay good.
	Listen []string
	// TLS serves HTTPS on them. This computer is then also served, without TLS, on a loopback port of its own.
	TLS *tls.Config
	// PublicURL is the base URL as others see it. Default: what a request was sent to, and for machines the first of
	// Listen.
	PublicURL string
	// MachineURLs are the base URLs as machines of a provider see it, by provider, where that is neither PublicURL nor one
	// that the server finds out by itself.
	MachineURLs map[string]string
	// RequireToken asks everybody for a token. It is implied by an address that other computers can reach, and by a
	// PublicURL that is not this computer's.
	RequireToken bool
	// AllowOpen lifts that: whoever can reach an address may then run commands.
	AllowOpen bool
	// Connections is how many may be open at once, on all addresses together; default 4096.
	Connections int

	Queues           map[string]Queue          // by name; a queue that is not named has no limits
	Pools            map[string]Pool           // by name
	MaxMachines      map[string]int            // at once, by provider; default 32
	Prices           map[string]machine.Pricer // by provider; one that is not named may be a machine.Pricer itself
	DailyCost        machine.Money             // what all jobs may cost in a day before no more are launched; 0: no limit
	MaxOpenJobs      int                       // that have not ended; default a million
	LogLimit         int64                     // bytes of output kept of one attempt; default 64 MiB
	Retention        time.Duration             // how long ended jobs are kept; 0: for ever
	LostAfter        time.Duration             // default one minute
	UnreachableAfter time.Duration             // default five minutes
	OrphanAfter      time.Duration             // default ten minutes
	Heartbeat        time.Duration             // default five seconds

	HireLease   time.Duration // how long whoever hired machines may be silent; default one minute
	MaxPrograms int           // that were uploaded by whoever hires and are kept at once; default 64

	// FlyAPI serves Fly's Machines API too; nil: it is not served.
	FlyAPI *FlyAPI

	// Program is what to call the dayfly command in advice; default dayfly.
	Program string
	// Command is what this process was started as, such as "dayfly run", and Passing that it serves only until that ends.
	// Both are told to whoever finds the data directory in use.
	Command string
	Passing bool

	Version string       // to show
	Logger  *slog.Logger // default: discards
}

// Queue says where the jobs of one queue run, and how many at once.
type Queue struct {
	Provider       string        // of jobs that name none, as in [dayfly.JobSpec]; "": the default provider
	Concurrency    int           // all together; 0: no limit
	KeyConcurrency int           // with the same concurrency key; 0: no limit
	Pool           string        // of jobs that name none and can use it; "": none
	DailyCost      machine.Money // what its jobs may cost in a day before no more are launched; 0: no limit
}

// Pool says which machines are kept warm for the jobs that name the pool.
type Pool = engine.Pool

// DefaultListen is where a server listens when it is not told where.
const DefaultListen = "127.0.0.1:7700"

// Server is one service. Make it with [New] and run it, once, with [Server.Run].
type Server struct {
	options Options
	logger  *slog.Logger
	store   *sqlite.Store
	logs    *joblog.Store
	blobs   blob.Store
	engine  *engine.Engine
	fly     *flyapi.Service // nil if it is not served
	hire    *hire.Service
	fleets  *fleet.Service
	metrics *prometheus.Registry
	token   string // the owner's

	front *front
	homes *homes
}

// New opens the data directory and the listeners and returns a server that Run will serve with. Whoever does not call
// Run calls Close.
//
// fault.Conflict, with a sentence, if another process serves the directory; fault.Invalid, with a sentence that says
// what to do, if the options would not be safe or cannot be carried out.
func New(ctx context.Context, o Options) (s *Server, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	s = &Server{options: o, logger: o.Logger, metrics: prometheus.NewRegistry()}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
			s = nil
		}
	}()
	if err := s.open(ctx); err != nil {
		return s, err
	}
	requireToken, err := s.decideTokens(ctx)
	if err != nil {
		return s, err
	}
	if s.front, err = listen(&s.options); err != nil {
		return s, err
	}
	s.homes = newHomes(&s.options, s.front)
	if err := s.store.SetOwnerURL(s.front.localURL); err != nil {
		return s, err
	}
	return s, s.assemble(ctx, requireToken)
}

// check fills in the defaults and refuses what cannot work.
func (o *Options) check() error {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if len(o.Listen) == 0 {
		o.Listen = []string{DefaultListen}
	}
	if o.Connections == 0 {
		o.Connections = 4096
	}
	if o.DefaultProvider == "" && len(o.Providers) == 1 {
		for name := range o.Providers {
			o.DefaultProvider = name
		}
	}
	switch {
	case !filepath.IsAbs(o.DataDir):
		return fault.Say(fault.Invalid, "the data directory %q is not an absolute path", o.DataDir)
	}
	return nil
}

// open opens what is in the data directory. The store comes first: who has it open owns the rest.
func (s *Server) open(ctx context.Context) (err error) {
	dir := s.options.DataDir
	if err := MakeDir(dir); err != nil {
		return err
	}
	s.store, err = sqlite.Open(ctx, databasePath(dir), &sqlite.Options{
		Logger: s.logger, Command: s.options.Command, Passing: s.options.Passing,
	})
	if owned, ok := errors.AsType[*sqlite.OwnedError](err); ok {
		return inUse(dir, &owned.Info)
	}
	if err != nil {
		return err
	}
	if s.token, err = ownerToken(dir); err != nil {
		return err
	}
	if s.logs, err = joblog.Open(filepath.Join(dir, "logs"), nil); err != nil {
		return err
	}
	if s.blobs = s.options.Blobs; s.blobs != nil {
		return nil
	}
	files, err := fileblob.Open(filepath.Join(dir, "blobs"), nil)
	if err == nil {
		s.blobs = files
	}
	return err
}

func databasePath(dir string) string { return filepath.Join(dir, "dayfly.db") }

// MakeDir makes a server's data directory, and closes it to others, because it will hold keys and what jobs print. New
// does so too; call it before to put something else into the directory. fault.Invalid, with a sentence, if the directory
// cannot be made or is not one for a server; see [CheckDir].
func MakeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		if path, ok := errors.AsType[*fs.PathError](err); ok {
			err = path.Err
		}
		return fault.Say(fault.Invalid, "the data directory %s cannot be made: %v; name another with --data-dir or DAYFLY_DATA_DIR", dir, err)
	}
	open, err := CheckDir(dir)
	if err == nil && open {
		err = os.Chmod(dir, 0o700)
	}
	if err != nil {
		return fault.Say(fault.Invalid, "the data directory cannot be used: %v", err)
	}
	return nil
}

// CheckDir reports whether an existing directory can be a server's data directory, and whether it is open to other
// users and will be closed. One that is empty, or that Dayfly has used before, is Dayfly's to close. A directory with
// something else in it may be one that others need, given by mistake, so it is refused: fault.Invalid.
func CheckDir(dir string) (open bool, err error) {
	info, err := os.Stat(dir)
	if err != nil {
		return false, fault.Say(fault.Invalid, "%v", err)
	}
	if info.Mode().Perm()&0o077 == 0 {
		return false, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return true, fault.Say(fault.Invalid, "%v", err)
	}
	for _, entry := range entries {
		if !ours(entry.Name()) {
			return true, fault.Say(fault.Invalid, "%s is open to other users (mode %04o) and holds other things, such as %s; "+
				"name a directory of its own, or close it with: chmod 700 %s", dir, info.Mode().Perm(), entry.Name(), dir)
		}
	}
	return true, nil
}

// ours reports whether a name in the data directory is one that Dayfly uses.
func ours(name string) bool {
	return slices.Contains([]string{"machines", "logs", "blobs", "spool", "hired", "programs", "key", "token", "port"}, name) ||
		strings.HasPrefix(name, "dayfly.db") || strings.HasPrefix(name, "fly.db") || strings.HasPrefix(name, portFile(""))
}

// assemble builds the engine and the API on what is open.
func (s *Server) assemble(ctx context.Context, requireToken bool) error {
	key, err := ticket.LoadKey(filepath.Join(s.options.DataDir, "key"))
	if err != nil {
		return err
	}
	o := &s.options
	queues := make(map[string]engine.QueueLimits, len(o.Queues))
	for name, q := range o.Queues {
		queues[name] = engine.QueueLimits{Provider: q.Provider, Pool: q.Pool, Concurrency: q.Concurrency, KeyConcurrency: q.KeyConcurrency, DailyCost: q.DailyCost}
	}
	var direct blob.Signer
	if o.DirectBlobs {
		direct, _ = s.blobs.(blob.Signer)
	}
	s.hire, err = hire.New(hire.Options{
		Dir: filepath.Join(o.DataDir, "hired"), ProgramDir: filepath.Join(o.DataDir, "programs"), Programs: o.MaxPrograms,
		Providers: o.Providers, Owner: s.hireOwner, Lease: o.HireLease,
		TakeRoom: func(provider string, take func()) bool { return s.engine.TakeRoom(provider, take) }, Freed: func() { s.engine.RoomFreed() },
		Logger: o.Logger,
	})
	if err != nil {
		return err
	}
	s.fleets = fleet.New(fleet.Options{
		Hire: s.hire, Room: func(provider string) int { return s.engine.Room(provider) }, URL: s.homes.url,
		Token: key.Runner, Genuine: key.CheckRunner, Lease: o.HireLease, Logger: o.Logger,
	})
	s.engine, err = engine.New(engine.Options{
		Hired: s.hire.Counts,
		Store: s.store, Providers: o.Providers, Absent: o.Absent, DefaultProvider: o.DefaultProvider,
		Logs: s.logs, Blobs: s.blobs, OwnsBlobs: o.OwnsBlobs, Direct: direct, Key: key, URL: s.homes.url,
		Queues: queues, Pools: o.Pools, MaxMachines: o.MaxMachines, Prices: o.Prices, DailyCost: o.DailyCost, MaxOpenJobs: o.MaxOpenJobs, LogLimit: o.LogLimit,
		Retention: o.Retention, LostAfter: o.LostAfter, UnreachableAfter: o.UnreachableAfter,
		OrphanAfter: o.OrphanAfter, Heartbeat: o.Heartbeat, Clock: agent.BootClock, ClockSince: agent.BootName(), Logger: s.logger,
	})
	if err != nil {
		return err
	}
	handler, err := api.New(api.Options{
		Engine: s.engine, Logs: s.logs, Blobs: s.blobs, Direct: direct, Key: key,
		Tokens: &ownersTokens{tokens: s.store, hash: hashToken(s.token)}, RequireToken: requireToken,
		FromMachine: fromMachine,
		BaseURL:     s.front.baseURL, Version: o.Version, Logger: s.logger, Ready: s.engine.Ready, Metrics: s.metrics,
		Hired: s.hired, Fleets: s.fleetStatuses,
	})
	if err != nil {
		return err
	}
	s.front.handler, err = s.openFlyAPI(ctx, handler)
	s.front.handler = s.withFleets(s.withHire(s.front.handler, handler), handler)
	return err
}

// URL returns the server's base URL for clients.
func (s *Server) URL() string { return s.front.publicURL }

// LocalURL returns the server's base URL for this computer.
func (s *Server) LocalURL() string { return s.front.localURL }

// Token returns the owner's token, which may do everything. It is kept in the data directory.
func (s *Server) Token() string { return s.token }

// Reunite waits until the agents of the attempts that ran when this server started have delivered what they held back
// while there was none, or ctx ends. Whoever reads then reads how things stand. Call it while Run runs.
func (s *Server) Reunite(ctx context.Context) error { return poll(ctx, s.engine.Unheard) }

// Launch waits until every job that there is room for has begun on its machine, or ctx ends. From then on it needs no
// server. A program that submits a job and serves no longer than that calls it before it stops. Call it while Run runs.
func (s *Server) Launch(ctx context.Context) error { return poll(ctx, s.engine.Starting) }

// Settle waits until no machine waits to be destroyed, or ctx ends. A program that serves for the length of one job
// calls it before it stops, so that it leaves nothing behind for the next one to clear away.
func (s *Server) Settle(ctx context.Context) error {
	query := &store.MachineQuery{States: []store.MachineState{store.MachineDeleting}, Limit: 1}
	return poll(ctx, func(ctx context.Context) (bool, error) {
		left, err := s.store.Machines(ctx, query)
		return len(left) > 0, err
	})
}

// poll waits until there is nothing left to wait for.
func poll(ctx context.Context, left func(context.Context) (bool, error)) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		if more, err := left(ctx); err != nil || !more {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}
