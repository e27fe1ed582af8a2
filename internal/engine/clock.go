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

// vigil tells the silence of others from the engine's own. A process can be stopped, or get no processor, for longer
// than any patience it has; what it then did not hear was perhaps said. So when the engine finds that it has not looked
// at its attempts for a while, it counts from there, as it does after a restart.
type vigil struct {
	last  time.Time // when the engine last looked
	since time.Time // since when it has looked all the time
}

// longestNap is how long the engine may not have looked without having been away. It looks every second.
const longestNap = 2 * time.Second

// look notes that the engine looks now.
func (v *vigil) look(now time.Time) {
	if now.Sub(v.last) > longestNap {
		v.since = now
	}
	v.last = now
}

// elapsed returns how much of the time since t the engine was there.
func (v *vigil) elapsed(t, now time.Time) time.Duration {
	if t.Before(v.since) {
		t = v.since
	}
	return now.Sub(t)
}
