package engine

import (
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/internal/store"
)

// clock is the engine's notion of time: the wall clock as it was when the engine started, plus what a counter has
// counted since. Setting the wall clock while the server runs moves no timeout. Across a restart the clock does not go
// back behind what the store has seen; and if the counter has gone on meanwhile, not behind what that has counted since.
//
// What others compare with their own clocks is no business of this one: the end of a signed URL, and the time before
// which a job must not run. It is told by the wall clock, as that is at the moment, which the others have too. A wall clock
// that was once ahead leaves this one ahead of it for good, and one that was set forward leaves this one behind until the
// next start.
type clock struct {
	start time.Time            // with what the stored clock was ahead of the wall clock
	count func() time.Duration // the time since some fixed moment
	begun time.Duration        // what it counted at the start
	since string               // what it counts from, or ""
}

// newClock starts a clock that is not before the last reading of the one before. A nil count is Go's monotonic clock,
// of which since must be "".
func newClock(last store.Reading, count func() time.Duration, since string) clock {
	if count == nil {
		began := time.Now()
		count = func() time.Duration { return time.Since(began) }
	}
	c := clock{start: wallClock(), count: count, begun: count(), since: since}
	least := last.Clock
	if since != "" && since == last.Since {
		least = least.Add(max(0, c.begun-last.Count))
	}
	if least.After(c.start) {
		c.start = least.UTC()
	}
	return c
}

// reading returns what is to be stored of the clock, for the next one.
func (c clock) reading() store.Reading {
	count := c.count()
	return store.Reading{Clock: c.start.Add(count - c.begun), Count: count, Since: c.since}
}

// wallClock returns the time as others tell it at the moment.
func wallClock() time.Time { return time.Now().Round(0).UTC() }

// now returns the clock's time.
func (c clock) now() time.Time { return c.start.Add(c.count() - c.begun) }

// vigil tells the silence of others from the engine's own. A process can be stopped, or get no processor, for longer
// than any patience it has; what it then did not hear was perhaps said. So a time during which the engine has not looked
// at its attempts counts as napCounts and no more. It does count that much: an engine that is always slow would
// otherwise have no patience that ever ends.
type vigil struct {
	first, last time.Time // when the engine looked
	naps        []nap     // in their order
}

// nap is a time of which some did not count.
type nap struct {
	from, to time.Time
	lost     time.Duration // what did not count of it
}

// longestNap is how long the engine may not have looked without having been away. It looks every second.
const longestNap = 2 * time.Second

// napCounts is what counts of a nap: little, because those who were not heard meanwhile need a moment to be heard again.
const napCounts = 200 * time.Millisecond

// maxNaps bounds how many naps are remembered apart. Two that are taken for one lose as much, for whatever began between
// them even more: patience only grows.
const maxNaps = 64

// look notes that the engine looks now. Nothing before its first look counts.
func (v *vigil) look(now time.Time) {
	if v.first.IsZero() {
		v.first, v.last = now, now
	}
	if away := now.Sub(v.last); away > longestNap {
		v.naps = append(v.naps, nap{from: v.last, to: now, lost: away - napCounts})
	}
	if len(v.naps) > maxNaps {
		v.naps[1].from = v.naps[0].from
		v.naps[1].lost += v.naps[0].lost
		v.naps = slices.Delete(v.naps, 0, 1)
	}
	v.last = now
}

// elapsed returns how much of the time since t the engine was there.
func (v *vigil) elapsed(t, now time.Time) time.Duration {
	if t.Before(v.first) {
		t = v.first
	}
	passed := now.Sub(t)
	for _, n := range slices.Backward(v.naps) {
		if !n.to.After(t) {
			break
		}
		during := n.to.Sub(n.from)
		if t.After(n.from) {
			during = n.to.Sub(t)
		}
		passed -= min(n.lost, during)
	}
	return max(0, passed)
}
