package engine

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// A machine of a pool may be divided into slots. Each is a runner: it waits for itself, has one attempt at a time, and is given
// up for itself. What they share is the machine: it counts once, belongs to one tenant, and is destroyed when all its slots are
// given up. When one is, because its job has left something or its agent has lost count, the others are as well, as soon as
// they have no job. Only a machine that has to be destroyed under a job is destroyed under those beside it.

// isHost reports whether a runner is the first slot of its machine, whose name that has. The caller holds mu.
func (r *runner) isHost() bool { return r.name == r.row.Host }

// slotsOf returns all slots of the machine of which r is one, those that are known; r may be nil. The caller holds mu.
func (e *Engine) slotsOf(r *runner) []*runner {
	switch {
	case r == nil:
		return nil
	case !r.row.Divided():
		return []*runner{r}
	}
	slots := make([]*runner, 0, r.row.Slots)
	for k := 1; k <= r.row.Slots; k++ {
		if slot := e.runners[wire.Slot(r.row.Host, k)]; slot != nil {
			slots = append(slots, slot)
		}
	}
	return slots
}

// rowsOf returns what the store has last said of the slots of a machine. The caller holds mu.
func (e *Engine) rowsOf(r *runner) []*store.Runner {
	var rows []*store.Runner
	for _, slot := range e.slotsOf(r) {
		rows = append(rows, &slot.row)
	}
	return rows
}

// shared is what counts for a machine as a whole.
type shared struct {
	uses   int    // attempts that were claimed on it
	leaves string // why one of its slots is given up, and with it the others; "": none is
}

// share returns what the slots of a machine have in common. The caller holds mu.
func (e *Engine) share(r *runner) (s shared) {
	for _, slot := range e.slotsOf(r) {
		s.uses += slot.row.Uses
		if slot.row.State == store.RunnerDraining && s.leaves == "" {
			s.leaves = leavesWith(slot.row.Message)
		}
	}
	return s
}

// leavesWith is why a slot is given up beside which another is.
func leavesWith(why string) string {
	const goes = "its machine is given up: "
	return goes + strings.TrimPrefix(why, goes)
}

// sinceUp returns for how long a machine has been up whose agent is to call from this slot: from the moment in which its
// first slot was ready. Whatever that waits for, such as an image that takes long to fetch, the others wait for, too. The
// caller holds mu.
func (e *Engine) sinceUp(r *runner, now time.Time) time.Duration {
	if host := e.runners[r.row.Host]; r.fetching || !r.isHost() && host != nil && host.row.State == store.RunnerWarming {
		r.since = now
	}
	return e.vigil.elapsed(r.since, now)
}

// hostOf returns the name that the machine of a flight has at its provider. The caller holds mu.
func (e *Engine) hostOf(f *flight) string {
	if r := e.runners[f.runner]; r != nil {
		return r.row.Host
	}
	if f.runner == "" {
		return f.machine
	}
	host, _ := wire.SlotOf(f.machine)
	return host
}

// rides reports whether the machine of a flight is counted with its pool's and not with the flight: others may be on it. The
// caller holds mu.
func (e *Engine) rides(f *flight) bool {
	r := e.runners[f.runner]
	return r != nil && r.row.Divided() && (f.lending == nil || f.lending.OnIdle())
}

// flightsOn returns the attempts on a machine of a pool. The caller holds mu.
func (e *Engine) flightsOn(r *runner) []*flight {
	var flights []*flight
	for _, slot := range e.slotsOf(r) {
		if f := e.byMachine[slot.name]; f != nil {
			flights = append(flights, f)
		}
	}
	return flights
}

// countsAlone reports whether a runner is a machine that is neither counted with an attempt on it nor with those that are on
// their way out. One that is destroyed under its attempts is at work until that is confirmed. The caller holds mu.
func (e *Engine) countsAlone(r *runner) bool {
	if !r.isHost() {
		return false
	}
	flights := e.flightsOn(r)
	if slices.ContainsFunc(flights, func(f *flight) bool { return !f.rides }) {
		return false
	}
	return len(flights) > 0 || store.Together(e.rowsOf(r)) != store.RunnerDraining
}

// release has a machine of a pool destroyed if all its slots are given up. The caller does not hold mu.
func (e *Engine) release(r *runner, id string) {
	e.mu.Lock()
	all := true
	for _, slot := range e.slotsOf(r) {
		all = all && slot.row.State == store.RunnerDraining
		if id == "" {
			id = slot.row.MachineID
		}
	}
	provider, host := r.row.Provider, r.row.Host
	e.mu.Unlock()
	if all {
		e.doomed.add(provider, host, id)
	} else {
		e.wakePools.set() // those beside it are given up next
	}
}

// noteSlots takes all slots of a machine that was added to the store.
func (e *Engine) noteSlots(row *store.Runner) *runner {
	var first *runner
	for i, slot := range row.AllSlots() {
		if r := e.noteRunner(slot); i == 0 {
			first = r
		}
	}
	return first
}

// livesAt reports whether a machine of a pool is wanted, by the rows of its slots. id is what the agent of the first claims by.
func (e *Engine) livesAt(ctx context.Context, id string) (bool, error) {
	first, err := e.store.Runner(ctx, id)
	if err != nil {
		return false, err
	}
	for k := 1; k <= first.Slots; k++ {
		r, err := e.store.Runner(ctx, wire.Slot(first.Host, k))
		if err != nil {
			return false, err
		}
		if r.State != store.RunnerDraining && r.State != store.RunnerGone {
			return true, nil
		}
	}
	return false, nil
}

// shareOf returns what one slot of a machine costs of its price.
func shareOf(p *machine.Price, slots int) *machine.Price {
	if p == nil || slots <= 1 {
		return p
	}
	share := *p
	share.Rate = (p.Rate + machine.Rate(slots) - 1) / machine.Rate(slots)
	return &share
}
