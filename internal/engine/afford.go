package engine

import (
	"fmt"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// A cap on what a job may cost can be too little for some of the places that the job names, from the beginning or after some
// attempts. Those are passed over for good, like places that refuse the job: money that is spent does not come back. They are
// not asked, so there is no attempt; what is kept on the job is a refusal.

// checkCost refuses a cap that could not be kept, or with which no machine would be launched, wherever the job may run.
func (e *Engine) checkCost(spec *dayfly.JobSpec) error {
	switch {
	case spec.MaxCost == 0:
		return nil
	case spec.MaxCost < 0 || spec.MaxCost > machine.MaxMoney:
		return fault.Field("max_cost", "must be an amount of US dollars between 0.000001 and %s", machine.MaxMoney)
	}
	places := choicesOf(spec.Provider)
	refusals := e.tooDear(spec, time.Time{})
	switch {
	case len(refusals) < len(places):
		return nil
	case len(places) > 1:
		return fault.Field("max_cost", "is enough for none of the places. %s Raise max_cost, choose a smaller size or shorten timeouts.boot", eachOf(refusals, " "))
	}
	b := e.budget(spec, places[0])
	if b.price == nil {
		return fault.Field("max_cost", "cannot be kept: nobody knows what a machine of this size costs on %s; "+
			"name a size, configure the provider's prices, or leave max_cost out", places[0])
	}
	return fault.Field("max_cost", "$%s does not pay for one start on %s: %s; raise max_cost, choose a smaller size or shorten timeouts.boot",
		spec.MaxCost, places[0], b.start())
}

// tooDear returns the places of a new job, if it has a cap, on which the cap does not pay for one start or could not be kept.
func (e *Engine) tooDear(spec *dayfly.JobSpec, now time.Time) (refusals []dayfly.Refusal) {
	if spec.MaxCost == 0 {
		return nil
	}
	for _, where := range choicesOf(spec.Provider) {
		b := e.budget(spec, where)
		if verdict, _ := b.allot(); verdict != granted {
			refusals = append(refusals, b.refusal(where, now))
		}
	}
	return refusals
}

// start says what one start costs.
func (b *budget) start() string {
	return fmt.Sprintf("at $%s an hour the %v that a machine gets at least, to boot and to be stopped, cost $%s", b.price.Rate, b.least, b.price.Cost(b.least))
}

// refusal is what a job is told of a place for which its money is not enough.
func (b *budget) refusal(where choice, now time.Time) dayfly.Refusal {
	r := dayfly.Refusal{Provider: where.provider, Region: where.region, Kind: fault.Unsupported, Reason: dayfly.ReasonCostLimit, At: now.UTC()}
	switch {
	case b.price == nil:
		r.Message = fmt.Sprintf("Nobody knows what a machine of this size costs there, so a max_cost of $%s cannot be kept.", b.most)
	case b.spent > 0:
		r.Message = fmt.Sprintf("Of its max_cost of $%s it has spent $%s, and what is left does not pay for a start there: %s.", b.most, b.spent, b.start())
	default:
		r.Message = fmt.Sprintf("Its max_cost of $%s does not pay for one start there: %s.", b.most, b.start())
	}
	return r
}

// passOver is the move of a job whose money is not enough for a start where it was to be launched: it waits for the next of
// its choices, or has failed if there is none.
func passOver(job *store.Job, where choice, b *budget, now time.Time) *store.Move {
	m := &store.Move{JobID: job.ID, Version: job.Version, From: job.State, Time: now}
	refusal := b.refusal(where, now)
	refusals := withRefusals(job.Refusals, refusal)
	several := strings.Contains(job.Provider, ",")
	if several {
		m.Refusals = refusals
	}
	if len(open(job, refusals)) > 0 {
		m.To, m.Event, m.Message = dayfly.Queued, string(dayfly.Queued), passedOver([]dayfly.Refusal{refusal})
		return m
	}
	m.To, m.Event, m.FinishedAt = dayfly.Failed, string(dayfly.Failed), now
	switch m.Reason = dayfly.ReasonCostLimit; {
	case several:
		m.Reason, m.Message = refusedBy(refusals)
	case b.price == nil:
		m.Message = fmt.Sprintf("It may cost $%s at most, and nobody knows what a machine costs on %s any more. "+
			"Configure its prices, or submit the job without max_cost.", b.most, where)
	case job.Number == 0:
		m.Message = refusal.Message + " Give it a higher max_cost."
	default:
		m.Message = fmt.Sprintf("Its %s cost $%s of the $%s that it may cost, and what is left does not pay for another start at $%s an hour. "+
			"Give it a higher max_cost.", attemptsOf(job.Number), b.spent+b.reserved, b.most, b.price.Rate)
	}
	return m
}
