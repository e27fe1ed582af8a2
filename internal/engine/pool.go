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

// runner is a machine of a pool. The engine's mu guards all but what never changes.
type runner struct {
	name string       // the machine's; never changes, so that it may be read without the lock
	row  store.Runner // as last read or written

	sight    machine.State
	exit     string    // how it has ended, when sight says that it has
	since    time.Time // when it was asked for, or this server started
	heard    time.Time // when its agent was last heard of, or this server started
	bringing bool      // it is being asked for, by itself and not by an attempt's flight
	fetching bool      // what it needs is being fetched
	poll     *poll     // the call in which its agent waits; nil: none is open
}

// poll is one call in which the agent of a machine waits for an attempt.
type poll struct {
	wake   signal
	number int64 // later ones have higher numbers
}

// The timers of pools.
const (
	reserveTTL     = 5 * time.Second  // for an agent that waits to take the attempt that was given to it
	reserveTTLBoot = 20 * time.Second // the same, when the server has been started meanwhile: the agent has to find it
	recycleTTL     = time.Minute      // for an agent to clean up
	deathsInRow    = 3                // machines that never were idle before a pool backs off
	poolPauseLeast = 5 * time.Second
	poolPauseMost  = 5 * time.Minute
	growAtOnce     = 4 // machines that a pool makes by itself in a second
)

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
		text, err := json.Marshal([]string{p.where.String(), p.Image, p.Size})
		if err != nil {
			return nil, err
		}
		p.spec = string(text)
		pools[name] = p
	}
	for name, queue := range o.Queues {
		if queue.Pool != "" && pools[queue.Pool] == nil {
			return nil, fault.Field("queues."+name+".pool", "there is no pool %q", queue.Pool)
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

// unpoolable says what of a job keeps it off machines of pools, or "".
func unpoolable(spec *dayfly.JobSpec) string {
	switch {
	case spec.Bare:
		return "bare: its machine has no agent that could wait for another job"
	case spec.OwnAgent:
		return "own_agent: only Dayfly's agent waits for another job"
	case spec.KeepOnFailure > 0:
		return "keep_on_failure: a machine that is kept is not free for others"
	case spec.MaxCost > 0:
		return "max_cost: the cap is kept by the end of a machine that is the job's alone"
	}
	return ""
}

// placePool fills in what a job on a machine of a pool runs as, and refuses what its pool does not have. A queue's pool is
// only for those of its jobs that it suits.
func (e *Engine) placePool(spec *dayfly.JobSpec) error {
	named := spec.Pool != ""
	name := cmp.Or(spec.Pool, e.options.Queues[spec.Queue].Pool)
	if name == "" {
		return nil
	}
	p := e.pools[name]
	if p == nil {
		return fault.Field("pool", "there is no pool %.64q%s", name, listed("; the pools are ", slices.Sorted(maps.Keys(e.pools))))
	}
	refuse := func(field, format string, args ...any) error {
		if !named {
			spec.Pool = ""
			return nil
		}
		return fault.Field(field, format, args...)
	}
	size := dayfly.JobSpec{Size: p.Size}
	own := spec.Size != "" || spec.CPUs != 0 || spec.MemoryMB != 0 || spec.DiskMB != 0 || spec.Processes != 0
	asked, _ := sizeOf(spec)
	offered, _ := sizeOf(&size)
	switch why := unpoolable(spec); {
	case why != "":
		return refuse("pool", "cannot be combined with %s", why)
	case spec.Image != "" && spec.Image != p.Image:
		return refuse("image", "is %.100q, and the machines of pool %s have %s; leave it out, or name no pool", spec.Image, name, orNone("image", p.Image))
	case own && asked != offered:
		return refuse("size", "is another than the machines of pool %s have, which is %s; leave it out, or name no pool", name, orNone("size", p.Size))
	case spec.Provider != "" && spec.Provider != p.where.String() && spec.Provider != p.where.provider:
		return refuse("provider", "is %.100q, and pool %s is on %s; leave it out, or name no pool", spec.Provider, name, p.where)
	}
	spec.Pool, spec.Provider, spec.Image = name, p.where.String(), p.Image
	if !own {
		spec.Size = p.Size
	}
	return nil
}

// orNone names what a pool's machines have, or says that they have none.
func orNone(what, value string) string {
	if value == "" {
		return "no " + what
	}
	return value
}

// listed returns a list with what comes before it, or "" if it is empty.
func listed(before string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	return before + strings.Join(names, ", ")
}

// tenantOf returns whose machines a job may share.
func (p *pool) tenantOf(job *store.Job) string {
	if p.Isolate == "" {
		return job.Queue
	}
	return job.Queue + " " + p.Isolate + "=" + job.Spec.Labels[p.Isolate]
}

// poolView is what planLanes decides from about one pool.
type poolView struct {
	pool *pool
	idle []idleView // those it gives away first come first
	room int        // how many machines more it may have now
}

// idleView is a machine that waits for an attempt.
type idleView struct {
	name, tenant string
	left         time.Duration // of its lifetime
}

// pick returns the place of the machine that a job gets, or -1.
func (v *poolView) pick(job *store.Job) int {
	tenant, needs := v.pool.tenantOf(job), needs(&job.Spec)
	free := -1
	for i, r := range v.idle {
		switch {
		case r.left < needs:
		case r.tenant == tenant:
			return i
		case r.tenant == "" && free < 0:
			free = i
		}
	}
	return free
}

// needs returns for how long a job needs a machine that has booted.
func needs(spec *dayfly.JobSpec) time.Duration {
	return fullLifetime(spec) - time.Duration(spec.Timeouts.Boot)
}

// poolViews gathers what is known of the pools. The machine that was used last is given away first, so that those which are
// not needed stay idle and go.
func (e *Engine) poolViews(now time.Time) map[string]*poolView {
	if len(e.pools) == 0 {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	views := make(map[string]*poolView, len(e.pools))
	for name, p := range e.pools {
		views[name] = &poolView{pool: p, room: p.Max}
		if now.Before(p.until) {
			views[name].room = 0
		}
	}
	idle := map[string][]*runner{}
	for _, r := range e.runners {
		v := views[r.row.Pool]
		if v == nil || r.row.State == store.RunnerDraining {
			continue
		}
		v.room--
		if r.row.State == store.RunnerIdle && r.poll != nil && r.row.Spec == v.pool.spec && r.sight.Rank() < machine.Exited.Rank() {
			idle[r.row.Pool] = append(idle[r.row.Pool], r)
		}
	}
	for name, runners := range idle {
		slices.SortFunc(runners, func(a, b *runner) int { return b.row.IdleAt.Compare(a.row.IdleAt) })
		for _, r := range runners {
			views[name].idle = append(views[name].idle, idleView{
				name: r.name, tenant: r.row.Tenant, left: r.row.CreatedAt.Add(r.row.Lifetime).Sub(now),
			})
		}
	}
	return views
}

// hasIdle reports whether a machine waits in a pool on one of the choices.
func hasIdle(views map[string]*poolView, choices []choice) bool {
	for _, v := range views {
		if len(v.idle) > 0 && slices.Contains(choices, v.pool.where) {
			return true
		}
	}
	return false
}

// lend gives a launch its machine of a pool, as plan has decided. It reports whether it still can.
func (e *Engine) lend(l *store.Launch, job *store.Job, a action) bool {
	if a.lent == "" && !a.grow {
		return true
	}
	p := e.pools[job.Spec.Pool]
	tenant := p.tenantOf(job)
	l.Lend = &store.Lending{Tenant: tenant, Wall: wallClock(), Most: p.Max}
	if a.grow {
		id := newID("rnr_")
		l.Machine = machineName(e.identity.Install, id)
		l.Lend.New = &store.Runner{
			Machine: l.Machine, ID: id, Pool: p.name, Spec: p.spec, Provider: l.Provider, Region: l.Region,
			Lifetime: p.lifetime(&job.Spec), Price: l.Price, CreatedAt: l.Time,
		}
		return true
	}
	l.Machine = a.lent
	if l.Price != nil { // its pool pays for the least that is billed
		price := *l.Price
		price.Minimum = 0
		l.Price = &price
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.runners[a.lent]
	if r == nil || r.row.State != store.RunnerIdle || r.poll == nil {
		return false
	}
	r.row.State, r.row.Attempt, r.row.JobID, r.row.Tenant = store.RunnerReserved, l.AttemptID, job.ID, tenant
	return true
}

// lifetime returns how long a machine of the pool may exist that is made for a job, or for none.
func (p *pool) lifetime(spec *dayfly.JobSpec) time.Duration {
	margin := poolMargin()
	if spec != nil {
		margin = max(margin, fullLifetime(spec))
	}
	return min(p.MaxAge+margin, machine.MaxLifetime)
}

// unlend takes back what lend has noted, after a launch that did not happen or may not have. The store says how it is.
func (e *Engine) unlend(l *store.Launch) {
	if l.Lend == nil || l.Lend.New != nil {
		return
	}
	e.background.Go(func() {
		if err := e.syncRunner(e.lifetime, l.Machine); err != nil && e.lifetime.Err() == nil {
			e.logger.Warn("a machine of a pool could not be read; trying again", "machine", l.Machine, "error", err)
		}
	})
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
			Machines: map[string]int{},
		}
		for _, r := range e.runners {
			if r.row.Pool == name {
				w.Machines[string(r.row.State)]++
				w.Uses += r.row.Uses
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
