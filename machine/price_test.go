package machine_test

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/machine"
)

func TestACostCountsEachSecondThatHasBegunAndIsRoundedUp(t *testing.T) {
	t.Parallel()
	small := machine.Price{Rate: 3_047_400} // $0.0000008465 per second
	hourly := machine.Price{Rate: machine.DollarPerHour, Minimum: time.Minute}
	for _, c := range []struct {
		what  string
		price machine.Price
		d     time.Duration
		want  machine.Money
	}{
		{"nothing", small, 0, 0},
		{"less than nothing", small, -time.Second, 0},
		{"a nanosecond is a second, and that a millionth", small, 1, 1},
		{"ten seconds, 8.465 millionths", small, 10 * time.Second, 9},
		{"an hour", small, time.Hour, 3048},
		{"a month", small, 30 * 24 * time.Hour, 2_194_128},
		{"an hour at a dollar", hourly, time.Hour, machine.Dollar},
		{"a second, of which a minute is billed", hourly, time.Second, 16_667},
		{"a machine that costs nothing", machine.Price{}, time.Hour, 0},
		{"more than can be said", machine.Price{Rate: math.MaxInt64}, math.MaxInt64, math.MaxInt64},
	} {
		if got := c.price.Cost(c.d); got != c.want {
			t.Errorf("%s: got %s, want %s", c.what, got, c.want)
		}
	}
}

func TestMoneyLastsAsLongAsItPaysForAndNoLonger(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := machine.Price{
			Rate:    machine.Rate(rapid.Int64Range(1, int64(machine.MaxRate)).Draw(t, "rate")),
			Minimum: time.Duration(rapid.IntRange(0, 3).Draw(t, "minimum")) * time.Minute,
		}
		m := machine.Money(rapid.Int64Range(0, int64(1000*machine.Dollar)).Draw(t, "money"))
		lasts := p.Lasts(m)
		if got := p.Cost(lasts); got > m {
			t.Fatalf("%s at %s lasts %v, which costs %s", m, p.Rate, lasts, got)
		}
		if longer := max(lasts+time.Second, p.Minimum); lasts < machine.MaxLifetime && p.Cost(longer) <= m {
			t.Fatalf("%s at %s lasts %v, and %v costs no more", m, p.Rate, lasts, longer)
		}
	})
	if got := (machine.Price{}).Lasts(1); got != machine.MaxLifetime {
		t.Errorf("a machine that costs nothing: got %v, want %v", got, machine.MaxLifetime)
	}
	if got := (machine.Price{Rate: 1}).Lasts(math.MaxInt64); got != machine.MaxLifetime {
		t.Errorf("more money than a rate can use: got %v, want %v", got, machine.MaxLifetime)
	}
}

func TestOwnHardwareCostsNothingUnlessItsPricesAreSaid(t *testing.T) {
	t.Parallel()
	size := machine.Size{CPUs: 0.5, MemoryMB: 1536}
	cpu, memory := machine.OwnPrices{CPUHour: 1000}, machine.OwnPrices{GBHour: 1000}
	for _, c := range []struct {
		what   string
		prices machine.OwnPrices
		size   machine.Size
		want   machine.Rate
		known  bool
	}{
		{"no prices", machine.OwnPrices{}, machine.Size{}, 0, true},
		{"processors", cpu, size, 500, true},
		{"memory, of which a GB is 1024 MiB", memory, size, 1500, true},
		{"memory that is no whole number of units", memory, machine.Size{MemoryMB: 1}, 1, true},
		{"a tenth of a processor", cpu, machine.Size{CPUs: 0.1}, 100, true},
		{"processors that nobody has counted", cpu, machine.Size{MemoryMB: 512}, 0, false},
		{"memory that nobody has counted", memory, machine.Size{CPUs: 1}, 0, false},
		{"a GPU", cpu, machine.Size{CPUs: 1, GPU: "a10"}, 0, false},
	} {
		got, known := c.prices.Price(c.size, "")
		if got.Rate != c.want || known != c.known {
			t.Errorf("%s: got %d, known %v; want %d, %v", c.what, got.Rate, known, c.want, c.known)
		}
	}
}
