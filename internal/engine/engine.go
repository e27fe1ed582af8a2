package engine

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/joblog"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/ticket"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// Options are what an engine is made of. Store, Providers, DefaultProvider, Logs, Blobs, Key and URL are required.
type Options struct {
	Store           store.Store
	Providers       map[string]machine.Provider // by name
	Absent          map[string]string           // why there is no provider of a name that somebody may expect
	DefaultProvider string                      // for jobs that name none; it may be several, as in [dayfly.JobSpec]
	Logs            *joblog.Store               // where output is kept
	Blobs           blob.Store                  // where inputs and artifacts are kept
	OwnsBlobs       func(context.Context) error // returns why no files of unknown jobs may be removed from Blobs; nil: they always may
	Direct          blob.Signer                 // signs requests to the backend of Blobs for machines; nil: all goes through the server
	Key             ticket.Key                  // signs what the engine hands out
	// URL tells the server's base URL as machines of a provider see it. Its errors are those of [machine.Provider.Create],
	// and none is ambiguous. It answers at once, except the first time that a provider is asked for a machine.
	URL func(ctx context.Context, provider string) (string, error)

	Queues      map[string]QueueLimits    // by name; a queue that is not named has no limits
	Pools       map[string]Pool           // by name
	Prices      map[string]machine.Pricer // by provider; one that is not named may be a machine.Pricer itself
	DailyCost   machine.Money             // what all jobs together may cost in a day before no more are launched; 0: no limit
	MaxMachines map[string]int            // by provider; 0: DefaultMaxMachines
	Hired       func() map[string]int     // how many machines of each provider count beside those of jobs; nil: none
	MaxOpenJobs int                       // jobs that are not terminal; 0: DefaultMaxOpenJobs

	Retention        time.Duration // how long terminal jobs are kept; 0: for ever
	LostAfter        time.Duration // of silence, until the provider is asked; 0: one minute
	UnreachableAfter time.Duration // of silence, until the machine is killed; 0: five minutes
	OrphanAfter      time.Duration // of silence, until an agent ends its work; 0: ten minutes
	Heartbeat        time.Duration // between heartbeats; 0: five seconds
	LogLimit         int64         // bytes of output kept of one attempt; 0: 64 MiB

	// Clock tells the time since some fixed moment, and nobody can set it. Timeouts are counted on it. nil: Go's
	// monotonic clock, which on some systems stands still while the computer is suspended.
	Clock func() time.Duration
	// ClockSince names the moment that Clock counts from, such as a start of the computer. While it is the same after a
	// restart, the time between is known however the wall clock was set. "": it is not known.
	ClockSince string

	Logger *slog.Logger // nil: discards
}

// QueueLimits are the limits of one queue. Zero means none.
type QueueLimits struct {
	// Provider is where jobs of the queue run that do not say it themselves, in the form of [dayfly.JobSpec]'s. "": at the
	// default provider.
	Provider string

	// Pool is that of its jobs which name none, if it suits them. "": none.
	Pool string

	Concurrency    int           // jobs of the queue that are starting or running at once
	KeyConcurrency int           // of those, jobs with the same concurrency key
	DailyCost      machine.Money // what its jobs may cost in a day before no more are launched
}

// The defaults of Options.
const (
	DefaultMaxMachines = 32
	DefaultMaxOpenJobs = 1_000_000
	DefaultOrphanAfter = 10 * time.Minute
)

// Engine runs jobs. Its methods are safe for concurrent use and wait until Run has read the store.
type Engine struct {
	store           store.Store
	providers       map[string]machine.Provider
	defaultProvider string
	logs            *joblog.Store
	blobs           blob.Store
	key             ticket.Key
	url             func(context.Context, string) (string, error)
	options         Options
	timers          timers
	logger          *slog.Logger
	luck            func() float64

	ready    chan struct{} // closed when the store has been read
	identity *store.Identity
	clock    clock
	older    atomic.Bool  // a machine was found that may be newer than the store
	wary     atomic.Int64 // until when no machine is removed that the store does not know, in Unix nanoseconds of the engine's clock
	open     atomic.Int64 // jobs that are not terminal
	armed    atomic.Int64 // when clockLoop looks again, in Unix nanoseconds of the engine's clock

	seats     sync.Mutex // held from a look at what room there is until it is taken; before mu
	mu        sync.Mutex
	vigil     vigil
	flights   map[string]*flight          // attempts in flight, by attempt id
	byMachine map[string]*flight          // the same, by machine name
	busy      map[string]int              // flights by provider
	claimed   map[string]int              // by provider: machines whose intents are being committed
	active    map[place]int               // flights by queue, and by queue and key
	lanes     map[store.Lane]*lineup      // lanes that may have ready jobs
	named     map[string]bool             // what jobs named as their providers, as far as this server knows
	refusals  map[string][]*refusal       // by provider
	said      map[string]*dayfly.Progress // by attempt: what its job said last of itself, until it is written

	spending spending // of today

	changes      notifier // of jobs, and of machines that are created
	ends         notifier // of jobs that have finished
	doomed       *destroyer
	kept         map[string]*keptMachine // guarded by mu; by name
	pools        map[string]*pool        // never changes; what is in them is guarded by mu
	runners      map[string]*runner      // guarded by mu; machines of pools by name
	polls        atomic.Int64            // how often an agent of such a machine has called to wait
	notes        *batcher[*store.Note]
	moves        *batcher[*store.MachineMove]
	wakeQueue    signal
	wakeClock    signal
	wakeProgress signal
	wakePools    signal
	background   sync.WaitGroup // provider calls in flight
	lifetime     context.Context
	endLifetime  context.CancelFunc
}

// place is what a concurrency limit counts: a queue, or a key within a queue.
type place struct{ queue, key string }

// New returns an engine that does nothing until Run is called.
func New(o Options) (*Engine, error) {
	switch {
	case o.Store == nil || o.Logs == nil || o.Blobs == nil || o.URL == nil:
		return nil, fmt.Errorf("engine: %w: Store, Logs, Blobs and URL are required", fault.Invalid)
	}
	if err := checkDefaults(&o); err != nil {
		return nil, err
	}
	pools, err := newPools(&o)
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	e := &Engine{
		pools: pools, runners: map[string]*runner{}, wakePools: newSignal(),
		store: o.Store, providers: o.Providers, defaultProvider: o.DefaultProvider,
		logs: o.Logs, blobs: o.Blobs, key: o.Key, url: o.URL, options: o,
		timers: defaultTimers(), logger: o.Logger, luck: rand.Float64,
		ready: make(chan struct{}), clock: newClock(store.Reading{}, o.Clock, o.ClockSince),
		flights: map[string]*flight{}, byMachine: map[string]*flight{}, busy: map[string]int{}, claimed: map[string]int{}, active: map[place]int{},
		lanes: map[store.Lane]*lineup{}, named: map[string]bool{}, refusals: map[string][]*refusal{}, said: map[string]*dayfly.Progress{},
		wakeQueue: newSignal(), wakeClock: newSignal(), wakeProgress: newSignal(),
	}
	if e.logger == nil {
		e.logger = slog.New(slog.DiscardHandler)
	}
	if o.LostAfter > 0 {
		e.timers.lostAfter = o.LostAfter
	}
	if o.UnreachableAfter > 0 {
		e.timers.unreachableAfter = o.UnreachableAfter
	}
	// A heartbeat refutes what a provider says of a machine, so there has to be time for one.
	e.timers.absentFor = max(e.timers.absentFor, 2*o.Heartbeat)
	e.notes = newBatcher(20*time.Millisecond, e.flushNotes)
	e.moves = newBatcher(5*time.Millisecond, e.flushMoves)
	e.doomed = newDestroyer(e)
	e.kept = map[string]*keptMachine{}
	e.lifetime, e.endLifetime = context.WithCancel(context.Background())
	return e, nil
}

// Run runs jobs until ctx ends, and then returns once the calls in flight have ended. Machines go on without it. It
// returns an error only when the store cannot be read at the start.
func (e *Engine) Run(ctx context.Context) error {
	defer e.background.Wait()
	defer e.endLifetime()
	if err := e.boot(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	close(e.ready)
	group, ctx := errgroup.WithContext(ctx)
	loops := []func(context.Context){
		e.dispatchLoop, e.clockLoop, e.tickLoop, e.touchLoop, e.progressLoop, e.reconcileLoop, e.retentionLoop, e.orphanLoop, e.keptLoop, e.poolLoop,
		e.notes.run, e.moves.run, e.doomed.run,
	}
	for name, provider := range e.providers {
		loops = append(loops,
			func(ctx context.Context) { e.watchLoop(ctx, name, provider) },
			func(ctx context.Context) { e.sweepLoop(ctx, name, provider) })
	}
	for _, loop := range loops {
		group.Go(func() error { loop(ctx); return nil })
	}
	return group.Wait()
}

// Install returns what tells this installation's machines from those of others, or "" before Run has read it.
func (e *Engine) Install() string {
	select {
	case <-e.ready:
		return e.identity.Install
	default:
		return ""
	}
}

// boot reads what the store knows of attempts in flight and machines to be destroyed. Their timers begin now: the time
// during which no server listened is nobody's silence.
func (e *Engine) boot(ctx context.Context) error {
	identity, err := e.store.Boot(ctx)
	if err != nil {
		return fmt.Errorf("engine: booting the store: %w", err)
	}
	e.identity, e.clock = identity, newClock(identity.Last, e.options.Clock, e.options.ClockSince)
	if err := e.recallRunners(ctx); err != nil {
		return err
	}
	now := e.clock.now()
	bad, err := e.eachLive(ctx, func(a *store.Attempt) {
		f := newFlight(a, now)
		f.unheard = f.state == dayfly.AttemptRunning && !f.bare
		if e.addFlight(f) && f.bare && f.state == dayfly.AttemptRunning {
			e.follow(f)
		}
	})
	if err != nil {
		return err
	}
	for _, problem := range bad {
		e.logger.Error("an attempt in flight cannot be read and is left alone", "error", problem)
	}
	deleting, err := e.condemn(ctx, 0)
	if err != nil {
		return err
	}
	if err := e.recallKept(ctx); err != nil {
		return err
	}
	if err := e.recallStrays(ctx); err != nil {
		return err
	}
	if err := e.countOpen(ctx); err != nil {
		return fmt.Errorf("engine: counting jobs: %w", err)
	}
	e.logger.Info("engine started", "install", identity.Install, "epoch", identity.Epoch,
		"attempts", len(e.flights), "deleting", deleting, "open_jobs", e.open.Load())
	unknown := slices.Collect(maps.Values(e.flights)) // copied, because the first of them may land meanwhile
	unknown = slices.DeleteFunc(unknown, func(f *flight) bool { return f.state != dayfly.AttemptCreateUnknown })
	for _, f := range unknown {
		// Asking again under the same name is harmless if the machine exists, and the quickest way to it if not.
		e.background.Go(func() { e.bring(e.lifetime, f) })
	}
	e.wakeQueue.set()
	return nil
}

// await waits until Run has read the store, or has found that it cannot.
func (e *Engine) await(ctx context.Context) error {
	select {
	case <-e.ready:
		return nil
	default:
	}
	select {
	case <-e.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("engine: the server is starting: %w: %w", fault.Unavailable, ctx.Err())
	case <-e.lifetime.Done():
		return fault.Say(fault.Unavailable, "the server could not read its store and ends")
	}
}

// Ready reports whether jobs can be taken: nil, or why not.
func (e *Engine) Ready(ctx context.Context) error {
	select {
	case <-e.ready:
		return e.store.Check(ctx)
	default:
		return fault.Say(fault.Unavailable, "the server is still reading its store")
	}
}

// flight is one attempt in flight. The engine's mu guards all fields but those that never change.
type flight struct {
	id, jobID, machine, provider, region string      // never change
	number                               int         // never changes
	meter                                store.Meter // of what it costs; never changes

	bare   bool   // its machine runs without an agent; never changes
	runner string // its machine, if that is a pool's; never changes
	untold bool   // it was claimed by its launch, for an agent of a pool's machine that has not been told of it, for certain

	lending *store.Launch // what has given it its machine, if that is a pool's and this server did so; never changes

	state dayfly.AttemptState
	fence int64
	job   *store.Job // as last read; replaced, never modified

	since     time.Time // when it was launched, or this server started
	heard     time.Time // when its agent was last heard of, or this server started
	commandAt time.Time // when its command began to run, as far as this server knows; zero before
	unheard   bool      // it ran when this server started, and its agent has not said since that it still does

	providerID string
	image      string                   // what the machine runs, as far as that has been recorded
	instances  map[string]machine.State // by the provider's id; one, unless a provider made two of one name
	sight      machine.State            // of the instance that is furthest from its end; "" before any was seen
	exit       *machine.Exit            // of the instance that ended last
	confirmed  bool                     // a whole list has shown that there is no other instance
	absentAt   time.Time                // when the provider first said that there is no such machine; zero if it did not
	absent     time.Duration            // from then to the last time it said so
	asking     bool
	askedAt    time.Time

	pending *verdict // how it has ended before its machine was made, if that could not be recorded yet
	ending  bool     // its end is being recorded
	refused *verdict // by its provider, after an answer of its had been lost: it holds once there is no machine for certain

	order     wire.Outcome
	orderedAt time.Time
	killed    bool
	killedFor string // why, if that was because of another attempt on its machine
	gone      bool
	sends     int
	sending   int  // creates that have not been answered yet
	rides     bool // its machine counts by itself, because others may be on it; set before it is counted
	kept      bool // it is over, and its machine is kept for a while
	condemned bool // it is over, and its machine is to be destroyed once they are
	looks     int

	preparing *preparing    // what the provider fetches before it is asked for the machine; nil when it does not
	deaf      bool          // a bare machine that cannot be told to end
	logged    chan struct{} // closed when all that a bare machine has printed is stored; nil before its output is followed
	over      chan struct{} // closed when the flight has landed; nil like logged

	listeners map[chan struct{}]struct{} // heartbeats that wait for an order

	// artifacts is held for reading while one is put into its place, and for writing while a result is accepted. It is
	// taken before mu.
	artifacts sync.RWMutex
}

func newFlight(a *store.Attempt, now time.Time) *flight {
	f := &flight{
		id: a.ID, jobID: a.JobID, number: a.Number, provider: a.Provider, state: a.State, fence: a.Fence, job: a.Job,
		since: now, heard: now, bare: a.Job.Spec.Bare, meter: a.Meter(), runner: a.Runner,
	}
	if a.State == dayfly.AttemptRunning {
		f.commandAt = now
	}
	if m := a.Machine; m != nil {
		f.machine, f.region, f.providerID, f.image = m.Name, m.Region, m.ID, m.Image
		f.killed = m.State == store.MachineDeleting
		f.gone = m.State == store.MachineGone
	}
	// After a restart nobody knows whether a create was answered. Finding out is the same as after a lost answer.
	if a.State == dayfly.AttemptCreating {
		f.state = dayfly.AttemptCreateUnknown
	}
	return f
}

// addFlight adds a flight, unless there is one of that attempt already, and reports whether it has.
func (e *Engine) addFlight(f *flight) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.flights[f.id] != nil {
		return false
	}
	f.rides = e.rides(f)
	e.flights[f.id], e.byMachine[f.machine] = f, f
	e.count(f, 1)
	return true
}

// count adds a flight to the counts, or takes it out. The caller holds mu.
func (e *Engine) count(f *flight, change int) {
	add := func(p place) {
		if e.active[p] += change; e.active[p] == 0 {
			delete(e.active, p)
		}
	}
	if !f.rides {
		e.busy[f.provider] += change
	}
	add(place{queue: f.job.Queue})
	if f.job.Key != "" {
		add(place{f.job.Queue, f.job.Key})
	}
}

// land removes a flight and wakes what waited for it. It reports whether the flight was still there.
func (e *Engine) land(f *flight) bool {
	e.mu.Lock()
	present := e.flights[f.id] == f
	if present {
		delete(e.flights, f.id)
		delete(e.byMachine, f.machine)
		e.count(f, -1)
	}
	f.wakeListeners()
	if present && f.over != nil {
		close(f.over)
	}
	if f.preparing != nil {
		f.preparing.stop()
	}
	job := f.job
	e.mu.Unlock()
	e.freed(job)
	e.wakeQueue.set()
	return present
}

// alive notes a sign of life of the agent. It refutes what was said before about its machine being absent. The caller
// holds mu.
func (f *flight) alive(now time.Time) {
	f.heard, f.absentAt, f.absent = now, time.Time{}, 0
}

// see takes what the provider says of one instance of the machine and reports whether the flight's sight of its
// machine has changed. Some providers may make two machines of one name; only one of them wins the claim, and nobody
// but that one knows which. So the machine counts as ended when all of them have. The caller holds mu.
func (f *flight) see(m *machine.Machine) (news bool) {
	f.absentAt, f.absent = time.Time{}, 0
	f.providerID = m.ID
	if old, ok := f.instances[m.ID]; ok && m.State.Rank() <= old.Rank() { // news come in any order
		return false
	}
	if f.instances == nil {
		f.instances = map[string]machine.State{}
	}
	f.instances[m.ID] = m.State
	if m.Exit != nil {
		f.exit = m.Exit
	}
	before := f.sight
	f.sight = m.State
	for _, state := range f.instances {
		if state.Rank() < f.sight.Rank() {
			f.sight = state
		}
	}
	return f.sight != before
}

// wakeListeners tells heartbeats that wait that there is something for them. The caller holds mu.
func (f *flight) wakeListeners() {
	for c := range f.listeners {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// flightOf returns the flight of an attempt, or nil.
func (e *Engine) flightOf(attempt string) *flight {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.flights[attempt]
}

// jobOf returns the flight's job as last read.
func (e *Engine) jobOf(f *flight) *store.Job {
	e.mu.Lock()
	defer e.mu.Unlock()
	return f.job
}
