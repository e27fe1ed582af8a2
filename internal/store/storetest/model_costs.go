package storetest

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// settle adds what a machine has cost beyond what was added before.
func (m *model) settle(gone *store.Machine, wall time.Time) {
	j, a, err := m.findAttempt(gone.Attempt)
	if err != nil {
		return // nobody launched it
	}
	meter := m.wholeAttempt(j, a).Meter()
	key := j.machine[a.ID]
	before, again := m.settled[key]
	if a.Unbilled || a.Price != nil && a.Price.Rate == 0 || a.Price == nil && again {
		return
	}
	first := 0
	if !again {
		first = 1
	}
	add := func(day string, amount machine.Money, attempts, unknown int) {
		m.addCost(store.Cost{Day: day, Queue: j.Queue, Provider: a.Provider, Amount: amount, Attempts: attempts, Unknown: unknown})
	}
	if a.Price == nil {
		m.settled[key] = 0
		add(store.DayOf(wall), 0, 0, 1)
		return
	}
	m.settled[key] = max(before, meter.Cost(gone.GoneAt))
	shares := meter.Days(gone.GoneAt, wall, before)
	for i, share := range shares {
		counted := 0
		if i == len(shares)-1 {
			counted = first
		}
		add(share.Day, share.Amount, counted, 0)
	}
}

func (m *model) Costs(_ context.Context, from, to string) ([]store.Cost, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []store.Cost
	for _, c := range m.costs {
		if from <= c.Day && c.Day <= to {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b store.Cost) int {
		return cmp.Or(cmp.Compare(a.Day, b.Day), cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.Provider, b.Provider))
	})
	return list, nil
}

func (m *model) Unsettled(context.Context) ([]store.Charge, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []store.Charge
	for _, j := range m.jobs {
		for _, a := range j.attempts {
			meter := m.wholeAttempt(j, a).Meter()
			_, settled := m.settled[j.machine[a.ID]]
			if a.Price != nil && a.Price.Rate > 0 && !meter.Final() && !settled {
				list = append(list, store.Charge{Queue: j.Queue, Provider: a.Provider, Meter: meter})
			}
		}
	}
	return append(list, m.charges()...), nil
}
