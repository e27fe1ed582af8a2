package link

import (
	"runtime"
	"time"
)

const (
	// crowd is how many frames must have come together for those to be waited for whom they let go on.
	crowd = 3
	// gatherLimit is how old a wait is for which a sender still leaves its frame.
	gatherLimit = 100 * time.Microsecond
	// gatherTurns is how often the others are let go first.
	gatherTurns = 3
)

// Gather says that each frame which arrives lets a goroutine go on that probably sends another. When many arrive together, what those
// goroutines send is written together, too: otherwise each writes its own, which is a system call for every frame and wakes the
// peer for every frame. Measured with 64 callers over four links, a call cost 0.7 system calls for writing where it now costs 0.13,
// and all processes together 27 µs of processor time where they now use 18. It is for before Serve.
func (l *Link) Gather() { l.gathers = true }

// gathering is the wait for those who were let go on by frames that have arrived together.
type gathering struct {
	missing int // how many have not sent yet; 0: nobody waits
	began   time.Time
}

// gather lets others run before the goroutine that reads goes on, and writes what they have left. When there are no others it costs a
// fraction of a microsecond.
func (l *Link) gather(count int) {
	l.mu.Lock()
	l.gathering = gathering{missing: count, began: time.Now()}
	l.mu.Unlock()
	missing := count
	for range gatherTurns {
		runtime.Gosched()
		l.mu.Lock()
		before := missing
		missing = l.gathering.missing
		l.mu.Unlock()
		if missing == 0 || missing == before {
			break
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gathering.missing > 0 {
		l.gathering.missing = 0
		l.kick()
	}
}

// leave reports whether a frame that was just put may be left to who gathers. The last sender that is waited for does not leave its frame,
// nor does one who comes late: who gathers may be waiting for a processor itself. mu is held.
func (l *Link) leave(size int) bool {
	if l.gathering.missing == 0 {
		return false
	}
	l.gathering.missing--
	if l.gathering.missing > 0 && size < direct && time.Since(l.gathering.began) < gatherLimit {
		return true
	}
	l.gathering.missing = 0
	return false
}
