package link

import (
	"context"
	"encoding/binary"
	"errors"
	"time"
)

// put adds a record to what is to be sent. mu is held.
func (l *Link) put(kind byte, size int, parts ...[]byte) {
	if l.resumable && kind == recordFrame && l.in-l.told >= ackAlong {
		l.putBeat()
	}
	header := header(kind, size)
	need := headerSize + size
	if !l.idle && l.out.end > 0 {
		need = max(need, smallChunk) // more will follow
	}
	l.out.reserve(need)
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
	if l.writing || l.wire == nil || l.broken || l.over != nil {
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
		if w == nil || l.broken || l.over != nil || l.sent == l.out.end && len(w.rest) == 0 {
			l.writing = false
			return
		}
		if !patient && turn == maxTurns {
			go l.writeOn()
			return
		}
		l.pieces = l.out.from(l.sent, maxPush, l.pieces[:0])
		l.pushing = true
		sent, tried := l.sent, l.try(w, min(maxPush, int(l.out.end-l.sent)))
		l.mu.Unlock()
		n, err := w.push(l.pieces, patient)
		clear(l.pieces) // or they would keep memory that is given back
		l.mu.Lock()
		l.pushing = false
		l.tried = max(tried, sent+uint64(n))
		if l.wire != w {
			l.retract(w)
		}
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

// try notes that the next n bytes may reach the peer by w, and returns what tried was. mu is held.
func (l *Link) try(w *wire, n int) (tried uint64) {
	tried = l.tried
	if len(w.rest) == 0 {
		l.untried, w.begun = tried, w.total
	}
	l.tried = max(tried, l.sent+uint64(n))
	return tried
}

// retract notes that w is given up: of what it took last nothing has left this process if nothing of it is in the socket. mu is held.
func (l *Link) retract(w *wire) {
	if w != nil && !l.pushing && w.total == w.begun {
		l.tried = min(l.tried, l.untried)
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
	l.tried = l.out.end
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
	l.admit() // there is as much room as if it had been kept and forgotten, and nothing else may happen that says so
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
