package engine

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/internal/store"
)

func TestTheEnginesOwnAbsenceIsNobodysSilence(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	var v vigil
	for _, step := range []struct {
		look  float64 // when the engine looks at an attempt
		heard float64 // when the attempt's agent was last heard of
		want  float64 // for how long it has been silent
	}{
		{look: 1, heard: 0, want: 0}, // the first look after a start
		{look: 2, heard: 0, want: 1},
		{look: 3.5, heard: 0, want: 2.5}, // a little late is not away
		{look: 4, heard: 3.75, want: 0.25},
		{look: 300, heard: 3.75, want: 0.45}, // stopped, and continued: it counts as a fifth of a second
		{look: 301, heard: 3.75, want: 1.45},
		{look: 302, heard: 301.5, want: 0.5},
		{look: 302, heard: 299.5, want: 2}, // heard while it was stopped
		{look: 400, heard: 3.75, want: 2.65},
	} {
		v.look(at(step.look))
		want := time.Duration(step.want * float64(time.Second))
		if got := v.elapsed(at(step.heard), at(step.look)); got != want {
			t.Errorf("at %v, heard at %v: got a silence of %v, want %v", step.look, step.heard, got, want)
		}
	}
}

func TestAnEngineThatIsAlwaysSlowHasPatienceThatEnds(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var v vigil
	v.look(start)
	now := start
	for range 1000 { // far more naps than are remembered apart
		now = now.Add(3 * time.Second)
		v.look(now)
	}
	if got, want := v.elapsed(now.Add(-time.Minute), now), 4*time.Second; got != want {
		t.Errorf("looking each three seconds, got %v of a minute, want %v", got, want)
	}
	if got, want := v.elapsed(start, now), 200*time.Second; got != want {
		t.Errorf("looking each three seconds, got %v of 3000s, want %v", got, want)
	}
}

func TestTheClockCountsWhatItsCounterCounts(t *testing.T) {
	t.Parallel()
	var counted time.Duration
	stored := time.Now().Add(time.Hour).UTC().Round(0)
	c := newClock(store.Reading{Clock: stored}, func() time.Duration { return counted }, "")
	if got := c.now(); !got.Equal(stored) {
		t.Errorf("at the start, an hour behind the stored clock: got %v, want %v", got, stored)
	}
	counted += 3 * time.Hour // the computer was suspended, and the wall clock is where it was
	if got, want := c.now(), stored.Add(3*time.Hour); !got.Equal(want) {
		t.Errorf("three hours later: got %v, want %v", got, want)
	}
}

func TestTheClockGoesOnBetweenTwoServersAsItsCounterDoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // in which the wall clock stands still
		now := wallClock()
		for what, c := range map[string]struct {
			wall  time.Duration // by how much the wall clock has gone on while no server ran
			since string        // what the counter counts from then
			count time.Duration // what it has counted then
			want  time.Duration // by how much the engine's clock has gone on
		}{
			"a wall clock that is right":                      {2 * time.Hour, "boot 1", 3 * time.Hour, 2 * time.Hour},
			"a wall clock that was set back":                  {-24 * time.Hour, "boot 1", 3 * time.Hour, 2 * time.Hour},
			"a wall clock that was set back a little":         {30 * time.Minute, "boot 1", 3 * time.Hour, 2 * time.Hour},
			"a wall clock that was set forward":               {9 * time.Hour, "boot 1", 3 * time.Hour, 9 * time.Hour},
			"a computer that was started anew":                {time.Hour, "boot 2", 3 * time.Hour, time.Hour},
			"one with a wall clock that was set back":         {-24 * time.Hour, "boot 2", 3 * time.Hour, 0},
			"a counter of which nobody knows since when":      {-24 * time.Hour, "", 3 * time.Hour, 0},
			"a counter that has gone back, which none should": {-24 * time.Hour, "boot 1", time.Minute, 0},
		} {
			// An hour was counted when the clock was last stored.
			last := store.Reading{Clock: now.Add(-c.wall), Count: time.Hour, Since: "boot 1"}
			if c.since == "" {
				last.Since = ""
			}
			next := newClock(last, func() time.Duration { return c.count }, c.since)
			if got := next.now().Sub(last.Clock); got != c.want {
				t.Errorf("%s: the clock has gone on by %v, want %v", what, got, c.want)
			}
			if got := next.reading(); got.Count != c.count || got.Since != c.since || !got.Clock.Equal(next.now()) {
				t.Errorf("%s: its reading is %+v, want what it shows and has counted", what, got)
			}
		}
	})
}
