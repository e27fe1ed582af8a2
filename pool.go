package dayfly

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/internal/link"
	"github.com/dayfly-run/dayfly/internal/pool"
	"github.com/dayfly-run/dayfly/internal/rehearsal"
	"github.com/dayfly-run/dayfly/machine"
)

// Pool is runners: processes of this same program on machines of a provider, which come when calls need them and go when they do not. It
// is safe for concurrent use.
type Pool struct {
	name      string
	o         PoolOptions
	timeout   time.Duration
	log       *slog.Logger
	scheduler *pool.Pool
	booter    *boot.Booter
	end       context.CancelFunc
	ended     chan struct{} // closed when err is set
	err       error
}

// Packing says which of the runners with a free slot gets the next call.
type Packing int

// The ways of packing.
const (
	LeastLoaded   Packing = iota // the one with the fewest calls, so that each has as much of its machine as possible
	FewestRunners                // the one with the most calls, so that after a spike the others become idle and go
)

// Never is the value of a duration in [PoolOptions] that switches off what it limits, and of CallOptions.Timeout. In PoolOptions other
// durations below zero are refused.
const Never time.Duration = -1

// The defaults of PoolOptions.
const (
	DefaultTimeout  = 30 * time.Second
	DefaultMaxValue = 64 << 20
	DefaultStuck    = 30 * time.Second
)

// PoolOptions are the details of a [Pool]. The zero value of each field is its default.
type PoolOptions struct {
	// Name is the pool's name in logs, errors and the names of its machines: 1 to 48 characters of a-z, 0-9 and '-', beginning with
	// a letter. "": "pool". Pools of a program that run at once have different ones.
	Name string

	Min         int  // runners that are kept without work, and replaced when they are lost; in a runner, which may have pools too, 0
	Max         int  // runners at once, those that boot and those that stop included; 0: 10, or Min when that is more
	Concurrency int  // calls that a runner runs at once; 0: 100
	SingleUse   bool // each runner runs one call and is stopped; over a fleet, as that has it

	// Packing says which runner gets the next call.
	Packing Packing
	// Prewarm is the share of all slots, 0 to 1, at which one more runner is booted before anybody has to wait. 0: none is.
	Prewarm float64
	// MaxQueued is how many calls may wait for a runner at once; further ones fail. 0: 1,000,000.
	MaxQueued int

	// Idle is how long a runner beyond Min is kept without work. 0: 30 s; 1 s over a fleet, where others may have work for it.
	Idle time.Duration
	// MinIdle is the same for the last Min runners, which come back when a call has to wait. 0: Never.
	MinIdle time.Duration
	// IdleCheck is asked whether the runner of that name, which has been idle for its time, may be stopped; when it says no the runner
	// is kept for as long again. It is asked in this process, each time on a goroutine of its own: what is left on a runner its
	// functions have told, which find its name in Parent. One that panics has said yes.
	IdleCheck func(runner string) bool

	// Timeout is how long a function may run whose call has no deadline of its own. Waiting for a runner does not count. What
	// lasts as long as its caller likes has no such limit: casts, placed functions, streams, calls whose result has a reader, and
	// detached ones. 0: DefaultTimeout. Never: no limit.
	Timeout time.Duration
	// BootTimeout is how long a runner may take to be up. Over a fleet that is how long the pool waits for its turn. 0: 30 s; 5 minutes over a
	// fleet.
	BootTimeout time.Duration
	// Patience is how long a call waits while no runner is up and boots fail, before it fails with the reason; a boot that is under way then
	// is waited for. Wrong configuration is told at once, and while a runner is up and busy calls wait as long as their contexts.
	// 0: BootTimeout, and over machines of a server or a fleet at most 30 s. Never: as long as its context.
	Patience time.Duration
	// ShutdownTimeout is how long calls may go on when their runner is stopped or the pool is closed, and detached ones when
	// this process is gone. 0: 30 s.
	ShutdownTimeout time.Duration
	// Stuck is how long a function may go on after its context has ended. Until it returns it keeps its slot. Then its runner gets no
	// more calls and is replaced when the others on it have ended. 0: DefaultStuck. Never: it may go on for ever.
	Stuck time.Duration
	// Retire is how long before the end of its lifetime, which is that of the Spec, a runner gets no more calls, so that those on it can
	// be finished. Another one is booted in its place if it is needed. 0: 5 minutes, or a quarter of the lifetime if that is less.
	Retire time.Duration

	MaxArgument int // bytes of an encoded argument, without its readers; 0: DefaultMaxValue
	MaxResult   int // the same for a result, or an item of a stream; 0: DefaultMaxValue

	// Spec is what the machines are: Size, Image, Region, Env, Lifetime and so on. Name, Owner, the labels pool and parent, and what
	// runs in it are the pool's, and are left out here; an Entrypoint or a Command, if there is one, starts this program. The
	// environment of this process is not passed on.
	Spec machine.Spec
	// Address is where machines that are elsewhere reach this process: a host, and a port where it has to be a certain one. "": what
	// the provider knows.
	Address string
	// Listen is where this process listens for them when it is not at Address itself, but behind a load balancer or a forwarded port:
	// a port, such as ":7800", with a host of this computer before it where that has to be a certain one. What is in between passes
	// TCP on as it is. "": every address of this computer, and the port of Address.
	Listen string
	// Silence is after how long without a sign of life a runner is lost, and its parent to it. It counts from the last sign, which
	// may be 6 of its 15 parts old when a side falls silent. 0: 15 s.
	Silence time.Duration

	// OnGrow is told when a boot begins and ends, OnShrink when a runner leaves the pool. They are called one at a time and in
	// order, on a goroutine of their own, and may take long or panic.
	OnGrow   func(Growth)
	OnShrink func(Shrinkage)
	// OnError is told what casts have failed with, on goroutines of their own. nil: the Logger is.
	OnError func(error)
	// Logger gets what the pool has to say, and what runners log and print, with the attributes "runner", "call" and
	// "function". What a record says itself under these names, as those of a pool in a runner do, is in a group "inner". nil: slog.Default().
	Logger *slog.Logger
}

// Growth is what PoolOptions.OnGrow is told.
type Growth struct {
	Runner string        // the runner's name
	Done   bool          // false: the boot begins; true: it has ended
	Err    error         // why it failed, when it has
	Took   time.Duration // how long it took, when it has ended
	Count  int           // runners that are up or, when it begins, will be when all boots succeed
}

// Shrinkage is what PoolOptions.OnShrink is told.
type Shrinkage struct {
	Runner string // the runner's name
	// Reason is "idle", "used" by its single call, "retired" before the end of its lifetime or because a function on it does not
	// end, "lost", or "closed" with the pool.
	Reason string
	Err    error // how it ended, when it was lost; which function does not end, when that is why it was retired
	Count  int   // runners that are left
}

// PoolStats is what a pool does in one moment.
type PoolStats struct {
	Up       int // runners that do work or could: Idle and Busy together
	Idle     int // runners without a call
	Busy     int // runners with one or more
	Booting  int // runners that boot
	Stopping int // runners that are lost or being stopped, and not known to be gone

	InUse  int           // slots that are taken, by calls that run or are being sent; those of runners that stop included
	Queued int           // calls that wait for a runner
	Oldest time.Duration // how long the first of them has waited

	Boots    uint64 // boots that have succeeded
	Failures uint64 // boots that have failed, and runners that were lost before they had any call
	InARow   int    // how many times in a row boots have failed, a burst counted once; 0 when the last has succeeded
	// LastError is why the last boot failed, nil when one has succeeded since; NextBoot is in how much time one may be tried
	// again because of it, 0 when at once.
	LastError error
	NextBoot  time.Duration
}

// NewPool returns a pool of runners on the provider's machines. It boots Min of them, and others when calls need them. The pool works
// until it is closed, which ends its runners. When this process is killed they end by themselves.
//
// fault.Invalid: an option cannot be, the provider is nil, or Main was not called, without which runners would begin to do what this
// process does.
func NewPool(p machine.Provider, o *PoolOptions) (*Pool, error) {
	stage, played := p.(rehearsal.Stage)
	if !played && !program.prepared.Load() {
		return nil, fault.Say(fault.Invalid, "a pool starts this program once more, and only dayfly.Main() tells a runner from the program itself: "+
			"call it first of all in main, or in TestMain, before NewPool.")
	}
	switch none, ok := p.(noProvider); {
	case p == nil:
		return nil, fault.Say(fault.Invalid, "a pool needs a provider of machines, such as dayfly.Local(), and it was given none")
	case ok:
		return nil, none.why
	}
	made := &Pool{ended: make(chan struct{})}
	if o != nil {
		made.o = *o
	}
	fleet, shared := p.(*Fleet)
	if shared {
		fleet = fleet.forPool()
		p = fleet
		if err := fleet.complete(&made.o); err != nil {
			return nil, err
		}
	}
	hired, atServer := p.(*Hired)
	if atServer {
		hired.complete(&made.o)
	}
	if err := made.o.complete(); err != nil {
		return nil, err
	}
	made.name, made.timeout, made.log = made.o.Name, made.o.Timeout, made.o.Logger.With("pool", made.o.Name)
	if tells, ok := p.(interface{ logTo(*slog.Logger) }); ok {
		tells.logTo(made.log)
	}
	hello, err := link.ThisProcess()
	if err != nil {
		return nil, err
	}
	options := &boot.Options{Spec: made.o.Spec, Address: made.o.Address, Listen: made.o.Listen, Silence: made.o.Silence, Logger: made.o.Logger, Lent: shared}
	if atServer {
		options.Unheard = hired.unheard
	}
	if played {
		options.Network = stage.Rehearse(play)
	}
	made.booter, err = boot.New(p, made.name, hello, options)
	if err != nil {
		return nil, err
	}
	made.scheduler, err = pool.New(&backend{made}, made.o.scheduling())
	if err != nil {
		return nil, err
	}
	made.begin()
	return made, nil
}

// Local returns a provider of machines on this computer, which are processes of this program. It needs nothing. Its machines
// are no sandbox: they run as the same user and see the same files. In one process it is always the same one.
func Local() machine.Provider {
	p, err := boot.Local(nil)
	if err != nil {
		return noProvider{why: err}
	}
	return p
}

// noProvider is a provider that cannot be had, as NewPool tells.
type noProvider struct {
	machine.Provider
	why error
}

// complete fills in the defaults.
func (o *PoolOptions) complete() error {
	o.Name = cmp.Or(o.Name, "pool")
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	o.ShutdownTimeout = cmp.Or(o.ShutdownTimeout, pool.DefaultShutdownTimeout)
	o.Stuck = cmp.Or(o.Stuck, DefaultStuck)
	o.MaxArgument = cmp.Or(o.MaxArgument, DefaultMaxValue)
	o.MaxResult = cmp.Or(o.MaxResult, DefaultMaxValue)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	switch {
	case o.Timeout < 0 && o.Timeout != Never:
		return pool.NoLength("Timeout", o.Timeout)
	case o.Stuck < 0 && o.Stuck != Never:
		return pool.NoLength("Stuck", o.Stuck)
	case o.MaxArgument < 0 || o.MaxArgument > maxValue:
		return fault.Field("MaxArgument", "%d bytes cannot be a limit; it must be between 1 and %d", o.MaxArgument, maxValue)
	case o.MaxResult < 0 || o.MaxResult > maxValue:
		return fault.Field("MaxResult", "%d bytes cannot be a limit; it must be between 1 and %d", o.MaxResult, maxValue)
	}
	return nil
}

// maxValue is how large a value can be at all. What is larger is streamed.
const maxValue = 1 << 30

// scheduling returns what of the options decides who runs where.
func (o *PoolOptions) scheduling() *pool.Options {
	s := &pool.Options{
		Name: o.Name, Min: o.Min, Max: o.Max, Concurrency: o.Concurrency, SingleUse: o.SingleUse, Nested: InRunner(),
		Idle: o.Idle, MinIdle: o.MinIdle, IdleCheck: o.IdleCheck,
		BootTimeout: o.BootTimeout, ShutdownTimeout: o.ShutdownTimeout, Patience: o.Patience, Retire: o.Retire,
		Prewarm: o.Prewarm, Packing: pool.Packing(o.Packing), MaxQueued: o.MaxQueued, Logger: o.Logger,
	}
	if tell := o.OnGrow; tell != nil {
		s.OnGrow = func(g pool.Growth) { tell(Growth(g)) }
	}
	if tell := o.OnShrink; tell != nil {
		s.OnShrink = func(s pool.Shrinkage) {
			tell(Shrinkage{Runner: s.Runner, Reason: string(s.Reason), Err: s.Err, Count: s.Count})
		}
	}
	return s
}

// begin starts what the pool does by itself.
func (p *Pool) begin() {
	var ctx context.Context
	ctx, p.end = context.WithCancel(context.Background())
	watching, stop := context.WithCancel(context.Background())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if err := p.booter.Run(watching); err != nil {
			p.log.Error("machines are not looked after any more", "error", err)
		}
	}()
	go func() {
		defer close(p.ended)
		p.err = p.scheduler.Run(ctx)
		stop() // after the last runner was stopped
		<-watched
	}()
}

// Run waits until the context ends and closes the pool, or until it is closed. It returns what Close returns. A program that has
// nothing to wait for calls Close instead.
func (p *Pool) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-p.ended:
	}
	return p.Close()
}

// Close refuses the calls that wait, lets those that run go on for PoolOptions.ShutdownTimeout, stops all runners and returns
// when their machines are gone. A provider that does not answer is tried for about a minute; the error says which machines are left
// because it could not end them. They end by themselves. It may be repeated.
func (p *Pool) Close() error {
	p.end()
	<-p.ended
	return p.err
}

// Name returns the name of the pool.
func (p *Pool) Name() string { return p.name }

// Stats returns what the pool does now.
func (p *Pool) Stats() PoolStats { return PoolStats(p.scheduler.Stats()) }

// castFailed tells of a cast that has failed.
func (p *Pool) castFailed(function string, err error) {
	if p.o.OnError == nil {
		p.log.Error("a cast failed", "function", function, "error", err)
		return
	}
	defer func() {
		if cause := recover(); cause != nil { // a callback that fails harms nobody else
			p.log.Error("OnError panicked", "function", function, "error", err, "panic", cause)
		}
	}()
	p.o.OnError(err)
}
