package link

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// MaxFrame is how many bytes a frame may have: one MiB, and room for what a caller puts before it.
	MaxFrame = 1<<20 + 4<<10
	// Window is how many bytes of frames a link keeps at most before Send waits: those that are not yet written or, where
	// connections may break, not yet acknowledged.
	Window = 4 << 20
	// OwnFrame is the size from which on a received frame has memory of its own, which its handler may keep.
	OwnFrame = 48 << 10
)

const (
	// maxExtra is how far Post may go beyond the window.
	maxExtra = 4 << 20
	// direct is the size from which on a frame is written from the sender's memory, where nothing has to be kept.
	direct = 16 << 10
	// maxTurns is how often a sender writes for others before it leaves that to a goroutine.
	maxTurns = 8
	// ackAlone and ackAlong are after how many received bytes an acknowledgment is sent by itself, and along with others.
	ackAlone = Window / 16
	ackAlong = 16 << 10
	// linger is how long Close waits for the peer to have read everything.
	linger = 3 * time.Second
)

// The kinds of records.
const (
	recordFrame = iota + 1
	recordBeat
	recordGoodbye
	recordFarewell
)

// headerSize is that of a record's header.
const headerSize = 4

// Link is one end of a stream of frames. All its methods may be called by any number of goroutines, except Serve,
// which one goroutine calls.
type Link struct {
	id        string
	peer      Hello
	resumable bool   // a connection may break and be replaced
	redial    redial // the runner's way to a new connection; nil at the parent's side
	beats     beats  // how often the link's heart beats
	forget    func() // guarded by mu: called once when the link is over
	done      chan struct{}
	arrived   chan struct{} // has one element when there may be a wire to read from
	cuts      chan struct{} // has one element when a connection was cut

	quiet atomic.Int32  // heartbeats since something was heard
	turn  atomic.Uint64 // counts frames twice: it is odd while one is being handled, so nothing is being read
	stint atomic.Pointer[stint]
	late  atomic.Bool // PostLate has left something to be written
	hasty atomic.Bool // see Hurry

	gathers bool        // see Gather
	calm    func() bool // see Share; nil: only Serve reads

	mu        sync.Mutex
	wire      *wire       // guarded by mu: the connection; nil while there is none
	attempt   uint64      // guarded by mu: the number of the newest connection
	out       outbox      // guarded by mu
	sent      uint64      // guarded by mu: what of out the wire has taken
	tried     uint64      // guarded by mu: what of out may have reached the peer, by this wire or one before
	untried   uint64      // guarded by mu: what tried was before what the wire took last
	acked     uint64      // guarded by mu: what the peer says it has received
	in        uint64      // guarded by mu: how many bytes of records were received
	told      uint64      // guarded by mu: how many of them have been acknowledged
	broken    bool        // guarded by mu: nothing can be written any more
	writing   bool        // guarded by mu: somebody has the part of the writer
	pushing   bool        // guarded by mu: the writer reads out without holding mu
	idle      bool        // guarded by mu: nothing was sent since the last beat
	crowded   bool        // guarded by mu: what arrived last were many frames together
	gathering gathering   // guarded by mu
	leading   leading     // guarded by mu
	granted   int         // guarded by mu: bytes that senders who waited may now add
	waiters   []*waiter   // guarded by mu: senders for whom there is no room, in order
	pieces    [][]byte    // used by the writer
	heart     *time.Timer // guarded by mu
	beat      int         // guarded by mu: counts heartbeats
	process   *process    // guarded by mu: the peer's, if it can be watched
	served    bool        // guarded by mu: Serve was called
	closing   *End        // guarded by mu: Close was called
	left      *End        // guarded by mu: the peer said goodbye
	over      *End        // guarded by mu
}

// waiter is a sender who waits for room.
type waiter struct {
	need  int
	ready chan struct{} // closed when there is room
}

func newLink(id string, peer Hello, silence time.Duration) *Link {
	return &Link{
		id:      id,
		peer:    peer,
		beats:   newBeats(silence),
		done:    make(chan struct{}),
		arrived: make(chan struct{}, 1),
		cuts:    make(chan struct{}, 1),
	}
}

// ID returns what the parent calls the runner.
func (l *Link) ID() string { return l.id }

// Peer returns what the other process says of itself.
func (l *Link) Peer() Hello { return l.peer }

// Done returns a channel that is closed when the link is over.
func (l *Link) Done() <-chan struct{} { return l.done }

// Err returns why the link is over, an *[End], or nil while it is not.
func (l *Link) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over == nil {
		return nil
	}
	return l.over
}

// Cuts returns a channel that gets an element when the connection was cut and the link waits to be found again. The
// peer may be gone or may not, which whoever started it can find out, and tell with [Link.Lose].
func (l *Link) Cuts() <-chan struct{} { return l.cuts }

// Connected reports whether there is a connection now, as far as this side knows.
func (l *Link) Connected() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wire != nil
}

// watch watches the process at the other end of w, until the link is over.
func (l *Link) watch(p *process, w *wire) {
	if p == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over != nil {
		p.close()
		return
	}
	l.process = p
	go p.watch(w)
}

// onEnd sets what is called when the link is over.
func (l *Link) onEnd(forget func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget = forget
	if l.over != nil {
		go forget()
	}
}

// end ends the link, if it has not ended. mu is held.
func (l *Link) end(e *End) {
	if l.over != nil {
		return
	}
	switch { // who has begun to leave in order has left in order, however the connection ends
	case l.closing != nil:
		e = l.closing
	case l.left != nil:
		e = l.left
	}
	l.over = e
	l.retract(l.wire)
	if l.heart != nil {
		l.heart.Stop()
	}
	if l.wire != nil {
		l.wire.close()
		l.wire = nil
	}
	l.process.close()
	close(l.done)
	if l.forget != nil {
		go l.forget()
	}
}

// Hurry says whether the link may go past Go's scheduler in the system calls that do not wait, to read and to write. The scheduler takes
// a system call as the moment to wake the thread that preempts goroutines, if that sleeps, and for a short call this costs as much as
// anything else does. Whoever says so keeps a timer of a few milliseconds, which lets that thread sleep for no longer.
func (l *Link) Hurry(on bool) { l.hasty.Store(on) }
