package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// A pool keeps machines for the jobs that name it, so that most of them start without a boot. It makes jobs faster and
// nothing else: a job for which no machine is idle is launched as any other, on a machine of its own. If the pool may have one
// more, that is the pool's afterwards; so the first jobs fill it. See package store for the states of its machines and
// docs/pools.md for what its owner has to know.
//
// What is kept here of the machines of pools is a copy of the store's rows, with what only this server knows: which of them
// have a call open in which they wait for an attempt. Only those are given one.

// Pool says which machines a pool has, and for how long.
type Pool struct {
	Provider string // one; "": the default provider, if that is one
	Region   string // where; "": the provider chooses
	Image    string
	Size     string // a preset, or ""

	Min     int     // machines that are kept although no job comes; the pool makes them by itself
	Max     int     // machines that it has at most
	Prewarm float64 // the share of its machines that may be in use before it makes another, from 0 to 1; 0: it never does

	Concurrency int // jobs that a machine carries out side by side, each in a slot of its own; 0: one

	Idle    time.Duration // after which a machine beyond Min that nobody uses is destroyed
	MaxAge  time.Duration // after which a machine is given no more jobs
	MaxUses int           // jobs of one machine; 0: no limit
	OneUse  bool          // no machine is used a second time: the pool only boots ahead
	Isolate string        // a label: jobs that differ in it never share a machine; "": those of one queue may
}

// pool is one pool as this server runs it. The engine's mu guards all below Pool.
type pool struct {
	name  string
	where choice
	spec  string // what its machines are made as
	Pool

	deaths int       // machines in a row that never were idle
	until  time.Time // no machine is made for the pool before
	why    string    // what became of the last of them
}

// The timers of pools.
const (
	offerTTL       = 5 * time.Second // for an agent that waits to be told of the attempt that was given to it
	recycleTTL     = time.Minute     // for an agent to clean up
	divideTTL      = time.Minute     // for all slots of a machine to call when the first has
	deathsInRow    = 3               // machines that never were idle before a pool backs off
	poolPauseLeast = 5 * time.Second
	poolPauseMost  = 5 * time.Minute
	growAtOnce     = 4 // machines that a pool makes by itself in a second
)

// slots returns into how many slots each of its machines is divided.
func (p *Pool) slots() int { return max(1, p.Concurrency) }

// newPools checks the pools and the queues that name them.
func newPools(o *Options) (map[string]*pool, error) {
	pools := map[string]*pool{}
	for _, name := range slices.Sorted(maps.Keys(o.Pools)) {
		p := &pool{name: name, Pool: o.Pools[name]}
		p.Provider = cmp.Or(p.Provider, o.DefaultProvider)
		field := "pools." + name
		switch {
		case !queueName.MatchString(name) || len(name) > 64:
			return nil, fault.Field(field, "a pool's name must be 1 to 64 characters of a-z, 0-9, '_', '.' and '-', beginning with a letter or digit")
		case p.Max < 1 || p.Min < 0 || p.Min > p.Max:
			return nil, fault.Field(field, "max must be at least 1, and min between 0 and max; they are %d and %d", p.Max, p.Min)
		case p.Prewarm < 0 || p.Prewarm > 1:
			return nil, fault.Field(field+".prewarm", "must be between 0 and 1")
		case p.Concurrency < 0 || p.Concurrency > wire.MaxSlots:
			return nil, fault.Field(field+".concurrency", "must be between 1 and %d jobs at once on a machine; it is %d", wire.MaxSlots, p.Concurrency)
		case p.OneUse && p.slots() > 1:
			return nil, fault.Field(field+".concurrency", "is %d, and with reuse off no machine has a second job; leave out one of the two", p.Concurrency)
		case p.Idle <= 0 || p.MaxAge <= 0 || p.MaxUses < 0:
			return nil, fault.Field(field, "idle and max_age must be more than 0, and max_uses not less")
		case p.MaxAge > machine.MaxLifetime-poolMargin():
			return nil, fault.Field(field+".max_age", "must be at most %v", machine.MaxLifetime-poolMargin())
		case p.Isolate != "" && !labelName.MatchString(p.Isolate):
			return nil, fault.Field(field+".isolate", "%q is not the name of a label", p.Isolate)
		}
		p.where = choice{p.Provider, p.Region}
		if _, err := CheckProviders(field+".provider", p.where.String(), slices.Collect(maps.Keys(o.Providers)), o.Absent); err != nil {
			return nil, err
		}
		if strings.Contains(p.Provider, ",") || strings.Contains(p.Provider, ":") {
			return nil, fault.Field(field+".provider", "names one provider, without a region; the region has a key of its own")
		}
		if _, err := sizeOf(&dayfly.JobSpec{Size: p.Size}); err != nil {
			return nil, fault.Field(field+".size", "there is no size %q; the sizes are %s", p.Size, strings.Join(machine.Presets(), ", "))
		}
		what := []string{p.where.String(), p.Image, p.Size}
		if p.slots() > 1 {
			what = append(what, fmt.Sprint(p.slots()))
		}
		text, err := json.Marshal(what)
		if err != nil {
			return nil, err
		}
		p.spec = string(text)
		pools[name] = p
	}
	for name, queue := range o.Queues {
		if queue.Pool != "" && pools[queue.Pool] == nil {
			return nil, fault.Field("queues."+name+".pool", "there is no pool %q; %s", queue.Pool, poolsThere(pools))
		}
	}
	return pools, nil
}

// poolMargin is how much longer than its pool's MaxAge a machine may exist: enough for a job with the default timeouts that
// it is given at the last moment.
func poolMargin() time.Duration {
	spec := dayfly.JobSpec{}
	fillDefaults(&spec)
	return fullLifetime(&spec)
}

// Pools returns the pools with their machines counted, by name.
func (e *Engine) Pools(ctx context.Context) ([]dayfly.WarmPool, error) {
	if err := e.await(ctx); err != nil {
		return nil, err
	}
	now := e.clock.now()
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]dayfly.WarmPool, 0, len(e.pools))
	for _, name := range slices.Sorted(maps.Keys(e.pools)) {
		p := e.pools[name]
		w := dayfly.WarmPool{
			Name: name, Provider: p.where.provider, Region: p.where.region, Image: p.Image, Size: p.Size, Min: p.Min, Max: p.Max,
			Concurrency: p.slots(), Machines: map[string]int{}, Slots: map[string]int{},
		}
		for _, r := range e.runners {
			if r.row.Pool != name {
				continue
			}
			w.Slots[string(r.row.State)]++
			w.Uses += r.row.Uses
			if r.isHost() {
				w.Machines[string(store.Together(e.rowsOf(r)))]++
			}
		}
		if now.Before(p.until) {
			at := wallClock().Add(p.until.Sub(now)).UTC()
			w.PausedUntil, w.Message = &at, p.pauseMessage()
		}
		list = append(list, w)
	}
	return list, nil
}

func (p *pool) pauseMessage() string {
	return fmt.Sprintf("%d machines in a row ended before they were ready, so no others are made for a while. The last one: %s", p.deaths, p.why)
}
