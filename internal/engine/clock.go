package engine

import "time"

// clock is the engine's notion of time: the wall clock as it was when the engine started, plus what a monotonic clock
// has counted since. Setting the wall clock while the server runs moves no timeout. Across a restart the clock does
// not go back behind what the store has seen.
type clock struct {
	start time.Time     // with its monotonic reading
	ahead time.Duration // how far behind the stored clock the wall clock was at the start
}

// newClock starts a clock that is not before last.
func newClock(last time.Time) clock {
	c := clock{start: time.Now()}
	c.ahead = max(0, last.Sub(c.start))
	return c
}

// now returns the clock's time.
func (c clock) now() time.Time {
	return c.start.Round(0).Add(c.ahead + time.Since(c.start)).UTC()
}

// up returns how long the clock has run.
func (c clock) up() time.Duration { return time.Since(c.start) }
