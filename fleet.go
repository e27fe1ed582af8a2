package dayfly

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"iter"
	"maps"
	mathrand "math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/internal/link"
	"github.com/dayfly-run/dayfly/internal/pool"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// FleetOptions are what the runners of a [Fleet] are to be. All programs that share one have the same.
type FleetOptions struct {
	Min int // runners that are kept warm as long as any pool uses the fleet, before there is a call
	Max int // runners at once, those of all pools together; 0: 10, or Min when that is more
	// Idle is how long a runner beyond Min is kept when no pool has it. 0: 5 minutes.
	Idle time.Duration
	// SingleUse makes each runner be lent once: it is destroyed when a pool has given it back. Pools that use the fleet say so, too,
	// and thereby each runner runs one call.
	SingleUse bool
}

// The defaults of a fleet, and of a pool over one.
const (
	defaultFleetMax  = 10
	defaultFleetIdle = 5 * time.Minute
	// fleetPoolIdle is how long a pool keeps a runner for which it has no call, since others may have one.
	fleetPoolIdle = time.Second
	// fleetPoolBootTimeout is how long it waits in a fleet's line.
	fleetPoolBootTimeout = 5 * time.Minute
)

// Fleet is a provider whose machines are warm already: runners of a program that a server keeps, and lends to the pools of all
// processes of that program, to one at a time. Ten web servers that share a fleet do not each keep runners of their own. Make
// it with [Client.Fleet]. It is safe for concurrent use.
//
// A boot that fails says what its machine has printed. Of one that is up nobody is told that, since it may be of another process's calls; what
// is printed in the pool's own goes to its Logger, as always.
//
// What it calls a machine is a runner that the pool has for as long as it likes: Create waits until there is one, and Destroy gives it
// back. When its parent is killed a runner goes back by itself, and one with functions that do not end is not lent again.
type Fleet struct {
	broker
	name    string
	options FleetOptions
	why     error // why there can be no such fleet, or nil

	mu    sync.Mutex
	terms *wire.FleetTerms // guarded by mu; what was last said of its runners; nil before it is known what they are
}

var (
	_ machine.Provider = (*Fleet)(nil)
	_ machine.Watcher  = (*Fleet)(nil)
	_ machine.Carrier  = (*Fleet)(nil)
	_ machine.Gateway  = (*Fleet)(nil)
	_ machine.Preparer = (*Fleet)(nil)
)

// Fleet returns the fleet of that name, a-z, 0-9 and '-', on machines of the server's provider of that name, such as "docker", as a
// provider for a [Pool]. The client's token needs the scope hire. It makes no request; whatever cannot be is told by NewPool.
//
// Runners are shared by processes of the same build whose pools have the same Spec. During a deployment a fleet has runners of two builds,
// and those of the old one give way. The program is uploaded to the server as with [Client.Provider].
func (c *Client) Fleet(name, provider string, o *FleetOptions) *Fleet {
	f := &Fleet{broker: c.broker(wire.FleetPrefix, provider, name), name: name}
	if o != nil {
		f.options = *o
	}
	f.why = f.options.complete(name)
	return f
}

// complete fills in the defaults. fault.Invalid: an option cannot be.
func (o *FleetOptions) complete(name string) error {
	o.Max = cmp.Or(o.Max, max(defaultFleetMax, o.Min))
	o.Idle = cmp.Or(o.Idle, defaultFleetIdle)
	switch {
	case !pool.ValidName(name):
		return fault.Say(fault.Invalid, "A fleet cannot be called %.64q; its name has 1 to 48 characters of a-z, 0-9 and '-' and begins with a letter.", name)
	case o.Min < 0:
		return fault.Field("Min", "%d runners cannot be kept; it must be 0 or more", o.Min)
	case o.Max < 0:
		return fault.Field("Max", "%d runners cannot exist; it must be 1 or more, or 0 for the default", o.Max)
	case o.Min > o.Max:
		return fault.Field("Min", "%d runners are more than Max allows, which is %d", o.Min, o.Max)
	case o.Idle < 0 || o.Idle > machine.MaxLifetime:
		return fault.Field("Idle", "%v cannot be how long a runner is kept; it must be between 0 and %v; who always wants some sets Min", o.Idle, machine.MaxLifetime)
	}
	return nil
}

// forPool returns the same fleet for one pool, which has a lease of its own. A pool in a runner asks for no runners beforehand, because
// each of those would have such a pool.
func (f *Fleet) forPool() *Fleet {
	own := &Fleet{broker: f.broker, name: f.name, options: f.options, why: f.why}
	own.holder, own.programs = rand.Text(), newCarrier(&f.client)
	if InRunner() {
		own.options.Min = 0
	}
	return own
}

// complete fills in what is otherwise for a pool over a fleet. fault.Invalid: the pool's options do not go with the fleet.
func (f *Fleet) complete(o *PoolOptions) error {
	switch {
	case f.why != nil:
		return f.why
	case o.SingleUse && !f.options.SingleUse:
		return fault.Field("SingleUse", "the runners of the fleet %s serve many pools, one after another; set SingleUse of its FleetOptions, too", f.name)
	case !o.SingleUse && f.options.SingleUse:
		return fault.Field("SingleUse", "the runners of the fleet %s are for a single use; set SingleUse of the pool, too", f.name)
	case o.Min > f.options.Max:
		return fault.Field("Min", "the pool is to keep %d runners, and the fleet %s has at most %d for all", o.Min, f.name, f.options.Max)
	}
	o.Idle = cmp.Or(o.Idle, fleetPoolIdle)
	o.BootTimeout = cmp.Or(o.BootTimeout, fleetPoolBootTimeout)
	o.Patience = cmp.Or(o.Patience, min(o.BootTimeout, serverPatience)) // to be in line is not to wait for the server
	return nil
}

// describe says what the runners for a spec are, and remembers that.
func (f *Fleet) describe(spec *machine.Spec) (*wire.FleetTerms, error) {
	if f.why != nil {
		return nil, f.why
	}
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	this, err := link.ThisProcess()
	if err != nil {
		return nil, err
	}
	terms := &wire.FleetTerms{
		Holder: f.holder, Build: this.Build, Spec: *spec,
		Min: f.options.Min, Max: f.options.Max, IdleMS: f.options.Idle.Milliseconds(), SingleUse: f.options.SingleUse,
	}
	known := *terms
	known.Spec.Env = maps.Clone(spec.Env)
	delete(known.Spec.Env, boot.ParentVariable) // which is this machine's alone
	f.mu.Lock()
	defer f.mu.Unlock()
	f.terms = &known
	return terms, nil
}

// Prepare implements machine.Preparer: from now on, as long as Watch runs, Min runners for such a spec are kept.
func (f *Fleet) Prepare(ctx context.Context, spec *machine.Spec, _ func(machine.Preparation)) error {
	if _, err := f.describe(spec); err != nil {
		return err
	}
	return f.announce(ctx)
}

// announce says what runners there are to be.
func (f *Fleet) announce(ctx context.Context) error {
	f.mu.Lock()
	terms := f.terms
	f.mu.Unlock()
	if terms == nil {
		return nil
	}
	return f.put(ctx, *terms)
}

func (f *Fleet) put(ctx context.Context, terms wire.FleetTerms) error {
	return f.programs.with(ctx, terms.Spec.Program, func(program *machine.Program) error {
		terms.Spec.Program = program
		return f.call(ctx, request{method: http.MethodPut, path: f.path(), body: &terms}, nil)
	})
}

// withdraw says that no runner is to be kept for this pool. A server that does not hear it finds out by itself.
func (f *Fleet) withdraw(ctx context.Context) {
	f.mu.Lock()
	terms := f.terms
	f.mu.Unlock()
	if terms == nil || terms.Min == 0 {
		return
	}
	last := *terms
	last.Min = 0
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), withdrawTimeout)
	defer cancel()
	_ = f.put(ctx, last) // as said
}

const (
	withdrawTimeout  = 2 * time.Second
	announceInterval = 5 * time.Second
	// reserveHold is how long the server may take to answer that there is no runner yet.
	reserveHold = 20 * time.Second
	// unheardTTL is for how long a server that does not answer is asked for the same runner: no longer than that keeps a place in its line.
	// How long calls wait for it to come back is the pool's affair, which asks for another runner then.
	unheardTTL = 5 * time.Second
)

// Create implements machine.Provider: it waits until the fleet has a runner for the spec. A server that does not answer is asked again
// for some seconds, and one that is started again meanwhile gives the same runner.
func (f *Fleet) Create(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
	terms, err := f.describe(spec)
	if err != nil {
		return nil, err
	}
	reserve := &wire.Reserve{FleetTerms: *terms}
	var m *machine.Machine
	var failure error
	err = f.programs.with(ctx, spec.Program, func(program *machine.Program) (err error) {
		reserve.Spec.Program = program
		m, failure, err = f.reserve(ctx, reserve)
		return err
	})
	return m, cmp.Or(err, failure)
}

// reserve asks for a runner until there is one, or it is known why there is none. failure is why one did not boot; err is everything
// else, such as that the server has not answered for unheardTTL.
func (f *Fleet) reserve(ctx context.Context, reserve *wire.Reserve) (m *machine.Machine, failure, err error) {
	heard, why, unheard := time.Now(), "", error(nil)
	for pause := backoffFirst; ; {
		var answer struct {
			machine.Machine               // one without a state is a place in the line, as wire.FleetWait has it
			Why             string        `json:"why"`
			Failed          *wire.Problem `json:"failed"`
		}
		began := time.Now()
		reserve.WaitMS = holdFor(ctx).Milliseconds()
		err := f.call(ctx, request{method: http.MethodPost, path: f.path("machines"), body: reserve}, &answer)
		switch {
		case err == nil && answer.Failed != nil:
			return nil, fault.Say(fault.Kind(answer.Failed.Code), "%s", answer.Failed.Detail), nil
		case err == nil && answer.State != "":
			return &answer.Machine, nil, nil
		case err == nil:
			heard, why, unheard, pause = time.Now(), answer.Why, nil, backoffFirst
			if time.Since(began) < reserveHold/2 { // no server that is in order answers so soon
				sleep(ctx, hirePoll)
			}
			continue
		case ctx.Err() != nil && unheard != nil:
			return nil, nil, unheard
		case ctx.Err() != nil && why != "":
			return nil, nil, fault.Say(fault.Canceled, "No runner was to be had of the fleet %s in time. %s", f.name, why)
		case ctx.Err() != nil, !errors.Is(err, fault.Unavailable), time.Since(heard) >= unheardTTL:
			return nil, nil, err
		}
		if unheard == nil {
			f.programs.logger().Warn("the server of the fleet does not answer; it is asked again", "fleet", f.name, "error", err)
		}
		unheard = err
		sleep(ctx, pause/2+mathrand.N(pause))
		pause = min(2*pause, hirePoll)
	}
}

// holdFor returns how long the server may take to answer: somewhat less than there is time, so that who gets nothing hears why.
func holdFor(ctx context.Context) time.Duration {
	deadline, limited := ctx.Deadline()
	if !limited {
		return reserveHold
	}
	return max(0, min(reserveHold, time.Until(deadline)-hirePoll/2))
}

// Watch implements machine.Watcher. It asks for a list every second, and thereby keeps the reservations, and says every few seconds
// what runners are to be kept. A reservation that is not in a list may be one of which a server that was started anew has not heard
// yet, and is not taken for gone.
func (f *Fleet) Watch(ctx context.Context, owner string) iter.Seq2[*machine.Machine, error] {
	return func(yield func(*machine.Machine, error) bool) {
		defer f.withdraw(ctx)
		known := map[string]machine.State{}
		var announced time.Time
		for ctx.Err() == nil {
			list, err := f.List(ctx, owner)
			if err == nil && time.Since(announced) >= announceInterval {
				if err = f.announce(ctx); err == nil {
					announced = time.Now()
				}
			}
			if err != nil && ctx.Err() == nil && !yield(nil, err) {
				return
			}
			seen := make(map[string]machine.State, len(list))
			for _, m := range list {
				seen[m.ID] = m.State
				if known[m.ID] != m.State && !yield(m, nil) {
					return
				}
			}
			if list != nil {
				known = seen
			}
			sleep(ctx, hirePoll)
		}
	}
}
