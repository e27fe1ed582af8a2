package engine

import (
	"context"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/machine"
)

// Quote checks a spec as Submit would and says what the job would cost, without making anything. Errors are those of
// Submit.
func (e *Engine) Quote(ctx context.Context, spec dayfly.JobSpec) (*dayfly.Quote, error) {
	if err := e.await(ctx); err != nil {
		return nil, err
	}
	if err := e.normalize(&spec, wallClock()); err != nil {
		return nil, err
	}
	if err := e.admit(); err != nil {
		return nil, err
	}
	q := &dayfly.Quote{Spec: spec}
	for _, where := range choicesOf(spec.Provider) {
		offer, err := e.offer(ctx, &spec, where)
		if err != nil {
			return nil, err
		}
		q.Offers = append(q.Offers, *offer)
	}
	return q, nil
}

// offer says what a job would cost in one of the places where it may run.
func (e *Engine) offer(ctx context.Context, spec *dayfly.JobSpec, where choice) (*dayfly.Offer, error) {
	o := &dayfly.Offer{
		Provider: where.provider, Region: where.region, Currency: dayfly.Currency, Lifetime: dayfly.Duration(fullLifetime(spec)),
		Machines: spec.Retry.MaxAttempts * spec.Retry.MaxLaunches,
	}
	stopped, err := e.overLimit(ctx, spec.Queue)
	if err != nil {
		return nil, err
	}
	if stopped != nil {
		o.Waits = stopped.String()
	}
	price := e.price(where, spec)
	if b := e.budget(spec, where); spec.MaxCost > 0 {
		if verdict, _ := b.allot(); verdict != granted {
			o.Refused, o.Machines, o.Lifetime = b.refusal(where, time.Time{}).Message, 0, 0
		}
	}
	if price == nil {
		o.Unknown = true
		return o, nil
	}
	if o.Refused != "" {
		o.Hourly, o.PricedOn = &price.Rate, price.Date
		return o, nil
	}
	most := e.mostCost(spec, price)
	o.Hourly, o.PricedOn, o.Most = &price.Rate, price.Date, &most
	if spec.MaxCost > 0 {
		uncapped := most
		most = min(most, spec.MaxCost)
		o.Uncapped = &uncapped
		o.Lifetime = dayfly.Duration(min(time.Duration(o.Lifetime), price.Lasts(spec.MaxCost)))
	}
	return o, nil
}

// mostCost returns the most that a job can cost without a cap: each attempt may use the whole lifetime of its machine, and
// before each, all machines but one may fail, which takes them no longer than the boot timeout.
func (e *Engine) mostCost(spec *dayfly.JobSpec, price *machine.Price) machine.Money {
	attempts, launches := machine.Money(spec.Retry.MaxAttempts), machine.Money(spec.Retry.MaxLaunches)
	return attempts * (price.Cost(fullLifetime(spec)) + (launches-1)*price.Cost(leastLifetime(spec)))
}

// compareText compares pairs of texts, the first that differ.
func compareText(pairs ...string) int {
	for i := 0; i+1 < len(pairs); i += 2 {
		if c := strings.Compare(pairs[i], pairs[i+1]); c != 0 {
			return c
		}
	}
	return 0
}
