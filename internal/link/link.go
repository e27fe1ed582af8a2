package link

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/fault"
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

	quiet    atomic.Int32 // heartbeats since something was heard
	handling atomic.Bool  // a frame is being handled, so nothing is being read

	mu      sync.Mutex
	wire    *wire       // guarded by mu: the connection; nil while there is none
	attempt uint64      // guarded by mu: the number of the newest connection
	out     outbox      // guarded by mu
	sent    uint64      // guarded by mu: what of out the wire has taken
	acked   uint64      // guarded by mu: what the peer says it has received
	in      uint64      // guarded by mu: how many bytes of records were received
	told    uint64      // guarded by mu: how many of them have been acknowledged
	writing bool        // guarded by mu: somebody has the part of the writer
	pushing bool        // guarded by mu: the writer reads out without holding mu
	idle    bool        // guarded by mu: nothing was sent since the last beat
	granted int         // guarded by mu: bytes that senders who waited may now add
	waiters []*waiter   // guarded by mu: senders for whom there is no room, in order
	pieces  [][]byte    // used by the writer
	heart   *time.Timer // guarded by mu
	beat    int         // guarded by mu: counts heartbeats
	process *process    // guarded by mu: the peer's, if it can be watched
	served  bool        // guarded by mu: Serve was called
	closing *End        // guarded by mu: Close was called
	left    *End        // guarded by mu: the peer said goodbye
	over    *End        // guarded by mu
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

// Send sends one frame, which is the parts one after the other, and returns when the link has taken it: the parts may
// then be changed. Frames that one goroutine sends arrive in that order, each once, unless the link is lost.
//
// When there is no room Send waits for some, until ctx ends; the frame is then not sent. The handler of frames must
// not call it, but [Link.Post]: two handlers that wait for each other wait for ever. fault.TooLarge: the frame is
// larger than MaxFrame. fault.Canceled: ctx ended. Otherwise the link is over, and the error is an *[End].
func (l *Link) Send(ctx context.Context, parts ...[]byte) error {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if size > MaxFrame {
		return tooLarge(size)
	}
	l.mu.Lock()
	if err := l.refusal(); err != nil {
		l.mu.Unlock()
		return err
	}
	if len(l.waiters) > 0 || !l.hasRoom(size) {
		if err := l.waitForRoom(ctx, size); err != nil {
			return err
		}
	}
	if !l.resumable && size >= direct && !l.writing && l.out.size() == 0 && l.wire != nil && l.wire.raw != nil {
		return l.sendDirectly(ctx, size, parts)
	}
	l.put(recordFrame, size, parts...)
	l.kick()
	l.mu.Unlock()
	return nil
}

// Post sends like Send and never waits. It is for the short answers that a handler of frames gives itself. A peer that
// does not read while it makes this side answer is lost when the answers that wait are more than can be kept.
func (l *Link) Post(parts ...[]byte) error {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if size > MaxFrame {
		return tooLarge(size)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.refusal(); err != nil {
		return err
	}
	if l.out.size()+size > Window+maxExtra {
		e := &End{Lost: true, Kind: fault.Exhausted, Reason: "the peer asks for more answers than it reads"}
		l.end(e)
		return e
	}
	l.put(recordFrame, size, parts...)
	l.kick()
	return nil
}

func tooLarge(size int) error {
	return fault.Say(fault.TooLarge, "link: a frame of %d bytes is larger than the %d that are allowed", size, MaxFrame)
}

// refusal returns why nothing more can be sent. mu is held.
func (l *Link) refusal() error {
	for _, e := range []*End{l.over, l.closing, l.left} {
		if e != nil {
			return e
		}
	}
	return nil
}

// hasRoom reports whether a frame fits into the window. One always fits into an empty one. mu is held.
func (l *Link) hasRoom(size int) bool {
	used := l.out.size() + l.granted
	return used == 0 || used+size <= Window
}

// waitForRoom is called with mu held, which it gives up while it waits, and holds again when it returns nil.
func (l *Link) waitForRoom(ctx context.Context, size int) error {
	w := &waiter{need: size, ready: make(chan struct{})}
	l.waiters = append(l.waiters, w)
	l.mu.Unlock()
	var err error
	select {
	case <-w.ready:
	case <-l.done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	l.mu.Lock()
	select {
	case <-w.ready:
		l.granted -= size
	default:
		l.waiters = without(l.waiters, w)
	}
	if refused := l.refusal(); refused != nil {
		err = refused
	}
	if err != nil {
		l.admit() // what was granted here and is not used is another's
		l.mu.Unlock()
	}
	return err
}

func without(list []*waiter, gone *waiter) []*waiter {
	kept := list[:0]
	for _, w := range list {
		if w != gone {
			kept = append(kept, w)
		}
	}
	clear(list[len(kept):])
	return kept
}

// admit lets those who wait go on for whom there is room. mu is held.
func (l *Link) admit() {
	for len(l.waiters) > 0 && l.hasRoom(l.waiters[0].need) {
		w := l.waiters[0]
		l.waiters[0] = nil
		l.waiters = l.waiters[1:]
		l.granted += w.need
		close(w.ready)
	}
	if len(l.waiters) == 0 {
		l.waiters = nil
	}
}

// put adds a record to what is to be sent. mu is held.
func (l *Link) put(kind byte, size int, parts ...[]byte) {
	if l.resumable && kind == recordFrame && l.in-l.told >= ackAlong {
		l.putBeat()
	}
	header := header(kind, size)
	l.out.append(header[:])
	for _, p := range parts {
		l.out.append(p)
	}
	l.idle = false
}

func (l *Link) putBeat() {
	var body [8]byte
	binary.BigEndian.PutUint64(body[:], l.in)
	l.told = l.in
	l.put(recordBeat, len(body), body[:])
}

func header(kind byte, size int) [headerSize]byte {
	return [headerSize]byte{kind, byte(size >> 16), byte(size >> 8), byte(size)}
}

// kick sees to it that what is to be sent is being written. mu is held; what cannot be written at once is left to a
// goroutine, so it never waits.
func (l *Link) kick() {
	if l.writing || l.wire == nil || l.over != nil {
		return
	}
	l.writing = true
	l.write(false)
}

// write writes until nothing is left, as the one writer. mu is held, but not while bytes are written. An impatient
// writer leaves to a goroutine what it would have to wait for, and what others add again and again.
func (l *Link) write(patient bool) {
	for turn := 0; ; turn++ {
		w := l.wire
		if w == nil || l.over != nil || l.sent == l.out.end && len(w.rest) == 0 {
			l.writing = false
			return
		}
		if !patient && turn == maxTurns {
			go l.writeOn()
			return
		}
		l.pieces = l.out.from(l.sent, maxPush, l.pieces[:0])
		l.pushing = true
		l.mu.Unlock()
		n, err := w.push(l.pieces, patient)
		l.mu.Lock()
		l.pushing = false
		if l.wire == w {
			l.sent += uint64(n)
		}
		l.trim()
		switch {
		case errors.Is(err, errFull):
			go l.writeOn()
			return
		case err != nil:
			l.drop(w)
		}
	}
}

// writeOn is write in a goroutine of its own, to which the writer's part was left.
func (l *Link) writeOn() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.write(true)
}

// trim forgets what need not be kept. mu is held.
func (l *Link) trim() {
	if l.pushing {
		return // the writer reads it; it will trim when it is back
	}
	position := l.acked
	if !l.resumable {
		position = l.sent
	}
	if position > l.out.base {
		l.out.trim(position)
		l.admit()
	}
}

// sendDirectly writes a large frame from the sender's memory. mu is held; it is not when sendDirectly returns.
func (l *Link) sendDirectly(ctx context.Context, size int, parts [][]byte) error {
	w := l.wire
	l.writing, l.pushing, l.idle = true, true, false
	l.out.skip(headerSize + size)
	l.sent = l.out.end
	l.mu.Unlock()

	header := header(recordFrame, size)
	pieces := append([][]byte{header[:]}, parts...)
	n, err := w.push(pieces, false)
	if errors.Is(err, errFull) {
		pieces = after(pieces, n)
		n, err = l.pushUntil(ctx, w, pieces)
		if n < total(pieces) && errors.Is(err, errFull) {
			for _, p := range after(pieces, n) { // ctx has ended, and the sender will not wait with its memory
				w.rest = append(w.rest, p...)
			}
		}
	}
	l.mu.Lock()
	l.pushing = false
	switch {
	case errors.Is(err, errFull):
		go l.writeOn()
	case err != nil:
		l.drop(w)
		l.writing = false
	default:
		l.write(false)
	}
	l.mu.Unlock()
	return nil
}

// pushUntil pushes pieces and waits until they are written or ctx ends, which is told as errFull.
func (l *Link) pushUntil(ctx context.Context, w *wire, pieces [][]byte) (int, error) {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = w.socket.SetWriteDeadline(time.Unix(1, 0)) // a socket that takes no deadline is closed, and ends the wait too
	})
	n, err := w.push(pieces, true)
	if !stop() {
		<-interrupted
		_ = w.socket.SetWriteDeadline(time.Time{})
	}
	if err != nil && ctx.Err() != nil && isTimeout(err) {
		err = errFull
	}
	return n, err
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && t.Timeout()
}

func total(pieces [][]byte) int {
	n := 0
	for _, p := range pieces {
		n += len(p)
	}
	return n
}

// after returns the pieces without their first n bytes.
func after(pieces [][]byte, n int) [][]byte {
	var left [][]byte
	for _, p := range pieces {
		skip := min(n, len(p))
		n -= skip
		if skip < len(p) {
			left = append(left, p[skip:])
		}
	}
	return left
}

// Close ends the link in order: what was sent before arrives, then the peer is told the reason, which is err's kind
// and sentence and may be nil. It returns when the peer has read all that, which Serve must be running for at both ends,
// or has not within a few seconds. What arrives meanwhile is not handled. Closing again waits as well.
func (l *Link) Close(err error) {
	l.mu.Lock()
	if l.over == nil && l.closing == nil && l.left == nil {
		l.closing = &End{Here: true, Cause: err}
		if err != nil {
			l.closing.Kind, l.closing.Reason = fault.Of(err), sentence(err)
		}
		l.farewell(recordGoodbye, l.closing)
		for _, w := range l.waiters {
			close(w.ready) // to be refused
			l.granted += w.need
		}
		l.waiters = nil
		if !l.served {
			l.served = true
			go l.serve(func([]byte) {})
		}
	}
	over := l.closing
	l.mu.Unlock()
	limit := time.NewTimer(linger)
	defer limit.Stop()
	select {
	case <-l.done:
	case <-limit.C:
		l.mu.Lock()
		defer l.mu.Unlock()
		if over == nil {
			over = &End{Here: true, Cause: err}
		}
		l.end(over)
	}
}

// Lose ends the link at once, because somebody knows that the peer is gone: err says so. Nothing more is sent.
func (l *Link) Lose(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(&End{Lost: true, Here: true, Kind: fault.Of(err), Reason: sentence(err), Cause: err})
}

// sentence returns what to say of an error: its sentence if it has one, since that may be shown, or all of it.
func sentence(err error) string {
	if err == nil {
		return ""
	}
	if s, ok := fault.Sentence(err); ok {
		return s
	}
	return err.Error()
}

// goodbye is the body of a record that says why the link ends.
type goodbye struct {
	Kind   fault.Kind `json:"kind,omitempty"`
	Reason string     `json:"reason,omitempty"`
}

// maxReason bounds the text of a goodbye.
const maxReason = 8 << 10

// farewell sends the last record of this side. mu is held.
func (l *Link) farewell(kind byte, e *End) {
	body := []byte{}
	if e != nil {
		reason := e.Reason
		if len(reason) > maxReason {
			reason = reason[:maxReason]
		}
		body, _ = json.Marshal(goodbye{e.Kind, reason}) // two texts; bytes that are no text are replaced
	}
	l.put(kind, len(body), body)
	l.kick()
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
