package link

import (
	"bytes"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// localPair returns two ends of a Unix socket, each of which is its own.
func localPair(t *testing.T) (one, other *localSocket) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	one, ok := ownSocket(a).(*localSocket)
	other, both := ownSocket(b).(*localSocket)
	if !ok || !both {
		t.Fatal("a Unix socket was not taken over")
	}
	t.Cleanup(func() {
		one.Close()
		other.Close()
	})
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing to a socket that was taken over: got %v, want %v", err, net.ErrClosed)
	}
	return one, other
}

// isOpen reports whether somebody who waits at the gate is woken.
func isOpen(t *testing.T, g *gate) bool {
	t.Helper()
	open := false
	if err := g.raw.Control(func(fd uintptr) { open = isReadable(fd) }); err != nil {
		t.Fatal(err)
	}
	return open
}

func TestASenderIsNotWokenByWhatItsPeerReads(t *testing.T) {
	t.Parallel()
	one, other := localPair(t)
	if _, err := one.Write([]byte("a frame")); err != nil {
		t.Fatal(err)
	}
	if !isOpen(t, other.in) {
		t.Error("the gate of the reader: closed, want it open while there is something to read")
	}
	if _, err := io.ReadFull(other, make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	for name, g := range map[string]*gate{"its reader": one.in, "its writer": one.out, "the peer's reader": other.in, "the peer's writer": other.out} {
		if isOpen(t, g) {
			t.Errorf("the gate of %s: open, want it closed when all was read", name)
		}
	}
}

func TestMoreThanASocketHoldsIsWrittenWhileItIsRead(t *testing.T) {
	t.Parallel()
	for _, hasty := range []bool{false, true} {
		one, other := localPair(t)
		var hurry atomic.Bool
		hurry.Store(hasty)
		one.hurry(&hurry)
		other.hurry(&hurry)
		want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		var writing sync.WaitGroup
		writing.Go(func() {
			for rest := want; len(rest) > 0; {
				n := min(len(rest), 100_003)
				if m, err := one.Write(rest[:n]); err != nil || m != n {
					t.Errorf("writing: got %d, %v, want %d", m, err, n)
				}
				rest = rest[n:]
			}
			one.Close()
		})
		got, err := io.ReadAll(other)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("reading: got %d bytes, %v, want %d as they were written", len(got), err, len(want))
		}
		writing.Wait()
	}
}

// fill writes until the socket takes no more.
func fill(t *testing.T, s *localSocket) {
	t.Helper()
	for {
		full := false
		if err := s.in.raw.Control(func(uintptr) {
			_, err := unix.Write(s.fd, make([]byte, 4096))
			full = errors.Is(err, unix.EAGAIN)
		}); err != nil {
			t.Fatal(err)
		}
		if full {
			return
		}
	}
}

func TestWhoWaitsAtASocketIsToldOfItsEndAndOfItsDeadline(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]struct {
		do   func(one, other *localSocket) error
		want func(error) bool
	}{
		"closed":      {func(one, _ *localSocket) error { return one.Close() }, func(err error) bool { return errors.Is(err, net.ErrClosed) }},
		"a deadline":  {func(one, _ *localSocket) error { return one.SetDeadline(time.Unix(1, 0)) }, isTimeout},
		"the peer's":  {func(_, other *localSocket) error { return other.Close() }, func(err error) bool { return err != nil && !isTimeout(err) }},
		"reads ended": {func(one, other *localSocket) error { return errors.Join(one.CloseRead(), other.Close()) }, func(err error) bool { return err != nil }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, other := localPair(t)
			fill(t, one)
			reads, writes := make(chan error, 1), make(chan error, 1)
			go func() {
				_, err := one.Read(make([]byte, 1))
				reads <- err
			}()
			go func() {
				_, err := one.Write([]byte("more"))
				writes <- err
			}()
			if err := end.do(one, other); err != nil {
				t.Fatal(err)
			}
			if err := <-reads; !end.want(err) {
				t.Errorf("who reads: got %v", err)
			}
			if err := <-writes; !end.want(err) {
				t.Errorf("who writes: got %v", err)
			}
		})
	}
}

func TestASocketThatWasClosedIsNotUsedAgain(t *testing.T) {
	t.Parallel()
	one, other := localPair(t)
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	if err := one.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closing again: got %v, want %v", err, net.ErrClosed)
	}
	for what, err := range map[string]error{
		"Read":      errorOf(one.Read(make([]byte, 1))),
		"Write":     errorOf(one.Write([]byte("x"))),
		"CloseRead": one.CloseRead(),
		"Control":   rawLocal{one}.Control(func(uintptr) { t.Error("Control used it") }),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: got %v, want %v", what, err, net.ErrClosed)
		}
	}
	if n, err := other.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("the peer: got %d, %v, want the end", n, err)
	}
}

func errorOf(_ int, err error) error { return err }
