package machine

import (
	"fmt"
	"math"
	"math/bits"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// Pricer knows what machines cost. It is an optional interface of a [Provider]; one that brings no prices may be given
// those of a list, or of the configuration.
type Pricer interface {
	// Price returns what a machine of the size costs in the region, which may be a list as in [Spec.Region]; then it is
	// the dearest of them, and so it is where "" leaves the choice to a provider with regions. ok is false when that is not
	// known, which is not the same as a price of zero. It asks nobody and returns at once.
	Price(size Size, region string) (p Price, ok bool)
}

// Price is what a machine costs while it exists. The zero Price is that of a machine that costs nothing.
type Price struct {
	// Rate is what an hour costs.
	Rate Rate
	// Minimum is billed for every machine, however short its life. It is a whole number of seconds.
	Minimum time.Duration
	// Date is the day on which the price was read, as 2006-01-02, or "" for a price that somebody has configured.
	Date string
}

// Rate is a price per hour in billionths of a US dollar. The smallest machines cost less than a millionth of a dollar per
// second, and a rate in such small units still is a whole number.
type Rate int64

// DollarPerHour is one US dollar per hour.
const DollarPerHour Rate = 1_000_000_000

// MaxRate is the highest rate that text may name: a million dollars per hour.
const MaxRate = 1_000_000 * DollarPerHour

// String returns the rate in dollars per hour, without the units: "0.0030474".
func (r Rate) String() string { return decimal(int64(r), 9) }

// MarshalText writes the rate as String does.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads dollars per hour, such as "0.0405", with at most nine digits behind the point. Errors are
// fault.Invalid, as those of [ParseMoney].
func (r *Rate) UnmarshalText(text []byte) error {
	n, err := parseDecimal(string(text), 9)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %.40q is not an amount of US dollars per hour such as \"0.04\": %w", fault.Invalid, text, err)
	case Rate(n) > MaxRate:
		return fmt.Errorf("%w: %.40q is more than a million dollars per hour", fault.Invalid, text)
	}
	*r = Rate(n)
	return nil
}

// perHour is how many of a second's shares of a Rate's unit make one of Money's.
const perHour = 3600 * 1000

// Cost returns what a machine costs that exists for d. Each second that has begun counts whole, and what is less than a
// millionth of a dollar counts as one, so that a cost is never said to be lower than it is. Nothing costs nothing.
func (p Price) Cost(d time.Duration) Money {
	if d <= 0 || p.Rate <= 0 {
		return 0
	}
	d = max(d, p.Minimum)
	seconds := uint64(d / time.Second)
	if d%time.Second > 0 {
		seconds++
	}
	high, low := bits.Mul64(uint64(p.Rate), seconds)
	low, carry := bits.Add64(low, perHour-1, 0)
	high += carry
	if high >= perHour {
		return math.MaxInt64
	}
	quotient, _ := bits.Div64(high, low, perHour)
	return Money(min(quotient, math.MaxInt64))
}

// Lasts returns how long a machine may exist for the money: the longest whole number of seconds that costs no more. It
// is 0 when the money does not pay for the Minimum, and [MaxLifetime] at most.
func (p Price) Lasts(m Money) time.Duration {
	switch {
	case p.Rate <= 0:
		return MaxLifetime
	case m <= 0:
		return 0
	}
	high, low := bits.Mul64(uint64(m), perHour)
	seconds := uint64(math.MaxUint64)
	if high < uint64(p.Rate) {
		seconds, _ = bits.Div64(high, low, uint64(p.Rate))
	}
	lasts := time.Duration(min(seconds, uint64(MaxLifetime/time.Second))) * time.Second
	if lasts < p.Minimum {
		return 0
	}
	return lasts
}

// OwnPrices are the prices of machines on hardware of one's own: what an hour of a processor and of a GB of memory costs.
// A GB is 1024 MiB. With zero for both, machines cost nothing; otherwise a machine whose size does not say how much it has
// of what costs something has no known price.
type OwnPrices struct {
	CPUHour, GBHour Rate
}

// Price implements [Pricer]. The region does not matter. A GPU has no price of its own.
func (o OwnPrices) Price(size Size, _ string) (Price, bool) {
	if o.CPUHour == 0 && o.GBHour == 0 {
		return Price{}, true
	}
	if o.CPUHour != 0 && size.CPUs <= 0 || o.GBHour != 0 && size.MemoryMB <= 0 || size.GPU != "" {
		return Price{}, false
	}
	return Price{Rate: o.CPUHour.Times(size.CPUs) + o.GBHour.OfMiB(size.MemoryMB)}, true
}

// Times returns the rate of so many, which need not be whole, rounded up. Processors are given in floating point, and are
// taken to a thousandth.
func (r Rate) Times(n float64) Rate {
	thousandths := int64(math.Ceil(min(n, 1<<20)*1000 - 1e-6))
	return scaled(r, thousandths, 1000)
}

// OfMiB returns the rate of so many MiB when r is that of a GB of 1024 MiB, rounded up.
func (r Rate) OfMiB(n int) Rate { return scaled(r, int64(n), 1024) }

// PerBillion returns n billionths of the rate, rounded up.
func (r Rate) PerBillion(n int64) Rate { return scaled(r, n, 1_000_000_000) }

// scaled returns r*n/d, rounded up, and at most a rate that can be summed.
func scaled(r Rate, n, d int64) Rate {
	if r <= 0 || n <= 0 {
		return 0
	}
	high, low := bits.Mul64(uint64(r), uint64(n))
	low, carry := bits.Add64(low, uint64(d-1), 0)
	if high += carry; high >= uint64(d) {
		return math.MaxInt64 / 4
	}
	quotient, _ := bits.Div64(high, low, uint64(d))
	return Rate(min(quotient, math.MaxInt64/4))
}
