package link

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

// wire is one connection. One goroutine at a time reads from it and one at a time writes to it.
type wire struct {
	conn   net.Conn // what records are read from, and, without a sealer, what they are written to
	socket net.Conn // the connection below
	sealer *sealer  // encrypts; nil on a Unix socket
	raw    syscall.RawConn
	hasty  *atomic.Bool // see Link.Hurry; nil: never
	total  int          // how many bytes went into the socket
	begun  int          // how many had, when something was taken last; -1: nothing was
	rest   []byte       // taken, and not yet in the socket
	spare  []byte       // the memory of a rest that is written

	// What try works on. They are fields because a closure for each write would be garbage.
	pieces  [][]byte
	offset  int // how much of the first piece is written
	written int
	patient bool
	failure error
	attempt func(fd uintptr) bool
	vectors vectors
}

// errFull says that the socket takes no more now, and that push was told not to wait.
var errFull = errors.New("the socket is full")

// maxPush is how many bytes are given to push at once. What is encrypted and cannot be written waits in memory, and a
// sender that writes for others should come back to its own work.
const maxPush = 128 << 10

// newWire returns the wire over a connection whose handshake is over, and which is the wire's from now on. With TLS, s is
// what stands between it and the socket, and from now on holds what is written.
func newWire(conn, socket net.Conn, s *sealer) *wire {
	if s != nil {
		s.hold()
	}
	w := &wire{conn: conn, socket: socket, sealer: s, begun: -1}
	if s == nil {
		socket = ownSocket(socket)
		w.conn, w.socket = socket, socket
	}
	if c, ok := socket.(syscall.Conn); ok && canWriteRaw {
		if raw, err := c.SyscallConn(); err == nil {
			w.raw = raw
			w.attempt = w.try
		}
	}
	return w
}

// push writes pieces and returns how many of their bytes it took. What it took it will have written before what it
// takes next, even if that is by a later call. A patient push waits until all is written; another returns errFull when
// the socket takes no more.
func (w *wire) push(pieces [][]byte, patient bool) (taken int, err error) {
	if len(w.rest) > 0 {
		if err := w.settle(patient); err != nil {
			return 0, err
		}
	}
	if w.sealer == nil {
		return w.write(pieces, patient)
	}
	for _, p := range pieces {
		if _, err := w.conn.Write(p); err != nil {
			return taken, err
		}
		taken += len(p)
	}
	w.rest = w.sealer.take(w.spare)
	w.spare = w.rest
	return taken, w.settle(patient)
}

// settle writes the rest.
func (w *wire) settle(patient bool) error {
	n, err := w.write([][]byte{w.rest}, patient)
	w.rest = w.rest[n:]
	if len(w.rest) == 0 {
		w.rest = nil
	}
	return err
}

// write writes pieces to the socket and returns how many bytes went there.
func (w *wire) write(pieces [][]byte, patient bool) (int, error) {
	if w.raw != nil {
		return w.writeRaw(pieces, patient)
	}
	if !patient {
		return 0, errFull // whoever can only wait leaves it to a goroutine that may
	}
	written := 0
	for _, p := range pieces {
		n, err := w.socket.Write(p)
		written += n
		w.total += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// writeRaw asks the socket itself, since a net.Conn only knows writes that wait.
func (w *wire) writeRaw(pieces [][]byte, patient bool) (int, error) {
	w.pieces, w.offset, w.written, w.patient, w.failure = pieces, 0, 0, patient, nil
	err := w.raw.Write(w.attempt)
	if w.failure != nil {
		err = w.failure
	}
	w.pieces = nil
	return w.written, err
}

// consume drops n written bytes from the pieces.
func (w *wire) consume(n int) {
	w.written += n
	w.total += n
	n += w.offset
	for len(w.pieces) > 0 && n >= len(w.pieces[0]) {
		n -= len(w.pieces[0])
		w.pieces = w.pieces[1:]
	}
	w.offset = n
}

func (w *wire) close() { w.socket.Close() }

// closeRead lets reading end after what has arrived.
func (w *wire) closeRead() {
	if c, ok := w.socket.(interface{ CloseRead() error }); ok && c.CloseRead() == nil {
		return
	}
	w.close()
}

// sealer stands between TLS and a socket. While it holds, what TLS writes is kept for the link to write, which must
// never wait where a sender would; TLS itself cannot be interrupted without being broken.
type sealer struct {
	net.Conn
	mu      sync.Mutex
	holding bool   // guarded by mu
	held    []byte // guarded by mu
}

// Write keeps p, or during the handshake writes it.
func (s *sealer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.holding {
		return s.Conn.Write(p)
	}
	s.held = append(s.held, p...)
	return len(p), nil
}

// relax gives back the memory for what is to be written. Only the writer, or who keeps others from writing, calls it.
func (w *wire) relax() {
	w.spare = nil
	if s := w.sealer; s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.held) == 0 {
			s.held = nil
		}
	}
}

func (s *sealer) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holding = true
}

// take returns what is held, in the memory of the emptied slice that it is given where that is large enough.
func (s *sealer) take(empty []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.held
	s.held = empty[:0]
	return held
}

// hurry tells the wire where it says whether the link is in a hurry. It is for before anybody reads or writes.
func (w *wire) hurry(hasty *atomic.Bool) {
	w.hasty = hasty
	if s, ok := w.socket.(interface{ hurry(*atomic.Bool) }); ok {
		s.hurry(hasty)
	}
}
