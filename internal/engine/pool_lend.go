package engine

import (
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
		if r.free() && r.row.Spec == v.pool.spec && r.sight.Rank() < machine.Exited.Rank() {
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

// free reports whether a machine waits for an attempt. The caller holds mu.
func (r *runner) free() bool {
	return r.row.State == store.RunnerIdle && r.poll != nil && !r.promised
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
		e.noteRunner(&row)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.runners[l.Machine]
	if r == nil || r.row.Attempt == l.AttemptID { // it has been read meanwhile
		return
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
