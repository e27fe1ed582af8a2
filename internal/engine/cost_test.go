package engine_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// fixed is a price that holds for every machine; nil is one that nobody knows.
type fixed struct{ price *machine.Price }

func (f fixed) Price(machine.Size, string) (machine.Price, bool) {
	if f.price == nil {
		return machine.Price{}, false
	}
	return *f.price, true
}

// dollarAnHour is a price by which 36 seconds cost a cent.
func dollarAnHour() *machine.Price {
	return &machine.Price{Rate: machine.DollarPerHour, Date: "2026-05-04"}
}

func priced(p *machine.Price) func(*engine.Options) {
	return func(o *engine.Options) { o.Prices = map[string]machine.Pricer{"mem": fixed{p}} }
}

const halfDollar = machine.Dollar / 2 // which pays for half an hour

// bill is what a provider would charge: how long the machines really were there.
type bill struct {
	mu    sync.Mutex
	lives []time.Duration
}

// of makes a command be billed: from the moment in which its machine has called, which on these machines is when it begins.
func (b *bill) of(work func(context.Context, *wire.Assignment) wire.Result) func(context.Context, *wire.Assignment) wire.Result {
	return func(ctx context.Context, a *wire.Assignment) wire.Result {
		began := time.Now()
		defer func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.lives = append(b.lives, time.Since(began))
		}()
		return work(ctx, a)
	}
}

func (b *bill) total(p *machine.Price) (sum machine.Money) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, life := range b.lives {
		sum += p.Cost(life)
	}
	return sum
}

// stubborn is a command that takes no notice of any limit and ends with its machine.
func stubborn(ctx context.Context, _ *wire.Assignment) wire.Result {
	<-ctx.Done()
	return wire.Result{Outcome: wire.Failed, Started: true, Exit: &machine.Exit{Code: -1, Signal: "SIGKILL"}}
}

// obedient is a command that would take some time and is stopped by its agent when its run timeout is over.
func obedient(d time.Duration, code int) func(context.Context, *wire.Assignment) wire.Result {
	return func(ctx context.Context, a *wire.Assignment) wire.Result {
		limit := time.Duration(a.RunTimeoutMS) * time.Millisecond
		wait(ctx, min(d, limit))
		if d <= limit {
			return fail(code)(ctx, a)
		}
		r := wire.Result{Outcome: wire.TimedOut, Reason: "timeout", Started: true, Exit: &machine.Exit{Code: -1, Signal: "SIGTERM"}}
		if a.RunIsCost {
			r.Reason = "cost_limit"
		}
		return r
	}
}

// costOf is what a job has cost by the store, which a machine that is gone does not change any more.
func costOf(job *store.Job) (sum machine.Money) {
	for _, a := range job.AttemptLog {
		sum += a.Meter().Most()
	}
	return sum
}

func TestAServerThatIsAwayLetsNoJobCostMoreThanItsCap(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, priced(dollarAnHour()))
		var b bill
		f.work = b.of(stubborn)
		job := f.submit(func(s *dayfly.JobSpec) {
			s.MaxCost, s.Retry.MaxAttempts, s.Timeouts.Run = halfDollar, 10, dayfly.Duration(10*time.Hour)
		})
		wait(t.Context(), time.Minute)
		f.stop()
		wait(t.Context(), time.Hour)
		if got := b.total(dollarAnHour()); got == 0 || got > halfDollar {
			t.Errorf("after an hour without a server the provider's bill is %s, want its machine ended within %s", got, halfDollar)
		}
		f.start()
		done := f.finished(job.ID, 10*time.Minute)
		check(t, done, dayfly.Failed, dayfly.ReasonCostLimit, 1)
		if got := costOf(done); got > halfDollar {
			t.Errorf("the job has cost %s by its attempts, want %s at most", got, halfDollar)
		}
	})
}

func TestAClockThatIsSetBackWhileNoServerRunsLetsNoJobCostMoreThanItsCap(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, priced(dollarAnHour()))
		f.stop()
		began := time.Now()
		f.options.Clock, f.options.ClockSince = func() time.Duration { return time.Since(began) }, "a start of the computer"
		f.start()
		f.ahead(10 * time.Hour) // as if the wall clock were set back by that much from now on
		var b bill
		f.work = b.of(stubborn)
		job := f.submit(func(s *dayfly.JobSpec) {
			s.MaxCost, s.Retry.MaxAttempts, s.Timeouts.Run = halfDollar, 10, dayfly.Duration(10*time.Hour)
		})
		wait(t.Context(), time.Minute)
		f.stop()
		wait(t.Context(), 24*time.Minute) // of thirty that the cap pays for
		f.cloud.Vanish(f.cloud.Machines()[0].ID)
		f.start()
		done := f.finished(job.ID, 3*time.Hour)
		f.settled(time.Minute)
		if got := b.total(dollarAnHour()); got == 0 || got > halfDollar {
			t.Errorf("the provider's bill is %s after %d attempts, want something and %s at most", got, len(done.AttemptLog), halfDollar)
		}
	})
}

func TestACommandIsStoppedInTimeToBringItsOutputsHomeWithinTheCap(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, priced(dollarAnHour()))
		var b bill
		var limit time.Duration
		f.work = b.of(func(ctx context.Context, a *wire.Assignment) wire.Result {
			limit = time.Duration(a.RunTimeoutMS) * time.Millisecond
			return obedient(2*time.Hour, 0)(ctx, a)
		})
		job := f.submit(func(s *dayfly.JobSpec) {
			s.MaxCost, s.Retry.MaxAttempts, s.Timeouts.Run = halfDollar, 10, dayfly.Duration(3*time.Hour)
		})
		done := f.finished(job.ID, time.Hour)
		check(t, done, dayfly.Failed, dayfly.ReasonCostLimit, 1)
		if least, most := 29*time.Minute, 30*time.Minute-40*time.Second; limit < least || limit > most {
			t.Errorf("the run timeout was %v, want half an hour less what it takes to stop and to store its outputs", limit)
		}
		f.settled(time.Minute)
		if got := b.total(dollarAnHour()); got > halfDollar {
			t.Errorf("the provider's bill is %s, want %s at most", got, halfDollar)
		}
	})
}

func TestAttemptsShareACap(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, priced(dollarAnHour()))
		var b bill
		f.work = b.of(obedient(11*time.Minute, 1))
		job := f.submit(func(s *dayfly.JobSpec) { s.MaxCost, s.Retry.MaxAttempts = halfDollar, 10 })
		done := f.finished(job.ID, 2*time.Hour)
		// Two of eleven minutes, and one that is stopped when less than eight are left.
		check(t, done, dayfly.Failed, dayfly.ReasonCostLimit, 3)
		f.settled(time.Minute)
		if got := b.total(dollarAnHour()); got > halfDollar || got < halfDollar*9/10 {
			t.Errorf("the provider's bill is %s, want about %s and no more", got, halfDollar)
		}
	})
}

func TestNoAttemptIsLaunchedThatWhatIsLeftDoesNotPayFor(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, priced(dollarAnHour()))
		f.work = obedient(25*time.Minute, 1) // of thirty
		job := f.submit(func(s *dayfly.JobSpec) { s.MaxCost, s.Retry.MaxAttempts = halfDollar, 10 })
		done := f.finished(job.ID, 2*time.Hour)
		check(t, done, dayfly.Failed, dayfly.ReasonCostLimit, 1)
		if !strings.Contains(done.Message, "what is left does not pay for another start") {
			t.Errorf("the message is %q, want it to say what is missing", done.Message)
		}
		if n := f.engine.Load().OpenJobs(); n != 0 {
			t.Errorf("%d jobs count as unfinished, want none", n)
		}
	})
}

func TestARetryWaitsUntilItIsKnownWhatTheLastMachineHasCost(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, priced(dollarAnHour()))
		f.work = obedient(time.Minute, 1)
		rule := f.cloud.Fail(memmachine.Destroy, memmachine.Refuse(fault.Unavailable))
		job := f.submit(func(s *dayfly.JobSpec) { s.MaxCost, s.Retry.MaxAttempts = halfDollar, 2 })
		wait(t.Context(), 10*time.Minute)
		if now := f.job(job.ID); now.State != dayfly.Scheduled && now.State != dayfly.Queued || now.Number != 1 {
			t.Errorf("while its machine may still be there the job is %s with %d attempts, want it to wait after the first", now.State, now.Number)
		}
		rule.Stop()
		done := f.finished(job.ID, 30*time.Minute)
		check(t, done, dayfly.Failed, dayfly.ReasonExitNonzero, 2)
	})
}

func TestAMachineThatWasRefusedCostsNothing(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, priced(dollarAnHour()))
		f.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted)).Times(2)
		job := f.submit(nil)
		done := f.finished(job.ID, time.Hour)
		check(t, done, dayfly.Succeeded, "", 3)
		for i, a := range done.AttemptLog {
			if want := i < 2; a.Unbilled != want {
				t.Errorf("attempt %d is unbilled: %v, want %v", a.Number, a.Unbilled, want)
			}
		}
	})
}

func TestAMachineThatMayHaveBeenMadeCostsWhatItMayHaveCost(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, priced(dollarAnHour()))
		f.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Unavailable)).Times(1)
		f.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted)).Times(1)
		done := f.finished(f.submit(nil).ID, time.Hour)
		if first := done.AttemptLog[0]; first.Unbilled || first.State != dayfly.AttemptNeverStarted {
			t.Errorf("an attempt whose create was refused after a lost answer is %s, unbilled: %v; want it billed", first.State, first.Unbilled)
		}
	})
}

func TestAPriceIsThatOfTheLaunch(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, priced(dollarAnHour()))
		f.work = workFor(5 * time.Minute)
		job := f.submit(func(s *dayfly.JobSpec) { s.Timeouts.Run = dayfly.Duration(2 * time.Hour) })
		wait(t.Context(), time.Minute)
		priced(&machine.Price{Rate: 100 * machine.DollarPerHour})(&f.options)
		f.restart()
		done := f.finished(job.ID, 2*time.Hour)
		if got := done.AttemptLog[0].Price; got == nil || *got != *dollarAnHour() {
			t.Errorf("the price of an attempt after prices have changed: got %+v, want %+v", got, dollarAnHour())
		}
	})
}

func TestACapThatCannotBeKeptIsRefusedAtTheDoor(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, priced(dollarAnHour()))
		refused := func(what string, cap machine.Money, says string) {
			spec := dayfly.JobSpec{Command: []string{"true"}, MaxCost: cap}
			_, _, err := f.engine.Load().Submit(t.Context(), &engine.Submission{Spec: spec})
			var field *fault.FieldError
			if !errors.As(err, &field) || field.Field != "max_cost" || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: got %v, want a refusal of max_cost that says %q", what, err, says)
			}
			if _, err := f.engine.Load().Quote(t.Context(), spec); !errors.As(err, &field) || field.Field != "max_cost" {
				t.Errorf("%s: a quote got %v, want the same refusal", what, err)
			}
		}
		refused("a negative cap", -1, "must be an amount")
		refused("a cap beyond all bounds", machine.MaxMoney+1, "must be an amount")
		refused("a cap below one start", machine.Dollar/100, "does not pay for one start")
		f.options.Prices = nil
		f.restart()
		refused("a cap where nobody knows the price", machine.Dollar, "nobody knows what a machine of this size costs")
	})
}

func TestAFreeMachineIsCappedByNothing(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, priced(&machine.Price{}))
		f.work = obedient(5*time.Minute, 1)
		done := f.finished(f.submit(func(s *dayfly.JobSpec) { s.MaxCost, s.Retry.MaxAttempts = 1, 2 }).ID, time.Hour)
		check(t, done, dayfly.Failed, dayfly.ReasonExitNonzero, 2)
	})
}

func TestAQuoteSaysTheMostThatAJobCanCost(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, priced(dollarAnHour()))
		spec := dayfly.JobSpec{Command: []string{"true"}, Timeouts: dayfly.Timeouts{
			Boot: dayfly.Duration(time.Minute), Run: dayfly.Duration(58 * time.Minute), Grace: dayfly.Duration(time.Minute),
		}, Retry: dayfly.Retry{MaxAttempts: 3, MaxLaunches: 2}}
		quote, err := f.engine.Load().Quote(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		// Three machines of two hours, and three that take their boot timeout and grace: 2.5 minutes each.
		offer := quote.Offers[0]
		if want := 6*machine.Dollar + 3*41_667; offer.Most == nil || *offer.Most != want || offer.Uncapped != nil || offer.Machines != 6 {
			t.Errorf("got %+v with at most %v, want %s", offer, offer.Most, want)
		}
		spec.MaxCost = machine.Dollar
		if quote, err = f.engine.Load().Quote(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		if offer := quote.Offers[0]; *offer.Most != machine.Dollar || time.Duration(offer.Lifetime) != time.Hour {
			t.Errorf("with a cap: got at most %s and %v, want the cap and an hour", *offer.Most, offer.Lifetime)
		}
		if n := f.engine.Load().OpenJobs(); n != 0 {
			t.Errorf("quotes have made %d jobs, want none", n)
		}
	})
}
