package link

import (
	"context"

	"github.com/dayfly-run/dayfly/fault"
)

// Send sends one frame, which is the parts one after the other, and returns when the link has taken it: the parts may
// then be changed. Frames that one goroutine sends arrive in that order, each once, unless the link is lost.
//
// When there is no room Send waits for some, until ctx ends; the frame is then not sent. The handler of frames must
// not call it, but [Link.Post]: two handlers that wait for each other wait for ever. fault.TooLarge: the frame is
// larger than MaxFrame. fault.Canceled: ctx ended. Otherwise the link is over, and the error is an *[End].
func (l *Link) Send(ctx context.Context, parts ...[]byte) error {
	_, err := l.SendAt(ctx, parts...)
	return err
}

// SendAt is Send, and says at or after which position of the stream the frame is, see [Link.Tried].
func (l *Link) SendAt(ctx context.Context, parts ...[]byte) (position uint64, err error) {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if size > MaxFrame {
		return 0, tooLarge(size)
	}
	l.mu.Lock()
	if err := l.refusal(); err != nil {
		l.mu.Unlock()
		return 0, err
	}
	if len(l.waiters) > 0 || !l.hasRoom(size) {
		if err := l.waitForRoom(ctx, size); err != nil {
			return 0, err
		}
	}
	position = l.out.end
	if !l.resumable && size >= direct && !l.writing && l.out.size() == 0 && l.wire != nil && l.wire.raw != nil {
		return position, l.sendDirectly(ctx, size, parts)
	}
	l.put(recordFrame, size, parts...)
	l.flush(size)
	l.mu.Unlock()
	return position, nil
}

// Tried returns the position up to which the stream may have reached the peer. When the link is over, a frame that is at or after it
// certainly has not, and never will.
func (l *Link) Tried() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tried
}

// Post sends like Send and never waits. It is for the short answers that a handler of frames gives itself. A peer that
// does not read while it makes this side answer is lost when the answers that wait are more than can be kept.
func (l *Link) Post(parts ...[]byte) error { return l.post(0, parts) }

// PostLate is Post for the handler of the frame of that turn: what it sends is written together with what is sent for the
// other frames that have arrived already.
func (l *Link) PostLate(turn uint64, parts ...[]byte) error { return l.post(turn, parts) }

func (l *Link) post(turn uint64, parts [][]byte) error {
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
	if turn%2 == 1 && l.turn.Load() == turn && l.out.size() <= maxPush {
		l.late.Store(true) // with mu held: whoever passes the turn on will see it
	} else {
		l.kick()
	}
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
