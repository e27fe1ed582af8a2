package dayflytest

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// pair is a connection with both its ends.
type pair struct {
	network *network
	runner  string
	own     *conn // the runner's end
	parent  *conn
}

func newPair(n *network, runner string, from, to address) *pair {
	up, down := newStream(), newStream()
	p := &pair{network: n, runner: runner}
	p.own = &conn{pair: p, in: down, out: up, local: from, remote: to}
	p.parent = &conn{pair: p, in: up, out: down, local: to, remote: from}
	for _, c := range []*conn{p.own, p.parent} {
		c.reading.passed, c.writing.passed = make(chan struct{}), make(chan struct{})
	}
	return p
}

// shatter makes both ends fail.
func (p *pair) shatter(why error) {
	for _, s := range []*stream{p.own.in, p.own.out} {
		s.change(func() { s.broken = why })
	}
}

// hush stops or starts what is under way.
func (p *pair) hush(quiet bool) {
	for _, s := range []*stream{p.own.in, p.own.out} {
		s.change(func() { s.quiet = quiet })
	}
}

// capacity is how many bytes are under way in one direction before who writes has to wait, as with a socket.
const capacity = 256 << 10

// stream is one direction of a connection.
type stream struct {
	mu      sync.Mutex
	data    []byte        // guarded by mu; under way
	ended   bool          // guarded by mu; nothing more is written
	unread  bool          // guarded by mu; nobody reads any more
	quiet   bool          // guarded by mu; nothing arrives
	broken  error         // guarded by mu
	changed chan struct{} // guarded by mu; closed and made anew with every change
}

func newStream() *stream { return &stream{changed: make(chan struct{})} }

// change changes the stream and wakes who waits for it.
func (s *stream) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.wake()
}

// wake tells who waits of a change. mu is held.
func (s *stream) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *stream) isUnread() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unread
}

// take moves what has arrived into b. Where there is nothing it returns a channel to wait for.
func (s *stream) take(b []byte) (n int, wait <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.broken != nil:
		return 0, nil, s.broken
	case s.unread:
		return 0, nil, net.ErrClosed
	case !s.quiet && len(s.data) > 0:
		n = copy(b, s.data)
		if s.data = s.data[n:]; len(s.data) == 0 {
			s.data = nil
		}
		s.wake()
		return n, nil, nil
	case !s.quiet && s.ended:
		return 0, nil, io.EOF
	}
	return 0, s.changed, nil
}

// put takes as much of b as there is room for.
func (s *stream) put(b []byte) (n int, wait <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.broken != nil:
		return 0, nil, s.broken
	case s.ended:
		return 0, nil, net.ErrClosed
	case s.unread:
		return 0, nil, syscall.EPIPE
	}
	n = min(len(b), capacity-len(s.data))
	if n > 0 {
		s.data = append(s.data, b[:n]...)
		s.wake()
	}
	return n, s.changed, nil
}

// conn is one end of a connection.
type conn struct {
	pair             *pair
	in, out          *stream
	local, remote    address
	reading, writing deadline
}

var _ net.Conn = (*conn)(nil)

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	for passed := c.reading.channel(); ; {
		if isClosed(passed) {
			return 0, c.failed("read", os.ErrDeadlineExceeded)
		}
		n, wait, err := c.in.take(b)
		switch {
		case err == io.EOF: //nolint:errorlint // made by take, and wanted as it is
			return 0, io.EOF
		case err != nil:
			return 0, c.failed("read", err)
		case n > 0 || len(b) == 0:
			return n, nil
		}
		select {
		case <-wait:
		case <-passed:
		}
	}
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (written int, err error) {
	for passed := c.writing.channel(); ; {
		if isClosed(passed) {
			return written, c.failed("write", os.ErrDeadlineExceeded)
		}
		n, wait, err := c.out.put(b[written:])
		written += n
		switch {
		case err != nil:
			return written, c.failed("write", err)
		case written == len(b):
			return written, nil
		}
		select {
		case <-wait:
		case <-passed:
		}
	}
}

func (c *conn) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: "memory", Source: c.local, Addr: c.remote, Err: err}
}

// Close implements net.Conn. What was written before still arrives.
func (c *conn) Close() error {
	c.out.change(func() { c.out.ended = true })
	c.in.change(func() { c.in.unread, c.in.data = true, nil })
	if c.out.isUnread() {
		c.pair.network.forget(c.pair)
	}
	return nil
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.reading.set(t)
	c.writing.set(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.reading.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.writing.set(t)
	return nil
}

// deadline is a time until which something may wait.
type deadline struct {
	mu     sync.Mutex
	timer  *time.Timer   // guarded by mu; nil: none is set
	passed chan struct{} // guarded by mu; closed when it has passed
}

// channel returns what is closed when the deadline has passed.
func (d *deadline) channel() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passed
}

// set moves the deadline. The zero time is none.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if isClosed(d.passed) {
		d.passed = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		close(d.passed)
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.timer == timer { // otherwise it was moved in this moment
			close(d.passed)
			d.timer = nil
		}
	})
	d.timer = timer
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
