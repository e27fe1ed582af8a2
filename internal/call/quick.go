package call

import (
	"sync/atomic"
	"time"
)

// A function that is done in a few microseconds costs less than to wake a goroutine for it: measured between two processes, a call of a
// function that does nothing took 50 µs when the goroutine that reads the link ran it, and 80 to 110 µs when it left that to another, since
// on an idle computer each of the two handovers wakes a thread. So functions that have been quick are run where they are read. One that
// is not quick this time is noticed by the server's watch, which makes another goroutine read on; until then, not much longer than one of
// its ticks, those who come later wait.
//
// The watch must tick rarely, since each tick wakes two threads, its own and that of Go's scheduler which looks after timers. At half a
// millisecond, where it began, four runners on two processors spent half of their time on that, and what was worse, read frames
// singly that would have come together. So it ticks ten times more slowly, and a function that once was far from quick
// must be quick for long before it is run like that again.

// turns is a link whose reading can be passed on, as *link.Link's.
type turns interface {
	Turn() uint64
	Pass(turn uint64)
	Hurry(on bool)
	PostLate(turn uint64, parts ...[]byte) error
}

const (
	quick     = 10 * time.Microsecond // what a quick function takes at most, on an idle computer
	slow      = time.Millisecond      // how long others may wait for one that turns out not to be
	watchTick = 5 * time.Millisecond  // how often the watch looks
	watchIdle = 20                    // after how many ticks without a quick function it sleeps
	maxQuick  = 1 << 10               // bytes of an argument of what is run at once
	maxScore  = 64                    // how many quick runs count at most
)

// pace remembers how quick a function is.
type pace struct{ score atomic.Int32 }

// isQuick reports whether most of the last runs were quick.
func (p *pace) isQuick() bool { return p.score.Load() > 0 }

// ran notes a run. One that was not quick counts as much as four quick ones, since a quick function is interrupted now and then, and one
// that others would have had to wait for as much as all before.
func (p *pace) ran(took time.Duration) {
	score := p.score.Load()
	switch {
	case took <= quick:
		score = min(score+1, maxScore)
	case took < slow:
		score = max(score-4, -maxScore)
	default:
		score = max(score-maxScore, -maxScore)
	}
	if score != p.score.Load() {
		p.score.Store(score) // two at once may count as one
	}
}

// watch looks after what is run by the goroutine that reads.
type watch struct {
	turns  turns
	made   time.Time
	since  atomic.Int64  // when that began, in nanoseconds after made; set before now is
	now    atomic.Uint64 // the turn in which something is run; 0: nothing is
	runs   atomic.Uint64
	awake  atomic.Bool
	wake   chan struct{}
	closed chan struct{}
}

func newWatch(t turns) *watch {
	w := &watch{turns: t, made: time.Now(), wake: make(chan struct{}, 1), closed: make(chan struct{})}
	go w.look()
	return w
}

// begin says that the frame of this turn is being worked on.
func (w *watch) begin() (turn uint64) {
	turn = w.turns.Turn()
	w.since.Store(int64(time.Since(w.made)))
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
	var runs uint64
	idle := watchIdle
	for {
		if idle == watchIdle {
			idle = 0
			w.turns.Hurry(false)
			w.awake.Store(false)
			if w.runs.Load() == runs { // or one has begun in this moment, and took the watch for awake
				ticker.Stop()
				select {
				case <-w.wake:
				case <-w.closed:
					return
				}
				ticker.Reset(watchTick)
			}
			w.awake.Store(true)
			w.turns.Hurry(true) // which the ticks allow
		}
		select {
		case <-ticker.C:
		case <-w.closed:
			return
		}
		now, since := w.now.Load(), time.Duration(w.since.Load())
		// If it is still the same, since is when it began.
		if now != 0 && time.Since(w.made)-since >= slow && now == w.now.Load() {
			w.turns.Pass(now)
			w.end(now)
		}
		if ran := w.runs.Load(); ran != runs || now != 0 {
			runs, idle = ran, 0
		} else {
			idle++
		}
	}
}
