package call_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/call"
)

func TestAStreamWaitsForItsReader(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	var mu sync.Mutex
	sent := 0
	f := declareStream(t, j.registry, "count", func(_ context.Context, n int, yield func([]byte) error) error {
		for range n {
			if err := yield(make([]byte, 10<<10)); err != nil {
				return err
			}
			mu.Lock()
			sent++
			mu.Unlock()
		}
		return nil
	})
	const items = 400 // 4 MB
	k, err := f.start(t.Context(), j, items, call.Request{})
	if err != nil {
		t.Fatal(err)
	}
	// Other calls pass while the stream stands still.
	other := declare(t, j.registry, "other", func(context.Context, int) (int, error) { return 7, nil })
	for range 20 {
		if _, err := other.call(t.Context(), j, 1); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	if sent > 60 {
		t.Errorf("%d items of 10 KiB were sent to a reader that reads none, want at most 60", sent)
	}
	mu.Unlock()
	got := 0
	for {
		more, err := k.Next(t.Context(), func(_ string, data []byte) error { got++; return nil })
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			break
		}
	}
	if got != items {
		t.Errorf("got %d items, want %d", got, items)
	}
}

func TestLeavingAStreamEndsItsFunction(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	ended := make(chan error, 1)
	f := declareStream(t, j.registry, "forever", func(ctx context.Context, _ int, yield func([]byte) error) error {
		for {
			if err := yield(make([]byte, 1<<20+5)); err != nil { // items in parts, too
				ended <- err
				return err
			}
		}
	})
	s := newSlot()
	k, err := f.start(t.Context(), j, 0, call.Request{Slot: s})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if more, err := k.Next(t.Context(), func(_ string, data []byte) error {
			if len(data) != 1<<20+5 {
				t.Errorf("got an item of %d bytes", len(data))
			}
			return nil
		}); !more || err != nil {
			t.Fatalf("got %v, %v, want another item", more, err)
		}
	}
	k.Cancel()
	if err := receive(t, ended, "the function to end"); !errors.Is(err, call.ErrCallerGone) {
		t.Errorf("yield returned %v, want that the caller is gone", err)
	}
	receive(t, s.free, "the slot")
}

func TestAStreamsErrorComesAfterItsItems(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	f := declareStream(t, j.registry, "fails", func(_ context.Context, _ int, yield func(string) error) error {
		if err := yield("one"); err != nil {
			return err
		}
		return errOwn
	})
	k, err := f.start(t.Context(), j, 0, call.Request{})
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	more, err := k.Next(t.Context(), func(types string, data []byte) (err error) { got, err = f.Item(types, data); return err })
	if !more || err != nil || got != "one" {
		t.Fatalf("got %q, %v, %v, want one", got, more, err)
	}
	more, err = k.Next(t.Context(), nil)
	if own, ok := errors.AsType[*call.FunctionError](err); more || !ok || own.Message != errOwn.Error() {
		t.Errorf("got %v, %v, want the function's own error", more, err)
	}
}

type upload struct {
	Name string
	Data io.Reader
}

type download struct {
	Size int
	Data io.ReadCloser
}

// bounded gives n bytes, and counts how many were taken.
type bounded struct {
	mu    sync.Mutex
	left  int
	taken int
}

func (b *bounded) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(p), b.left)
	if n == 0 {
		return 0, io.EOF
	}
	b.left -= n
	b.taken += n
	return n, nil
}

func TestReadersInArgumentsAreStreamed(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	proceed := make(chan struct{})
	f := declare(t, j.registry, "count", func(_ context.Context, u upload) (int64, error) {
		<-proceed
		return io.Copy(io.Discard, u.Data)
	})
	const size = 6 << 20 // more than an argument may have
	source := &bounded{left: size}
	k, err := f.start(t.Context(), j, upload{"a", source}, call.Request{})
	if err != nil {
		t.Fatal(err)
	}
	other := declare(t, j.registry, "other", func(context.Context, int) (int, error) { return 7, nil })
	for range 20 {
		if _, err := other.call(t.Context(), j, 1); err != nil {
			t.Fatal(err)
		}
	}
	source.mu.Lock()
	if source.taken > 1<<20 {
		t.Errorf("%d bytes were read for a function that reads none", source.taken)
	}
	source.mu.Unlock()
	close(proceed)
	if err := k.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Result(k); got != size || err != nil {
		t.Errorf("got %d bytes, %v, want %d", got, err, size)
	}
}

// failing is a reader that fails after a few bytes.
type failing struct{ sent bool }

func (f *failing) Read(p []byte) (int, error) {
	if f.sent {
		return 0, errors.New("the disk is gone")
	}
	f.sent = true
	return copy(p, "abc"), nil
}

func TestAReaderThatFailsFailsOnTheOtherSide(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	f := declare(t, j.registry, "read", func(_ context.Context, r io.Reader) (string, error) {
		data, err := io.ReadAll(r)
		if err == nil {
			return "", errors.New("the reader did not fail")
		}
		return string(data) + ": " + err.Error(), nil
	})
	got, err := f.call(t.Context(), j, &failing{})
	if err != nil || !strings.HasPrefix(got, "abc: ") || !strings.Contains(got, "the disk is gone") {
		t.Errorf("got %q, %v, want abc and the reason", got, err)
	}
	if got, err := f.call(t.Context(), j, iotestErr{}); err != nil || !strings.Contains(got, "broken") {
		t.Errorf("got %q, %v, want the reason", got, err)
	}
	if got, err := f.call(t.Context(), j, panicking{}); err != nil || !strings.Contains(got, "a reader's panic") {
		t.Errorf("one that panics: got %q, %v, want the panic as the reason", got, err)
	}
}

// panicking is a reader with a mistake in it, which nobody's process has to end for.
type panicking struct{}

func (panicking) Read([]byte) (int, error) { panic("a reader's panic") }

func TestAFunctionThatFailsForItsCallersReaderSaysSo(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	f := declare(t, j.registry, "read", func(_ context.Context, r io.Reader) (int, error) {
		data, err := io.ReadAll(r)
		return len(data), err
	})
	_, err := f.call(t.Context(), j, &failing{})
	if own, ok := errors.AsType[*call.FunctionError](err); !ok || own.Reader == nil || own.Reader.Error() != "the disk is gone" {
		t.Errorf("got %#v, want a function's error with that of the caller's reader", err)
	}
	if _, err := f.call(t.Context(), j, strings.NewReader("whole")); err != nil {
		t.Errorf("a reader that does not fail: got %v, want no error", err)
	}
}

func TestAnErrorOfACallersReaderKeepsItsKind(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	f := declare(t, j.registry, "read", func(_ context.Context, r io.Reader) (int, error) {
		_, err := io.ReadAll(r)
		return 0, fmt.Errorf("reading: %w", err)
	})
	for want, why := range map[fault.Kind]error{
		fault.NotFound: fault.Say(fault.NotFound, "there is no such upload"),
		fault.Canceled: context.Canceled, // as of the body of a request whose client has left
		fault.Internal: errors.New("the disk is gone"),
	} {
		_, err := f.call(t.Context(), j, iotest.ErrReader(why))
		if own, ok := errors.AsType[*call.FunctionError](err); !ok || own.Kind != want {
			t.Errorf("a reader that failed with %v: got %#v, want a function's error of kind %s", why, err, want)
		}
	}
}

func TestAReaderOfTheResultMayReadOnInOneOfTheArgument(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	f := declare(t, j.registry, "filter", func(_ context.Context, u upload) (download, error) {
		return download{Data: io.NopCloser(u.Data)}, nil
	})
	const size = 5 << 20 // more than may be on its way when the function has returned
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got, err := f.call(ctx, j, upload{Data: bytes.NewReader(make([]byte, size))})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, got.Data); n != size || err != nil {
		t.Errorf("got %d bytes, %v, want %d", n, err, size)
	}
}

func TestAnErrorOfAResultsReaderKeepsItsKind(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	f := declare(t, j.registry, "broken", func(context.Context, int) (download, error) {
		return download{Data: io.NopCloser(iotest.ErrReader(fault.Say(fault.NotFound, "the frame is missing")))}, nil
	})
	got, err := f.call(t.Context(), j, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.ReadAll(got.Data)
	if own, ok := errors.AsType[*call.FunctionError](err); !ok || own.Kind != fault.NotFound {
		t.Errorf("got %#v, want a function's error of kind not_found", err)
	}
}

type iotestErr struct{}

func (iotestErr) Read([]byte) (int, error) { return 0, errors.New("broken") }

// closer says when it is closed.
type closer struct {
	io.Reader
	closed chan struct{}
}

func (c *closer) Close() error {
	close(c.closed)
	return nil
}

func TestReadersInResultsAreStreamedAndClosed(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	const size = 6 << 20
	closed := make(chan struct{})
	f := declare(t, j.registry, "download", func(_ context.Context, n int) (download, error) {
		return download{n, &closer{&bounded{left: n}, closed}}, nil
	})
	s := newSlot()
	k, err := f.start(t.Context(), j, size, call.Request{Slot: s})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := f.Result(k)
	if err != nil || got.Size != size {
		t.Fatalf("got %v, %v", got, err)
	}
	if !s.taken() {
		t.Error("the slot is free while the result is read")
	}
	n, err := io.Copy(io.Discard, got.Data)
	if n != size || err != nil {
		t.Errorf("got %d bytes, %v, want %d", n, err, size)
	}
	receive(t, closed, "the function's file to be closed")
	receive(t, s.free, "the slot")
}

func TestClosingAResultEarlyEndsTheCall(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	closed := make(chan struct{})
	f := declare(t, j.registry, "forever", func(context.Context, int) (io.ReadCloser, error) {
		return &closer{&bounded{left: 1 << 40}, closed}, nil
	})
	s := newSlot()
	k, err := f.start(t.Context(), j, 0, call.Request{Slot: s})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := f.Result(k)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, r, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	receive(t, closed, "the function's file to be closed")
	receive(t, s.free, "the slot")
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a read after the close: got %v", err)
	}
}

// A pipe that nobody writes to is what an external command's output is while the command works.
func TestTheEndOfTheContextEndsAReadOfAResult(t *testing.T) {
	t.Parallel()
	j := join(t, settings(), nil)
	f := declare(t, j.registry, "silent", func(context.Context, int) (io.ReadCloser, error) {
		silent, _ := io.Pipe()
		return silent, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	s := newSlot()
	k, err := f.start(ctx, j, 0, call.Request{Slot: s})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	r, err := f.Result(k)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("Read: got %v, want that it was canceled", err)
	}
	receive(t, s.free, "the slot")

	late, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	s = newSlot()
	if k, err = f.start(late, j, 0, call.Request{Slot: s}); err != nil {
		t.Fatal(err)
	}
	if err := k.Wait(late); errors.Is(err, context.DeadlineExceeded) {
		return // the machine is that slow, and there is nothing to read
	} else if err != nil {
		t.Fatal(err)
	}
	if r, err = f.Result(k); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Read of one that took too long: got %v, want that its time was up", err)
	}
}
