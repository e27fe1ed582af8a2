package link

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	// standbyTick is how often the goroutine of Serve, which stands by, looks whether anybody reads.
	standbyTick = 5 * time.Millisecond
	// standbyAfter is how many frames in a row must have left nobody waiting before the goroutine of Serve stands by: where several
	// wait at once it would be called back each time.
	standbyAfter = 8
	// standbyAgain is how many more it takes after it has stood by and nobody came: a runner that only logs does not make it.
	standbyAgain = 100
)

// Share lets goroutines that wait for frames read these themselves, see [Link.Lead]. calm reports whether nobody waits for a frame:
// whoever begins to wait is known to it before they call Lead. Share is for before Serve, and for links whose frames are not passed on with
// [Link.Pass].
func (l *Link) Share(calm func() bool) { l.calm = calm }

// Who reads.
const (
	readByServe  = iota // the goroutine of Serve
	readByNobody        // nobody, for a moment; the goroutine of Serve stands by
	readByLeader        // a goroutine that waits for a frame; the goroutine of Serve stands by
)

// leading is the reading by those who wait for a frame. The link's mu guards it.
type leading struct {
	readers  atomic.Int32 // who reads; anybody may look, since in a crowd mu is much in demand
	count    uint64       // of the leaders there have been
	recalled bool         // the leader is to leave
	looking  bool         // the goroutine of Serve looks at every tick; else the leader must call it back
}

// Lead reads and handles frames, in place of Serve's goroutine, until one of them has put an element into woken, and returns whether there
// is one. If there is not, another reads, or ctx or the deadline has ended the wait; the zero time is no deadline. Then the caller waits
// for woken as it would without Lead.
//
// To hand a frame to another goroutine wakes a thread for it beside the one which has read it. That costs as much as all the rest of
// a short call, and the kernel puts the two on different processors. A goroutine that waits alone has nothing else to do than to read.
func (l *Link) Lead(ctx context.Context, deadline time.Time, woken <-chan struct{}) bool {
	s, number := l.takeOver()
	if s == nil {
		return false
	}
	recall := func() { l.recall(s, number) }
	if ctx.Done() != nil {
		defer context.AfterFunc(ctx, recall)()
	}
	if !deadline.IsZero() {
		defer time.AfterFunc(time.Until(deadline), recall).Stop()
	}
	for left := false; !left && len(woken) == 0; {
		_, err := l.readOne(s)
		left = l.isToLeave(s, err)
	}
	l.giveBack(s)
	return len(woken) > 0
}

// takeOver makes the caller the leader, and returns what it is to read and its number; nil: it is not to.
func (l *Link) takeOver() (s *stint, number uint64) {
	g := &l.leading
	if g.readers.Load() != readByNobody {
		return nil, 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if s = l.stint.Load(); g.readers.Load() != readByNobody || s.failed != nil {
		return nil, 0
	}
	g.readers.Store(readByLeader)
	g.count++
	return s, g.count
}

// recall lets the leader with that number leave, which sleeps in a read.
func (l *Link) recall(s *stint, number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leading.readers.Load() != readByLeader || l.leading.count != number {
		return
	}
	l.leading.recalled = true
	_ = s.wire.socket.SetReadDeadline(time.Unix(1, 0)) // a socket that takes none is closed
}

// isToLeave is called with what has become of reading a record, and reports whether the leader reads no further.
func (l *Link) isToLeave(s *stint, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil && !(l.leading.recalled && isTimeout(err)) {
		s.failed = err // for the goroutine of Serve to deal with
		return true
	}
	return l.leading.recalled
}

// giveBack ends the leading.
func (l *Link) giveBack(s *stint) {
	l.mu.Lock()
	g := &l.leading
	if g.recalled {
		l.limitReading(s.wire)
	}
	g.readers.Store(readByNobody)
	g.recalled = false
	needed := !g.looking || s.failed != nil || s.reader.holdsRecord()
	l.mu.Unlock()
	// Who begins to wait from now on leads itself. Who began before, and could not, is known to calm.
	if needed || !l.calm() {
		s.callBack()
	}
}

// limitReading sets until when a wire may be read: until it ends, unless the peer has said goodbye. mu is held.
func (l *Link) limitReading(w *wire) {
	end := time.Time{}
	if l.left != nil {
		end = time.Now().Add(linger / 3)
	}
	_ = w.socket.SetReadDeadline(end) // a socket that takes none is closed
}

// callBack makes the goroutine of Serve read, if nobody does.
func (s *stint) callBack() {
	select {
	case s.called <- struct{}{}:
	default:
	}
}

// isCalm reports whether the goroutine of Serve, which has just handled a record, may stand by.
func (l *Link) isCalm(s *stint) bool {
	if l.calm == nil || s.count == 0 || s.reader.holdsRecord() {
		return false
	}
	if l.calm() {
		s.lone++
	} else {
		s.lone = 0
	}
	return s.lone >= standbyAfter
}

// standBy lets others read, and returns when the goroutine of Serve is to read again: for a tick nobody has, or a leader has called it back. The
// error is the one with which a leader could not read on. While it ticks the link is in a hurry.
func (l *Link) standBy(s *stint) error {
	select {
	case <-s.called: // somebody called who did not have to
	default:
	}
	l.mu.Lock()
	g := &l.leading
	g.readers.Store(readByNobody)
	g.looking = true
	before := g.count
	l.mu.Unlock()
	if !l.calm() { // somebody began to wait when nobody else might read yet
		s.callBack()
	}
	l.Hurry(true)
	defer l.Hurry(false)
	timer := time.NewTimer(standbyTick)
	defer timer.Stop()
	for seen := before; ; {
		called := false
		select {
		case <-s.called:
			called = true
		case <-timer.C:
		}
		l.mu.Lock()
		switch same := g.count == seen; {
		case g.readers.Load() == readByNobody && (called || same):
			g.readers.Store(readByServe)
			s.lone = 0
			if g.count == before && !called {
				s.lone = -standbyAgain
			}
			l.mu.Unlock()
			return s.failed
		case same && !called: // the leader that was there at the last tick
			g.looking = false
			l.Hurry(false)
		default: // they come and go
			seen, g.looking = g.count, true
			l.Hurry(true)
			timer.Reset(standbyTick)
		}
		l.mu.Unlock()
	}
}
