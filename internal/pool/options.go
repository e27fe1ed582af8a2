package pool

import (
	"log/slog"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// The defaults of Options.
const (
	DefaultMax             = 10
	DefaultConcurrency     = 100
	DefaultIdle            = 30 * time.Second
	DefaultBootTimeout     = 30 * time.Second
	DefaultShutdownTimeout = 30 * time.Second
	DefaultMaxQueued       = 1_000_000
	DefaultRetire          = 5 * time.Minute
)

// Never is the value of a duration in Options that switches off what it limits. Other durations below zero are refused.
const Never time.Duration = -1

// Packing says which of the runners with a free slot gets the next caller.
type Packing int

// The ways of packing.
const (
	// LeastLoaded gives each runner as little as possible: the one with the fewest slots taken is next.
	LeastLoaded Packing = iota
	// FewestRunners fills one runner after another: the one with the most slots taken is next. So after a spike the others
	// become idle and go.
	FewestRunners
)

// Options are what a pool may be told. The zero value of each field is its default.
type Options struct {
	// Name is the pool's name in logs, errors and the names of runners: 1 to 48 characters of a-z, 0-9 and '-', beginning with a
	// letter. "": "pool".
	Name string

	Min         int  // runners that are kept up without work, and replaced when they are lost
	Max         int  // runners that exist at once, those that boot and those that stop included; 0: DefaultMax, or Min when that is more
	Concurrency int  // slots of each runner; 0: DefaultConcurrency
	SingleUse   bool // each runner has one slot, once in its life

	// Nested makes Min 0. A program that is itself a runner starts its own pools like its parent; without this each of its
	// runners would keep runners, and each of those.
	Nested bool

	Idle    time.Duration // how long a runner beyond Min is kept without work; 0: DefaultIdle
	MinIdle time.Duration // the same for the last Min runners, which come back when a caller has to wait; 0: Never
	// IdleCheck is asked whether the idle runner of that name, which the Backend was given, may be stopped; when it says no the runner
	// is kept for as long again. It is called on a goroutine of its own. One that panics has said yes. Nil says yes.
	IdleCheck func(runner string) bool

	BootTimeout     time.Duration // how long a boot may take; 0: DefaultBootTimeout
	ShutdownTimeout time.Duration // how long work may go on when its runner is stopped, and when the pool closes; 0: DefaultShutdownTimeout
	// Patience is how long a caller waits while no runner is up and boots fail, before it is told why. 0: BootTimeout. Never: as
	// long as its context. Where a runner is up and busy, callers always wait as long as their contexts.
	Patience time.Duration
	// Retire is how long before its end a [Mortal] runner gets no more work, so that what it has can be finished. 0:
	// DefaultRetire, or a quarter of what it has to live when it is up, if that is less.
	Retire time.Duration

	Prewarm   float64 // the share of all slots, 0 to 1, at which one more runner is booted before anybody has to wait; 0: none is
	Packing   Packing
	MaxQueued int // callers that wait at once; 0: DefaultMaxQueued

	// OnGrow is told when a boot begins and when it ends, OnShrink when a runner leaves the pool. They are called one at a
	// time, in order, on a goroutine of their own, so they may take long, panic or call the pool. When a thousand
	// calls are due, further ones are left out, and the log says how many.
	OnGrow   func(Growth)
	OnShrink func(Shrinkage)

	// Logger is used like the callbacks, beside the pool: it may be slow. Nil: discards.
	Logger *slog.Logger
}

// Growth is what [Options.OnGrow] is told.
type Growth struct {
	Runner string        // the name that the Backend was given
	Done   bool          // false: the boot begins; true: it has ended
	Err    error         // why it failed, when it has
	Took   time.Duration // how long it took, when it has ended
	Count  int           // runners that are up or, when it begins, will be when all boots succeed
}

// Shrinkage is what [Options.OnShrink] is told.
type Shrinkage struct {
	Runner string // the name that the Backend was given
	Reason Reason // Idled, Used, Retired, Lost or Closed
	Err    error  // what the runner says, when it was lost
	Count  int    // runners that are left
}

// complete returns o with all defaults filled in, or an error of kind [fault.Invalid].
func (o *Options) complete() (Options, error) {
	var c Options
	if o != nil {
		c = *o
	}
	if err := c.check(); err != nil {
		return c, err
	}
	if c.Name == "" {
		c.Name = "pool"
	}
	if c.Nested {
		c.Min = 0
	}
	setDefault(&c.Max, max(DefaultMax, c.Min))
	setDefault(&c.Concurrency, DefaultConcurrency)
	if c.SingleUse {
		c.Concurrency = 1
	}
	setDefault(&c.MaxQueued, DefaultMaxQueued)
	setDefault(&c.Idle, DefaultIdle)
	setDefault(&c.MinIdle, Never)
	setDefault(&c.BootTimeout, DefaultBootTimeout)
	setDefault(&c.ShutdownTimeout, DefaultShutdownTimeout)
	setDefault(&c.Patience, c.BootTimeout)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

func setDefault[T int | time.Duration](value *T, otherwise T) {
	if *value == 0 {
		*value = otherwise
	}
}

func (o *Options) check() error {
	switch {
	case o.Name != "" && !ValidName(o.Name):
		return fault.Field("Name", "%q must be 1 to 48 characters of a-z, 0-9 and '-', beginning with a letter", o.Name)
	case o.Min < 0:
		return fault.Field("Min", "%d runners cannot be kept; it must be 0 or more", o.Min)
	case o.Max < 0:
		return fault.Field("Max", "%d runners cannot exist; it must be 1 or more, or 0 for the default", o.Max)
	case o.Max > 0 && o.Min > o.Max:
		return fault.Field("Min", "%d runners are more than Max allows, which is %d", o.Min, o.Max)
	case o.Concurrency < 0:
		return fault.Field("Concurrency", "a runner cannot have %d slots; it must be 1 or more, or 0 for the default", o.Concurrency)
	case !(o.Prewarm >= 0 && o.Prewarm <= 1):
		return fault.Field("Prewarm", "%v is not a share of all slots; it must be between 0 and 1", o.Prewarm)
	case o.Packing != LeastLoaded && o.Packing != FewestRunners:
		return fault.Field("Packing", "%d is neither LeastLoaded nor FewestRunners", o.Packing)
	case o.MaxQueued < 0:
		return fault.Field("MaxQueued", "%d callers cannot wait; it must be 1 or more, or 0 for the default", o.MaxQueued)
	case o.Idle < 0 && o.Idle != Never:
		return NoLength("Idle", o.Idle)
	case o.MinIdle < 0 && o.MinIdle != Never:
		return NoLength("MinIdle", o.MinIdle)
	case o.BootTimeout < 0:
		return fault.Field("BootTimeout", "%v is no time to boot in; a boot always has a limit", o.BootTimeout)
	case o.ShutdownTimeout < 0:
		return fault.Field("ShutdownTimeout", "%v is no time to shut down in; a shutdown always has a limit", o.ShutdownTimeout)
	case o.Patience < 0 && o.Patience != Never:
		return NoLength("Patience", o.Patience)
	case o.Retire < 0:
		return fault.Field("Retire", "%v before its end is after it", o.Retire)
	}
	return nil
}

// NoLength returns the error of a duration in that field which is negative and not Never, of kind fault.Invalid. It was computed, as a
// rule, and would switch off what it was meant to limit.
func NoLength(field string, d time.Duration) error {
	return fault.Field(field, "%v is no length of time; it must be 0 or more, or Never", d)
}

// ValidName reports whether a pool can have that name.
func ValidName(name string) bool {
	if len(name) > 48 || name[0] < 'a' || name[0] > 'z' {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
