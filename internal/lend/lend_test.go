package lend_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/dayfly-run/dayfly/internal/lend"
)

func TestWhatHasBeenTakenBackIsNotRead(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		size int64
		read int
		end  bool // what a Read afterwards finds; else another error
	}{
		"nothing was read":           {6, 0, false},
		"a part was read":            {6, 3, false},
		"all was read":               {6, 6, true},
		"nobody knows how much":      {-1, 6, false},
		"nobody knows, and it began": {-1, 1, false},
	} {
		r := strings.NewReader("abcdef")
		body := lend.New(r, c.size)
		if got, err := io.ReadAll(io.LimitReader(body, int64(c.read))); err != nil || string(got) != "abcdef"[:c.read] {
			t.Fatalf("%s: read %q, %v; want the first %d bytes", name, got, err, c.read)
		}
		if !body.TakeBack(t.Context()) {
			t.Errorf("%s: it could not be taken back although nobody was reading", name)
		}
		n, err := body.Read(make([]byte, 10))
		if n != 0 || err == nil || errors.Is(err, io.EOF) != c.end {
			t.Errorf("%s: a Read afterwards got %d bytes, %v; want no byte and an error, which is that of the end: %v", name, n, err, c.end)
		}
		if r.Len() != 6-c.read {
			t.Errorf("%s: a Read afterwards has moved the reader to %d bytes before its end, want %d", name, r.Len(), 6-c.read)
		}
	}
}

func TestATransportThatHasClosedReadsNoMore(t *testing.T) {
	t.Parallel()
	body := lend.New(strings.NewReader("abc"), 3)
	if err := body.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := body.Read(make([]byte, 3)); n != 0 || err == nil || errors.Is(err, io.EOF) {
		t.Errorf("Read after Close: got %d bytes, %v; want an error that is not the end", n, err)
	}
}

// slow is a reader that is held up.
type slow struct{ release chan struct{} }

func (s slow) Read(p []byte) (int, error) {
	<-s.release
	return copy(p, "x"), nil
}

func TestTakingBackWaitsForWhoIsReading(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := slow{make(chan struct{})}
		body := lend.New(r, 10)
		go body.Read(make([]byte, 1))
		synctest.Wait() // it is reading
		back := make(chan bool, 1)
		go func() { back <- body.TakeBack(context.Background()) }()
		synctest.Wait()
		if len(back) != 0 {
			t.Error("it was given back while it was being read")
		}
		close(r.release)
		synctest.Wait()
		if len(back) != 1 || !<-back {
			t.Error("it was not given back when the Read had ended")
		}
	})
}

func TestTakingBackWaitsNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := slow{make(chan struct{})}
		body := lend.New(r, 10)
		first := make(chan error, 1)
		go func() {
			_, err := body.Read(make([]byte, 1))
			first <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if body.TakeBack(ctx) {
			t.Error("it was given back while it was being read")
		}
		close(r.release) // the reader is slow, but not dead
		if err := <-first; err != nil {
			t.Errorf("the Read that was under way: got %v, want nil", err)
		}
		if n, err := body.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, io.EOF) {
			t.Errorf("the next Read: got %d bytes, %v; want an error", n, err)
		}
		if !body.TakeBack(ctx) {
			t.Error("it was not given back although nobody was reading any more; only waiting should need a context")
		}
	})
}
