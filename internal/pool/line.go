package pool

import "time"

// moment is a point in time: how long ago the pool was made, on the monotonic clock. A third of the size of a time.Time, which
// matters when a million callers wait.
type moment = time.Duration

// waiter is one caller in line.
type waiter struct {
	next, prev *waiter
	since      moment
	ready      chan struct{} // closed when slot or err is set, under the pool's lock
	slot       *Slot
	err        error
}

// line is a first-in first-out queue from whose middle a caller can go away in no time. The zero line is empty.
type line struct {
	first, last *waiter
	length      int
}

func (l *line) push(w *waiter) {
	w.prev = l.last
	if l.last == nil {
		l.first = w
	} else {
		l.last.next = w
	}
	l.last = w
	l.length++
}

// remove takes out a waiter that is in line.
func (l *line) remove(w *waiter) {
	if w.prev == nil {
		l.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.next, w.prev = nil, nil
	l.length--
}

// settled reports whether the waiter has left the line because it was given a slot or an error. The pool's lock is held.
func (w *waiter) settled() bool { return w.slot != nil || w.err != nil }

// grant gives the waiter a slot, refuse an error. It has been removed from the line.
func (w *waiter) grant(s *Slot) {
	w.slot = s
	close(w.ready)
}

func (w *waiter) refuse(err error) {
	w.err = err
	close(w.ready)
}
