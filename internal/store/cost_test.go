package store_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

func TestTheSharesOfDaysAddUpToTheCost(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		seconds := func(label string, most int) time.Duration {
			return time.Duration(rapid.IntRange(0, most).Draw(t, label)) * 997 * time.Millisecond
		}
		m := store.Meter{
			From: begin, Lifetime: seconds("lifetime", 400_000),
			Price: &machine.Price{
				Rate: machine.Rate(rapid.Int64Range(1, 1e10).Draw(t, "rate")), Minimum: seconds("minimum", 100),
			},
		}
		now := begin.Add(seconds("passed", 500_000))
		if rapid.Bool().Draw(t, "gone") {
			m.Until = now
		}
		wall := now.Add(seconds("ahead", 200_000) - seconds("behind", 200_000))
		before := machine.Money(rapid.Int64Range(0, int64(m.Cost(now))).Draw(t, "before"))
		var sum machine.Money
		last := ""
		for _, share := range m.Days(now, wall, before) {
			if share.Day <= last || share.Amount < 0 {
				t.Fatalf("a share of %+v after the day %s", share, last)
			}
			last, sum = share.Day, sum+share.Amount
		}
		if want := m.Cost(now) - before; sum != want {
			t.Fatalf("the shares add up to %s, want %s", sum, want)
		}
		if last > store.DayOf(wall) {
			t.Fatalf("a share of %s, and it is %s", last, store.DayOf(wall))
		}
		if m.Cost(now) > m.Most() {
			t.Fatalf("it costs %s, and at most %s", m.Cost(now), m.Most())
		}
	})
}

func TestACostGoesOnUntilTheMachineIsGoneOrMustHaveEndedItself(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	price := &machine.Price{Rate: 3600_000} // a millionth per second
	for _, c := range []struct {
		what  string
		meter store.Meter
		after time.Duration
		want  machine.Money
	}{
		{"at once", store.Meter{Price: price, Lifetime: time.Hour}, 0, 1},
		{"when the clock has gone back", store.Meter{Price: price, Lifetime: time.Hour}, -time.Hour, 1},
		{"after a minute", store.Meter{Price: price, Lifetime: time.Hour}, time.Minute, 60},
		{"after its lifetime", store.Meter{Price: price, Lifetime: time.Hour}, 9 * time.Hour, 3600},
		{"when it is gone", store.Meter{Price: price, Lifetime: time.Hour, Until: begin.Add(time.Second)}, time.Minute, 1},
		{"when it was never made", store.Meter{Price: price, Lifetime: time.Hour, Unbilled: true}, time.Minute, 0},
		{"when nobody knows", store.Meter{Lifetime: time.Hour}, time.Minute, 0},
	} {
		c.meter.From = begin
		if got := c.meter.Cost(begin.Add(c.after)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.what, got, c.want)
		}
	}
}
