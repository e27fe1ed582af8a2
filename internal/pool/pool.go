package pool

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Pool is a pool of runners. Its methods are safe for concurrent use.
type Pool struct {
	backend Backend
	o       Options // with all defaults filled in
	log     *slog.Logger
	made    time.Time       // the moment 0
	life    context.Context // ends when the pool begins to close, and with it the boots under way
	end     context.CancelFunc
	wake    chan struct{}  // tells Run to look at the clock again
	done    chan struct{}  // closed when Run has returned, or when it never will begin
	work    sync.WaitGroup // boots, watches and stops
	told    callbacks      // OnGrow, OnShrink and IdleCheck
	said    callbacks      // the Logger

	mu       sync.Mutex // guards what follows, and the members
	running  bool
	closed   bool
	closedAt moment
	leftover []error // runners of which something may be left; read when done

	line    line
	members []*member // all that exist, in the order in which they came up
	shelf   shelf
	boots   map[*boot]struct{}
	number  uint64 // of members so far

	serving  int // members in state serving
	inUse    int // slots taken of those
	prewarm  int // inUse at which one more is booted; 0: none is
	floor    int // how many are kept without work: Min, or fewer when MinIdle has passed
	booting  int // boots that are not overdue
	doubtful int // members in state failing that had no work yet: when they are lost, boots may have to pause
	wakeAt   moment
	trouble  trouble
	stuck    error  // why a runner could not be stopped that takes up a place; nil: none
	booted   uint64 // boots that succeeded
	failures uint64 // boots that failed
}

// member is a runner with what the pool knows of it.
type member struct {
	pool     *Pool
	runner   Runner
	done     <-chan struct{}
	failing  <-chan struct{} // nil: it is not known to be lost before done
	gone     chan struct{}   // closed when its Stop has succeeded or was given up
	name     string
	number   uint64
	upAt     moment
	row      int // how many boots in a row had failed before it came up
	place    int // in the shelf; -1: not there
	state    state
	busy     int    // slots taken
	used     bool   // a slot was ever taken
	restedAt moment // when it became idle, or was last found to be kept
	checking bool   // IdleCheck is being asked
	retireAt moment // when it gets no more work, if it ends by itself; 0: never
	stopAt   moment // when its work is told to end for that reason
	worn     error  // why it gets no more work, when work on it does not end
}

// state is where a member is in its life.
type state int

const (
	serving  state = iota // it is given work
	retiring              // it ends soon by itself, and serves on while a boot is under way that replaces it
	retired               // it does what it has
	failing               // it is lost, and nobody knows why yet
	stopping              // it is lost or being stopped
)

// New returns a pool which boots nothing until [Pool.Run] is called. The options may be nil. An error is of kind
// [fault.Invalid].
func New(b Backend, o *Options) (*Pool, error) {
	complete, err := o.complete()
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancel(context.Background())
	p := &Pool{
		backend: b,
		o:       complete,
		log:     complete.Logger.With("pool", complete.Name),
		made:    time.Now(),
		life:    life,
		end:     end,
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
		shelf:   shelf{packing: complete.Packing},
		boots:   map[*boot]struct{}{},
		floor:   complete.Min,
		wakeAt:  never,
	}
	p.told.report, p.said.report = p.say, p.sayNow
	return p, nil
}

// Slot is a caller's place on a runner.
type Slot struct {
	member   *member
	released bool
}

// Acquire returns a slot on a runner, which the caller has to Release. It waits in line for one if it must, at most until the
// context ends. Before Run is called it waits too. An error is an [*Error].
func (p *Pool) Acquire(ctx context.Context) (*Slot, error) {
	if ctx.Err() != nil {
		return nil, &Error{Pool: p.o.Name, Reason: TimeUp, Cause: contextError(ctx)}
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, &Error{Pool: p.o.Name, Reason: Closed}
	}
	if m := p.next(); m != nil {
		s := p.grant(m)
		p.mu.Unlock()
		return s, nil
	}
	w, err := p.enqueue()
	p.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case <-w.ready:
		return w.slot, w.err
	case <-ctx.Done():
		return p.abandon(ctx, w)
	}
}

// next returns the member to be used next, or nil when none has a free slot.
func (p *Pool) next() *member {
	for {
		m := p.shelf.first()
		if m == nil {
			return nil
		}
		select {
		case <-m.done:
			p.lost(m) // noticed before the goroutine that watches it
			continue
		default:
		}
		select { // by itself: one that looks at both is slower than two, and this is on the path of every call
		case <-m.failing:
			p.fail(m)
		default:
			return m
		}
	}
}

// grant takes a slot of a member that has one.
func (p *Pool) grant(m *member) *Slot {
	m.busy++
	m.used = true
	if m.busy == p.o.Concurrency {
		p.shelf.take(m)
	} else {
		p.shelf.put(m)
	}
	if m.state == serving {
		p.inUse++
		if p.prewarm > 0 && p.inUse >= p.prewarm {
			p.grow()
		}
	}
	if p.trouble.configuration && p.trouble.until == 0 {
		p.trouble.again = true
		p.grow()
	}
	return &Slot{member: m}
}

// enqueue puts the caller in line.
func (p *Pool) enqueue() (*waiter, error) {
	if p.line.length >= p.o.MaxQueued {
		return nil, p.refusal(Full, 0)
	}
	w := &waiter{since: p.now(), ready: make(chan struct{})}
	p.line.push(w)
	p.floor = p.o.Min
	p.settle()
	if p.line.first == w && !p.hope() {
		p.nudge() // its patience has to be looked after
	}
	return w, nil
}

// abandon takes a caller out of the line whose context has ended. It may have been given a slot in this moment.
func (p *Pool) abandon(ctx context.Context, w *waiter) (*Slot, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.settled() {
		if w.slot != nil {
			p.release(w.slot)
		}
	} else {
		p.line.remove(w)
	}
	e := p.refusal(TimeUp, p.now()-w.since)
	e.Cause = contextError(ctx)
	return nil, e
}

func (p *Pool) refusal(reason Reason, waited time.Duration) *Error {
	var again time.Duration
	if p.trouble.configuration && p.trouble.until > 0 {
		again = max(0, p.trouble.until-p.now())
	}
	return &Error{
		Again: again, Pool: p.o.Name, Reason: reason, Waited: waited, Queued: p.line.length,
		Up: p.serving, Booting: len(p.boots), Max: p.o.Max,
		Boots: p.trouble.row, Boot: p.trouble.err, Stop: p.stuck, NotRun: !p.running && !p.closed,
	}
}

// Runner returns the runner that the slot is on.
func (s *Slot) Runner() Runner { return s.member.runner }

// Abandon gives the slot back though its work has not ended, because nobody knows whether it ever will. The runner gets no more work
// from now on, and is stopped when all other work on it has ended. why is what OnShrink is told. After Release or another Abandon
// it does nothing, nor does Release afterwards.
func (s *Slot) Abandon(why error) {
	p, m := s.member.pool, s.member
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.released {
		return
	}
	p.wear(m, why)
	p.release(s)
	if !p.closed {
		p.settle()
	}
}

// Release gives the slot back. It is called when the work has ended on the runner, or certainly never began there, and not when the
// caller has lost interest: until then the work occupies the runner. Only the first call counts.
func (s *Slot) Release() {
	p := s.member.pool
	p.mu.Lock()
	p.release(s)
	p.mu.Unlock()
}

func (p *Pool) release(s *Slot) {
	if s.released {
		return
	}
	s.released = true
	m := s.member
	m.busy--
	if m.state == serving {
		p.inUse--
	}
	switch {
	case m.state >= failing:
	case m.state == retired && m.busy == 0:
		p.stop(m, Retired, m.worn)
		p.settle()
	case m.state == retired:
	case p.o.SingleUse:
		p.stop(m, Used, nil)
		p.settle()
	default:
		p.free(m)
	}
}

// free makes a slot of a member that serves available, to the first in line if there is one.
func (p *Pool) free(m *member) {
	p.shelf.put(m)
	if m.busy == 0 {
		p.rest(m)
	}
	if p.line.length > 0 {
		p.settle()
	}
}

// settle brings the pool in order after any event: those in line get what is free, what is wanted is booted, and those
// who wait in vain are told. Its cost does not depend on how many wait, except for those it serves or tells.
func (p *Pool) settle() {
	for p.line.length > 0 {
		m := p.next()
		if m == nil {
			break
		}
		w := p.line.first
		p.line.remove(w)
		w.grant(p.grant(m))
	}
	p.grow()
	p.giveUp()
}

// now returns the moment.
func (p *Pool) now() moment { return time.Since(p.made) }
