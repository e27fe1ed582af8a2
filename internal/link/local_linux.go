package link

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// localSocket is a Unix socket at which Go's poller does not look itself. The poller asks for all that happens to a socket, and to a Unix
// socket happens, whenever its peer has read something, that it can be written again: so each frame that was read woke a
// thread of its sender for nothing, which was every second wake-up of a short call. The poller looks at two gates instead, of
// which one opens only for who reads, and the other only while somebody waits to write.
//
// One goroutine at a time reads and one writes, as those of a wire do. All other methods are for any number of goroutines.
type localSocket struct {
	fd     int
	local  net.Addr
	remote net.Addr
	in     *gate        // is open while something can be read; who uses fd holds on to it, so that Close waits
	out    *gate        // is open while something can be written and somebody waits for that
	hasty  *atomic.Bool // see Link.Hurry; nil: never
	once   sync.Once    // closes it

	// What the gates let through. They are fields because a closure for each read and write would be garbage.
	target  []byte
	got     int
	failure error
	read    func(uintptr) bool
	attempt func(fd uintptr) bool
	ended   bool
	write   func(uintptr)
}

// gate is what a goroutine waits at until a socket is ready: an epoll instance that looks at the socket, and at which Go's
// poller looks.
type gate struct {
	*os.File
	raw syscall.RawConn
}

func newGate(socket int, events uint32) (*gate, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	err = unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, socket, &unix.EpollEvent{Events: events})
	if err == nil {
		err = unix.SetNonblock(fd, true) // or Go would not look at it
	}
	g := &gate{File: os.NewFile(uintptr(fd), "gate")}
	if err == nil {
		g.raw, err = g.SyscallConn()
	}
	if err != nil {
		g.Close()
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	return g, nil
}

// ownSocket takes over a Unix socket, which must not be used any more then, and returns what to use instead. When that cannot be, since
// there are no more file descriptors, it is the same one: it works as well, and slower. So do other connections.
func ownSocket(conn net.Conn) net.Conn {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return conn
	}
	s, err := takeOver(c)
	if err != nil {
		return conn
	}
	c.Close()
	return s
}

func takeOver(c *net.UnixConn) (*localSocket, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &localSocket{local: c.LocalAddr(), remote: c.RemoteAddr()}
	var failed error
	if err := raw.Control(func(fd uintptr) { s.fd, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, os.NewSyscallError("fcntl", failed)
	}
	if s.in, err = newGate(s.fd, unix.EPOLLIN|unix.EPOLLRDHUP); err == nil {
		s.out, err = newGate(s.fd, 0)
	}
	if err != nil {
		if s.in != nil {
			s.in.Close()
		}
		unix.Close(s.fd)
		return nil, err
	}
	s.read, s.write = s.tryRead, s.tryWrite
	return s, nil
}

// Read implements net.Conn.
func (s *localSocket) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.target, s.got, s.failure = p, 0, nil
	err := s.in.raw.Read(s.read)
	s.target = nil
	switch {
	case s.failure != nil:
		return 0, s.failure
	case err != nil:
		return 0, told(err)
	case s.got == 0:
		return 0, io.EOF
	}
	return s.got, nil
}

// tryRead returns whether it wants not to be called again.
func (s *localSocket) tryRead(uintptr) bool {
	for {
		n, errno := system(s.hasty, syscall.SYS_READ, uintptr(s.fd), unsafe.Pointer(&s.target[0]), len(s.target))
		switch errno {
		case 0:
			s.got = n
			return true
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			s.failure = os.NewSyscallError("read", errno)
			return true
		}
	}
}

// told is the error of a gate as a connection has it.
func told(err error) error {
	if err != nil && !isTimeout(err) {
		return net.ErrClosed
	}
	return err
}

// Write implements net.Conn.
func (s *localSocket) Write(p []byte) (int, error) {
	written := 0
	var failure error
	err := s.writeBy(func(uintptr) bool {
		for written < len(p) {
			n, errno := system(s.hasty, syscall.SYS_WRITE, uintptr(s.fd), unsafe.Pointer(&p[written]), len(p)-written)
			switch errno {
			case 0:
				written += n
			case syscall.EINTR:
			case syscall.EAGAIN:
				return false
			default:
				failure = os.NewSyscallError("write", errno)
				return true
			}
		}
		return true
	})
	if failure != nil {
		err = failure
	}
	return written, err
}

// writeBy calls f, and again whenever something can be written, until it returns true.
func (s *localSocket) writeBy(f func(fd uintptr) bool) error {
	s.attempt = f
	defer func() { s.attempt = nil }()
	if err := s.in.raw.Control(s.write); err != nil || s.ended {
		return told(err)
	}
	s.await(unix.EPOLLOUT)
	defer s.await(0)
	return told(s.out.raw.Read(func(uintptr) bool { return f(uintptr(s.fd)) }))
}

func (s *localSocket) tryWrite(uintptr) { s.ended = s.attempt(uintptr(s.fd)) }

// await says for what the gate of the writer opens.
func (s *localSocket) await(events uint32) {
	_ = s.out.raw.Control(func(epoll uintptr) { // when it is closed nobody waits
		_ = unix.EpollCtl(int(epoll), unix.EPOLL_CTL_MOD, s.fd, &unix.EpollEvent{Events: events}) // both are open
	})
}

// SyscallConn implements syscall.Conn.
func (s *localSocket) SyscallConn() (syscall.RawConn, error) { return rawLocal{s}, nil }

// rawLocal is a localSocket as a wire writes to it.
type rawLocal struct{ *localSocket }

// Control implements syscall.RawConn.
func (r rawLocal) Control(f func(fd uintptr)) error {
	return told(r.in.raw.Control(func(uintptr) { f(uintptr(r.fd)) }))
}

// Read implements syscall.RawConn.
func (r rawLocal) Read(f func(fd uintptr) bool) error {
	return told(r.in.raw.Read(func(uintptr) bool { return f(uintptr(r.fd)) }))
}

// Write implements syscall.RawConn.
func (r rawLocal) Write(f func(fd uintptr) bool) error { return r.writeBy(f) }

// hurry is for before anybody reads or writes.
func (s *localSocket) hurry(hasty *atomic.Bool) { s.hasty = hasty }

// Close implements net.Conn. Whoever reads or waits to write is told before the socket is closed.
func (s *localSocket) Close() error {
	err := net.ErrClosed
	s.once.Do(func() {
		s.in.Close()
		s.out.Close()
		err = unix.Close(s.fd)
	})
	return err
}

// CloseRead lets reading end after what has arrived.
func (s *localSocket) CloseRead() error {
	var failed error
	if err := s.in.raw.Control(func(uintptr) { failed = unix.Shutdown(s.fd, unix.SHUT_RD) }); err != nil {
		return told(err)
	}
	return os.NewSyscallError("shutdown", failed)
}

// LocalAddr implements net.Conn.
func (s *localSocket) LocalAddr() net.Addr { return s.local }

// RemoteAddr implements net.Conn.
func (s *localSocket) RemoteAddr() net.Addr { return s.remote }

// SetDeadline implements net.Conn.
func (s *localSocket) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (s *localSocket) SetReadDeadline(t time.Time) error { return s.in.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (s *localSocket) SetWriteDeadline(t time.Time) error { return s.out.SetReadDeadline(t) }
