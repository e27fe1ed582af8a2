package engine

import (
	"testing"
	"time"
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
	c := newClock(stored, func() time.Duration { return counted })
	if got := c.now(); !got.Equal(stored) {
		t.Errorf("at the start, an hour behind the stored clock: got %v, want %v", got, stored)
	}
	counted += 3 * time.Hour // the computer was suspended, and the wall clock is where it was
	if got, want := c.now(), stored.Add(3*time.Hour); !got.Equal(want) {
		t.Errorf("three hours later: got %v, want %v", got, want)
	}
}
