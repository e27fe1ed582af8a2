package link

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
)

// canKnowPeers is whether the kernel says whose process is at the other end of a Unix socket.
const canKnowPeers = true

const (
	// homePrefix begins the names of directories that homes make for themselves.
	homePrefix = "dayfly-home-"
	// socketSuffix ends the names of sockets.
	socketSuffix = ".sock"
	// maxPath is the longest path that a socket can be bound or connected to.
	maxPath = 107
	// socketBuffer is how much may be under way in a Unix socket: enough that a MiB goes through without many waits.
	socketBuffer = 1 << 20
)

// socket is a listening Unix socket and what was made for it.
type socket struct {
	listener *net.UnixListener
	path     string
	made     string // the directory that was made for it, to be removed; "" for none
}

// listenUnix listens on a new socket in dir, or in a directory of its own, after it has cleared away the sockets that
// killed homes have left there.
func listenUnix(dir string) (*socket, error) {
	s := &socket{}
	var err error
	if dir == "" {
		clearHomes(os.TempDir())
		dir, err = os.MkdirTemp("", homePrefix)
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission): // as it will be when it is tried again
			return nil, fault.Say(fault.Invalid, "link: a socket needs a directory for temporary files: %v; set TMPDIR to one that this user can write to", err)
		case err != nil:
			return nil, fmt.Errorf("link: a directory for a socket: %w: %w", fault.Unavailable, err)
		}
		s.made = dir
	} else if dir, err = private(dir); err != nil {
		return nil, err
	}
	clearSockets(dir)
	// It gets its name when it listens: one that is bound and does not yet refuses connections, as one of a killed home does, and
	// another home that begins would remove it.
	begun := filepath.Join(dir, fmt.Sprintf("%d-%s", os.Getpid(), newSecret()[:8]))
	s.path = begun + socketSuffix
	short, release, err := shorten(begun)
	if err == nil {
		defer release()
		s.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	}
	if err == nil {
		s.listener.SetUnlinkOnClose(false) // it has been bound by another name, and close removes it
		err = os.Rename(begun, s.path)
	}
	if err != nil {
		os.Remove(begun)
		s.close()
		return nil, fmt.Errorf("link: listen on %s: %w: %w", s.path, fault.Unavailable, err)
	}
	return s, nil
}

// private returns the absolute path of a directory that only this user can enter, and makes it if need be.
func private(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return "", fmt.Errorf("link: the directory %s: %w: %w", dir, fault.Unavailable, err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return "", fmt.Errorf("link: the directory %s: %w: %w", dir, fault.Unavailable, err)
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return "", fault.Say(fault.Denied, "link: the directory %s must be this user's own and closed to all others (mode 0700)", dir)
	}
	return dir, nil
}

func (s *socket) close() {
	if s.listener != nil {
		s.listener.Close()
		os.Remove(s.path)
	}
	if s.made != "" {
		os.Remove(s.made)
	}
}

// clearHomes removes the directories of homes of this user that were killed.
func clearHomes(parent string) {
	found, err := filepath.Glob(filepath.Join(parent, homePrefix+"*"))
	if err != nil {
		return // only for a malformed pattern
	}
	for _, dir := range found {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() {
			continue
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() {
			continue
		}
		if clearSockets(dir) > 0 || time.Since(info.ModTime()) > time.Hour { // a newer one may be about to get its socket
			os.Remove(dir) // which only an empty one can be
		}
	}
}

// clearSockets removes the sockets in a directory on which nobody listens, and returns how many those were.
func clearSockets(dir string) int {
	found, err := filepath.Glob(filepath.Join(dir, "*"+socketSuffix))
	if err != nil {
		return 0 // only for a malformed pattern
	}
	removed := 0
	for _, path := range found {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		conn, err := dialUnix(ctx, path)
		cancel()
		if err == nil {
			conn.Close()
		} else if errors.Is(err, syscall.ECONNREFUSED) && os.Remove(path) == nil {
			removed++
		}
	}
	return removed
}

// dialUnix connects to a socket.
func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	short, release, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer release()
	return new(net.Dialer).DialContext(ctx, "unix", short)
}

// shorten returns a name for path that is short enough to be bound or connected to, valid until release is called: a
// longer one goes through an open directory.
func shorten(path string) (short string, release func(), err error) {
	if len(path) <= maxPath {
		return path, func() {}, nil
	}
	fd, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &fs.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", fd, filepath.Base(path)), func() { unix.Close(fd) }, nil
}

// process is another process of this computer.
type process struct{ pidfd *os.File }

// close ends watching. There may be nothing to watch.
func (p *process) close() {
	if p != nil {
		p.pidfd.Close()
	}
}

// peerOf returns the process at the other end of a Unix socket, or nil when that cannot be watched. fault.Denied: it
// is another user's.
func peerOf(conn net.Conn) (*process, error) {
	c := conn.(*net.UnixConn)
	_ = c.SetWriteBuffer(socketBuffer) // a smaller one is slower, nothing else
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("link: %w: %w", fault.Unavailable, err)
	}
	var peer *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		failed = err
	}
	if failed != nil {
		return nil, fmt.Errorf("link: whose process is at the other end: %w: %w", fault.Unavailable, failed)
	}
	if int(peer.Uid) != os.Geteuid() {
		return nil, fault.Say(fault.Denied, "link: the process at the other end of the socket is user %d's and not this user's", peer.Uid)
	}
	if peer.Pid <= 0 || int(peer.Pid) == os.Getpid() {
		return nil, nil // it is in a container that cannot be looked into, or is this one
	}
	pidfd, err := unix.PidfdOpen(int(peer.Pid), unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, nil // the socket's end tells of the process's too, unless a child holds it open
	}
	return &process{os.NewFile(uintptr(pidfd), "pidfd")}, nil
}

// watch lets w end when the process at its other end has ended, even if a child of that holds the socket open. What the
// process has sent is read before.
func (p *process) watch(w *wire) {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return // it is closed already
	}
	ended := false
	err = raw.Read(func(fd uintptr) bool {
		ended = isReadable(fd)
		return ended
	})
	if err == nil && ended {
		w.closeRead()
	}
}

func isReadable(fd uintptr) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n == 1
}
