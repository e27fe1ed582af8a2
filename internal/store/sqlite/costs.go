package sqlite

import (
	"context"
	"time"

	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// priceRow is what a machine costs as it is kept: the columns price_rate, price_minimum and price_date of an attempt.
type priceRow struct {
	rate    int64 // billionths of a dollar per hour; -1 if nobody knows
	minimum int64 // microseconds
	date    string
}

func (r *priceRow) columns() []column {
	return []column{number(&r.rate), number(&r.minimum), word(&r.date)}
}

func rowOf(p *machine.Price) priceRow {
	if p == nil {
		return priceRow{rate: -1}
	}
	return priceRow{int64(p.Rate), p.Minimum.Microseconds(), p.Date}
}

func (r *priceRow) decode() *machine.Price {
	if r.rate < 0 {
		return nil
	}
	return &machine.Price{Rate: machine.Rate(r.rate), Minimum: time.Duration(r.minimum) * time.Microsecond, Date: r.date}
}

// copied returns a price that shares no memory with its caller's.
func copied(p *machine.Price) *machine.Price {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

// meterColumns are what [meterRow.columns] receives, of attempts.
const meterColumns = `queue, provider, price_rate, price_minimum, price_date, created_at, gone_at, lifetime, unbilled`

// meterRow is what tells an attempt's cost, as it was read.
type meterRow struct {
	store.Charge
	price    priceRow
	lifetime int64 // microseconds
}

func (r *meterRow) columns() []column {
	return append(append([]column{word(&r.Queue), word(&r.Provider)}, r.price.columns()...),
		instant(&r.From), instant(&r.Until), number(&r.lifetime), flag(&r.Unbilled))
}

func (r *meterRow) decode() store.Charge {
	c := r.Charge
	c.Price, c.Lifetime = r.price.decode(), time.Duration(r.lifetime)*time.Microsecond
	return c
}

const costOfMachine = `SELECT seq, coalesce(cost, -1), ` + meterColumns + ` FROM attempts WHERE machine = $1`

const settleAttempt = `UPDATE attempts SET cost = $2 WHERE seq = $1`

const addCost = `
INSERT INTO costs (day, queue, provider, amount, attempts, unknown) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (day, queue, provider) DO UPDATE SET amount = amount + excluded.amount,
	attempts = attempts + excluded.attempts, unknown = unknown + excluded.unknown`

// settling is the settlement of what a launched machine has cost that has moved to gone.
type settling struct {
	machine string
	wall    time.Time
}

// settle adds the cost of a machine to its days, unless it costs nothing. A machine that was found again after it was gone
// is settled again: then only what it has cost beyond is added.
func (t *tx) settle(s *settling) error {
	var seq, before int64
	r := new(meterRow)
	found, err := t.one(append([]column{number(&seq), number(&before)}, r.columns()...), costOfMachine, s.machine)
	if err != nil || !found {
		return err
	}
	c, first := r.decode(), 0
	if before < 0 {
		first = 1
	}
	switch {
	case c.Unbilled || c.Price != nil && c.Price.Rate == 0:
		return nil
	case c.Price == nil && first == 0:
		return nil
	case c.Price == nil:
		if _, _, err := t.exec(settleAttempt, seq, 0); err != nil {
			return err
		}
		_, _, err := t.exec(addCost, store.DayOf(s.wall), c.Queue, c.Provider, 0, 0, 1)
		return err
	}
	cost := int64(c.Cost(c.Until))
	if _, _, err := t.exec(settleAttempt, seq, max(cost, before)); err != nil {
		return err
	}
	shares := c.Days(c.Until, s.wall, machine.Money(max(before, 0)))
	for i, share := range shares {
		counted := 0
		if i == len(shares)-1 {
			counted = first
		}
		if share.Amount == 0 && counted == 0 {
			continue
		}
		if _, _, err := t.exec(addCost, share.Day, c.Queue, c.Provider, int64(share.Amount), counted, 0); err != nil {
			return err
		}
	}
	return nil
}

const costsOfDays = `
SELECT day, queue, provider, amount, attempts, unknown FROM costs WHERE day BETWEEN $1 AND $2 ORDER BY day, queue, provider`

// Costs implements store.Costs.
func (s *Store) Costs(ctx context.Context, from, to string) (costs []store.Cost, err error) {
	err = s.read(ctx, func(c *session) error {
		return c.each(func(values row) error {
			var r store.Cost
			err := c.scan(values, []column{word(&r.Day), word(&r.Queue), word(&r.Provider), number(&r.Amount),
				number(&r.Attempts), number(&r.Unknown)})
			costs = append(costs, r)
			return err
		}, costsOfDays, from, to)
	})
	return costs, err
}

const unsettledAttempts = `
SELECT ` + meterColumns + ` FROM attempts INDEXED BY attempts_unsettled WHERE cost IS NULL AND price_rate > 0 AND unbilled = 0 AND gone_at IS NULL`

// Unsettled implements store.Costs.
func (s *Store) Unsettled(ctx context.Context) (charges []store.Charge, err error) {
	err = s.read(ctx, func(c *session) error {
		return c.each(func(values row) error {
			r := new(meterRow)
			err := c.scan(values, r.columns())
			charges = append(charges, r.decode())
			return err
		}, unsettledAttempts)
	})
	if err != nil {
		return nil, err
	}
	runners, err := s.Runners(ctx)
	for _, r := range runners {
		if !r.FreeAt.IsZero() && r.Price != nil && r.Price.Rate > 0 {
			charges = append(charges, store.Charge{Queue: store.PoolQueue(r.Pool), Provider: r.Provider, Meter: r.Meter()})
		}
	}
	return charges, err
}
