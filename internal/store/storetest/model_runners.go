package storetest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// running counts the machines of a pool that are not on their way out.
func (m *model) running(pool string) int {
	hosts := map[string]bool{}
	for _, r := range m.runners {
		if r.Pool == pool && r.State != store.RunnerDraining && r.State != store.RunnerGone {
			hosts[r.Host] = true
		}
	}
	return len(hosts)
}

// slots returns the slots of a machine of a pool, the first of them first, or copies of them.
func (m *model) slots(host string, copied bool) []*store.Runner {
	var list []*store.Runner
	for k := 1; ; k++ {
		r := m.runners[wire.Slot(host, k)]
		if r == nil || r.Host != host {
			return list
		}
		if copied {
			c := *r
			r = &c
		}
		list = append(list, r)
	}
}

// make adds a machine of a pool with all its slots.
func (m *model) make(r *store.Runner) {
	for _, slot := range r.AllSlots() {
		slot.State, slot.Version = store.RunnerWarming, 1
		if slot.Attempt == "" {
			slot.FreeAt = r.CreatedAt
		}
		m.runners[slot.Machine] = slot
	}
}

func (m *model) AddRunner(_ context.Context, r *store.Runner, most int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running(r.Pool) >= most {
		return refuse(fault.Exhausted, "pool %s", r.Pool)
	}
	if m.runners[r.Machine] != nil {
		return refuse(fault.Conflict, "machine %s", r.Machine)
	}
	m.make(r)
	return nil
}

func (m *model) MoveRunner(_ context.Context, w *store.RunnerMove) (*store.Runner, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.runners[w.Machine]
	if r == nil {
		return nil, refuse(fault.NotFound, "machine %s", w.Machine)
	}
	if !slices.Contains(w.From, r.State) || r.Attempt != w.Attempt {
		return nil, refuse(fault.Conflict, "machine %s is %s", w.Machine, r.State)
	}
	r.By, r.MachineID = cmp.Or(w.By, r.By), cmp.Or(w.MachineID, r.MachineID)
	r.Image, r.Location = cmp.Or(w.Image, r.Image), cmp.Or(w.Location, r.Location)
	move(r, w.To, w.Time, w.Message)
	c := *r
	return &c, nil
}

// move puts a machine of a pool into a state in which no attempt has it any more.
func move(r *store.Runner, to store.RunnerState, at time.Time, message string) {
	r.State = to
	r.Version++
	switch to {
	case store.RunnerIdle:
		r.Attempt, r.JobID, r.IdleAt = "", "", at
	case store.RunnerDraining:
		r.DrainAt, r.GoneAt, r.Message = at, time.Time{}, message
	}
}

func (m *model) Runners(context.Context) ([]*store.Runner, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []*store.Runner
	for _, name := range slices.Sorted(maps.Keys(m.runners)) {
		if r := *m.runners[name]; r.State != store.RunnerGone {
			list = append(list, &r)
		}
	}
	return list, nil
}

func (m *model) Runner(_ context.Context, nameOrID string) (*store.Runner, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.runners {
		if r.Machine == nameOrID || r.ID == nameOrID {
			c := *r
			return &c, nil
		}
	}
	return nil, refuse(fault.NotFound, "machine %s", nameOrID)
}

// lendable says why a launch cannot have its machine of a pool.
func (m *model) lendable(j *modelJob, l *store.Launch) error {
	taken := func() error {
		return fmt.Errorf("model: %w: %w: machine %s", fault.Conflict, store.ErrTaken, l.Machine)
	}
	if made := l.Lend.New; made != nil {
		if m.running(made.Pool) >= l.Lend.Most {
			return taken()
		}
		return nil
	}
	r := m.runners[l.Machine]
	switch {
	case !j.CancelRequestedAt.IsZero():
		return refuse(fault.Conflict, "job %s is being canceled", j.ID)
	case r == nil, r.State != store.RunnerIdle, r.Tenant != "" && r.Tenant != l.Lend.Tenant, r.By != l.Lend.By:
		return taken()
	}
	return nil
}

// lend puts an attempt, which has just been added, on its machine of a pool.
func (m *model) lend(j *modelJob, a *store.Attempt, l *store.Launch) {
	if made := l.Lend.New; made != nil {
		c := *made
		c.Attempt, c.JobID, c.Tenant = a.ID, j.ID, l.Lend.Tenant
		m.make(&c)
	}
	r := m.runners[l.Machine]
	if l.Lend.New == nil {
		for _, slot := range m.slots(r.Host, false) {
			if slot != r && slot.Tenant == "" && l.Lend.Tenant != "" {
				slot.Tenant = l.Lend.Tenant
				slot.Version++
			}
		}
		m.charge(r, l.Time, cmp.Or(l.Lend.Wall, l.Time))
		r.State = store.RunnerBusy
		r.Uses++
		r.Version++
		j.Fence++
		j.State = dayfly.Running
		a.State, a.Fence, a.ClaimedBy, a.BootedAt, a.ClaimedAt = dayfly.AttemptRunning, j.Fence, l.Lend.By, l.Time, l.Time
		j.moved(l.Time, "running", j.Number, "", "")
	}
	r.Attempt, r.JobID, r.Tenant, r.FreeAt = a.ID, j.ID, l.Lend.Tenant, time.Time{}
	a.Runner = r.Machine
	lent := m.machines[j.machine[a.ID]]
	lent.State, lent.ID, lent.Location, lent.Image = store.MachineLent, r.MachineID, r.Location, r.Image
}

// claimable reports whether the agent may claim an attempt, if that is on a machine of a pool.
func (m *model) claimable(a *store.Attempt, by string) bool {
	if a.Runner == "" {
		return true
	}
	r := m.runners[a.Runner]
	return r != nil && r.Attempt == a.ID && (r.By == "" || r.By == by) && r.State == store.RunnerWarming
}

// use notes on its machine of a pool that an attempt has been claimed.
func (m *model) use(a *store.Attempt) {
	if r := m.runners[a.Runner]; r != nil {
		r.State, r.By = store.RunnerBusy, a.ClaimedBy
		r.Uses++
		r.Version++
	}
}

// vacate takes an attempt that has ended off its machine of a pool.
func (m *model) vacate(j *modelJob, a *store.Attempt, e *store.Ending) {
	lent := m.machines[j.machine[a.ID]]
	lent.State, lent.GoneAt = store.MachineGone, e.Time
	m.settle(lent, cmp.Or(e.Wall, e.Time))
	r := m.runners[a.Runner]
	if r == nil || r.Attempt != a.ID {
		return
	}
	r.FreeAt = e.Time
	switch {
	case r.State == store.RunnerDraining || r.State == store.RunnerGone:
		r.Version++
	case e.Runner == store.RunnerRecycling || e.Runner == store.RunnerIdle:
		move(r, e.Runner, e.Time, "")
	default:
		move(r, store.RunnerDraining, e.Time, e.Gone)
	}
}

// moveRunner is a move of the ledger for a machine of a pool.
func (m *model) moveRunner(w *store.MachineMove) {
	all := m.slots(w.Name, false)
	if len(all) == 0 || !slices.Contains(w.From, store.Together(all).Machine()) {
		return
	}
	for _, r := range all {
		switch {
		case w.To == store.MachineDeleting && r.State != store.RunnerDraining:
			move(r, store.RunnerDraining, w.Time, w.Message)
		case w.To == store.MachineGone:
			m.charge(r, w.Time, cmp.Or(w.Wall, w.Time))
			r.State, r.GoneAt, r.FreeAt = store.RunnerGone, w.Time, time.Time{}
			r.Version++
		}
	}
}

// charge adds what a machine of a pool has cost since no attempt pays for it.
func (m *model) charge(r *store.Runner, until, wall time.Time) {
	if r.FreeAt.IsZero() || r.Price == nil || r.Price.Rate == 0 {
		return
	}
	meter := r.Meter()
	meter.Until = until
	for _, share := range meter.Days(until, wall, 0) {
		m.addCost(store.Cost{Day: share.Day, Queue: store.PoolQueue(r.Pool), Provider: r.Provider, Amount: share.Amount})
	}
}

// addCost adds to what was settled.
func (m *model) addCost(c store.Cost) {
	if c.Amount == 0 && c.Attempts+c.Unknown == 0 {
		return
	}
	at := slices.IndexFunc(m.costs, func(had store.Cost) bool {
		return had.Day == c.Day && had.Queue == c.Queue && had.Provider == c.Provider
	})
	if at < 0 {
		m.costs = append(m.costs, c)
		return
	}
	m.costs[at].Amount += c.Amount
	m.costs[at].Attempts += c.Attempts
	m.costs[at].Unknown += c.Unknown
}

// charges returns what the machines of pools run up that no attempt pays for.
func (m *model) charges() (list []store.Charge) {
	for _, r := range m.runners {
		if r.State != store.RunnerGone && !r.FreeAt.IsZero() && r.Price != nil && r.Price.Rate > machine.Rate(0) {
			list = append(list, store.Charge{Queue: store.PoolQueue(r.Pool), Provider: r.Provider, Meter: r.Meter()})
		}
	}
	return list
}
