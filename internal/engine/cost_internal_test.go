package engine

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// past is an attempt as it really was, and as the store knows it.
type past struct {
	meter store.Meter
	real  time.Duration // how long its machine was there, which its provider bills
}

// TestNoJobCostsMoreThanItsCap follows a job through random attempts: of any length, lost or refused, with machines that are
// destroyed at once, late or by themselves, with servers that are away and clocks that go forward meanwhile, and prices
// that change between them.
func TestNoJobCostsMoreThanItsCap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		length := func(label string, most time.Duration) time.Duration {
			return time.Duration(rapid.Int64Range(0, int64(most)).Draw(t, label))
		}
		price := func() *machine.Price {
			return &machine.Price{
				Rate:    machine.Rate(rapid.Int64Range(0, int64(10*machine.DollarPerHour)).Draw(t, "rate")),
				Minimum: length("minimum", 2*time.Minute).Truncate(time.Second),
			}
		}
		most := machine.Money(rapid.Int64Range(1, int64(20*machine.Dollar)).Draw(t, "cap"))
		clock := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
		var log []*past
		for range rapid.IntRange(1, 12).Draw(t, "attempts") {
			b := budget{most: most, price: price(), full: time.Second + length("full", 10*time.Hour), least: length("least", 10*time.Minute)}
			for _, p := range log {
				// It may be known by now that the machine is gone: never before it was, and perhaps long after.
				if p.meter.Until.IsZero() && rapid.Bool().Draw(t, "found gone") {
					p.meter.Until = p.meter.From.Add(p.real + length("late", 3*time.Hour))
				}
				if p.meter.Final() {
					b.spent += p.meter.Cost(clock)
				} else {
					b.reserved += p.meter.Most()
				}
			}
			verdict, lifetime := b.allot()
			if verdict == granted {
				p := &past{meter: store.Meter{Price: b.price, From: clock, Lifetime: lifetime, Unbilled: rapid.IntRange(0, 9).Draw(t, "refused") == 0}}
				if !p.meter.Unbilled {
					p.real = length("life", lifetime)
				}
				log = append(log, p)
			}
			clock = clock.Add(length("passed", 5*time.Hour))
			var sum machine.Money
			for _, p := range log {
				sum += p.meter.Price.Cost(p.real)
			}
			if sum > most {
				t.Fatalf("the provider bills %s for %d attempts, and the cap is %s", sum, len(log), most)
			}
		}
	})
}

func TestABudgetIsDecidedUponByWhatIsLeft(t *testing.T) {
	t.Parallel()
	dollar := &machine.Price{Rate: machine.DollarPerHour}
	for _, c := range []struct {
		what     string
		budget   budget
		verdict  allotment
		lifetime time.Duration
	}{
		{"no cap", budget{full: time.Hour}, granted, time.Hour},
		{"no cap, and much spent", budget{full: time.Hour, spent: 9 * machine.Dollar, price: dollar}, granted, time.Hour},
		{"a cap for less than all", budget{most: machine.Dollar, price: dollar, full: 3 * time.Hour}, granted, time.Hour},
		{"a cap for more than all", budget{most: machine.Dollar, price: dollar, full: time.Minute}, granted, time.Minute},
		{"half of it spent", budget{most: machine.Dollar, spent: machine.Dollar / 2, price: dollar, full: 3 * time.Hour}, granted, 30 * time.Minute},
		{"too much spent", budget{most: machine.Dollar, spent: machine.Dollar * 9 / 10, price: dollar, full: time.Hour, least: 7 * time.Minute}, broke, 0},
		{"more spent than there was", budget{most: machine.Dollar, spent: 2 * machine.Dollar, price: dollar, full: time.Hour, least: time.Minute}, broke, 0},
		{"all of it perhaps spent", budget{most: machine.Dollar, reserved: machine.Dollar, price: dollar, full: time.Hour, least: time.Minute}, pending, 0},
		{"enough, whatever was spent", budget{most: 3 * machine.Dollar, reserved: machine.Dollar, price: dollar, full: time.Hour}, granted, time.Hour},
		{"a price that nobody knows", budget{most: machine.Dollar, full: time.Hour}, uncertain, 0},
		{"a machine that costs nothing", budget{most: 1, price: &machine.Price{}, full: time.Hour, least: time.Minute}, granted, time.Hour},
	} {
		verdict, lifetime := c.budget.allot()
		if verdict != c.verdict || lifetime != c.lifetime {
			t.Errorf("%s: got %s for %v, want %s for %v", c.what, verdict, lifetime, c.verdict, c.lifetime)
		}
	}
}
