package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// A cap on what a job may cost is a deadline of its machines. Before each launch what is left of the cap is divided by the
// machine's price, and the machine is given no longer lifetime than that, so that the cap holds though no server may be there
// to enforce it. The command's run timeout ends before the lifetime does, so that its outputs come home.

// closing is the part of a lifetime that is kept for what comes after the command's end: to store its outputs and to report.
const closing = 30 * time.Second

// fullLifetime returns how long a job's machine may exist: everything its timeouts allow, time to move files, and the time
// for which it may be kept.
func fullLifetime(spec *dayfly.JobSpec) time.Duration {
	files := time.Hour
	if spec.Bare { // nobody moves any
		files = 0
	}
	return min(time.Duration(spec.Timeouts.Boot+spec.Timeouts.Run+spec.Timeouts.Grace+spec.KeepOnFailure)+files, machine.MaxLifetime)
}

// leastLifetime returns the shortest lifetime that a machine is launched with: it may use its whole boot timeout and then
// still be stopped in order.
func leastLifetime(spec *dayfly.JobSpec) time.Duration {
	return time.Duration(spec.Timeouts.Boot+spec.Timeouts.Grace) + closing
}

// price returns what a machine of the job costs where it may run, or nil if nobody knows.
func (e *Engine) price(where choice, spec *dayfly.JobSpec) *machine.Price {
	pricer := e.options.Prices[where.provider]
	if pricer == nil {
		pricer, _ = e.providers[where.provider].(machine.Pricer)
	}
	size, err := sizeOf(spec)
	if pricer == nil || err != nil {
		return nil
	}
	p, ok := pricer.Price(size, where.region)
	if !ok {
		return nil
	}
	return &p
}

// funds say what a job's next machine may be given, or what becomes of the job instead.
type funds struct {
	price    *machine.Price
	lifetime time.Duration
	move     *store.Move // set when there is to be no machine now
}

// budget is what is known of a job's money before a launch.
type budget struct {
	most     machine.Money  // its cap; 0: none
	spent    machine.Money  // by attempts whose cost is final
	reserved machine.Money  // what the others can still come to, at most
	price    *machine.Price // of the next machine
	full     time.Duration  // the lifetime that its timeouts ask for
	least    time.Duration  // the shortest that makes sense, at most full
}

// budget returns what is known of a job's money before its first launch, in one of the places where it may run.
func (e *Engine) budget(spec *dayfly.JobSpec, where choice) budget {
	full := fullLifetime(spec)
	return budget{most: spec.MaxCost, price: e.price(where, spec), full: full, least: min(leastLifetime(spec), full)}
}

// allotment is what a budget allows.
type allotment string

const (
	granted   allotment = "granted"   // a machine for the lifetime
	pending   allotment = "pending"   // wait until it is known what the others have cost
	broke     allotment = "broke"     // what is left does not pay for a start
	uncertain allotment = "uncertain" // a cap, and nobody knows the price
)

// allot decides. It is pure. Whatever it grants, the machines of a job together cost no more than its cap, if each ends at
// the end of its lifetime.
func (b *budget) allot() (allotment, time.Duration) {
	switch {
	case b.most == 0:
		return granted, b.full
	case b.price == nil:
		return uncertain, 0
	}
	lasts := b.price.Lasts(b.most - b.spent - b.reserved)
	switch {
	case lasts >= b.full:
		return granted, b.full
	case b.price.Lasts(b.most-b.spent) < b.least:
		return broke, 0
	case b.reserved > 0:
		return pending, 0
	default:
		return granted, lasts
	}
}

// fund finds out what a job's next machine may be given. Only a job with a cap that has had attempts is read for that.
func (e *Engine) fund(ctx context.Context, job *store.Job, where choice) (funds, error) {
	b := e.budget(&job.Spec, where)
	now := e.clock.now()
	ended := now
	if b.most > 0 && job.Number > 0 {
		whole, err := e.store.Job(ctx, job.ID)
		if err != nil {
			return funds{}, err
		}
		for _, a := range whole.AttemptLog {
			m := a.Meter()
			if !m.Known() {
				b.price = nil
			}
			if m.Final() {
				b.spent += m.Cost(now)
			} else {
				b.reserved += m.Most()
			}
			ended = a.EndedAt
		}
	}
	f := funds{price: b.price}
	switch verdict, lifetime := b.allot(); verdict {
	case granted:
		f.lifetime = lifetime
	case pending:
		// Its last machine is being destroyed, which is a matter of seconds unless the provider does not answer.
		f.move = &store.Move{
			JobID: job.ID, Version: job.Version, From: job.State, Time: now, To: dayfly.Scheduled, Event: "scheduled",
			RunAt: now.Add(min(max(now.Sub(ended), time.Second), time.Minute)),
		}
	case broke, uncertain:
		f.move = passOver(job, where, &b, now)
	}
	return f, nil
}

// attemptsOf says how many attempts there were, in words.
func attemptsOf(n int) string {
	if n == 1 {
		return "attempt"
	}
	return fmt.Sprintf("%d attempts", n)
}

// divert carries out the move that a ready job makes instead of a launch.
func (e *Engine) divert(ctx context.Context, job *store.Job, move *store.Move) error {
	moved, err := e.store.Move(ctx, move)
	switch {
	case fault.Of(err) == fault.Conflict:
		return nil // somebody else has moved it
	case err != nil:
		return err
	}
	switch {
	case moved.State == dayfly.Queued: // for another of its choices
		e.joined(moved)
		return nil
	case moved.State.Terminal():
		e.open.Add(-1)
		e.logger.Info("a job ended because of what it may cost", "job", job.ID, "message", move.Message)
	default:
		e.due(moved.RunAt)
	}
	e.freed(job)
	e.tell(job.ID, moved.State.Terminal())
	return nil
}

// paidRun returns how long the command may run from now on, if the cap on the job's cost allows less than its timeouts.
func paidRun(spec *dayfly.JobSpec, m store.Meter, now time.Time) (limit time.Duration, capped bool) {
	if !cutShort(spec, m) {
		return 0, false
	}
	left := m.From.Add(m.Lifetime).Sub(now) - time.Duration(spec.Timeouts.Grace) - closing
	return max(left, time.Millisecond), true
}

// cutShort reports whether the cap on a job's cost has shortened the life of a machine.
func cutShort(spec *dayfly.JobSpec, m store.Meter) bool {
	return spec.MaxCost > 0 && m.Lifetime < fullLifetime(spec)
}
