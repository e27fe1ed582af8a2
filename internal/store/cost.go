package store

import (
	"context"
	"time"

	"github.com/dayfly-run/dayfly/machine"
)

// Costs tell what attempts have cost.
type Costs interface {
	// Costs returns what was settled from one day to another, both included, by day, queue and provider in that order.
	// Days are written 2006-01-02. A machine's cost is settled when it moves to gone, on the days in which it came
	// about: by the wall clock of the move, counted backwards. What is settled stays when the job is deleted.
	Costs(ctx context.Context, from, to string) ([]Cost, error)
	// Unsettled returns what runs up costs: each attempt whose machine costs something, is not known to be gone, and
	// has never been. They come in any order. The answer costs what they are, however many jobs there are.
	Unsettled(ctx context.Context) ([]Charge, error)
}

// Cost is what the attempts of a queue on a provider have cost on one day.
type Cost struct {
	Day      string
	Queue    string
	Provider string
	Amount   machine.Money
	Attempts int // whose machines were found gone on that day, and cost something
	Unknown  int // whose machines were found gone on that day, and nobody knows what they cost
}

// Charge is what one machine runs up.
type Charge struct {
	Queue    string
	Provider string
	Meter
}

// Meter tells what the machine of an attempt costs: from the intent to make it until it is confirmed to be gone, but no
// longer than its lifetime, at whose end it ends itself. Both are later than what the provider counts, so a cost is never
// said to be lower than it is.
type Meter struct {
	Price    *machine.Price // nil: nobody knows
	From     time.Time
	Until    time.Time // zero: it may still exist
	Lifetime time.Duration
	Unbilled bool // no machine was made
}

// Meter returns what tells the attempt's cost. The attempt comes with its machine.
func (a *Attempt) Meter() Meter {
	m := Meter{Price: a.Price, From: a.CreatedAt, Unbilled: a.Unbilled}
	if a.Machine != nil {
		m.Until, m.Lifetime = a.Machine.GoneAt, a.Machine.Lifetime
	}
	return m
}

// Known reports whether anybody knows what the machine costs.
func (m Meter) Known() bool { return m.Price != nil || m.Unbilled }

// Final reports whether the cost will not change any more.
func (m Meter) Final() bool { return m.Unbilled || !m.Until.IsZero() }

// Cost returns what the machine has cost when the clock that told From shows now. It is 0 when nobody knows.
func (m Meter) Cost(now time.Time) machine.Money { return m.after(m.billed(now)) }

// Most returns what the machine can cost at most.
func (m Meter) Most() machine.Money {
	if m.Final() {
		return m.Cost(m.Until)
	}
	return m.after(m.Lifetime)
}

// after returns the cost of a machine that has existed for d.
func (m Meter) after(d time.Duration) machine.Money {
	if m.Price == nil || m.Unbilled {
		return 0
	}
	return m.Price.Cost(d)
}

// billed returns for how long the machine has existed. One that was asked for a moment ago may exist.
func (m Meter) billed(now time.Time) time.Duration {
	if !m.Until.IsZero() {
		now = m.Until
	}
	return min(max(now.Sub(m.From), time.Microsecond), m.Lifetime)
}

// Share is what one day has of a cost.
type Share struct {
	Day    string
	Amount machine.Money
}

// Days distributes the cost at now over the days in which it came about: wall is what the wall clock shows at now. Of what
// was distributed before, nothing is distributed again. The shares come in the order of the days, and their sum is exact:
// the cost less what was distributed before.
func (m Meter) Days(now, wall time.Time, before machine.Money) []Share {
	if !m.Until.IsZero() {
		wall, now = wall.Add(m.Until.Sub(now)), m.Until
	}
	billed := m.billed(now)
	begin := wall.UTC().Add(-now.Sub(m.From))
	end := begin.Add(billed)
	var shares []Share
	for from := begin; from.Before(end); {
		midnight := from.Truncate(24 * time.Hour).Add(24 * time.Hour)
		to := midnight
		if to.After(end) {
			to = end
		}
		share := max(m.after(to.Sub(begin)), before) - max(m.after(from.Sub(begin)), before)
		shares = append(shares, Share{Day: DayOf(from), Amount: share})
		from = to
	}
	return shares
}

// DayOf returns the day of a time, as days are written.
func DayOf(t time.Time) string { return t.UTC().Format(time.DateOnly) }
