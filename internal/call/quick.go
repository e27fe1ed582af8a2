package call

import (
	"sync/atomic"
	"time"
)

// A function that is done in a few microseconds costs less than to wake a goroutine for it: measured between two processes, a call of a
// function that does nothing took 50 µs when the goroutine that reads the link ran it, and 80 to 110 µs when it left that to another, since
// on an idle computer each of the two handovers wakes a thread. So functions that have been quick are run where they are read. One that
// is not quick this time is noticed by the server's watch, which makes another goroutine read on; until then, at most
// two of its ticks, those who come later wait.

// turns is a link whose reading can be passed on, as *link.Link's.
type turns interface {
	Turn() uint64
	Pass(turn uint64)
	PostLate(turn uint64, parts ...[]byte) error
}

const (
	quick     = 10 * time.Microsecond  // what a quick function takes at most, on an idle computer
	watchTick = 500 * time.Microsecond // how often the watch looks
	watchIdle = 40                     // after how many ticks without a quick function it sleeps
	maxQuick  = 1 << 10                // bytes of an argument of what is run at once
)

// pace remembers how quick a function is.
type pace struct{ score atomic.Int32 }

// isQuick reports whether most of the last runs were quick.
func (p *pace) isQuick() bool { return p.score.Load() > 0 }

// ran notes a run. A slow one counts as much as four quick ones: a quick function is interrupted now and then.
func (p *pace) ran(took time.Duration) {
	score := p.score.Load()
	if took <= quick {
		score = min(score+1, 32)
	} else {
		score = max(score-4, -32)
	}
	if score != p.score.Load() {
		p.score.Store(score) // two at once may count as one
	}
}

// watch looks after what is run by the goroutine that reads.
type watch struct {
	turns  turns
	now    atomic.Uint64 // the turn in which something is run; 0: nothing is
	runs   atomic.Uint64
	awake  atomic.Bool
	wake   chan struct{}
	closed chan struct{}
}

func newWatch(t turns) *watch {
	w := &watch{turns: t, wake: make(chan struct{}, 1), closed: make(chan struct{})}
	go w.look()
	return w
}

// begin says that the frame of this turn is being worked on.
func (w *watch) begin() (turn uint64) {
	turn = w.turns.Turn()
	w.now.Store(turn)
	w.runs.Add(1)
	if !w.awake.Load() {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
	return turn
}

// end says that it is done.
func (w *watch) end(turn uint64) { w.now.CompareAndSwap(turn, 0) }

// look passes on the turns that take long.
func (w *watch) look() {
	ticker := time.NewTicker(watchTick)
	defer ticker.Stop()
	var seen, runs uint64
	idle := 0
	for {
		if idle == watchIdle {
			idle = 0
			ticker.Stop()
			w.awake.Store(false)
			select {
			case <-w.wake:
			case <-w.closed:
				return
			}
			w.awake.Store(true)
			ticker.Reset(watchTick)
		}
		select {
		case <-ticker.C:
		case <-w.closed:
			return
		}
		now := w.now.Load()
		if now != 0 && now == seen {
			w.turns.Pass(now)
			w.end(now)
		}
		seen = now
		if ran := w.runs.Load(); ran != runs || now != 0 {
			runs, idle = ran, 0
		} else {
			idle++
		}
	}
}
