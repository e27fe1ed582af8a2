package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// spending is what the jobs of each queue have cost today, as it was read a moment ago. The wall clock says what today is:
// a day's limit is somebody's calendar, and bills are made by it.
type spending struct {
	mu      sync.Mutex // guards all below
	day     string
	readAt  time.Time // by the engine's clock
	byQueue map[string]machine.Money
	total   machine.Money
}

// spendingAge is how old a reading may be. What is launched meanwhile costs next to nothing yet.
const spendingAge = time.Second

// today returns what has been spent today, by queue and in all. With a limit on anything, it is read once in a second at
// most, whatever is launched, and what a reading costs depends on the machines there are and not on the jobs that wait.
func (e *Engine) today(ctx context.Context) (byQueue map[string]machine.Money, total machine.Money, err error) {
	now, wall := e.clock.now(), wallClock()
	day := store.DayOf(wall)
	s := &e.spending
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byQueue != nil && s.day == day && now.Sub(s.readAt) < spendingAge {
		return s.byQueue, s.total, nil
	}
	items, err := e.days(ctx, day, day, now, wall)
	if err != nil {
		return nil, 0, err
	}
	s.day, s.readAt, s.byQueue, s.total = day, now, map[string]machine.Money{}, 0
	for _, item := range items {
		s.byQueue[item.Queue] += item.Amount
		s.total += item.Amount
	}
	return s.byQueue, s.total, nil
}

// stop says which daily limit is reached.
type stop struct {
	what         string // "queue default", "the server"
	limit, spent machine.Money
}

func (s *stop) String() string {
	return fmt.Sprintf("The jobs of %s have cost $%s today (UTC), and the daily limit is $%s.", s.what, s.spent, s.limit)
}

// overLimit returns the daily limit that keeps a queue's jobs from being launched, or nil.
func (e *Engine) overLimit(ctx context.Context, queue string) (*stop, error) {
	ofQueue, ofAll := e.options.Queues[queue].DailyCost, e.options.DailyCost
	if ofQueue == 0 && ofAll == 0 {
		return nil, nil
	}
	byQueue, total, err := e.today(ctx)
	switch {
	case err != nil:
		return nil, err
	case ofQueue > 0 && byQueue[queue] >= ofQueue:
		return &stop{"queue " + queue, ofQueue, byQueue[queue]}, nil
	case ofAll > 0 && total >= ofAll:
		return &stop{"all queues together", ofAll, total}, nil
	}
	return nil, nil
}

// days returns what was spent on each day from one to another, that of machines which are not known to be gone included.
func (e *Engine) days(ctx context.Context, from, to string, now, wall time.Time) ([]dayfly.DayCost, error) {
	// In this order a machine that goes in between is counted twice, for a moment; in the other order not at all.
	running, err := e.store.Unsettled(ctx)
	if err != nil {
		return nil, err
	}
	settled, err := e.store.Costs(ctx, from, to)
	if err != nil {
		return nil, err
	}
	type place struct{ day, queue, provider string }
	items := map[place]*dayfly.DayCost{}
	at := func(p place) *dayfly.DayCost {
		if items[p] == nil {
			items[p] = &dayfly.DayCost{Day: p.day, Queue: p.queue, Provider: p.provider}
		}
		return items[p]
	}
	for _, c := range settled {
		item := at(place{c.Day, c.Queue, c.Provider})
		item.Amount, item.Attempts, item.Unknown = c.Amount, c.Attempts, c.Unknown
	}
	for _, c := range running {
		for _, share := range c.Days(now, wall, 0) {
			if share.Day < from || share.Day > to || share.Amount == 0 {
				continue
			}
			item := at(place{share.Day, c.Queue, c.Provider})
			item.Amount += share.Amount
			item.Running += share.Amount
		}
	}
	list := make([]dayfly.DayCost, 0, len(items))
	for _, p := range slices.SortedFunc(maps.Keys(items), func(a, b place) int {
		return compareText(a.day, b.day, a.queue, b.queue, a.provider, b.provider)
	}) {
		list = append(list, *items[p])
	}
	return list, nil
}

// Costs returns what jobs have cost from one day to another, both included and written 2006-01-02, and how the daily limits
// stand. "" is today. fault.Invalid, as a fault.FieldError, for days that are none or in the wrong order.
func (e *Engine) Costs(ctx context.Context, from, to string) (*dayfly.Costs, error) {
	if err := e.await(ctx); err != nil {
		return nil, err
	}
	wall := wallClock()
	today := store.DayOf(wall)
	for _, bound := range []struct {
		field string
		day   *string
	}{{"query.from", &from}, {"query.to", &to}} {
		if *bound.day == "" {
			*bound.day = today
		}
		if day, err := time.Parse(time.DateOnly, *bound.day); err != nil || store.DayOf(day) != *bound.day {
			return nil, fault.Field(bound.field, "%.40q is not a day such as %s", *bound.day, today)
		}
	}
	first, _ := time.Parse(time.DateOnly, from) // it is one
	last, _ := time.Parse(time.DateOnly, to)
	const most = 366
	switch {
	case last.Before(first):
		return nil, fault.Field("query.from", "%s is after the last day, %s", from, to)
	case last.Sub(first) >= most*24*time.Hour:
		return nil, fault.Field("query.from", "from %s to %s it is more than %d days, which is the most", from, to, most)
	}
	items, err := e.days(ctx, from, to, e.clock.now(), wall)
	if err != nil {
		return nil, err
	}
	costs := &dayfly.Costs{Currency: dayfly.Currency, Today: today, Items: items, Limits: []dayfly.CostLimit{}}
	byQueue, total, err := e.today(ctx)
	if err != nil {
		return nil, err
	}
	limit := func(queue string, daily, spent machine.Money) {
		if daily > 0 {
			costs.Limits = append(costs.Limits, dayfly.CostLimit{Queue: queue, Daily: daily, Today: spent, Stopped: spent >= daily})
		}
	}
	limit("", e.options.DailyCost, total)
	for _, queue := range slices.Sorted(maps.Keys(e.options.Queues)) {
		limit(queue, e.options.Queues[queue].DailyCost, byQueue[queue])
	}
	return costs, nil
}
