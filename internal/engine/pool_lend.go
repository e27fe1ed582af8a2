package engine

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// tenantOf returns whose machines a job may share.
func (p *pool) tenantOf(job *store.Job) string {
	if p.Isolate == "" {
		return job.Queue
	}
	return job.Queue + " " + p.Isolate + "=" + job.Spec.Labels[p.Isolate]
}

// poolView is what planLanes decides from about one pool.
type poolView struct {
	pool   *pool
	idle   []idleView   // those it gives away first come first
	coming []comingView // those that boot
	room   int          // how many machines more it may have now
}

// comingView is a machine that boots and has more slots than jobs that it boots for.
type comingView struct {
	tenant string
	slots  int // that nobody has
	left   time.Duration
}

// awaits reports whether a job waits for a machine that boots and has room for it, and takes that. It would wait for one of its
// own as long; and of all the jobs that come at once, each would make one.
func (v *poolView) awaits(job *store.Job) bool {
	at := v.comes(job)
	if at < 0 {
		return false
	}
	v.coming[at].slots--
	v.coming[at].tenant = v.pool.tenantOf(job)
	return true
}

// comes returns the place of the machine that boots and has room for a job, or -1.
func (v *poolView) comes(job *store.Job) int {
	tenant, needs := v.pool.tenantOf(job), needs(&job.Spec)
	free := -1
	for i, c := range v.coming {
		switch {
		case c.slots <= 0 || c.left < needs:
		case c.tenant == tenant:
			return i
		case c.tenant == "" && free < 0:
			free = i
		}
	}
	return free
}

// allWait reports whether none of the jobs at the head of a lane is to be launched now, because each waits for a machine of
// its pool that boots, or for room. room is what their providers have.
func allWait(views map[string]*poolView, heads []*store.Job, room int) bool {
	return !slices.ContainsFunc(heads, func(job *store.Job) bool {
		v := views[job.Spec.Pool]
		if v == nil {
			return room > 0
		}
		return v.pick(job) >= 0 || room > 0 && v.comes(job) < 0
	})
}

// idleView is a machine that waits for an attempt.
type idleView struct {
	name, host, tenant string
	left               time.Duration // of its lifetime
}

// take returns what is at a place, which is nobody else's then. The slots beside it are its tenant's, too.
func (v *poolView) take(i int, job *store.Job) idleView {
	r := v.idle[i]
	v.idle = slices.Delete(v.idle, i, i+1)
	for i := range v.idle {
		if v.idle[i].host == r.host {
			v.idle[i].tenant = v.pool.tenantOf(job)
		}
	}
	return r
}

// grow takes note that a machine is made for a job. Those that come after may wait for its other slots.
func (v *poolView) grow(job *store.Job) {
	v.room--
	slots := v.pool.slots() - 1
	if v.pool.MaxUses > 0 {
		slots = min(slots, v.pool.MaxUses-1)
	}
	v.coming = append(v.coming, comingView{tenant: v.pool.tenantOf(job), slots: slots, left: v.pool.lifetime(&job.Spec)})
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

// poolViews gathers what is known of the pools. The machine that has the most jobs is given away first, and of those that have
// as many the one that was used last, so that those which are not needed stay idle and go.
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
	idle, busy := map[string][]*runner{}, map[string]int{} // by pool, and by machine
	for _, r := range e.runners {
		v := views[r.row.Pool]
		if v == nil || !r.isHost() || store.Together(e.rowsOf(r)) == store.RunnerDraining {
			continue
		}
		v.room--
		beside := e.share(r)
		if r.row.Spec != v.pool.spec || r.sight.Rank() >= machine.Exited.Rank() || beside.leaves != "" {
			continue
		}
		left := math.MaxInt // jobs that it may still have
		if v.pool.MaxUses > 0 {
			left = v.pool.MaxUses - beside.uses
		}
		coming := comingView{tenant: r.row.Tenant, left: r.lifeLeft(now)}
		for _, slot := range e.slotsOf(r) {
			if slot.promised || slot.row.State == store.RunnerBusy {
				busy[r.row.Host]++
			}
			switch {
			case slot.promised:
				left--
			case slot.free() && left > 0:
				idle[r.row.Pool] = append(idle[r.row.Pool], slot)
				left--
			case slot.row.State == store.RunnerWarming && slot.row.Attempt != "":
				left-- // it has not been counted as used yet
			case slot.row.State == store.RunnerWarming && r.row.Divided() && e.sinceUp(slot, now) <= divideTTL:
				coming.slots++
			}
		}
		if coming.slots = min(coming.slots, left); coming.slots > 0 {
			v.coming = append(v.coming, coming)
		}
	}
	for name, runners := range idle {
		slices.SortFunc(runners, func(a, b *runner) int {
			return cmp.Or(cmp.Compare(busy[b.row.Host], busy[a.row.Host]), b.row.IdleAt.Compare(a.row.IdleAt))
		})
		for _, r := range runners {
			views[name].idle = append(views[name].idle, idleView{
				name: r.name, host: r.row.Host, tenant: r.row.Tenant, left: r.lifeLeft(now),
			})
		}
	}
	return views
}

// lifeLeft returns how much is left of a machine's lifetime. The caller holds mu.
func (r *runner) lifeLeft(now time.Time) time.Duration {
	return r.row.CreatedAt.Add(r.row.Lifetime).Sub(now)
}

// free reports whether a machine waits for an attempt. The caller holds mu.
func (r *runner) free() bool {
	return r.row.State == store.RunnerIdle && r.poll != nil && !r.promised
}

// hasIdle reports whether a machine waits, or boots with room for more, in a pool on one of the choices.
func hasIdle(views map[string]*poolView, choices []choice) bool {
	for _, v := range views {
		if len(v.idle)+len(v.coming) > 0 && slices.Contains(choices, v.pool.where) {
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
		l.Price = shareOf(l.Price, p.slots())
		l.Lend.New = &store.Runner{
			Machine: l.Machine, ID: id, Pool: p.name, Spec: p.spec, Provider: l.Provider, Region: l.Region,
			Lifetime: p.lifetime(&job.Spec), Slots: p.slots(), Price: l.Price, CreatedAt: l.Time,
		}
		return true
	}
	l.Machine = a.lent
	if l.Price != nil { // its pool pays for the least that is billed
		price := *shareOf(l.Price, p.slots())
		price.Minimum = 0
		l.Price = &price
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.runners[a.lent]
	if r == nil || !r.free() {
		return false
	}
	r.promised, l.Lend.By = true, r.row.By
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

// occupied notes that a launch has got its machine of a pool, and tells that of its attempt.
func (e *Engine) occupied(l *store.Launch, jobID string) {
	defer e.wakePools.set() // it may want another one
	if made := l.Lend.New; made != nil {
		row := *made
		row.State, row.Version, row.Attempt, row.JobID, row.Tenant = store.RunnerWarming, 1, l.AttemptID, jobID, l.Lend.Tenant
		e.noteSlots(&row)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.runners[l.Machine]
	if r == nil || r.row.Attempt == l.AttemptID { // it has been read meanwhile
		return
	}
	for _, slot := range e.slotsOf(r) {
		if slot != r && slot.row.Tenant == "" && l.Lend.Tenant != "" {
			slot.row.Tenant = l.Lend.Tenant
			slot.row.Version++
		}
	}
	row := &r.row
	row.State, row.Attempt, row.JobID, row.Tenant, row.FreeAt = store.RunnerBusy, l.AttemptID, jobID, l.Lend.Tenant, time.Time{}
	row.Uses++
	row.Version++
	r.promised = false
	r.wake()
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
		e.mu.Lock()
		defer e.mu.Unlock()
		if r := e.runners[l.Machine]; r != nil {
			r.promised = false
		}
	})
}
