package main

import (
	"slices"
	"testing"
	"time"
)

func TestSpreadOf(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		values []float64
		want   Spread
	}{
		"of nothing is zero":                       {nil, Spread{}},
		"of one value is that value":               {[]float64{7}, Spread{7, 7, 7}},
		"has the middle one of an odd number":      {[]float64{9, 1, 4}, Spread{1, 4, 9}},
		"has the mean of the middle two otherwise": {[]float64{10, 1, 2, 4}, Spread{1, 3, 10}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			given := slices.Clone(c.values)
			if got := spreadOf(c.values); got != c.want {
				t.Errorf("spreadOf(%v) = %+v, want %+v", c.values, got, c.want)
			}
			if !slices.Equal(c.values, given) {
				t.Errorf("spreadOf changed its argument to %v", c.values)
			}
		})
	}
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[len(hundred)-1-i] = time.Duration(i + 1) // 100 … 1
	}
	for name, c := range map[string]struct {
		samples []time.Duration
		p       float64
		want    time.Duration
	}{
		"of nothing is zero":                       {nil, 0.5, 0},
		"of one sample is that sample":             {[]time.Duration{5}, 0.99, 5},
		"leaves half of the samples below":         {hundred, 0.50, 50},
		"leaves one in a hundred above":            {hundred, 0.99, 99},
		"is the largest sample at the end":         {hundred, 1, 100},
		"is the smallest sample at the beginning":  {hundred, 0, 1},
		"is a sample and nothing between two":      {[]time.Duration{10, 20}, 0.5, 10},
		"is the largest of few samples at p99":     {[]time.Duration{3, 1, 2}, 0.99, 3},
		"of four samples at three quarters is one": {[]time.Duration{4, 3, 2, 1}, 0.75, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := percentile(c.samples, c.p); got != c.want {
				t.Errorf("percentile(%v, %v) = %d, want %d", c.samples, c.p, got, c.want)
			}
		})
	}
}

func TestSteadyRateLeavesOutTheStartAndTheEnd(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var times []time.Time
	for i := range 100 {
		times = append(times, begin.Add(time.Duration(i)*10*time.Millisecond)) // 100 a second
	}
	times[0] = begin.Add(-time.Hour)  // a slow start
	times[99] = begin.Add(+time.Hour) // a straggler
	slices.Reverse(times)             // in no order
	if got := steadyRate(times); got < 99.999 || got > 100.001 {
		t.Errorf("steadyRate = %v, want 100", got)
	}
	if got := steadyRate(times[:1]); got != 0 {
		t.Errorf("steadyRate of one event = %v, want 0", got)
	}
}

func TestRatiosAreTakenRoundByRound(t *testing.T) {
	t.Parallel()
	got := ratios([]float64{10, 30, 5, 1}, []float64{20, 10, 0})
	if want := []float64{0.5, 3}; !slices.Equal(got, want) {
		t.Errorf("ratios = %v, want %v", got, want)
	}
}
