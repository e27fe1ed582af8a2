package main

import (
	"math"
	"slices"
	"time"
)

// Spread is where the values of several rounds lie.
type Spread struct {
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	Max    float64 `json:"max"`
}

// spreadOf returns the spread of values; that of no values is all zeros. The median of an even number of values lies
// halfway between the two in the middle.
func spreadOf(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	median := sorted[middle]
	if len(sorted)%2 == 0 {
		median = (sorted[middle-1] + sorted[middle]) / 2
	}
	return Spread{Min: sorted[0], Median: median, Max: sorted[len(sorted)-1]}
}

// ratios returns a[i]/b[i] for every round that both have. A round whose divisor is zero has no ratio.
func ratios(a, b []float64) []float64 {
	var out []float64
	for i := range min(len(a), len(b)) {
		if b[i] != 0 {
			out = append(out, a[i]/b[i])
		}
	}
	return out
}

// percentile returns the smallest sample that at least the fraction p (from 0 to 1) of all samples do not exceed, or
// 0 if there are none. It returns a sample that has really been seen, never a value between two.
func percentile(samples []time.Duration, p float64) time.Duration {
	if len(samples) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(samples))
	rank := int(math.Ceil(p*float64(len(sorted)))) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}

// steadyRate returns how many of the events happened per second in the middle nine tenths of them. The first and the
// last twentieth are left out, because a start and an end say how long things take and not how often they happen.
func steadyRate(times []time.Time) float64 {
	if len(times) < 2 {
		return 0
	}
	sorted := slices.SortedFunc(slices.Values(times), time.Time.Compare)
	cut := len(sorted) / 20
	first, last := cut, len(sorted)-1-cut
	elapsed := sorted[last].Sub(sorted[first]).Seconds()
	if elapsed <= 0 {
		return 0
	}
	return float64(last-first) / elapsed
}

// milliseconds is the unit that times are reported in.
func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// fromMilliseconds is the length of a time that was reported in milliseconds.
func fromMilliseconds(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

// perSecond returns how many of count there were per second.
func perSecond(count int, elapsed time.Duration) float64 {
	if elapsed <= 0 {
		return 0
	}
	return float64(count) / elapsed.Seconds()
}
